"""Train networks of the zoo on Tiny-ImageNet-200, all by one recipe.

    python -m zoo.train alexnet --data tiny-imagenet-200.zip
    python -m zoo.train alexnet --data tiny-imagenet-200.zip --grid      # how its learning rate was chosen
    torchrun --nproc-per-node 4 -m zoo.train alexnet --data tiny-imagenet-200.zip

Devices and processes are Lightning Fabric's choice: one CPU, one GPU, or the processes of
torchrun. Training resumes from the checkpoint of the last finished epoch. It leaves the weights
(``data/zoo/<name>.safetensors``) and the learning curve (``data/zoo/<name>.csv``); ``zoo.evaluate``
turns the weights into the table of results. Needs ``requirements-train.txt``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from zoo import WEIGHTS, ZOO, create
from zoo.tables import write_csv
from zoo.tiny_imagenet import add_data_argument, device_name, load_for_command, normalize, top_k_correct

CHECKPOINTS = WEIGHTS.parent / "cache" / "zoo"

GRID = [("sgd", 0.03), ("sgd", 0.1), ("adamw", 1e-3), ("adamw", 2e-3)]
GRID_EPOCHS = 3  # of a third of the images


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained. Only the first two differ between families."""

    optimizer: str
    learning_rate: float
    seed: int = 0
    epochs: int = 16
    # Five epochs of eight see smaller images, which cost half as much (progressive resizing).
    small_epochs: int = 10
    small_size: int = 48
    batch_size: int = 128
    warmup_epochs: int = 1
    label_smoothing: float = 0.1
    weight_decay_sgd: float = 5e-4
    weight_decay_adamw: float = 0.05
    crop_area: float = 0.5  # a training crop covers between this share of the image and all of it


