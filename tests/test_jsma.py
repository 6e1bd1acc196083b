"""JSMA: the pair search against brute force, the slopes against the Jacobian, digits, memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    PROPERTY,
    assert_untouched,
    convolutional,
    generator,
    images,
    labels,
    linear,
    trace,
    unusual,
)
from torch import Tensor, nn

from course_lib import datasets, models
from course_lib.attacks import jsma
from course_lib.attacks.jsma import _forward_derivative, best_pair
from course_lib.evaluation import fooled

MODEL, X = convolutional(), images()
Y = labels(MODEL, X)
TARGET = (Y + 1) % 4


def best_by_brute_force(u: Tensor, v: Tensor, allowed: Tensor) -> float:
    """The highest product of one row over all pairs, or -1 where no pair has two positive sums."""
    best = -1.0
    for p in range(len(u)):
        for q in range(p + 1, len(u)):
            sum_u, sum_v = float(u[p] + u[q]), float(v[p] + v[q])
            if allowed[p] and allowed[q] and sum_u > 0 and sum_v > 0:
                best = max(best, sum_u * sum_v)
    return best


def assert_best(u: Tensor, v: Tensor, allowed: Tensor) -> None:
    pairs, exist = best_pair(u, v, allowed)
    for i, (p, q) in enumerate(pairs.tolist()):
        best = best_by_brute_force(u[i], v[i], allowed[i])
        assert bool(exist[i]) == (best > 0)
        if exist[i]:
            assert p < q and allowed[i, p] and allowed[i, q]
            assert float((u[i, p] + u[i, q]) * (v[i, p] + v[i, q])) == pytest.approx(best, rel=1e-5)


@PROPERTY
@given(n=st.integers(1, 3), d=st.integers(2, 14), seed=st.integers(0, 10**6),
       kind=st.sampled_from(["normal", "ties", "with", "against", "mostly negative"]))
def test_the_pair_is_that_of_brute_force(n, d, seed, kind):
    g = generator(seed)
    u, v = torch.randn(n, d, generator=g), torch.randn(n, d, generator=g)
    if kind == "ties":
        u, v = u.round(), v.round()
    if kind in ("with", "against"):
        v = (u if kind == "with" else -u) + 0.2 * v + 0.1
    if kind == "mostly negative":
        u, v = u - 1, v - 1
    assert_best(u, v, torch.rand(n, d, generator=g) < 0.8)


def test_no_pair_where_none_is_allowed_or_helps():
    ones = torch.ones(3, 4)
    allowed = torch.tensor([[False] * 4, [True, False, False, False], [True] * 4])
    assert best_pair(ones, ones, allowed)[1].tolist() == [False, False, True]
    assert not best_pair(ones, -ones, ones > 0)[1].any()
    assert not best_pair(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1) > 0)[1].any()


def test_tiny_slopes_are_still_ordered():
    """Their product is below what float32 can hold."""
    u = torch.tensor([[1.0, 2.0, 3.0]]) * 1e-30
    pair, exists = best_pair(u, u, torch.ones(1, 3) > 0)
    assert pair.tolist() == [[1, 2]] and exists.all()


@pytest.mark.slow
def test_pairs_of_a_photograph_without_the_square_of_its_pixels():
    """Also where slopes contradict each other everywhere, so that no entry beats any other."""
    d = 30_000  # d * d scores would be 3.6 GB, and the search holds several such arrays
    u = torch.linspace(-1, 1, d)[None]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pair, exists = best_pair(u, 1e-3 - u, torch.ones(1, d) > 0)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20 < 1
    # (s) * (2e-3 - s) is largest at s = 1e-3, half of each
    assert exists.all() and u[0, pair[0]].sum().item() == pytest.approx(1e-3, abs=1e-4)


@pytest.mark.parametrize("others", ["all", "likely"])
def test_slopes_are_rows_of_the_jacobian(others):
    logits, a, b = _forward_derivative(MODEL, others, X, TARGET)
    for i in range(len(X)):
        jacobian = torch.autograd.functional.jacobian(lambda z: MODEL(z[None])[0], X[i])
        rest = [k for k in range(4) if k != TARGET[i]]
        weights = torch.ones(3) if others == "all" else logits[i, rest].softmax(0)
        torch.testing.assert_close(a[i], jacobian[TARGET[i]])
        torch.testing.assert_close(b[i], (weights.view(-1, 1, 1, 1) * jacobian[rest]).sum(0))


@pytest.mark.parametrize("theta", [1.0, -1.0])
def test_the_first_pair_has_both_terms(theta):
    """A linear model: the slopes are its weights, and brute force names the first pair."""
    model, x = linear(), images(4, (1, 3, 4), 3) * 0.8 + 0.1
    y = labels(model, x)
    target = (y + 1) % 3
    once = jsma(model, x, y, target=target, theta=theta, max_fraction=2 / 12, others="all")
    for i in range(4):
        w = model[1].weight.detach()
        a, b = w[target[i]], w.sum(0) - w[target[i]]
        u, v = (a, -b) if theta > 0 else (-a, b)
        changed = (once[i] != x[i]).flatten().nonzero().flatten().tolist()
        best = best_by_brute_force(u, v, torch.ones(12) > 0)
        assert len(changed) == 2
        p, q = changed
        assert float((u[p] + u[q]) * (v[p] + v[q])) == pytest.approx(best)
        assert (once[i].flatten()[changed] == (1 if theta > 0 else 0)).all()


@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3, -0.07])
@pytest.mark.parametrize("max_fraction", [0.05, 0.2, 1.0])
def test_the_budget_and_the_direction(theta, max_fraction):
    x_adv = jsma(MODEL, X, Y, target=TARGET, theta=theta, max_fraction=max_fraction)
    assert ((x_adv != X).flatten(1).sum(1) <= int(max_fraction * 90)).all()
    assert (x_adv - X).mul(theta).min() >= 0
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert x_adv.shape == X.shape and x_adv.dtype == X.dtype and not x_adv.requires_grad


def test_small_steps_go_on_until_the_border():
    """Towards a class that is out of reach, each entry begun is finished."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    model[1].weight.data = torch.tensor([[-1.0] * 6, [1.0] * 6])
    model[1].bias.data = torch.tensor([100.0, 0.0])
    x = torch.full((1, 1, 2, 3), 0.25)
    x_adv = jsma(model, x, torch.tensor([0]), target=torch.tensor([1]), theta=0.2,
                 max_fraction=4 / 6)
    assert sorted(x_adv.flatten().tolist()) == [0.25] * 2 + [1.0] * 4


