"""The notebooks' setup cell, in a simulated Colab session and on a laptop.

The session is a virtual environment that holds stand-ins for Colab's packages, `google.colab` among them. The cell
clones the course's files as they are now from a local repository, and the real pip installs stand-ins from a folder.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pip
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from notebooks import GIT, NOTEBOOKS, ROOT, packages_distributions, publish
from tools.links import read_address

ADDRESS = read_address(ROOT)
FOLDER = "/content/alexnet-to-clip"
SETUP_CELLS = {"".join(json.loads(path.read_text(encoding="utf-8"))["cells"][1]["source"]) for path in NOTEBOOKS}
PLATFORM = {"torch": "2.11.0+cu128", "torchvision": "0.26.0+cu128", "numpy": "2.0.2"}
COLAB = PLATFORM | {
    **dict.fromkeys(["safetensors", "psutil", "pillow", "scikit-learn", "scikit-image", "pooch", "requests"], "0.1"),
    **dict.fromkeys(["filelock", "tqdm", "matplotlib", "ipython", "ipykernel", "nbconvert", "nbformat"], "0.1"),
}
LACKING = {"timm", "open-clip-torch", "torchinfo", "gputil", "nvidia-ml-py"}
COMPLETE = COLAB | dict.fromkeys(LACKING, "0.1")
TORCH = """
class cuda:
    is_available = staticmethod(lambda: {gpu})
    get_device_name = staticmethod(lambda device: "Tesla T4")
"""


def requirements(file: str) -> dict[str, Requirement]:
    """What a requirements file asks of this Python, by the name of the package."""
    lines = map(Requirement, re.findall(r"^\w.*$", (ROOT / file).read_text(encoding="utf-8"), re.M))
    return {canonicalize_name(line.name): line for line in lines if not line.marker or line.marker.evaluate()}


PINS = {name: str(line.specifier).removeprefix("==") for name, line in requirements("constraints.txt").items()}


def metadata(name: str, version: str, requires: Iterable[str] = ()) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    return "\n".join([*lines, *(f"Requires-Dist: {other}" for other in requires)]) + "\n"


def make_wheel(folder: Path, name: str, version: str, requires: Iterable[str] = ()) -> None:
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        "METADATA": metadata(name, version, requires),
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "".join(f"{stem}.dist-info/{file},,\n" for file in ("METADATA", "WHEEL", "RECORD")),
    }
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(f"{stem}.dist-info/{file}", text)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The course's repository, and an index that has each package as pinned and in a newer version."""
    folder = tmp_path_factory.mktemp("published")
    publish(folder / "course.git", ADDRESS.revision)
    (folder / "index").mkdir()
    for name in {*requirements("requirements.txt"), *COLAB, "ftfy"}:
        requires = {"timm": ["torch", "numpy"], "open-clip-torch": ["torch>=2", "ftfy"]}.get(name, [])
        for version in (PINS[name], "999"):
            make_wheel(folder / "index", name, version, requires)
    return folder