def augment(images: Tensor, size: int, crop_area: float, generator: torch.Generator) -> Tensor:
    """Random resized crop and mirroring, another for each image, of the whole batch at once.

    Takes float images ``(N, 3, H, W)`` and returns ``(N, 3, size, size)``. One affine map per image does crop,
    change of aspect ratio, mirroring and resizing together, which on two cores is far faster than image by image.
    """
    n = len(images)
    # Drawn on the CPU, so that every device sees the same crops.
    area, log_ratio, mirror, x, y = torch.rand(5, n, generator=generator)
    area = crop_area + (1 - crop_area) * area
    ratio = torch.exp((2 * log_ratio - 1) * math.log(4 / 3))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = width * torch.where(mirror < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (1 - width) * (2 * x - 1)
    theta[:, 1, 2] = (1 - height) * (2 * y - 1)
    grid = F.affine_grid(theta.to(images.device), [n, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def slow_depthwise_in_float32(model: nn.Module) -> nn.Module:
    """Exempt strided and large depthwise convolutions from bfloat16, and return the model.

    On a CPU, oneDNN computes their gradients in bfloat16 up to 25 times slower than in float32, which would double the
    time that MobileNet and EfficientNet take.
    """

    def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x.float(), conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    for conv in model.modules():
        depthwise = isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1
        if depthwise and (max(conv.stride) > 1 or max(conv.kernel_size) > 3):
            conv.forward = partial(convolve, conv)
    return model


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; vectors (biases, normalization) are not decayed."""
    decay = recipe.weight_decay_sgd if recipe.optimizer == "sgd" else recipe.weight_decay_adamw
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)


def learning_rate_at(epoch: float, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine down to zero; `epoch` counts fractions."""
    if epoch < recipe.warmup_epochs:
        return recipe.learning_rate * epoch / recipe.warmup_epochs
    progress = (epoch - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def resume(fabric: Fabric, name: str, checkpoint: Path | None, state: dict) -> None:
    """Load `state` from the checkpoint, if it is there.

    Raises
    ------
    SystemExit
        If it cannot be read, or is of another recipe, network or number of images; says so, and what to do.
    """
    if checkpoint is None or not checkpoint.exists():
        return
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        differs = [key for key in ("recipe", "network", "images") if saved[key] != state[key]]
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError):
        sys.exit(f"{checkpoint} cannot be read: delete it to train {name} anew.")
    if differs:
        sys.exit(f"{checkpoint} is of another training ({' and '.join(differs)}): delete it to train {name} anew.")
    fabric.load(checkpoint, state, weights_only=True)
    done = len(state["history"])
    finished = f"trained already; to train it anew, delete {checkpoint}"
    fabric.print(f"{name}: {finished if done == state['recipe']['epochs'] else f'resuming after epoch {done}'}")


def save(fabric: Fabric, checkpoint: Path, state: dict) -> None:
    """Write `state` in place of an older checkpoint, which is lost only when the new one is complete."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    unfinished = checkpoint.with_suffix(".part")
    fabric.save(unfinished, state)
    if fabric.global_rank == 0:
        os.replace(unfinished, checkpoint)
    fabric.barrier()


def train(
    fabric: Fabric,
    name: str,
    build: Callable[[], nn.Module],
    data: dict,
    recipe: Recipe,
    checkpoint: Path | None = None,
) -> tuple[dict, list]:
    """Train a network and return its state dict (float32, CPU) and its history, one dict an epoch.

    Parameters
    ----------
    fabric : Fabric
        Already launched.
    name : str
        What to call the network in messages.
    build : callable
        Returns the network with its initial weights.
    data : dict
        ``"train"`` and ``"val"`` as of :func:`zoo.tiny_imagenet.load_tiny_imagenet`, of any size of image.
    checkpoint : Path, optional
        Where to save after every epoch and to resume from.

    Raises
    ------
    SystemExit
        If the checkpoint is damaged or of another training.
    """
    torch.manual_seed(recipe.seed)
    model = build().to(memory_format=torch.channels_last)
    network = str(model)
    if fabric.device.type == "cpu":
        slow_depthwise_in_float32(model)
    model, optimizer = fabric.setup(model, build_optimizer(model, recipe))
    images, labels = (tensor.to(fabric.device) for tensor in data["train"])
    val_images, val_labels = (tensor.to(fabric.device) for tensor in data["val"])
    # The recipe's batch is the batch of all processes together.
    batch_size = recipe.batch_size // fabric.world_size
    steps = len(images) // recipe.batch_size
    state = {"model": model, "optimizer": optimizer, "recipe": asdict(recipe), "history": []}
    state |= {"network": network, "images": [len(images), len(val_images)]}
    resume(fabric, name, checkpoint, state)

    for epoch in range(len(state["history"]), recipe.epochs):
        start = time.perf_counter()
        size = recipe.small_size if epoch < recipe.small_epochs else images.shape[-1]
        # One generator an epoch: a resumed run draws what an uninterrupted one would have drawn.
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1000 * recipe.seed + epoch))
        generator = torch.Generator().manual_seed(1000 * recipe.seed + epoch + 500 * (fabric.global_rank + 1))
        torch.manual_seed(generator.initial_seed())  # dropout
        model.train()
        total_loss = torch.zeros((), device=fabric.device)
        bar = range(steps)
        if fabric.global_rank == 0:
            bar = tqdm(bar, desc=f"{name} {epoch + 1}/{recipe.epochs}", leave=False)
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(epoch + step / steps, recipe)
            first = step * recipe.batch_size + fabric.global_rank * batch_size
            batch = order[first : first + batch_size].to(fabric.device)
            x = augment(normalize(images[batch]), size, recipe.crop_area, generator)
            logits = model(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), labels[batch], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            total_loss += loss.detach()
        train_loss = round(float(fabric.all_reduce(total_loss)) / steps, 4)  # waits for a GPU
        seconds = time.perf_counter() - start
        hits = top_k_correct(model, val_images, val_labels)
        row = {
            "epoch": epoch + 1,
            "image_size": size,
            "train_loss": train_loss,
            "val_top1": round(100 * hits[:, 0].float().mean().item(), 2),
            "val_top5": round(100 * hits.any(1).float().mean().item(), 2),
            "seconds": round(seconds, 1),
        }
        state["history"].append(row)
        fabric.print(name, row)
        if checkpoint is not None:
            save(fabric, checkpoint, state)
    weights = {key: value.detach().float().cpu() for key, value in model.state_dict().items()}
    return weights, state["history"]


def run_grid(fabric: Fabric, name: str, data: dict) -> None:
    """Try every optimizer and learning rate of GRID on a third of the training images, scored on another twentieth.

    The validation images take no part in the choice. Of 5,000 held-out images, an accuracy of 6 % has a standard error
    of 0.3 points: what is that close to the best counts as equally good. Writes ``data/zoo/grid/<name>.csv``.
    """
    images, labels = data["train"]
    position = torch.arange(len(labels))
    used, held_out = position % 3 == 0, position % 20 == 1
    used &= ~held_out
    data = {"train": (images[used], labels[used]), "val": (images[held_out], labels[held_out])}
    rows = []
    for optimizer, learning_rate in GRID:
        recipe = Recipe(optimizer, learning_rate, epochs=GRID_EPOCHS, small_epochs=GRID_EPOCHS)
        history = train(fabric, name, partial(create, name), data, recipe)[1]
        rows.append({"optimizer": optimizer, "learning_rate": learning_rate, "held_out_top1": history[-1]["val_top1"]})
    if fabric.global_rank == 0:
        write_csv(WEIGHTS / "grid" / f"{name}.csv", rows)


def precision() -> str:
    """Return Fabric's name of the faster precision: with bfloat16 where the hardware computes in it.

    GPUs before Ampere, such as Colab's T4, only emulate it, and cuDNN does not convolve in it. A CPU without
    instructions for it takes some ten times as long as in float32.
    """
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # the names are those of x86 and ARM
        native = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bf16-mixed" if native else "32-true"


def launch() -> Fabric:
    """The device and the processes to train with: torchrun says how many, otherwise it is one."""
    fabric = Fabric(accelerator="auto", devices=int(os.environ.get("WORLD_SIZE", 1)), precision=precision())
    fabric.launch()
    if Recipe.batch_size % fabric.world_size:
        sys.exit(
            f"{fabric.world_size} processes cannot share batches of {Recipe.batch_size} evenly: start 1, 2, 4 or 8."
        )
    return fabric


def ship(path: Path, weights: dict[str, Tensor], about: dict) -> None:
    """Write `weights` in half precision, and as metadata what is known `about` them, in place of an older file."""
    half = {key: value.half().cpu().contiguous() for key, value in weights.items()}
    unfinished = path.with_suffix(".part")
    save_file(half, unfinished, metadata={key: json.dumps(value) for key, value in about.items()})
    os.replace(unfinished, path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m zoo.train", description="Train networks of the zoo.")
    parser.add_argument("names", nargs="+", choices=[*ZOO, "all"], metavar="name", help=f"all, or of: {', '.join(ZOO)}")
    add_data_argument(parser)
    parser.add_argument("--grid", action="store_true", help="only compare optimizers and learning rates")
    arguments = parser.parse_args()

    fabric = launch()
    data = load_for_command(arguments.data)
    for name in ZOO if "all" in arguments.names else arguments.names:
        if arguments.grid:
            run_grid(fabric, name, data)
            continue
        recipe = Recipe(ZOO[name].optimizer, ZOO[name].learning_rate)
        weights, history = train(fabric, name, partial(create, name), data, recipe, CHECKPOINTS / f"{name}.ckpt")
        if fabric.global_rank == 0:
            about = {
                "wnids": data["wnids"],
                "recipe": asdict(recipe),
                "train_seconds": sum(row["seconds"] for row in history),
                "device": device_name(fabric.device),
            }
            ship(WEIGHTS / f"{name}.safetensors", weights, about)
            write_csv(WEIGHTS / f"{name}.csv", history)


if __name__ == "__main__":
    main()
