"""Make one presentation per notebook in build/slides/, from its slide metadata and its stored outputs.

    python tools/slides.py          # all
    python tools/slides.py 01 04    # those whose names begin so

A presentation is one HTML file that needs no network and no file beside it: reveal.js, fonts, pictures and formulas
(as MathML) are inside. nbconvert makes it with the template in tools/slides/; layout.js there fits it to the screen.
"""

import base64
import io
import json
import re
import sys
from pathlib import Path

import math_core
import nbformat
import numpy as np
from nbconvert.exporters import SlidesExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.links import BADGE, SETUP  # noqa: E402
from tools.run_notebooks import NOTEBOOKS, selected  # noqa: E402

SLIDES = ROOT / "build" / "slides"
TEMPLATE = ROOT / "tools" / "slides"
SLIDE_TYPES = {"slide", "subslide", "fragment", "skip", "notes", "-"}
FOR_READERS = {"check", "solution"}  # tags of cells that a presentation leaves out
# How code begins that draws and does little else: a presentation shows its outputs only.
DRAWING = re.compile(r'figure\("\w+"\)$|fig, ax\w+ = |bars\(|learning_curves\(|cost_chart\(')
# What a page of 1280 × 720 pixels holds. layout.js knows the same numbers.
PRINTED_LINES = 26
PICTURE_HEIGHT = 616
LINE_WIDTH = 1160
COLUMN_WIDTH = 0.5  # of a letter of the code font, in units of its size
SMALLEST, LARGEST = 18, 99  # letters

formulas = math_core.LatexToMathML(fancy_error=False)


class Renderer(IPythonRenderer):
    """Markdown as HTML with formulas as MathML, which browsers draw without a script."""

    def text(self, text: str) -> str:
        return super().text(re.sub(r"(?<=\d) %", "\u00a0%", text))  # no line begins with a percent sign

    def block_math(self, body: str) -> str:
        return mathml(body, display=True)

    def inline_math(self, body: str) -> str:
        return mathml(body, display=False)


def mathml(latex: str, display: bool) -> str:
    try:
        return formulas.convert_with_local_state(latex, displaystyle=display)
    except math_core.LatexError as error:
        raise ValueError(f"the formula {latex!r} cannot be drawn: {error}") from None


