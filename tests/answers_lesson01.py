"""What people answer to the exercises of lesson 01."""

from __future__ import annotations

import math

import torch

from course_lib import norms
from course_lib.exercises import lesson01

# What a wrong submission is, and words of the message that must name its mistake.
WRONG: dict[str, list] = {id: [] for id in ("1.1", "1.2", "1.3", "1.4", "1.5")}
RIGHT: dict[str, list] = {id: [] for id in WRONG}


def wrong(id: str, says: str):
    return lambda fn: WRONG[id].append((fn, says)) or fn


def right(id: str):
    return lambda fn: RIGHT[id].append(fn) or fn


def rows(r):
    return r.flatten(1).abs()


def bent(r, p, **changes):
    """A right lp norm, but for the exponents in `changes`."""
    key = {0: "zero", math.inf: "top"}.get(p, "other")
    return changes[key](r) if key in changes else norms.lp_norm(r, p)


def per_image(values):
    return values.view(-1, 1, 1, 1)


# --- 1.1 ----------------------------------------------------------------------------------------

@right("1.1")
def with_linalg(r, p):
    return torch.linalg.vector_norm(r.flatten(1), ord=p, dim=1)


@right("1.1")
def image_by_image(r, p):
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


@right("1.1")
def counted_in_whole_numbers(r, p):
    return bent(r, p, zero=lambda r: (rows(r) != 0).sum(1))


@right("1.1")
def count_nonzero(r, p):
    return bent(r, p, zero=lambda r: torch.count_nonzero(r.flatten(1), dim=1))


@wrong("1.1", "the root is missing")
def no_root(r, p):
    return bent(r, p, other=lambda r: rows(r).pow(p).sum(1))


@wrong("1.1", "whole batch")
def over_the_batch(r, p):
    return bent(r, p, other=lambda r: r.abs().pow(p).sum().pow(1 / p))


@wrong("1.1", "that is a mean")
def mean_instead_of_sum(r, p):
    return bent(r, p, other=lambda r: rows(r).pow(p).mean(1).pow(1 / p))


@wrong("1.1", "the signs cancel")
def no_absolute_value(r, p):
    return r.flatten(1).sum(1) if p == 1 else norms.lp_norm(r, p)


@wrong("1.1", "without its sign")
def largest_with_sign(r, p):
    return bent(r, p, top=lambda r: r.flatten(1).amax(1))


@wrong("1.1", "the maximum")
def formula_at_infinity(r, p):
    return bent(r, p, top=lambda r: rows(r).clamp(0.1, 1).pow(p).sum(1).pow(0.0))


@wrong("1.1", "Take .values")
def max_gives_a_pair(r, p):
    return bent(r, p, top=lambda r: rows(r).max(1))


@wrong("1.1", "zero entries are counted")
def zero_to_the_zero(r, p):
    return bent(r, p, zero=lambda r: rows(r).pow(0).sum(1))


@wrong("1.1", "however little")
def threshold_for_zero(r, p):
    return bent(r, p, zero=lambda r: (rows(r) > 1e-6).sum(1).float())


@wrong("1.1", "their size does not matter")
def sum_for_zero(r, p):
    return bent(r, p, zero=lambda r: rows(r).sum(1))


@wrong("1.1", "placeholder")
def half_done(r, p):
    return bent(r, p, zero=lambda r: ...)


@wrong("1.1", "changes r in place")
def in_place(r, p):
    return norms.lp_norm(r.abs_(), p)


# --- 1.2 ----------------------------------------------------------------------------------------

@right("1.2")
def with_logarithms(r, p):
    return (p * rows(r).log()).logsumexp(1).div(p).exp()


@right("1.2")
def divided_in_two_steps(r, p):
    largest = rows(r).amax(1)
    unit = rows(r) / largest.clamp_min(1e-30)[:, None]
    return largest * unit.pow(p).sum(1).pow(1 / p)


@wrong("1.2", "ends near 1e-45")
def naive(r, p):
    return (rows(r) ** p).sum(1) ** (1 / p)


@wrong("1.2", "double precision only moves the edge")
def in_double(r, p):
    return rows(r).double().pow(p).sum(1).pow(1 / p).to(r.dtype)


@wrong("1.2", "close to l_inf but is not equal")
def largest_for_large_p(r, p):
    return norms.lp_norm(r, "linf") if p > 20 else norms.lp_norm(r, p)


@wrong("1.2", "multiply by the largest")
def not_multiplied_back(r, p):
    return norms.lp_norm(r / per_image(norms.lp_norm(r, "linf")), p)


@wrong("1.2", "0 / 0")
def zero_picture(r, p):
    largest = rows(r).amax(1)
    return largest * (rows(r) / largest[:, None]).pow(p).sum(1).pow(1 / p)


