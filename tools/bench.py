"""Measure what the course needs, and write BENCHMARKS.md: ``make bench`` (about ten minutes; not on Windows).

Every notebook runs alone, in the environment of the tests, in a process of its own; memory is the peak of its kernel's
resident set. Ratios are taken within one run.
"""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
COPIES = ROOT / "build" / "bench"  # inside the course, so that the notebooks find it

MEASURE_NOTEBOOK = """
import resource, sys, tempfile
from pathlib import Path
from tools.run_notebooks import execute, use_headless_environment
with tempfile.TemporaryDirectory() as scratch:
    use_headless_environment(scratch)
    execute(Path(sys.argv[1]))
unit = 1 if sys.platform == "darwin" else 1024
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit)
"""


def output_of(*arguments: str) -> str:
    """Return what this Python prints, run in the course's folder with `arguments`."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def notebooks() -> list[str]:
    """Return a row of the table for each notebook: title, seconds, GiB."""
    shutil.rmtree(COPIES, ignore_errors=True)
    COPIES.mkdir(parents=True)
    rows = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        copy = COPIES / path.name
        shutil.copy(path, copy)
        start = time.perf_counter()
        peak = int(output_of("-c", MEASURE_NOTEBOOK, str(copy)).splitlines()[-1])
        seconds = time.perf_counter() - start
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].removeprefix("# ")
        rows.append(f"| {title} | {seconds:.0f} | {peak / 2**30:.2f} |")
        print(rows[-1], flush=True)
    return rows


def median_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ratios() -> list[str]:
    """Return a row for each comparison: what, slow and fast in seconds, and how many times faster."""
    import torch

    import utils  # noqa: F401  makes torchvision work beside a CPU-only torch

    # isort: split
    import torchinfo
    from torchvision.models import get_model

    from utils.costs import costs
    from utils.data import MicroImageNet
    from utils.pretrained import load_classifier, load_clip, zero_shot_classifier

    rows = []

    def compare(what: str, slow: Callable[[], object], fast: Callable[[], object], repeats: int = 5) -> None:
        a, b = median_seconds(slow, repeats), median_seconds(fast, repeats)
        rows.append(f"| {what} | {a:.2f} | {b:.3f} | {a / b:.0f} |")
        print(rows[-1], flush=True)

    names = ("alexnet", "vgg16", "googlenet", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0", "vit_b_16")

    def real() -> None:
        for name in names:
            options = {"init_weights": True} if name == "googlenet" else {}
            torchinfo.summary(get_model(name, weights=None, **options), input_size=SIZE, verbose=0)

    def meta() -> None:
        for name in names:
            with torch.device("meta"):
                model = get_model(name, weights=None, **({"init_weights": False} if name == "googlenet" else {}))
            costs(model, SIZE)

    compare(
        "Cost tables of eight networks: torchinfo, with a real forward pass; `utils.costs`, on the meta device",
        real,
        meta,
        repeats=1,
    )

    classifier, photographs = load_classifier("micro_resnet"), MicroImageNet()
    images = [photographs[i % len(photographs)][0] for i in range(120)]
    compare(
        "Predicting 120 photographs with the micro ResNet: one at a time; in batches",
        lambda: [classifier.logits([image]) for image in images],
        lambda: classifier.logits(images),
    )

    clip = load_clip("MicroCLIP")
    from zoo.clip import names_of

    classes = [names_of(wnid)[0] for wnid in classifier.wnids]
    six = images[:6]

    @torch.inference_mode()
    def naive() -> list[int]:
        answers = []
        for image in six:
            texts = clip.model.encode_text(
                clip.tokenizer([f"a photo of a {name}." for name in classes]), normalize=True
            )
            answers.append((clip.encode_images([image]) @ texts.T).argmax().item())
        return answers

    def once() -> list[int]:
        return (clip.encode_images(six) @ zero_shot_classifier(clip, classes).T).argmax(1).tolist()

    assert naive() == once()
    compare("Zero-shot classes of six photographs, 200 names: all texts for each image; once", naive, once)
    return rows


SIZE = (1, 3, 224, 224)


def main() -> None:
    if os.name == "nt":
        raise SystemExit("make bench needs Linux or macOS, which tell the peak memory of a process.")
    memory = psutil.virtual_memory().total / 2**30
    machine = f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, {platform.system()}"
    imports = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    torch_time, utils_time = (
        statistics.median(float(output_of("-c", imports.format(name))) for _ in range(3)) for name in ("torch", "utils")
    )
    text = f"""# Benchmarks

Written by `make bench` on a machine with {machine}, Python {platform.python_version()}, no GPU used, no network used.

## What a lecture needs

All cells from top to bottom, the start of the kernel included.

| lecture | seconds | GiB at most |
|---|---:|---:|
{chr(10).join(notebooks())}

Opening a lecture costs what it imports: `import torch` takes {torch_time:.1f} s, and `import utils`, which imports
it, takes {utils_time:.1f} s.

## What is saved, and how

Median times in seconds, both ways in one run.

| comparison | first way | second way | times faster |
|---|---:|---:|---:|
{chr(10).join(ratios())}
"""
    (ROOT / "BENCHMARKS.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
