"""Write the course's address into the badge and the setup cell of every notebook, README.md and CITATION.cff.

python tools/links.py                                  the address that stands in pyproject.toml, once more
python tools/links.py --repo owner/name --rev v1.0     another address; a part left out stays as it is
"""

import argparse
import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
SETUP = "# Setup"  # the setup cell's first words


class Address(NamedTuple):
    """A repository on GitHub ("owner/name") and a branch or tag of it."""

    repository: str
    revision: str

    def badge(self, notebook: str) -> str:
        """Markdown of the button that opens a notebook, named without its folder, on Colab."""
        site = "https://colab.research.google.com"
        image = f"[![Open in Colab]({site}/assets/colab-badge.svg)]"
        return f"{image}({site}/github/{self.repository}/blob/{self.revision}/notebooks/{notebook})"

    def setup_cell(self) -> str:
        """Source of the notebooks' second cell."""
        template = (ROOT / "tools" / "setup_cell.py").read_text(encoding="utf-8").rstrip("\n")
        return template.replace("OWNER/NAME", self.repository).replace('"REVISION"', f'"{self.revision}"')


def read_address(root: Path) -> Address:
    """The address in the pyproject.toml of `root` (Python 3.10 has no reader for TOML)."""
    table = (root / "pyproject.toml").read_text(encoding="utf-8").split("[tool.course]")[1]
    return Address(*(re.search(rf'^{key} = "(.+)"$', table, re.M)[1] for key in Address._fields))


def written_address(root: Path) -> Address:
    """The address in the README.md of `root`, as the links of its table give it."""
    text = (root / "README.md").read_text(encoding="utf-8")
    badge = re.search(r"/github/([\w.-]+/[\w.-]+)/blob/(.+?)/notebooks/", text)
    if not badge:
        raise SystemExit("README.md has no link to Colab any more, which tells the old address: restore one.")
    return Address(*badge.groups())


def in_notebook(text: str, name: str, address: Address) -> str:
    """The notebook file's text with the badge and the setup cell for `address`.

    Raises
    ------
    SystemExit
        If the notebook does not begin with a cell that has a badge and a setup cell.
    """
    notebook = json.loads(text)
    first, setup = notebook["cells"][:2]
    opening, found = BADGE.subn(address.badge(name), "".join(first["source"]))
    if not found or not "".join(setup["source"]).startswith(SETUP):
        raise SystemExit(f"{name}: the first cell must have an 'Open in Colab' badge, the second begin with '{SETUP}'.")
    first["source"] = opening.splitlines(keepends=True)
    setup["source"] = address.setup_cell().splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"  # as nbformat writes it


def in_text(text: str, old: Address, new: Address) -> str:
    """Text with every mention of the repository, and of the revision right behind it, replaced."""
    repository, revision = map(re.escape, old)
    mention = rf"(?<![\w.-]){repository}(?![\w-])(?:(/|/blob/|/tree/){revision}\b)?"
    return re.sub(mention, lambda found: new.repository + (found[1] + new.revision if found[1] else ""), text)


def rewrite(root: Path, new: Address) -> list[Path]:
    """Give the course in `root` the address `new`; returns the files that changed. If one cannot be read, none has.

    After an interruption, on a full disk say, each file is as before or as it should be, and the next call does what is
    left; it does so, too, after pyproject.toml was changed by hand.
    """
    pyproject = root / "pyproject.toml"
    keys = "".join(f'{key} = "{{}}"\n' for key in Address._fields)
    text = pyproject.read_text(encoding="utf-8")
    texts = {pyproject: text.replace(keys.format(*read_address(root)), keys.format(*new))}
    for path in sorted(root.glob("notebooks/*.ipynb")):
        if not re.fullmatch(r"\d\d_\w+", path.stem):  # a student's copy
            continue
        texts[path] = in_notebook(path.read_text(encoding="utf-8"), path.name, new)
    written = written_address(root)
    for path in (root / "CITATION.cff", root / "README.md"):  # README.md last: it tells what the others still say
        if path.exists():
            texts[path] = in_text(path.read_text(encoding="utf-8"), written, new)
    changed = [path for path, text in texts.items() if text != path.read_text(encoding="utf-8")]
    for path in changed:
        unfinished = path.with_name(f".{path.name}.part")
        try:
            unfinished.write_text(texts[path], encoding="utf-8", newline="\n")
            unfinished.replace(path)
        finally:  # the disk may be full
            unfinished.unlink(missing_ok=True)
    return changed


def main() -> None:
    old = read_address(ROOT)
    parser = argparse.ArgumentParser(description="Write the course's address into all badges and setup cells.")
    parser.add_argument("--repo", default="", help="owner/name on GitHub")
    parser.add_argument("--rev", default="", help="branch or tag")
    options = parser.parse_args()
    new = Address(options.repo or old.repository, options.rev or old.revision)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", new.repository):
        parser.error(f"REPO={new.repository} must look like owner/name.")
    if not re.fullmatch(r"[\w.-][\w./-]*", new.revision) or re.fullmatch("[0-9a-f]{40}", new.revision):
        parser.error(f"REV={new.revision} must be the name of a branch or a tag; git cannot clone a bare commit.")
    changed = rewrite(ROOT, new)
    print(f"{new.repository} at {new.revision}: {len(changed)} files rewritten.")


if __name__ == "__main__":
    main()
