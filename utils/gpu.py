"""Memory of the GPUs (of this process where there is none) and honest timing."""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from threading import Event, Thread
from typing import NamedTuple

import psutil
import torch

MIB = 2**20
PATIENCE = 5.0  # seconds; where the driver is in trouble nvidia-smi waits for ever, and GPUtil with it


def text_table(rows: list[tuple[str, ...]]) -> str:
    """Lay out rows of cells under each other, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


class Device(NamedTuple):
    """Memory (bytes) and utilisation (0 to 1) of one device; not-a-number where the driver does not tell."""

    name: str
    free: float
    used: float
    total: float
    utilisation: float


class Devices(list[Device]):
    """A list of :class:`Device` that prints as a table."""

    def __repr__(self) -> str:
        rows = [(d.name, *(f"{size / MIB:,.0f} MiB" for size in d[1:4]), f"{d.utilisation:.0%}") for d in self]
        table = text_table([("", *Device._fields[1:]), *rows])
        return table.replace("nan MiB", "    N/A").replace("nan%", " N/A")


def _from_gputil() -> Iterator[Device]:
    import GPUtil  # needs distutils, which since Python 3.12 is there only beside setuptools

    for gpu in GPUtil.getGPUs():
        yield Device(gpu.name, gpu.memoryFree * MIB, gpu.memoryUsed * MIB, gpu.memoryTotal * MIB, gpu.load)


def _from_driver() -> Iterator[Device]:
    import pynvml

    pynvml.nvmlInit()
    for handle in map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount())):
        memory, load = pynvml.nvmlDeviceGetMemoryInfo(handle), math.nan
        with suppress(pynvml.NVMLError):  # virtual and partitioned GPUs do not tell
            load = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        yield Device(pynvml.nvmlDeviceGetName(handle), memory.free, memory.used, memory.total, load)


def _from_torch() -> Iterator[Device]:
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield Device(torch.cuda.get_device_name(index), free, total - free, total, math.nan)


def gpu_usage() -> Devices:
    """Tell how much memory of each GPU is free and used, and how busy it is; prints as a table.

    The driver's figures, for all programs together, contexts and unused cached blocks included: from GPUtil; where it
    cannot be imported or gets no answer from ``nvidia-smi``, from nvidia-ml-py, else from PyTorch. Without a
    GPU there is one row: the resident memory of this process ("used") beside the memory of the machine.
    """
    for source in (_from_gputil, _from_driver, _from_torch):
        # Whatever is wrong with one source, the next one may know. A thread that hangs is left behind.
        with suppress(Exception), ThreadPool(1) as pool:
            if devices := pool.apply_async(list, [source()]).get(PATIENCE):
                return Devices(devices)
    machine, used = psutil.virtual_memory(), psutil.Process().memory_info().rss
    return Devices([Device("this process (no GPU found)", machine.available, used, machine.total, math.nan)])


@dataclass
class Peak:
    """Highest use of the memory called `source`, in bytes above what it was at the start of the block."""

    source: str
    peak_bytes: int = 0

    def __repr__(self) -> str:
        return f"{self.peak_bytes / MIB:,.1f} MiB ({self.source})"


@contextmanager
def track_memory() -> Iterator[Peak]:
    """Measure how far memory use rises in a block; ``with track_memory() as peak``, and read `peak` after the block.

    On the current GPU: what PyTorch's allocator has given to tensors and to the workspace of layers, exact. Without a
    GPU: resident memory of the whole process, read every 2 ms; shorter peaks are missed, and reuse of what the process
    kept does not count.
    """
    if torch.cuda.is_available():
        device, period = torch.cuda.current_device(), None  # the allocator keeps the maximum: one look at the end
        torch.cuda.reset_peak_memory_stats(device)
        peak, read = Peak("tensors on the GPU"), lambda: torch.cuda.max_memory_allocated(device)
    else:
        process, period = psutil.Process(), 0.002
        peak, read = Peak("resident memory of the process"), lambda: process.memory_info().rss
    start, finished = read(), Event()

    def watch() -> None:
        last = False
        while not last:
            last = finished.wait(period)
            peak.peak_bytes = max(peak.peak_bytes, read() - start)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        finished.set()
        thread.join()


class Timing(NamedTuple):
    """Median and interquartile range (seconds) of so many repeats; the ± that it prints is half the range."""

    median: float
    iqr: float
    repeats: int

    def __repr__(self) -> str:
        unit, scale = ("ms", 1e3) if self.median >= 1e-3 else ("µs", 1e6)
        return f"{self.median * scale:,.1f} {unit} (± {self.iqr / 2 * scale:,.1f})"


def benchmark(function: Callable[[], object], seconds: float = 1.0, min_repeats: int = 10) -> Timing:
    """Time ``function()``, typically ``lambda: model(images)``, as often as fits into `seconds`, but at least
    `min_repeats` times, however long that takes.

    Runs for a quarter of that time, two at least, come first and do not count: they warm up caches, allocators and the
    choice of algorithms. The clock waits for the GPU, whose calls return before their work is done. What
    is not to be timed (making the model, moving it, entering ``inference_mode``) belongs outside.
    """

    def wait() -> None:
        if torch.cuda.is_initialized():  # else nothing has been given to a GPU
            torch.cuda.synchronize()

    for least, budget in ((2, seconds / 4), (max(2, min_repeats), seconds)):
        times: list[float] = []
        end = time.perf_counter() + budget
        while len(times) < least or time.perf_counter() < end:
            start = time.perf_counter()
            function()
            wait()
            times.append(time.perf_counter() - start)
    first, median, third = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, third - first, len(times))
