"""Pretrained networks: full-size weights where they can be had, else the micro network of the zoo."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from utils.data import DownloadError, fetch, imagenet_classes
from zoo import IMAGE_SIZE, ZOO, load
from zoo.tiny_imagenet import IMAGENET_MEAN, IMAGENET_STD

# What torchvision's own functions set whenever they load weights: these need their input scaled as in TensorFlow.
OPTIONS = {name: {"transform_input": True, "init_weights": False} for name in ("googlenet", "inception_v3")}
# DenseNet's files call its layers norm.1 and conv.2; modules are no longer allowed such names, so that they are norm1 …
OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")

# OpenCLIP's weights of the size that the lecture uses, trained on LAION-2B: address, SHA-256 and MB.
CLIP_WEIGHTS = {
    "ViT-B-32": (
        "https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/"
        "1a25a446712ba5ee05982a381eed697ef9b435cf/open_clip_model.safetensors",
        "ac4f8c4b88af6d963118cbf40ad93176d092abbedfcb752601ae1866352656e6",
        605,
    )
}


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

    @torch.no_grad()  # results of inference mode could not be used to train a layer on them
    def logits(self, images: Sequence[Image.Image], batch_size: int = 32) -> Tensor:
        """Return the logits of `images`, shape ``(len(images), len(categories))``, on the CPU."""
        device = next(self.model.parameters()).device
        rows = [torch.empty(0, len(self.categories))]
        for start in range(0, len(images), batch_size):
            batch = [self.transform(image.convert("RGB")) for image in images[start : start + batch_size]]
            rows.append(self.model(torch.stack(batch).to(device)).cpu())
        return torch.cat(rows)

    def predict(self, images: Sequence[Image.Image], k: int = 5) -> tuple[list[list[str]], Tensor]:
        """Return the names of the `k` best classes of each image, the best first, and their probabilities."""
        probabilities, classes = self.logits(images).softmax(1).topk(k)
        return [[self.categories[index] for index in row] for row in classes.tolist()], probabilities


def full_weights(name: str):
    """Return torchvision's description of the original ImageNet weights of model `name`, None where there are none."""
    from torchvision import models

    # The largest have none that were trained on ImageNet alone; models of submodules do not classify images.
    known = name in models.list_models(module=models)
    return getattr(models.get_model_weights(name), "IMAGENET1K_V1", None) if known else None


