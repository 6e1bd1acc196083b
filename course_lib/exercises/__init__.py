"""Exercises: `check`, `hint`, `solution`, and `verified` for the cells that build on an exercise.

The exercises of lesson 3 live in `course_lib.exercises.lesson03`, in a list named EXERCISES.
`course_lib.exercises.diagnoses` has the property tests that many exercises share.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import random
import re
import textwrap
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from course_lib.exercises import record

__all__ = [
    "Exercise", "check", "get", "hint", "of_lesson", "progress", "same_code", "show_source",
    "solution", "solved_source", "verified",
]

Function = Callable[..., Any]


@dataclass(frozen=True)
class Exercise:
    """One exercise. `diagnose` runs the student's function and names its mistake, or returns None.

    id: "3.2", the second exercise of lesson 3. stub: the source of the one function that the
    student completes, as it stands in the notebook. solution: a real function that fits the same
    calls; the library's own wherever it can be. hints: three, each leading a little further.
    praise: one sentence worth knowing once it works.
    """

    id: str
    title: str
    stub: str
    solution: Function
    hints: tuple[str, str, str]
    diagnose: Callable[[Function], str | None]
    praise: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stub", textwrap.dedent(self.stub).strip() + "\n")
        if not re.fullmatch(r"\d+\.\d+", self.id):
            raise ValueError(f'exercise id {self.id!r}: write lesson and number, as in "3.2"')
        if len(self.hints) != 3:
            raise ValueError(f"exercise {self.id} has {len(self.hints)} hints: give three")
        if len(_functions(self.stub)) != 1:
            raise ValueError(f"the stub of exercise {self.id} must hold exactly one function")

    @property
    def name(self) -> str:
        """The name of the function that the student writes."""
        return next(iter(_functions(self.stub)))


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
    finding = _examine(exercise, fn)
    if finding is not _UNTOUCHED:
        record.note(id, correct=finding is None)
    if finding is None:
        _passed[id] = fn
        print(f"✓ Exercise {id}: correct. {_one_line(exercise.praise)}".rstrip())
        return
    _passed.pop(id, None)
    if finding is _UNTOUCHED:
        print(f"○ Exercise {id}: not attempted yet. Fill in {exercise.name}, run its cell, "
              "then run this one again.")
    else:
        print(f"✗ Exercise {id}: not yet: {_one_line(finding)}")


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
    where = "" if _is_own(answer) else f", as it stands in `{answer.__module__}`"
    _show(f"**Solution of exercise {id}**, {exercise.title}{where}:")
    show_source(answer)


def show_source(fn: Function) -> None:
    """Show the code of a function of the library as it runs, without its docstring."""
    _show(f"```python\n{_without_docstring(_source(fn))}```")


def solved_source(id: str) -> str:
    """Code that replaces the stub cell in the solved edition; it brings its own imports."""
    exercise = get(id)
    answer = inspect.unwrap(exercise.solution)
    rename = f" as {exercise.name}" if answer.__name__ != exercise.name else ""
    if not _is_own(answer):
        return f"from {answer.__module__} import {answer.__name__}{rename}\n"
    source = _source(answer)
    if rename:
        source += f"\n\n{exercise.name} = {answer.__name__}\n"
    return "\n".join(_imports(answer, source)) + "\n\n\n" + source


def same_code(first: str, second: str) -> bool:
    """Whether two sources are the same program: comments, blanks, docstrings do not count."""
    return _fingerprint(ast.parse(textwrap.dedent(first))) == \
        _fingerprint(ast.parse(textwrap.dedent(second)))


# --- examining a student's function -------------------------------------------------------------

_UNTOUCHED = "the stub as it was"


def _examine(exercise: Exercise, fn: Function) -> str | None:
    if not callable(fn):
        return (f"check wants the function itself, not a {type(fn).__name__}: "
                f'write check("{exercise.id}", {exercise.name}) without calling it.')
    if _is_untouched(exercise, fn):
        return _UNTOUCHED
    try:
        with _undisturbed():
            return exercise.diagnose(fn)
    except KeyboardInterrupt:
        return "it was interrupted while it ran. Does your loop come to an end?"
    except (Exception, SystemExit) as error:
        return _explain(error, fn)


def _is_untouched(exercise: Exercise, fn: Function) -> bool:
    try:
        written = _functions(_source(fn))
    except (OSError, TypeError, SyntaxError):
        return False
    stub = _functions(exercise.stub)[exercise.name]
    return any(_fingerprint(f) == _fingerprint(stub) for f in written.values())


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Run foreign code: swallow what it prints, and put the global random state back."""
    import numpy as np

    states = random.getstate(), np.random.get_state()  # noqa: NPY002 what students may seed
    grad = torch.is_grad_enabled()
    try:
        with (torch.random.fork_rng(), torch.enable_grad(), _silence(),
              warnings.catch_warnings()):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_grad_enabled(grad)


