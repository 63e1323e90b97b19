"""Tiny-ImageNet-200 as tensors, from the official zip, its folder, or zip files with parts of it."""

from __future__ import annotations

import argparse
import io
import platform
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

IMAGES = {"train": 100_000, "val": 10_000}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _files(source: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the path inside tiny-imagenet-200 and a function that reads it, of every file of a zip, folder, or zips.

    A function can be called until the next one is asked for.
    """
    if source.is_file():
        try:
            archive = zipfile.ZipFile(source)
        except zipfile.BadZipFile:
            raise ValueError(f"{source} is not a complete zip file: download it again.") from None
        with archive:
            for name in archive.namelist():
                if not name.endswith("/"):
                    yield name.removeprefix("tiny-imagenet-200/"), partial(_read, archive, name)
    elif (source / "wnids.txt").exists():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield path.relative_to(source).as_posix(), path.read_bytes
    else:
        for path in sorted(source.glob("tiny-imagenet-200*.zip")):
            yield from _files(path)


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except Exception:  # each method of compression has errors of its own
        raise ValueError(f"{name} in {archive.filename} is damaged: download that file again.") from None


def load_tiny_imagenet(
    source: str | Path, splits: Sequence[str] = ("train", "val")
) -> dict[str, tuple[Tensor, Tensor] | list[str]]:
    """Read Tiny-ImageNet-200 (Le and Yang, 2015; a subset of ImageNet at 64x64) into memory.

    Parameters
    ----------
    source : str or Path
        ``tiny-imagenet-200.zip``, the folder it unpacks to, or a folder of zip files whose names
        begin with ``tiny-imagenet-200`` and that hold parts of it.
    splits : sequence of str
        Which of "train" and "val" to read.

    Returns
    -------
    dict
        ``split`` for each of `splits`: a pair of images ``(N, 3, 64, 64)``, uint8, and labels ``(N,)``, int64,
        in the order of the file names, so that neither depends on how the data was packed;
        ``"wnids"``: the 200 WordNet ids, in the order of the labels.

    Raises
    ------
    FileNotFoundError
        If `source` does not exist or holds no Tiny-ImageNet, or nothing of a split.
    ValueError
        If a zip file or an image is damaged, or an image has no label; it says which.
    """
    source = Path(source).expanduser()
    wnids: list[str] = []
    annotations: dict[str, str] = {}
    encoded: dict[str, list[tuple[str, bytes]]] = {split: [] for split in splits}
    if not source.exists():
        raise FileNotFoundError(
            f"There is no {source}. Get http://cs231n.stanford.edu/tiny-imagenet-200.zip and name it."
        )
    for name, read in _files(source):
        parts = name.split("/")
        if name == "wnids.txt":
            wnids = read().decode().split()
        elif name == "val/val_annotations.txt":
            annotations = dict(line.split("\t")[:2] for line in read().decode().splitlines())
        elif parts[0] in encoded and parts[-2] == "images":
            encoded[parts[0]].append((parts[-1], read()))
    if not wnids:
        raise FileNotFoundError(
            f"{source} holds no Tiny-ImageNet-200. Name the official tiny-imagenet-200.zip or the folder it unpacks to."
        )

    if missing := [split for split, files in encoded.items() if not files]:
        raise FileNotFoundError(f"{source} holds no images of {' and '.join(missing)}.")
    label = {wnid: index for index, wnid in enumerate(wnids)}
    data: dict = {"wnids": wnids}
    for split, files in encoded.items():
        files.sort(key=lambda file: file[0].rsplit(".", 1)[0])
        images = np.empty((len(files), 3, 64, 64), dtype=np.uint8)
        labels = np.empty(len(files), dtype=np.int64)
        for i, (name, content) in enumerate(tqdm(files, desc=f"reading {split}", leave=False)):
            try:
                images[i] = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)
                labels[i] = label[annotations[name] if split == "val" else name.split("_")[0]]
            except Exception as error:  # Pillow raises all sorts
                raise ValueError(f"{name} in {source} is damaged or has no label ({error}).") from None
        data[split] = torch.from_numpy(images), torch.from_numpy(labels)
    return data


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    """Let a command ask for the data set, as :func:`load_for_command` takes it."""
    parser.add_argument(
        "--data", type=Path, required=True, help="tiny-imagenet-200.zip, its folder, or a folder of parts"
    )


def load_for_command(source: Path, splits: Sequence[str] = ("train", "val")) -> dict:
    """Return :func:`load_tiny_imagenet` of the whole data set, or end the command with what is wrong with `source`."""
    try:
        data = load_tiny_imagenet(source, splits)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    for split in splits:
        if (found := len(data[split][0])) != IMAGES[split]:
            wanted = f"{IMAGES[split]:,} images of {split}"
            sys.exit(f"{source} holds {found:,} of the {wanted}: is a part missing, or there twice?")
    return data


def normalize(images: Tensor) -> Tensor:
    """Turn uint8 images ``(N, 3, H, W)`` into the float input that every network of the zoo expects."""
    mean, std = (torch.tensor(values, device=images.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]


@torch.inference_mode()
def top_k_correct(model: nn.Module, images: Tensor, labels: Tensor, k: int = 5, batch_size: int = 250) -> Tensor:
    """For each uint8 image, the rank of the right class among the `k` best guesses.

    Returns a bool tensor ``(N, k)`` on the CPU; row i has at most one True. Its first column is top-1
    correctness, ``any(1)`` is top-k correctness.
    """
    model.eval()
    hits = []
    for start in range(0, len(images), batch_size):
        batch = normalize(images[start : start + batch_size]).contiguous(memory_format=torch.channels_last)
        guesses = model(batch).topk(k, dim=1).indices
        hits.append((guesses == labels[start : start + batch_size, None]).cpu())
    return torch.cat(hits)


def device_name(device: torch.device) -> str:
    """The name of the GPU, or the number of CPU threads and the kind of processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{device.type.upper()}, {platform.machine()}"
    return f"CPU, {torch.get_num_threads()} threads, {platform.machine()}"
