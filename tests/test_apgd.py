"""APGD: its reviews, its step size, and what every attack promises."""

from __future__ import annotations

import pytest
import torch
from strategies import (
    Counting,
    assert_untouched,
    convolutional,
    generator,
    images,
    labels,
    linear,
    trace,
    trained,
    unusual,
)
from torch import nn

from course_lib.attacks import apgd, apgd_targeted, pgd
from course_lib.attacks.apgd import _Search, reviews
from course_lib.evaluation import fooled, robust_accuracy
from course_lib.losses import cross_entropy
from course_lib.norms import dual, lp_norm

EPS = {"linf": 0.06, "l2": 0.35}
each_norm = pytest.mark.parametrize("name", EPS)
each_attack = pytest.mark.parametrize("attack", [apgd, apgd_targeted])


def test_reviews_come_as_in_the_paper():
    """p_1 = 0.22, p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06), w_j = ceil(p_j steps)."""
    assert reviews(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert reviews(10) == [3, 5, 6, 7, 8, 9, 10, 10]


@each_norm
@each_attack
def test_ball_box_and_no_trace(attack, name):
    model, x = unusual(convolutional()), images()
    y, before = labels(convolutional(), x), None
    before = trace(model)
    x_adv = attack(model, x, y, eps=EPS[name], steps=9, norm=name)
    assert_untouched(model, before)
    assert lp_norm(x_adv - x, name).max() <= EPS[name] * (1 + 1e-5)
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and x_adv.shape == x.shape
    assert not x_adv.requires_grad


@each_norm
def test_on_a_linear_model_it_gains_what_can_be_gained(name):
    """Two classes: the robust accuracy of z = W x + b has a closed form."""
    model, x = linear(2, (1, 6, 6)), 0.3 + 0.4 * images(40, (1, 6, 6))
    y, weight = labels(model, x), model[1].weight.detach()
    with torch.no_grad():
        logits = model(x)
    lead = (logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None]))[:, 0]
    size = lp_norm((weight[1] - weight[0])[None], dual(name)).item()
    # Half of the images are in reach; none so nearly that rounding would decide.
    ordered = lead.sort().values
    eps = (ordered[19] + ordered[20]).item() / 2 / size
    expected = lead < eps * size
    assert expected.sum() == 20 and eps < 0.3 * (1 if name == "linf" else 6)
    report = robust_accuracy(model, x, y, [lambda *a: apgd(*a, eps=eps, norm=name)])
    assert torch.equal(report.fooled, expected) and report.robust == 0.5


@each_norm
def test_it_is_not_behind_pgd_with_as_many_steps(name):
    s = trained()
    ours = fooled(s.model, apgd(s.model, s.x, s.y, eps=EPS[name], steps=40, norm=name), s.y)
    theirs = fooled(s.model, pgd(s.model, s.x, s.y, eps=EPS[name], steps=40, norm=name), s.y)
    assert ours.sum() >= 0.95 * theirs.sum() > 0
    targeted = apgd_targeted(s.model, s.x, s.y, eps=EPS[name], steps=40, norm=name)
    assert fooled(s.model, targeted, s.y).sum() >= 0.95 * theirs.sum()


def test_what_becomes_of_an_image_does_not_depend_on_its_companions():
    model, x = convolutional().double(), images(7).double()
    y = labels(model, x)
    together = apgd(model, x, y, eps=0.05, steps=12)
    torch.testing.assert_close(apgd(model, x[:3], y[:3], eps=0.05, steps=12), together[:3],
                               rtol=0, atol=1e-9)
    other = torch.cat([x[:1], x[:1], x[2:]])  # another neighbour in the second place
    torch.testing.assert_close(apgd(model, other, y, eps=0.05, steps=12)[2:], together[2:],
                               rtol=0, atol=1e-9)


def test_towards_a_target():
    s = trained()
    target = (s.y + 1) % 4
    x_adv = apgd(s.model, s.x, s.y, eps=0.3, steps=30, target=target)
    assert fooled(s.model, x_adv, s.y, target).float().mean() > 0.5