def test_an_image_that_is_the_target_already_stays():
    x_adv = jsma(MODEL, X, TARGET, target=Y)
    assert torch.equal(x_adv, X)


def test_companions_change_nothing():
    whole = jsma(MODEL, X, Y, target=TARGET, max_fraction=0.4)
    for i in range(len(X)):
        alone = jsma(MODEL, X[i:i + 1], Y[i:i + 1], target=TARGET[i:i + 1], max_fraction=0.4)
        assert torch.equal(whole[i:i + 1], alone)


def test_parts_change_nothing(monkeypatch):
    whole = jsma(MODEL, X, Y, target=TARGET, max_fraction=0.4)
    module = sys.modules["course_lib.attacks.jsma"]
    monkeypatch.setattr(module, "_ENTRIES", 2 * X[0].numel())
    assert torch.equal(whole, jsma(MODEL, X, Y, target=TARGET, max_fraction=0.4))
    monkeypatch.setattr(module, "_PAIRS", 1)
    assert torch.equal(whole, jsma(MODEL, X, Y, target=TARGET, max_fraction=0.4))


@pytest.mark.slow
@pytest.mark.parametrize("theta", [1.0, -1.0])
def test_digits_become_every_other_digit(theta):
    model, d = models.load("mnist_cnn", "cpu"), datasets.mnist("test")[:15]
    which, target = torch.arange(15).repeat_interleave(10), torch.arange(10).repeat(15)
    keep = d.y[which] != target
    x, y, target = d.x[which][keep], d.y[which][keep], target[keep]
    x_adv = jsma(model, x, y, target=target, theta=theta)
    hit = fooled(model, x_adv, y, target)
    distortion = (x_adv != x).flatten(1).float().mean(1)
    assert hit.float().mean() >= 0.97
    assert distortion.max() <= 0.145
    assert 0.02 < distortion[hit].mean() < 0.06
    # The paper's plain sum of all other classes spends its pixels on classes far away.
    plain = jsma(model, x, y, target=target, theta=theta, others="all")
    assert fooled(model, plain, y, target).float().mean() < 0.85


BIG = """
import resource, torch
from torch import nn
from course_lib.attacks import jsma
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 7, stride=4), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2),
                      nn.ReLU(), nn.Flatten(), nn.Linear(16 * 27 * 27, 1000)).eval()
x = torch.rand(2, 3, 224, 224)
y = model(x).argmax(1)
target = (y + 1) % 1000
# One class is far below: both images spend their four entries.
model[-1].bias.data[target] -= 100
x_adv = jsma(model, x, y, target=target, max_fraction=4.5 / 150528)
assert (x_adv != x).flatten(1).sum(1).tolist() == [4, 4]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_a_photograph_of_a_thousand_classes_stays_far_below_four_gigabytes():
    done = subprocess.run([sys.executable, "-c", BIG], capture_output=True, text=True,
                          cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.5


def test_nothing_is_left_behind():
    model, before_x = unusual(convolutional()), X.clone()
    before = trace(model)
    jsma(model, X, Y, target=TARGET)
    assert_untouched(model, before)
    assert torch.equal(X, before_x)


@pytest.mark.parametrize("options, message", [
    ({"theta": 0.0}, "theta = 0.0: an entry changes by 1/255"),
    ({"theta": 1.1}, "theta = 1.1"),
    ({"theta": -1e-9}, "theta = -1e-09"),
    ({"theta": float("nan")}, "theta = nan"),
    ({"max_fraction": 0.0}, r"max_fraction = 0.0: the share of entries is in \(0, 1\]"),
    ({"max_fraction": 1.01}, "max_fraction = 1.01"),
    ({"others": "some"}, "unknown others='some': use one of likely, all"),
    ({"target": Y}, "target equals its image's label"),
    ({"target": TARGET + 4}, "outside 0 … 3, the model has 4 classes"),
], ids=["no step", "large step", "tiny step", "NaN", "no budget", "large budget", "others",
        "label as target", "no class"])
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        jsma(MODEL, X, Y, **{"target": TARGET, **options})


@pytest.mark.parametrize("max_fraction, most", [(0.29, 28), (0.58, 58), (0.3, 30)])
def test_a_share_of_a_hundred_entries_is_a_whole_number(max_fraction, most):
    """0.58 * 100 is below 58 in floating point. Entries change in pairs, so that 29 allow 28."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([-torch.ones(100), torch.ones(100)]))
        model[1].bias.copy_(torch.tensor([1000.0, 0.0]))  # never reached
    x, y = torch.zeros(1, 1, 10, 10), torch.tensor([0])
    x_adv = jsma(model, x, y, target=y + 1, max_fraction=max_fraction)
    assert int((x_adv != x).sum()) == most


def test_bad_images():
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        jsma(MODEL, X * 255, Y, target=TARGET)
