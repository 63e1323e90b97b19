"""Tiny-ImageNet-200 as tensors, from the official zip, its folder, or zip files with parts of it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Yield ``(path inside tiny-imagenet-200, bytes)`` of every file of a zip, a folder, or a folder of zips."""
    if source.is_file():
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                if not name.endswith("/"):
                    yield name.removeprefix("tiny-imagenet-200/"), archive.read(name)
    elif (source / "wnids.txt").exists():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield path.relative_to(source).as_posix(), path.read_bytes()
    else:
        for path in sorted(source.glob("tiny-imagenet-200*.zip")):
            yield from _files(path)


def load_tiny_imagenet(source: str | Path) -> dict[str, tuple[Tensor, Tensor] | list[str]]:
    """Read Tiny-ImageNet-200 (Le and Yang, 2015; a subset of ImageNet at 64x64) into memory.

    Parameters
    ----------
    source : str or Path
        ``tiny-imagenet-200.zip``, the folder it unpacks to, or a folder of zip files whose names
        begin with ``tiny-imagenet-200`` and that hold parts of it.

    Returns
    -------
    dict
        ``"train"`` and ``"val"``: pairs of images ``(N, 3, 64, 64)``, uint8, and labels ``(N,)``, int64,
        in the order of the file names, so that neither depends on how the data was packed;
        ``"wnids"``: the 200 WordNet ids, in the order of the labels. A split that is not in `source` is empty.

    Raises
    ------
    FileNotFoundError
        If `source` does not exist or holds no Tiny-ImageNet.
    """
    source = Path(source).expanduser()
    wnids: list[str] = []
    annotations: dict[str, str] = {}
    encoded: dict[str, list[tuple[str, bytes]]] = {"train": [], "val": []}
    for name, content in _files(source):
        parts = name.split("/")
        if name == "wnids.txt":
            wnids = content.decode().split()
        elif name == "val/val_annotations.txt":
            annotations = dict(line.split("\t")[:2] for line in content.decode().splitlines())
        elif parts[0] in encoded and parts[-2] == "images":
            encoded[parts[0]].append((parts[-1], content))
    if not wnids:
        raise FileNotFoundError(
            f"{source} holds no Tiny-ImageNet-200. Name the official tiny-imagenet-200.zip or the folder it unpacks to."
        )

    label = {wnid: index for index, wnid in enumerate(wnids)}
    splits: dict = {"wnids": wnids}
    for split, files in encoded.items():
        files.sort(key=lambda file: file[0].rsplit(".", 1)[0])
        images = np.empty((len(files), 3, 64, 64), dtype=np.uint8)
        labels = np.empty(len(files), dtype=np.int64)
        for i, (name, content) in enumerate(tqdm(files, desc=f"reading {split}", leave=False)):
            images[i] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)
            labels[i] = label[annotations[name] if split == "val" else name.split("_")[0]]
        splits[split] = torch.from_numpy(images), torch.from_numpy(labels)
    return splits
