"""Sphinx's settings for `make site`; tools/website.py puts this file beside copies of the notebooks."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent  # this file's copy lies in build/site-source
sys.path.insert(0, str(ROOT / "tools"))

from slides import mathml  # noqa: E402

project = "From AlexNet to CLIP"
html_title = project
copyright = "2026 The From AlexNet to CLIP authors. Text and figures: CC BY 4.0, code: MIT"
language = "en"
extensions = ["myst_nb"]
html_theme = "furo"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
templates_path = []
nb_execution_mode = "off"  # the notebooks are stored with the outputs that `make test` checks
nb_render_image_options = {"alt": "plot"}
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 3
myst_links_external_new_tab = True
suppress_warnings = ["myst.header", "mystnb.mime_priority", "mystnb.unknown_mime_type"]


def setup(app) -> None:
    """Write formulas as MathML, which browsers draw themselves: no script from another host is needed."""

    def inline(self, node) -> None:
        self.body.append(mathml(node.astext(), display=False))
        raise SkipNode

    def block(self, node) -> None:
        self.body.append(f'<div class="formula" tabindex="0">{mathml(node.astext(), display=True)}</div>')
        raise SkipNode

    from docutils.nodes import SkipNode

    app.add_html_math_renderer("mathml", (inline, None), (block, None))


html_math_renderer = "mathml"