def test_what_is_fooled_leaves_and_restarts_lose_nothing():
    s = trained()
    model = Counting(s.model)
    apgd(model, s.x, s.y, eps=0.3, steps=30)
    assert model.sizes[0] == len(s.x) > min(model.sizes)
    once, often = (fooled(s.model, apgd(s.model, s.x, s.y, eps=0.05, steps=8, restarts=n), s.y)
                   for n in (1, 4))
    assert (often | ~once).all() and often.sum() >= once.sum() > 0


def test_what_is_not_fooled_comes_back_at_its_best_point():
    s, went_down = trained(), 0
    for i in range(40):
        x, y, seen = s.x[i:i + 1], s.y[i:i + 1], []

        class Spy(nn.Module):
            def forward(self, x, y=y, seen=seen):
                logits = s.model(x)
                seen.append(cross_entropy(logits, y).item())
                return logits

        x_adv = apgd(Spy(), x, y, eps=0.06, steps=4)
        if not fooled(s.model, x_adv, y).item():
            with torch.no_grad():
                assert cross_entropy(s.model(x_adv), y).item() == pytest.approx(max(seen))
            went_down += seen[-1] < max(seen) * (1 - 1e-4)
    assert went_down > 0  # for some the last point is not the best


def test_targets_are_only_a_way_to_any_wrong_class():
    """The likely class 1 never leads; class 2 does where a pixel is above 0.6."""
    class Passing(nn.Module):
        def forward(self, x):
            d = x.flatten(1)[:, 0] - 0.5
            return torch.stack([0 * d, 2 * d - 1, 20 * d - 2], 1)

    x, y = torch.full((40, 1, 1, 1), 0.5), torch.zeros(40, dtype=torch.int64)
    x_adv = apgd_targeted(Passing(), x, y, eps=0.2, steps=10, targets=1)
    assert fooled(Passing(), x_adv, y).sum() >= 5  # those that start there


def search(**values: list[float]) -> _Search:
    """Two images of one pixel on their way; the values are set from outside."""
    x, y = torch.full((2, 1, 1, 1), 0.5), torch.zeros(2, dtype=torch.int64)
    s = _Search.begin(x, y, x, None, 0.1)
    s.best, s.best_gradient = x + 0.1, torch.ones_like(x)
    for name, value in values.items():
        setattr(s, name, torch.tensor(value))
    return s


@pytest.mark.parametrize(("values", "halved"), [
    ({"rises": [7.0, 8.0]}, [True, False]),  # condition 1: fewer than 75 % of 10 steps rose
    ({"rises": [9.0, 9.0], "best_value": [2.0, 1.0], "reviewed_value": [1.0, 1.0]},
     [False, True]),  # condition 2: the best loss has not changed ...
    ({"rises": [9.0, 9.0], "best_value": [1.0, 1.0], "reviewed_value": [1.0, 1.0],
      "halved": [True, False]}, [False, True]),  # ... and neither has the step
])
def test_the_two_conditions_of_a_review(values, halved):
    s = search(**({"best_value": [1.0, 1.0]} | values))
    gradient = s.review(torch.zeros(2, 1, 1, 1), 10)
    assert s.halved.tolist() == halved
    for i, small in enumerate(halved):
        assert s.step[i].item() == pytest.approx(0.1 if small else 0.2)
        assert s.x_t[i].item() == pytest.approx(0.6 if small else 0.5)
        assert gradient[i].item() == (1 if small else 0)
    assert s.rises.tolist() == [0, 0]


@each_attack
@pytest.mark.parametrize(("options", "words"), [
    ({"norm": "l1"}, "use pgd"), ({"steps": 0}, "at least one step"), ({"eps": -1.0}, "eps"),
])
def test_bad_input(attack, options, words):
    model, x = convolutional(), images()
    with pytest.raises(ValueError, match=words):
        attack(model, x, labels(model, x), **({"eps": 0.1} | options))


def test_bad_counts():
    model, x = convolutional(), images()
    with pytest.raises(ValueError, match="starts at least once"):
        apgd(model, x, labels(model, x), eps=0.1, restarts=0)
    with pytest.raises(ValueError, match="aim at one class"):
        apgd_targeted(model, x, labels(model, x), eps=0.1, targets=0)


def test_another_seed_starts_elsewhere():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(90, 4)), images()
    y = labels(model, x)
    a, b = (apgd(model, x, y, eps=0.1, steps=1, norm="l2", generator=generator(seed))
            for seed in (0, 1))
    assert not torch.equal(a, b)