def fetch_weights(name: str) -> Path:
    """Return the file of the original ImageNet weights of model `name`, from the cache or downloaded.

    Parameters
    ----------
    name : str
        A classification model of torchvision, or one that timm alone has.

    Raises
    ------
    ValueError
        If there are no such weights whose address carries a hash.
    DownloadError
        If it is not in the cache and cannot be downloaded.
    """
    if weights := full_weights(name):
        url = weights.url
    else:
        from timm.models import get_pretrained_cfg

        url = getattr(get_pretrained_cfg(name), "url", None) or ""
    if not re.search(r"-[0-9a-f]{8,}\.pth$", url):
        raise ValueError(f"No server has weights of {name!r} whose address carries a hash to check them by.")
    file = url.rsplit("/", 1)[-1]
    # Both write the first digits of the SHA-256 into the name: alexnet-owt-7be5be79.pth
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
    RuntimeError
        If a file of weights cannot be used; it says which, and what to do.
    """
    micro = next((key for key, entry in ZOO.items() if name == f"micro_{key}" or name in entry.stands_for), None)
    weights = full_weights(name)
    if weights is None and micro is None:
        micros = ", ".join(f"micro_{key}" for key in ZOO)
        raise ValueError(
            f"There is no classifier {name!r}: torchvision has no ImageNet weights for it, the zoo has {micros}."
        )
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
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        for key in list(state):
            state[OLD_NAME.sub(r"\1\2", key)] = state.pop(key)
        model.load_state_dict(state)
    except Exception as error:  # torch's, pickle's and zipfile's
        reason = str(error).partition("\n")[0]
        if isinstance(error, MemoryError) or "allocate memory" in reason:
            raise RuntimeError(f"There is too little memory for {name}: shut down other kernels.") from error
        raise RuntimeError(
            f"{file} is no file of weights for {name} ({reason}). Delete it, and run this again."
        ) from error
    classes = imagenet_classes()
    names, wnids = [label.name for label in classes], [label.wnid for label in classes]
    source = f"{name}: torchvision's weights {weights.name}, for the 1,000 classes of ImageNet."
    return _ready(Classifier, model, weights.transforms(), names, wnids, source)


def _micro_classifier(name: str) -> Classifier:
    from torchvision.transforms import v2

    model, about = load(name)
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    normalize = v2.Normalize([*IMAGENET_MEAN], [*IMAGENET_STD])
    transform = v2.Compose([v2.Resize(IMAGE_SIZE), v2.CenterCrop(IMAGE_SIZE), *to_float, normalize])
    name_of = {label.wnid: label.name for label in imagenet_classes()}
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    source = (
        f"micro_{name}: {millions:.1f} M parameters, {IMAGE_SIZE}×{IMAGE_SIZE} pixels, for 200 classes of ImageNet."
    )
    return _ready(Classifier, model, transform, [name_of[wnid] for wnid in about["wnids"]], about["wnids"], source)


def _on_device(model: nn.Module) -> nn.Module:
    """Return `model` in evaluation mode, on the GPU if there is one that can compute and has room for it."""
    model.eval()
    if torch.cuda.is_available():
        try:
            model.to("cuda")
            torch.ones(1, device="cuda").add(1)  # a GPU too old for this torch takes weights, but computes nothing
            return model
        except RuntimeError as error:  # no room, not even for the driver to begin; or a GPU that this torch cannot use
            reason = str(error).partition("\n")[0]
            if "out of memory" in reason:
                print("The GPU is full, so this network stays on the CPU. To make room, shut down the kernels of")
                print("notebooks that you no longer need (in JupyterLab: the square in a circle on the left), and run")
                print("this cell again.")
            else:
                print(f"The GPU cannot be used ({reason}), so this network stays on the CPU.")
                print("To hide the GPU from all cells, start with: CUDA_VISIBLE_DEVICES= make lab")
    return model.to("cpu")


def _ready(kind: type, model: nn.Module, *rest) -> Classifier | Clip:
    loaded = kind(_on_device(model), *rest)
    print(loaded.source)
    return loaded


@dataclass(frozen=True)
class Clip:
    """A trained image-text model of open_clip with all that it takes to use it.

    Attributes
    ----------
    model : open_clip.CLIP
        In evaluation mode, on the GPU if there is one.
    transform : callable
        Turns an RGB PIL image into an input ``(3, H, W)``.
    tokenizer : callable
        Turns a list of N texts into token ids ``(N, context length)``.
    source : str
        Which weights these are, in one line.
    """

    model: nn.Module
    transform: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    source: str

    @property
    def context_length(self) -> int:
        """Tokens of the longest text that the model can take."""
        return self.tokenizer.context_length

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by before the softmax: the inverse of the learned temperature."""
        return self.model.logit_scale.exp().item()

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image], batch_size: int = 32) -> Tensor:
        """Return the unit vectors of `images`, ``(len(images), embedding size)``, on the CPU."""
        rows = [torch.empty(0, self.model.text_projection.shape[1])]
        for start in range(0, len(images), batch_size):
            batch = torch.stack([self.transform(image) for image in images[start : start + batch_size]])
            rows.append(self.model.encode_image(batch.to(self._device), normalize=True).cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 128) -> Tensor:
        """Return the unit vectors of `texts`, ``(len(texts), embedding size)``, on the CPU.

        Short texts are encoded beside short ones, each batch as far as its longest text reaches; that gives what
        the padded texts give, in less time. A progress bar shows where there are several batches.

        Raises
        ------
        TypeError
            If `texts` is a single text, whose letters would be taken for texts.
        """
        from zoo.clip import encode_text

        if isinstance(texts, str):
            raise TypeError(f"A list of texts is needed, such as [{texts!r}].")
        if not texts:
            return torch.empty(0, self.model.text_projection.shape[1])
        tokens = self.tokenizer(list(texts))
        rows = torch.empty(len(texts), self.model.text_projection.shape[1])
        batches = tokens.argmax(dim=1).argsort(stable=True).split(batch_size)
        for batch in tqdm(batches, desc="encoding texts", leave=False) if len(batches) > 1 else batches:
            rows[batch] = F.normalize(encode_text(self.model, tokens[batch].to(self._device)), dim=1).cpu()
        return rows

    @property
    def _device(self) -> torch.device:
        return self.model.logit_scale.device


