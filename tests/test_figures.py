"""The diagrams in notebooks/figures keep to the rules of notebooks/figures/README.md."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from notebooks import NOTEBOOKS, ROOT

FIGURES = sorted((ROOT / "notebooks" / "figures").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
# What survives GitHub's cleaning of a notebook's outputs, and cannot reach other diagrams of the page or the network.
ELEMENTS = {"svg", "title", "desc", "g", "rect", "circle", "ellipse", "line", "path", "polygon", "polyline"}
ELEMENTS |= {"text", "tspan"}

each_figure = pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)


@each_figure
def test_uses_only_elements_and_attributes_that_are_safe_in_a_page(path: Path) -> None:
    for element in ElementTree.parse(path).iter():
        assert element.tag.removeprefix(SVG) in ELEMENTS
        for name, value in element.attrib.items():
            assert not re.search("^style$|^class$|href$|^on", name), name
            assert "url(" not in value


@each_figure
def test_scales_to_the_column_and_fits_a_slide(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    left, top, width, height = map(float, root.get("viewBox").split())
    assert (left, top, width) == (0, 0, 1280)
    assert height <= 560
    assert (root.get("width"), root.get("height")) == ("100%", None)
    assert path.stat().st_size < 20_000


@each_figure
def test_has_a_title_and_a_full_alternative_text(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    title, description = root[0], root[1]
    assert (title.tag, description.tag) == (f"{SVG}title", f"{SVG}desc")
    assert 10 <= len(title.text) <= 80
    assert len(description.text) >= 100
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"


@each_figure
def test_ids_are_unique_among_all_figures(path: Path) -> None:
    ids = [element.get("id") for element in ElementTree.parse(path).iter() if element.get("id")]
    assert len(set(ids)) == len(ids)
    assert all(name.startswith(f"{path.stem}-") for name in ids)


@each_figure
def test_text_is_large_enough_in_a_narrow_column(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    assert root.get("font-size")
    assert all(float(element.get("font-size", 22)) >= 22 for element in root.iter())
    assert all("scale" not in element.get("transform", "") for element in root.iter())


@each_figure
def test_is_readable_on_a_dark_page(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    _, _, width, height = root.get("viewBox").split()
    paper = root[2]
    assert paper.tag == f"{SVG}rect"
    assert (paper.get("width"), paper.get("height"), paper.get("fill")) == (width, height, "#ffffff")


def test_every_figure_is_shown_by_a_notebook() -> None:
    cells = [cell for path in NOTEBOOKS for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    shown = set(re.findall(r"\bfigure\(['\"](\w+)['\"]\)", code))
    assert shown == {path.stem for path in FIGURES}
