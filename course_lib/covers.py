"""The picture of each lesson in the README and on the site: what the cell tagged `cover` shows."""

from __future__ import annotations

import io
from pathlib import Path

from nbformat import NotebookNode
from PIL import Image

from course_lib import files, outputs

TAG = "cover"
WIDTH = 400  # pixels, at most


def cover(notebook: NotebookNode) -> Image.Image | None:
    """The first picture of the cell with the tag, made smaller."""
    for cell in notebook.cells:
        if TAG in cell.metadata.get("tags", []):
            for picture in outputs.pictures(cell.outputs):
                picture.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
                return picture
    return None


def place(lesson: Path) -> Path:
    """Where the cover of a lesson lies."""
    return lesson.parents[1] / "docs" / "covers" / f"{lesson.stem[:2]}.png"


def write(lesson: Path, notebook: NotebookNode) -> None:
    """Write the cover of a lesson, unless the one that is there looks the same."""
    new, path = cover(notebook), place(lesson)
    if new is None:
        return
    if path.exists() and outputs.looks_the_same(Image.open(path).convert("RGB"), new):
        return
    content = io.BytesIO()
    new.save(content, "PNG", optimize=True)
    files.write(path, content.getvalue())
