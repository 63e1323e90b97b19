"""Every notebook becomes a presentation that holds what its metadata says, needs no network, and fits the screen."""

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from browser import found_by_scripts, in_browser
from notebooks import NOTEBOOKS, ROOT
from tools import slides

SPEAKER = "speaker notes of the sample"
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
presentation = cache(slides.presentation)
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


@cache
def page(path: Path) -> BeautifulSoup:
    return BeautifulSoup(presentation(path), "html.parser")


def shown(path: Path) -> list[nbformat.NotebookNode]:
    """The cells that belong into the presentation, speaker notes among them."""
    cells = nbformat.read(path, as_version=4).cells
    hidden = {"check", "solution"}
    return [
        cell
        for number, cell in enumerate(cells)
        if number != 1
        and cell.metadata.slideshow.slide_type != "skip"
        and not hidden & set(cell.metadata.get("tags", []))
    ]


# What is in the file


@each_notebook
def test_slides_fragments_and_notes_are_those_of_the_metadata(path: Path):
    types = [cell.metadata.slideshow.slide_type for cell in shown(path)]
    expected = []
    for slide_type in types:
        if slide_type == "slide" or not expected:
            expected.append([])
        if slide_type in ("slide", "subslide"):
            expected[-1].append({"fragment": 0, "notes": 0})
        elif slide_type != "-":
            expected[-1][-1][slide_type] += 1
    found = [
        [
            {"fragment": len(slide.select(".fragment")), "notes": len(slide.select("aside.notes"))}
            for slide in column.find_all("section", recursive=False)
        ]
        for column in page(path).select(".slides > section")
    ]
    assert found == expected


@each_notebook
def test_all_code_text_and_outputs_are_there(path: Path):
    cells = [cell for cell in shown(path) if cell.metadata.slideshow.slide_type != "notes"]
    words = "".join(page(path).select_one(".slides").get_text().split())
    outputs = [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]
    drawings = [output for output in outputs if "image/svg+xml" in output.get("data", {})]
    plots = [output for output in outputs if {"image/png", "image/jpeg"} & output.get("data", {}).keys()]
    assert len(page(path).select(".picture svg")) == len(drawings)
    assert len({re.sub(r" \(part .*", "", image["alt"]) for image in page(path).select("img.picture")}) == len(
        {output.data["text/plain"] for output in plots}
    )
    for cell in cells:
        if cell.cell_type == "code" and not slides.DRAWING.match(cell.source):
            assert "".join(cell.source.split()) in words
        elif cell.cell_type == "code":  # only what draws may stand for its code
            assert any({*PICTURES} & output.get("data", {}).keys() for output in cell.outputs), cell.source
        if heading := re.match(r"#+ ([\w ,]+)$", cell.source, re.M):
            assert "".join(heading[1].split()) in words
    for output in outputs:
        assert "".join(output.get("text", "").split()) in words


@each_notebook
def test_nothing_is_loaded_from_elsewhere(path: Path):
    for element in page(path).find_all(True):
        for name in ("src", "srcset", "data", "poster", "action", "href", "xlink:href"):
            link = element.get(name, "")
            assert element.name == "a" or link.startswith("data:") or not link, f"<{element.name} {name}={link[:60]}>"
    styles = "".join(style.get_text() for style in page(path).find_all("style"))
    assert "@import" not in styles
    assert all(address.startswith("data:") for address in re.findall(r"url\([\"']?([^)]*)", styles))
    assert page(path).select_one("meta[http-equiv=Content-Security-Policy]")["content"].startswith("default-src 'none'")


@each_notebook
def test_every_picture_has_pixels_and_an_alternative_text(path: Path):
    for image in page(path).select(".slides img"):
        Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).verify()
        assert len(image["alt"]) > 10


@each_notebook
def test_every_formula_is_drawn(path: Path):
    sources = [re.sub(r"```.*?```|`[^`]*`", "", c.source, flags=re.S) for c in shown(path) if c.cell_type == "markdown"]
    formulas = [formula for source in sources for formula in re.findall(r"\$\$.+?\$\$|\$[^$]+\$", source, re.S)]
    assert len(page(path).find_all("math")) == len(formulas)
    assert not page(path).find_all("merror")
    for text in page(path).select(".text"):
        for code in text.find_all(["pre", "code"]):
            code.extract()
        assert not re.search(r"\$|\\[a-z]+", text.get_text())


def test_no_line_begins_with_a_percent_sign():
    assert slides.markdown_to_html("5 % of `5 % 3`") == "<p>5\u00a0% of <code>5 % 3</code></p>\n"


# What cannot be made into a presentation


