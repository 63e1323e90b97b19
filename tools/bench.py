"""Measure what the course needs, and write BENCHMARKS.md: ``make bench`` (about twenty minutes).

Every notebook runs alone, in the environment of the tests, in a process of its own; memory is the peak of its kernel's
resident set. Ratios are taken within one run.
"""

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tools.run_notebooks import lectures, use_headless_environment  # noqa: E402

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


# What VGG-19 holds for the backward pass, as the process grows: in a process of its own, because memory that was once
# taken is not always given back.
MEASURE_VGG = """
import sys
import psutil
import utils
import torch
from torchvision.models import vgg19
images, model = torch.rand(int(sys.argv[1]), 3, 224, 224), vgg19(weights=None)
model(images[:1, :, :32, :32])  # libraries take their own share at the first call
before = psutil.Process().memory_info().rss
logits = model(images)
print(psutil.Process().memory_info().rss - before)
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
    for path in lectures():
        copy = COPIES / path.name
        shutil.copy(path, copy)
        start = time.perf_counter()
        peak = int(output_of("-c", MEASURE_NOTEBOOK, str(copy)).splitlines()[-1])
        seconds = time.perf_counter() - start
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].removeprefix("# ")
        rows.append(f"| {title} | {seconds:.0f} | {peak / 2**30:.2f} |")
        print(rows[-1], flush=True)
    return rows


def tests(*arguments: str) -> str:
    """Return the row of the table for `make test`: seconds, and GiB that its processes hold together."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", *arguments]
    start, peak = time.perf_counter(), 0
    with (COPIES / "tests.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, resident(psutil.Process(process.pid)))
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"Tests fail, so that their time means nothing: see {log.name}.")
    name = "all lectures and the software's tests, `make test`"
    if arguments:
        name = f"all lectures, `make test ARGS={' '.join(arguments)}`"
    return f"| {name} | {time.perf_counter() - start:.0f} | {peak / 2**30:.2f} |"


def resident(process: psutil.Process) -> int:
    """Return the bytes that a process and those that it started hold; what they share counts for each."""
    total = 0
    try:
        for each in [process, *process.children(recursive=True)]:
            total += each.memory_info().rss
    except psutil.NoSuchProcess:  # it ended meanwhile
        pass
    return total


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
    from torch import Tensor

    import utils  # noqa: F401  makes torchvision work beside a CPU-only torch

    # isort: split
    import torchinfo
    from torchvision.models import get_model
    from torchvision.transforms import v2

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
    *sizes, to_image, to_float, normalize = classifier.transform.transforms
    plain = v2.Compose([to_image, to_float, *sizes, normalize])

    @torch.inference_mode()
    def one_by_one() -> list[Tensor]:
        device = next(classifier.model.parameters()).device
        return [classifier.model(plain(image)[None].to(device)) for image in images]

    compare(
        "Predicting 120 photographs with the micro ResNet: each made a tensor, then scaled, then predicted by itself; "
        "`Classifier.logits`, which scales first and predicts in batches",
        one_by_one,
        lambda: classifier.logits(images),
    )

    clip = load_clip("MicroCLIP")
    from zoo.clip import names_of

    classes = [names_of(wnid)[0] for wnid in classifier.wnids]
    six = images[:6]

    prompts = [f"a photo of a {name}." for name in classes]

    def pair_by_pair() -> list[int]:
        scores = [[clip.encode_images([image]) @ clip.encode_texts([text]).T for text in prompts] for image in six]
        return torch.tensor(scores).argmax(1).tolist()

    def image_by_image() -> list[int]:
        return [(clip.encode_images([image]) @ clip.encode_texts(prompts).T).argmax().item() for image in six]

    def once() -> list[int]:
        return (clip.encode_images(six) @ zero_shot_classifier(clip, classes).T).argmax(1).tolist()

    assert pair_by_pair() == image_by_image() == once()
    what = "Zero-shot classes of six photographs, 200 names: {}; every image and every text once"
    compare(what.format("each pair of image and text by itself"), pair_by_pair, once, repeats=1)
    compare(what.format("all texts for each image"), image_by_image, once)
    return rows


SIZE = (1, 3, 224, 224)


