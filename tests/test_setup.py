"""tools/setup_env.py, run as make runs it, in a course that needs one tiny package and no network; and `make lab`."""

import ast
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat.sign import NotebookNotary

from notebooks import ROOT

SCRIPT = ROOT / "tools/setup_env.py"
THIS = "{}.{}".format(*sys.version_info)


def start(course: Path, prelude: str = "", **environment: str) -> subprocess.Popen:
    """Start the script in a course, after some Python code that changes what it finds on this machine."""
    # Python ignores Ctrl-C where its parent does, as the shell lets commands do that it starts in the background.
    interruptible = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{interruptible}\n{prelude}\nimport runpy\nrunpy.run_path('tools/setup_env.py', run_name='__main__')"
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": course.as_uri()}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=course,
        env=os.environ | settings | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def call(course: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Exit status and output of the script."""
    process = start(course, *arguments, **environment)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def has_tiny(course: Path) -> bool:
    return subprocess.run([course / ".venv/bin/python", "-c", "import pip, tiny"]).returncode == 0


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A course with its .venv, in a folder with spaces and Cyrillic letters."""
    course = tmp_path_factory.mktemp("setup") / "мой курс (копия)"
    (course / "tools").mkdir(parents=True)
    shutil.copy(SCRIPT, course / "tools")
    (course / "requirements.txt").write_text("tiny\n")
    (course / "requirements-train.txt").write_text("")
    (course / "constraints.txt").write_text("tiny==1.0\n")
    about = "tiny-1.0.dist-info"
    with zipfile.ZipFile(course / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", f"tiny.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    log = course / "pip.log"
    assert call(course, PIP_LOG=str(log))[0] == 0
    assert log.exists()
    log.unlink()
    return course


@pytest.fixture
def course(installed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(installed, tmp_path / "another place", symlinks=True)


def test_installs_in_a_path_with_spaces_and_cyrillic_letters(installed):
    assert has_tiny(installed)


def test_second_call_says_nothing_and_calls_no_pip(installed):
    assert call(installed, PIP_LOG=str(installed / "pip.log")) == (0, "")
    assert not (installed / "pip.log").exists()


def test_script_can_be_read_by_an_old_python():
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def old(tmp_path: Path) -> str:
    """A prelude after which Python 3.9 runs the script."""
    return f"import sys\nsys.version_info = (3, 9, 18)\nsys.executable = '{script(tmp_path / 'old', 'echo 3.9')}'"


def test_old_python_goes_on_with_the_venv_that_is_there(course, old, tmp_path):
    used = f"{tmp_path}/old is Python 3.9: using {course}/.venv/bin/python, Python {THIS}.\n"
    assert call(course, old, PATH="") == (0, used)


def test_old_python_and_a_broken_venv_find_a_better_python(course, old, tmp_path):
    (course / ".venv/bin/python").unlink()
    script(tmp_path / "python3.14", "exit 127")  # as pyenv's stand-ins are; it is replaced where the test's is 3.14
    python = script(tmp_path / f"python{THIS}", f"exec '{sys.executable}' \"$@\"")
    status, output = call(course, old, PATH=str(tmp_path))
    assert status == 0
    assert output.startswith(f"{tmp_path}/old is Python 3.9: using {python}, Python {THIS}.\n")
    assert has_tiny(course)


def test_old_python_alone_is_refused_in_one_line(course, old):
    shutil.rmtree(course / ".venv")
    status, output = call(course, old, PATH="")
    assert status == 1
    assert output.count("\n") == 1
    assert "is Python 3.9, and the course needs 3.10 to 3.14: install one" in output


def test_missing_ensurepip_is_explained(course, tmp_path):
    shutil.rmtree(course / ".venv")
    python = script(tmp_path / "python", f'case "$*" in *ensurepip*) exit 1;; esac\nexec \'{sys.executable}\' "$@"')
    status, output = call(course, f"import sys\nsys.executable = '{python}'")
    assert status == 1
    assert output.splitlines()[-1].startswith(f"{python} lacks the modules venv and ensurepip")
    assert f"apt install python{THIS}-venv" in output


def test_venv_without_pip_is_rebuilt(course):
    shutil.rmtree(course / f".venv/lib/python{THIS}/site-packages/pip")
    status, output = call(course)
    assert status == 0, output
    assert has_tiny(course)


def test_failing_pip_is_shown_with_what_to_do_and_spoils_nothing(course):
    before = (course / ".venv/complete").read_text()
    (course / "requirements.txt").write_text("tiny\nabsent\n")
    status, output = call(course)
    assert status == 1
    assert "No matching distribution found for absent" in output
    assert output.splitlines()[-1] == (
        "The packages could not be installed, for the reason above. Is there a network? Give the command again."
    )
    assert (course / ".venv/complete").read_text() == before
    assert has_tiny(course)


def test_a_venv_in_which_pip_was_killed_does_not_count(course):
    (course / "requirements.txt").write_text("tiny>0\n")
    pip = course / f".venv/lib/python{THIS}/site-packages/pip/__main__.py"
    pip.write_text("import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    assert call(course)[0] == -signal.SIGKILL
    assert not (course / ".venv/complete").exists()


def test_full_disk_is_noticed_before_and_after(course):
    (course / "requirements.txt").write_text("tiny>0\n")
    pip = course / f".venv/lib/python{THIS}/site-packages/pip/__main__.py"
    pip.write_text("raise OSError(28, 'No space left on device')")
    after = call(course)
    (course / ".venv/complete").unlink()
    before = call(course, "import shutil, types\nshutil.disk_usage = lambda path: types.SimpleNamespace(free=2**30)")
    assert not pip.exists()
    for status, output in before, after:
        assert status == 1
        assert output.splitlines()[-1].startswith("The disk is full: ")


def test_a_call_waits_for_another_and_repairs_what_its_interruption_left(course):
    (course / "requirements.txt").write_text("tiny\nabsent\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        index = f"http://127.0.0.1:{silent.getsockname()[1]}"
        first = start(course, PIP_NO_INDEX="0", PIP_INDEX_URL=index, NO_PROXY="*")
        connection, _ = silent.accept()  # pip has asked for the absent package, and gets no answer
        (course / "requirements.txt").write_text("tiny\n")
        second = start(course)
        assert "waiting until it ends" in second.stdout.readline()
        os.killpg(first.pid, signal.SIGINT)
        assert first.communicate(timeout=60)[0].splitlines()[-1] == "Interrupted. Give the command again to start anew."
        connection.close()
    assert second.wait(timeout=120) == 0
    assert "Installing" in second.stdout.read()
    assert has_tiny(course)


# JupyterLab


def test_jupyterlab_listens_to_this_computer_only_and_keeps_its_token():
    command = ["make", "--dry-run", "-o", "setup", "lab"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    (line,) = (line for line in lines if "-m jupyterlab" in line)
    assert "--ip=127.0.0.1" in line and not re.search(r"token|password|0\.0\.0\.0", line)


def test_only_notebooks_that_git_knows_are_trusted(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "notebooks").mkdir()
    output = nbformat.v4.new_output("display_data", {"text/html": "<script>alert(1)</script>"})
    notebooks = {}
    for name in ("01_lecture", "01_lecture-Copy1", "02_of a stranger"):
        cell = nbformat.v4.new_code_cell(f"# {name}", outputs=[output])
        notebooks[name] = nbformat.v4.new_notebook(cells=[cell])
        nbformat.write(notebooks[name], tmp_path / "notebooks" / f"{name}.ipynb")
    for command in (["git", "init", "--quiet"], ["git", "add", "notebooks/01_lecture.ipynb"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    lab = ["make", "-o", "setup", "lab", f"RUN={sys.executable}", "ARGS=--version"]
    subprocess.run(lab, cwd=tmp_path, env=os.environ | {"JUPYTER_DATA_DIR": str(tmp_path / "jupyter")}, check=True)
    notary = NotebookNotary(data_dir=str(tmp_path / "jupyter"))
    assert [name for name, notebook in notebooks.items() if notary.check_signature(notebook)] == ["01_lecture"]
