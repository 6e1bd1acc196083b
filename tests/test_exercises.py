"""The exercise framework: three outcomes in one line each, hints, solutions, shared diagnoses."""

from __future__ import annotations

import functools
import random
import sys
import types

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient

from course_lib import exercises
from course_lib.attacks import fgsm
from course_lib.exercises import Exercise, check, diagnoses, hint, solution, verified

EPS = 0.1


def reference(model, x, y, eps):
    """One step uphill."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return (x + eps * gradient.sign()).clamp(0, 1).detach()


STUB = '''
def step(model, x, y, eps):
    """One step uphill."""
    # your two lines here
    return x
'''


def step_diagnosis(fn):
    return diagnoses.attack(lambda model, x, y: fn(model, x, y, EPS), eps=EPS, full_budget=True)


def example(**changes) -> Exercise:
    fields = {
        "id": "99.1", "title": "one step", "stub": STUB, "solution": reference,
        "hints": ("first", "second", "third"), "diagnose": step_diagnosis,
        "praise": "The step fills the ball.",
    }
    return Exercise(**(fields | changes))


@pytest.fixture(autouse=True)
def lesson99(monkeypatch):
    """A lesson with one exercise, and a fresh memory of what was solved."""
    module = types.ModuleType("course_lib.exercises.lesson99")
    module.EXERCISES = [example()]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(exercises, "_passed", {})
    exercises._hints_shown.clear()


@pytest.fixture
def say(capsys):
    def run(fn, id="99.1"):
        assert check(id, fn) is None
        out, err = capsys.readouterr()
        assert out.count("\n") == 1 and not err and "Traceback" not in out, out
        return out.strip()
    return run


def step(model, x, y, eps):
    return x  # an untouched stub, commented differently


# --- three outcomes -----------------------------------------------------------------------------

def test_untouched_stub_is_not_attempted(say):
    assert say(step).startswith("○ Exercise 99.1: not attempted")


def test_correct(say):
    assert say(reference) == "✓ Exercise 99.1: correct. The step fills the ball."


def test_written_differently_is_correct(say):
    def step(model, x, y, eps):
        copy = x.clone().requires_grad_()
        loss = -torch.log_softmax(model(copy), 1)[torch.arange(len(y)), y].sum()
        g = torch.autograd.grad(loss, [copy])[0]
        return torch.where(g > 0, x + eps, torch.where(g < 0, x - eps, x)).clamp(0, 1)

    assert say(step).startswith("✓")
    assert say(lambda m, x, y, eps: fgsm(m, x, y, eps=eps)).startswith("✓")


def gradient_of(model, x, y):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]


def no_clamp(model, x, y, eps):
    return x + eps * gradient_of(model, x, y).sign()


def wrong_sign(model, x, y, eps):
    return (x - eps * gradient_of(model, x, y).sign()).clamp(0, 1)


def too_large(model, x, y, eps):
    return (x + 255 * eps * gradient_of(model, x, y).sign()).clamp(0, 1)


def too_small(model, x, y, eps):
    return (x + eps / 2 * gradient_of(model, x, y).sign()).clamp(0, 1)


def in_place(model, x, y, eps):
    x += eps * gradient_of(model, x, y).sign()
    return x.clamp(0, 1)


def requires_grad_on_caller(model, x, y, eps):
    x.requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return (x + eps * g.sign()).clamp(0, 1).detach()


def gradients_left(model, x, y, eps):
    copy = x.clone().requires_grad_()
    F.cross_entropy(model(copy), y).backward()
    return (x + eps * copy.grad.sign()).clamp(0, 1)


def train_mode(model, x, y, eps):
    model.train()
    return reference(model, x, y, eps)


def batch_norm_moves(model, x, y, eps):
    model.train()
    model(x)
    model.eval()
    return reference(model, x, y, eps)


def weights_move(model, x, y, eps):
    with torch.no_grad():
        next(model.parameters()).add_(1)
    return reference(model, x, y, eps)


def frozen(model, x, y, eps):
    model.requires_grad_(False)
    return reference(model, x, y, eps)


def predicted_label(model, x, y, eps):
    return fgsm(model, x, model(x).argmax(1), eps=eps)


def norm_over_batch(model, x, y, eps):
    g = gradient_of(model, x, y)
    return (x + eps * (g / g.abs().max())).clamp(0, 1)


def no_op(model, x, y, eps):
    return x.clone().clamp(0, 1)


def nan(model, x, y, eps):
    g = gradient_of(model, x, y)
    return (x + eps * g * 0 / (g * 0)).clamp(0, 1)


def one_image(model, x, y, eps):
    return reference(model, x, y, eps)[0]


def double(model, x, y, eps):
    return reference(model, x, y, eps).double()


def graph(model, x, y, eps):
    return reference(model, x, y, eps).requires_grad_()


def forgot_return(model, x, y, eps):
    reference(model, x, y, eps)


def to_numpy(model, x, y, eps):
    return reference(model, x, y, eps).numpy()


@pytest.mark.parametrize("fn, named", [
    (no_clamp, "leaves [0, 1]"),
    (wrong_sign, "check the sign"),
    (too_large, "perturbation is too large"),
    (too_small, "smaller than allowed"),
    (in_place, "changes x in place"),
    (requires_grad_on_caller, "caller's own x"),
    (gradients_left, "gradients are left on the model's parameters"),
    (train_mode, "another mode"),
    (batch_norm_moves, "batch-norm statistics moved"),
    (weights_move, "weights have changed"),
    (frozen, "requires_grad"),
    (predicted_label, "not the model's own prediction"),
    (norm_over_batch, "smaller than allowed"),
    (no_op, "nothing was attacked"),
    (nan, "NaN"),
    (one_image, "has shape (3, 6, 6), expected (5, 3, 6, 6)"),
    (double, "torch.float64"),
    (graph, ".detach()"),
    (forgot_return, "return line missing"),
    (to_numpy, "returns a ndarray"),
])
def test_named_mistakes(say, fn, named):
    line = say(fn)
    assert line.startswith("✗ Exercise 99.1: not yet: ") and named in line


def test_exception_names_line_and_source(say):
    def broken(model, x, y, eps):
        half = eps / 2
        return x + half * gradiant  # noqa: F821

    line = say(broken)
    number = broken.__code__.co_firstlineno + 2
    assert f"NameError: name 'gradiant' is not defined, in line {number}" in line
    assert "return x + half * gradiant" in line


def test_exception_in_a_helper_of_the_student(say):
    def broken(model, x, y, eps):
        return gradient_of(model, x, y[:2])

    line = say(broken)
    assert "ValueError" in line and "torch.autograd.grad(F.cross_entropy" in line


def test_torch_message_gets_its_meaning(say):
    def detached(model, x, y, eps):
        return torch.autograd.grad(F.cross_entropy(model(x).detach(), y), x)[0]

    assert "start from x.clone().requires_grad_()" in say(detached)


def test_wrong_arguments(say):
    assert "Keep the arguments as the stub has them" in say(lambda model, x: x)


def test_result_instead_of_function(say):
    assert "wants the function itself, not a Tensor" in say(torch.zeros(1))


def test_unknown_exercise(say):
    assert say(step, "99.7") == "✗ there is no exercise '99.7': lesson 99 has 99.1"
    assert "there is no exercise" in say(step, "nonsense")


def test_exit_and_interrupt_are_caught(say):
    def leaves(model, x, y, eps):
        sys.exit("bye")

    def endless(model, x, y, eps):
        raise KeyboardInterrupt

    assert "SystemExit: bye" in say(leaves)
    assert "interrupted" in say(endless)


def numpy_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002


def test_noise_and_global_state_are_contained(say):
    def noisy(model, x, y, eps):
        print("hello")
        print("oh", file=sys.stderr)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        torch.set_grad_enabled(False)
        return reference(model, x, y, eps)

    before = torch.get_rng_state(), numpy_state(), random.getstate()
    assert say(noisy).startswith("✓")
    assert torch.equal(before[0], torch.get_rng_state()) and torch.is_grad_enabled()
    assert (before[1] == numpy_state()).all() and before[2] == random.getstate()


def test_works_while_gradients_are_off(say):
    with torch.no_grad():
        assert say(reference).startswith("✓")


def test_function_without_source_and_wrapped_function(say):
    namespace: dict[str, object] = {}
    exec("def step(model, x, y, eps): return x", namespace)
    assert "nothing was attacked" in say(namespace["step"])
    assert say(functools.partial(reference)).startswith("✓")


# --- verified, hint, solution -------------------------------------------------------------------

def test_verified_follows_the_last_check(say, capsys):
    assert verified("99.1") is reference
    assert "the course's step" in capsys.readouterr().out
    mine = functools.partial(reference)
    say(mine)
    assert verified("99.1") is mine
    assert "your step" in capsys.readouterr().out
    say(no_clamp)
    assert verified("99.1") is reference


def test_hints_come_in_order(capsys):
    said = []
    for _ in range(4):
        hint("99.1")
        said.append(capsys.readouterr().out)
    assert ["first" in said[0], "second" in said[1], "third" in said[2], "first" in said[3]] \
        == [True] * 4
    assert said[1].startswith("**Hint 2 of 3**") and "solution(" in said[2]


def test_solution_shows_source(capsys, monkeypatch):
    solution("99.1")
    assert "(x + eps * gradient.sign()).clamp(0, 1)" in capsys.readouterr().out
    sys.modules["course_lib.exercises.lesson99"].EXERCISES = [example(solution=fgsm)]
    solution("99.1")
    shown = capsys.readouterr().out
    assert "project_box(" in shown and "Reference:" not in shown
    assert "course_lib.attacks.fgsm" in shown


def test_solved_source_runs_by_itself(say):
    namespace: dict[str, object] = {}
    exec(exercises.solved_source("99.1"), namespace)
    assert say(namespace["step"]).startswith("✓")


def test_solved_source_of_a_library_function():
    sys.modules["course_lib.exercises.lesson99"].EXERCISES = [example(solution=fgsm)]
    assert exercises.solved_source("99.1") == "from course_lib.attacks.fgsm import fgsm as step\n"


def test_same_code():
    assert exercises.same_code(STUB, "def step(model, x, y, eps):\n    return (x)\n")
    assert not exercises.same_code(STUB, "def step(model, x, y, eps):\n    return -x\n")


@pytest.mark.parametrize("changes", [
    {"id": "3"}, {"hints": ("one",)}, {"stub": "x = 1"},
    {"stub": "def f():\n    pass\n\ndef g():\n    pass"},
])
def test_bad_exercises_are_refused(changes):
    with pytest.raises(ValueError):
        example(**changes)


# --- diagnoses on their own ---------------------------------------------------------------------

def test_problem_is_fixed_and_leaves_no_trace():
    state = torch.get_rng_state()
    first, second = diagnoses.problem(), diagnoses.problem()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.x, second.x) and torch.equal(first.y, second.y)
    assert torch.equal(first.model(first.x), second.model(second.x))
    hits = first.model(first.x).argmax(1) == first.y
    assert hits.any() and not hits.all() and (first.target != first.y).all()
    assert (first.x == 0).any() and (first.x == 1).any()


def test_per_image_finds_a_batch_norm():
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    assert diagnoses.per_image(lambda x: x / x.norm(dim=1, keepdim=True), x) is None
    assert "per image" in diagnoses.per_image(lambda x: x / x.norm(), x)


def test_repeatable():
    assert diagnoses.repeatable(lambda: torch.ones(2)) is None
    assert "two results" in diagnoses.repeatable(lambda: torch.rand(2))


def test_close_shows_the_worst_entry():
    assert diagnoses.close(torch.tensor([1.0, 2.0]), [1.0, 2.0], "the norm") is None
    said = diagnoses.close(torch.tensor([1.0, 2.5]), [1.0, 2.0], "the norm", "Take the root.")
    assert said == "the norm at index [1] should be 2, yours is 2.5. Take the root."
    assert "shape" in diagnoses.close(torch.ones(2), 1.0, "the norm")
    assert "nan" in diagnoses.close(torch.nan, 1.0, "the norm")
    assert "NoneType" in diagnoses.close(None, 1.0, "the norm")


def test_descends():
    p = diagnoses.problem()
    x_adv = fgsm(p.model, p.x, p.y, eps=0.05, target=p.target)
    assert diagnoses.descends(p.model, p.x, x_adv, p.target) is None
    assert "downhill" in diagnoses.descends(p.model, x_adv, p.x, p.target)


def test_run_lets_a_model_be_trained():
    p = diagnoses.problem()

    def train(model):
        weights_move(model, p.x, p.y, EPS)

    assert "weights have changed" in diagnoses.run(train, p.model)[1]
    assert diagnoses.run(train, p.model, may_change=["model"])[1] is None


# --- in a real kernel ---------------------------------------------------------------------------

KERNEL_SETUP = f"""
import sys, types
from course_lib import exercises
from course_lib.exercises import Exercise, check, hint, solution, verified
STUB = {STUB!r}
module = types.ModuleType("course_lib.exercises.lesson99")
module.EXERCISES = [Exercise(
    "99.1", "t", STUB, lambda model, x, y, eps: x + 1, ("a", "b", "c"),
    lambda fn: None if fn(None, 1, 0, 0) == 2 else "wrong value")]
sys.modules[module.__name__] = module
"""


FAILING = """def step(model, x, y, eps):
    from IPython.display import display
    display(1)
    return 1 / 0"""


@pytest.mark.slow
def test_in_a_notebook():
    cells = [
        KERNEL_SETUP,
        STUB, 'check("99.1", step)',
        FAILING, 'check("99.1", step)',
        "def step(model, x, y, eps):\n    print('noise')\n    return x + 1",
        'check("99.1", step)',
        'hint("99.1")',
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(nb, kernel_name="python3", timeout=120).execute()
    outputs = [cell.outputs for cell in nb.cells]
    lines = [o[0].text for o in (outputs[2], outputs[4], outputs[6])]
    assert all(len(outputs[i]) == 1 for i in (2, 4, 6, 7))
    assert lines[0].startswith("○")
    assert lines[1] == ('✗ Exercise 99.1: not yet: ZeroDivisionError: division by zero, '
                        'in line 4 of your cell: "return 1 / 0".\n')
    assert lines[2] == "✓ Exercise 99.1: correct.\n"
    assert outputs[7][0].data["text/markdown"].startswith("**Hint 1 of 3**")