def memory() -> list[str]:
    """Return a row for each batch that fits: GiB that VGG-19 holds, computed and measured."""
    import utils  # noqa: F401

    # isort: split
    import torch
    from torchvision.models import vgg19

    from utils.costs import costs

    with torch.device("meta"):
        model = vgg19(weights=None)
    rows = []
    for batch in (1, 4, 16, 64):
        computed = costs(model, (batch, *SIZE[1:])).saved_bytes - batch * 4 * 3 * 224 * 224  # without the images
        if 2 * computed > psutil.virtual_memory().available:
            break
        measured = int(output_of("-c", MEASURE_VGG, str(batch)).splitlines()[-1])
        rows.append(f"| {batch} | {computed / 2**30:.2f} | {measured / 2**30:.2f} |")
        print(rows[-1], flush=True)
    return rows


def growth() -> list[str]:
    """Return a row for each kind of input: how many of it, and the seconds that they take."""
    import utils  # noqa: F401

    # isort: split
    import torch
    import torchinfo
    from torchvision.models import get_model

    from utils.costs import costs
    from utils.data import MicroImageNet
    from utils.pretrained import load_classifier, load_clip

    rows = []

    def row(what: str, sizes: list, function: Callable) -> None:
        seconds = [median_seconds(lambda size=size: function(size), repeats=3) for size in sizes]
        rows.append(f"| {what} | {', '.join(map(str, sizes))} | {', '.join(f'{value:.2f}' for value in seconds)} |")
        print(rows[-1], flush=True)

    classifier, clip = load_classifier("micro_resnet"), load_clip("MicroCLIP")
    photographs = MicroImageNet()
    images = [photographs[i % len(photographs)][0] for i in range(480)]
    row("photographs, classified by the micro ResNet", [30, 120, 480], lambda n: classifier.logits(images[:n]))
    prompts = [f"a photo of a {name}." for name in classifier.categories] * 4
    row("prompts, encoded by MicroCLIP", [50, 200, 800], lambda n: clip.encode_texts(prompts[:n]))
    with torch.device("meta"):
        networks = {depth: get_model(f"resnet{depth}", weights=None) for depth in (18, 50, 152)}
    row("layers of a ResNet, in a cost table", list(networks), lambda depth: costs(networks[depth], SIZE))
    row("images of a batch, in a cost table of ResNet-50", [1, 8, 32], lambda n: costs(networks[50], (n, *SIZE[1:])))
    real = get_model("resnet50", weights=None)
    row(
        "the same by torchinfo, with a real forward pass",
        [1, 8, 32],
        lambda n: torchinfo.summary(real, input_size=(n, *SIZE[1:]), verbose=0),
    )
    return rows


def report() -> str:
    """Measure everything, and return the text of BENCHMARKS.md."""
    import torch

    gib = psutil.virtual_memory().total / 2**30
    # The same number of cores differs by a factor of two in speed: what they are called, and how wide they compute.
    processor = torch.cpu.get_capabilities().get("cpu_name", platform.machine())
    cores = f"{os.cpu_count()} cores ({processor}, {torch.backends.cpu.get_cpu_capability()})"
    machine = f"{cores}, {gib:.0f} GiB, {platform.system()}"
    imports = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    output_of("-c", imports.format("utils"))  # the first time, files come from the disk
    utils_time, torch_time = (
        statistics.median(float(output_of("-c", imports.format(name))) for _ in range(5)) for name in ("utils", "torch")
    )
    return f"""# Benchmarks

Written by `make bench` on a machine with {machine}, Python {platform.python_version()}, no GPU used, no network used.

## What a lecture needs

All cells from top to bottom, the start of the kernel included. The tests run in as many processes as cores and memory
allow.

| lecture | seconds | GiB at most |
|---|---:|---:|
{chr(10).join(notebooks())}
{tests("notebooks")}
{tests()}

Opening a lecture costs what it imports: `import utils`, which imports torch and little else, takes {utils_time:.1f} s,
`import torch` alone {torch_time:.1f} s.

## What is saved, and how

Median times in seconds, both ways in one run.

| comparison | first way | second way | times faster |
|---|---:|---:|---:|
{chr(10).join(ratios())}

## How it grows

Median times in seconds.

| what grows | how many | seconds |
|---|---:|---:|
{chr(10).join(growth())}

What VGG-19 holds for the backward pass, in GiB: computed by `utils.costs`, which allocates nothing, and measured as the
growth of a process on the CPU.

| images in the batch | computed | measured |
|---:|---:|---:|
{chr(10).join(memory())}
"""


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # there are no options but --help
    with tempfile.TemporaryDirectory() as scratch:
        use_headless_environment(scratch)  # neither the network nor a GPU, as in the tests
        (ROOT / "BENCHMARKS.md").write_text(report(), encoding="utf-8")


if __name__ == "__main__":
    main()
