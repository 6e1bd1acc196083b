"""What people answer to the exercises of lesson 01, beside the mistakes that the checks declare."""

from __future__ import annotations

import math

import torch

from course_lib import norms
from course_lib.exercises.lesson01 import (
    bent,
    excess,
    largest,
    project_l1,
    project_l2,
    scaled,
    soft,
    uniform_l2,
)

# --- 1.1 ----------------------------------------------------------------------------------------

def _image_by_image(r, p):
    sizes = []
    for image in r:
        entries = [abs(float(v)) for v in image.flatten() if v != 0]
        if p == 0:
            sizes.append(len(entries))
        elif p == math.inf:
            sizes.append(max(entries, default=0.0))
        else:
            sizes.append(sum(v**p for v in entries) ** (1 / p))
    return torch.tensor(sizes, dtype=r.dtype)


# --- 1.3 ----------------------------------------------------------------------------------------

def _towards(x_new, x, factor):
    """factor * (x_new - x) added to x, then the box; factor(length) for each image."""
    r = x_new - x
    return (x + factor(r.flatten(1).norm(dim=1).view(-1, 1, 1, 1)) * r).clamp(0, 1)


def _box_first(x_new, x, eps):
    r = x_new.clamp(0, 1) - x
    length = r.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return x + torch.where(length > eps, r * eps / length.clamp_min(1e-12), r)


# --- 1.4 ----------------------------------------------------------------------------------------

def _one_after_another(delta, eps):
    """Drop entries below the threshold until none is left to drop."""
    out = delta.clone()
    for i, r in enumerate(delta):
        size, kept = r.abs(), r != 0
        lam = (size.sum() - eps).clamp_min(0) / kept.sum()
        while not bool((size[kept] >= lam).all()):
            kept = kept & (size > lam)
            lam = (size[kept].sum() - eps) / kept.sum()
        out[i] = soft(r, lam)
    return out


def _shared_again_and_again(delta, eps):
    """What is too much is shared among the entries that are left, until nothing is too much."""
    for _ in range(30):
        delta = soft(delta, excess(delta, eps) / norms.lp_norm(delta, 0).view(-1, 1, 1, 1))
    return delta


def _always_rescaled(delta, eps):
    projected = project_l1(delta, eps)
    return projected * eps / norms.lp_norm(projected, 1).view(-1, 1, 1, 1)


def _threshold_by_all_entries(delta, eps):
    lam = largest(delta).view(-1, 1, 1, 1) - eps / 4
    return torch.where(excess(delta, eps) > 0, soft(delta, lam), delta)


# --- 1.5 ----------------------------------------------------------------------------------------

def _direction(n, d, g):
    return norms.steepest_direction(torch.randn(n, d, generator=g), "l2")


def _root(n, d, g):
    return torch.rand(n, 1, generator=g).pow(1 / d)


def _cube(n, d, g):
    return 2 * torch.rand(n, d, generator=g) - 1


def _points(radius, direction=_direction):
    return lambda n, d, eps, g: eps * radius(n, d, g) * direction(n, d, g)


WRONG = {
    "1.1": [
        (bent(2, lambda r: r.square().sum().sqrt()), "whole batch"),
        (bent(math.inf, lambda r: r.abs().max(1)), "Take .values"),
        (bent(0, lambda r: ...), "placeholder"),
        (bent(0.5, lambda r: r.abs().sum(1)), "the l_0.5 norm"),
        (lambda r, p: norms.lp_norm(r.abs_(), p), "changes r in place"),
    ],
    "1.2": [
        (lambda r, p: norms.lp_norm(r.view(1, -1), p)[0], "whole batch"),
        (lambda r, p: 1.1 * norms.lp_norm(r, p), "the l_100 norm"),
    ],
    "1.3": [
        (lambda x_new, x, eps: x + norms.project(x_new - x, eps, "l2"), "leaves [0, 1]"),
        (lambda x_new, x, eps: (x + (x_new - x) * (eps / (x_new - x).norm()).clamp(max=1))
         .clamp(0, 1), "depends on the other images"),
        (lambda x_new, x, eps: _towards(x_new, x, lambda length: eps / length.clamp_min(1e-9)),
         "already inside"),
        (lambda x_new, x, eps: _towards(x_new, x, lambda length: eps / length), "0 / 0"),
        (lambda x_new, x, eps: _towards(x_new, x, lambda length: 0.5), "too long"),
        (lambda x_new, x, eps: x + (x_new.clamp(0, 1) - x) / 2, "too long"),
        (lambda x_new, x, eps: project_l2(x_new.sub_(x) + x, x, eps), "changes x_new in place"),
    ],
    "1.4": [
        (_always_rescaled, "came back changed"),
        (lambda delta, eps: delta - delta.sign() * excess(delta, eps) / 4, "changed their sign"),
        (lambda delta, eps: soft(delta, (delta - project_l1(delta, eps))[0].abs().max()),
         "depends on the other images"),
        (lambda delta, eps: norms.project(delta, 1.1 * eps, "l1"), "is too small for some image"),
        (_threshold_by_all_entries, "is too large for some image"),
        (lambda delta, eps: delta.copy_(project_l1(delta, eps)), "changes delta in place"),
    ],
    "1.5": [
        (_points(lambda n, d, g: torch.rand(n, 1, generator=g)), "must not be uniform"),
        (_points(lambda n, d, g: 1), "on the surface"),
        (lambda n, d, eps, g: (0.1 * torch.randn(n, d, generator=g)).clamp(-0.7, 0.7) * eps,
         "small Gaussian"),
        (_points(lambda n, d, g: _root(n, 2, g)), "depends on d"),
        (_points(lambda n, d, g: 1, _cube), "those of a square"),
        (lambda *given: uniform_l2(*given).abs(), "on one side"),
        (_points(_root, lambda n, d, g: norms.steepest_direction(_cube(n, d, g), "l2")),
         "corners of a square"),
        (_points(_root, lambda n, d, g: _cube(n, 1, g).sign() * _direction(1, d, g)),
         "on one line"),
        (lambda n, d, eps, g: uniform_l2(n, d, eps, torch.default_generator),
         "not drawn from the generator"),
        (lambda n, d, eps, g: uniform_l2(n, d, eps, torch.Generator().manual_seed(3)),
         "from the generator that is passed in"),
        (lambda n, d, eps, g: uniform_l2(n, d, 1.0, g), "a quarter as far out"),
    ],
}
RIGHT = {
    "1.1": [lambda r, p: torch.linalg.vector_norm(r.flatten(1), ord=p, dim=1),
            _image_by_image,
            bent(0, lambda r: (r != 0).sum(1)),
            bent(0, lambda r: torch.count_nonzero(r, dim=1))],
    "1.2": [lambda r, p: (p * r.flatten(1).abs().log()).logsumexp(1).div(p).exp(),
            lambda r, p: scaled(r, p, largest(r).clamp_min(1e-30))],
    "1.3": [lambda x_new, x, eps: norms.project_box(x_new, x, eps, "l2"),
            _box_first,
            lambda x_new, x, eps: (x + torch.renorm(x_new - x, p=2, dim=0, maxnorm=eps))
            .clamp(0, 1)],
    "1.4": [lambda delta, eps: norms.project(delta, eps, "l1"),
            _one_after_another, _shared_again_and_again],
    "1.5": [lambda n, d, eps, g: norms.uniform_ball((n, d), eps, "l2", g),
            # the first d coordinates of a point on the sphere in d + 2 dimensions
            lambda n, d, eps, g: eps * _direction(n, d + 2, g)[:, :d]],
}
