"""Two editions of the lessons, made from the one source. `make student` and `make instructor`

    python -m course_lib.editions student [lesson.ipynb ...]
    python -m course_lib.editions instructor [lesson.ipynb ...]

write build/student (without speaker notes, otherwise as stored) and build/instructor (run again
with all exercises solved, the answers of predictions and quiz, and a plan of the minutes).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib import exercises, questions, run
from course_lib.questions import Question

EXERCISE = re.compile(r"exercise-(\d+\.\d+)")  # the tag of a stub
_ASKED = re.compile(r'^predict\("(.+?)"\)', re.MULTILINE)
_QUIZ = re.compile(r"^quiz\((\d+)\)", re.MULTILINE)
_READING = re.compile(r"\*\*Time:\*\*\s+about\s+(\d+)\s+minutes")
_EFFORT = re.compile(r"Difficulty \d/5, importance \d/5, about (\d+) minutes")
_WORDS = 30  # that a code cell counts for: it is read and run


def solve(notebook: NotebookNode) -> NotebookNode:
    """Put each exercise's solution into its stub, in place."""
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if match := EXERCISE.fullmatch(tag):
                cell.source = exercises.solved_source(match[1])
    return notebook


def student(notebook: NotebookNode) -> NotebookNode:
    """Without speaker notes, in place."""
    notebook.cells = [cell for cell in notebook.cells if not _is_notes(cell)]
    return notebook


def instructor(notebook: NotebookNode) -> NotebookNode:
    """Solved, with the answers of all questions and a plan of the minutes, in place; not run."""
    solve(notebook)
    cells = [notebook.cells[0], _markdown(plan(notebook)), *notebook.cells[1:]]
    notebook.cells = [told for cell in cells for told in (cell, *answers(cell))]
    return notebook


def plan(notebook: NotebookNode) -> str:
    """A table of sections and minutes, in Markdown.

    The minutes that the first cell states for reading are shared out by the words and code cells
    of the sections; an exercise takes what its line says.

    >>> first = nbformat.v4.new_markdown_cell("# 09\\n**Time:** about 20 minutes")
    >>> parts = [nbformat.v4.new_markdown_cell(f"## {name}\\n\\nsome words") for name in "AB"]
    >>> print(plan(nbformat.v4.new_notebook(cells=[first, *parts])))
    | section | reading | exercises |
    | :--- | ---: | ---: |
    | A | 10 min | |
    | B | 10 min | |
    """
    stated = _READING.search(notebook.cells[0].source)
    sections: dict[str, list[float]] = {}
    name = "opening"
    for cell in notebook.cells[1:]:
        if _is_notes(cell):
            continue
        if heading := re.search(r"^## (.+)", cell.source, re.MULTILINE):
            name = heading[1]
        words, minutes = sections.setdefault(name, [0, 0])
        effort = _EFFORT.search(cell.source)
        words += _WORDS if cell.cell_type == "code" else len(cell.source.split())
        sections[name] = [words, minutes + (int(effort[1]) if effort else 0)]
    whole = sum(words for words, _ in sections.values())
    rows = [f"| {name} | {words / whole * int(stated[1] if stated else 45):.0f} min | "
            + (f"{minutes} min |" if minutes else "|")
            for name, (words, minutes) in sections.items()]
    return "\n".join(["| section | reading | exercises |", "| :--- | ---: | ---: |", *rows])


def answers(cell: NotebookNode) -> list[NotebookNode]:
    """The answer of a cell that asks, and for each wrong guess why people make it."""
    if cell.cell_type != "code":
        return []
    told = [_told(f"Prediction {id}", questions.prediction(id))
            for id in _ASKED.findall(cell.source)]
    for number in _QUIZ.findall(cell.source):
        _, quiz = questions.of_lesson(int(number))
        told += [_told(f"Question {i}", question) for i, question in enumerate(quiz, 1)]
    return [_markdown("\n\n".join(told))] if told else []


def _told(name: str, question: Question) -> str:
    lines = [f"- **{letter}**, {option}. {question.why[letter]}"
             for letter, option in question.options.items()]
    return "\n".join([f"**{name}: {question.answer} is right.**", "", *lines])


def _markdown(source: str) -> NotebookNode:
    cell = nbformat.v4.new_markdown_cell(source)
    cell.metadata.slideshow = {"slide_type": "notes"}
    return cell


def _is_notes(cell: NotebookNode) -> bool:
    return cell.metadata.get("slideshow", {}).get("slide_type") == "notes"


def make(edition: str, paths: Sequence[Path], folder: Path) -> None:
    """Write an edition of lessons to folder/notebooks, and beside it the pages they link to."""
    target = folder / "notebooks"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copytree(run.ROOT / "docs", folder / "docs", dirs_exist_ok=True)
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        if edition == "student":
            student(notebook)
        else:
            instructor(notebook)
            run.execute(notebook, target, label=path.stem)
        nbformat.write(notebook, target / path.name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course_lib.editions",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("edition", choices=("student", "instructor"))
    parser.add_argument("lessons", nargs="*", type=Path,
                        default=sorted((run.ROOT / "notebooks").glob("*.ipynb")))
    chosen = parser.parse_args(arguments)
    if missing := [str(path) for path in chosen.lessons if not path.is_file()]:
        parser.error(f"no such notebook: {', '.join(missing)} (say notebooks/01_norms.ipynb)")
    os.environ["COURSE_WIDGETS"] = "0"  # kernels inherit it: no front end will draw widgets
    folder = run.BUILD / chosen.edition
    make(chosen.edition, chosen.lessons, folder)
    print(f"The {chosen.edition}'s edition is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
