"""L-BFGS: the two-loop recursion, the search for c, and closed-form and SciPy references."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy_lbfgs import scipy_lbfgs
from strategies import (
    PROPERTY,
    Counting,
    assert_untouched,
    convolutional,
    images,
    labels,
    linear,
    trace,
    trained,
    unusual,
)
from test_input_errors import BAD_IMAGES, BAD_LABELS, BAD_MODELS
from torch import Tensor, nn

from course_lib import gradients
from course_lib.attacks import lbfgs
from course_lib.attacks.lbfgs import any_other, logit_scale, next_c, two_loop
from course_lib.evaluation import fooled
from course_lib.losses import cross_entropy, margin
from course_lib.norms import lp_norm

targeted = pytest.mark.parametrize("targeted", [False, True])


def size(x_adv: Tensor, x: Tensor) -> Tensor:
    return lp_norm(x_adv - x, 2)


def few(n: int = 20) -> tuple[nn.Module, Tensor, Tensor]:
    s = trained()
    return s.model, s.x[:n], s.y[:n]


# --- the two-loop recursion ---------------------------------------------------------------------


def random_pairs(n: int, d: int, count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Steps s and changes y = A s of the gradient of a quadratic, one A for each image."""
    source = torch.Generator().manual_seed(seed)
    root = torch.randn(n, d, d, generator=source, dtype=torch.float64)
    hessian = root @ root.mT + torch.eye(d)
    steps = torch.randn(count, n, d, generator=source, dtype=torch.float64)
    return [(s, (hessian @ s[:, :, None]).squeeze(2)) for s in steps]