@wrong("1.2", "own largest entry")
def largest_of_the_batch(r, p):
    largest = r.abs().max().clamp_min(1e-30)
    return largest * (rows(r) / largest).pow(p).sum(1).pow(1 / p)


@wrong("1.2", "ends near 1e38")
def only_against_underflow(r, p):
    return 1e-2 * (rows(r) / 1e-2).pow(p).sum(1).pow(1 / p) if r.max() < 0.02 else \
        norms.lp_norm(r, p) if r.max() < 1 else naive(r, p)


@wrong("1.2", "whole batch")
def one_number(r, p):
    return norms.lp_norm(r.view(1, -1), p)[0]


# --- 1.3 ----------------------------------------------------------------------------------------

@right("1.3")
def the_library(x_new, x, eps):
    return norms.project_box(x_new, x, eps, "l2")


@right("1.3")
def box_first(x_new, x, eps):
    r = x_new.clamp(0, 1) - x
    length = r.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return x + torch.where(length > eps, r * eps / length.clamp_min(1e-12), r)


@right("1.3")
def renormalised(x_new, x, eps):
    return (x + torch.renorm(x_new - x, p=2, dim=0, maxnorm=eps)).clamp(0, 1)


@wrong("1.3", "leaves [0, 1]")
def no_box(x_new, x, eps):
    return x + norms.project(x_new - x, eps, "l2")


@wrong("1.3", "around the black image")
def around_zero(x_new, x, eps):
    return norms.project(x_new, eps, "l2").clamp(0, 1)


@wrong("1.3", "depends on the other images")
def norm_of_the_batch(x_new, x, eps):
    r = x_new - x
    return (x + r * (eps / r.norm()).clamp(max=1)).clamp(0, 1)


@wrong("1.3", "already inside")
def always_on_the_sphere(x_new, x, eps):
    return (x + eps * norms.steepest_direction(x_new - x, "l2")).clamp(0, 1)


@wrong("1.3", "0 / 0")
def zero_length(x_new, x, eps):
    r = x_new - x
    return (x + r * eps / per_image(norms.lp_norm(r, 2))).clamp(0, 1)


@wrong("1.3", "that is the linf ball")
def another_ball(x_new, x, eps):
    return norms.project_box(x_new, x, 0.05 * eps, "linf") if eps != 1 else \
        norms.project_box(x_new, x, eps, "linf")


@wrong("1.3", "add it to x")
def the_perturbation(x_new, x, eps):
    return norms.project_box(x_new, x, eps, "l2") - x


@wrong("1.3", "too long")
def box_only(x_new, x, eps):
    return x + (x_new.clamp(0, 1) - x) / 2


@wrong("1.3", "changes x_new in place")
def projection_in_place(x_new, x, eps):
    x_new -= x
    return (x + norms.project(x_new, eps, "l2")).clamp(0, 1)


# --- 1.4 ----------------------------------------------------------------------------------------

@right("1.4")
def the_library_l1(delta, eps):
    return norms.project(delta, eps, "l1")


@right("1.4")
def one_after_another(delta, eps):
    """Drop entries below the threshold until none is left to drop."""
    out = delta.clone()
    for i, r in enumerate(delta):
        size, kept = r.abs(), r != 0
        if size.sum() <= eps:
            continue
        while True:
            lam = (size[kept].sum() - eps) / kept.sum()
            if bool((size[kept] > lam).all()):
                break
            kept = kept & (size > lam)
        out[i] = r.sign() * (size - lam).clamp_min(0)
    return out


def soft(delta, lam):
    return delta.sign() * (delta.abs() - lam).clamp_min(0)


@right("1.4")
def shared_again_and_again(delta, eps):
    """What is too much is shared among the entries that are left, until nothing is too much."""
    for _ in range(30):
        size = delta.abs()
        left = (size > 0).flatten(1).sum(1).clamp(min=1)
        share = per_image(((norms.lp_norm(delta, 1) - eps) / left).clamp(min=0))
        delta = delta.sign() * (size - share).clamp(min=0)
    return delta


@wrong("1.4", "lambda must grow")
def shared_once(delta, eps):
    share = per_image(((norms.lp_norm(delta, 1) - eps) / delta[0].numel()).clamp(min=0))
    return delta.sign() * (delta.abs() - share).clamp(min=0)


@wrong("1.4", "take eps itself for lambda")
def eps_for_lambda(delta, eps):
    return delta.sign() * (delta.abs() - eps).clamp(min=0)


@wrong("1.4", "the l_inf norm")
def clamped(delta, eps):
    return delta.clamp(-eps, eps)


