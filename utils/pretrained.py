"""Pretrained networks: full-size weights where they can be had, else the micro network of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from utils.data import DownloadError, fetch, imagenet_classes
from zoo import IMAGE_SIZE, ZOO, load

# What torchvision's own functions set whenever they load weights: these need their input scaled as in TensorFlow.
OPTIONS = {"googlenet": {"transform_input": True, "init_weights": False}}


@dataclass(frozen=True)
class Classifier:
    """A trained network with all that it takes to use it on photographs.

    Attributes
    ----------
    model : nn.Module
        In evaluation mode, on the GPU if there is one. Maps ``(N, 3, H, W)`` to logits ``(N, len(categories))``.
    transform : callable
        Turns an RGB PIL image into an input ``(3, H, W)``, as in the network's own evaluation.
    categories, wnids : lists of str
        Names and WordNet ids of the outputs.
    source : str
        Which weights these are, in one line.
    """

    model: nn.Module
    transform: Callable[[Image.Image], Tensor]
    categories: list[str]
    wnids: list[str]
    source: str

    @torch.inference_mode()
    def logits(self, images: Sequence[Image.Image], batch_size: int = 32) -> Tensor:
        """Return the logits of `images`, shape ``(len(images), len(categories))``, on the CPU."""
        device = next(self.model.parameters()).device
        rows = [torch.empty(0, len(self.categories))]
        for start in range(0, len(images), batch_size):
            batch = torch.stack([self.transform(image) for image in images[start : start + batch_size]])
            rows.append(self.model(batch.to(device)).cpu())
        return torch.cat(rows)

    def predict(self, images: Sequence[Image.Image], k: int = 5) -> tuple[list[list[str]], Tensor]:
        """Return the names of the `k` best classes of each image, the best first, and their probabilities."""
        probabilities, classes = self.logits(images).softmax(1).topk(k)
        return [[self.categories[index] for index in row] for row in classes.tolist()], probabilities


def full_weights(name: str):
    """Return torchvision's description of the original ImageNet weights of model `name`, None where there are none."""
    from torchvision.models import get_model_weights, list_models

    return get_model_weights(name).IMAGENET1K_V1 if name in list_models() else None


def fetch_weights(name: str) -> Path:
    """Return the file of torchvision's original ImageNet weights of model `name`, from the cache or downloaded.

    Raises
    ------
    DownloadError
        If it is not in the cache and cannot be downloaded.
    """
    url = full_weights(name).url
    file = url.rsplit("/", 1)[-1]
    # torchvision writes the first digits of the SHA-256 into the name: alexnet-owt-7be5be79.pth
    return fetch(f"weights/{file}", [url], sha256=file.removesuffix(".pth").rsplit("-", 1)[-1])


def load_classifier(name: str) -> Classifier:
    """Load a trained classifier and say in one line which one it is.

    Parameters
    ----------
    name : str
        A classification model of torchvision, such as ``"alexnet"``: its ImageNet weights come from the cache or from
        the network, and where neither has them, the micro network of the zoo stands in. Or ``"micro_"`` and a name of
        the zoo, such as ``"micro_alexnet"``: always the micro network.

    Raises
    ------
    ValueError
        If there is no classifier of that name.
    DownloadError
        If the full weights cannot be had and no micro network stands in for them.
    """
    micro = next((key for key, entry in ZOO.items() if name == f"micro_{key}" or name in entry.stands_for), None)
    weights = full_weights(name)
    if weights is None and micro is None:
        raise ValueError(f"There is no classifier {name!r}. The zoo has: {', '.join(f'micro_{key}' for key in ZOO)}.")
    if weights is not None:
        try:
            return _full_classifier(name, weights, fetch_weights(name))
        except DownloadError as error:
            if micro is None:
                raise
            print(error)
    return _micro_classifier(micro)


def _full_classifier(name: str, weights, file: Path) -> Classifier:
    from torchvision.models import get_model

    model = get_model(name, weights=None, **OPTIONS.get(name, {}))
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    classes = imagenet_classes()
    names, wnids = [label.name for label in classes], [label.wnid for label in classes]
    source = f"{name}: torchvision's weights {weights.name}, for the 1,000 classes of ImageNet."
    return _ready(model, weights.transforms(), names, wnids, source)


def _micro_classifier(name: str) -> Classifier:
    from torchvision.transforms import v2

    model, about = load(name)
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    normalize = v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    transform = v2.Compose([v2.Resize(IMAGE_SIZE), v2.CenterCrop(IMAGE_SIZE), *to_float, normalize])
    name_of = {label.wnid: label.name for label in imagenet_classes()}
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    source = (
        f"micro_{name}: {millions:.1f} M parameters, {IMAGE_SIZE}×{IMAGE_SIZE} pixels, for 200 classes of ImageNet."
    )
    return _ready(model, transform, [name_of[wnid] for wnid in about["wnids"]], about["wnids"], source)


def _ready(model: nn.Module, *rest) -> Classifier:
    classifier = Classifier(model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), *rest)
    print(classifier.source)
    return classifier
