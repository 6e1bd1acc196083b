"""Sizes of perturbations: lp norms, projections, steepest directions, uniform points in balls.

Everything works per image: the first dimension counts images, the rest is one image.
Taught in lesson 01.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NORMS = ("linf", "l2", "l1")
WRITTEN = {"linf": "l_inf", "l2": "l_2", "l1": "l_1", "l0": "l_0"}  # in words and captions
_EXPONENT = {"linf": math.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}


def lp_norm(x: Tensor, p: float | str) -> Tensor:
    """The lp norm of every image of a batch.

        ||x||_p = (sum_i |x_i|^p)^(1/p)   ||x||_inf = max_i |x_i|   ||x||_0 = #{i : x_i != 0}

    For 0 < p < 1 the formula still gives a number, but no norm: the triangle inequality fails.
    The largest entry is divided out first, so that a large p neither overflows nor underflows.

    Shape: x [n, ...] -> [n]. p: a number >= 0, or "linf", "l2", "l1", "l0".
    Raises: ValueError for a negative or unknown p.
    Lesson: 01.

    >>> lp_norm(torch.tensor([[3.0, -4.0]]), 2)
    tensor([5.])
    """
    p = _exponent(p)
    flat = x.flatten(1).abs()
    if p == 0:
        return (flat != 0).sum(1).to(x.dtype)
    if flat.shape[1] == 0:
        return flat.sum(1)
    largest = flat.amax(1)
    if p == math.inf:
        return largest
    if p == 1:
        return flat.sum(1)
    scale = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    return scale * (flat / scale[:, None]).pow(p).sum(1).pow(1 / p)


def dual(p: float | str) -> float:
    """The exponent q of the dual norm, 1/p + 1/q = 1: how much <g, r> can reach while ||r||_p <= 1.

    Raises: ValueError for p < 1, which is no norm and has no dual.
    Lesson: 01.

    >>> dual("linf"), dual(2), dual(1)
    (1.0, 2.0, inf)
    """
    p = _exponent(p)
    if p < 1:
        raise ValueError(f"p = {p} is below 1: no norm, so it has no dual norm")
    if p == 1:
        return math.inf
    return 1.0 if p == math.inf else p / (p - 1)


def project(delta: Tensor, eps: float, norm: str) -> Tensor:
    """The point of the ball ||r||_p <= eps nearest (in Euclidean distance) to each perturbation.

        linf: clamp every entry to [-eps, eps]       l2: shrink to length eps
        l1:   sign(r) * max(|r| - lambda, 0), lambda such that the l1 norm becomes eps

    Shape: delta [n, ...] -> the same.
    Raises: ValueError for a negative eps or a norm that is not "linf", "l2", "l1".
    Reference: Duchi et al. 2008, figure 1, for l1.
    Lesson: 01.

    >>> project(torch.tensor([[3.0, 1.0]]), 1.0, "l1")
    tensor([[1., 0.]])
    """
    check_ball(eps, norm)
    if norm == "linf":
        return delta.clamp(-eps, eps)
    flat = delta.flatten(1)
    shrink = _shrink_l2 if norm == "l2" else _shrink_l1
    return shrink(flat, eps).view_as(delta)


# Lengths and sums of 150,000 entries are taken in double precision: in single precision the
# result would miss the ball by far more than the 1e-6 that the attacks promise.


def _shrink_l2(flat: Tensor, eps: float) -> Tensor:
    length = torch.linalg.vector_norm(flat, dim=1, keepdim=True, dtype=torch.float64)
    return torch.where(length > eps, flat * (eps / length).to(flat.dtype), flat)


def _shrink_l1(flat: Tensor, eps: float) -> Tensor:
    if eps == 0:
        return torch.zeros_like(flat)
    magnitude = flat.abs()
    ordered = magnitude.sort(dim=1, descending=True).values
    total = ordered.cumsum(1, dtype=torch.float64)
    # Soft threshold if exactly the k largest entries stay: their mean excess over eps.
    threshold = (total - eps) / torch.arange(1, flat.shape[1] + 1, device=flat.device)
    kept = (ordered > threshold).sum(1, keepdim=True).clamp_min(1)
    soft = (magnitude - threshold.gather(1, kept - 1)).clamp_min(0).to(flat.dtype)
    return torch.where(total[:, -1:] > eps, flat.sign() * soft, flat)


def project_box(x_new: Tensor, x: Tensor, eps: float, norm: str) -> Tensor:
    """Bring x_new back into the eps-ball around x, then into the box [0, 1].

    For linf this is the nearest allowed point. For l2 and l1 it is an allowed point (the box step
    moves every entry towards x, so it cannot leave the ball), though not always the nearest one.

    Shape: x_new, x [n, ...] -> the same. x must lie in the box.
    Raises: as `project`.
    Lesson: 01, 04.

    >>> project_box(torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]]), 0.25, "linf")
    tensor([[0.7500, 0.2500]])
    """
    if norm == "linf":
        check_ball(eps, norm)
        # The corners of ball and box per entry: one clamp, and x + eps stays exactly x + eps.
        return torch.clamp(x_new, (x - eps).clamp_min(0), (x + eps).clamp_max(1))
    return (x + project(x_new - x, eps, norm)).clamp(0, 1)


def steepest_direction(gradient: Tensor, norm: str) -> Tensor:
    """The direction of unit size in which the loss rises fastest: argmax <g, d> over ||d||_p <= 1.

        linf: sign(g)      l2: g / ||g||_2      l1: the sign of the largest entry, zero elsewhere

    The gain <g, d> equals the dual norm of g. A zero gradient gives a zero direction, not NaN.

    Shape: gradient [n, ...] -> the same.
    Raises: ValueError for a norm that is not "linf", "l2", "l1".
    Lesson: 01, 03.

    >>> steepest_direction(torch.tensor([[3.0, -4.0]]), "l2")
    tensor([[ 0.6000, -0.8000]])
    """
    check_ball(0.0, norm)
    if norm == "linf":
        return gradient.sign()
    flat = gradient.flatten(1)
    # Divide the largest entry out first: the squares of a tiny gradient would underflow to zero.
    largest, index = flat.abs().max(1, keepdim=True)
    if norm == "l1":
        direction = torch.zeros_like(flat).scatter(1, index, flat.gather(1, index).sign())
    else:
        scaled = flat / torch.where(largest > 0, largest, torch.ones_like(largest))
        direction = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(1.0)
    return direction.view_as(gradient)


def steepest_step(
    x: Tensor, gradient: Tensor, size: float | Tensor, norm: str, share: float = 1.0
) -> Tensor:
    """A step of the given size from x along the steepest direction, none of it wasted at the box.

        linf, l2: x + size * steepest_direction(gradient)
        l1:       the pixel of largest |gradient| moves as far as size and the box [0, 1] allow,
                  what is left of size moves the next pixel, and so on

    A pixel can move by at most 1, so an l1 step along `steepest_direction` alone would soon do
    nothing. The l1 step is the best one in ball and box together (a fractional knapsack). For linf
    clamping the step to the box afterwards is; for l2 the box may cost some of the gain.

    Shape: x, gradient [n, ...] -> the same. x must lie in the box. size: a number, or a tensor that
    holds one.
    share: how much of an l1 step, and of its range, one pixel may take; below 1 the step spreads,
    though a pixel may always move by a tenth of its range.
    Raises: as `steepest_direction`.
    Lesson: 04.

    >>> steepest_step(torch.tensor([[0.9, 0.5, 0.5]]), torch.tensor([[3.0, -2.0, 1.0]]), 0.3, "l1")
    tensor([[1.0000, 0.3000, 0.5000]])
    """
    if norm != "l1":
        return x + size * steepest_direction(gradient, norm)
    flat, place = gradient.flatten(1), x.flatten(1)
    room = torch.where(flat > 0, 1 - place, place) * (flat != 0)
    order = flat.abs().argsort(1, descending=True)
    # Below a tenth of the range, spreading would cost more than the curvature that it avoids.
    most = share * size.clamp_max(1) if isinstance(size, Tensor) else share * min(size, 1)
    room = room.gather(1, order).clamp_max(most.clamp_min(0.1) if isinstance(most, Tensor)
                                           else max(0.1, most))
    # What is left of size when a pixel's turn comes, in double: the sum runs over every pixel.
    left = size - (room.cumsum(1, dtype=torch.float64) - room)
    moved = torch.zeros_like(flat).scatter(1, order, left.clamp_min(0).minimum(room).to(x.dtype))
    return x + (flat.sign() * moved).view_as(x)


def uniform_ball(
    shape: torch.Size | tuple[int, ...], eps: float, norm: str, generator: torch.Generator
) -> Tensor:
    """Points drawn uniformly from the ball of radius eps, one for each image; on the CPU.

        linf: uniform entries    l2: a Gaussian direction, radius eps * u^(1/d)
        l1:   signs times the first d of d + 1 exponential variables divided by their sum

    Shape: (n, ...) -> [n, ...] float32.
    Raises: as `project`.
    Reference: Barthe et al. 2005 for l2 and l1.
    Lesson: 01, 04.

    >>> r = uniform_ball((5, 3), 0.5, "l2", torch.Generator().manual_seed(0))
    >>> bool((lp_norm(r, 2) <= 0.5).all())
    True
    """
    check_ball(eps, norm)
    n, d = shape[0], math.prod(shape[1:])
    if norm == "linf":
        return (2 * torch.rand(tuple(shape), generator=generator) - 1) * eps
    if norm == "l2":
        direction = steepest_direction(torch.randn(n, d, generator=generator), "l2")
        point = direction * torch.rand(n, 1, generator=generator).pow(1 / d)
    else:
        heights = torch.empty(n, d + 1).exponential_(generator=generator)
        signs = torch.randint(0, 2, (n, d), generator=generator) * 2 - 1
        point = signs * heights[:, :d] / heights.sum(1, keepdim=True)
    return (eps * point).view(tuple(shape))


def check_ball(eps: float, norm: str) -> None:
    """Raise a ValueError that says what to do about a bad radius or an unknown norm."""
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}: use one of {', '.join(map(repr, NORMS))}")
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps = {eps} is no radius: use a finite number >= 0")


def _exponent(p: float | str) -> float:
    if isinstance(p, str):
        if p not in _EXPONENT:
            raise ValueError(f"unknown norm {p!r}: use a number or one of {', '.join(_EXPONENT)}")
        return _EXPONENT[p]
    if not p >= 0:
        raise ValueError(f"p = {p} is negative: lp norms need p >= 0")
    return float(p)
