"""Lessons as pages to read and as slides to show, both without a network.

nbconvert's own pages fetch reveal.js, MathJax and others from content delivery networks. These find
them in the folder `assets` beside the page; the packages that bring them are the extra `pages`.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from jinja2 import FileSystemLoader
from nbconvert import HTMLExporter, SlidesExporter
from nbformat import NotebookNode

Exporter = TypeVar("Exporter", bound=HTMLExporter)
TEMPLATES = FileSystemLoader(Path(__file__).parent / "templates")
# What a page needs: its folder below assets, the package that brings it, and where it has it.
ASSETS = {"mathjax": ("jupyter_server_mathjax", "static"),
          "reveal": ("sphinx_revealjs", "_static/revealjs")}
MATHJAX = "assets/mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe"
# This MathJax brings its fonts along.
MATHJAX_CONFIG = {
    "TeX": {"equationNumbers": {"autoNumber": "AMS", "useLabelIds": True}},
    "tex2jax": {"inlineMath": [["$", "$"], ["\\(", "\\)"]],
                "displayMath": [["$$", "$$"], ["\\[", "\\]"]],
                "processEscapes": True, "processEnvironments": True},
    "HTML-CSS": {"availableFonts": [], "imageFont": None, "webFont": "STIX-Web",
                 "EqnChunk": 1000, "linebreaks": {"automatic": True}},
    "messageStyle": "none",
}


def reading() -> HTMLExporter:
    """Makes a page to read."""
    return _offline(HTMLExporter(template_file="page.html.j2", extra_loaders=[TEMPLATES],
                                 mathjax_url=MATHJAX))


def slides() -> SlidesExporter:
    """Makes slides of 1280 x 720, which 88 columns of code fit; key S opens the speaker's view."""
    return _offline(SlidesExporter(
        template_file="slides.html.j2", extra_loaders=[TEMPLATES], mathjax_url=MATHJAX,
        reveal_url_prefix="assets/reveal", reveal_theme="white", reveal_width="1280",
        reveal_height="720"))


def _offline(exporter: Exporter) -> Exporter:
    exporter.environment.globals["mathjax_config"] = MATHJAX_CONFIG
    return exporter


def copy_assets(folder: Path) -> None:
    """Copy to folder/assets what the pages in a folder need.

    Raises: RuntimeError that names a package that is missing.
    """
    for name, (package, place) in ASSETS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise RuntimeError(f"the package {package} is missing: pip install -e '.[pages]'")
        shutil.copytree(Path(spec.origin).parent / place, folder / "assets" / name,
                        dirs_exist_ok=True)


def write(exporter: HTMLExporter, notebook: NotebookNode, target: Path) -> None:
    """Write a page, without the source of cells that JupyterLab shows folded.

    Such cells draw figures whose titles tell what was to be predicted; exporters would show them.
    """
    for cell in notebook.cells:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata["transient"] = {"remove_source": True}
    page, _ = exporter.from_notebook_node(notebook)
    target.parent.mkdir(exist_ok=True)
    target.write_text(page, encoding="utf-8")
