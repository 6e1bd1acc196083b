"""Square: random, gradient-free, and the same for an image whatever stands beside it."""

from __future__ import annotations

import pytest
import torch
from strategies import (
    Counting,
    assert_untouched,
    convolutional,
    images,
    labels,
    trace,
    trained,
    unusual,
)
from torch import nn

from course_lib.attacks import square
from course_lib.attacks.square import _Luck, _profile, _share
from course_lib.evaluation import fooled
from course_lib.losses import margin
from course_lib.norms import lp_norm

EPS = {"linf": 0.1, "l2": 0.6}
each_norm = pytest.mark.parametrize("name", EPS)


class Detached(nn.Module):
    """A network without a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x).detach()


@each_norm
def test_ball_box_and_no_trace(name):
    model, x = unusual(convolutional()), images(6, (3, 9, 7))
    y, before = labels(convolutional(), x), trace(model)
    x_adv = square(model, x, y, eps=EPS[name], queries=60, norm=name)
    assert_untouched(model, before)
    assert lp_norm(x_adv - x, name).max() <= EPS[name] * (1 + 1e-5)
    assert x_adv.min() >= 0 and x_adv.max() <= 1 and x_adv.shape == x.shape


@each_norm
def test_it_fools_without_a_gradient_and_more_queries_find_more(name):
    s = trained()
    few, many = (fooled(s.model, square(Detached(s.model), s.x, s.y, eps=EPS[name], queries=n,
                                        norm=name), s.y) for n in (5, 300))
    assert many.sum() > few.sum() and many.float().mean() > 0.3


@each_norm
def test_the_margin_never_falls(name):
    """Longer runs go through shorter ones' points only if the schedule is the same: one image,
    spied on query by query."""
    s, seen = trained(), []

    class Spy(nn.Module):
        def forward(self, x):
            logits = s.model(x)
            seen.append(margin(logits, s.y[:1]).item())
            return logits

    x_adv = square(Spy(), s.x[:1], s.y[:1], eps=EPS[name] / 3, queries=80, norm=name)
    with torch.no_grad():
        kept = margin(s.model(x_adv), s.y[:1]).item()
    assert kept == pytest.approx(max(seen), abs=1e-5) and len(seen) > 10


@each_norm
def test_each_image_has_squares_of_its_own(name):
    model, x = convolutional().double(), images(7, (3, 9, 7)).double()
    y = labels(model, x)
    together = square(model, x, y, eps=EPS[name], queries=130, norm=name)
    torch.testing.assert_close(square(model, x[:3], y[:3], eps=EPS[name], queries=130, norm=name),
                               together[:3], rtol=0, atol=1e-9)
    twins = square(model, x[[0, 0]], y[[0, 0]], eps=EPS[name] / 10, queries=4, norm=name)
    assert not torch.equal(twins[0], twins[1])


def test_luck_stays_with_its_image_when_others_leave():
    together, alone = (_Luck(3, 1, torch.Generator().manual_seed(0)) for _ in range(2))
    for _ in range(2):
        assert torch.equal(together.of(torch.arange(3))[2:], alone.of(torch.tensor([2])))


def test_what_is_fooled_asks_no_more():
    s = trained()
    model = Counting(s.model)
    square(model, s.x, s.y, eps=0.3, queries=200)
    assert model.sizes[0] == len(s.x) and model.sizes[-1] < len(s.x) / 2
    assert sum(model.sizes) < 200 * len(s.x) / 2


def test_towards_a_target():
    s = trained()
    target = (s.y + 1) % 4
    x_adv = square(s.model, s.x, s.y, eps=0.4, queries=300, target=target)
    assert fooled(s.model, x_adv, s.y, target).float().mean() > 0.3


def test_squares_shrink_as_in_the_paper():
    """p = 0.8, halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000 of 10,000 queries."""
    shares = [_share(query / 10_000) for query in (1, 10, 11, 51, 201, 8001, 9999)]
    assert shares == [0.8, 0.8, 0.4, 0.2, 0.1, 0.8 / 512, 0.8 / 512]


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
def test_a_bump_has_length_one_and_two_signs(side):
    bump = _profile(side)
    assert bump.shape == (side, side) and bump.norm().item() == pytest.approx(1, abs=1e-6)
    if side > 1:
        assert bump.max() > 0 > bump.min()


@pytest.mark.parametrize(("options", "words"), [
    ({"norm": "l1"}, "knows the norms"), ({"queries": 0}, "ask at least once"),
    ({"eps": -1.0}, "eps"),
])
def test_bad_input(options, words):
    model, x = convolutional(), images()
    with pytest.raises(ValueError, match=words):
        square(model, x, labels(model, x), **({"eps": 0.1} | options))


def test_a_logit_that_is_nan_is_named():
    class Sick(nn.Module):
        """Sound on clean images, NaN for the third once it moves."""

        def forward(self, x):
            logits = x.flatten(1)[:, :4].clone()
            logits[2:3] *= torch.nan
            return logits

    with pytest.raises(ValueError, match="NaN or infinite"):
        square(Sick(), images(), torch.zeros(6, dtype=torch.int64), eps=0.1)