def fetch_clip_weights(name: str) -> Path:
    """Return the file of OpenCLIP's weights `name`, a key of CLIP_WEIGHTS, from the cache or downloaded.

    Raises
    ------
    DownloadError
        If it is not in the cache and cannot be downloaded.
    """
    url, sha256, _ = CLIP_WEIGHTS[name]
    return fetch(f"weights/{name}-{sha256[:8]}.safetensors", [url], sha256)


def load_clip(name: str = "ViT-B-32") -> Clip:
    """Load a trained CLIP and say in one line which one it is.

    Parameters
    ----------
    name : str
        ``"ViT-B-32"``: OpenCLIP's model with its weights from the cache or from the network; where neither has them,
        MicroCLIP stands in. ``"MicroCLIP"``: always the small model that ships with the course.

    Raises
    ------
    ValueError
        If there is no model of that name.
    RuntimeError
        If MicroCLIP's file cannot be used; it says which, and what to do.
    """
    if name not in (*CLIP_WEIGHTS, "MicroCLIP"):
        raise ValueError(f"There is no CLIP {name!r}. There are: {', '.join((*CLIP_WEIGHTS, 'MicroCLIP'))}.")
    if name != "MicroCLIP":
        try:
            return _full_clip(name, fetch_clip_weights(name))
        except DownloadError as error:
            print(error)
    return _micro_clip()


def _full_clip(name: str, file: Path) -> Clip:
    import open_clip

    model, transform = open_clip.create_model_from_pretrained(name, pretrained=str(file))
    return _ready(Clip, model, transform, open_clip.get_tokenizer(name), f"{name}: trained on LAION-2B by OpenCLIP.")


def _micro_clip() -> Clip:
    from zoo import clip

    model, transform, about = clip.load()
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    classes = len(about["wnids"]) - len(about["held_out"])
    source = f"MicroCLIP: {millions:.1f} M parameters, {IMAGE_SIZE}×{IMAGE_SIZE} pixels, {classes} classes of ImageNet."
    return _ready(Clip, model, transform, clip.tokenizer(), source)


def zero_shot_classifier(
    clip: Clip,
    names: Sequence[str],
    templates: str | Sequence[str | Callable[[str], str]] = "a photo of a {}.",
) -> Tensor:
    """Turn names of classes into the weights of a linear classifier, without an image (Radford et al., 2021, 3.1).

    Parameters
    ----------
    names : sequence of str
        One name for each class.
    templates : sequence of str or callable
        Prompts, or one, around a name: texts with ``{}`` in its place, or functions such as those of
        ``open_clip.OPENAI_IMAGENET_TEMPLATES``. The embeddings of all prompts of a class are averaged.

    Returns
    -------
    Tensor
        ``(len(names), embedding size)``, unit vectors. The class of an image is the row with the largest product
        with the vector of the image; every text is encoded once, however many images follow.

    Raises
    ------
    TypeError
        If `names` is a single name, whose letters would be taken for names.
    """
    if isinstance(names, str):
        raise TypeError(f"A list of names is needed, such as [{names!r}].")
    templates = [templates] if isinstance(templates, str) else templates
    texts = [
        template(name) if callable(template) else template.format(name) for name in names for template in templates
    ]
    vectors = clip.encode_texts(texts)
    vectors = vectors.view(len(names), len(templates), vectors.shape[1])
    return F.normalize(vectors.mean(dim=1), dim=1)
