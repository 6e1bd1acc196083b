"""L-BFGS: the smallest perturbation that still reaches the goal. Taught in lesson 03.

Every image is a problem of its own, with its own c, history, step length and end; the images of
a batch share nothing but the passes through the network. Images are rows here, [n, pixels].
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.gradients import check_finite, check_images, frozen, logits_and_gradient
from course_lib.losses import cross_entropy, goal_margin, log_odds, objective

HISTORY = 5          # pairs (s, y) that stand in for the Hessian; 3 to 20 are usual
FACTOR = 4.0         # how far c jumps while one end of its bracket is open
DECREASE = 1e-3      # a minimum: a step gains less than this share of c * ||r||_2^2,
SHORTEST = 1e-2      # or no step of this length lowers the objective at all
ARMIJO = 1e-4        # a step is good when the objective falls by this share of the slope's promise
CLEAR = 1e-5         # a margin, in units of the largest logit, that rounding cannot undo
DECIDED = 10.0       # logits of an undecided network grow to this margin, see `logit_scale`

Pair = tuple[Tensor, Tensor]


def lbfgs(
    model: nn.Module, x: Tensor, y: Tensor, *, target: Tensor | None = None,
    c_steps: int = 10, steps: int = 20,
) -> Tensor:
    """The smallest l2 perturbation that fools the model: L-BFGS in the box, and a search for c.

        minimise  c * ||r||_2^2 + L(theta, x + r, y_t)   over r with x + r in [0, 1]

    with the largest c whose minimiser still reaches the goal: c moves by factors of four until one
    value succeeds and one fails, then log c is bisected. Each c starts where the last one ended.
    L is the cross-entropy of the target or, untargeted, of "any class but y", -log(1 - p_y).

    Returned is the smallest perturbation seen that fools the model by more than rounding; where
    none does, the last point of the search; an image that is fooled as it is, unchanged.

    Shape: x [n, channels, rows, columns] in [0, 1]; y, target [n] int64 -> like x.
    c_steps: values of c tried for each image. steps: passes at most for each value.
    Raises: ValueError for bad images, labels or logits, c_steps < 1 or steps < 1.
    Reference: Szegedy et al. 2014, section 4.1.
    Lesson: 03.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x = torch.rand(2, 1, 2, 2)
    >>> lbfgs(model, x, model(x).argmax(1)).shape
    torch.Size([2, 1, 2, 2])
    """
    check_images(model, x, y, target)
    for name, count in (("c_steps", c_steps), ("steps", steps)):
        if count < 1:
            raise ValueError(f"{name} = {count}: the search needs at least one")
    rows = nn.Sequential(nn.Unflatten(1, x.shape[1:]), model)
    clean = x.detach().flatten(1)
    result = clean.clone()
    pairs: deque[Pair] = deque(maxlen=HISTORY)
    with frozen(rows):
        search = start(rows, clean, y, target)
        while len(search.x):
            pairs.append(step(rows, search, pairs))
            choose_c(search, steps)
            over = search.tried == c_steps
            if bool(over.any()):
                done, search = search[over], search[~over]
                result[done.index] = torch.where(done.size.isfinite()[:, None], done.best, done.x_t)
                pairs = deque(((s[~over], y[~over]) for s, y in pairs), maxlen=HISTORY)
    return result.view_as(x)


def any_other(logits: Tensor, y: Tensor) -> Tensor:
    """log(1 - p_y), minus the cross-entropy of "any class but y": an untargeted attack climbs it.

    It points the same way as the cross-entropy of y, but levels off once the attack has succeeded
    instead of before. So the minimiser moves steadily with c and can stop at the border; with the
    cross-entropy it jumps across.

    Shape: logits [n, classes], y [n] -> [n].
    Lesson: 03.

    >>> any_other(torch.zeros(1, 2), torch.tensor([0]))
    tensor([-0.6931])
    """
    return -F.softplus(log_odds(logits, y))


def two_loop(gradient: Tensor, pairs: Iterable[Pair], scale: Tensor) -> Tensor:
    """H * gradient, where H is the inverse Hessian that the pairs s = x' - x, y = g' - g suggest.

        for the newest pair to the oldest:   a_i = rho_i <s_i, q>,   q = q - a_i y_i
        r = q * <s, y> / <y, y> of the newest pair, or q * scale where there is none
        for the oldest pair to the newest:   b_i = rho_i <y_i, r>,   r = r + (a_i - b_i) s_i

    with rho_i = 1 / <s_i, y_i>. A pair without positive curvature <s_i, y_i> is passed over.

    Shape: gradient, s, y [n, pixels], scale [n] -> [n, pixels].
    Reference: Nocedal and Wright 2006, algorithm 7.4.
    Lesson: 03.

    >>> s, g = torch.tensor([[1.0, 0.0]]), torch.tensor([[8.0, 2.0]])
    >>> two_loop(g, [(s, 4 * s)], torch.ones(1))
    tensor([[2.0000, 0.5000]])
    """
    q, first_loop = gradient, []
    fitted = torch.zeros_like(scale)
    for s, y in reversed(list(pairs)):
        sy, yy = dot(s, y), dot(y, y)
        curved = sy > 1e-8 * yy
        rho = torch.where(curved, 1 / sy, 0)
        fitted = torch.where(curved & (fitted == 0), sy / yy, fitted)
        a = rho * dot(s, q)
        q = q - a[:, None] * y
        first_loop.append((s, y, rho, a))
    r = q * torch.where(fitted > 0, fitted, scale)[:, None]
    for s, y, rho, a in reversed(first_loop):
        b = rho * dot(y, r)
        r = r + (a - b)[:, None] * s
    return r


def next_c(c: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The next c to try, between the largest that succeeded and the smallest that failed.

        c * 4 while nothing failed (high = inf),   c / 4 while nothing succeeded (low = 0),
        sqrt(low * high) from then on

    Shape: [n], each -> [n].
    Lesson: 03.

    >>> next_c(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([torch.inf, 4.0]))
    tensor([4., 2.])
    """
    outwards = torch.where(low > 0, c * FACTOR, c / FACTOR)
    return torch.where((low > 0) & high.isfinite(), (low * high).sqrt(), outwards)


