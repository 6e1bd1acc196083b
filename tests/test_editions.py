"""The editions for students and instructors: what is left out, what is told, and the minutes."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from course_lib import editions, exercises, questions, run
from course_lib.outputs import texts

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
each_lesson = pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])


def read(path):
    return nbformat.read(path, as_version=4)


def kinds(notebook):
    return [cell.metadata.slideshow.slide_type for cell in notebook.cells]


@each_lesson
def test_students_get_everything_but_the_notes(path):
    stored, edition = read(path), editions.student(read(path))
    assert "notes" in kinds(stored)
    assert edition.cells == [c for c in stored.cells if c.metadata.slideshow.slide_type != "notes"]


@each_lesson
def test_instructors_get_every_solution_every_answer_and_the_minutes(path):
    edition, lesson = editions.instructor(read(path)), int(path.stem[:2])
    text = "\n".join(cell.source for cell in edition.cells)
    for exercise in exercises.of_lesson(lesson):
        assert exercises.solved_source(exercise.id) in text
    predictions, quiz = questions.of_lesson(lesson)
    for question in [*predictions.values(), *quiz]:
        assert all(why in text for why in question.why.values())
    reading = int(re.search(r"Time:\S* about\s(\d+)", edition.cells[0].source)[1])
    minutes = [int(m) for m in re.findall(r"\| (\d+) min \|", edition.cells[1].source)]
    assert sum(minutes) >= reading - len(minutes)


@pytest.mark.slow
def test_an_edition_is_written_run_and_passes_its_own_comparison(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "BUILD", tmp_path)
    cell = nbformat.v4.new_code_cell
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell("# 03"),
        cell("from course_lib.exercises import check"), cell("pass"),
        cell('check("3.1", fgsm_step)')])
    notebook.cells[2].metadata.tags = ["exercise-3.1"]
    nbformat.write(notebook, tmp_path / "03_short.ipynb")
    for edition in ("student", "instructor"):
        assert editions.main([edition, str(tmp_path / "03_short.ipynb")]) == 0
    made = read(tmp_path / "instructor" / "notebooks" / "03_short.ipynb")
    assert texts(made.cells[-1].outputs)["stdout"].startswith("✓")
    assert (tmp_path / "student" / "docs" / "glossary.md").exists()
