"""Every exercise's check names wrong answers for what they are, and accepts right ones.

The answers stand in answers_lesson01.py and so on: WRONG and RIGHT by the exercise's id; with each
wrong one, words of the message that must name its mistake.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from course_lib import datasets, evaluation, models, norms
from course_lib.attacks import fgsm
from course_lib.exercises import check, get, lesson01, lesson03, of_lesson
from course_lib.exercises.lesson04 import shield
from course_lib.gradients import input_gradient

ANSWERS = [importlib.import_module(path.stem)
           for path in sorted(Path(__file__).parent.glob("answers_lesson*.py"))]
WRONG = {id: entries for module in ANSWERS for id, entries in module.WRONG.items()}
RIGHT = {id: entries for module in ANSWERS for id, entries in module.RIGHT.items()}
EXERCISES = [exercise for number in range(10) for exercise in of_lesson(number)]
# What the set-up cells of the lessons import.
IMPORTS = """import math

import torch
import torch.nn.functional as F
from course_lib import evaluation, norms
from course_lib.attacks import fgsm
from course_lib.gradients import input_gradient
from course_lib.losses import margin


"""

each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.id)


def name(id: str, fn) -> str:
    return f"{id}-{getattr(fn, '__name__', type(fn).__name__)}"


@pytest.fixture
def verdict(capsys):
    """What check says of a function, in its one line."""
    def run(id, fn):
        check(id, fn)
        out, err = capsys.readouterr()
        assert out.count("\n") == 1 and not err, out
        return out.strip()
    return run


@pytest.fixture
def stub(tmp_path):
    """An exercise's stub as a notebook has it: with a source that can be looked up."""
    def load(exercise):
        file = tmp_path / "stub.py"
        file.write_text(IMPORTS + exercise.stub)
        namespace = {"__name__": "stub"}
        exec(compile(file.read_text(), str(file), "exec"), namespace)
        return namespace[exercise.name]
    return load


@each_exercise
def test_the_check_meets_enough_answers(exercise):
    declared = getattr(exercise.diagnose, "mistakes", {})
    wrong, right = len(WRONG.get(exercise.id, [])) + len(declared), len(RIGHT.get(exercise.id, []))
    assert wrong >= 6 and right >= 2, f"{wrong} wrong and {right} right answers, in answers_lesson…"


@pytest.mark.parametrize(("exercise", "message"), [
    pytest.param(exercise, message, id=f"{exercise.id}-{message[:30]}")
    for exercise in EXERCISES for message in getattr(exercise.diagnose, "mistakes", {})])
def test_every_declared_mistake_gets_its_own_message(verdict, exercise, message):
    said = verdict(exercise.id, exercise.diagnose.mistakes[message])
    assert said == f"✗ Exercise {exercise.id}: not yet: {message}"


@pytest.mark.parametrize(("id", "fn", "words"), [
    pytest.param(id, fn, words, id=name(id, fn))
    for id, entries in WRONG.items() for fn, words in entries])
def test_the_check_names_the_mistake(verdict, id, fn, words):
    said = verdict(id, fn)
    assert said.startswith(f"✗ Exercise {id}: not yet:") and words in said, said


@pytest.mark.parametrize(("id", "fn"), [
    pytest.param(id, fn, id=name(id, fn)) for id, entries in RIGHT.items() for fn in entries])
def test_the_check_accepts_what_is_right(verdict, id, fn):
    assert verdict(id, fn).startswith(f"✓ Exercise {id}: correct")


@each_exercise
def test_stub_and_solution(verdict, stub, exercise):
    assert verdict(exercise.id, stub(exercise)).startswith(f"○ Exercise {exercise.id}: not attempt")
    assert verdict(exercise.id, exercise.solution).startswith("✓")


# --- single exercises ---------------------------------------------------------------------------

def test_the_solutions_of_lesson_01_agree_with_the_library():
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(5, 3, 6, 6, generator=draw)
    r = torch.randn(5, 3, 6, 6, generator=draw)
    assert torch.allclose(lesson01.project_l2(x + r, x, 2.0),
                          norms.project_box(x + r, x, 2.0, "l2"), atol=1e-6)
    for eps in (0.1, 20.0, 1000.0):
        assert torch.allclose(lesson01.project_l1(r, eps), norms.project(r, eps, "l1"), atol=1e-5)
    assert get("1.1").solution is norms.lp_norm


def test_the_colleague_is_right_where_nobody_looks():
    """The mistakes of 3.4 do not show on the first run over images that are named correctly."""
    namespace = {"F": F, "torch": torch}
    exec(get("3.4").stub, namespace)
    p = lesson03.problem()
    named = p.model(p.x).argmax(1).detach()
    expected = fgsm(p.model, p.x, named, eps=0.1)
    assert torch.equal(namespace["colleague"](p.model, p.x.clone(), named, 0.1), expected)


@pytest.mark.parametrize(("id", "words"), [("4.2", "too large"), ("4.3", "never judged")])
def test_the_bugs_of_a_stub_are_named_once_it_is_touched(verdict, stub, id, words):
    original = stub(get(id))
    assert words in verdict(id, lambda *inputs: original(*inputs))


def test_the_shield_keeps_every_prediction_and_hides_every_gradient():
    digits, net = datasets.mnist("test")[:20], models.load("mnist_cnn", "cpu")
    behind = shield(net)
    assert torch.equal(evaluation.predict(behind, digits.x).labels,
                       evaluation.predict(net, digits.x).labels)
    gradient = input_gradient(behind, digits.x, digits.y)
    assert (gradient == 0).flatten(1).all(1).float().mean() > 0.9