@dataclass
class Search:
    """Where each image of the batch stands; the first dimension of every tensor counts images."""

    index: Tensor            # its place in the batch that was given
    x: Tensor                # the clean image
    y: Tensor
    target: Tensor | None
    x_t: Tensor              # the present point, and there:
    loss: Tensor             # L,
    gradient: Tensor         # its gradient,
    hit: Tensor              # and whether the goal is reached
    scale: Tensor            # what its logits are multiplied by in L
    c: Tensor
    low: Tensor              # the largest c that succeeded, or 0
    high: Tensor             # the smallest c that failed, or inf
    tried: Tensor            # values of c done with
    passes: Tensor           # with the present c
    t: Tensor                # the step length to try next
    settled: Tensor          # no better point for this c is in sight
    best: Tensor             # the nearest image so far that reaches the goal,
    size: Tensor             # and its distance, or inf

    def __getitem__(self, rows: Tensor) -> Search:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        kept: dict[str, Any] = {k: None if v is None else v[rows] for k, v in values.items()}
        return Search(**kept)


def start(model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None) -> Search:
    """The first passes, which find the images that need an attack, and guess c for each.

    Were L linear down to the border, where it is about 0, r = -2L g / ||g||^2 would minimise the
    objective at c = ||g||^2 / 4L, and reach it.
    """
    logits, _ = logits_and_gradient(model, x, y, target, check=True)
    scale = logit_scale(logits, y, target)
    loss, gradient, hit = evaluate(model, x, y, target, scale)
    zero, one = torch.zeros_like(loss), torch.ones_like(loss)
    tiny = torch.finfo(x.dtype).tiny ** 0.5
    c = (dot(gradient, gradient) / (4 * loss).clamp_min(tiny)).clamp_min(tiny)
    return Search(
        index=torch.arange(len(x), device=x.device), x=x, y=y, target=target, x_t=x, loss=loss,
        gradient=gradient, hit=hit, scale=scale, c=c, low=zero, high=torch.inf * one, tried=zero,
        passes=zero, t=one, settled=zero.bool(), best=x, size=torch.inf * one,
    )[~hit]