def sample() -> dict:
    """A notebook file with one of everything."""
    pixels = io.BytesIO()
    Image.new("RGB", (900, 400), "#0072b2").save(pixels, "png")
    plot = {"image/png": base64.b64encode(pixels.getvalue()).decode(), "text/plain": "A blue rectangle."}
    drawing = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1280 400"><text y="50" font-size="22">Text</text></svg>'
    )
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": "line of an output\n" * 40},
        {"output_type": "display_data", "data": plot, "metadata": {"image/png": {"alt": "A blue rectangle."}}},
        {"output_type": "display_data", "data": {"image/svg+xml": drawing, "text/plain": "Text"}, "metadata": {}},
    ]
    cells = [
        ("markdown", "slide", "# 00 · A sample\n\nIs $x_i^2 \\le \\frac{1}{2}$ drawn?"),
        ("code", "subslide", "# Setup, which nobody wants to see"),
        (
            "code",
            "fragment",
            "print('A string that makes a line of the code as long as the style of code allows it to be', 1, 2, 3)",
        ),
        ("markdown", "notes", SPEAKER),
    ]
    return {
        "cells": [
            {
                "cell_type": kind,
                "id": f"cell-{number}",
                "source": source,
                "metadata": {"slideshow": {"slide_type": type_}},
            }
            | ({"execution_count": number, "outputs": outputs if number > 1 else []} if kind == "code" else {})
            for number, (kind, type_, source) in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def write(folder: Path, notebook: dict) -> Path:
    path = folder / "00_sample.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


def text(number: int, source: str) -> Callable[[dict], None]:
    return lambda notebook: notebook["cells"][number].update(source=source)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda n: n["cells"].clear(), "it has no cells"),
        (
            lambda n: n["cells"][2].update(execution_count=None, outputs=[]),
            "cell 3 has not been executed.*make notebooks",
        ),
        (lambda n: n["cells"][2]["metadata"].clear(), "cell 3 has the slide type None"),
        (
            lambda n: n["cells"][0]["metadata"]["slideshow"].update(slide_type="poster"),
            "cell 1 has the slide type 'poster'",
        ),
        (text(0, "A formula $\\unheard{x}$"), r"formula '\\\\unheard\{x\}' cannot be drawn: .*[Uu]nknown"),
        (text(0, "A formula $\\frac{1$"), "cannot be drawn"),
        (text(0, "![A cat](https://example.org/cat.png)"), "example.org/cat.png is not in the notebook"),
        (text(0, "<img alt='A cat' src=//example.org/cat.png>"), "example.org/cat.png is not in the notebook"),
    ],
)
def test_a_notebook_that_cannot_be_presented_is_named_with_the_reason(
    tmp_path: Path, spoil: Callable[[dict], None], says: str
):
    notebook = sample()
    spoil(notebook)
    with pytest.raises(SystemExit, match=rf"^00_sample\.ipynb: .*{says}"):
        slides.presentation(write(tmp_path, notebook))


def test_a_file_that_is_no_notebook_is_named(tmp_path: Path):
    path = tmp_path / "00_broken.ipynb"
    path.write_text('{"cells": [')
    with pytest.raises(SystemExit, match=r"^00_broken\.ipynb: "):
        slides.presentation(path)