class Session:
    """A machine with its Python, its packages and an empty working directory."""

    def __init__(self, folder: Path, published: Path, packages: dict[str, str], gpu: bool = False, colab: bool = True):
        self.course, self.published, self.colab = folder / "alexnet-to-clip", published, colab
        self.work = folder / "work"
        self.work.mkdir()
        venv.create(folder / "python", symlinks=True)
        (self.site,) = folder.glob("python/lib/python*/site-packages")
        (self.site / "pip").symlink_to(Path(pip.__file__).parent)
        (self.site / "google" / "colab").mkdir(parents=True)
        (self.site / "torch.py").write_text(TORCH.format(gpu=gpu))
        for name, version in packages.items():
            info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(metadata(name, version))

    def run(self, cell: str, *, times: int = 1, then: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the setup cell in a new kernel, with its address and its folder replaced by local ones."""
        repository = (self.published / "course.git").as_uri()
        for there, here in (f"https://github.com/{ADDRESS.repository}", repository), (FOLDER, str(self.course)):
            assert cell.count(there) == 1
            cell = cell.replace(there, here)
        code = ["import google.colab" if self.colab else "", *[cell] * times, then]
        index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.published / "index"), "PIP_CONFIG_FILE": os.devnull}
        return subprocess.run(
            [str(self.site.parents[2] / "bin" / "python"), "-c", "\n".join(code)],
            cwd=self.work,
            env={name: text for name, text in GIT.items() if name != "PYTHONPATH"} | index | environment,
            capture_output=True,
            text=True,
        )

    def installed(self) -> dict[str, str]:
        """Version of each package by its name."""
        pairs = (info.name.removesuffix(".dist-info").rsplit("-", 1) for info in self.site.glob("*.dist-info"))
        return {canonicalize_name(name): version for name, version in pairs}


@pytest.fixture(params=sorted(SETUP_CELLS | {ADDRESS.setup_cell()}), ids=lambda cell: "cell")
def cell(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_fresh_session_gets_the_course_and_only_what_colab_lacks(cell: str, tmp_path: Path, published: Path):
    session = Session(tmp_path, published, COLAB)
    done = session.run(cell, then="import utils; print(utils.__file__)")
    assert (done.returncode, done.stderr) == (0, "")
    line, utils = done.stdout.splitlines()
    assert re.fullmatch(f"Course [0-9a-f]{{7,}} in {session.course}; installed: timm, .*; GPU: none \\(see .*\\)", line)
    assert utils == str(session.course / "utils" / "__init__.py")
    added = {name: PINS[name] for name in LACKING | {"ftfy"}}
    assert session.installed() == COLAB | added, "What is missing comes as pinned; what Colab had stays as it was."


def test_nothing_that_only_tests_or_laptops_need_is_installed(cell: str, tmp_path: Path, published: Path):
    session = Session(tmp_path, published, PLATFORM)
    assert session.run(cell).returncode == 0
    after = session.installed()
    assert after.keys() >= LACKING
    assert not after.keys() & {"jupyterlab", "nbval", "nbclient", "pytest", "pytest-xdist", "pytest-timeout", "ruff"}
    assert {name: after[name] for name in PLATFORM} == PLATFORM


def test_it_can_be_run_again_without_git_or_pip(cell: str, tmp_path: Path, published: Path):
    session = Session(tmp_path, published, COLAB)
    first, second = session.run(cell, times=2).stdout.splitlines()
    assert "installed: timm" in first and "installed: nothing" in second
    session.published = tmp_path / "gone"  # after a restart of the kernel, with no repository and no index
    again = session.run(cell)
    assert (again.returncode, again.stderr, again.stdout.strip()) == (0, "", second)


def test_an_interrupted_fetch_is_begun_anew(cell: str, tmp_path: Path, published: Path):
    session = Session(tmp_path, published, COMPLETE)
    clone = ["git", "clone", "--quiet", str(published / "course.git"), str(session.course)]
    subprocess.run(clone, check=True, env=GIT)
    (session.course / ".git" / "index").rename(session.course / ".git" / "index.lock")
    shutil.rmtree(session.course / "zoo")
    assert session.run(cell).returncode == 0
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=session.course, env=GIT, capture_output=True, text=True
    )
    assert (status.stdout, status.returncode) == ("", 0)
    assert (session.course / "zoo").is_dir()


def test_an_address_that_cannot_be_reached_is_told_in_a_sentence(cell: str, tmp_path: Path, published: Path):
    session = Session(tmp_path, tmp_path / "nowhere", COMPLETE)
    failed = session.run(cell)
    assert "RuntimeError: The course could not be fetched; run this cell again in a minute. fatal:" in failed.stderr
    session.published = published
    assert session.run(cell).returncode == 0


def test_a_failing_pip_is_told_in_a_sentence_and_can_be_repeated(cell: str, tmp_path: Path, published: Path):
    session = Session(tmp_path, published, COLAB)
    failed = session.run(cell, PIP_FIND_LINKS=str(tmp_path))
    assert re.search(r"RuntimeError: pip could not install timm.*; run this cell again\. ERROR: ", failed.stderr)
    assert session.run(cell).returncode == 0


def test_torch_is_never_exchanged_even_if_a_package_asks_for_another(cell: str, tmp_path: Path, published: Path):
    session = Session(tmp_path, published, COLAB)
    shutil.copytree(published / "index", tmp_path / "index")
    for wheel in (tmp_path / "index").glob("torchinfo-*"):
        wheel.unlink()
    make_wheel(tmp_path / "index", "torchinfo", PINS["torchinfo"], ["torch>=999"])
    failed = session.run(cell, PIP_FIND_LINKS=str(tmp_path / "index"))
    assert "RuntimeError: pip could not install" in failed.stderr and "conflicting dependencies" in failed.stderr
    assert session.installed() == COLAB


def test_a_pin_that_does_not_fit_colabs_packages_gives_way(cell: str, tmp_path: Path, published: Path):
    session = Session(tmp_path, published, COLAB)
    shutil.copytree(published / "index", tmp_path / "index")
    make_wheel(tmp_path / "index", "timm", PINS["timm"], ["torch", "numpy>=999"])
    assert session.run(cell, PIP_FIND_LINKS=str(tmp_path / "index")).returncode == 0
    after = session.installed()
    assert after["timm"] == "999" and {name: after[name] for name in COLAB} == COLAB


def test_the_gpu_is_named(cell: str, tmp_path: Path, published: Path):
    session = Session(tmp_path, published, COMPLETE, gpu=True)
    assert session.run(cell).stdout.endswith("; installed: nothing, all is there; GPU: Tesla T4\n")


@pytest.mark.parametrize("folder", [".", "notebooks", "notebooks/figures", "data/zoo"])
def test_elsewhere_it_only_finds_the_course_around_it(cell: str, tmp_path: Path, published: Path, folder: str):
    session = Session(tmp_path, published, {}, colab=False)
    (tmp_path / "other" / "utils").mkdir(parents=True)
    (tmp_path / "other" / "utils" / "__init__.py").touch()
    subprocess.run(["git", "clone", "--quiet", str(published / "course.git"), str(session.work)], check=True, env=GIT)
    session.work = session.work / folder
    session.work.mkdir(parents=True, exist_ok=True)
    done = session.run(cell, then="import utils; print(utils.__file__)", PYTHONPATH=str(tmp_path / "other"))
    assert (done.stdout, done.stderr) == (f"{tmp_path / 'work' / 'utils' / '__init__.py'}\n", "")
    assert session.installed() == {} and not session.course.exists()


def test_outside_the_course_it_says_what_to_do(cell: str, tmp_path: Path, published: Path):
    failed = Session(tmp_path, published, {}, colab=False).run(cell)
    assert failed.stderr.splitlines()[-1].startswith("FileNotFoundError: Open this notebook inside the course: git ")


def test_all_that_the_notebooks_import_is_there_on_colab():
    sources = [path.read_text(encoding="utf-8") for path in [*ROOT.glob("utils/*.py"), ROOT / "zoo" / "__init__.py"]]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    imported, seen = set(), set()
    for source in sources:  # which grows by the modules of the zoo that are imported
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
                module = ROOT / f"{node.module.replace('.', '/')}.py"
                if node.module.startswith("zoo.") and module.is_file() and module not in seen:
                    seen.add(module)
                    sources.append(module.read_text(encoding="utf-8"))
    assert seen
    distributions = packages_distributions()
    needed = {
        canonicalize_name(distributions[name][0]) for name in imported - sys.stdlib_module_names - {"utils", "zoo"}
    }
    assert needed <= COLAB.keys() | LACKING
