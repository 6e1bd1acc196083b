"""DDN: the closed form of a linear model, its path beside the paper's lines, and its edges."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    PROPERTY,
    Counting,
    assert_untouched,
    convolutional,
    images,
    labels,
    linear,
    trace,
    unusual,
)
from test_lbfgs import Flat, borders, few, grey, size, targeted
from torch import Tensor, nn

from course_lib.attacks import ddn, lbfgs
from course_lib.evaluation import fooled
from course_lib.losses import margin


@pytest.mark.parametrize("classes, pixels", [(2, 50), (3, 12), (10, 784)])
def test_linear_untargeted(classes, pixels):
    """The nearest of the hyperplanes z_k = z_y: (z_y - z_k) / ||w_y - w_k||."""
    model, x = linear(classes, (pixels,)), grey(30, pixels)
    model[1].bias.data = -model(x).mean(0).detach() + 0.1 * model[1].bias.data
    y = labels(model, x)
    x_adv = ddn(model, x, y, steps=200, loss=margin)
    ratio = size(x_adv, x) / borders(model, x, y).amin(1)
    assert fooled(model, x_adv, y).all()
    assert ratio.min() > 0.999
    assert ratio.median() < 1.01
    assert ratio.max() < 1.1


def test_linear_with_two_classes_is_the_same_for_both_goals():
    model, x = linear(2, (50,)), grey(20, 50)
    y = labels(model, x)
    x_adv = ddn(model, x, y, target=1 - y)
    ratio = size(x_adv, x) / borders(model, x, y).amin(1)
    assert ((ratio > 0.999) & (ratio < 1.05)).all()
    torch.testing.assert_close(ddn(model, x, y), x_adv, rtol=0, atol=1e-4)


def by_the_paper(model: nn.Module, x: Tensor, y: Tensor, steps: int, sign: float) -> list[Tensor]:
    """Algorithm 1 for one image, line by line: the images x_1, x_2, ... of its run."""
    delta, eps, x_t, path = torch.zeros_like(x), 1.0, x, []
    for k in range(steps):
        free = x_t.detach().requires_grad_()
        logits = model(free)
        g = sign * torch.autograd.grad(F.cross_entropy(logits, y), free)[0]
        alpha = 0.01 + 0.99 * (1 + math.cos(math.pi * k / steps)) / 2
        delta = delta + alpha * g / g.norm()
        adversarial = (logits.argmax(1) != y) if sign > 0 else (logits.argmax(1) == y)
        eps = (0.95 if adversarial else 1.05) * eps
        x_t = (x + eps * delta / delta.norm()).clamp(0, 1)
        delta = x_t - x
        path.append(x_t.detach())
    return path


@targeted
def test_the_papers_lines(targeted):
    model, x, y = few(8)
    model, x = copy.deepcopy(model).double(), x.double()
    label, sign = ((y + 1) % 4, -1.0) if targeted else (y, 1.0)
    x_adv = ddn(model, x, y, target=label if targeted else None, steps=30)
    for i in range(len(x)):
        one = slice(i, i + 1)
        path = torch.cat(by_the_paper(model, x[one], label[one], 30, sign))
        goal = label[one].expand(len(path))
        hit = fooled(model, path, y[one].expand(len(path)), goal if targeted else None)
        distance = size(path, x[one]).where(hit, torch.inf)
        torch.testing.assert_close(x_adv[i], path[distance.argmin() if hit.any() else -1],
                                   rtol=0, atol=1e-5)


@targeted
def test_every_image_is_fooled_and_by_about_as_little_as_with_lbfgs(targeted):
    model, x, y = few(60)
    target = (y + 1) % 4 if targeted else None
    x_adv = ddn(model, x, y, target=target)
    assert fooled(model, x_adv, y, target).all()
    for i in range(0, 60, 7):
        one = slice(i, i + 1)
        assert fooled(model, x_adv[one], y[one], None if target is None else target[one])
    ratio = size(x_adv, x) / size(lbfgs(model, x, y, target=target), x)
    assert ratio.median() < 1.01
    assert (ratio > 1.05).float().mean() < 0.05


def test_longer_runs_end_nearer():
    model, x, y = few(60)
    means = [size(ddn(model, x, y, steps=n), x).mean() for n in (20, 60, 300)]
    assert means[0] > means[1] > means[2]


@settings(PROPERTY, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([2, 3, 1000]), st.sampled_from([1, 3]),
       st.integers(1, 5), st.integers(1, 7), st.booleans())
def test_properties(seed, classes, channels, rows, columns, towards):
    """Any shape: inside the box, finite, detached, of the same kind, and no trace on the model."""
    model = unusual(convolutional(classes, channels, seed))
    x = images(3, (channels, rows, columns), seed).round(decimals=1)
    y = labels(convolutional(classes, channels, seed), x)
    y[0] = (y[0] + 1) % classes  # one image that the model gets wrong by itself
    target = (y + 1) % classes if towards else None
    before, given_x = trace(model), x.clone()
    x_adv = ddn(model, x, y, target=target, steps=8)
    assert_untouched(model, before)
    assert torch.equal(x, given_x)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and not x_adv.requires_grad
    assert x_adv.isfinite().all() and x_adv.min() >= 0 and x_adv.max() <= 1
    if not towards:
        assert torch.equal(x_adv[0], x[0])


@targeted
def test_companions_do_not_matter(targeted):
    model = linear(4, (12,)).double()
    x = grey(12, 12).double()
    y = labels(model, x)
    target = (y + 1) % 4 if targeted else None
    together = ddn(model, x, y, target=target)
    for i in (0, 5, 11):
        alone = ddn(model, x[i:i + 1], y[i:i + 1],
                    target=None if target is None else target[i:i + 1])
        torch.testing.assert_close(alone, together[i:i + 1], rtol=0, atol=1e-6)


def test_one_pass_per_step_and_one_to_judge_the_last():
    model, x, y = few(6)
    counting = Counting(model)
    ddn(counting, x, y, steps=7)
    assert counting.sizes == [6] * 8


def test_the_last_step_is_judged():
    """A first step that is just long enough for the border of a linear model is found."""
    model, x = linear(2, (50,)), grey(6, 50)
    y = labels(model, x)
    far = 1.01 * borders(model, x, y).amin(1).max().item() / 1.05
    assert fooled(model, ddn(model, x, y, steps=1, radius=far), y).all()


def test_zero_gradients_change_nothing():
    x, y = images(4), torch.tensor([0, 0, 0, 1])
    assert torch.equal(ddn(Flat(), x, y), x)


@pytest.mark.parametrize("options, words", [
    ({"steps": 0}, "steps = 0: the search needs at least one"),
    ({"radius": 0.0}, "radius = 0.0, gamma = 0.05: use a radius > 0"),
    ({"radius": float("nan")}, "radius = nan"),
    ({"gamma": 1.0}, "gamma = 1.0: use a radius > 0 and 0 < gamma < 1"),
])
def test_options_that_make_no_sense(options, words):
    model, x, y = few(2)
    with pytest.raises(ValueError, match=words):
        ddn(model, x, y, **options)


def test_where_nothing_is_found_the_last_point_comes_back():
    model, x, y = few(4)
    x_adv = ddn(model, x, y, steps=2, radius=1e-3)
    torch.testing.assert_close(size(x_adv, x), torch.full((4,), 1e-3 * 1.05**2), rtol=0.01, atol=0)
