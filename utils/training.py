"""The one training loop of the live experiments: small data in memory, a few seconds on two cores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

# The first optimizer imports this, for a second or two. Ctrl-C in the midst of an import leaves its modules unusable
# until the kernel restarts, and Ctrl-C belongs to training, so the import is done before.
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm


@dataclass
class History:
    """What :func:`fit` measured, one value an epoch. The error is a share of wrong answers, from 0 to 1."""

    loss: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)


@torch.no_grad()  # inference mode would spoil for training what a model keeps of this pass
def error_rate(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of inputs `x` ``(N, …)`` whose largest logit is not that of class `y` ``(N,)``, from 0 to 1.

    Raises
    ------
    ValueError
        If there is not one class for each input.
    """
    _check(x, y)
    modes = {module: module.training for module in model.modules()}
    try:
        return (model.eval()(x).argmax(1) != y).float().mean().item()
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check(x: Tensor, y: Tensor) -> None:
    if y.shape != (len(x),) or not len(x):
        raise ValueError(f"{len(x)} inputs need as many classes, at least one; these have the shape {tuple(y.shape)}.")


def fit(
    model: nn.Module,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor] | None = None,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    batch_size: int = 64,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    seed: int = 0,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> History:
    """Train `model` in place and return the history.

    Parameters
    ----------
    model : nn.Module
        Maps inputs ``(N, …)`` to logits ``(N, classes)``.
    train : pair of tensors
        Inputs and classes ``(N,)``, on the device of the model.
    test : pair of tensors, optional
        What the error is measured on after each epoch, in evaluation mode: other data, or `train` once more.
    epochs : int
        Passes over `train`.
    optimizer : Optimizer
        Of the parameters of the model that are to be trained.
    batch_size : int
        Inputs in one step; the last step of an epoch takes the rest, and the step before it a single one that is left.
    loss : callable
        Makes of the model's output and the classes of a batch the mean loss, a tensor with one number.
    seed : int
        Decides the order of the batches and what dropout drops; the weights are the caller's business.
    schedule : LRScheduler, optional
        Of the learning rate; takes a step after each epoch.

    Raises
    ------
    FloatingPointError
        If the loss is no longer a finite number: the learning rate is too high.
    ValueError
        If there is not one class for each input.
    """
    x, y = train
    _check(x, y)
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    history = History()
    for epoch in tqdm(range(epochs), desc=type(model).__name__, leave=False):
        model.train()
        total = 0.0
        batches = list(torch.randperm(len(x), generator=order).split(batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:  # which batch normalization refuses
            batches[-2:] = [torch.cat(batches[-2:])]
        for batch in batches:
            value = loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total += value.item() * len(batch)
        if not math.isfinite(total):
            raise FloatingPointError(f"The loss became {total} in epoch {epoch + 1}. Try a lower learning rate.")
        history.loss.append(total / len(x))
        if test is not None:
            history.error.append(error_rate(model, *test))
        if schedule is not None:
            schedule.step()
    return history
