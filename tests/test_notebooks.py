"""The lessons as files, solved, and with every cell run twice. nbval runs them as committed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from course_lib import exercises

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SLIDE_TYPES = {"slide", "subslide", "fragment", "skip", "notes", "-"}
EXERCISE = re.compile(r"exercise-(\d+\.\d+)")
WIDEST, TALLEST = 88, 40  # characters and lines of code that fit on a projected slide
MOST_IGNORED = 4  # cells whose output may differ between machines, in one lesson

each_lesson = pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def faults(notebook: NotebookNode) -> list[str]:
    """What is wrong with a notebook as a file, in words."""
    found = []
    counts = [c.execution_count for c in code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        found.append("not run from top to bottom in one go")
    for i, cell in enumerate(notebook.cells):
        if cell.metadata.get("slideshow", {}).get("slide_type") not in SLIDE_TYPES:
            found.append(f"cell {i} has no slide type")
        if unknown := [t for t in tags(cell) if t != "nbval-ignore-output"
                       and not EXERCISE.fullmatch(t)]:
            found.append(f"cell {i} has the tags {unknown}")
    for i, cell in enumerate(code(notebook), 1):
        lines = cell.source.split("\n")
        if len(lines) > TALLEST or max(map(len, lines)) > WIDEST:
            found.append(f"code cell {i} does not fit the screen")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"code cell {i} stores an error or a warning")
            if any("widget" in kind or kind == "image/svg+xml" for kind in output.get("data", {})):
                found.append(f"code cell {i} stores a widget or an SVG")
    ignored = sum("nbval-ignore-output" in tags(c) for c in notebook.cells)
    if ignored > MOST_IGNORED:
        found.append(f"{ignored} cells are not compared")
    if "widgets" in notebook.metadata:
        found.append("widget state is stored")
    return found


@each_lesson
def test_the_file_is_in_order(path):
    assert faults(read(path)) == []
    assert path.stat().st_size < 2_000_000


@each_lesson
def test_stubs_and_checks_stand_as_the_exercises_say(path):
    notebook = read(path)
    stubs = {m[1]: c.source for c in notebook.cells for t in tags(c) if (m := EXERCISE.match(t))}
    known = {e.id: e for e in exercises.of_lesson(int(path.stem[:2]))}
    assert stubs.keys() == known.keys()
    assert len(known) >= 3
    text = "\n".join(c.source for c in notebook.cells)
    for id, exercise in known.items():
        assert exercises.same_code(stubs[id], exercise.stub)
        assert f"### Exercise {id} - {exercise.title}" in text
        assert f'check("{id}", {exercise.name})' in text
    efforts = re.findall(r"Difficulty \d/5, importance \d/5, about \d+ minutes", text)
    assert len(efforts) == len(known)


@each_lesson
def test_unsolved_exercises_say_so(path):
    checks = [c for c in code(read(path)) if c.source.startswith("check(")]
    assert checks
    for cell in checks:
        assert "".join(o.get("text", "") for o in cell.outputs).startswith("○")


def said(cell: NotebookNode) -> list[str]:
    """The texts of a cell's outputs; streams joined, pictures and object addresses left out."""
    streams = "".join(o.text for o in cell.outputs if o.output_type == "stream")
    shown = [v for o in cell.outputs if "data" in o for k, v in o.data.items()
             if k in ("text/markdown", "text/html")]
    return [streams, *shown]


def run_twice(notebook: NotebookNode, folder: Path) -> list[str]:
    """Run each cell twice in a row; say which cells print something else the second time."""
    client = NotebookClient(notebook, timeout=300, kernel_name="python3",
                            resources={"metadata": {"path": str(folder)}})
    changed = []
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
            first = said(cell) if cell.cell_type == "code" else []
            client.execute_cell(cell, index)
            if first and "nbval-ignore-output" not in tags(cell) and said(cell) != first:
                changed.append(f"cell {index}: {first} then {said(cell)}")
    return changed


def solve(notebook: NotebookNode) -> NotebookNode:
    """Put each exercise's solution into its stub."""
    for cell in notebook.cells:
        for tag in tags(cell):
            if match := EXERCISE.match(tag):
                cell.source = exercises.solved_source(match[1])
    return notebook


@each_lesson
def test_solved_and_every_cell_run_twice(path):
    notebook = solve(read(path))
    assert run_twice(notebook, path.parent) == []
    for cell in code(notebook):
        if cell.source.startswith("check("):
            assert said(cell)[0].startswith("✓"), said(cell)[0]


# The tests above can fail: each is shown a notebook with the fault it is for.

def _notebook(*sources: str) -> NotebookNode:
    cells = []
    for i, source in enumerate(sources, 1):
        cell = nbformat.v4.new_code_cell(source, execution_count=i)
        cell.metadata.slideshow = {"slide_type": "slide"}
        cells.append(cell)
    return nbformat.v4.new_notebook(cells=cells)


def test_faults_are_found():
    assert faults(_notebook("1 + 1", "2")) == []
    planted = _notebook("1", "x" * 100, "3")
    planted.cells[0].execution_count = 3
    planted.cells[1].metadata.pop("slideshow")
    planted.cells[2].metadata.tags = ["raises-exception"]
    planted.cells[2].outputs = [nbformat.v4.new_output("stream", name="stderr", text="oh")]
    text = "\n".join(faults(planted))
    for word in ("top to bottom", "slide type", "raises-exception", "fit the screen", "warning"):
        assert word in text


def test_a_cell_that_changes_what_it_finds_is_found(tmp_path):
    notebook = _notebook("n = 0", "n += 1\nprint(n)", "print('steady')")
    assert [line[:6] for line in run_twice(notebook, tmp_path)] == ["cell 1"]


def test_a_cell_that_fails_is_found(tmp_path):
    with pytest.raises(Exception, match="ZeroDivisionError"):
        run_twice(_notebook("1 / 0"), tmp_path)


def test_notebooks_are_plain_json():
    for path in NOTEBOOKS:
        assert json.loads(path.read_text())["metadata"]["kernelspec"]["name"] == "python3"
