"""lp norms, projections, steepest directions and uniform points, each against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from strategies import (
    PROPERTY,
    allowed_and_new,
    batches,
    generator,
    images,
    norms,
    radii,
)

from course_lib.norms import (
    NORMS,
    check_ball,
    dual,
    lp_norm,
    project,
    project_box,
    steepest_direction,
    steepest_step,
    uniform_ball,
)

TRUE_NORMS = st.sampled_from([1, 1.5, 2, 3, 10, math.inf])


def by_definition(x: torch.Tensor, p: float) -> np.ndarray:
    a = np.abs(x.double().numpy())
    if p == 0:
        return (a != 0).sum(1).astype(float)
    return a.max(1) if p == math.inf else (a**p).sum(1) ** (1 / p)


# --- norm ---------------------------------------------------------------------------------------


@PROPERTY
@given(batches(), st.sampled_from([0, 0.5, 1, 1.5, 2, 3, 10, math.inf]))
def test_norm_is_its_formula(x, p):
    assert lp_norm(x, p).numpy() == pytest.approx(by_definition(x, p), rel=2e-6, abs=1e-30)


@PROPERTY
@given(batches(), TRUE_NORMS, st.sampled_from([-3.0, -1.0, 0.0, 0.25, 10.0]))
def test_norm_axioms(x, p, factor):
    y = x.flip(1) + 0.5
    size = lp_norm(x, p)
    assert bool((lp_norm(x + y, p) <= (size + lp_norm(y, p)) * (1 + 1e-5) + 1e-6).all())
    torch.testing.assert_close(lp_norm(factor * x, p), abs(factor) * size, rtol=1e-5, atol=1e-30)
    assert torch.equal(size == 0, (x == 0).all(1))
    assert bool((size >= 0).all())


def test_below_one_the_triangle_inequality_fails():
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert lp_norm(x, 0.5) == lp_norm(y, 0.5) == 1
    assert lp_norm(x + y, 0.5) == pytest.approx(4.0)


def test_l0_is_not_homogeneous():
    x = torch.tensor([[0.0, 2.0, -1.0]])
    assert lp_norm(x, "l0") == lp_norm(5 * x, 0) == 2


@PROPERTY
@given(batches())
def test_norm_falls_as_p_grows(x):
    sizes = torch.stack([lp_norm(x, p) for p in (0.5, 1, 1.5, 2, 4, 20, 400, math.inf)])
    assert bool((sizes[:-1] >= sizes[1:] * (1 - 1e-5)).all())


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-3, 1.0, 1e3, 1e30])
@pytest.mark.parametrize("p", [2, 3, 50, 1000, 1e6])
def test_no_overflow_and_no_underflow(p, scale):
    x = torch.tensor([[3.0, -4.0, 0.0]]) * scale
    expected = 4 * (1 + 0.75**p) ** (1 / p)
    assert lp_norm(x, p).item() / scale == pytest.approx(
        expected, rel=1e-3 if scale < 1e-35 else 1e-5)


def test_norm_of_special_images():
    x = torch.tensor([[0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0]])
    for p in (1, 2, 50, math.inf):
        zero, infinite, undefined = lp_norm(x, p)
        assert zero == 0 and infinite == math.inf and undefined.isnan()


def test_norm_is_taken_per_image_over_all_other_dimensions():
    x = torch.ones(2, 3, 4, 5)
    assert lp_norm(x, 1).tolist() == [60, 60]
    assert lp_norm(x.double(), 2).dtype == torch.float64


@pytest.mark.parametrize("name, p", [("linf", math.inf), ("l2", 2), ("l1", 1), ("l0", 0)])
def test_names_stand_for_numbers(name, p):
    x = images(3, (4,)) - 0.5
    assert torch.equal(lp_norm(x, name), lp_norm(x, p))


@pytest.mark.parametrize("p", [-1, -0.1, math.nan, "l3", "L2"])
def test_bad_exponents_are_named(p):
    with pytest.raises(ValueError, match=r"needs? p >= 0|unknown norm"):
        lp_norm(torch.ones(1, 2), p)


# --- dual norms ---------------------------------------------------------------------------------


@PROPERTY
@given(TRUE_NORMS)
def test_dual_of_the_dual(p):
    q = dual(p)
    assert 1 / p + 1 / q == pytest.approx(1)
    assert dual(q) == pytest.approx(p)


@PROPERTY
@given(batches(), TRUE_NORMS)
def test_hoelder(g, p):
    r = g.roll(1, 1) - 0.3
    bound = lp_norm(g, dual(p)) * lp_norm(r, p) * (1 + 1e-5) + 1e-5
    assert bool(((g * r).sum(1).abs() <= bound).all())


@pytest.mark.parametrize("p", [0, 0.5, "l0"])
def test_no_dual_below_one(p):
    with pytest.raises(ValueError, match="below 1"):
        dual(p)


# --- projections --------------------------------------------------------------------------------


def slow_projection(row: np.ndarray, eps: float, name: str) -> np.ndarray:
    """In double precision, and for l1 by another way: bisection for the soft threshold."""
    if name == "linf":
        return np.clip(row, -eps, eps)
    if name == "l2":
        return row * min(1.0, eps / max(np.linalg.norm(row), 1e-300))
    if np.abs(row).sum() <= eps:
        return row

    def shrunk(threshold: float) -> np.ndarray:
        return np.sign(row) * np.maximum(np.abs(row) - threshold, 0)

    low, high = 0.0, np.abs(row).max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.abs(shrunk(middle)).sum() > eps else (low, middle)
    return shrunk(high)


@PROPERTY
@given(batches(), radii, norms)
def test_projection_is_the_reference(delta, eps, name):
    expected = [slow_projection(row, eps, name) for row in delta.double().numpy()]
    assert project(delta, eps, name).numpy() == pytest.approx(np.stack(expected), abs=2e-6)


@PROPERTY
@given(batches(), radii, norms)
def test_projection_is_feasible_and_idempotent(delta, eps, name):
    once = project(delta, eps, name)
    assert bool((lp_norm(once.double(), name) <= eps * (1 + 2e-7)).all())
    torch.testing.assert_close(project(once, eps, name), once, rtol=1e-6, atol=1e-7)
    inside = lp_norm(delta.double(), name) <= eps
    assert torch.equal(once[inside], delta[inside]), "a point of the ball must stay where it is"


@PROPERTY
@given(batches(most=6), st.sampled_from([0.05, 0.3, 1.0, 4.0]), norms, st.integers(0, 9))
def test_no_point_of_the_ball_is_nearer(delta, eps, name, seed):
    """p is the nearest point of a convex set exactly when <delta - p, z - p> <= 0 for all its z."""
    nearest = project(delta, eps, name).double()
    others = uniform_ball((50 * len(delta), delta.shape[1]), eps, name, generator(seed)).double()
    others = others.view(50, *delta.shape)
    # The far points of the ball matter most: stretch each one to the boundary.
    others = others * (eps / lp_norm(others.flatten(0, 1), name).clamp_min(1e-9)).view(50, -1, 1)
    product = ((delta.double() - nearest) * (others - nearest)).sum(2)
    assert product.max() <= 1e-5 * (1 + delta.abs().max())


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("eps", [0.01, 1.0, 60.0])
@pytest.mark.parametrize("kind", ["random", "equal", "one"])
def test_projection_keeps_its_promise_on_a_photograph(name, eps, kind):
    """150,528 entries: sums in single precision would leave the ball by up to 1e-2 of eps."""
    delta = {"random": images(1, (3, 224, 224)), "equal": torch.ones(1, 3, 224, 224),
             "one": torch.zeros(1, 3, 224, 224)}[kind].clone()
    delta[0, 0, 0, 0] = 70.0 if kind == "one" else 1.0
    length = lp_norm(project(delta, eps, name).double(), name).item()
    assert length == pytest.approx(min(eps, lp_norm(delta.double(), name).item()), rel=2e-7)


def test_l1_projection_is_no_rescaling():
    """Rescaling gives [0.75, 0.25]: feasible, but farther away than the exact [1, 0]."""
    delta = torch.tensor([[3.0, 1.0]])
    assert project(delta, 1.0, "l1").tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("name", NORMS)
def test_projection_of_extreme_entries(name):
    large = 1e6 if name == "l1" else 1e30
    delta = torch.tensor([[large, -large], [1e-40, 0.0], [0.0, 0.0]])
    p = project(delta, 0.5, name)
    assert bool(p.isfinite().all()) and bool((lp_norm(p, name) <= 0.5 + 1e-6).all())
    assert lp_norm(p, name)[0] == pytest.approx(0.5)
    assert torch.equal(p[1:], delta[1:])


@PROPERTY
@given(allowed_and_new(), radii, norms)
def test_project_box_is_feasible(pair, eps, name):
    x, x_new = pair
    x_adv = project_box(x_new, x, eps, name)
    assert bool((x_adv >= 0).all()) and bool((x_adv <= 1).all())
    assert bool((lp_norm((x_adv - x).double(), name) <= eps + 1e-6).all())
    again = project_box(x_adv, x, eps, name)
    torch.testing.assert_close(again, x_adv, rtol=1e-6, atol=1e-6)


@PROPERTY
@given(allowed_and_new(), st.sampled_from([0.05, 0.3, 1.0]))
def test_project_box_is_the_nearest_point_in_linf(pair, eps):
    x, x_new = pair
    grid = torch.linspace(0, 1, 401)[:, None, None]
    grid = torch.where((grid - x).abs() <= eps, grid, torch.inf)
    nearest = (grid - x_new).abs().amin(0)
    assert bool(((project_box(x_new, x, eps, "linf") - x_new).abs() <= nearest + 1e-6).all())


def test_project_box_reaches_the_exact_corner():
    """x + eps itself, not x + (x_new - x) with its rounding error: steps stay comparable."""
    x, eps = images(4, (1, 5, 5)), 8 / 255
    assert torch.equal(project_box(x + 1, x, eps, "linf"), (x + eps).clamp(0, 1))


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", NORMS)
def test_bad_radii_are_named(eps, name):
    x = torch.zeros(1, 2)
    for call in (lambda: project(x, eps, name), lambda: project_box(x, x, eps, name),
                 lambda: uniform_ball((1, 2), eps, name, generator()),
                 lambda: check_ball(eps, name)):
        with pytest.raises(ValueError, match="finite number >= 0"):
            call()


@pytest.mark.parametrize("name", ["l3", "inf", "Linf", 2])
def test_unknown_norms_are_named(name):
    x = torch.zeros(1, 2)
    for call in (lambda: project(x, 1, name), lambda: project_box(x, x, 1, name),
                 lambda: steepest_direction(x, name), lambda: steepest_step(x, x, 1, name),
                 lambda: uniform_ball((1, 2), 1, name, generator())):
        with pytest.raises(ValueError, match="use one of 'linf', 'l2', 'l1'"):
            call()


# --- steepest directions ------------------------------------------------------------------------


@PROPERTY
@given(batches(), norms, st.sampled_from([1e-40, 1e-30, 1e-6, 1.0, 1e10, 1e37]))
def test_steepest_attains_the_dual_norm(g, name, scale):
    g = g * scale
    d = steepest_direction(g, name)
    assert bool(d.isfinite().all())
    zero = (g == 0).all(1)
    assert bool((d[zero] == 0).all()), "a zero gradient gives a zero direction"
    assert lp_norm(d[~zero].double(), name).numpy() == pytest.approx(1, rel=1e-6)
    gain = (g.double() * d.double()).sum(1)
    assert gain.numpy() == pytest.approx(lp_norm(g.double(), dual(name)).numpy(), rel=1e-5)


@PROPERTY
@given(batches(), norms)
def test_steepest_ignores_companions_and_scale(g, name):
    d = steepest_direction(g, name)
    assert torch.equal(d, torch.cat([steepest_direction(row[None], name) for row in g]))
    assert torch.equal(d, steepest_direction(4 * g, name))
    assert d.shape == steepest_direction(g.view(len(g), 1, -1, 1), name).flatten(1).shape


# --- climb --------------------------------------------------------------------------------------


@PROPERTY
@given(batches(0.0, 1.0), norms, st.sampled_from([0.0, 0.1, 0.7, 3.0]), st.integers(0, 9))
def test_climb_is_a_step_of_its_size(x, name, size, seed):
    g = torch.randn(x.shape, generator=generator(seed))
    step = (steepest_step(x, g, size, name) - x).double()
    assert bool((lp_norm(step, name) <= size + 1e-6).all())
    assert bool((step * g >= -1e-7).all())
    if name == "l1":
        moved = x + step
        assert bool((moved >= -1e-7).all()) and bool((moved <= 1 + 1e-7).all())
    else:
        assert torch.equal(steepest_step(x, g, size, name), x + size * steepest_direction(g, name))


@pytest.mark.parametrize("size", [0.05, 0.4])
def test_climb_in_l1_is_steepest_as_long_as_the_box_is_far(size):
    x, g = torch.full((5, 1, 3, 3), 0.5), torch.randn(5, 1, 3, 3, generator=generator())
    assert torch.equal(steepest_step(x, g, size, "l1"), x + size * steepest_direction(g, "l1"))


@pytest.mark.parametrize("size", [0.2, 1.0, 2.5, 20.0])
@pytest.mark.parametrize("seed", range(4))
def test_climb_in_l1_is_the_optimum_of_ball_and_box(size, seed):
    """Against a linear programme: d = up - down, sum(up + down) <= size, 0 <= x + d <= 1."""
    x = images(1, (8,), seed=seed)[0]
    x[:2] = torch.tensor([0.0, 1.0])
    g = torch.randn(8, generator=generator(seed))
    g[3] = 0
    c = np.concatenate([-g.double(), g.double()])
    room = [(0, 1 - v) for v in x.double().tolist()] + [(0, v) for v in x.double().tolist()]
    best = optimize.linprog(c, A_ub=np.ones((1, 16)), b_ub=[size], bounds=room)
    step = steepest_step(x[None], g[None], size, "l1")[0] - x
    assert (step * g).sum().item() == pytest.approx(-best.fun, abs=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_climb_in_l1_can_spread_over_more_pixels(share):
    x, g = images(5, (1, 4, 5)), torch.randn(5, 1, 4, 5, generator=generator())
    for size in (0.8, 1.5):
        step = steepest_step(x, g, size, "l1", share) - x
        assert lp_norm(step, "linf").max() <= share * min(size, 1) + 1e-6
        assert lp_norm(step, "l1").numpy() == pytest.approx(size, abs=1e-5)


def test_climb_in_l1_does_not_spread_a_tiny_step():
    x, g = 0.5 * torch.ones(1, 1, 4, 5), torch.randn(1, 1, 4, 5, generator=generator())
    assert torch.equal(steepest_step(x, g, 0.08, "l1", 0.25), steepest_step(x, g, 0.08, "l1"))


def test_climb_with_a_zero_gradient_stays():
    x = images(2, (1, 3, 3))
    for name in NORMS:
        assert torch.equal(steepest_step(x, torch.zeros_like(x), 0.7, name), x)


# --- uniform points -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("d", [1, 3, 20])
def test_uniform_points_have_the_right_radius(name, d):
    """The ball of radius t holds the share t^d of the unit ball, so (||r|| / eps)^d is uniform."""
    r = uniform_ball((3000, d), 0.7, name, generator(d))
    radius = lp_norm(r.double(), name) / 0.7
    assert radius.max() <= 1 + 1e-6
    assert stats.kstest((radius**d).numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("d", [2, 3, 20])
@pytest.mark.parametrize("name", NORMS)
def test_uniform_points_have_the_right_marginals(name, d):
    """One coordinate: uniform in linf, Beta((d + 1) / 2, (d + 1) / 2) in l2 (on [-1, 1]); in l1 its
    size is Beta(1, d) and its sign is fair."""
    r = uniform_ball((3000, d), 2.0, name, generator(10 + d)).double().numpy() / 2
    law = {"linf": stats.uniform(), "l2": stats.beta((d + 1) / 2, (d + 1) / 2)}.get(name)
    for i in (0, d - 1):
        if name == "l1":
            assert stats.kstest(np.abs(r[:, i]), stats.beta(1, d).cdf).pvalue > 1e-3
            assert stats.binomtest(int((r[:, i] > 0).sum()), 3000).pvalue > 1e-3
        else:
            assert stats.kstest((r[:, i] + 1) / 2, law.cdf).pvalue > 1e-3
    # Signs of two coordinates are independent.
    assert stats.binomtest(int((r[:, 0] * r[:, -1] > 0).sum()), 3000).pvalue > 1e-3


@PROPERTY
@given(st.integers(1, 3), st.integers(1, 5), radii, norms, st.integers(0, 50))
def test_uniform_points_lie_in_the_ball(n, d, eps, name, seed):
    r = uniform_ball((n, 1, d, 2), eps, name, generator(seed))
    assert r.shape == (n, 1, d, 2) and r.dtype == torch.float32
    assert bool((lp_norm(r.double(), name) <= eps * (1 + 1e-6)).all())


@pytest.mark.parametrize("name", NORMS)
def test_noise_comes_from_the_generator_alone(name):
    before = torch.get_rng_state()
    first, again = (uniform_ball((4, 6), 1.0, name, generator(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, uniform_ball((4, 6), 1.0, name, generator(4)))
    assert not torch.equal(first[0], first[1]), "each image has noise of its own"
    assert torch.equal(torch.get_rng_state(), before)