def bfgs_matrix(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The inverse Hessian of BFGS as a matrix: H = V^T H V + rho s s^T, V = I - rho y s^T."""
    s, y = pairs[-1]
    eye = torch.eye(len(s), dtype=s.dtype)
    h = eye * (s @ y) / (y @ y)
    for s, y in pairs:
        rho = 1 / (s @ y)
        v = eye - rho * torch.outer(y, s)
        h = v.T @ h @ v + rho * torch.outer(s, s)
    return h


@pytest.mark.parametrize("count", [1, 2, 5])
def test_two_loops_are_the_bfgs_matrix(count):
    pairs = random_pairs(4, 6, count)
    g = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    r = two_loop(g, pairs, torch.ones(4, dtype=torch.float64))
    for i in range(4):
        expected = bfgs_matrix([(s[i], y[i]) for s, y in pairs]) @ g[i]
        torch.testing.assert_close(r[i], expected)


def test_two_loops_satisfy_the_secant_equation():
    """H y = s for the newest pair."""
    pairs = random_pairs(3, 5, 4)
    s, y = pairs[-1]
    torch.testing.assert_close(two_loop(y, pairs, torch.ones(3, dtype=torch.float64)), s)


def test_without_pairs_the_gradient_is_scaled():
    g = images(2).flatten(1)
    assert torch.equal(two_loop(g, [], torch.tensor([2.0, 0.5])), g * torch.tensor([[2.0], [0.5]]))


@pytest.mark.parametrize("useless", ["zero", "negative curvature", "no curvature"])
def test_a_pair_without_curvature_is_passed_over(useless):
    (s, _), good = random_pairs(2, 4, 2)
    bad = {"zero": (0 * s, 0 * s), "negative curvature": (s, -s), "no curvature": (s, 0 * s)}
    g, scale = torch.ones_like(s), torch.ones(2, dtype=s.dtype)
    for pairs in ([bad[useless], good], [good, bad[useless]]):
        torch.testing.assert_close(two_loop(g, pairs, scale), two_loop(g, [good], scale))
    assert torch.equal(two_loop(g, [bad[useless]], scale), g)


@PROPERTY
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(-6, 6))
def test_two_loops_always_descend(seed, count, power):
    """H is positive definite: the direction never points uphill, at any scale of the gradient."""
    source = torch.Generator().manual_seed(seed)
    s, y = torch.randn(2, count, 3, 5, generator=source)
    g = torch.randn(3, 5, generator=source) * 10**power
    descent = two_loop(g, list(zip(s, y, strict=True)), torch.ones(3))
    assert descent.isfinite().all()
    assert ((descent * g).sum(1) >= 0).all()


# --- losses and c -------------------------------------------------------------------------------


def test_any_other_is_the_log_of_what_the_label_leaves():
    logits, y = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 4
    left = 1 - logits.softmax(1).gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(any_other(logits, y), left.log())
    two = logits[:, :2]
    torch.testing.assert_close(any_other(two, y % 2), -cross_entropy(two, 1 - y % 2))


def test_any_other_is_finite_and_alive_where_the_cross_entropy_is_flat():
    logits = torch.tensor([[1000.0, 0.0, 0.0]], requires_grad=True)
    value = any_other(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(value, torch.tensor([math.log(2) - 1000]))
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 0.5, 0.5]]))


@PROPERTY
@given(st.floats(-20, 20), st.floats(-20, 20))
def test_c_is_found_from_any_guess(border, guess):
    """Success up to 2^border, failure above: the bracket closes in on it, from far off."""
    c, low, high = (torch.tensor([v], dtype=torch.float64) for v in (2.0**guess, 0.0, math.inf))
    for _ in range(35):
        low, high = (c, high) if c <= 2.0**border else (low, c)
        c = next_c(c, low, high)
        assert low < c < high
    assert (high / low).log() < 1e-3


def test_logit_scale_makes_logits_decided():
    logits = torch.tensor([[0.3, 0.1, 0.0], [40.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    scale = logit_scale(logits, torch.zeros(3, dtype=torch.int64), None)
    torch.testing.assert_close(margin(logits * scale[:, None], torch.zeros(3, dtype=torch.int64)),
                               torch.tensor([-10.0, -40.0, 0.0]))
    assert scale[1] == 1
    assert scale.isfinite().all()


# --- against closed forms -----------------------------------------------------------------------


def grey(n: int, pixels: int) -> Tensor:
    """Images so far from the box's faces that the attack never meets them."""
    return 0.45 + 0.1 * images(n, (1, 1, pixels))


def borders(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Distances to the hyperplanes z_k = z_y: (z_y - z_k) / ||w_y - w_k||. [n, classes]"""
    weight, logits = model[1].weight.detach(), model(x).detach()
    apart = torch.cdist(weight, weight)[y]
    return ((logits.gather(1, y[:, None]) - logits) / apart).scatter(1, y[:, None], torch.inf)


@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize("classes, pixels", [(2, 784), (3, 12), (10, 100), (10, 784)])
def test_linear_untargeted(classes, pixels, scale):
    """The nearest of the hyperplanes, however soft or hard the softmax is."""
    model, x = linear(classes, (pixels,)), grey(30, pixels)
    model[1].bias.data = -model(x).mean(0).detach() + 0.1 * model[1].bias.data
    model[1].weight.data *= scale
    model[1].bias.data *= scale
    y = labels(model, x)
    x_adv = lbfgs(model, x, y)
    ratio = size(x_adv, x) / borders(model, x, y).amin(1)
    assert fooled(model, x_adv, y).all()
    assert ratio.min() > 0.999
    assert ratio.mean() < 1.01
    assert ratio.quantile(0.9) < 1.02


def test_linear_with_two_classes_is_exact_for_both_goals():
    model, x = linear(2, (50,)), grey(20, 50)
    y = labels(model, x)
    best = borders(model, x, y).amin(1)
    for target in (None, 1 - y):
        ratio = size(lbfgs(model, x, y, target=target), x) / best
        assert (ratio >= 0.999).all()
        assert (ratio <= 1.005).all()


def test_linear_targeted():
    """min ||r|| subject to z_t >= z_k for all k, solved by SLSQP."""
    model, x = linear(4, (12,)), grey(8, 12)
    y = labels(model, x)
    target = (y + 1) % 4
    x_adv = lbfgs(model, x, y, target=target)
    assert fooled(model, x_adv, y, target).all()
    weight = model[1].weight.detach().double()
    ratios = []
    for i, t in enumerate(target.tolist()):
        gaps = (weight[t] - weight).numpy()
        logits = model(x[i:i + 1]).detach()[0].double()
        lead = (logits[t] - logits).numpy()
        # The problem in units that suit SLSQP; r = 0 has no gradient, so it starts beside it.
        solution = minimize(
            lambda r: r @ r, gaps.mean(0) * 0.1, jac=lambda r: 2 * r, method="SLSQP",
            constraints={"type": "ineq", "fun": lambda r, gaps=gaps, lead=lead: gaps @ r + lead,
                         "jac": lambda r, gaps=gaps: gaps},
        )
        ratios.append(size(x_adv[i:i + 1], x[i:i + 1]).item() / math.sqrt(solution.fun))
    # Where three classes meet, the third still pulls a little.
    assert min(ratios) > 0.999
    assert sum(ratios) / len(ratios) < 1.01
    assert max(ratios) < 1.03


def test_linear_in_a_tight_box():
    """With the box: r = clamp(x + a w) - x, a such that the border is met. Most pixels end at 0."""
    model, x = linear(2, (200,)), images(8, (1, 1, 200)) * 0.002
    y = labels(model, x)
    other = 1 - y
    w = (model[1].weight[other] - model[1].weight[y]).detach().view_as(x)

    def along(a: Tensor) -> Tensor:
        return (x + a[:, None, None, None] * w).clamp(0, 1)

    low, high = torch.zeros(8), torch.full((8,), 50.0)
    for _ in range(60):
        middle = (low + high) / 2
        beyond = fooled(model, along(middle), y)
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    best = size(along(high), x)
    x_adv = lbfgs(model, x, y)
    assert (x_adv == 0).float().mean() > 0.3
    ratio = size(x_adv, x) / best
    assert (ratio > 0.999).all()
    assert (ratio < 1.02).all()


# --- against SciPy ------------------------------------------------------------------------------


@targeted
@pytest.mark.parametrize("ftol", [1e-3, 2.2e-9])
def test_not_behind_scipy(targeted, ftol):
    """Ours stops early, SciPy's own tolerance lets it use all its passes; networks have kinks."""
    model, x, y = few(10)
    target = (y + 1) % 4 if targeted else None
    ours = lbfgs(model, x, y, target=target)
    theirs = scipy_lbfgs(model, x, y, target=target, ftol=ftol)
    assert fooled(model, theirs, y, target).all()
    assert size(ours, x).mean() < 1.01 * size(theirs, x).mean()


# --- what must hold for every model -------------------------------------------------------------


@targeted
def test_every_image_is_fooled_by_what_comes_back(targeted):
    model, x, y = few(60)
    target = (y + 1) % 4 if targeted else None
    x_adv = lbfgs(model, x, y, target=target)
    assert fooled(model, x_adv, y, target).all()
    # By more than rounding: one by one, and in double precision.
    for i in range(0, 60, 7):
        one = slice(i, i + 1)
        assert fooled(model, x_adv[one], y[one], None if target is None else target[one])


@targeted
def test_no_better_point_on_the_way_back(targeted):
    """A little closer to the clean image, the attack fails: the border has been found."""
    model, x, y = few()
    target = (y + 1) % 4 if targeted else None
    x_adv = lbfgs(model, x, y, target=target)
    closer = x + 0.97 * (x_adv - x)
    assert not fooled(model, closer, y, target).any()


def test_more_values_of_c_never_cost():
    model, x, y = few()
    sizes = [size(lbfgs(model, x, y, c_steps=n), x) for n in (2, 5, 12)]
    reached = [fooled(model, lbfgs(model, x, y, c_steps=n), y) for n in (2, 5, 12)]
    for less, more, hit in zip(sizes, sizes[1:], reached, strict=False):
        assert (more[hit] <= less[hit] * (1 + 1e-5)).all()


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
    x_adv = lbfgs(model, x, y, target=target, c_steps=5, steps=10)
    assert_untouched(model, before)
    assert torch.equal(x, given_x)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and not x_adv.requires_grad
    assert x_adv.isfinite().all() and x_adv.min() >= 0 and x_adv.max() <= 1
    if not towards:
        assert torch.equal(x_adv[0], x[0])


def test_double_precision_stays_double():
    model, x, y = convolutional().double(), images().double(), None
    y = labels(model, x)
    x_adv = lbfgs(model, x, y)
    assert x_adv.dtype == torch.float64
    assert fooled(model, x_adv, y).all()


@targeted
def test_companions_do_not_matter(targeted):
    """Alone, in another order, in a batch that passes in parts: the same, up to rounding."""
    s = trained()
    model = linear(4, (1, 8, 7)).double()
    x, y = s.x[:12].double(), s.y[:12]
    for net in (model, nn.Sequential(model[0], model[1], nn.Softplus(), nn.Linear(4, 4).double())):
        y = labels(net, x)
        target = (y + 1) % 4 if targeted else None
        together = lbfgs(net, x, y, target=target)
        order = torch.arange(11, -1, -1)
        mixed = lbfgs(net, x[order], y[order], target=None if target is None else target[order])
        torch.testing.assert_close(mixed[order], together, rtol=0, atol=1e-6)
        for i in (0, 5, 11):
            alone = lbfgs(net, x[i:i + 1], y[i:i + 1],
                          target=None if target is None else target[i:i + 1])
            torch.testing.assert_close(alone, together[i:i + 1], rtol=0, atol=1e-6)


def test_companions_of_a_network_matter_less_than_a_percent():
    """In float32 a kink of the network may be met on either side; the distance hardly changes."""
    model, x, y = few()
    together = size(lbfgs(model, x, y), x)
    alone = torch.cat([size(lbfgs(model, x[i:i + 1], y[i:i + 1]), x[i:i + 1]) for i in range(8)])
    torch.testing.assert_close(alone, together[:8], rtol=0.02, atol=0)


def test_a_batch_in_parts(monkeypatch):
    model, x, y = few()
    whole = lbfgs(model, x, y)
    monkeypatch.setattr(gradients, "_PART", 3 * 56)
    torch.testing.assert_close(size(lbfgs(model, x, y), x), size(whole, x), rtol=0.02, atol=0)


def test_images_leave_when_their_search_is_over():
    model, x, y = few()
    counting = Counting(model)
    lbfgs(counting, x, y, c_steps=4, steps=6)
    assert counting.sizes == sorted(counting.sizes, reverse=True)
    assert counting.sizes[-1] < len(x)
    assert len(counting.sizes) <= 2 + 4 * 6


# --- the edges ----------------------------------------------------------------------------------


class Flat(nn.Module):
    """No gradient anywhere: the same logits for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.flatten(1)[:, :3] + torch.tensor([2.0, 1.0, 0.0])


@targeted
def test_zero_gradients_change_nothing(targeted):
    x, y = images(4), torch.tensor([0, 0, 0, 1])
    target = torch.tensor([1, 2, 1, 2]) if targeted else None
    assert torch.equal(lbfgs(Flat(), x, y, target=target), x)


def test_a_saturated_network():
    """Logits a thousand apart, where the softmax is 1 to the last bit."""
    model, x = linear(3, (12,)), grey(6, 12)
    model[1].weight.data *= 1e5
    y = labels(model, x)
    x_adv = lbfgs(model, x, y)
    assert fooled(model, x_adv, y).all()
    assert (size(x_adv, x) < 1.1 * borders(model, x, y).amin(1)).all()


def test_an_image_that_is_fooled_already_stays():
    model, x, y = few(6)
    wrong = y.clone()
    wrong[::2] = (wrong[::2] + 1) % 4
    x_adv = lbfgs(model, x, wrong)
    assert torch.equal(x_adv[::2], x[::2])
    assert (size(x_adv, x)[1::2] > 0).all()


def test_out_of_reach():
    """No image of class 2 exists: what comes back is finite, in the box, and tried."""
    model, x = linear(3, (12,)), grey(4, 12)
    model[1].bias.data[2] = -100.0
    y = labels(model, x)
    x_adv = lbfgs(model, x, y, target=torch.full_like(y, 2))
    assert not fooled(model, x_adv, y, torch.full_like(y, 2)).any()
    assert x_adv.isfinite().all() and x_adv.min() >= 0 and x_adv.max() <= 1
    assert (model(x_adv)[:, 2] - model(x)[:, 2] > 0.5).all()


def test_an_image_in_a_corner_of_the_box():
    """Every pixel black: only brightening is possible, and is used."""
    model = trained().model
    x = torch.zeros(1, 1, 8, 7)
    y = labels(model, x)
    x_adv = lbfgs(model, x, y)
    assert fooled(model, x_adv, y).all()
    assert x_adv.min() == 0


MODEL, X = convolutional(), images()
Y = labels(MODEL, X)


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_images(kind):
    x, message = BAD_IMAGES[kind]
    with pytest.raises(ValueError, match=message):
        lbfgs(MODEL, x, Y[:0] if kind == "no image" else Y)


@pytest.mark.parametrize("name", ["y", "target"])
@pytest.mark.parametrize("kind", BAD_LABELS)
def test_bad_labels(kind, name):
    labels, message = BAD_LABELS[kind]
    with pytest.raises(ValueError, match=message.format(name)):
        lbfgs(MODEL, X, **{"y": Y, name: labels})


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models(kind):
    model, message = BAD_MODELS[kind]
    with pytest.raises(ValueError, match=message):
        lbfgs(model, X, Y)


@pytest.mark.parametrize("name", ["c_steps", "steps"])
@pytest.mark.parametrize("count", [0, -3])
def test_too_few_steps(name, count):
    with pytest.raises(ValueError, match=f"{name} = {count}: the search needs at least one"):
        lbfgs(MODEL, X, Y, **{name: count})
