"""MicroCLIP: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021
(arXiv 2103.00020), small enough to ship.

It is a model of open_clip with a configuration of the course's own (``MicroCLIP.json``, registered below): CLIP's
ResNet with attention pooling and CLIP's causal text transformer, for 64x64 images and texts of up to 32 tokens. The
tokenizer is CLIP's with the first 4,000 of its 48,894 merges, so that the table of token embeddings stays small.
:mod:`zoo.train_clip` trains it; twenty classes take no part, so that it can be asked about what it never saw.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import utils  # noqa: F401  makes torchvision, which open_clip imports, work beside a CPU-only torch

# isort: split
import open_clip
import torch
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
from safetensors import SafetensorError, safe_open
from timm.data import ImageNetInfo
from torch import Tensor

from zoo import WEIGHTS, unusable_weights
from zoo.tiny_imagenet import IMAGENET_MEAN, IMAGENET_STD

NAME = "MicroCLIP"
MERGES = WEIGHTS / "clip_merges.txt.gz"
TEMPLATES: tuple[Callable[[str], str], ...] = tuple(OPENAI_IMAGENET_TEMPLATES)

open_clip.add_model_config(Path(__file__).with_name(f"{NAME}.json"))


def held_out(wnids: Sequence[str]) -> list[bool]:
    """Tell for each class whether it takes no part in training: every tenth, in the order of the data set."""
    return [index % 10 == 0 for index in range(len(wnids))]


@cache
def _imagenet() -> ImageNetInfo:
    return ImageNetInfo()


def names_of(wnid: str) -> list[str]:
    """Return WordNet's names of an ImageNet class, the usual one first: ``["oboe", "hautboy", "hautbois"]``."""
    return _imagenet().label_name_to_description(wnid).split(", ")


def definition_of(wnid: str) -> str:
    """Return the first clause of WordNet's definition of an ImageNet class: "a bottle that holds beer"."""
    return _imagenet().label_name_to_description(wnid, detailed=True).split(": ", 1)[1].split(";")[0]


def tokenizer() -> open_clip.SimpleTokenizer:
    """Return MicroCLIP's tokenizer: texts to token ids ``(N, 32)``, int64, padded with zeros."""
    return open_clip.get_tokenizer(NAME, bpe_path=str(MERGES))


def encode_text(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Embed texts like ``model.encode_text``, but only as far as the longest of them reaches.

    Parameters
    ----------
    model : open_clip.CLIP
        With a causal text tower whose output is taken at the end-of-text token, as in all models of the paper.
    tokens : Tensor
        ``(N, context length)``, int64, from the model's tokenizer.

    Returns
    -------
    Tensor
        ``(N, embedding size)``, not normalized. In a causal transformer no token sees a later one, so what follows
        the end of the text cannot change the result.
    """
    end = tokens.argmax(dim=1)  # the end-of-text token has the highest id
    length = int(end.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(x), device=x.device), end] @ model.text_projection


def load(folder: Path = WEIGHTS) -> tuple[open_clip.CLIP, Callable, dict]:
    """Return the trained MicroCLIP in evaluation mode, its image transform, and what is known about its training.

    The last value holds ``wnids`` (the WordNet ids of the 200 classes of Tiny-ImageNet), ``held_out`` (those of them
    that took no part in training) and ``recipe``.

    Raises
    ------
    RuntimeError
        If the file of its weights is missing, damaged, or belongs to another architecture.
    """
    path = Path(folder) / "clip.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            about = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
        model, transform = open_clip.create_model_from_pretrained(
            NAME,
            pretrained=str(path),
            image_mean=IMAGENET_MEAN,
            image_std=IMAGENET_STD,
        )
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise unusable_weights(path, error, "python -m zoo.train_clip --data tiny-imagenet-200.zip") from None
    return model.eval(), transform, about
