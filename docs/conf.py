"""Sphinx settings: MyST pages, executed figures, numpydoc reference; the build and the pages need no network."""

from __future__ import annotations

import os
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

import elbo_exact

project = "elbo_exact"
author = "The elbo_exact developers"
copyright = author
version = release = elbo_exact.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx_design",
]
exclude_patterns = ["_build"]
nitpicky = True
default_role = "py:obj"

# Inventories are downloaded, so an ordinary build does without them and leaves foreign names unlinked.
ONLINE = os.environ.get("ELBO_EXACT_DOCS_ONLINE") == "1"
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
}
if not ONLINE:
    intersphinx_mapping = {}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# A stored output would survive a change of the library, so figures are drawn anew in every build; it takes seconds.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_in_temp = True  # the report writes a figure
nb_output_stderr = "remove"  # the line that a cold start prints

autodoc_typehints = "none"  # numpydoc sections state shapes, which types cannot
autodoc_member_order = "bysource"
autosummary_generate = False
# All checks of numpydoc but these: a sentence may say all there is (ES01, SA01, EX01, PR01, PR07, RT01, RT03), refer to a sibling for
# types (PR04), start with a symbol or the name of a thing (SS02, SS05, PR08), and name two results (RT02).
numpydoc_validation_checks = {
    *("all", "ES01", "SA01", "EX01", "PR01", "PR04", "PR07", "PR08", "RT01", "RT02", "RT03", "SS02", "SS05"),
}
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False
numpydoc_show_inherited_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = f"elbo_exact {release}"
html_static_path = ["_static"]
html_css_files = ["style.css"]
FLAT_PAGES = (
    *("index", "quickstart", "story", "bounds", "importance", "anatomy", "recipes", "testing", "cli", "tightness", "benchmarks", "zeros", "vae"),
    "numerics",
)
html_sidebars = {page: [] for page in FLAT_PAGES}  # pages without subpages have nothing to show there
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 5,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def mathml(formula: str, display: str) -> str:
    """MathML of a formula, with the thin space after a function name that browsers leave out."""
    return str(convert(formula, display=display)).replace("<mi>log</mi>", '<mi>log</mi><mspace width="0.17em"/>')


def visit_math(translator: Any, node: Any) -> None:
    """A formula in the text as MathML, which browsers draw without a script."""
    translator.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_math_block(translator: Any, node: Any) -> None:
    """A formula on a line of its own."""
    translator.body.append(f'<div class="math-block">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def strip_blocks(app: Any, doctree: Any) -> None:
    """Doctests need an empty line before the closing fence; readers do not."""
    for block in doctree.findall(nodes.literal_block):
        text = block.astext().rstrip("\n")
        if block.rawsource == block.astext() and text != block.rawsource:
            block.rawsource = text
            block.children = [nodes.Text(text)]


def setup(app: Any) -> None:
    """Register the renderer of formulas and the cleaning of code blocks."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("doctree-read", strip_blocks)
