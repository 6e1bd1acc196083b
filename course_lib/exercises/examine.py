"""Running a student's function: undisturbed by what it does, and with a line for what it raises."""

from __future__ import annotations

import contextlib
import inspect
import io
import random
import textwrap
import traceback
import warnings
from collections.abc import Iterator

import torch

from course_lib.exercises.exercise import Exercise
from course_lib.exercises.source import Function, fingerprint, functions, source_of

UNTOUCHED = "the stub as it was"


def examine(exercise: Exercise, fn: Function) -> str | None:
    if not callable(fn):
        return (f"check wants the function itself, not a {type(fn).__name__}: "
                f'write check("{exercise.id}", {exercise.name}) without calling it.')
    if _is_untouched(exercise, fn):
        return UNTOUCHED
    try:
        with _undisturbed():
            return exercise.diagnose(fn)
    except KeyboardInterrupt:
        return "it was interrupted while it ran. Does your loop come to an end?"
    except (Exception, SystemExit) as error:
        return _explain(error, fn)


def _is_untouched(exercise: Exercise, fn: Function) -> bool:
    try:
        written = functions(source_of(fn))
    except (OSError, TypeError, SyntaxError):
        return False
    stub = functions(exercise.stub)[exercise.name]
    return any(fingerprint(f) == fingerprint(stub) for f in written.values())


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
    if in_notebook():
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
    what = one_line(str(error).strip().split("\n")[0])
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


def one_line(text: str) -> str:
    return " ".join(text.split())


def in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ModuleNotFoundError:
        return False
    return get_ipython() is not None
