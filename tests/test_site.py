"""The website: it is built without a warning, needs no other host, and shows the lectures to readers."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import axe_core_python
import nbformat
import pytest
from bs4 import BeautifulSoup

from browser import found_by_scripts, in_browser
from notebooks import NOTEBOOKS, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site of a copy of the course in place of an older one, and return its folder."""
    course = tmp_path_factory.mktemp("course")
    old = course / "build" / "site" / "old.html"
    old.parent.mkdir(parents=True)
    old.touch()
    for name in ("notebooks", "site", "tools", "pyproject.toml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, course / name)
    done = subprocess.run([sys.executable, "tools/website.py"], cwd=course, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not old.exists()
    return course / "build" / "site"


@pytest.fixture(scope="module")
def pages(site):
    return {path.stem: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in site.glob("*.html")}


def test_each_lecture_has_a_page_to_which_start_page_and_navigation_lead(pages):
    links = {link["href"] for link in pages["index"].find_all("a", href=True)}
    for path in NOTEBOOKS:
        assert path.stem in pages and f"{path.stem}.html" in links
        assert pages[path.stem].find("h1").get_text().startswith(path.stem[:2])


def test_the_timeline_is_in_order_and_each_landmark_leads_to_its_lecture(pages):
    items = pages["index"].select(".timeline li")
    years = [int(item.select_one(".year").get_text()) for item in items]
    assert years == sorted(years) and years[0] == 2011 and len(items) >= 15
    for item in items:
        assert item.select_one("a")["href"].removesuffix(".html") in pages
    bars = [float(re.search(r"[\d.]+", bar["style"])[0]) for bar in pages["index"].select(".bar")]
    assert bars[0] == 60.0 and min(bars) > 0


def test_entries_of_the_glossary_lead_to_their_lectures(pages):
    leading = [entry for entry in pages["glossary"].select("dl.glossary dd") if "Lecture" in entry.get_text()]
    assert len(leading) > 30
    for entry in leading:
        links = [link["href"].removesuffix(".html") for link in entry.find_all("a")]
        assert [link[:2] for link in links] == re.findall(r"\d\d", entry.get_text().split("Lecture")[-1])
        assert set(links) <= set(pages)


def test_no_page_needs_another_host_or_a_missing_file(site, pages):
    for name, page in pages.items():
        for tag, attribute in (("script", "src"), ("img", "src"), ("link", "href")):
            for element in page.find_all(tag, **{attribute: True}):
                target = element[attribute].split("?")[0].split("#")[0]
                if target.startswith("data:") or element.get("rel") == ["canonical"]:
                    continue
                assert "://" not in target, f"{name}: {target}"
                assert (site / target).exists(), f"{name}: {target}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:", sheet.read_text(encoding="utf-8")), sheet.name


def test_readers_see_formulas_results_and_solutions_but_no_speaker_notes(pages):
    for path in NOTEBOOKS:
        text = pages[path.stem].get_text()
        assert "$$" not in text and "Setup, the same in every notebook" not in text
        cells = nbformat.read(path, 4).cells
        notes = [cell.source for cell in cells if cell.metadata["slideshow"]["slide_type"] == "notes"]
        words = re.sub(r"\W+", " ", text)
        for note in notes:
            assert re.sub(r"\W+", " ", note)[-60:] not in words
        assert pages[path.stem].find("img") and pages[path.stem].find("details")
    assert pages["01_alexnet"].find("math")


def test_every_picture_has_an_alternative_text(pages):
    for name, page in pages.items():
        for picture in page.find_all("img"):
            assert picture.get("alt"), f"{name}: {str(picture)[:100]}"


# Runs axe-core, and sends what it found.
AXE = """
<script>{axe}</script>
<script>
addEventListener("load", async () => {{
  document.body.dataset.theme = "{theme}";
  let found;
  try {{
    const {{ violations, passes }} = await axe.run(document, {{
      resultTypes: ["violations"], rules: {{ "color-contrast": {{ enabled: {contrast} }} }},
    }});
    const text = (id, node) => `${{id}}: ${{node.html.slice(0, 120)}}`;
    const faults = violations.flatMap(({{ id, nodes }}) => nodes.map((node) => text(id, node)));
    if (document.documentElement.scrollWidth > innerWidth) faults.push("the page scrolls sideways");
    found = {{ faults, rules: passes.length }};
  }} catch (error) {{ found = {{ faults: [`axe-core stopped: ${{error}}`], rules: 0 }}; }}
  parent.postMessage({{ found }}, "*");
}});
</script>
"""


CODE = re.compile(r'<div class="(highlight-\S+)[^>]*><div class="highlight"><pre.*?</pre>', re.S)
TOKEN = re.compile(r'<span class="(\w+)">([^<]*)</span>')


def one_token_of_each_kind(html: str) -> str:
    """The page with all of its text, but of the ten thousand colored tokens in its code only the first of each kind.

    They are the same colors over and over, and nine tenths of what axe-core would have to look at.
    """
    seen = set()

    def shorter(code: re.Match) -> str:
        def first(token: re.Match) -> str:
            kind = (code[1], token[1])
            text = token[2] if kind in seen else token[0]
            seen.add(kind)
            return text

        return TOKEN.sub(first, code[0])

    return CODE.sub(shorter, html)


def judge(pages: Sequence[tuple[str, str, int, bool]], site: Path, folder: Path) -> list[dict]:
    """What axe-core says of pages: HTML, theme, width of the window in pixels, whether contrast is judged, too."""
    axe = Path(axe_core_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    judged = [site / f"judged-{number}.html" for number in range(len(pages))]  # beside the style sheets
    try:
        for path, (html, theme, _, contrast) in zip(judged, pages, strict=True):
            script = AXE.format(axe=axe, theme=theme, contrast=str(contrast).lower())
            path.write_text(html.replace("</head>", script + "</head>", 1), encoding="utf-8")
        return found_by_scripts(judged, [width for _, _, width, _ in pages], folder)
    finally:
        for path in judged:
            path.unlink(missing_ok=True)


# Where it is narrow, more is wider than the window: every page on a telephone, and some on a desktop.
PAGES = ["index", "glossary", "search", *(path.stem for path in NOTEBOOKS)]
VIEWS = [(name, ("light", "dark")[number % 2], 390) for number, name in enumerate(PAGES)]
VIEWS += [(name, ("dark", "light")[number % 2], 1280) for number, name in enumerate(PAGES[:5])]
VIEWS += [(PAGES[5], "light", 1600)]
# Contrast takes longer to judge than all else. The style sheet of the lectures is one, so three of them suffice.
CONTRAST = {view for view in VIEWS if view[0] in PAGES[:3] or view[2] > 390}


@pytest.fixture(scope="module")
def judgement(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, dict]:
    texts = {name: one_token_of_each_kind((site / f"{name}.html").read_text(encoding="utf-8")) for name in PAGES}
    pages = [(texts[view[0]], *view[1:], view in CONTRAST) for view in VIEWS]
    return dict(zip(VIEWS, judge(pages, site, tmp_path_factory.mktemp("axe")), strict=True))


@in_browser
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: "-".join(map(str, view)))
def test_axe_finds_no_barrier(judgement, view):
    assert judgement[view]["faults"] == []
    assert judgement[view]["rules"] > 10


@in_browser
def test_axe_notices_barriers(site, tmp_path):
    html = (site / "index.html").read_text(encoding="utf-8")
    barriers = '<img src="a.png"><p style="color: #ccc; background: #fff; width: 2000px">pale</p>'
    spoiled = html.replace("</h1>", f"</h1>{barriers}", 1)
    (found,) = judge([(spoiled, "light", 1280, True)], site, tmp_path)
    faults = "\n".join(found["faults"])
    assert "image-alt: <img" in faults and "color-contrast: <p style" in faults and "scrolls sideways" in faults


def test_a_broken_link_stops_the_build_and_leaves_the_last_site(tmp_path):
    for name in ("site", "tools", "pyproject.toml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "notebooks").mkdir()
    last = tmp_path / "build" / "site" / "index.html"
    last.parent.mkdir(parents=True)
    last.write_text("the last site")
    notebook = nbformat.read(NOTEBOOKS[0], 4)
    notebook.cells = notebook.cells[:3]
    notebook.cells[2] = nbformat.v4.new_markdown_cell("[next](02_nowhere.ipynb)")
    nbformat.write(notebook, tmp_path / "notebooks" / NOTEBOOKS[0].name)
    done = subprocess.run([sys.executable, "tools/website.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "02_nowhere" in done.stderr
    assert last.read_text() == "the last site"
