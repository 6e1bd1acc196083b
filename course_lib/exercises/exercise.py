"""What an exercise is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from course_lib.exercises.source import Function, functions


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
        if len(functions(self.stub)) != 1:
            raise ValueError(f"the stub of exercise {self.id} must hold exactly one function")

    @property
    def name(self) -> str:
        """The name of the function that the student writes."""
        return next(iter(functions(self.stub)))
