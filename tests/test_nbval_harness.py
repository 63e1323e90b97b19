"""How notebooks are tested: what is right passes, and what is wrong fails, where it is wrong and at once."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from notebooks import ROOT
from tools.run_notebooks import selected

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def cell(source: str, *outputs: nbformat.NotebookNode, tags: tuple[str, ...] = ()) -> nbformat.NotebookNode:
    """A code cell as it is stored after its execution."""
    return new_code_cell(source, execution_count=1, outputs=list(outputs), metadata={"tags": list(tags)})


def printed(text: str) -> nbformat.NotebookNode:
    return new_output("stream", name="stdout", text=text)


ERROR = new_output("error", ename="ZeroDivisionError", evalue="division by zero", traceback=[])
SHOW_ENVIRONMENT = """
import os, sys
print(*(os.environ.get(name) for name in ("COURSE_OFFLINE", "TQDM_DISABLE", "COURSE_DATA", "COURSE_MIRROR")))
print(os.listdir(os.environ["COURSE_CACHE"]), os.environ["OMP_NUM_THREADS"], sys.executable)
"""
ENVIRONMENT = f"1 1 None None\n[] {max(1, CORES // 2)} {sys.executable}\n"
NOTEBOOKS = {
    "right": [cell("x = 6"), cell("print(7 * x)", printed("42\n")), cell("1 / 0", ERROR, tags=("raises-exception",))],
    "number": [cell("print(42)", printed("43\n"))],
    "order": [cell("print('cat')\nprint('dog')", printed("dog\ncat\n"))],
    "stop": [cell("print(1)", printed("1\n")), cell("1 / 0"), cell("open('reached', 'w').close()"), cell("2")],
    "dead": [cell("import os\nos._exit(1)"), cell("print(1)", printed("1\n"))],
    "harmless": [cell("x = 1", tags=("raises-exception",))],
    "environment": [cell(SHOW_ENVIRONMENT, printed(ENVIRONMENT))],
}


def make_course(folder: Path, notebooks: dict[str, list[nbformat.NotebookNode]]) -> None:
    for name in ("conftest.py", "pyproject.toml", "tools/run_notebooks.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "notebooks").mkdir()
    for name, cells in notebooks.items():
        nbformat.write(new_notebook(cells=cells), folder / f"notebooks/{name}.ipynb")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, list[ElementTree.Element]]:
    """The results of the cells of each notebook, from one run of pytest as in ``make test``."""
    folder = tmp_path_factory.mktemp("course") / "a path with spaces"
    make_course(folder, {f"{number:02}_{name}": cells for number, (name, cells) in enumerate(NOTEBOOKS.items())})
    # A student's copy, in which an exercise is not right yet.
    nbformat.write(new_notebook(cells=[cell("1 / 0")]), folder / "notebooks/00_right-Copy1.ipynb")
    # A user's machine: another kernel goes by the same name, and data of his own.
    kernel = folder / "jupyter/kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": ["false"], "display_name": "Python 3", "language": "python"}))
    (folder / "images.zip").touch()
    environment = {"JUPYTER_PATH": f"{folder}/jupyter", "COURSE_DATA": "images.zip", "COURSE_CACHE": f"{folder}"}
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-n2", f"--junitxml={report}", "notebooks"]
    run = subprocess.run(command, cwd=folder, env=inherited | environment, capture_output=True, text=True)
    assert report.exists(), run.stdout + run.stderr
    assert run.returncode == 1, run.stdout + run.stderr
    assert re.fullmatch(r"5 failed, \d+ passed, 3 skipped.* in .*", run.stdout.splitlines()[-1]), run.stdout
    assert not (folder / "notebooks/reached").exists(), "a cell after the first failing one was executed"
    cells = {}
    for case in ElementTree.parse(report).iter("testcase"):
        cells.setdefault(re.sub(r"notebooks\.\d\d_|\.ipynb$", "", case.get("classname")), []).append(case)
    return cells


def outcomes(cases: list[ElementTree.Element]) -> list[str]:
    return ["passed" if len(case) == 0 else case[0].tag for case in cases]


def test_right_outputs_and_expected_exceptions_pass(results):
    assert outcomes(results["right"]) == ["passed"] * 3


def test_user_settings_and_other_kernels_do_not_reach_the_notebooks(results):
    assert outcomes(results["environment"]) == ["passed"], results["environment"][0][0].text


@pytest.mark.parametrize("notebook", ["number", "order"])
def test_changed_output_fails(results, notebook):
    assert outcomes(results[notebook]) == ["failure"]
    assert "Cell outputs differ" in results[notebook][0][0].text


def test_notebook_stops_at_its_first_failing_cell(results):
    assert outcomes(results["stop"]) == ["passed", "failure", "skipped", "skipped"]
    assert "Cell 1 of this notebook failed" in results["stop"][2][0].get("message")


def test_dead_kernel_is_noticed_within_seconds(results):
    assert outcomes(results["dead"]) == ["failure", "skipped"]
    assert "kernel died" in results["dead"][0][0].text
    assert float(results["dead"][0].get("time")) < 15


def test_cell_that_should_raise_and_does_not_fails(results):
    assert outcomes(results["harmless"]) == ["failure"]
    assert "raised none" in results["harmless"][0][0].text


def test_reexecution_stores_outputs_and_keeps_ids_but_no_trace_of_the_run(tmp_path):
    make_course(tmp_path, {"01_a": [cell("print(6 * 7)")], "02_b": [cell("1 / 0")]})
    path = tmp_path / "notebooks/01_a.ipynb"
    before = nbformat.read(path, as_version=4)
    before.metadata.kernelspec = {"name": "mine", "display_name": "Mine", "language": "python"}
    before.cells[0].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    nbformat.write(before, path)
    run = subprocess.run(
        [sys.executable, "tools/run_notebooks.py", "01"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    after = nbformat.read(path, as_version=4)
    assert run.stdout.startswith("01_a.ipynb: 1 cells")
    assert after.cells[0].outputs == [printed("42\n")]
    assert after.cells[0].id == before.cells[0].id
    assert after.cells[0].metadata == {"tags": []}
    assert after.metadata.kernelspec.name == "python3"
    assert "version" not in after.metadata.language_info
    assert sorted(os.listdir(path.parent)) == ["01_a.ipynb", "02_b.ipynb"]


def test_notebooks_are_selected_by_their_numbers_with_or_without_zero(monkeypatch, tmp_path):
    monkeypatch.setattr("tools.run_notebooks.NOTEBOOKS", tmp_path)
    for name in ("01_a", "01_a-Copy1", "02_b", "10_c", "11_d", "scratch"):
        (tmp_path / f"{name}.ipynb").touch()
    for prefixes, names in (
        (["1"], "01_a"),
        (["02", "11"], "02_b 11_d"),
        (["10_c"], "10_c"),
        ([], "01_a 02_b 10_c 11_d"),
    ):
        assert " ".join(path.stem for path in selected(prefixes)) == names
    with pytest.raises(SystemExit, match="begins with '77'"):
        selected(["1", "77"])


@pytest.mark.parametrize("source", ["1 / 0", "import os\nos._exit(1)"])
def test_reexecution_that_fails_names_the_cell_and_leaves_the_file(tmp_path, source):
    make_course(tmp_path, {"01_a": [cell("print(6 * 7)"), cell(source)]})
    path = tmp_path / "notebooks/01_a.ipynb"
    before = path.read_bytes()
    run = subprocess.run([sys.executable, "tools/run_notebooks.py"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "01_a.ipynb: Cell 1 failed; the file is left as it was"
    assert path.read_bytes() == before
