"""Predictions and quizzes: the questions of a lesson, asked in its notebook, answered only here.

They stand in lesson01.toml and so on beside this file, so that no notebook shows an answer before
the guess. With a browser they are widgets; without one (`runtime.live()` is False) the question is
printed, and the answer waits for a live run. In the pages of `make run` it is there, folded.
"""

from __future__ import annotations

import functools
import html
import os
import string
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ipywidgets as ui
from IPython.display import HTML, display

from course_lib import runtime

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Question:
    """A multiple-choice question, with the reason why each option is right, or why people guess it.

    Raises: ValueError when the answer is none of the options.
    """

    text: str
    answer: str
    options: Mapping[str, str]
    why: Mapping[str, str]

    @classmethod
    def read(cls, entry: Mapping) -> Question:
        """From a table of the TOML file, whose options are named A, B, C and so on."""
        pairs = {letter: entry[letter] for letter in string.ascii_uppercase if letter in entry}
        return cls(entry["question"], entry["answer"],
                   options={k: option for k, (option, _) in pairs.items()},
                   why={k: why for k, (_, why) in pairs.items()})

    def __post_init__(self) -> None:
        if self.answer not in self.options:
            raise ValueError(f"answer {self.answer!r} is none of {', '.join(self.options)}")

    @property
    def choices(self) -> list[str]:
        return [f"{letter}  {option}" for letter, option in self.options.items()]


@functools.cache
def of_lesson(number: int) -> tuple[dict[str, Question], list[Question]]:
    """A lesson's predictions by their ids, and its quiz.

    Raises: ValueError for a lesson without questions.
    """
    file = FOLDER / f"lesson{number:02d}.toml"
    if not file.exists():
        raise ValueError(f"lesson {number} has no questions: {file.name} is not there")
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    predictions = {id: Question.read(entry) for id, entry in content["predictions"].items()}
    return predictions, [Question.read(entry) for entry in content["quiz"]]


def prediction(id: str) -> Question:
    """The prediction with an id such as "3.a".

    Raises: ValueError that names the ids there are.
    """
    lesson, _, _ = id.partition(".")
    if not lesson.isdigit():
        raise ValueError(f"{id!r} is no id of a prediction: write it like \"3.a\"")
    there, _ = of_lesson(int(lesson))
    if id not in there:
        raise ValueError(f"there is no prediction {id!r}; there are: {', '.join(there)}")
    return there[id]


@dataclass
class _State:
    guess: str | None = None
    waiting: list[tuple[ui.HTML, str]] = field(default_factory=list)  # reveals on the page


_states: dict[str, _State] = defaultdict(_State)


def predict(id: str) -> None:
    """Ask for a guess before the result is seen; `reveal(id)` gives the answer after the run.

    A locked guess stays locked, also when the cell runs again.
    """
    question = prediction(id)
    if runtime.live():
        display(_prediction_box(id, question, _states[id]))
    else:
        print("\n".join([f"Prediction {id} · {question.text}",
                         *(f"   {choice}" for choice in question.choices),
                         "Decide before you run the next cell."]))


def reveal(id: str, measured: str = "") -> None:
    """After the run: the right answer, what was guessed, and why people guess the others.

    `measured` is a sentence with the number that the lesson just measured. Where no guess is
    locked yet, the answer waits for it.
    """
    question = prediction(id)
    if not runtime.live():
        display(HTML(_folded(id, question, measured)))
        return
    place = ui.HTML()
    place.add_class("course-reveal")
    _states[id].waiting.append((place, measured))
    _fill(id, question, _states[id])
    display(place)


def quiz(lesson: int) -> None:
    """The questions at a lesson's end, with feedback on each option that is tried."""
    _, questions = of_lesson(lesson)
    if runtime.live():
        display(ui.VBox([_quiz_question(i, q) for i, q in enumerate(questions, 1)]))
        return
    print("\n\n".join("\n".join([f"{i}. {q.text}", *(f"   {c}" for c in q.choices)])
                      for i, q in enumerate(questions, 1)))


def _folded(id: str, question: Question, measured: str) -> str:
    """A reveal without a browser. `COURSE_ANSWERS=1`, set by `make run`: with the answer."""
    said, lines = f"Prediction {id}: lock your guess, then run this cell.", [measured]
    if os.environ.get("COURSE_ANSWERS") == "1":
        said, lines = f"Prediction {id}: the answer", _answer(id, question, measured)
    text = "<br>\n".join(html.escape(line) for line in lines)
    return f"<details><summary>{said}</summary>\n{text}\n</details>"


def _answer(id: str, question: Question, measured: str, guess: str | None = None) -> list[str]:
    """Line by line: what is right, what was measured, and the reasons."""
    verdict = "" if guess is None else \
        " You were right." if guess == question.answer else f" You guessed {guess}."
    right = question.options[question.answer]
    # The reader's own guess first, then the right answer, then the others.
    order = sorted(question.options, key=lambda a: (a != guess, a != question.answer, a))
    return [f"Prediction {id}: {question.answer} is right, {right}.{verdict}",
            *[measured] * bool(measured),
            *(f"{letter}: {question.why[letter]}" for letter in order)]


def _prediction_box(id: str, question: Question, state: _State) -> ui.VBox:
    radio = _radio(question)
    button = ui.Button(description="Lock my guess", disabled=True, button_style="primary",
                       tooltip="Your guess cannot be changed afterwards")
    said = ui.HTML()
    letters = list(question.options)

    def lock() -> None:
        radio.disabled = button.disabled = True
        said.value = f"Locked: {state.guess}. Run the next cell."

    def choose(_: object) -> None:
        button.disabled = radio.index is None or state.guess is not None

    def press(_: object) -> None:
        state.guess = letters[radio.index]
        lock()
        _fill(id, question, state)

    radio.observe(choose, "index")
    button.on_click(press)
    if state.guess is not None:
        radio.index = letters.index(state.guess)
        lock()
    heading = ui.HTML(f"<b>Prediction {html.escape(id)}</b> · {html.escape(question.text)}")
    box = ui.VBox([heading, radio, ui.HBox([button, said])])
    box.add_class("course-prediction")
    return box


def _fill(id: str, question: Question, state: _State) -> None:
    """Write the answer into every reveal on the page, or say what it waits for."""
    for place, measured in state.waiting:
        if state.guess is None:
            place.value = f"Lock your guess in prediction {html.escape(id)}: the answer follows."
        else:
            first, *rest = map(html.escape, _answer(id, question, measured, state.guess))
            place.value = f"<b>{first}</b><br>" + "<br>".join(rest)


def _quiz_question(number: int, question: Question) -> ui.VBox:
    radio, said = _radio(question), ui.HTML()

    def answer(_: object) -> None:
        letter = list(question.options)[radio.index]
        mark = "✓ Right." if letter == question.answer else "✗ Not this one."
        said.value = f"<b>{mark}</b> {html.escape(question.why[letter])}"

    radio.observe(answer, "index")
    box = ui.VBox([ui.HTML(f"<b>{number}. {html.escape(question.text)}</b>"), radio, said])
    box.add_class("course-quiz")
    return box


def _radio(question: Question) -> ui.RadioButtons:
    return ui.RadioButtons(options=question.choices, index=None,
                           layout=ui.Layout(width="auto", margin="0 0 8px 12px"))
