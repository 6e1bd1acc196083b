"""The benchmark counts and judges rightly; how fast anything is, is not tested."""

from __future__ import annotations

import pytest
import torch
from gradient_attacks import (
    OURS,
    PGD,
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

from course_lib.attacks import lbfgs

EPS, STEPS = 0.05, 3


def test_counts_single_images_forwards_and_back():
    model, x = trained().model, trained().x
    with counted(model) as passes:
        with torch.no_grad():
            model(x[:5])
        model(x[:3].clone().requires_grad_()).sum().backward()
    model(x)
    assert passes == Passes(forward=8, backward=3)


@pytest.mark.parametrize("name", PGD)
def test_every_library_attacks_the_same_way(name):
    """All that are right at first pass `STEPS` times both ways, fewer only where ours stops."""
    if name == "art":
        pytest.importorskip("art")
    s = trained()
    with counted(s.model) as passes:
        verdict = robustness(s.model, s.x, s.y, PGD[name], EPS, STEPS, 1000)
    ours = robustness(s.model, s.x, s.y, PGD[OURS], EPS, STEPS, 1000)
    assert verdict["clean"] == 100
    images = 4.5 if name == "art" else 1.5  # it starts elsewhere
    assert verdict["robust"] == pytest.approx(ours["robust"], abs=100 * images / len(s.x))
    assert 10 < verdict["robust"] < 95, "an easy or a hopeless attack would compare nothing"
    if name == OURS:
        assert passes.backward < STEPS * len(s.x)
    else:
        assert passes.backward == STEPS * len(s.x)
    assert passes.forward >= passes.backward + 2 * len(s.x)  # the judge, before and after


def test_torchattacks_foolbox_and_ours_start_at_the_same_points():
    s, starts = trained(), []
    hook = s.model.register_forward_pre_hook(lambda module, given: starts[-1].append(given[0]))
    for name in (OURS, "torchattacks", "foolbox"):
        starts.append([])
        PGD[name](s.model, EPS, 1, 0.0)(s.model, s.x, s.y)
    hook.remove()
    for seen in starts[1:]:
        torch.testing.assert_close(seen[0].detach(), starts[0][0].detach())
    assert (starts[0][0] - s.x).abs().max() > 0.9 * EPS


def test_an_attack_that_does_nothing_leaves_all_and_one_that_cheats_is_refused():
    s = trained()
    still = robustness(s.model, s.x, s.y, lambda *_: lambda model, x, y: x, EPS, STEPS, 1000)
    assert still == {"clean": 100, "robust": 100}
    with pytest.raises(ValueError, match="left the ball"):
        robustness(s.model, s.x, s.y, lambda *_: lambda model, x, y: 1 - x, EPS, STEPS, 1000)


def test_distortion_is_that_of_the_images_that_were_right():
    s = trained()
    y = s.y.clone()
    y[0] = (y[0] + 1) % 4
    verdict = distortion(s.model, s.x, y, lambda model, x, y: x + 0.5)
    assert verdict["mean l2"] == pytest.approx(0.5 * 56**0.5)
    assert distortion(s.model, s.x, s.y, lbfgs)["fooled"] == 100


def test_a_race_runs_in_turn():
    order = []
    runs = {name: lambda name=name: order.append(name) or {} for name in ("a", "b")}
    outcomes = race(trained().model, runs, repetitions=2)
    assert order == ["a", "b"] * 2
    assert [len(outcome.seconds) for outcome in outcomes.values()] == [2, 2]


def test_the_summary_takes_the_fastest_other_and_pairs_repetitions():
    outcomes = {name: Outcome({}, Passes(), seconds) for name, seconds in
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
