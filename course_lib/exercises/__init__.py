"""Exercises: `check`, `hint`, `solution`, and `verified` for the cells that build on an exercise.

The exercises of lesson 3 live in `course_lib.exercises.lesson03`, in a list named EXERCISES.
`course_lib.exercises.diagnoses` has the property tests that many exercises share.
"""

from __future__ import annotations

import importlib
import inspect
from collections import Counter

from course_lib.exercises import record
from course_lib.exercises.examine import UNTOUCHED, examine, in_notebook, one_line
from course_lib.exercises.exercise import Exercise
from course_lib.exercises.source import (
    Function,
    imports,
    is_own,
    same_code,
    source_of,
    without_docstring,
)

__all__ = [
    "Exercise", "check", "get", "hint", "of_lesson", "progress", "same_code", "show_source",
    "solution", "solved_source", "verified",
]

# What this kernel knows: functions that passed their last check, and hints shown so far.
_passed: dict[str, Function] = {}
_hints_shown: Counter[str] = Counter()


def of_lesson(number: int) -> list[Exercise]:
    """The exercises of one lesson, in order; an empty list where a lesson has none."""
    name = f"{__name__}.lesson{number:02d}"
    try:
        return list(importlib.import_module(name).EXERCISES)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return []


def get(id: str) -> Exercise:
    """The exercise of that id, such as "3.2".

    Raises: ValueError that lists the exercises there are.
    """
    lesson = str(id).partition(".")[0]
    known = of_lesson(int(lesson)) if lesson.isdigit() else []
    for exercise in known:
        if exercise.id == id:
            return exercise
    there_are = f"lesson {lesson} has {', '.join(e.id for e in known)}" if known else \
        'write it as in "3.2"'
    raise ValueError(f"there is no exercise {id!r}: {there_are}")


def check(id: str, fn: Function) -> None:
    """Say in one line whether fn is not attempted, not yet right (and why), or correct."""
    try:
        exercise = get(id)
    except ValueError as error:
        print(f"✗ {error}")
        return
    finding = examine(exercise, fn)
    if finding is not UNTOUCHED:
        record.note(id, correct=finding is None)
    if finding is None:
        _passed[id] = fn
        print(f"✓ Exercise {id}: correct. {one_line(exercise.praise)}".rstrip())
        return
    _passed.pop(id, None)
    if finding is UNTOUCHED:
        print(f"○ Exercise {id}: not attempted yet. Fill in {exercise.name}, run its cell, "
              "then run this one again.")
    else:
        print(f"✗ Exercise {id}: not yet: {one_line(finding)}")


def progress() -> None:
    """Show which exercises you have solved, in all lessons, also before the kernel restarted."""
    kept = record.load()
    rows = []
    for number in range(100):
        for exercise in of_lesson(number):
            entry = kept.get(exercise.id, {"tries": 0, "correct": False})
            state = "✓ correct" if entry["correct"] else "✗ not yet" if entry["tries"] else "○"
            rows.append(f"| {exercise.id} | {exercise.title} | {state} | {entry['tries']} |")
    solved = sum(entry["correct"] for entry in kept.values())
    _show(f"**{solved} of {len(rows)} exercises solved.**\n\n"
          "| exercise | title | state | checks |\n| :--- | :--- | :--- | ---: |\n"
          + "\n".join(rows))


def verified(id: str) -> Function:
    """The student's function if its last check was correct, else the course's; says which."""
    exercise = get(id)
    if id in _passed:
        print(f"Exercise {id}: this cell runs on your {exercise.name}.")
        return _passed[id]
    print(f"Exercise {id}: this cell runs on the course's {exercise.name}; "
          "yours takes over once its check says correct.")
    return exercise.solution


def hint(id: str) -> None:
    """Show the next of the three hints of an exercise; after the third, start again."""
    exercise = get(id)
    number = _hints_shown[id] % 3
    _hints_shown[id] += 1
    text = f"**Hint {number + 1} of 3** (exercise {id}). {exercise.hints[number].strip()}"
    if number == 2:
        text += f'\n\nThat was the last one; `solution("{id}")` shows the answer.'
    _show(text)


def solution(id: str) -> None:
    """Show the source of an exercise's solution."""
    exercise = get(id)
    answer = inspect.unwrap(exercise.solution)
    where = "" if is_own(answer) else f", as it stands in `{answer.__module__}`"
    _show(f"**Solution of exercise {id}**, {exercise.title}{where}:")
    show_source(answer)


def show_source(fn: Function) -> None:
    """Show the code of a function of the library as it runs, without its docstring."""
    _show(f"```python\n{without_docstring(source_of(fn))}```")


def solved_source(id: str) -> str:
    """Code that replaces the stub cell in the solved edition; it brings its own imports."""
    exercise = get(id)
    answer = inspect.unwrap(exercise.solution)
    rename = f" as {exercise.name}" if answer.__name__ != exercise.name else ""
    if not is_own(answer):
        return f"from {answer.__module__} import {answer.__name__}{rename}\n"
    source = source_of(answer)
    if rename:
        source += f"\n\n{exercise.name} = {answer.__name__}\n"
    return "\n".join(imports(answer, source)) + "\n\n\n" + source


def _show(markdown: str) -> None:
    if in_notebook():
        from IPython.display import Markdown, display

        display(Markdown(markdown))
    else:
        print(markdown)
