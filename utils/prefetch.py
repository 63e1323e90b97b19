"""Download everything that the notebooks can use, before a lecture: ``make prefetch``."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from utils.data import DownloadError, MicroImageNet, cache_dir, lock, online
from utils.pretrained import CLIP_WEIGHTS, fetch_clip_weights, fetch_weights, full_weights

PHOTOGRAPHS = "MicroImageNet"

# What the notebooks load, by the number of the lecture; a test compares this table with them.
NEEDS = {
    "01": (PHOTOGRAPHS, "alexnet"),
    "03": (PHOTOGRAPHS, "googlenet"),
    "04": (PHOTOGRAPHS, "resnet18"),
    "05": (PHOTOGRAPHS, "resnext50_32x4d"),
    "06": (PHOTOGRAPHS, "mobilenet_v2"),
    "07": (PHOTOGRAPHS, "densenet121"),
    "08": (PHOTOGRAPHS, "efficientnet_b0"),
    "10": (PHOTOGRAPHS, "efficientnet_lite0"),
    "12": (PHOTOGRAPHS, "ViT-B-32"),
}


def megabytes(name: str) -> float:
    """Return the size of the download `name`, an entry of NEEDS, in MB."""
    if name == PHOTOGRAPHS:
        return 106
    if name in CLIP_WEIGHTS:
        return CLIP_WEIGHTS[name][2]
    if weights := full_weights(name):
        return 1.048576 * weights.meta["_file_size"]  # torchvision's are MiB
    import timm

    with torch.device("meta"):
        return 4e-6 * sum(parameter.numel() for parameter in timm.create_model(name).parameters())


def obtain(name: str) -> None:
    """Fetch `name`, an entry of NEEDS, unless it is in the cache already.

    Raises
    ------
    DownloadError
        If it cannot be had.
    """
    if name in CLIP_WEIGHTS:
        fetch_clip_weights(name)
    elif name != PHOTOGRAPHS:
        fetch_weights(name)
    elif len(MicroImageNet()) < 750:
        given = os.environ.get("COURSE_DATA")
        raise DownloadError(
            f"COURSE_DATA={given} does not hold all of them: unset it" if given else "for the reason above"
        )
    else:
        pack_photographs()


def pack_photographs() -> None:
    """Put the photographs of the cache also into ``imagen.zip`` beside them, for whoever serves the cache to a room."""
    folder, archive = cache_dir() / PHOTOGRAPHS, cache_dir() / "imagen.zip"
    if not folder.is_dir() or archive.exists():  # no folder: the photographs are those of $COURSE_DATA
        return
    try:
        with lock(cache_dir()), TemporaryDirectory(prefix=".part-", dir=cache_dir()) as new:
            Path(shutil.make_archive(f"{new}/imagen", "zip", folder)).replace(archive)
    except OSError as error:  # filelock's Timeout, too
        print(f"{archive}, to serve the photographs to a room, cannot be written ({error.strerror or error}).")


def main(lectures: list[str]) -> int:
    """Fetch what `lectures` need (none: all of them), print what is there, and return how many things are missing."""
    if unknown := [lecture for lecture in lectures if not lecture.isdigit() or not 1 <= int(lecture) <= 12]:
        print(f'There is no lecture {", ".join(unknown)}: write two digits, such as NOTEBOOKS="01 12".')
        return len(unknown)
    wanted = list(dict.fromkeys(name for key in lectures or NEEDS for name in NEEDS.get(f"{int(key):02}", ())))
    print(f"Wanted: {len(wanted)} downloads, {sum(map(megabytes, wanted)):.0f} MB in all. Those in the cache are kept.")
    if not online():
        reason = (
            "COURSE_OFFLINE=1 forbids the network" if os.environ.get("COURSE_OFFLINE") == "1" else "There is no network"
        )
        print(f"{reason}: only what is already in the cache can be shown.")
    table, missing = [], 0
    for name in wanted:
        try:
            obtain(name)
            state = "there"
        except (DownloadError, FileNotFoundError) as error:
            state = f"missing; {error}"
            missing += 1
        table.append((name, f"{megabytes(name):.0f} MB", state))
    print(f"\nIn {cache_dir()}:")
    for name, size, state in table:
        print(f"  {name:20} {size:>8}  {state}")
    return missing


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
