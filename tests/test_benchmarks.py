"""The benchmark counts and judges rightly; how fast anything is, is not tested."""

from __future__ import annotations

import functools

import bf16
import pytest
import torch
import training as cost
from gradient_attacks import (
    OURS,
    PGD,
    Clocked,
    Contest,
    Outcome,
    Passes,
    counted,
    distortion,
    hold,
    race,
    ratios,
    robustness,
    summary,
)
from strategies import trained

from course_lib import datasets
from course_lib.attacks import lbfgs

STEPS = 3
CONTEST = Contest("none", 0, 1, 0.0, eps=0.05, steps=STEPS, batch=1000)


def test_counts_single_images_forwards_and_back():
    model, x = trained().model, trained().x
    passes = Passes()
    with counted(model, passes):
        with torch.no_grad():
            model(x[:5])
        model(x[:3].clone().requires_grad_()).sum().backward()
    model(x)
    assert passes == Passes(forward=8, backward=3)


def judged(attack) -> dict[str, float]:
    return robustness(CONTEST, trained().model, trained().x, trained().y, attack)


@pytest.mark.parametrize("name", PGD)
def test_every_library_attacks_the_same_way(name):
    """All images pass `STEPS` times both ways; with ours fewer, for it stops."""
    if name == "art":
        pytest.importorskip("art")
    s = trained()
    attack, ours = (Clocked(PGD[library](s.model, CONTEST.eps, STEPS, 0.04))
                    for library in (name, OURS))
    verdict, expected = judged(attack), judged(ours)
    images = 4.5 if name == "art" else 1.5  # it starts elsewhere
    assert verdict["clean"] == 100
    assert verdict["robust"] == pytest.approx(expected["robust"], abs=100 * images / len(s.x))
    assert 10 < verdict["robust"] < 95, "an easy or a hopeless attack would compare nothing"
    if name == OURS:
        assert len(s.x) < attack.passes.backward < STEPS * len(s.x)
    else:
        assert attack.passes.backward == STEPS * len(s.x)
    assert attack.passes.forward >= attack.passes.backward
    assert attack.seconds > 0


def test_torchattacks_foolbox_and_ours_start_at_the_same_points():
    s, starts = trained(), []
    hook = s.model.register_forward_pre_hook(lambda module, given: starts[-1].append(given[0]))
    for name in (OURS, "torchattacks", "foolbox"):
        starts.append([])
        PGD[name](s.model, CONTEST.eps, 1, 0.0)(s.model, s.x, s.y)
    hook.remove()
    for seen in starts[1:]:
        torch.testing.assert_close(seen[0].detach(), starts[0][0].detach())
    assert (starts[0][0] - s.x).abs().max() > 0.9 * CONTEST.eps


def test_an_attack_that_does_nothing_leaves_all_and_one_that_cheats_is_refused():
    assert judged(lambda model, x, y: x) == {"clean": 100, "robust": 100}
    with pytest.raises(ValueError, match="left the ball"):
        judged(lambda model, x, y: 1 - x)


def test_distortion_is_that_of_the_images_that_were_right():
    s = trained()
    y = s.y.clone()
    y[0] = (y[0] + 1) % 4
    verdict = distortion(s.model, s.x, y, lambda model, x, y: x + 0.5)
    assert verdict["mean l2"] == pytest.approx(0.5 * 56**0.5)
    assert distortion(s.model, s.x, s.y, lbfgs)["fooled"] == 100


def test_a_race_runs_in_turn_and_makes_each_attack_afresh():
    order = []

    def make(name: str):
        order.append(name)
        return lambda model, x, y: x

    makers = {name: functools.partial(make, name) for name in ("a", "b")}
    outcomes = race(makers, judged, repetitions=2)
    assert order == ["a", "b"] * 3
    for outcome in outcomes.values():
        assert len(outcome.seconds) == len(outcome.judging) == 2
        assert outcome.passes == Passes()  # the judge's own passes are not counted


def test_the_summary_takes_the_fastest_other_and_pairs_repetitions():
    outcomes = {name: Outcome({}, Passes(), seconds, [0.0]) for name, seconds in
                {OURS: [1.0, 2.0, 1.0], "slow": [9.0] * 3, "fast": [3.0, 4.0, 5.0]}.items()}
    assert ratios(outcomes, "fast") == [3, 2, 5]
    result = summary(Contest("none", 10, 3, goal=4.0), outcomes, 0.5)
    assert (result["fastest other"], result["ratio"], result["over floor"]) == ("fast", 3, 2)
    assert not result["goal met"]
    assert result["libraries"]["slow"]["images per second"] == pytest.approx(10 / 9)


def test_a_contest_of_a_few_digits():
    contest = Contest("mnist_cnn", 4, 1, goal=0.0)
    outcomes, least = hold(contest)
    assert set(outcomes) == {OURS, "scipy"} and least > 0
    assert outcomes[OURS].passes.backward > 4


def test_bfloat16_runs_in_turn_after_a_warm_up(monkeypatch):
    order = []
    monkeypatch.setattr(bf16, "seconds", lambda case, choice: order.append(choice) or len(order))
    times = bf16.race(bf16.CASES[0], repetitions=2)
    assert order == [*bf16.CHOICES] * 3
    assert times == {False: [4, 7], True: [5, 8], "auto": [6, 9]}
    assert bf16.ratios(times, "auto") == [9 / 7, 6 / 4]


@pytest.mark.parametrize("auto, verdict", [([1.0, 1.0, 9.0], "ok"), ([1.2, 1.2, 0.5], "TOO SLOW")])
def test_the_verdict_on_bfloat16_is_that_on_auto(auto, verdict):
    said = bf16.line(bf16.CASES[0], {False: [1.0] * 3, True: [7.0, 8.0, 9.0], "auto": auto})
    assert said.startswith("mnist_cnn") and "8.00 (7.00, 9.00)" in said
    assert said.endswith(verdict)


@pytest.mark.parametrize("model", ["mnist_cnn", "cifar_allconv"])
def test_a_training_of_a_few_noise_images_takes_time(model):
    case = bf16.Case(model, "fast", images=4, batch=2)
    assert all(seconds > 0 for seconds in (bf16.seconds(case, c) for c in bf16.CHOICES))


@pytest.mark.parametrize("method, steps", cost.PASSES)
def test_a_method_costs_the_passes_that_the_benchmark_says(method, steps, monkeypatch):
    model, passes = cost.network(), Passes()
    monkeypatch.setattr(cost, "network", lambda: model)
    images = datasets.mnist("train")[:20]
    with counted(model, passes):
        cost.ours(images, method, steps)
    only_forward = passes.forward - passes.backward
    assert (passes.backward + only_forward / 3) / 20 == pytest.approx(cost.PASSES[method, steps])
