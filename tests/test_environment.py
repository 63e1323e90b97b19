"""The lists of packages agree with each other, with the code and with this environment."""

import ast
import itertools
import re
import sys
from collections.abc import Iterator
from importlib.metadata import distributions

import nbformat
import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from notebooks import NOTEBOOKS, ROOT, packages_distributions

DESIGN_CARD = ["jupyterlab", "torch", "torchvision", "timm", "matplotlib", "open_clip_torch", "nbval", "GPUtil"]
CODE = ["tests", "tools", "utils", "zoo"]
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
PLATFORMS = {"linux": "posix", "darwin": "posix", "win32": "nt"}


def read(name: str) -> dict[str, list[Requirement]]:
    """The entries of a requirements file by package; a package has several if they are for different Pythons."""
    entries = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            entries |= read(line.split()[1])
        elif line and not line.startswith("#"):
            requirement = Requirement(line)
            entries.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return entries


REQUIREMENTS = read("requirements.txt")
CONSTRAINTS = read("constraints.txt")


def applies(requirement: Requirement, **environment: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(default_environment() | environment)


def test_requirements_hold_the_packages_of_the_course():
    assert {canonicalize_name(name) for name in DESIGN_CARD} <= REQUIREMENTS.keys()


def test_conda_environment_refers_to_the_same_lists():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    entries = re.findall(r"^ +- (.*)$", text, re.M)
    # Nothing of its own beside Python and pip, so that it cannot contradict requirements.txt.
    assert entries == ["conda-forge", "python>=3.10,<3.15", "pip", "pip:", "-r requirements.txt", "-c constraints.txt"]


@pytest.mark.parametrize("python, platform", list(itertools.product(PYTHONS, PLATFORMS)))
def test_every_requirement_is_pinned_once_for_every_python_and_system(python: str, platform: str):
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": platform,
        "os_name": PLATFORMS[platform],
    }
    for name, requirements in REQUIREMENTS.items():
        pins = [pin for pin in CONSTRAINTS.get(name, []) if applies(pin, **environment)]
        assert len(pins) == 1, f"{name}: run `make constraints`"
        (pin,) = pins[0].specifier
        assert pin.operator == "=="
        assert all(requirement.specifier.contains(pin.version) for requirement in requirements)


def test_this_environment_has_the_pinned_versions():
    installed = {canonicalize_name(distribution.name): distribution.version for distribution in distributions()}
    assert REQUIREMENTS.keys() <= installed.keys()
    wrong = [
        f"{name} {installed[name]}, not {pin}"
        for name in installed.keys() & CONSTRAINTS.keys()
        for pin in CONSTRAINTS[name]
        if applies(pin) and not pin.specifier.contains(installed[name])
    ]
    assert wrong == []


def sources() -> Iterator[tuple[str, str]]:
    """Name and text of all Python code: files, and notebooks without their magics."""
    for path in [ROOT / "conftest.py", *(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))]:
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        yield path.name, re.sub(r"^\s*[%!].*$", "", "\n".join(cells), flags=re.M)


def imported(text: str) -> set[str]:
    """Top-level names of the modules that code imports."""
    modules = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    return {module.partition(".")[0] for module in modules}


def test_every_import_is_of_a_required_package():
    own = {path.stem for path in [*ROOT.iterdir(), *ROOT.glob("tests/*.py")]}
    packages = packages_distributions()
    unlisted = []
    for name, text in sources():
        for module in imported(text) - sys.stdlib_module_names - own - {"pip"}:
            if not {canonicalize_name(package) for package in packages.get(module, [module])} & REQUIREMENTS.keys():
                unlisted.append(f"{name} imports {module}")
    assert unlisted == []
