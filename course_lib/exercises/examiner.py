"""Checks as declarations: cases, properties of what comes back, and mistakes as functions.

The student's function runs once per case. What comes back must have each property, in order; where
it equals what a known mistake returns, the mistake's message is the finding; else it is compared
with the solution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from course_lib.exercises.diagnoses import Finding, close, per_image, run


@dataclass(frozen=True)
class Examiner:
    """What `Exercise.diagnose` may be.

    cases: the arguments of each call, made afresh for every check. properties: called with what
    the function returned and the arguments of the case. mistakes: for each message a function that
    makes the mistake; it must do so in every case. alone: whether each image has to get what it
    gets in company. name, idea: of what is returned, for messages.
    exact: whether the solution's numbers are asked for; else the properties and `further` decide.
    further: what only other calls can show.

    >>> double = Examiner(lambda x: 2 * x, cases=lambda: [(torch.ones(2),)],
    ...                   mistakes={"the factor is missing.": lambda x: x})
    >>> double(lambda x: x), double(lambda x: x + x)
    ('the factor is missing.', None)
    """

    solution: Callable[..., Any]
    cases: Callable[[], Sequence[tuple[Any, ...]]]
    mistakes: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    properties: Sequence[Callable[..., Finding]] = ()
    alone: bool = False
    name: str = "the result"
    idea: str = ""
    exact: bool = True
    further: Callable[[Callable[..., Any]], Finding] | None = None
    atol: float = 1e-5

    def __call__(self, fn: Callable[..., Any]) -> Finding:
        cases, results = self.cases(), []
        for case in cases:
            result, finding = run(fn, *case)
            for rule in self.properties:
                finding = finding or rule(result, *case)
            if finding:
                return finding
            results.append(result)
        for message, mistake in self.mistakes.items():
            if all(self._same(mistake(*case), result)
                   for case, result in zip(cases, results, strict=True)):
                return message
        if self.alone and (finding := per_image(fn, *cases[0])):
            return finding
        for case, result in zip(cases, results, strict=True):
            if self.exact and (finding := close(
                    result, self.solution(*case), self.name, self.idea, atol=self.atol)):
                return finding
        return self.further(fn) if self.further else None

    def _same(self, theirs: Tensor, mine: Tensor) -> bool:
        return torch.allclose(theirs, mine, atol=self.atol, rtol=1e-4)
