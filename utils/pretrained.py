"""Pretrained networks: full-size weights where they can be had, else the micro network of the zoo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from utils.data import DownloadError, cache_dir, fetch, imagenet_classes, online
from zoo import IMAGE_SIZE, ZOO, load


@dataclass(frozen=True)
class Classifier:
    """A trained network with all that it takes to use it on photographs.

    Attributes
    ----------
    model : nn.Module
        In evaluation mode, on `device`. Maps ``(N, 3, H, W)`` to logits ``(N, len(categories))``.
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
    device: str

    @torch.inference_mode()
    def logits(self, images: Sequence[Image.Image], batch_size: int = 32) -> Tensor:
        """Return the logits of `images`, shape ``(len(images), len(categories))``, on the CPU."""
        rows = [torch.empty(0, len(self.categories))]
        for start in range(0, len(images), batch_size):
            batch = torch.stack([self.transform(image) for image in images[start : start + batch_size]])
            rows.append(self.model(batch.to(self.device)).float().cpu())
        return torch.cat(rows)

    def predict(self, images: Sequence[Image.Image], k: int = 5) -> tuple[list[list[str]], Tensor]:
        """Return the names of the `k` best classes of each image, the best first, and their probabilities ``(N, k)``."""
        probabilities, classes = self.logits(images).softmax(1).topk(k)
        return [[self.categories[index] for index in row] for row in classes.tolist()], probabilities


def _full_weights(name: str):
    """Return torchvision's original ImageNet weights of the model `name`, or None where there are none."""
    from torchvision.models import get_model_weights, list_models

    return get_model_weights(name).IMAGENET1K_V1 if name in list_models() else None


def fetch_weights(name: str) -> Path:
    """Return the file of torchvision's ImageNet weights of the model `name`, downloaded if need be.

    Raises
    ------
    DownloadError
        If it is not in the cache and no server gives it.
    """
    url = _full_weights(name).url
    file = url.rsplit("/", 1)[-1]
    # torchvision writes the first digits of the SHA-256 into the file's name: alexnet-owt-7be5be79.pth
    return fetch(f"weights/{file}", [url], sha256=file.removesuffix(".pth").rsplit("-", 1)[-1])


def load_classifier(name: str) -> Classifier:
    """Load a trained classifier and say in one line which one it is.

    Parameters
    ----------
    name : str
        A classification model of torchvision, such as ``"alexnet"``: its ImageNet weights are taken from the cache
        or downloaded, and without a network the micro network of the zoo stands in for it. Or ``"micro_"`` and a
        network of the zoo, such as ``"micro_alexnet"``: always the micro network.

    Raises
    ------
    ValueError
        If no network of that name is known.
    RuntimeError
        If the full weights cannot be had and no micro network stands for them.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    micro = next((key for key, entry in ZOO.items() if name == f"micro_{key}" or name in entry.stands_for), None)
    weights = _full_weights(name)
    if weights is None and micro is None:
        raise ValueError(f"There is no classifier {name!r}. The zoo has: {', '.join(f'micro_{key}' for key in ZOO)}.")

    if weights is not None and (online() or (cache_dir() / "weights" / weights.url.rsplit("/", 1)[-1]).exists()):
        from torchvision.models import get_model

        try:
            state = torch.load(fetch_weights(name), map_location="cpu", weights_only=True)
        except DownloadError as error:
            print(error)
        else:
            model = get_model(name, weights=None)
            model.load_state_dict(state)
            classes = imagenet_classes()
            names, wnids = [label.name for label in classes], [label.wnid for label in classes]
            source = f"{name}: torchvision's weights {weights.name}, trained on the 1,000 classes of ImageNet."
            print(source)
            return Classifier(model.to(device).eval(), weights.transforms(), names, wnids, source, device)

    if micro is None:
        raise RuntimeError(f"The weights of {name} are not in the cache and cannot be downloaded. Run `make prefetch`.")
    from torchvision.transforms import v2

    model, about = load(micro)
    normalize = v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalize]
    transform = v2.Compose([v2.Resize(IMAGE_SIZE), v2.CenterCrop(IMAGE_SIZE), *to_float])
    names = {label.wnid: label.name for label in imagenet_classes()}
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    why = "" if weights is None else f" in place of {name}, whose full weights are not at hand"
    source = f"micro {micro} of the course's zoo{why}: {size:.1f} M parameters, {IMAGE_SIZE}x{IMAGE_SIZE} input, 200 classes."
    print(source)
    wnids = about["wnids"]
    return Classifier(model.to(device), transform, [names[wnid] for wnid in wnids], wnids, source, device)
