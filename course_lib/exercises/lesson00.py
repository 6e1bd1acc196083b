"""Exercise of lesson 00: what makes a perturbation an attack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from course_lib.exercises.diagnoses import Finding, run
from course_lib.exercises.examiner import first
from course_lib.exercises.exercise import Exercise
from course_lib.exercises.source import Function

# --- 0.1 is it an attack? -----------------------------------------------------------------------


def is_attack(f, x, y, r, eps):
    """Whether r is an attack of size eps at most on the image x with label y."""
    x_adv = x + r
    small = r.abs().max() <= eps
    image = x_adv.min() >= 0 and x_adv.max() <= 1
    return bool(small and image and f(x) == y and f(x_adv) != y)


@dataclass(frozen=True)
class _Case:
    """A small image with a perturbation, and what a wrong answer to it means.

    All numbers are multiples of 1/16, so that no sum is rounded.
    """

    x: tuple[float, ...]
    y: int
    r: tuple[float, ...]
    eps: float
    attack: bool
    meaning: str


def _name(x: Tensor) -> int:
    """A network that anybody can follow: dark is class 0, grey is 1, bright is 2."""
    return int(x.sum() > 1) + int(x.sum() > 2.5)


_DARK = (0.25, 0.25, 0.25, 0.125)
_STEP = (0.25, 0.0, 0.0, 0.0)
_NO_BOX = ("x + r leaves [0, 1], so it is no image, and yet your function calls r an attack. Ask "
           "for the smallest and the largest entry of x + r.")
_CASES = (
    _Case(_DARK, 0, _STEP, 0.5, True,
          "r is an attack here: it is small enough, x + r is an image, the network names x "
          "correctly and x + r wrongly. Your function says no."),
    _Case(_DARK, 0, _STEP, 0.25, True,
          "the largest entry of r is exactly eps, which is allowed: use <=, not <."),
    _Case(_DARK, 0, (0.125,) * 4, 0.1875, True,
          "no entry of r is larger than eps, and your function says that r is too large. Here "
          "the size is l_inf, the largest entry: do not add the entries up."),
    _Case(_DARK, 0, (0.5, 0.0, 0.0, 0.0), 0.25, False,
          "r is larger than eps, and yet your function calls it an attack. Compare the largest "
          "entry of |r| with eps."),
    _Case((0.75, 0.25, 0.125, 0.125), 1, (-0.5, 0.0, 0.0, 0.0), 0.25, False,
          "an entry of r is -0.5 and eps is 0.25: entries may be negative. Take r.abs() before "
          "you look for the largest."),
    _Case((0.875, 0.0, 0.0, 0.0), 0, _STEP, 0.25, False, _NO_BOX),
    _Case((0.875, 0.0625, 0.0625, 0.0), 0, _STEP, 0.25, False,
          "x + r leaves [0, 1], and your function clamps it before it asks the network. That "
          "judges another perturbation than r: say no instead."),
    _Case((0.125, 0.5, 0.5, 0.0), 1, (-0.25, 0.0, 0.0, 0.0), 0.25, False,
          "an entry of x + r is below 0, so x + r is no image. Look at both ends of [0, 1]."),
    _Case(_DARK, 0, (0.0625, 0.0, 0.0, 0.0), 0.25, False,
          "the network names x + r as it should, and yet your function calls r an attack. Ask "
          "for f(x + r) != y."),
    _Case(_DARK, 1, _STEP, 0.25, False,
          "here the network misnames x, and r mends that: f(x + r) = y. An attack goes the other "
          "way. Compare f(x + r) with the true label y, not with f(x)."),
    _Case(_DARK, 2, _STEP, 0.25, False,
          "the network misnames x without any r, so r has broken nothing. Ask for f(x) == y "
          "first."),
)


def _judge(fn: Function) -> Finding:
    for case in _CASES:
        x, r = (torch.tensor(values).view(1, 2, 2) for values in (case.x, case.r))
        answer, finding = run(fn, _name, x, case.y, r, case.eps)
        if finding or (finding := _no_verdict(answer)):
            return finding
        if bool(answer) != case.attack:
            return case.meaning
    return None


def _no_verdict(answer: object) -> Finding:
    answers = answer.numel() if isinstance(answer, Tensor) else 1
    one_bool = isinstance(answer, (bool, np.bool_)) or (
        isinstance(answer, Tensor) and answer.dtype == torch.bool)
    return first({
        "your function returns nothing. Is the return line missing?": answer is None,
        f"one image gets one answer, yours has {answers}: entries are compared one by one. Take "
        "the largest entry first, or .all() of the comparison.": answers > 1,
        f"the answer must be True or False, yours is a {type(answer).__name__}.": not one_bool,
    })


EXERCISES = [
    Exercise(
        id="0.1",
        title="is it an attack?",
        stub='''
def is_attack(f, x, y, r, eps):
    """Whether r is an attack of size eps at most on the image x with label y."""
    # x and r: [colours, rows, columns]. f(x) is the name that the network gives to x.
    return False
''',
        solution=is_attack,
        hints=(
            "Read the definition aloud and count its conditions. Which of them speak about r, "
            "which about the picture x + r, and which about names?",
            "The size: can an entry of r be negative? An image: where must all entries of "
            "`x + r` lie? The names: which of `f(x)` and `f(x + r)` must be `y`?",
            "Write the four conditions on four lines and join them by `and`. Then try three cases "
            "by hand: the largest entry of |r| is exactly eps; an entry of x + r is below 0; the "
            "network misnames x already.",
        ),
        diagnose=_judge,
        praise="All attacks of this course are judged by these conditions, whatever their method.",
    ),
]
