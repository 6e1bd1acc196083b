"""Exercises of lesson 01: norms, their numerical traps, projections, uniform points."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_lib import norms
from course_lib.exercises import Exercise, Function
from course_lib.exercises.diagnoses import (
    Finding,
    close,
    finite,
    image_like,
    in_box,
    per_image,
    repeatable,
    run,
)

# --- 1.1 norms ----------------------------------------------------------------------------------

_HAND = torch.tensor([[3.0, -4.0, 0.0, 0.0], [-1.0, 1e-9, -2.0, 2.0]]).view(2, 1, 2, 2)
_HAND_NORMS = {2: 5.0, 1: 7.0, math.inf: 4.0, 0: 2.0, 0.5: 7 + 4 * math.sqrt(3)}
# (p, wrong value for [3, -4, 0, 0]) -> what was done
_SLIPS = {
    (2, 25.0): "the root is missing: 25 is the sum of squares.",
    (2, 2.5): "that is a mean: the norm takes the sum over the entries.",
    (2, 12.5): "that is a mean of squares: the norm takes the sum, then the root.",
    (2, 7.0): "the power is missing: raise every |r_i| to the p-th power before you add.",
    (1, -1.0): "the signs cancel: take absolute values first.",
    (1, 1.75): "that is a mean: the norm takes the sum over the entries.",
    (1, 4.0): "that is the largest entry: l_1 adds up all of them.",
    (math.inf, 3.0): "the largest entry counts without its sign: take absolute values first.",
    (math.inf, 7.0): "that is the sum: l_inf looks at the largest |r_i| alone.",
    (math.inf, 1.0): "(...)^(1/inf) is (...)^0 = 1: l_inf needs a line of its own, the maximum.",
    (math.inf, math.inf): "a power of inf overflows: l_inf needs a line of its own, the maximum.",
    (0, 4.0): "zero entries are counted too: 0 ** 0 is 1 for a computer. Count r_i != 0.",
    (0, 7.0): "l_0 counts the entries that are not zero; their size does not matter.",
    (0, math.inf): "the formula would need the power 1/0: l_0 needs a line of its own, a count.",
}


def _norms(fn: Function) -> Finding:
    for p, expected in _HAND_NORMS.items():
        size, said = run(fn, _HAND, p)
        name = "l_inf" if p == math.inf else f"l_{p}"
        if p == 0 and isinstance(size, Tensor) and size.dtype in (torch.int32, torch.int64):
            size = size.float()  # a count may well be a whole number
        if said or (said := _one_per_image(size, _HAND, name)):
            return said
        slip = _SLIPS.get((p, round(float(size[0]), 4)))
        said = f"the {name} norm of [3, -4, 0, 0] should be {expected:.4g}, yours is " \
               f"{float(size[0]):.4g}: {slip}" if slip else None
        if said or (said := close(size[0], expected, f"the {name} norm of [3, -4, 0, 0]")):
            return said
        if p == 0 and int(size[1]) == 3:
            return ("the l_0 norm of [-1, 1e-9, -2, 2] should be 4, yours is 3: an entry that "
                    "changed counts, however little it changed.")
        if said := close(size[1], norms.lp_norm(_HAND, p)[1],
                           f"the {name} norm of [-1, 1e-9, -2, 2]"):
            return said
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return per_image(lambda r: fn(r, 2), x, what="norm")


def _one_per_image(size: object, r: Tensor, name: str) -> Finding:
    if size is ...:
        return f"the {name} norm is still the placeholder `...`: write that line too."
    if isinstance(size, Tensor) and size.dim() == 0:
        return (f"your {name} is one number for the whole batch: return one for each image, "
                "a sum or maximum over dimension 1.")
    if isinstance(size, tuple):
        return (f"your {name} is a pair (values, places): tensor.max(1) returns both. "
                "Take .values, or use amax(1).")
    return image_like(size, norms.lp_norm(r, 1), what=name)


# --- 1.2 large p --------------------------------------------------------------------------------

def _large_p(fn: Function) -> Finding:
    ones = torch.ones(1, 1, 28, 28)
    cases = (
        (ones * 8 / 255, 100, "(8/255)^100 is about 1e-150, float32 ends near 1e-45, so every term "
                              "becomes 0. Make the largest entry 1 before the power."),
        (ones * 255, 100, "255^100 is about 1e240, float32 ends near 1e38. Make the largest entry "
                          "1 before the power."),
        (ones * 1e-3, 1000, "double precision only moves the edge, to 1e-324. Make the largest "
                            "entry 1 before the power; then no precision is needed."),
    )
    for r, p, idea in cases:
        size, said = run(fn, r, p)
        if said or (said := _one_per_image(size, r, "norm")):
            return said
        value, expected = float(size[0]), float(norms.lp_norm(r, p)[0])
        largest = float(r.max())
        what = f"the l_{p} norm of 784 entries {largest:.4g}"
        if abs(value - largest) < 1e-3 * largest:
            return (f"{what} should be {expected:.4g}, yours is {value:.4g}, the largest entry: "
                    "l_p comes close to l_inf but is not equal to it.")
        if abs(value * largest - expected) < 1e-3 * expected:
            return f"{what} should be {expected:.4g}, yours is {value:.4g}: multiply by the " \
                   "largest entry again at the end."
        if said := close(value, expected, what, idea, atol=0, rtol=1e-3):
            return said
    return _large_p_batches(fn)


def _large_p_batches(fn: Function) -> Finding:
    ones = torch.ones(1, 1, 5, 5)
    size, _ = run(fn, torch.zeros(2, 1, 5, 5), 50)
    if not bool(size.isfinite().all()):
        return ("the norm of a picture of zeros should be 0, yours is NaN: its largest entry is 0, "
                "and 0 / 0 is no number. Divide by 1 there.")
    if said := close(size, torch.zeros(2), "the norm of a picture of zeros", atol=0):
        return said
    mixed = torch.cat([ones, ones * 1e-3])
    said = close(fn(mixed, 50)[1], norms.lp_norm(mixed, 50)[1], "the l_50 norm of 25 entries 0.001",
                 "Beside a larger image it comes out wrong: divide each image by its own "
                 "largest entry.", atol=0, rtol=1e-3)
    if said:
        return said
    r = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return close(fn(r, 3), norms.lp_norm(r, 3), "the l_3 norm of random images",
                 "Do entries keep their absolute value?", rtol=1e-3)


# --- 1.3 projection onto the l_2 ball and the box -----------------------------------------------

def project_l2(x_new, x, eps):
    """Bring x_new into the l_2 ball of radius eps around x, and into [0, 1]."""
    r = x_new - x
    length = r.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    r = r * (eps / length).clamp(max=1)  # a short r keeps its length
    return (x + r).clamp(0, 1)


def _l2_cases() -> tuple[Tensor, Tensor]:
    """Changes of 0, 0.5, 3 and 20 times eps = 1; the first three stay away from the box."""
    draw = torch.Generator().manual_seed(0)
    x = 0.45 + 0.1 * torch.rand(4, 3, 20, 20, generator=draw)
    x[3] = torch.rand(3, 20, 20, generator=draw).round()
    r = norms.steepest_direction(torch.randn(4, 3, 20, 20, generator=draw), "l2")
    return x + r * torch.tensor([0.0, 0.5, 3.0, 20.0]).view(-1, 1, 1, 1), x


def _projection_l2(fn: Function) -> Finding:
    x_new, x = _l2_cases()
    out, said = run(fn, x_new, x, 1.0)
    if said or (said := image_like(out, x)):
        return said
    if bool(out[0].isnan().any()):
        return ("where x_new equals x your image is NaN: the length is 0, and 0 / 0 is no number. "
                "Mind that case, for instance with clamp on eps / length.")
    if torch.allclose(out, project_l2(x_new, x, 1.0) - x, atol=1e-4):
        return "that is the perturbation r: add it to x, an image is asked for."
    if torch.equal(out, x):
        return "your function returns x itself: nothing of the change is left."
    return (finite(out) or _around_zero(out)
            or per_image(lambda a, b: fn(a, b, 1.0), x_new, x, what="projection")
            or _wrong_ball(out, x_new, x) or _too_long(out, x) or _inside_moved(out, x_new)
            or in_box(out) or _nearest_l2(out, x_new, x))


def _around_zero(out: Tensor) -> Finding:
    if bool((norms.lp_norm(out[1:3], 2) <= 1.001).all()):
        return ("your ball lies around the black image 0: measure the length of r = x_new - x, "
                "shrink r, and add x again.")
    return None


def _wrong_ball(out: Tensor, x_new: Tensor, x: Tensor) -> Finding:
    for norm in ("linf", "l1"):
        if torch.allclose(out[2], norms.project_box(x_new, x, 1.0, norm)[2], atol=1e-5) and \
                not torch.allclose(out[2], project_l2(x_new, x, 1.0)[2], atol=1e-3):
            return f"that is the {norm} ball. For l_2 shrink the whole change to length eps."
    return None


def _too_long(out: Tensor, x: Tensor) -> Finding:
    sizes = norms.lp_norm(out - x, 2)
    if float(sizes.max()) <= 1.0001:
        return None
    return (f"your change is too long: its l_2 norm is {sizes.max():.3g}, eps is 1. Shrink "
            "r = x_new - x to length eps where it is longer.")


def _inside_moved(out: Tensor, x_new: Tensor) -> Finding:
    if torch.allclose(out[1], x_new[1], atol=1e-5):
        return None
    return ("an image that was already inside the ball (length 0.5, eps 1) came back moved. "
            "A change that is short enough stays as it is: the factor is min(1, eps / length).")


def _nearest_l2(out: Tensor, x_new: Tensor, x: Tensor) -> Finding:
    expected = project_l2(x_new, x, 1.0)
    if said := close(norms.lp_norm(out - x, 2)[2], 1.0,
                     "the length of a change that was 3 (eps = 1)",
                     "Shrink to eps, no further.", rtol=1e-3):
        return said
    if said := close(out[2], expected[2], "the projection of a change of length 3",
                     "The nearest point lies on the straight line to x: keep the direction."):
        return said
    # Box first, then ball, is allowed as well: the segment towards x stays in the box.
    other = project_l2(x_new.clamp(0, 1), x, 1.0)
    if any(torch.allclose(out[3], right[3], atol=1e-4) for right in (expected, other)):
        return None
    return close(out[3], expected[3], "the projection of an image at the border of the box",
                 "First the ball, then clamp(0, 1).")


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


def _projection_l1(fn: Function) -> Finding:
    delta = torch.tensor([
        [[[0.9, -0.5], [0.2, 0.0]]], [[[0.1, -0.2], [0.05, 0.0]]], [[[-2.0, 1.5], [1.2, -0.1]]],
    ])
    nearest = norms.project(delta, 1.0, "l1")
    out, said = run(fn, delta, 1.0)
    if said or (said := image_like(out, delta, "perturbation") or finite(out, "perturbation")):
        return said
    rescaled = delta / norms.lp_norm(delta, 1).clamp_min(1).view(-1, 1, 1, 1)
    if torch.allclose(out, rescaled, atol=1e-4):
        ours, best = (float((a - delta)[0].norm()) for a in (out, nearest))
        return (f"rescaling: [0.9, -0.5, 0.2, 0] moves by {ours:.3f}, but a point of the ball lies "
                f"only {best:.3f} away. Take the same amount off every entry instead.")
    if torch.allclose(out, nearest.abs(), atol=1e-4):
        return "the signs are lost: shrink |r|, then put sign(r) back."
    if bool((out.sign() * delta.sign() < 0).any()):
        return ("some entries changed their sign: an entry smaller than lambda becomes 0, not "
                "negative.")
    return (per_image(lambda r: fn(r, 1.0), delta, what="projection")
            or _l1_length(out, delta, nearest))


def _lambdas(delta: Tensor) -> list[tuple[Tensor, str]]:
    """Thresholds that are easily taken for lambda, with what is wrong about them; eps is 1."""
    excess = (norms.lp_norm(delta, 1) - 1).clamp_min(0).view(-1, 1, 1, 1)
    touched = (delta != 0).flatten(1).sum(1).view(-1, 1, 1, 1)
    shared = ("you share what is too much among all entries at once. But an entry smaller than "
              "that has less to give: some of it is left over, and lambda must grow.")
    return [(excess / delta[0].numel(), shared), (excess / touched, shared),
            (torch.ones(()), "you take eps itself for lambda. lambda is the amount that makes the "
                             "l_1 norm equal to eps.")]


def _l1_length(out: Tensor, delta: Tensor, nearest: Tensor) -> Finding:
    sizes = norms.lp_norm(out, 1)
    for norm, said in (("l2", "length of r, the l_2"), ("linf", "largest entry, the l_inf")):
        if torch.allclose(out, norms.project(delta, 1.0, norm), atol=1e-4):
            return f"that limits the {said} norm. In l_1 the sum of all |r_i| is limited."
    if torch.allclose(out[0], torch.tensor([[[0.9, -0.1], [0.0, 0.0]]]), atol=1e-3):
        return ("the largest entries stay as they were and the others vanish. Nearest is the point "
                "where every entry that stays gives up the same lambda.")
    for lam, mistake in _lambdas(delta):
        if torch.allclose(out, delta.sign() * (delta.abs() - lam).clamp_min(0), atol=1e-4):
            return f"the l_1 norm of your result is {sizes.max():.3g}, eps is 1: {mistake}"
    if not torch.allclose(out[1], delta[1], atol=1e-5):
        return ("a perturbation that was already inside (l_1 norm 0.35, eps 1) came back changed: "
                "leave it as it is.")
    if float(sizes.max()) > 1.001:
        return (f"the l_1 norm of your result is {sizes.max():.3g}, eps is 1: lambda is too small "
                "for some image. Each image needs its own.")
    if float(sizes[::2].min()) < 0.999:
        return (f"the l_1 norm of your result is {sizes[::2].min():.3g}, eps is 1: you go further "
                "than needed. lambda is too large for some image; each image needs its own.")
    distance = [float((a - delta)[2].norm()) for a in (out, nearest)]
    if distance[0] > distance[1] + 1e-3:
        return (f"[-2, 1.5, 1.2, -0.1] moves by {distance[0]:.3f}, but a point of the ball lies "
                f"only {distance[1]:.3f} away. Take the same amount off every entry.")
    return close(out, nearest, "the projection")


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

    plane = draw(4000, 2)
    if said := image_like(plane, torch.zeros(4000, 2), "table of points"):
        return said
    if said := repeatable(lambda: draw(5, 2)):
        return said
    if torch.equal(draw(5, 2), draw(5, 2, seed=1)):
        return "two generators give the same points: draw from the generator that is passed in."
    if not torch.allclose(draw(5, 3, eps=0.25), 0.25 * draw(5, 3), atol=1e-6):
        return "a ball of a quarter of the radius holds the same points, a quarter as far out."
    return _outside(plane) or _radii(plane, draw(400, 784)) or _directions(plane)


def _outside(plane: Tensor) -> Finding:
    radius = plane.norm(dim=1)
    out = int((radius > 1.0001).sum())
    if not out:
        return None
    if float(plane.abs().max()) <= 1:
        return (f"{out} of 4000 points lie outside the ball: those of a square. A cube in 784 "
                "dimensions reaches 28 times further out than the ball.")
    return f"{out} of 4000 points lie outside the ball of radius 1, up to {radius.max():.3g} away."


def _radii(plane: Tensor, high: Tensor) -> Finding:
    near = float((plane.norm(dim=1) < 0.5).float().mean())
    far = float(high.norm(dim=1).mean())
    if float(plane.norm(dim=1).min()) > 0.99:
        return "every point lies on the surface: the radius has to vary too."
    if near > 0.9:
        return (f"{100 * near:.0f} % of the points lie within half the radius, 25 % of the area: a "
                "narrow cloud around the centre. Is it a small Gaussian?")
    if abs(near - 0.5) < 0.05:
        return ("half of the points lie within half the radius, but only a quarter of the area "
                "does: the radius itself must not be uniform.")
    if abs(near - 0.25) > 0.04:
        return (f"{100 * near:.0f} % of the points lie within half the radius, which holds 25 % of "
                "the area.")
    if far < 0.99:
        return (f"right in the plane, but in 784 dimensions the mean radius is {far:.3f}, not "
                "0.999. The share of volume within radius t is t^d: the power depends on d.")
    return None


def _directions(plane: Tensor) -> Finding:
    if float(plane.mean(0).norm()) > 0.1:
        return "the points lie on one side of the centre: directions need both signs."
    unit = plane / plane.norm(dim=1, keepdim=True)
    if float((unit @ unit[0]).abs().mean()) > 0.95:
        return "all points lie on one line: draw a new direction for each of them."
    fourth = float(unit.pow(4).mean())
    if abs(fourth - 0.375) > 0.012:
        return ("the directions are not spread evenly: they crowd at the corners of a square. The "
                "Gaussian alone looks the same from every side.")
    return None


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
            "l_0 counts: `(size != 0)` is 1 where an entry is not zero. l_inf is the largest entry "
            "of a row: `amax(1)`.",
            "The last line is the formula from left to right: `size.pow(p)`, then `.sum(1)`, then "
            "`.pow(1 / p)`.",
        ),
        diagnose=_norms,
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
            "Mind a picture of zeros: `largest = torch.where(largest > 0, largest, 1.0)`, then "
            "`largest * (size / largest[:, None]).pow(p).sum(1).pow(1 / p)`.",
        ),
        diagnose=_large_p,
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
            "The factor is min(1, eps / length), in code `(eps / length).clamp(max=1)`; then "
            "`(x + factor * r).clamp(0, 1)`.",
        ),
        diagnose=_projection_l2,
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
        diagnose=_projection_l1,
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