@wrong("1.4", "the l_2 norm")
def shortened(delta, eps):
    return norms.project(delta, eps, "l2")


@wrong("1.4", "rescaling")
def rescaled(delta, eps):
    return delta * (eps / per_image(norms.lp_norm(delta, 1))).clamp(max=1)


@wrong("1.4", "came back changed")
def always_rescaled(delta, eps):
    projected = norms.project(delta, eps, "l1")
    return projected * eps / per_image(norms.lp_norm(projected, 1))


@wrong("1.4", "the signs are lost")
def no_sign(delta, eps):
    return norms.project(delta, eps, "l1").abs()


@wrong("1.4", "changed their sign")
def no_floor(delta, eps):
    size = per_image(norms.lp_norm(delta, 1))
    lam = (size - eps).clamp_min(0) / delta[0].numel()
    return delta.sign() * (delta.abs() - lam)


@wrong("1.4", "the others vanish")
def largest_entries_kept(delta, eps):
    size, order = delta.abs().flatten(1).sort(1, descending=True)
    left = (eps - size.cumsum(1) + size).clamp_min(0).minimum(size)
    return torch.zeros_like(size).scatter(1, order, left).view_as(delta) * delta.sign()


@wrong("1.4", "depends on the other images")
def lambda_of_the_first(delta, eps):
    return soft(delta, (delta - norms.project(delta, eps, "l1"))[0].abs().max())


@wrong("1.4", "is too small for some image")
def small_lambda(delta, eps):
    return norms.project(delta, 1.1 * eps, "l1")


@wrong("1.4", "is too large for some image")
def threshold_by_all_entries(delta, eps):
    size, largest = (per_image(norms.lp_norm(delta, p)) for p in (1, "linf"))
    return torch.where(size > eps, soft(delta, largest - eps / 4), delta)


@wrong("1.4", "changes delta in place")
def l1_in_place(delta, eps):
    delta.copy_(norms.project(delta, eps, "l1"))
    return delta


# --- 1.5 ----------------------------------------------------------------------------------------

def direction(n, d, generator):
    return norms.steepest_direction(torch.randn(n, d, generator=generator), "l2")


@right("1.5")
def the_library_uniform(n, d, eps, generator):
    return norms.uniform_ball((n, d), eps, "l2", generator)


@right("1.5")
def two_more_dimensions(n, d, eps, generator):
    """The first d coordinates of a point on the sphere in d + 2 dimensions."""
    return eps * direction(n, d + 2, generator)[:, :d]


@wrong("1.5", "must not be uniform")
def uniform_radius(n, d, eps, generator):
    return eps * torch.rand(n, 1, generator=generator) * direction(n, d, generator)


@wrong("1.5", "on the surface")
def on_the_sphere(n, d, eps, generator):
    return eps * direction(n, d, generator)


@wrong("1.5", "small Gaussian")
def tiny_gaussian(n, d, eps, generator):
    return (0.1 * torch.randn(n, d, generator=generator)).clamp(-0.7, 0.7) * eps


@wrong("1.5", "depends on d")
def root_for_the_plane(n, d, eps, generator):
    return eps * torch.rand(n, 1, generator=generator).sqrt() * direction(n, d, generator)


@wrong("1.5", "those of a square")
def a_cube(n, d, eps, generator):
    return eps * (2 * torch.rand(n, d, generator=generator) - 1)


@wrong("1.5", "on one side")
def positive_directions(n, d, eps, generator):
    return lesson01.uniform_l2(n, d, eps, generator).abs()


@wrong("1.5", "corners of a square")
def directions_of_a_cube(n, d, eps, generator):
    cube = norms.steepest_direction(2 * torch.rand(n, d, generator=generator) - 1, "l2")
    return eps * torch.rand(n, 1, generator=generator).pow(1 / d) * cube


@wrong("1.5", "on one line")
def one_direction(n, d, eps, generator):
    sign = torch.randint(0, 2, (n, 1), generator=generator) * 2 - 1
    radius = eps * torch.rand(n, 1, generator=generator).pow(1 / d)
    return sign * radius * direction(1, d, generator)


@wrong("1.5", "not drawn from the generator")
def global_randomness(n, d, eps, generator):
    return eps * torch.rand(n, 1).pow(1 / d) * norms.steepest_direction(torch.randn(n, d), "l2")


@wrong("1.5", "from the generator that is passed in")
def own_generator(n, d, eps, generator):
    return lesson01.uniform_l2(n, d, eps, torch.Generator().manual_seed(3))


@wrong("1.5", "a quarter as far out")
def eps_forgotten(n, d, eps, generator):
    return lesson01.uniform_l2(n, d, 1.0, generator)
