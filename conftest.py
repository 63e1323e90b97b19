"""What pytest and nbval need beyond their own options to run the notebooks of the course."""

import os
import tempfile
import time
from pathlib import Path
from queue import Empty

import psutil
import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

from tools.run_notebooks import NOTEBOOKS, lectures, use_headless_environment

MEMORY_PER_NOTEBOOK = 2 << 30  # bytes


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_xdist_auto_num_workers() -> int:
    """With ``-n auto``: as many workers as there are cores, notebooks (and the unit tests), and memory."""
    return max(1, min(available_cores(), len(lectures()) + 1, psutil.virtual_memory().available // MEMORY_PER_NOTEBOOK))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out a student's copies of the notebooks, and say nothing of other files."""
    return collection_path not in lectures() if collection_path.parent == NOTEBOOKS else None


def pytest_configure(config: pytest.Config) -> None:
    """Set up the environment before anything imports torch. Workers inherit the number of threads."""
    scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    config.add_cleanup(scratch.cleanup)
    use_headless_environment(scratch.name)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // (config.option.numprocesses or 1))))


# A notebook stops at its first failing cell: what comes after would only repeat the failure.

first_failure = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if isinstance(item, IPyNbCell) and report.failed:
        item.parent.stash.setdefault(first_failure, item.name)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if isinstance(item, IPyNbCell) and first_failure in item.parent.stash:
        pytest.skip(f"not run, because {item.parent.stash[first_failure]} of this notebook failed")


# nbval waits for the answer of a dead kernel until the cell's time is over. Look after it every second.

nbval_get_message = RunningKernel.get_message


class KernelDied(RuntimeError):
    """The process of the notebook's kernel has ended."""


def get_message(self: RunningKernel, stream: str, timeout: float) -> dict:
    end = time.monotonic() + timeout
    while True:
        try:
            return nbval_get_message(self, stream, timeout=min(1, max(0, end - time.monotonic())))
        except Empty:
            if not self.is_alive():
                raise KernelDied("The kernel died while it executed this cell. Was the memory full?") from None
            if time.monotonic() >= end:
                raise


RunningKernel.get_message = get_message


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    try:
        result = yield
    except KernelDied as error:
        item.raise_cell_error(str(error))
    # nbval accepts a cell that is to raise an exception and doesn't.
    must_raise = isinstance(item, IPyNbCell) and item.options["check_exception"]
    if must_raise and not any(output.output_type == "error" for output in item.test_outputs):
        item.raise_cell_error("This cell is tagged as one that raises an exception, but it raised none.")
    return result
