"""Run lessons as a whole: `make run` writes HTML pages, `make store` refreshes stored outputs.

    python -m course_lib.run [--store] [lesson.ipynb ...]
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 600  # seconds a cell may take


def execute(notebook: NotebookNode, *, progress: str = "") -> NotebookNode:
    """Run all cells in order, in a fresh kernel that works in notebooks/; returns the notebook."""
    notebook.metadata.pop("widgets", None)
    client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3",
                            resources={"metadata": {"path": str(ROOT / "notebooks")}})
    cells = tqdm(notebook.cells, desc=progress, unit="cell", disable=not progress)
    with client.setup_kernel():
        for index, cell in enumerate(cells):
            client.execute_cell(cell, index)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps
    return notebook


def run_lesson(path: Path, *, store: bool) -> None:
    """Run one lesson; write its page under build/, or its outputs back into the file."""
    before = nbformat.read(path, as_version=4)
    after = execute(nbformat.read(path, as_version=4), progress=path.stem)
    if not store:
        page, _ = HTMLExporter().from_notebook_node(after)
        target = ROOT / "build" / f"{path.stem}.html"
        target.parent.mkdir(exist_ok=True)
        target.write_text(page, encoding="utf-8")
        return
    for i, (old, new) in enumerate(zip(before.cells, after.cells, strict=True)):
        if old.cell_type == "code" and _alike(old.outputs, new.outputs):
            after.cells[i].outputs = old.outputs
    after.metadata.language_info = {"name": "python"}
    if after != before:
        nbformat.write(after, path)


def _alike(old: list[NotebookNode], new: list[NotebookNode]) -> bool:
    """Whether outputs say the same: equal texts, and pictures that no eye tells apart."""
    return len(old) == len(new) and all(map(_same_output, old, new))


def _same_output(old: NotebookNode, new: NotebookNode) -> bool:
    pictures = [output.get("data", {}).get("image/png") for output in (old, new)]
    if all(pictures):
        a, b = (np.asarray(Image.open(io.BytesIO(base64.b64decode(p))).convert("RGB"), dtype=float)
                for p in pictures)
        return a.shape == b.shape and np.abs(a - b).mean() < 0.5
    return old == new


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lessons", nargs="*", type=Path,
                        default=sorted((ROOT / "notebooks").glob("*.ipynb")))
    parser.add_argument("--store", action="store_true", help="write outputs into the notebooks")
    chosen = parser.parse_args(arguments)
    for path in chosen.lessons:
        run_lesson(path, store=chosen.store)
    if not chosen.store:
        print(f"{len(chosen.lessons)} pages written to {ROOT / 'build'}")


if __name__ == "__main__":
    sys.exit(main())
