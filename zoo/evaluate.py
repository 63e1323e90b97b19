"""Evaluate the shipped weights of the zoo on the 10,000 validation images of Tiny-ImageNet-200.

    python -m zoo.evaluate --data tiny-imagenet-200.zip            # recompute, and compare with results.csv
    python -m zoo.evaluate --data tiny-imagenet-200.zip --write    # after training: write the tables

The tables are ``data/zoo/results.csv``, one row a network, and ``data/zoo/per_class.csv``, the top-1 accuracy of
each class in percent. Comparing fails where an accuracy differs by more than 0.1 points or a count differs at all;
speed is measured anew by --write alone, since it belongs to the machine.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Iterable
from statistics import median

import torch
from torch import Tensor

from utils.costs import costs
from utils.gpu import benchmark
from zoo import IMAGE_SIZE, WEIGHTS, ZOO, load
from zoo.tables import read_csv, write_csv
from zoo.tiny_imagenet import add_data_argument, device_name, load_for_command, top_k_correct

COUNTS = ("parameters", "multiply_adds")
ACCURACIES = ("top1", "top5")


def evaluate(name: str, images: Tensor, labels: Tensor) -> tuple[dict[str, object], list[float]]:
    """Return the row of results of the shipped network `name` but its speed, and its top-1 accuracy on each class.

    Parameters
    ----------
    images, labels : Tensor
        Validation images ``(N, 3, 64, 64)``, uint8, and labels ``(N,)``, on the device that is to be used.

    All accuracies are in percent.
    """
    model, about = load(name)
    model.to(images.device)
    hits = top_k_correct(model, images, labels)
    cost = costs(model, (1, 3, IMAGE_SIZE, IMAGE_SIZE))
    row = {
        "name": name,
        "seed": about["recipe"]["seed"],
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "top1": round(100 * hits[:, 0].float().mean().item(), 2),
        "top5": round(100 * hits.any(1).float().mean().item(), 2),
        "epochs": about["recipe"]["epochs"],
        "optimizer": about["recipe"]["optimizer"],
        "learning_rate": about["recipe"]["learning_rate"],
        "train_minutes": round(about["train_seconds"] / 60, 1),
        "train_device": about["device"],
    }
    right = torch.zeros(len(about["wnids"])).index_add_(0, labels.cpu(), hits[:, 0].float())
    return row, (100 * right / labels.cpu().bincount(minlength=len(right)).clamp(min=1)).tolist()


def keep_freed_memory() -> None:
    """Tell glibc not to give freed memory back to the system, where there is glibc.

    Whether it does depends on what the process did before, and to get it again, page by page, can take as long as the
    network itself: MobileNet was seen to classify 530 and 1,275 images in a second.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep up to 2 GiB at the top of the heap
        libc.mallopt(-4, 0)  # M_MMAP_MAX: everything comes from the heap


def speeds(names: Iterable[str], device: str, rounds: int = 5) -> dict[str, int]:
    """Return how many images each of the shipped networks `names` classifies in a second, in batches of 64.

    All take turns, in `rounds` rounds, and the median counts: what slows the machine for a while meets all of them.
    """
    keep_freed_memory()
    models = {name: load(name)[0].to(device) for name in names}
    batch = torch.zeros(64, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)
    seconds = {name: [] for name in models}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, model in models.items():
                seconds[name].append(benchmark(lambda: model(batch)).median)  # noqa: B023
    return {name: round(len(batch) / median(times)) for name, times in seconds.items()}


def differences(row: dict[str, object], recorded: dict[str, str], tolerance: float = 0.1) -> list[str]:
    """Say in sentences where `row` is not what the table `recorded`; an empty list means that it agrees."""
    found = [f"{key} is {row[key]}, recorded is {recorded[key]}" for key in COUNTS if row[key] != int(recorded[key])]
    for key in ACCURACIES:
        if abs(row[key] - float(recorded[key])) > tolerance + 1e-9:
            found.append(f"{key} is {row[key]:.2f} %, recorded is {recorded[key]} %")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m zoo.evaluate", description=__doc__.split("\n")[0])
    add_data_argument(parser)
    parser.add_argument("--write", action="store_true", help="write the tables instead of comparing with them")
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = load_for_command(arguments.data, splits=("val",))
    images, labels = (tensor.to(device) for tensor in data["val"])
    recorded = {row["name"]: row for row in read_csv(WEIGHTS / "results.csv")}
    rows, per_class, failed = [], [{"wnid": wnid} for wnid in data["wnids"]], False
    for name in ZOO:
        row, accuracies = evaluate(name, images, labels)
        for line, accuracy in zip(per_class, accuracies, strict=True):
            line[name] = round(accuracy, 1)
        if arguments.write:
            rows.append(row)
            verdict = "written"
        else:
            found = differences(row, recorded[name]) if name in recorded else ["it is not in results.csv"]
            verdict, failed = "; ".join(found) or "as recorded", failed or bool(found)
        print(f"{name}: top-1 {row['top1']:.2f} %, top-5 {row['top5']:.2f} %: {verdict}")
    if arguments.write:
        measured, speed_device = speeds(ZOO, device), device_name(images.device)
        rows = [row | {"images_per_second": measured[row["name"]], "speed_device": speed_device} for row in rows]
        write_csv(WEIGHTS / "results.csv", rows)
        write_csv(WEIGHTS / "per_class.csv", per_class)
    sys.exit(failed)


if __name__ == "__main__":
    main()