def test_the_command_refuses_a_notebook_that_is_not_there():
    command = [sys.executable, "tools/slides.py", "77"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1 and refused.stderr == "notebooks/ has no notebook whose name begins with '77'\n"


# What a browser shows of it

# Goes through all pages, with all fragments shown, and sends what it found. Lengths are those at 1280 × 720, whatever
# the size of the window.
PROBE = """
<script>
(() => {
const wrong = [];
addEventListener("securitypolicyviolation", (event) => wrong.push(`request: ${event.blockedURI}`));
addEventListener("error", (event) => wrong.push(`error: ${event.message ?? event.target.alt}`), true);

function measure(section) {
  const say = (what, element) => wrong.push(`${what}: ${element.textContent.trim().slice(0, 60) || element.alt}`);
  const scale = Reveal.getScale();
  const sheet = section.getBoundingClientRect();
  const inside = ({ left, top, right, bottom }) =>
    left >= sheet.left && top >= sheet.top && right <= sheet.left + 1280 * scale && bottom <= sheet.top + 694 * scale;
  const texts = document.createTreeWalker(section, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("aside, title, desc")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    if (!parent.checkVisibility({ opacityProperty: true, visibilityProperty: true })) say("hidden", parent);
    if (!inside(range.getBoundingClientRect())) say("overflow", parent);
    const matrix = parent.ownerSVGElement?.getScreenCTM();
    const drawn = matrix ? Math.hypot(matrix.a, matrix.b) : scale;
    const size = parseFloat(getComputedStyle(parent).fontSize) * drawn / scale;
    if (size < 17.99) say(`${size.toFixed(1)} px`, parent);
  }
  for (const element of section.querySelectorAll("*")) {
    const clips = getComputedStyle(element).overflowX !== "visible" && !element.closest("svg, math, aside");
    if (clips && element.scrollWidth > element.clientWidth + 1) say("clipped", element);
  }
  for (const image of section.querySelectorAll("img")) {
    const { width, height } = image.getBoundingClientRect();
    if (!image.naturalWidth) say("missing image", image);
    else if (width / scale < image.naturalWidth - 1) say("letters of a plot below 18 px", image);
    else if (Math.abs(width / height / (image.naturalWidth / image.naturalHeight) - 1) > 0.02) say("distorted", image);
  }
  for (const picture of section.querySelectorAll(".picture, svg")) {
    if (!inside(picture.getBoundingClientRect())) say("overflow", picture);
  }
  const blocks = [...section.querySelector(".page").children].map((block) => block.getBoundingClientRect());
  if (blocks.some((block, i) => i && block.top < blocks[i - 1].bottom - 1)) say("overlap", section);
}

function drive() {
  const sections = Reveal.getSlides().filter((section) => !section.querySelector("section"));
  const shown = { blocks: 0, notes: 0 };
  for (const section of sections) {
    const { h, v } = Reveal.getIndices(section);
    Reveal.slide(h, v, Infinity);
    if (Reveal.getCurrentSlide() !== section) wrong.push(`cannot be reached: ${h}/${v}`);
    measure(section);
    shown.blocks += section.querySelectorAll(".page > :not(.repeated)").length;
    shown.notes += Reveal.getSlideNotes(section) ? 1 : 0;
  }
  const requests = performance.getEntriesByType("resource").map(({ name }) => name);
  wrong.push(...requests.filter((name) => !name.startsWith("data:")).map((name) => `request: ${name}`));
  return { pages: sections.length, ...shown, wrong };
}

let tries = 0;
const wait = setInterval(() => {
  const started = typeof Reveal !== "undefined" && Reveal.isReady();
  if (!started && ++tries < 100) return;
  clearInterval(wait);
  let found = { wrong: [...wrong, "does not start"] };
  try { if (started) found = drive(); } catch (error) { found.wrong = [error.stack]; }
  parent.postMessage({ found }, "*");
}, 100);
})();
</script>
"""


def drive(presentations: Sequence[str], folder: Path) -> list[dict]:
    """What a browser finds on all pages of each presentation."""
    paths = [folder / f"slides-{number}.html" for number in range(len(presentations))]
    for path, html in zip(paths, presentations, strict=True):
        path.write_text(html.replace("<head>", "<head>" + PROBE, 1), encoding="utf-8")
    return found_by_scripts(paths, [1280] * len(paths), folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, dict]:
    folder = tmp_path_factory.mktemp("slides")
    return dict(zip(NOTEBOOKS, drive([presentation(path) for path in NOTEBOOKS], folder), strict=True))


@in_browser
@each_notebook
def test_every_page_is_legible_and_fits_the_screen(path: Path, found: dict[Path, dict]):
    shows = found[path]
    assert shows["wrong"] == []
    sections = page(path).select(".slides > section > section")
    assert shows["pages"] >= len(sections)
    assert shows["blocks"] == len(page(path).select(".text > *, .code > *")) - len(page(path).select("aside .text > *"))
    assert shows["notes"] >= sum(bool(section.select("aside")) for section in sections)


def style(rule: str) -> Callable[[str], str]:
    return lambda html: html.replace("</head>", f"<style>{rule}</style></head>")


def insert(element: str) -> Callable[[str], str]:
    return lambda html: html.replace('<div class="text">', f'<div class="text">{element}', 1)


def without_policy(spoil: Callable[[str], str]) -> Callable[[str], str]:
    return lambda html: re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", spoil(html))


REMOTE = insert('<p><img alt="remote" width="10" src="https://course.invalid/a.png"></p>')


FAULTS = [
    (style(".page p { font-size: 17px }"), "17.0 px: "),
    (style(".page .input { transform: translateX(200px) }"), "overflow: "),
    (style(".page .input pre { width: 300px; overflow: hidden }"), "clipped: "),
    (style(".page .picture { transform: scale(0.5) }"), "letters of a plot below 18 px: A blue"),
    (style(".page svg { transform: scale(0.5) }"), "px: Text"),
    (style(".page .printed { display: none }"), "hidden: line of an output"),
    (style(".page .printed { margin-top: -50px !important }"), "overlap: "),
    (lambda html: html.replace("png;base64,", "png;base64,AAAA"), "missing image: A blue"),
    (insert("<pre>" + "a line of many\n" * 40 + "</pre>"), "overflow: a line"),
    (REMOTE, "request: https://course.invalid/a.png"),
    (without_policy(REMOTE), "request: https://course.invalid/a.png"),
    (lambda html: html.replace("Reveal.initialize(", "Reveal.initialise("), "does not start"),
]


@pytest.fixture(scope="module")
def noticed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a browser says of a presentation with each of the faults."""
    folder = tmp_path_factory.mktemp("faults")
    html = slides.presentation(write(folder, sample()))
    spoiled = [spoil(html) for spoil, _ in FAULTS]
    assert html not in spoiled
    return ["\n".join(found["wrong"]) for found in drive(spoiled, folder)]


@in_browser
@pytest.mark.parametrize("number", range(len(FAULTS)), ids=[says for _, says in FAULTS])
def test_the_browser_notices_what_is_wrong(number: int, noticed: list[str]):
    assert FAULTS[number][1] in noticed[number]


@in_browser
def test_a_cell_that_is_too_long_goes_on_on_further_pages(tmp_path: Path):
    html = slides.presentation(write(tmp_path, sample()))
    (found,) = drive([html], tmp_path)
    assert found["wrong"] == []
    assert html.count("<aside") == 1 and SPEAKER in html
    assert (found["pages"], found["notes"]) == (5, 5)
