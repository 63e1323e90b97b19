"""The course's address stands in one place, and the tool that rewrites it reaches all others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from notebooks import GIT, ROOT, publish
from tools import links

OLD = links.read_address(ROOT)
NEW = links.Address("someone-else/her.copy_2", "v9.0")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("links") / "course.git"
    publish(path, "main")
    return path


@pytest.fixture
def course(repository: Path, tmp_path: Path) -> Path:
    """A clone of the course as it is now."""
    subprocess.run(["git", "clone", "--quiet", str(repository), str(tmp_path / "course")], check=True, env=GIT)
    return tmp_path / "course"


def contents(course: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in course.rglob("*") if path.is_file() and ".git" not in path.parts}


def test_after_a_move_no_file_names_the_old_address(course: Path):
    changed = links.rewrite(course, NEW)
    assert {course / "pyproject.toml", *course.glob("notebooks/*.ipynb")} <= set(changed)
    assert [path.name for path, text in contents(course).items() if OLD.repository.encode() in text] == []
    for path in course.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert NEW.badge(path.name) in "".join(cells[0]["source"])
        assert 'github.com/someone-else/her.copy_2", "v9.0"' in "".join(cells[1]["source"])


def test_there_and_back_restores_every_byte(course: Path):
    before = contents(course)
    links.rewrite(course, NEW)
    assert contents(course) != before
    links.rewrite(course, OLD)
    assert contents(course) == before


def test_nothing_is_left_to_rewrite(course: Path):
    assert links.rewrite(course, OLD) == [], "Run `make links`."


def test_an_address_that_was_changed_by_hand_reaches_all_files(course: Path):
    pyproject = course / "pyproject.toml"
    text = pyproject.read_text(encoding="utf-8").replace(OLD.repository, NEW.repository)
    pyproject.write_text(text.replace(f'"{OLD.revision}"', f'"{NEW.revision}"'), encoding="utf-8")
    command(course)
    assert [path.name for path, text in contents(course).items() if OLD.repository.encode() in text] == []
    assert links.rewrite(course, NEW) == []


@pytest.mark.parametrize("again", [NEW, None])
@pytest.mark.parametrize("after", [1, 5, 13, 14])
def test_after_an_interruption_the_next_call_does_what_is_left(course: Path, monkeypatch, after: int, again):
    write, written = Path.write_text, []

    def write_some(path: Path, *arguments, **options) -> None:
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", write_some)
    with pytest.raises(KeyboardInterrupt):
        links.rewrite(course, NEW)
    monkeypatch.undo()
    links.rewrite(course, again or links.read_address(course))
    assert [path.name for path, text in contents(course).items() if OLD.repository.encode() in text] == []


def test_on_a_full_disk_each_file_stays_whole(course: Path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"  # bytes of a file
    code = f"{limit}\nfrom tools import links\nlinks.rewrite(links.Path({str(course)!r}), links.Address{tuple(NEW)})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert [json.loads(path.read_text(encoding="utf-8"))["nbformat"] for path in course.glob("notebooks/*.ipynb")] == [
        4
    ] * 12
    assert not [path for path in course.rglob("*.part")]
    links.rewrite(course, NEW)
    assert [path.name for path, text in contents(course).items() if OLD.repository.encode() in text] == []


def notebook(*sources: str) -> str:
    """A notebook file with things that a careless rewriting would change."""
    odd = {"cell_type": "markdown", "metadata": {"ü": 1e-07}}
    cells = [odd | {"source": source.splitlines(keepends=True)} for source in sources]
    return json.dumps({"nbformat": 4, "cells": cells, "metadata": {}}, indent=1, ensure_ascii=False) + "\n"


def test_in_a_notebook_only_badge_and_setup_cell_change():
    badge = "[![Open in Colab](x.svg)](https://example.org/a/b/blob/main/notebooks/01_old.ipynb)"
    rest = "a/b at main, or [another](badge.svg) × 10⁻⁷\n"
    text = links.in_notebook(notebook(f"# 01 · Ä\n\n{badge}\n", "# Setup of long ago", rest), "02_new.ipynb", NEW)
    assert text == notebook(f"# 01 · Ä\n\n{NEW.badge('02_new.ipynb')}\n", NEW.setup_cell(), rest)


@pytest.mark.parametrize("cells", [("# no badge", "# Setup"), ("[![Open in Colab](x)](y)", "import torch")])
def test_a_notebook_without_badge_or_setup_cell_is_named_and_nothing_written(course: Path, cells: tuple[str, str]):
    (course / "notebooks").mkdir(exist_ok=True)
    (course / "notebooks" / "99_bad.ipynb").write_text(notebook(*cells), encoding="utf-8")
    before = contents(course)
    with pytest.raises(SystemExit, match=r"99_bad\.ipynb: the first cell must"):
        links.rewrite(course, NEW)
    assert contents(course) == before


@pytest.mark.parametrize("revision", ["v2", "1.0", "2026.1"])
def test_in_texts_the_revision_changes_with_the_repository_and_nowhere_else(revision: str):
    old = links.Address("a/b", "main")
    text = "github.com/a/b/blob/main/x github.com/a/b/tree/main) gh/a/b/main?x github.com/a/b, main, a/b/mainly"
    new = "github.com/c/d/blob/v2/x github.com/c/d/tree/v2) gh/c/d/v2?x github.com/c/d, main, c/d/mainly"
    assert links.in_text(text, old, links.Address("c/d", revision)) == new.replace("v2", revision)
    for longer in ("a/b-2026", "my-a/b"):  # names that contain the old one
        once = links.in_text(text, old, links.Address(longer, revision))
        assert once == new.replace("v2", revision).replace("c/d", longer)


def command(course: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `make links` runs."""
    return subprocess.run([sys.executable, "tools/links.py", *arguments], cwd=course, capture_output=True, text=True)


def test_the_command_moves_one_part_and_without_arguments_nothing(course: Path):
    assert command(course, "--repo", "", "--rev", "v9.0").stdout.startswith(f"{OLD.repository} at v9.0: ")
    assert links.read_address(course) == links.Address(OLD.repository, "v9.0")
    assert command(course, "--repo", "", "--rev", "").stdout == f"{OLD.repository} at v9.0: 0 files rewritten.\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repo", "https://github.com/a/b"], "must look like owner/name"),
        (["--repo", "name"], "must look like owner/name"),
        (["--rev", "a b"], "branch or a tag"),
        (["--rev", "0123456789abcdef0123456789abcdef01234567"], "cannot clone a bare commit"),
    ],
)
def test_an_impossible_address_is_refused(course: Path, arguments: list[str], says: str):
    refused = command(course, *arguments)
    assert refused.returncode != 0 and says in refused.stderr
    assert links.read_address(course) == OLD
