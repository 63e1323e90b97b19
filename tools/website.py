"""Make the website of the course in build/site/ from the notebooks, with their stored outputs, and the pages in site/.

    python tools/website.py

Sphinx with MyST-NB makes it; a link that leads nowhere is an error. The site needs no other host, and no server: its
start page is build/site/index.html.
"""

import csv
import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.links import BADGE, SETUP, read_address  # noqa: E402
from tools.run_notebooks import lectures  # noqa: E402

PAGES = ROOT / "site"
SOURCE = ROOT / "build" / "site-source"
SITE = ROOT / "build" / "site"
UNFINISHED = ROOT / "build" / "site.part"  # takes the place of the last site when it is complete
# What the theme leaves out, for those who cannot see the page or use a mouse: each is one of axe-core's rules.
ACCESSIBLE = (
    ("<pre>", '<pre tabindex="0">'),  # code or a table wider than the window can be scrolled by keys
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="Lectures">'),
    ('<aside class="toc-drawer">', '<aside class="toc-drawer" aria-label="Contents of this page">'),
    ('<th class="head"><p></p></th>', "<td></td>"),  # the corner of a table is no heading
    ('<div id="search-results">', '<h1>Search</h1>\n<div id="search-results">'),
)
LECTURES = re.compile(r"\bLectures?\s[\w\s]+\.")  # at the end of each entry of the glossary
RELATIVE = re.compile(r"\]\(\.\./([^)]+)\)")  # a link from a notebook to another file of the repository


def timeline() -> str:
    """Return the landmarks of site/timeline.csv as an HTML list whose bars are their errors."""
    with (PAGES / "timeline.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    largest = max(float(row["error"]) for row in rows if row["error"])
    items = []
    for row in sorted(rows, key=lambda row: int(row["year"])):
        lecture = next(SOURCE.glob(f"{row['lecture']}_*.ipynb"), None)
        name = html.escape(row["name"])
        if lecture:
            name = f'<a href="{lecture.stem}.html">{name}</a>'
        error = ""
        if row["error"]:
            width = 60 * float(row["error"]) / largest
            error = (
                f'<span class="bar" style="width: {width:.1f}%"></span>{row["error"]} % ({html.escape(row["note"])})'
            )
            error = f'<span class="error">{error}</span>'
        items.append(
            f'<li><span class="year">{row["year"]}</span><span class="name">{name}</span>'
            f'<span class="idea">{html.escape(row["idea"])}</span>{error}</li>'
        )
    return '<ol class="timeline">\n' + "\n".join(items) + "\n</ol>"


def page(path: Path) -> nbformat.NotebookNode:
    """Return the notebook as the site shows it: without speaker notes, setup cell and remotely drawn badge."""
    repository, revision = read_address(ROOT)
    notebook = nbformat.read(path, as_version=4)
    cells = []
    for cell in notebook.cells:
        if cell.metadata.get("slideshow", {}).get("slide_type") == "notes" or cell.source.startswith(SETUP):
            continue
        if cell.cell_type == "markdown":
            cell.source = BADGE.sub(lambda badge: f"[Open in Colab]({badge[0].rsplit('](', 1)[1][:-1]})", cell.source)
            cell.source = RELATIVE.sub(rf"](https://github.com/{repository}/blob/{revision}/\1)", cell.source)
        cells.append(cell)
    notebook.cells = cells
    return notebook


def glossary(names: list[str]) -> str:
    """Return site/glossary.md, in which the numbers of lectures are links to them."""
    pages = {name[:2]: name for name in names}

    def link(number: re.Match) -> str:
        # Sphinx complains of a lecture that is not there.
        return f"[{number[0]}]({pages.get(number[0], number[0])}.ipynb)"

    text = (PAGES / "glossary.md").read_text(encoding="utf-8")
    return LECTURES.sub(lambda found: re.sub(r"\d\d", link, found[0]), text)


def make_accessible() -> None:
    for path in UNFINISHED.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        for theme, better in ACCESSIBLE:
            text = text.replace(theme, better)
        path.write_text(text, encoding="utf-8")


def main() -> None:
    for folder in (SOURCE, UNFINISHED):
        shutil.rmtree(folder, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    notebooks = lectures()
    for path in notebooks:
        nbformat.write(page(path), SOURCE / path.name)
    for path in PAGES.iterdir():
        if path.is_file():
            shutil.copy(path, SOURCE)
    repository, _ = read_address(ROOT)
    start = (PAGES / "index.md").read_text(encoding="utf-8")
    start = start.replace("LECTURES", "\n".join(path.stem for path in notebooks)).replace("TIMELINE", timeline())
    start = start.replace("ADDRESS", f"https://github.com/{repository}")
    (SOURCE / "index.md").write_text(start, encoding="utf-8")
    (SOURCE / "glossary.md").write_text(glossary([path.stem for path in notebooks]), encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-b", "html"]
    done = subprocess.run([*command, "-d", str(ROOT / "build" / "site-trees"), str(SOURCE), str(UNFINISHED)])
    if done.returncode:
        raise SystemExit("The site has the faults named above.")
    make_accessible()
    old = SITE.with_name("site.old")
    shutil.rmtree(old, ignore_errors=True)
    if SITE.exists():
        SITE.rename(old)  # which fails, and leaves it whole, where a program holds one of its files
    UNFINISHED.rename(SITE)
    shutil.rmtree(old, ignore_errors=True)
    print((SITE / "index.html").relative_to(ROOT))


if __name__ == "__main__":
    main()
