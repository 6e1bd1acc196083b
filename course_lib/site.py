"""The course as one site that needs no network: `make site` writes build/site/index.html.

Lessons as they are stored, with answers and solutions folded; glossary and notation; and every
public name of the library with its docstring and a link to the lesson that teaches it.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib import address, editions, exercises, pages, run

LESSONS = sorted((run.ROOT / "notebooks").glob("*.ipynb"))
# What a student calls; how pages are made and outputs compared is for the curious in the source.
API = [
    "datasets", "models", "norms", "losses", "gradients", "iterate", "attacks.fgsm",
    "attacks.lbfgs", "attacks.pgd", "attacks.apgd", "attacks.ddn", "attacks.momentum",
    "attacks.jsma", "attacks.one_pixel", "attacks.square", "attacks.patch", "attacks.dag",
    "changes", "windows", "evolution", "encodings", "fooling", "evaluation", "sanity",
    "scoreboard", "smoothing", "training", "distributed", "cards", "scenes", "segmentation",
    "detection", "passages", "reading", "kernels", "kernels.launch", "kernels.steps",
    "kernels.graph", "kernels.pixels", "kernels.cppn", "plots", "widgets", "questions",
    "exercises", "runtime",
]
TITLE = "Fooling convolutional networks"
CONFIG = {
    "project": TITLE, "html_title": TITLE, "html_copy_source": False,
    "copyright": "the adversarial robustness course authors, MIT licence",
    "extensions": ["myst_nb", "sphinx_design", "sphinx.ext.autodoc", "course_lib.site"],
    "html_theme": "sphinx_book_theme", "html_static_path": ["assets"],
    "html_css_files": ["site.css"],
    "html_theme_options": {"use_download_button": False, "navbar_persistent": []},
    "nb_execution_mode": "off", "nb_merge_streams": True,
    "myst_enable_extensions": ["dollarmath", "amsmath", "colon_fence"], "myst_heading_anchors": 3,
    "mathjax_path": pages.MATHJAX.removeprefix("assets/"),
    "mathjax2_config": pages.MATHJAX_CONFIG, "myst_update_mathjax": False,
    "autodoc_member_order": "bysource", "autodoc_typehints": "signature",
    "python_use_unqualified_type_names": True, "add_module_names": False,
}
# Of docstrings: "lesson 03", "Lessons 04 and 07".
_NUMBERS = re.compile(r"\b([Ll]essons?:? )((?:\d\d(?:, | and )?)+)")
# A line such as "Shape: x [n]", with the lines that go on with it.
_FIELD = re.compile(r"^\w+(?:, \w+)*: .*(?:\n(?!\w+(?:, \w+)*: ).*)*", re.MULTILINE)
_CHECKED = re.compile(r'^check\("(\d+\.\d+)"', re.MULTILINE)


def lesson_page(notebook: NotebookNode) -> NotebookNode:
    """A lesson to read, in place: no speaker notes, solutions and answers folded."""
    editions.student(notebook)
    notebook.cells = [told for cell in notebook.cells for told in (cell, *_folded(cell))]
    for cell in notebook.cells:
        cell.source = cell.source.replace("](../docs/", "](../")
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata.setdefault("tags", []).append("remove-input")
    return notebook


def _folded(cell: NotebookNode) -> Iterator[NotebookNode]:
    """What the reader may want to unfold after a cell."""
    for answer in editions.answers(cell):
        yield _fold("Answer", answer.source)
    if cell.cell_type == "code":
        for id in _CHECKED.findall(cell.source):
            yield _fold(f"Solution of exercise {id}",
                        f"```python\n{exercises.solved_source(id)}\n```")


def _fold(title: str, text: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(f"::::{{dropdown}} {title}\n{text}\n::::")


def as_rst(docstring: str) -> str:
    """A docstring of this library, which is plain text with `code`, in Sphinx's own language.

    >>> print(as_rst("`x` is x_t|0.\\n\\n    y = f(x)\\n\\nShape: x [n].\\nLesson: 03."))
    ``x`` is x_t\\|0.
    <BLANKLINE>
    ::
    <BLANKLINE>
        y = f(x)
    <BLANKLINE>
    :Shape: x [n].
    :Lesson: :doc:`03 </lessons/03_fgsm>`.
    """
    summary, *blocks = re.split(r"\n{2,}", docstring.strip("\n"))
    return "\n\n".join([_words(summary), *map(_block, blocks)])


def _block(text: str) -> str:
    """A paragraph; lines such as "Shape: ..." become fields, an indented block stays as it is."""
    if text.startswith(">>>"):
        return text
    if text.startswith(" "):
        return f"::\n\n{text}"
    if not _FIELD.match(text):
        return _words(text)
    return "\n".join(":" + _words(m[0]).replace("\n", "\n    ") for m in _FIELD.finditer(text))


def _words(text: str) -> str:
    parts = re.split(r"`+([^`]+)`+", text)
    parts[::2] = [_linked(re.sub(r"([*|\\]|_\b)", r"\\\1", part)) for part in parts[::2]]
    parts[1::2] = [f"``{code}``" for code in parts[1::2]]
    return "".join(parts)


def _linked(text: str) -> str:
    """With links to the lessons that it speaks of."""
    page = {path.stem[:2]: path.stem for path in LESSONS}
    return _NUMBERS.sub(lambda found: found[1] + re.sub(
        r"\d\d", lambda n: f":doc:`{n[0]} </lessons/{page[n[0]]}>`", found[2]), text)


def _translate(app, what, name, obj, options, lines: list[str]) -> None:
    """Sphinx calls this for every docstring; it changes `lines` in place."""
    lines[:] = as_rst("\n".join(lines)).split("\n")


def setup(app) -> dict[str, bool]:
    """What Sphinx calls of an extension."""
    app.connect("autodoc-process-docstring", _translate)
    return {"parallel_read_safe": True}


def copy_assets(folder: Path) -> None:
    """Copy to folder/assets what the pages load beside Sphinx's own files."""
    pages.copy_assets(folder)
    shutil.copy(Path(__file__).parent / "templates" / "site.css", folder / "assets")


