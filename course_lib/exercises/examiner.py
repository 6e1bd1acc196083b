"""Checks as declarations: cases, properties of what comes back, and mistakes as functions.

The student's function runs once per case. What comes back must have each property, in order; where
it equals what a known mistake returns, the mistake's message is the finding; else it is compared
with the solution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from course_lib.exercises.diagnoses import Finding, close, per_image, run


@dataclass(frozen=True)
class Examiner:
    """What `Exercise.diagnose` may be.

    cases: the arguments of each call, made afresh for every check. properties: called with what
    the function returned and the arguments of the case. mistakes: for each message a function that
    makes the mistake; it must do so in every case. in_order: whether the cases try one line of the
    function after the other; a mistake need then agree only up to the first case that goes wrong.
    part: what is compared of a result that is no number and no tensor. alone: whether each image
    has to get what it gets in company. name, idea: of what is returned, for messages; the name may
    hold the arguments of the case, as "{0}" or "{1:g}".
    exact: whether the solution's numbers are asked for; else the properties and `further` decide.
    further: what only other calls can show.
    through: makes of a function what is examined, where that is not what the function returns; of
    the student's, the solution and the mistakes alike. `further` is given the student's own.

    >>> double = Examiner(lambda x: 2 * x, cases=lambda: [(torch.ones(2),)],
    ...                   mistakes={"the factor is missing.": lambda x: x})
    >>> double(lambda x: x), double(lambda x: x + x)
    ('the factor is missing.', None)
    """

    solution: Callable[..., Any]
    cases: Callable[[], Sequence[tuple[Any, ...]]]
    mistakes: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    properties: Sequence[Callable[..., Finding]] = ()
    in_order: bool = False
    part: Callable[[Any], Any] = lambda result: result
    alone: bool = False
    name: str = "the result"
    idea: str = ""
    exact: bool = True
    further: Callable[[Callable[..., Any]], Finding] | None = None
    atol: float = 1e-5
    through: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None

    def __call__(self, fn: Callable[..., Any]) -> Finding:
        if view := self.through:
            seen = replace(self, through=None, further=None, solution=view(self.solution),
                           mistakes={words: view(wrong) for words, wrong in self.mistakes.items()})
            return seen(view(fn)) or (self.further(fn) if self.further else None)
        cases, results = self.cases(), []
        for case in cases:
            result, finding = run(fn, *case)
            if result is None:
                return finding or "your function returns nothing. Is the return line missing?"
            for rule in self.properties:
                finding = finding or rule(result, *case)
            if finding:
                return finding
            results.append(result)
            if self.in_order and not self._same(self.solution(*case), result):
                break
        for message, mistake in self.mistakes.items():
            if all(self._same(mistake(*case), result)
                   for case, result in zip(cases, results, strict=False)):
                return message
        if self.alone and (finding := self._alone(fn, cases[0])):
            return finding
        for case, result in zip(cases, results, strict=False):
            if self.exact and (finding := close(
                    self.part(result), self.part(self.solution(*case)), self.name.format(*case),
                    self.idea, atol=self.atol)):
                return finding
        return self.further(fn) if self.further else None

    def _same(self, theirs: Any, mine: Any) -> bool:
        """Numbers or tensors of any dtype; NaN is the same as NaN."""
        wrong, given = (torch.as_tensor(self.part(result), dtype=torch.float64)
                        for result in (theirs, mine))
        return wrong.shape == given.shape and torch.allclose(
            wrong, given, atol=self.atol, rtol=1e-4, equal_nan=True)

    def _alone(self, fn: Callable[..., Any], case: Sequence[Any]) -> Finding:
        """`per_image` for a case that holds more than images."""
        def call(*images: Tensor) -> Tensor:
            given = iter(images)
            return fn(*(next(given) if isinstance(value, Tensor) else value for value in case))
        return per_image(call, *(value for value in case if isinstance(value, Tensor)),
                         what=self.name.removeprefix("the "))


def first(findings: Mapping[str, object]) -> Finding:
    """The first message whose condition holds: for results that chance has a part in.

    >>> first({"too small.": 1 < 0, "too large.": 1 > 0})
    'too large.'
    """
    return next((message for message, holds in findings.items() if holds), None)