def _silence() -> contextlib.AbstractContextManager:
    if _in_notebook():
        from IPython.utils.capture import capture_output

        return capture_output()  # also swallows pictures
    silence = contextlib.ExitStack()
    silence.enter_context(contextlib.redirect_stdout(io.StringIO()))
    silence.enter_context(contextlib.redirect_stderr(io.StringIO()))
    return silence


# Messages of PyTorch that beginners cannot read, and the idea behind each.
_MEANING = {
    "does not require grad":
        "The loss does not depend on a tensor that tracks gradients: start from "
        "x.clone().requires_grad_().",
    "leaf Variable that requires grad": "Build a new tensor instead of changing x in place.",
    "backward through the graph a second": "Compute the loss anew before each gradient.",
    "grad can be implicitly created only for scalar": "Sum the losses of the batch first.",
    "appears to not have been used in the graph":
        "Compute the loss from the very tensor whose gradient you ask for.",
    "must match the size of tensor":
        "Two shapes do not fit: one number per image becomes [n, 1, 1, 1] with "
        ".view(-1, 1, 1, 1).",
    "'NoneType' object":
        "Something is None: x.grad is filled only by backward(), and only on a tensor with "
        "requires_grad.",
}


def _explain(error: BaseException, fn: Function) -> str:
    """One line for an exception: its name, its message, the student's line, and the idea."""
    what = _one_line(str(error).strip().split("\n")[0])
    what = f"{type(error).__name__}: {what}" if what else type(error).__name__
    what = textwrap.shorten(what, 220, placeholder=" …").rstrip(".")
    meaning = next((f" {m}" for sign, m in _MEANING.items() if sign in str(error)), "")
    frame = _student_frame(error, fn)
    if frame is not None:
        line = f' "{frame.line}"' if frame.line else ""
        return f"{what}, in line {frame.lineno} of your cell:{line}.{meaning}"
    if isinstance(error, TypeError) and f"{getattr(fn, '__name__', '')}()" in str(error):
        return f"{what}. Keep the arguments as the stub has them."
    return f"the check could not use what your function returned ({what}).{meaning}"


def _student_frame(error: BaseException, fn: Function) -> traceback.FrameSummary | None:
    """The innermost line of the student's own code that an exception passed through."""
    fn = inspect.unwrap(fn)
    code, namespace = getattr(fn, "__code__", None), getattr(fn, "__globals__", None)
    found, inside = None, False
    for frame, lineno in traceback.walk_tb(error.__traceback__):
        inside = inside or frame.f_code is code
        # Helpers from other cells share the notebook's namespace: they are the student's too.
        if inside and frame.f_globals is namespace:
            found = traceback.FrameSummary(frame.f_code.co_filename, lineno, frame.f_code.co_name)
    return found


# --- reading source -----------------------------------------------------------------------------

def _source(fn: Function) -> str:
    return textwrap.dedent(inspect.getsource(inspect.unwrap(fn)))


def _functions(source: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(textwrap.dedent(source))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def _fingerprint(tree: ast.AST) -> str:
    """The program as text, the same for two sources that differ in comments and docstrings only."""
    tree = ast.parse(ast.unparse(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def _without_docstring(source: str) -> str:
    """A library function or class as a student reads it: its code, with the comments kept."""
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef | ast.ClassDef)
    if ast.get_docstring(definition) is None:
        return source
    lines = source.splitlines(keepends=True)
    docstring = definition.body[0]
    del lines[docstring.lineno - 1:docstring.end_lineno]
    return "".join(lines)


def _imports(fn: Function, source: str) -> list[str]:
    """Import lines for every global that a function's source mentions."""
    used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    lines = []
    for name in sorted(used & fn.__globals__.keys() - {fn.__name__, *fn.__code__.co_varnames}):
        value = fn.__globals__[name]
        if isinstance(value, types.ModuleType):
            lines.append(f"import {value.__name__}" if value.__name__ == name
                         else f"import {value.__name__} as {name}")
        else:
            home = getattr(value, "__module__", None) or fn.__module__
            if getattr(importlib.import_module(home), name, None) is not value:
                home = fn.__module__  # an alias, or a constant: import it from where it is used
            lines.append(f"from {home} import {name}")
    return lines


def _is_own(fn: Function) -> bool:
    """Whether a solution was written for its exercise, rather than taken from the library."""
    return not fn.__module__.startswith("course_lib.") or fn.__module__.startswith(f"{__name__}.")


# --- showing ------------------------------------------------------------------------------------

def _one_line(text: str) -> str:
    return " ".join(text.split())


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ModuleNotFoundError:
        return False
    return get_ipython() is not None


def _show(markdown: str) -> None:
    if _in_notebook():
        from IPython.display import Markdown, display

        display(Markdown(markdown))
    else:
        print(markdown)
