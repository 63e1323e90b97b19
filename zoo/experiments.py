"""The recorded experiments of the lectures: groups of small networks that differ in one thing.

    python -m zoo.experiments depth --data tiny-imagenet-200.zip

Each trains its networks on Tiny-ImageNet-200 by the recipe of :mod:`zoo.train`, most with fewer epochs, the same for
all of its networks, and optimizers and learning rates that are set here, not chosen by a grid, and writes
``data/experiments/<name>.csv``: one row an epoch of every network. Training resumes from checkpoints, so an
interrupted command may simply be given again. Needs ``requirements-train.txt``.

depth
    Plain and residual networks of 8, 14, 20 and 32 layers (lecture 04; He et al., 2016, figures 1 and 6).
normalization
    The AlexNet and the VGG of the zoo with batch normalization behind each convolution, trained as those of the zoo,
    which have none: ``data/zoo/alexnet.csv`` and ``vgg.csv`` (lecture 04; Ioffe and Szegedy, 2015).
scaling
    One EfficientNet made wider, deeper, finer (higher resolution), or all three, to two and four times its cost, by
    AdamW, and to four times by SGD (lecture 08; Tan and Le, 2019, figures 3 and 8).
data
    ViT and ResNet on 5, 20 and 100 % of the training images, in the same number of steps (lecture 09; Dosovitskiy et
    al., 2021, figures 3 and 4).
ladder
    From ResNet to ConvNeXt, one change at a time (lecture 09; Liu et al., 2022, figure 2).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from utils.costs import costs
from zoo import IMAGE_SIZE, WEIGHTS
from zoo.alexnet import AlexNet, LocalResponseNorm
from zoo.efficientnet import EfficientNet
from zoo.ladder import Ladder, road
from zoo.resnet import ResNet, plain
from zoo.tables import write_csv
from zoo.tiny_imagenet import add_data_argument, load_for_command
from zoo.train import CHECKPOINTS, Recipe, launch, train
from zoo.vgg import VGG
from zoo.vit import ViT

RESULTS = WEIGHTS.parent / "experiments"


@dataclass(frozen=True)
class Run:
    """One network of an experiment."""

    labels: dict[str, object]  # what tells it from the others
    build: Callable[[], nn.Module]
    recipe: Recipe
    image_size: int = IMAGE_SIZE  # training and validation images are scaled to it beforehand
    share: float = 1.0  # of the training images; they are repeated, so that the number of steps stays


def depth() -> Iterator[Run]:
    recipe = Recipe("sgd", 0.1, epochs=4, small_epochs=3)
    for blocks in (1, 2, 3, 5):
        for name, network in (("plain", plain), ("residual", ResNet)):
            build = partial(network, depths=(blocks,) * 3, widths=(16, 32, 64), stem_width=16)
            yield Run({"network": name, "layers": 6 * blocks + 2}, build, recipe)


def normalized(network: Callable[[], AlexNet | VGG]) -> nn.Module:
    """Build `network` with batch normalization behind each convolution, in place of any other normalization."""
    model, layers = network(), []
    for layer in model.features:
        if not isinstance(layer, LocalResponseNorm):
            layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            layers.append(nn.BatchNorm2d(layer.out_channels))
    model.features = nn.Sequential(*layers)
    return model


def normalization() -> Iterator[Run]:
    for network, rate in ((AlexNet, 0.001), (VGG, 0.002)):  # as in the zoo
        yield Run({"network": network.__name__.lower()}, partial(normalized, network), Recipe("adamw", rate))


def scaling() -> Iterator[Run]:
    # Multipliers of width and depth, and the resolution. Channels and blocks are whole numbers, so these come as close
    # as they can to two and four times the multiply-adds of the first.
    scales = (
        ("nothing", 1, 0.5, 1.0, 32),
        ("width", 2, 0.74, 1.0, 32),
        ("depth", 2, 0.5, 2.0, 32),
        ("resolution", 2, 0.5, 1.0, 42),
        ("all three", 2, 0.55, 1.2, 35),
        ("width", 4, 1.08, 1.0, 32),
        ("depth", 4, 0.5, 4.0, 32),
        ("resolution", 4, 0.5, 1.0, 64),
        ("all three", 4, 0.6, 1.34, 42),
    )
    # The worst and the best of the zoo's grid for EfficientNet: does the answer depend on it?
    for optimizer, rate, which in (("adamw", 1e-3, (1, 2, 4)), ("sgd", 0.1, (1, 4))):
        recipe = Recipe(optimizer, rate, epochs=4, small_epochs=0)
        for scaled, cost, width, blocks, image_size in scales:
            if cost not in which:
                continue
            labels = {"optimizer": optimizer, "scaled": scaled, "cost": cost}
            labels |= {"width": width, "depth": blocks, "resolution": image_size}
            yield Run(labels, partial(EfficientNet, width=width, depth=blocks), recipe, image_size)


def data() -> Iterator[Run]:
    for share in (0.05, 0.2, 1.0):
        for name, network, recipe in (("resnet", ResNet, Recipe("sgd", 0.1)), ("vit", ViT, Recipe("adamw", 1e-3))):
            recipe = replace(recipe, epochs=6, small_epochs=5)
            yield Run({"network": name, "share": share}, network, recipe, share=share)


def ladder() -> Iterator[Run]:
    recipe = Recipe("adamw", 1e-3, epochs=4, small_epochs=3)  # the paper, too, trains all steps with AdamW
    for step, (name, design) in enumerate(road()):
        yield Run({"step": step, "change": name}, partial(Ladder, design), recipe)


EXPERIMENTS: dict[str, Callable[[], Iterator[Run]]] = {
    "depth": depth,
    "normalization": normalization,
    "scaling": scaling,
    "data": data,
    "ladder": ladder,
}


def resized(images: Tensor, size: int) -> Tensor:
    """Scale uint8 images ``(N, 3, H, W)`` to ``(N, 3, size, size)``, smoothed against aliasing."""
    if size == images.shape[-1]:
        return images
    scale = partial(F.interpolate, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return torch.cat([scale(chunk.float()).round().byte() for chunk in images.split(1000)])


def data_for(run: Run, data: dict) -> dict:
    """The images and labels that `run` trains and validates on."""
    images, labels = data["train"]
    # Images of a class stand together, so every n-th is the same share of each class.
    every = round(1 / run.share)
    images, labels = resized(images[::every], run.image_size), labels[::every]
    train = images.repeat(every, 1, 1, 1), labels.repeat(every)
    return {"train": train, "val": (resized(data["val"][0], run.image_size), data["val"][1])}


def record(fabric: Fabric, name: str, runs: Iterable[Run], data: dict, folder: Path, checkpoints: Path) -> None:
    """Train the networks of experiment `name`, and write ``<name>.csv`` into `folder`.

    Parameters
    ----------
    data : dict
        As of :func:`zoo.tiny_imagenet.load_tiny_imagenet`.
    checkpoints : Path
        The folder in which each network has its checkpoint.
    """
    rows = []
    for run in runs:
        label = "-".join([name, *(str(value).replace(" ", "_") for value in run.labels.values())])
        checkpoint = checkpoints / f"{label}.ckpt"
        history = train(fabric, label, run.build, data_for(run, data), run.recipe, checkpoint)[1]
        cost = costs(run.build(), (1, 3, run.image_size, run.image_size))
        counts = {"parameters": cost.parameters, "multiply_adds": cost.multiply_adds}
        rows += [{**run.labels, **counts, **epoch} for epoch in history]
    if fabric.global_rank == 0:
        write_csv(folder / f"{name}.csv", rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m zoo.experiments", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", choices=EXPERIMENTS, metavar="name", help=f"of: {', '.join(EXPERIMENTS)}")
    add_data_argument(parser)
    arguments = parser.parse_args()

    fabric = launch()
    tiny_imagenet = load_for_command(arguments.data)
    for name in arguments.names:
        record(fabric, name, EXPERIMENTS[name](), tiny_imagenet, RESULTS, CHECKPOINTS)


if __name__ == "__main__":
    main()
