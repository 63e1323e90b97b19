"""The micro zoo: the landmarks of the course as small networks, trained by one recipe.

Every network takes 64x64 RGB images and gives the logits of the 200 classes of Tiny-ImageNet. The
architectures stand in one file per family, the recipe in :mod:`zoo.train`, the check of the shipped
weights in :mod:`zoo.evaluate`. This module knows which networks there are and reads their weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from zoo.alexnet import AlexNet
from zoo.convnext import ConvNeXt
from zoo.densenet import DenseNet
from zoo.efficientnet import EfficientNet
from zoo.googlenet import GoogLeNet
from zoo.mobilenet import MobileNetV2
from zoo.resnet import ResNet, plain
from zoo.resnext import resnext
from zoo.se_resnet import se_resnet
from zoo.vgg import VGG
from zoo.vit import ViT
from zoo.wide_resnet import wide_resnet
from zoo.zfnet import ZFNet

WEIGHTS = Path(__file__).resolve().parent.parent / "data" / "zoo"
IMAGE_SIZE = 64
NUM_CLASSES = 200


@dataclass(frozen=True)
class Entry:
    """A network of the zoo: how to build it, how to train it, and what it stands for."""

    build: Callable[..., nn.Module]
    optimizer: str  # "adamw" or "sgd", chosen with the learning rate from the grid in zoo/train.py
    learning_rate: float
    stands_for: tuple[str, ...]  # the torchvision models that it replaces where there is no network


ZOO: dict[str, Entry] = {
    "alexnet": Entry(AlexNet, "adamw", 1e-3, stands_for=("alexnet",)),
    "zfnet": Entry(ZFNet, "adamw", 1e-3, stands_for=()),
    "vgg": Entry(VGG, "adamw", 0.002, stands_for=("vgg11", "vgg13", "vgg16", "vgg19")),
    "googlenet": Entry(GoogLeNet, "sgd", 0.1, stands_for=("googlenet",)),
    "plain": Entry(plain, "sgd", 0.1, stands_for=()),
    "resnet": Entry(ResNet, "sgd", 0.1, stands_for=("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")),
    "resnext": Entry(resnext, "sgd", 0.1, stands_for=("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")),
    "wide_resnet": Entry(wide_resnet, "sgd", 0.1, stands_for=("wide_resnet50_2", "wide_resnet101_2")),
    "densenet": Entry(DenseNet, "sgd", 0.1, stands_for=("densenet121", "densenet161", "densenet169", "densenet201")),
    "se_resnet": Entry(se_resnet, "sgd", 0.1, stands_for=()),
    "mobilenet": Entry(
        MobileNetV2, "sgd", 0.1, stands_for=("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
    ),
    "efficientnet": Entry(EfficientNet, "sgd", 0.1, stands_for=tuple(f"efficientnet_b{number}" for number in range(8))),
    "vit": Entry(ViT, "adamw", 0.002, stands_for=("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32")),
    "convnext": Entry(
        ConvNeXt, "adamw", 0.002, stands_for=("convnext_tiny", "convnext_small", "convnext_base", "convnext_large")
    ),
}


def create(name: str, num_classes: int = NUM_CLASSES) -> nn.Module:
    """Return the untrained micro network `name`, a key of :data:`ZOO`.

    Raises
    ------
    ValueError
        If there is no network of that name.
    """
    if name not in ZOO:
        raise ValueError(f"The zoo has no network {name!r}. It has: {', '.join(ZOO)}.")
    return ZOO[name].build(num_classes=num_classes)


def unusable_weights(path: Path, error: Exception, command: str) -> RuntimeError:
    """Return an error that says why the weights `path` cannot be read, and how to get them back."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    what = f"cannot be used ({reason})"
    if isinstance(error, FileNotFoundError):
        what = "are missing"
    restore = f"git checkout -- data/zoo/{path.name}"
    return RuntimeError(f"The weights {path} {what}. Restore them ({restore}), or train them anew ({command}).")


def load(name: str, folder: Path = WEIGHTS) -> tuple[nn.Module, dict]:
    """Return the trained micro network `name` in evaluation mode, and what is known about its training.

    The second value holds ``wnids``, the WordNet ids of the outputs in order, and ``recipe``.

    Raises
    ------
    ValueError
        If there is no network of that name.
    RuntimeError
        If the file of its weights is missing, damaged, or belongs to another architecture.
    """
    model = create(name)
    path = Path(folder) / f"{name}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            about = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            # Shipped in half precision; load_state_dict copies into the float32 parameters.
            model.load_state_dict({key: file.get_tensor(key) for key in sorted(file.keys())})
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise unusable_weights(path, error, f"python -m zoo.train {name} --data tiny-imagenet-200.zip") from None
    return model.eval(), about
