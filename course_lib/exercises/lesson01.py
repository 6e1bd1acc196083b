"""Exercises of lesson 01: norms, their numerical traps, projections, uniform points."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_lib import norms
from course_lib.exercises.diagnoses import (
    Finding,
    close,
    finite,
    image_like,
    in_ball,
    in_box,
    per_image,
    repeatable,
)
from course_lib.exercises.examiner import Examiner, first
from course_lib.exercises.exercise import Exercise
from course_lib.exercises.source import Function

# --- 1.1 norms ----------------------------------------------------------------------------------


def _hand() -> list[tuple[Tensor, float]]:
    r = torch.tensor([[3.0, -4.0, 0.0, 0.0], [-1.0, 1e-9, -2.0, 2.0]]).view(2, 1, 2, 2)
    return [(r, p) for p in (2, 1, math.inf, 0, 0.5)]


def bent(p: float, line: Callable[[Tensor], object]) -> Callable[[Tensor, float], object]:
    """A right norm, but for one exponent, where line(r) takes its place: r is [n, entries]."""
    return lambda r, q: line(r.flatten(1)) if q == p else norms.lp_norm(r, q)


def _one_per_image(size: object, r: Tensor, p: float) -> Finding:
    name = f"l_{p:g}"
    if size is ...:
        return f"the {name} norm is still the placeholder `...`: write that line too."
    if isinstance(size, tuple):
        return (f"your {name} is a pair (values, places): tensor.max(1) returns both. "
                "Take .values, or use amax(1).")
    if isinstance(size, Tensor) and size.dim() == 0:
        return (f"your {name} is one number for the whole batch: return one for each image, "
                "a sum or maximum over dimension 1.")
    if isinstance(size, Tensor) and p == 0:
        size = size.to(r.dtype)  # a count may well be a whole number
    return image_like(size, r[:, 0, 0, 0], what=name)


# What is written for an exponent p, and why it is wrong.
_SLIPS: list[tuple[float, Callable[[Tensor], Tensor], str]] = [
    (2, lambda r: r.square().sum(1), "the root is missing: 25 is the sum of squares."),
    (2, lambda r: r.square().mean(1).sqrt(),
     "that is a mean: the norm takes the sum over the entries."),
    (2, lambda r: r.square().mean(1),
     "that is a mean of squares: the norm takes the sum, then the root."),
    (2, lambda r: r.abs().sum(1),
     "the power is missing: raise every |r_i| to the p-th power before you add."),
    (1, lambda r: r.sum(1), "the signs cancel: take absolute values first."),
    (1, lambda r: r.abs().mean(1), "that is a mean: the norm takes the sum over the entries."),
    (1, lambda r: r.abs().amax(1), "that is the largest entry: l_1 adds up all of them."),
    (math.inf, lambda r: r.amax(1),
     "the largest entry counts without its sign: take absolute values first."),
    (math.inf, lambda r: r.abs().sum(1),
     "that is the sum: l_inf looks at the largest |r_i| alone."),
    (math.inf, lambda r: r.abs().pow(math.inf).sum(1).pow(0.0),
     "(...)^(1/inf) is (...)^0 = 1: l_inf needs a line of its own, the maximum."),
    (math.inf, lambda r: r.abs().pow(math.inf).sum(1),
     "a power of inf overflows: l_inf needs a line of its own, the maximum."),
    (0, lambda r: r.abs().pow(0).sum(1),
     "zero entries are counted too: 0 ** 0 is 1 for a computer. Count r_i != 0."),
    (0, lambda r: r.abs().sum(1),
     "l_0 counts the entries that are not zero; their size does not matter."),
    (0, lambda r: r.abs().sum(1).pow(math.inf),
     "the formula would need the power 1/0: l_0 needs a line of its own, a count."),
]


def _told(p: float, line: Callable[[Tensor], Tensor], meaning: str) -> str:
    hand = torch.tensor([[3.0, -4.0, 0.0, 0.0]])
    return (f"the l_{p:g} norm of [3, -4, 0, 0] should be {norms.lp_norm(hand, p).item():.4g}, "
            f"yours is {line(hand).item():.4g}: {meaning}")


_NORMS = Examiner(
    norms.lp_norm, _hand, in_order=True, properties=(_one_per_image,),
    further=lambda fn: per_image(lambda r: fn(r, 2), _large()[-1][0], what="norm"),
    name="the l_{1:g} norm of the images [3, -4, 0, 0] and [-1, 1e-9, -2, 2]",
    mistakes={_told(*slip): bent(slip[0], slip[1]) for slip in _SLIPS} | {
        "the l_0 norm of [-1, 1e-9, -2, 2] should be 4, yours is 3: an entry that changed counts, "
        "however little it changed.": bent(0, lambda r: (r.abs() > 1e-6).sum(1)),
    })


# --- 1.2 large p --------------------------------------------------------------------------------


def _large() -> list[tuple[Tensor, float]]:
    ones, small = torch.ones(1, 1, 28, 28), torch.ones(1, 1, 5, 5)
    r = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return [(ones * 8 / 255, 100), (ones * 255, 100), (ones * 1e-3, 1000),
            (torch.zeros(2, 1, 5, 5), 50), (torch.cat([small, small * 1e-3]), 50), (r, 3)]


def plain(r: Tensor, p: float) -> Tensor:
    """The formula as it stands: large p make it overflow or underflow."""
    return r.flatten(1).abs().pow(p).sum(1).pow(1 / p)


def scaled(r: Tensor, p: float, largest: Tensor) -> Tensor:
    """The formula with `largest` divided out before the power."""
    return largest * plain(r / largest.view(-1, 1, 1, 1), p)


def largest(r: Tensor) -> Tensor:
    return norms.lp_norm(r, math.inf)


_LARGE_P = Examiner(
    norms.lp_norm, _large, in_order=True, properties=(_one_per_image,), atol=1e-9,
    name="the l_{1:g} norm", idea="Divide each image by its own largest |r_i| before the power, "
                                  "and multiply by it again after the root.",
    mistakes={
        "the l_100 norm of 784 entries 0.03137 should be 0.03353, yours is 0: (8/255)^100 is about "
        "1e-150, float32 ends near 1e-45, so every term becomes 0. Make the largest entry 1 before "
        "the power.": plain,
        "the l_100 norm of 784 entries 255 should be 272.6, yours is inf: 255^100 is about 1e240, "
        "float32 ends near 1e38. Make the largest entry 1 before the power.":
            lambda r, p: plain(r, p) if r.max() > 1 else norms.lp_norm(r, p),
        "the l_1000 norm of 784 entries 0.001 should be 0.001007, yours is 0: double precision "
        "only moves the edge, to 1e-324. Make the largest entry 1 before the power; then no "
        "precision is needed.": lambda r, p: plain(r.double(), p).float(),
        "the l_100 norm of 784 entries 0.03137 should be 0.03353, yours is 0.03137, the largest "
        "entry: l_p comes close to l_inf but is not equal to it.": lambda r, p: largest(r),
        "the l_100 norm of 784 entries 0.03137 should be 0.03353, yours is 1.069: multiply by the "
        "largest entry again at the end.": lambda r, p: norms.lp_norm(r, p) / largest(r),
        "the norm of a picture of zeros should be 0, yours is NaN: its largest entry is 0, and "
        "0 / 0 is no number. Divide by 1 there.": lambda r, p: scaled(r, p, largest(r)),
        "the l_50 norm of 25 entries 0.001 comes out wrong beside a larger image: divide each "
        "image by its own largest entry.":
            lambda r, p: scaled(r, p, r.abs().amax().clamp_min(1e-30).expand(len(r))),
    })


# --- 1.3 projection onto the l_2 ball and the box -----------------------------------------------

def project_l2(x_new, x, eps):
    """Bring x_new into the l_2 ball of radius eps around x, and into [0, 1]."""
    r = x_new - x
    length = r.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    r = r * (eps / length).clamp(max=1)  # a short r keeps its length
    return (x + r).clamp(0, 1)


def _images() -> tuple[Tensor, Tensor]:
    """Changes of 0, 0.5, 3 and 20 times eps = 1; the first three stay away from the box."""
    draw = torch.Generator().manual_seed(0)
    x = 0.45 + 0.1 * torch.rand(4, 3, 20, 20, generator=draw)
    x[3] = torch.rand(3, 20, 20, generator=draw).round()
    r = norms.steepest_direction(torch.randn(4, 3, 20, 20, generator=draw), "l2")
    return x + r * torch.tensor([0.0, 0.5, 3.0, 20.0]).view(-1, 1, 1, 1), x


def _away_from_the_box() -> list[tuple[Tensor, Tensor, float]]:
    x_new, x = _images()
    return [(x_new[:3], x[:3], 1.0)]


def _zero_over_zero(out: Tensor, *_: object) -> Finding:
    if not bool(out[0].isnan().any()):
        return finite(out)
    return ("where x_new equals x your image is NaN: the length is 0, and 0 / 0 is no number. "
            "Mind that case, for instance with clamp on eps / length.")


def _nearest_l2(fn: Function) -> Finding:
    x_new, x = _images()
    out, right = fn(x_new.clone(), x.clone(), 1.0), project_l2(x_new, x, 1.0)
    # Box first, then ball, is allowed as well: the segment towards x stays in the box.
    other = project_l2(x_new.clamp(0, 1), x, 1.0)[3]
    best = other if torch.allclose(out[3], other, atol=1e-4) else right[3]
    return (
        in_ball(out, x, 1.0, "l2", "Where r = x_new - x is too long, shrink it to length eps.")
        or first({"an image that was already inside the ball (length 0.5, eps 1) came back moved. "
                  "A change that is short enough stays as it is: the factor is min(1, eps / "
                  "length).": not torch.allclose(out[:2], x_new[:2], atol=1e-5)})
        or in_box(out)
        or close(norms.lp_norm(out - x, 2)[2], 1.0, "the length of a change that was 3 (eps = 1)",
                 "Shrink to eps, no further.", rtol=1e-3)
        or close(out[2], right[2], "the projection of a change of length 3",
                 "The nearest point lies on the straight line to x: keep the direction.")
        or close(out[3], best, "the projection of an image at the border of the box",
                 "First the ball, then clamp(0, 1).", atol=1e-4))


_PROJECTION_L2 = Examiner(
    project_l2, _away_from_the_box, exact=False, alone=True, further=_nearest_l2, atol=1e-4,
    properties=(lambda out, x_new, x, eps: image_like(out, x), _zero_over_zero),
    name="the projection",
    mistakes={
        "that is the perturbation r: add it to x, an image is asked for.":
            lambda x_new, x, eps: project_l2(x_new, x, eps) - x,
        "your function returns x itself: nothing of the change is left.":
            lambda x_new, x, eps: x,
        "your ball lies around the black image 0: measure the length of r = x_new - x, shrink r, "
        "and add x again.": lambda x_new, x, eps: project_l2(x_new, torch.zeros_like(x), eps),
        "that is the linf ball. For l_2 shrink the whole change to length eps.":
            lambda x_new, x, eps: norms.project_box(x_new, x, eps, "linf"),
        "that is the l1 ball. For l_2 shrink the whole change to length eps.":
            lambda x_new, x, eps: norms.project_box(x_new, x, eps, "l1"),
    })


# --- 1.4 projection onto the l_1 ball -----------------------------------------------------------

def project_l1(delta, eps):
    """The point of the l_1 ball of radius eps nearest to each perturbation."""
    size = delta.abs()
    high = size.flatten(1).amax(1)
    low = torch.zeros_like(high)
    for _ in range(40):  # halve the interval in which lambda lies
        lam = (low + high) / 2
        too_long = (size - lam.view(-1, 1, 1, 1)).clamp_min(0).flatten(1).sum(1) > eps
        low, high = torch.where(too_long, lam, low), torch.where(too_long, high, lam)
    nearest = delta.sign() * (size - high.view(-1, 1, 1, 1)).clamp_min(0)
    inside = size.flatten(1).sum(1).view(-1, 1, 1, 1) <= eps
    return torch.where(inside, delta, nearest)


def _perturbations() -> list[tuple[Tensor, float]]:
    return [(torch.tensor([[[[0.9, -0.5], [0.2, 0.0]]], [[[0.1, -0.2], [0.05, 0.0]]],
                           [[[-2.0, 1.5], [1.2, -0.1]]]]), 1.0)]


def excess(delta: Tensor, eps: float) -> Tensor:
    """How much too long each perturbation is, [n, 1, 1, 1]."""
    return (norms.lp_norm(delta, 1) - eps).clamp_min(0).view(-1, 1, 1, 1)


def soft(delta: Tensor, lam: Tensor | float) -> Tensor:
    """Every entry gives up lam."""
    return delta.sign() * (delta.abs() - lam).clamp_min(0)


def _largest_kept(delta: Tensor, eps: float) -> Tensor:
    size, order = delta.abs().flatten(1).sort(1, descending=True)
    left = (eps - size.cumsum(1) + size).clamp_min(0).minimum(size)
    return torch.zeros_like(size).scatter(1, order, left).view_as(delta) * delta.sign()


def _nearest_l1(fn: Function) -> Finding:
    ((delta, eps),) = _perturbations()
    out, nearest = fn(delta.clone(), eps), project_l1(delta, eps)
    return (
        first({
            "some entries changed their sign: an entry smaller than lambda becomes 0, not "
            "negative.": (out.sign() * delta.sign() < 0).any(),
            "a perturbation that was already inside (l_1 norm 0.35, eps 1) came back changed: "
            "leave it as it is.": not torch.allclose(out[1], delta[1], atol=1e-5),
        })
        or in_ball(out, torch.zeros_like(out), eps, "l1",
                   "lambda is too small for some image. Each image needs its own.")
        or close(norms.lp_norm(out, 1)[::2], torch.ones(2), "the l_1 norm of your result",
                 "You go further than needed: lambda is too large for some image; each image "
                 "needs its own.", rtol=1e-3)
        or close((out - delta)[2].norm(), (nearest - delta)[2].norm(),
                 "the distance by which [-2, 1.5, 1.2, -0.1] moves",
                 "Take the same amount off every entry.", atol=1e-3)
        or close(out, nearest, "the projection"))


_PROJECTION_L1 = Examiner(
    project_l1, _perturbations, exact=False, alone=True, further=_nearest_l1, atol=1e-4,
    properties=(lambda out, delta, eps: image_like(out, delta, "perturbation")
                or finite(out, "perturbation"),), name="the projection",
    mistakes={
        "rescaling: [0.9, -0.5, 0.2, 0] moves by 0.393, but a point of the ball lies only 0.346 "
        "away. Take the same amount off every entry instead.":
            lambda delta, eps: delta * eps / (eps + excess(delta, eps)),
        "the signs are lost: shrink |r|, then put sign(r) back.":
            lambda delta, eps: project_l1(delta, eps).abs(),
        "that limits the length of r, the l_2 norm. In l_1 the sum of all |r_i| is limited.":
            lambda delta, eps: norms.project(delta, eps, "l2"),
        "that limits the largest entry, the l_inf norm. In l_1 the sum of all |r_i| is limited.":
            lambda delta, eps: delta.clamp(-eps, eps),
        "the largest entries stay as they were and the others vanish. Nearest is the point where "
        "every entry that stays gives up the same lambda.": _largest_kept,
        "the l_1 norm of your result is 1.85, eps is 1: you share what is too much among all "
        "entries at once. But an entry smaller than that has less to give: some of it is left "
        "over, and lambda must grow.":
            lambda delta, eps: soft(delta, excess(delta, eps) / delta[0].numel()),
        "the l_1 norm of your result is 1.85, eps is 1: you share what is too much among all "
        "entries but the zeros at once. But an entry smaller than that has less to give: some of "
        "it is left over, and lambda must grow.":
            lambda delta, eps: soft(delta, excess(delta, eps)
                                    / norms.lp_norm(delta, 0).view(-1, 1, 1, 1)),
        "the l_1 norm of your result is 1.7, eps is 1: you take eps itself for lambda. lambda is "
        "the amount that makes the l_1 norm equal to eps.": soft,
    })


# --- 1.5 uniform points -------------------------------------------------------------------------

def uniform_l2(n, d, eps, generator):
    """n points drawn uniformly from the l_2 ball of radius eps in d dimensions: [n, d]."""
    direction = torch.randn(n, d, generator=generator)
    direction = direction / direction.norm(dim=1, keepdim=True)
    # A ball of radius t * eps holds the share t^d of the volume: solve t^d = u.
    radius = eps * torch.rand(n, 1, generator=generator).pow(1 / d)
    return radius * direction


def _uniform(fn: Function) -> Finding:
    def draw(n: int, d: int, eps: float = 1.0, seed: int = 0) -> Tensor:
        return fn(n, d, eps, torch.Generator().manual_seed(seed))

    plane, high = draw(4000, 2), draw(400, 784)
    return (
        image_like(plane, torch.zeros(4000, 2), "table of points")
        or repeatable(lambda: draw(5, 2))
        or first({
            "two generators give the same points: draw from the generator that is passed in.":
                torch.equal(draw(5, 2), draw(5, 2, seed=1)),
            "a ball of a quarter of the radius holds the same points, a quarter as far out.":
                not torch.allclose(draw(5, 3, eps=0.25), 0.25 * draw(5, 3), atol=1e-6),
        })
        or _radii(plane, plane.norm(dim=1), float(high.norm(dim=1).mean()))
        or _directions(plane, plane / plane.norm(dim=1, keepdim=True)))


def _radii(plane: Tensor, radius: Tensor, far: float) -> Finding:
    """far: the mean radius in 784 dimensions."""
    out, near = int((radius > 1.0001).sum()), float((radius < 0.5).float().mean())
    return first({
        f"{out} of 4000 points lie outside the ball: those of a square. A cube in 784 dimensions "
        "reaches 28 times further out than the ball.": out and plane.abs().max() <= 1,
        f"{out} of 4000 points lie outside the ball of radius 1, up to {radius.max():.3g} away.":
            out,
        "every point lies on the surface: the radius has to vary too.": radius.min() > 0.99,
        f"{100 * near:.0f} % of the points lie within half the radius, 25 % of the area: a narrow "
        "cloud around the centre. Is it a small Gaussian?": near > 0.9,
        "half of the points lie within half the radius, but only a quarter of the area does: the "
        "radius itself must not be uniform.": abs(near - 0.5) < 0.05,
        f"{100 * near:.0f} % of the points lie within half the radius, which holds 25 % of the "
        "area.": abs(near - 0.25) > 0.04,
        f"right in the plane, but in 784 dimensions the mean radius is {far:.3f}, not 0.999. The "
        "share of volume within radius t is t^d: the power depends on d.": far < 0.99,
    })


def _directions(plane: Tensor, unit: Tensor) -> Finding:
    return first({
        "the points lie on one side of the centre: directions need both signs.":
            plane.mean(0).norm() > 0.1,
        "all points lie on one line: draw a new direction for each of them.":
            (unit @ unit[0]).abs().mean() > 0.95,
        "the directions are not spread evenly: they crowd at the corners of a square. The Gaussian "
        "alone looks the same from every side.": abs(unit.pow(4).mean() - 0.375) > 0.012,
    })


EXERCISES = [
    Exercise(
        id="1.1",
        title="four ways to measure",
        stub='''
def p_norm(delta, p):
    """The lp norm of every perturbation of a batch: delta [n, ...] -> [n]."""
    size = delta.flatten(1).abs()  # [n, entries]: every |r_i|
    if p == 0:
        return ...
    if p == math.inf:
        return ...
    return ...
''',
        solution=norms.lp_norm,
        hints=(
            "After `flatten(1)` an image is one row. A sum over dimension 1, `sum(1)`, adds up "
            "the entries of each image and leaves one number per image.",
            "l_0 counts: compare `size` with 0, then add up. l_inf is the largest entry of a row; "
            "`max(1)` returns a pair, and you need its values only.",
            "The last line is the formula from the inside out: power, sum over dimension 1, "
            "root. In code a p-th root is a power, too.",
        ),
        diagnose=_NORMS,
        praise="The library's version does one thing more, which exercise 1.2 is about.",
    ),
    Exercise(
        id="1.2",
        title="the norm that was zero",
        stub='''
def p_norm_large(delta, p):
    """The lp norm of every perturbation, for large p too: delta [n, ...] -> [n]."""
    size = delta.flatten(1).abs()
    return size.pow(p).sum(1).pow(1 / p)
''',
        solution=norms.lp_norm,
        hints=(
            "A norm scales: ||c r|| = |c| ||r||. So you may divide r by any number before the "
            "power, and multiply by it after the root.",
            "Divide each image by its own largest entry, `size.amax(1)`: then the terms lie "
            "between 0 and 1, and one of them is exactly 1.",
            "A picture of zeros has the largest entry 0, and 0 / 0 is NaN: divide by 1 there, for "
            "instance with `torch.where`.",
        ),
        diagnose=_LARGE_P,
        praise="The same trick, dividing out the largest, saves the softmax from overflow.",
    ),
    Exercise(
        id="1.3",
        title="back into the ball, back into the box",
        stub='''
def project_l2(x_new, x, eps):
    """Bring x_new into the l_2 ball of radius eps around x, and into [0, 1]."""
    # your lines here
    return x
''',
        solution=project_l2,
        hints=(
            "The ball lies around x, not around 0. Work with r = x_new - x and add x at the end.",
            "One length per image: `r.flatten(1).norm(dim=1).view(-1, 1, 1, 1)`. What is shorter "
            "than eps keeps its length.",
            "The factor is min(1, eps / length): `clamp` can do that. The box comes last, on the "
            "image and not on r.",
        ),
        diagnose=_PROJECTION_L2,
        praise="These are the lines that keep an l_2 attack honest after every step.",
    ),
    Exercise(
        id="1.4",
        title="find the projection bug",
        stub='''
def project_l1(delta, eps):
    """The point of the l_1 ball of radius eps nearest to each perturbation."""
    size = delta.flatten(1).abs().sum(1).view(-1, 1, 1, 1)
    return delta * (eps / size).clamp(max=1)
''',
        solution=project_l1,
        hints=(
            "The result does lie in the ball, so what is wrong? Take r = (0.9, -0.5, 0.2, 0) and "
            "eps = 1 and look for a point of the ball that lies nearer to r than the rescaled one.",
            "The nearest point is sign(r) * max(|r| - lambda, 0): each entry gives up the same "
            "lambda. The larger lambda, the smaller the l_1 norm. Which lambda gives exactly eps?",
            "Find lambda by halving, for each image its own: start with low = 0 and high = the "
            "largest |r_i|; if the l_1 norm at the middle is above eps, low moves up to the "
            "middle, else high moves down. Forty rounds. What is inside the ball stays as it is.",
        ),
        diagnose=_PROJECTION_L1,
        praise="Soft thresholding: small entries vanish. That is why l_1 attacks are sparse.",
    ),
    Exercise(
        id="1.5",
        title="points that are not uniform",
        stub='''
def uniform_l2(n, d, eps, generator):
    """n points drawn uniformly from the l_2 ball of radius eps in d dimensions: [n, d]."""
    direction = torch.randn(n, d, generator=generator)
    direction = direction / direction.norm(dim=1, keepdim=True)
    radius = eps * torch.rand(n, 1, generator=generator)
    return radius * direction
''',
        solution=uniform_l2,
        hints=(
            "The direction is fine: a Gaussian looks the same from every side. Look at the radius: "
            "what share of a disc's area lies within half its radius? What share of these points?",
            "A ball of radius t * eps holds the share t^d of the volume. So P(radius <= t * eps) "
            "must be t^d.",
            "Draw u uniform in [0, 1] and solve t^d = u for t.",
        ),
        diagnose=_uniform,
        praise="In 784 dimensions this puts nearly every point within 1 % of the surface.",
    ),
]
