"""Predictions and quizzes: live with their traits driven by hand, and without a browser."""

from __future__ import annotations

import re
from collections import defaultdict

import ipywidgets as ui
import pytest
from test_widgets import parts

from course_lib import questions
from course_lib.questions import Question

LESSONS = sorted(int(path.stem[-2:]) for path in questions.FOLDER.glob("lesson*.toml"))
ENTRY = {"question": "How many are fooled?", "answer": "C", "A": ["none", "They look alike."],
         "B": ["half, < 1", "It sounds fair."], "C": ["nearly all", "The step fits."]}


@pytest.fixture
def displayed(monkeypatch):
    """What the front end was given; the questions are those above."""
    asked = Question.read(ENTRY)
    monkeypatch.setattr(questions, "of_lesson", lambda lesson: ({"3.a": asked}, [asked, asked]))
    monkeypatch.setattr(questions, "_states", defaultdict(questions._State))
    shown: list = []
    monkeypatch.setattr(questions, "display", shown.append)
    return shown


@pytest.fixture
def live(displayed, monkeypatch):
    monkeypatch.setenv("COURSE_WIDGETS", "1")
    return displayed


@pytest.fixture
def still(displayed, monkeypatch):
    monkeypatch.setenv("COURSE_WIDGETS", "0")
    return displayed


def test_without_a_browser_the_answer_waits(still, capsys):
    questions.predict("3.a")
    said = capsys.readouterr().out
    assert "How many are fooled?" in said and "C  nearly all" in said and "right" not in said
    questions.reveal("3.a", "Measured: 15 of 17.")
    (answer,) = still
    assert answer.data.startswith("<details>") and "15 of 17" in answer.data
    assert "lock your guess, then run this cell" in answer.data
    assert not any(words in answer.data for words in ("is right", "nearly", "The step", "sounds"))


def test_pages_fold_the_answer(still, monkeypatch):
    monkeypatch.setenv("COURSE_ANSWERS", "1")
    questions.reveal("3.a", "Measured: 15 of 17.")
    folded = still[0].data.partition("</summary>")[2]
    for words in ("C is right, nearly all.", "15 of 17", "They look alike.", "The step fits."):
        assert words in folded
    assert "nearly" not in still[0].data.partition("</summary>")[0]


def test_a_prediction_locks_and_then_reveals(live):
    questions.predict("3.a")
    questions.reveal("3.a", "Measured: 15 of 17.")
    box, answer = live
    (radio,), (button,) = parts(box, ui.RadioButtons), parts(box, ui.Button)
    assert radio.index is None and button.disabled and "Lock your guess" in answer.value
    radio.index = 1
    assert not button.disabled and "is right" not in answer.value
    button.click()
    assert radio.disabled and button.disabled
    assert "C is right, nearly all. You guessed B." in answer.value
    assert answer.value.index("It sounds fair") < answer.value.index("They look alike")


def test_a_locked_guess_survives_running_the_cell_again(live):
    questions.predict("3.a")
    (radio,), (button,) = parts(live[0], ui.RadioButtons), parts(live[0], ui.Button)
    radio.index = 2
    button.click()
    questions.predict("3.a")
    (again,) = parts(live[1], ui.RadioButtons)
    assert again.index == 2 and again.disabled
    questions.reveal("3.a")
    assert "You were right." in live[2].value


def test_a_reveal_may_run_before_its_prediction(live):
    """In a lecture any section can start alone."""
    questions.reveal("3.a", "Measured: 15 of 17.")
    assert "Lock your guess" in live[0].value and "15 of 17" not in live[0].value


def test_texts_are_escaped(live):
    questions.predict("3.a")
    questions._states["3.a"].guess = "A"
    questions.reveal("3.a", "1 < 2")
    assert "1 &lt; 2" in live[1].value


def test_the_quiz_gives_feedback_on_each_option(live):
    questions.quiz(3)
    radio = parts(live[0], ui.RadioButtons)[1]
    feedback = parts(live[0].children[1], ui.HTML)[1]
    radio.index = 1
    assert "Not this one" in feedback.value and "It sounds fair." in feedback.value
    radio.index = 2
    assert "Right" in feedback.value and "The step fits." in feedback.value


def test_the_quiz_without_a_browser(still, capsys):
    questions.quiz(3)
    said = capsys.readouterr().out
    assert "1. How many" in said and "2. How many" in said and "The step" not in said


@pytest.mark.parametrize(("id", "words"), [("3.z", "there are: 3.a"), ("12.a", "lesson12.toml"),
                                           ("a", "write it like")])
def test_unknown_predictions_are_named(id, words):
    with pytest.raises(ValueError, match=words):
        questions.predict(id)


def test_an_answer_that_is_no_option_is_refused():
    with pytest.raises(ValueError, match="'D' is none of A, B, C"):
        Question.read(ENTRY | {"answer": "D"})


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_question_is_complete(lesson):
    predictions, quiz = questions.of_lesson(lesson)
    assert len(predictions) >= 3 and len(quiz) >= 3, "three predictions, three quiz questions"
    for id, question in predictions.items():
        assert re.fullmatch(rf"{lesson}\.[a-z]", id)
        assert len(question.options) >= 3
    for question in [*predictions.values(), *quiz]:
        assert len(question.options) >= 2 and all(question.why.values())
        assert all(question.options.values()) and question.text
