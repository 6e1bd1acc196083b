"""FGSM: one step, optimal on a linear model, in the ball, in the box, and without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from strategies import (
    PROPERTY,
    Counting,
    convolutional,
    images,
    labels,
    linear,
    norms,
    radii,
    trained,
)

from course_lib.attacks import fgsm
from course_lib.evaluation import fooled
from course_lib.gradients import input_gradient
from course_lib.losses import cross_entropy, margin
from course_lib.norms import NORMS, dual, lp_norm


@PROPERTY
@given(radii, norms, st.integers(0, 20))
def test_inside_ball_and_box(eps, name, seed):
    model, x = convolutional(), images(3, seed=seed)
    x[0] = x[0].round()
    x_adv = fgsm(model, x, labels(model, x), eps=eps, norm=name)
    assert bool((x_adv >= 0).all()) and bool((x_adv <= 1).all())
    assert bool((lp_norm((x_adv - x).double(), name) <= eps + 1e-6).all())


def test_is_the_formula():
    model, x = trained().model, trained().x
    step = 0.1 * input_gradient(model, x, trained().y).sign()
    assert torch.equal(fgsm(model, x, trained().y, eps=0.1), (x + step).clamp(0, 1))


# --- a linear model, where the best perturbation is known ---------------------------------------


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("targeted", [False, True])
def test_gain_on_a_linear_model_is_eps_times_the_dual_norm(name, eps, targeted):
    """z_k - z_y rises by eps * ||w_k - w_y||_q, more than any other perturbation of that size."""
    model, x, y = linear(2), images(6, (1, 3, 4)) * 0.3 + 0.35, torch.tensor([0, 1, 0, 1, 0, 1])
    x_adv = fgsm(model, x, y, eps=eps, norm=name, target=1 - y if targeted else None)
    weight = model[1].weight.detach()
    w = weight[1 - y] - weight[y]
    with torch.no_grad():
        gain = margin(model(x_adv), y) - margin(model(x), y)
    torch.testing.assert_close(gain, eps * lp_norm(w, dual(name)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["linf", "l1"])
@pytest.mark.parametrize("eps", [0.4, 2.5])
def test_gain_is_optimal_with_the_box_in_the_way(name, eps):
    """Against a linear programme over ball and box."""
    model, x, y = linear(2), images(4, (1, 3, 4)), torch.tensor([0, 1, 0, 1])
    x_adv = fgsm(model, x, y, eps=eps, norm=name)
    weight = model[1].weight.detach().double()
    for image, adversarial, label in zip(x.flatten(1), x_adv.flatten(1), y, strict=True):
        w = (weight[1 - label] - weight[label]).numpy()
        up, down = (1 - image).double().tolist(), image.double().tolist()
        most = eps if name == "linf" else 1
        bounds = [(0, min(room, most)) for room in up + down]
        total = [np.ones((1, 24)), [eps]] if name == "l1" else [None, None]
        best = optimize.linprog(np.concatenate([-w, w]), *total, bounds=bounds)
        gain = float(w @ (adversarial - image).double().numpy())
        assert gain == pytest.approx(-best.fun, abs=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_cross_entropy_rises_and_a_target_comes_nearer(name):
    """The cross-entropy of a linear model is convex: a step along its gradient cannot lower it."""
    model, x, y = linear(5), images(20, (1, 3, 4)) * 0.6 + 0.2, torch.arange(20) % 5
    target = (y + 1) % 5
    x_adv = fgsm(model, x, y, eps=0.05, norm=name)
    x_target = fgsm(model, x, y, eps=0.05, norm=name, target=target)
    with torch.no_grad():
        assert bool((cross_entropy(model(x_adv), y) > cross_entropy(model(x), y)).all())
        assert bool((cross_entropy(model(x_target), target)
                     < cross_entropy(model(x), target)).all())


def test_targeted_does_not_look_at_the_label():
    model, x, target = convolutional(), images(), torch.tensor([0, 1, 2, 3, 0, 1])
    once, twice = (fgsm(model, x, (target + k) % 4, eps=0.1, target=target) for k in (1, 2))
    assert torch.equal(once, twice)


def test_the_label_is_the_given_one_not_the_prediction():
    """On a misclassified image the two differ, and the step must leave the true label."""
    model, x = linear(3), images(8, (1, 3, 4))
    y = (labels(model, x) + 1) % 3
    with torch.no_grad():
        rise = cross_entropy(model(fgsm(model, x, y, eps=0.05)), y) - cross_entropy(model(x), y)
    assert bool((rise > 0).all())


# --- what goes in and what comes out ------------------------------------------------------------


def test_eps_zero_is_the_identity():
    model, x = convolutional(), images()
    for name in NORMS:
        assert torch.equal(fgsm(model, x, labels(model, x), eps=0, norm=name), x)


@pytest.mark.parametrize("name", NORMS)
def test_more_eps_fools_more(name):
    share = [fooled(trained().model, fgsm(trained().model, trained().x, trained().y, eps=eps,
                                          norm=name), trained().y).float().mean()
             for eps in {"linf": (0.02, 0.06, 0.3), "l2": (0.1, 0.4, 2.0),
                         "l1": (0.4, 1.2, 6.0)}[name]]
    assert 0 <= share[0] < share[1] < share[2] and share[2] > 0.9


def test_one_forward_pass_of_the_whole_batch():
    model, x = Counting(convolutional()), images(7)
    fgsm(model, x, torch.zeros(7, dtype=torch.int64), eps=0.1)
    assert model.sizes == [7]