def markdown_to_html(markdown: str) -> str:
    renderer = Renderer(escape=False, embed_images=True, path=str(NOTEBOOKS), exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(markdown)


def font_size(text: str) -> str:
    """The size at which the longest line of a text is as wide as the page; if that is too small, lines are wrapped."""
    columns = max([1, *map(len, text.splitlines())])
    size = int(LINE_WIDTH / COLUMN_WIDTH / columns)
    return f"{size if size >= SMALLEST else LARGEST}px"


def printed(output: NotebookNode) -> list[str]:
    """The text of an output, without colors, in parts that fit a page."""
    text = output.get("text") or output.get("data", {}).get("text/plain") or "\n".join(output.get("traceback", []))
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).rstrip().splitlines()
    count = -(-len(lines) // PRINTED_LINES)
    return ["\n".join(part) for part in np.array_split(np.array(lines, dtype=object), count)] if count else []


def pictures(output: NotebookNode) -> list[dict[str, str]]:
    """Type, base64 text and alternative text of the pictures of an output, tall ones in parts that fit a page."""
    found = []
    for kind in {"image/png", "image/jpeg"} & output.get("data", {}).keys():
        alt = output.metadata.get(kind, {}).get("alt", "")
        parts = cut(base64.b64decode(output.data[kind]))
        for number, part in enumerate(parts, 1):
            where = f" (part {number} of {len(parts)})" if len(parts) > 1 else ""
            found.append({"kind": kind, "pixels": base64.b64encode(part).decode(), "alt": alt + where})
    return found


def cut(picture: bytes) -> list[bytes]:
    """The parts of a picture that fit a page, as few as possible; it is cut where it is white, or not at all.

    Scaled down to the height of a page, the letters in a grid of photographs would be illegible.
    """
    image = Image.open(io.BytesIO(picture))
    height = image.height
    if height <= PICTURE_HEIGHT:
        return [picture]
    blank = np.flatnonzero(np.asarray(image.convert("L")).min(axis=1) > 240)
    for count in range(-(-height // PICTURE_HEIGHT), 5):
        ideal = np.arange(1, count) * height / count
        rows = [int(blank[np.abs(blank - row).argmin()]) for row in ideal] if blank.size else []
        if rows and np.abs(np.array(rows) - ideal).max() < height / 20:
            return [save(image, top, bottom) for top, bottom in zip([0, *rows], [*rows, height], strict=True)]
    return [picture]


def save(image: Image.Image, top: int, bottom: int) -> bytes:
    part = io.BytesIO()
    image.crop((0, top, image.width, bottom)).save(part, image.format, quality=90)
    return part.getvalue()


def prepare(notebook: NotebookNode) -> None:
    """Mark what is for readers of the notebook only.

    Raises
    ------
    ValueError
        If the notebook has not been executed or a cell has no slide type.
    """
    if not notebook.cells:
        raise ValueError("it has no cells.")
    notebook.cells[0].source = BADGE.sub("", notebook.cells[0].source)
    for number, cell in enumerate(notebook.cells, 1):
        slide_type = cell.metadata.get("slideshow", {}).get("slide_type")
        if slide_type not in SLIDE_TYPES:
            raise ValueError(f"cell {number} has the slide type {slide_type!r}; choose one in JupyterLab's side bar.")
        if cell.cell_type == "code" and cell.execution_count is None:
            raise ValueError(f"cell {number} has not been executed, so that outputs are missing: run make notebooks.")
        is_setup = cell.cell_type == "code" and cell.source.startswith(SETUP)
        if is_setup or FOR_READERS & set(cell.metadata.get("tags", [])):
            cell.metadata.slideshow.slide_type = "skip"
        cell.metadata.only_output = DRAWING.match(cell.source) is not None


def assets() -> dict[str, str]:
    """What is the same in every presentation."""
    vendor = TEMPLATE / "vendor"
    scripts = [vendor / "reveal.js", vendor / "notes.js", TEMPLATE / "layout.js"]
    styles = [vendor / "reveal.css", TEMPLATE / "style.css"]
    face = '@font-face {{ font-family: "Course {}"; font-weight: {}; src: url(data:font/woff2;base64,{}); }}'
    fonts = [
        face.format(*path.stem.split("-"), base64.b64encode(path.read_bytes()).decode())
        for path in sorted(vendor.glob("*.woff2"))
    ]
    return {
        "scripts": "\n".join(path.read_text(encoding="utf-8").replace("</script", r"<\/script") for path in scripts),
        "styles": "\n".join([*fonts, *(path.read_text(encoding="utf-8") for path in styles)]),
    }


def presentation(path: Path) -> str:
    """The HTML of one notebook's slides.

    Raises
    ------
    SystemExit
        Names the notebook and what is wrong with it.
    """
    exporter = SlidesExporter(
        extra_template_basedirs=[str(TEMPLATE.parent)],
        template_name=TEMPLATE.name,
        filters={
            "font_size": font_size,
            "markdown2html": markdown_to_html,
            "pictures": pictures,
            "printed": printed,
        },
    )
    try:
        notebook = nbformat.read(path, as_version=4)
        prepare(notebook)
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        html, _ = exporter.from_notebook_node(notebook, {"course": assets() | {"title": title}})
    except (ValueError, nbformat.ValidationError, json.JSONDecodeError) as error:
        raise SystemExit(f"{path.name}: {error}") from None
    if remote := re.search(r"<(?!a\b)\w[^<>]*\b(?:src|href|data|poster)\s*=\s*[\"']?(?:https?:)?//[^\"'\s>]*", html):
        raise SystemExit(f"{path.name}: {remote[0]} is not in the notebook, and a lecture hall may have no network.")
    return html


def main(prefixes: list[str]) -> None:
    paths = selected(prefixes)
    SLIDES.mkdir(parents=True, exist_ok=True)
    for path in paths:
        target = SLIDES / f"{path.stem}.html"
        target.write_text(presentation(path), encoding="utf-8")
        print(target.relative_to(ROOT), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