def step(model: nn.Module, search: Search, pairs: Iterable[Pair]) -> Pair:
    """One pass: try x' = clamp(x_t - t * H * gradient), keep it where it is better, else halve t.

    Pixels at a bound that the gradient pushes outwards are left out of the step and of H.
    Returned is the new pair (s, y) of L alone, zero where the step was taken back. The second
    derivative of c * ||r||^2 is known to be 2c, so that pairs outlive a change of c.
    """
    c = search.c[:, None]
    r = search.x_t - search.x
    gradient = search.gradient + 2 * c * r
    stuck = (search.x_t <= 0) & (gradient > 0) | (search.x_t >= 1) & (gradient < 0)
    free = (~stuck).to(r.dtype)
    inside = [(s * free, (y + 2 * c * s) * free) for s, y in pairs]
    direction = two_loop(gradient * free, inside, 1 / (2 * search.c))
    x_new = (search.x_t - search.t[:, None] * direction).clamp(0, 1)
    loss, loss_gradient, hit = evaluate(model, x_new, search.y, search.target, search.scale)

    square = dot(x_new - search.x, x_new - search.x)
    nearer = hit & (square.sqrt() < search.size)
    search.best = torch.where(nearer[:, None], x_new, search.best)
    search.size = torch.where(nearer, square.sqrt(), search.size)

    value, value_new = search.c * dot(r, r) + search.loss, search.c * square + loss
    slope = dot(gradient, x_new - search.x_t)
    better = (slope <= 0) & (value_new <= value + ARMIJO * slope)
    small = value - value_new <= DECREASE * search.c * square
    search.settled = torch.where(better, small, search.t < SHORTEST)
    # Where the step failed, the minimum of the parabola through what is known of it.
    parabola = slope / (2 * (slope + value - value_new))
    search.t = torch.where(better, 1, search.t * parabola.nan_to_num(0.1).clamp(0.1, 0.5))
    search.passes = search.passes + 1

    taken = better[:, None]
    pair = (torch.where(taken, x_new - search.x_t, 0),
            torch.where(taken, loss_gradient - search.gradient, 0))
    search.x_t = torch.where(taken, x_new, search.x_t)
    search.gradient = torch.where(taken, loss_gradient, search.gradient)
    search.loss = torch.where(better, loss, search.loss)
    search.hit = torch.where(better, hit, search.hit)
    return pair


def choose_c(search: Search, steps: int) -> None:
    """Where L-BFGS has ended for the present c: note whether it succeeded, and choose the next."""
    ended = search.settled | (search.passes >= steps)
    search.low = torch.where(ended & search.hit, search.c, search.low)
    search.high = torch.where(ended & ~search.hit, search.c, search.high)
    search.c = torch.where(ended, next_c(search.c, search.low, search.high), search.c)
    search.tried = search.tried + ended
    search.passes = torch.where(ended, 0, search.passes)
    search.t = torch.where(ended, 1, search.t)


def evaluate(
    model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One pass: the loss L to be lowered [n], its gradient [n, pixels], who is clearly fooled."""
    loss = any_other if target is None else cross_entropy
    logits, uphill = logits_and_gradient(model, x, y, target, loss, scale=scale)
    check_finite(logits.isfinite())  # a wait for the GPU, like the search for images that are done
    value = -objective(logits * scale[:, None], y, target, loss)
    return value, -uphill, clearly_fooled(logits, y, target)


def logit_scale(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """The factor that brings the margin at the clean image to ten, at least one. [n]

    At the border of an undecided network every class keeps a share of the softmax, and all of them
    pull on the minimiser. Sharpened, only the classes that meet there do, and the nearest point of
    the border is found, on a linear model to within a percent or so.
    """
    margins = goal_margin(logits, y, target).abs()
    rounding = 1e-4 * logits.abs().amax(1).clamp_min(1e-9)
    return (DECIDED / torch.maximum(margins, rounding)).clamp_min(1)


def clearly_fooled(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """Whether the goal is reached by more than rounding could undo. [n]"""
    return goal_margin(logits, y, target) > CLEAR * logits.abs().amax(1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> for each row. Shape: [n, pixels] twice -> [n]."""
    return (a * b).sum(1)
