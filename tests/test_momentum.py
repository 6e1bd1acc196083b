"""MI-FGSM: an example by hand, its limits, and what momentum must not do."""

from __future__ import annotations

import pytest
import torch
from strategies import generator, images, linear, trained
from torch import Tensor, nn

from course_lib.attacks import fgsm, ifgsm, mifgsm
from course_lib.attacks.momentum import momentum_step
from course_lib.norms import NORMS, lp_norm, steepest_direction

EPS = {"linf": 0.06, "l2": 0.35, "l1": 0.8}
every_norm = pytest.mark.parametrize("name", NORMS)


def curved(z: Tensor, scale: Tensor) -> Tensor:
    """L = 2u - 25u^2 - 30u(v + w), (v, u, w) the three pixels less 1/2, times a scale per image."""
    v, u, w = (z - 0.5).unbind(1)
    return (2 * u - 25 * u**2 - 30 * u * (v + w)) * (1 + 999 * scale)


MIDDLE = torch.full((1, 1, 1, 3), 0.5)


@pytest.mark.parametrize("companion", [False, True])
def test_two_steps_by_hand(companion):
    """mu = 0.5, alpha = 0.1, from (.5, .5, .5):

    grad_0 = (0, 2, 0)      g_1 = (0, 1, 0)                          x_1 = (.5, .6, .5)
    grad_1 = (-3, -3, -3)   g_2 = g_1 / 2 - 1/3 = (-1/3, 1/6, -1/3)  x_2 = (.4, .7, .4)

    Without momentum, without the l1 normalisation (1 - 3 < 0), with an l2 normalisation
    (1/2 - 1/sqrt(3) < 0) or with the sign taken first (1/2 - 1 < 0) the middle pixel returns to .5.
    """
    x = MIDDLE.repeat(2, 1, 1, 1) if companion else MIDDLE
    y = torch.tensor([0, 1])[:len(x)]
    x_adv = mifgsm(nn.Flatten(), x, y, eps=0.2, steps=2, mu=0.5, loss=curved)
    for image in x_adv.flatten(1):
        torch.testing.assert_close(image, torch.tensor([0.4, 0.7, 0.4]))


def test_the_momentum_by_hand():
    """g_1 = grad / ||grad||_1, g_2 = mu g_1 + grad / ||grad||_1, each image by its own size."""
    update = momentum_step(0.5, "linf", mu=0.5)
    gradient = torch.tensor([[1.0, -3.0], [40.0, 0.0]]).view(2, 1, 1, 2)
    x = torch.full_like(gradient, 0.5)
    _, g = update(x, gradient, x, None, 0.1)
    assert g.flatten(1).tolist() == [[0.25, -0.75], [1.0, 0.0]]
    _, g = update(x, -gradient.flip(3), x, g, 0.1)
    assert g.flatten(1).tolist() == [[0.125 + 0.75, -0.375 - 0.25], [0.5, -1.0]]


def test_a_zero_gradient_leaves_the_momentum_finite():
    update = momentum_step(0.5, "linf", mu=1.0)
    gradient = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).view(2, 1, 1, 2)
    x = torch.full_like(gradient, 0.5)
    x_t, g = update(x, gradient, x, None, 0.1)
    assert g.flatten(1).tolist() == [[0.0, 0.0], [0.5, 0.5]]
    assert torch.equal(x_t[0], x[0])


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 1e37])
def test_the_size_of_the_gradient_does_not_matter(scale):
    update = momentum_step(0.5, "linf", mu=1.0)
    gradient = torch.tensor([[3.0, -1.0]]).view(1, 1, 1, 2)
    x = torch.full_like(gradient, 0.5)
    _, g = update(x, gradient * scale, x, None, 0.1)
    assert g.flatten().tolist() == pytest.approx([0.75, -0.25], rel=1e-2)


@every_norm
@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_without_momentum_it_is_ifgsm(name, early_stop, targeted):
    """Bit for bit in linf, where only signs count; elsewhere up to the normalisation's rounding."""
    s = trained()
    options = {"eps": EPS[name], "norm": name, "early_stop": early_stop,
               "target": (s.y + 1) % 4 if targeted else None}
    plain, still = ifgsm(s.model, s.x, s.y, **options), mifgsm(s.model, s.x, s.y, mu=0, **options)
    if name == "linf":
        assert torch.equal(plain, still)
    else:
        torch.testing.assert_close(plain, still, rtol=0, atol=1e-6)


@every_norm
@pytest.mark.parametrize("mu", [0.0, 1.0])
def test_one_step_is_fgsm(name, mu):
    s = trained()
    one = mifgsm(s.model, s.x, s.y, eps=EPS[name], norm=name, steps=1, mu=mu)
    torch.testing.assert_close(one, fgsm(s.model, s.x, s.y, eps=EPS[name], norm=name),
                               rtol=0, atol=1e-6)


def test_momentum_changes_the_path():
    s = trained()
    plain, heavy = (mifgsm(s.model, s.x, s.y, eps=0.06, mu=mu) for mu in (0.0, 1.0))
    assert not torch.equal(plain, heavy)


@every_norm
def test_on_a_linear_model_momentum_points_where_the_gradient_does(name):
    model, x, y = linear(2), images(4, (1, 3, 4)) * 0.2 + 0.4, torch.tensor([0, 1, 0, 1])
    weight = model[1].weight.detach()
    x_adv = mifgsm(model, x, y, eps=0.1, steps=4, norm=name)
    expected = 0.1 * steepest_direction(weight[1 - y] - weight[y], name)
    torch.testing.assert_close((x_adv - x).flatten(1), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_the_result_stays_in_the_ball_for_any_mu(mu):
    s = trained()
    for name in NORMS:
        x_adv = mifgsm(s.model, s.x, s.y, eps=EPS[name], norm=name, steps=20, mu=mu,
                       step_size=EPS[name])
        assert lp_norm((x_adv - s.x).double(), name).max() <= EPS[name] + 1e-6


def test_the_noise_of_an_image_without_gradient_is_not_spread():
    """A companion whose gradient vanishes now and then must not touch the momentum of others."""
    update = momentum_step(0.5, "l2", mu=1.0)
    x = torch.rand(3, 1, 2, 2, generator=generator())
    gradient = torch.randn(3, 1, 2, 2, generator=generator())
    together = update(x, gradient, x, None, 0.1)
    gradient[1] = 0
    apart = update(x, gradient, x, None, 0.1)
    for one, two in zip(together, apart, strict=True):
        assert torch.equal(one[[0, 2]], two[[0, 2]])
