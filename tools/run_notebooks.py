"""Re-execute notebooks in place, so that their stored outputs are those that `make test` expects.

    python tools/run_notebooks.py          # all
    python tools/run_notebooks.py 01 04    # those whose names begin so

The environment of these runs is also that of the tests (see conftest.py).
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbval.kernel import CURRENT_ENV_KERNEL_NAME, NbvalKernelspecManager

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
CELL_TIMEOUT = 300  # seconds


def lectures() -> list[Path]:
    """Return the notebooks of the course in order; a copy such as ``01_alexnet-Copy1.ipynb`` is a student's."""
    return sorted(path for path in NOTEBOOKS.glob("*.ipynb") if re.fullmatch(r"\d\d_\w+", path.stem))


def use_headless_environment(scratch: str) -> None:
    """Make this process and the kernels that it starts independent of the user's settings and earlier downloads.

    Stored outputs are made and compared under these variables.

    Parameters
    ----------
    scratch : str
        An empty folder, in which every cache gets a new place.
    """
    for name in ("COURSE_DATA", "COURSE_MIRROR", "MPLBACKEND", "PYTHONSTARTUP"):
        os.environ.pop(name, None)
    # IPYTHONDIR: no start-up scripts of the user, and no history file over which parallel kernels fight.
    for name in ("COURSE_CACHE", "TORCH_HOME", "HF_HOME", "IPYTHONDIR"):
        os.environ[name] = os.path.join(scratch, name)
        os.mkdir(os.environ[name])
    Path(scratch, "matplotlibrc").touch()  # in place of the user's
    os.environ["MATPLOTLIBRC"] = scratch
    os.environ.update(COURSE_OFFLINE="1", HF_HUB_OFFLINE="1", TQDM_DISABLE="1", PYTHONHASHSEED="0")
    # The results are those of a CPU. Where a GPU is to be tested: COURSE_TEST_GPU=0 make test
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("COURSE_TEST_GPU", "")


def execute(path: Path) -> None:
    """Execute one notebook and store its outputs; when a cell fails, leave the file as it was.

    Raises
    ------
    SystemExit
        Names the notebook and the cell that failed, counted as nbval counts: code cells only, from 0.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_name=CURRENT_ENV_KERNEL_NAME, kernel_spec_manager=NbvalKernelspecManager()),
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],  # not the warning that this computer could listen to itself
        timeout=CELL_TIMEOUT,
        record_timing=False,
        coalesce_streams=True,
    )
    started = []
    client.on_cell_execute = lambda cell, cell_index: started.append(cell)
    start = time.perf_counter()
    try:
        client.execute(cleanup_kc=True)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise SystemExit(f"{error}\n{path.name}: Cell {len(started) - 1} failed; the file is left as it was") from None

    # Nothing that differs between two computers or two runs.
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata.language_info = {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    temporary = path.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)
    print(f"{path.name}: {len(started)} cells, {time.perf_counter() - start:.0f} s", flush=True)


def selected(prefixes: list[str]) -> list[Path]:
    """Return the notebooks whose names begin with one of `prefixes`, a number also without its zero; none means all.

    Raises
    ------
    SystemExit
        If there is no notebook for one of the prefixes.
    """
    paths = lectures()
    prefixes = [prefix.zfill(2) if prefix.isdigit() else prefix for prefix in prefixes]
    for prefix in prefixes:
        if not any(path.name.startswith(prefix) for path in paths):
            raise SystemExit(f"notebooks/ has no notebook whose name begins with {prefix!r}")
    return [path for path in paths if path.name.startswith(tuple(prefixes or [""]))]


def main(prefixes: list[str]) -> None:
    paths = selected(prefixes)
    with tempfile.TemporaryDirectory() as scratch:
        use_headless_environment(scratch)
        for path in paths:
            execute(path)


if __name__ == "__main__":
    main(sys.argv[1:])