def write_sources(folder: Path) -> None:
    """Write what Sphinx reads."""
    for name in ("glossary.md", "notation.md", "attribution.md", "classroom.md",
                 "jupyterhub_config.py"):
        shutil.copy(run.ROOT / "docs" / name, folder)
    shutil.copy(run.ROOT / "data" / "readme.png", folder)
    shutil.copytree(run.ROOT / "docs" / "covers", folder / "covers")
    copy_assets(folder)
    (folder / "lessons").mkdir()
    for path in LESSONS:
        nbformat.write(lesson_page(nbformat.read(path, as_version=4)),
                       folder / "lessons" / path.name)
    (folder / "api").mkdir()
    for module in API:
        title = f"course_lib.{module}"
        (folder / "api" / f"{module}.rst").write_text(
            f"{title}\n{'=' * len(title)}\n\n.. automodule:: {title}\n   :members:\n")
    readme = (run.ROOT / "README.md").read_text(encoding="utf-8")
    (folder / "index.md").write_text(_front(readme), encoding="utf-8")


def _front(readme: str) -> str:
    """The front page: the first words of README.md and its lessons, and what else there is."""
    opening, *sections = re.split(r"^(?=## )", readme, flags=re.MULTILINE)
    (lessons,) = [s for s in sections if s.startswith("## Lessons\n")]
    # Badges are pictures from elsewhere, and the page loads nothing from there.
    text = address.BADGES.sub("", opening) + lessons
    for old, new in (("data/readme.png", "readme.png"), ("(notebooks/", "(lessons/"),
                     ("(docs/", "(")):
        text = text.replace(old, new)
    entries = {"Lessons": [f"lessons/{path.stem}" for path in LESSONS],
               "To look up": ["notation", "glossary", "attribution"],
               "To teach": ["classroom"],
               "Library": [f"api/{module}" for module in API]}
    trees = ["\n".join(["```{toctree}", f":caption: {caption}", ":maxdepth: 1", ":hidden:", "",
                        *names, "```"]) for caption, names in entries.items()]
    return "\n\n".join([text, *trees])


def render(source: Path, folder: Path) -> bool:
    """Write the pages; whether Sphinx met no problem, such as a broken link. It prints them.

    Raises: sphinx.errors.ExtensionError that names a package of the extra `site` that is missing.
    """
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    with docutils_namespace():
        app = Sphinx(source, None, folder, source / ".doctrees", "html", confoverrides=CONFIG,
                     freshenv=True, status=None, warningiserror=True)
        app.build()
    return app.statuscode == 0


def build(folder: Path) -> bool:
    """Write the whole site anew, its sources beside it; whether there was no problem."""
    source = folder.with_name(f"{folder.name}-source")
    for old in (source, folder):
        shutil.rmtree(old, ignore_errors=True)
    source.mkdir(parents=True)
    write_sources(source)
    return render(source, folder)


if __name__ == "__main__":
    sound = build(run.BUILD / "site")
    print(f"The site is in {run.BUILD / 'site'}: open its index.html" if sound
          else "The problems above are to be mended.")
    sys.exit(not sound)
