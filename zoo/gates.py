"""What the gates of the trained SE-ResNet follow, and whether it matters what they choose (lecture 07).

    python -m zoo.gates --data tiny-imagenet-200.zip

Reads the gates on the 10,000 validation images of Tiny-ImageNet-200 and writes two tables into ``data/experiments/``:
``gates.csv``, the share of their variance that lies between the classes, block by block, before and after training; and
``frozen_gates.csv``, the accuracy on every second image with the network's own gates, with each gate frozen at its mean
over the other images, with all gates of a block at one mean, and with all at the one half at which an untrained gate
stands; once with the running averages of training, and once with averages of the other images, taken with these gates.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from zoo import create, load
from zoo.experiments import RESULTS
from zoo.se_resnet import SqueezeExcitation
from zoo.tables import write_csv
from zoo.tiny_imagenet import add_data_argument, load_for_command, normalize


def gate_modules(model: nn.Module) -> list[SqueezeExcitation]:
    """Return the squeeze-and-excitation modules of `model` from the input to the output."""
    return [module for module in model.modules() if isinstance(module, SqueezeExcitation)]


@contextmanager
def fixed(model: nn.Module, gates: Sequence[Tensor]) -> Iterator[None]:
    """Within it, each module gives its vector of `gates` to every image."""
    modules = gate_modules(model)
    for module, values in zip(modules, gates, strict=True):
        module.gates = lambda x, values=values: values.expand(len(x), -1)
    try:
        yield
    finally:
        for module in modules:
            del module.gates


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the predicted classes ``(N,)`` of uint8 images and, of each module, the gates ``(N, channels)``."""
    modules, classes = gate_modules(model.eval()), []
    seen: list[list[Tensor]] = [[] for _ in modules]
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, kept=kept: kept.append(module.gates(inputs[0])))
        for module, kept in zip(modules, seen, strict=True)
    ]
    for chunk in images.split(250):
        classes.append(model(normalize(chunk)).argmax(1))
    for hook in hooks:
        hook.remove()
    return torch.cat(classes), [torch.cat(kept) for kept in seen]


@torch.inference_mode()
def renew(model: nn.Module, images: Tensor) -> None:
    """Replace the running averages of batch normalization by those of uint8 `images`."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    model.train()
    for chunk in images.split(250):
        model(normalize(chunk))
    model.eval()


def share_between_classes(values: Tensor, labels: Tensor) -> float:
    """Return which share of the variance of `values` ``(N, channels)``, summed over channels, lies between classes.

    Estimated as in an analysis of variance: one minus the variance within the classes over the variance in all.
    """
    groups = [values[labels == label] for label in labels.unique()]
    within = sum(group.var(0) * (len(group) - 1) for group in groups) / (len(values) - len(groups))
    return 1 - (within.sum() / values.var(0).sum()).item()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m zoo.gates", description=__doc__.split("\n")[0])
    add_data_argument(parser)
    images, labels = load_for_command(parser.parse_args().data, splits=("val",))["val"]

    torch.manual_seed(0)
    trained, untrained = load("se_resnet")[0], create("se_resnet")
    answers, gates = predict(trained, images)
    rows = []
    for name, values in (("untrained", predict(untrained, images)[1]), ("trained", gates)):
        for block, of_block in enumerate(values, 1):
            share = share_between_classes(of_block, labels)
            rows.append({"network": name, "block": block, "share_between_classes": round(share, 3)})
    write_csv(RESULTS / "gates.csv", rows)

    judged, others = slice(0, None, 2), slice(1, None, 2)
    own, right = answers[judged], labels[judged]
    settings = {
        "their own": None,
        "frozen at their mean": [values[others].mean(0) for values in gates],
        "one for each block": [torch.full_like(values[0], values[others].mean().item()) for values in gates],
        "all one half": [torch.full_like(values[0], 0.5) for values in gates],
    }
    rows = []
    for name, values in settings.items():
        model = load("se_resnet")[0]
        with fixed(model, values) if values else nullcontext():
            changed = predict(model, images[judged])[0]
            renew(model, images[others])  # other gates make other averages
            renewed = predict(model, images[judged])[0]
        shares = {"top1": changed == right, "same_answer": changed == own, "top1_renewed": renewed == right}
        rows.append({"gates": name, **{key: value.float().mean().item() for key, value in shares.items()}})
    rows = [{key: value if key == "gates" else round(100 * value, 1) for key, value in row.items()} for row in rows]
    write_csv(RESULTS / "frozen_gates.csv", rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
