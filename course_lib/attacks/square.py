"""Square attack: random squares, kept where they help. Taught in lessons 04 and 07."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from course_lib import runtime
from course_lib.evolution import problem_generators
from course_lib.gradients import check_finite, check_images, check_outputs, forward, frozen
from course_lib.losses import goal_margin
from course_lib.norms import check_ball, lp_norm, project_box

# Fraction of the queries after which the share of the image that a square covers is halved.
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
_SHARE = 0.8  # of the image, covered by the first squares
_BLOCK = 100  # queries whose random numbers are drawn at once


def square(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, queries: int = 1000,
    norm: str = "linf", target: Tensor | None = None, generator: torch.Generator | None = None,
) -> Tensor:
    """Repaint a random square of the perturbation, and keep it if the margin rises.

        linf: the square's pixels move to x + eps or x - eps, one sign for each channel
        l2:   the square gets a smooth bump, whose length another square gives up

    The squares shrink as queries pass. It looks at no gradient, so a defence that hides its
    gradient does not mislead it; one that hides its scores, and tells only a class, does. Each
    image has random numbers of its own and leaves the batch once it is fooled.

    Shape: x [n, channels, rows, columns]; y, target [n] -> like x.
    queries: predictions for each image at most. generator: by default a fresh one with seed 0.
    Raises: ValueError as `fgsm`; also for fewer than one query, and for the norm "l1".
    Reference: Andriushchenko et al. 2020, algorithms 1 to 3; p = 0.8 as in Croce and Hein 2020.
    Lesson: 04, 07.

    >>> x, y = torch.tensor([[[[0.5, 0.6]]]]), torch.tensor([1])
    >>> x_adv = square(nn.Flatten(), x, y, eps=0.2, queries=20)
    >>> bool(x_adv[0, 0, 0, 0] > x_adv[0, 0, 0, 1])
    True
    """
    check_ball(eps, norm)
    check_images(model, x, y, target)
    if norm not in ("linf", "l2"):
        raise ValueError('square knows the norms "linf" and "l2"')
    if queries < 1:
        raise ValueError(f"queries = {queries}: the attack has to ask at least once")
    with frozen(model):
        check_outputs(model, x, y, target)
    propose = _repaint if norm == "linf" else _bump
    x = x.detach()
    luck = _Luck(len(x), x.shape[1], generator or runtime.generator(0))
    active = torch.arange(len(x), device=x.device)
    x_adv = _stripes(x, eps, luck) if norm == "linf" else _tiles(x, eps, luck)
    best = _scores(model, x_adv, y, target)
    for query in range(1, queries):
        active = active[best[active] <= 0]
        if not len(active):
            break
        x_new = propose(x_adv[active], x[active], eps, _share(query / queries), luck.of(active))
        value = _scores(model, x_new, y[active], None if target is None else target[active])
        better = value > best[active]
        x_adv[active[better]], best[active[better]] = x_new[better], value[better]
    return x_adv


def _share(done: float) -> float:
    """The share of the image that a square covers after this part of the queries."""
    return _SHARE / 2 ** sum(done > part for part in _HALVINGS)


def _scores(model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """How far each image is beyond the border: above zero where it is fooled. [n]"""
    with frozen(model):
        logits = forward(model, x)
    check_finite(logits.isfinite())
    return goal_margin(logits, y, target)


# --- l_inf --------------------------------------------------------------------------------------

def _stripes(x: Tensor, eps: float, luck: _Luck) -> Tensor:
    """The start in l_inf: vertical stripes one pixel wide, each channel of each up or down."""
    return (x + eps * luck.signs(x.shape[1], 1, x.shape[3]).to(x)).clamp(0, 1)


def _repaint(x_t: Tensor, x: Tensor, eps: float, share: float, luck: Tensor) -> Tensor:
    _, channels, rows, columns = x.shape
    side = min(max(1, round(math.sqrt(share * rows * columns))), rows, columns)
    sign = (luck[:, 5:5 + channels, None, None] < 0.5) * 2.0 - 1
    corners = project_box(x + eps * sign.to(x), x, eps, "linf")
    return torch.where(_window(x, side, luck[:, 0], luck[:, 1]), corners, x_t)


def _window(x: Tensor, side: int, down: Tensor, right: Tensor) -> Tensor:
    """A square in each image, at a place from [0, 1) each way: bool [n, 1, rows, columns]."""
    inside = []
    for size, place in zip(x.shape[2:], (down, right), strict=True):
        first = (place * (size - side + 1)).long()[:, None]
        index = torch.arange(size, device=x.device)
        inside.append((index >= first) & (index < first + side))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


# --- l_2 ----------------------------------------------------------------------------------------

def _tiles(x: Tensor, eps: float, luck: _Luck) -> Tensor:
    """The start in l_2: a grid of 5 x 5 bumps, each up or down."""
    _, channels, rows, columns = x.shape
    side = max(1, min(rows, columns) // 5)
    signs = luck.signs(channels, -(-rows // side), -(-columns // side)).to(x)
    bumps = torch.kron(signs, _profile(side).to(x)[None, None])[..., :rows, :columns]
    return _of_length(bumps, x, eps)


def _bump(x_t: Tensor, x: Tensor, eps: float, share: float, luck: Tensor) -> Tensor:
    """Two windows: the first gets a bump on top of what it has, the second's length, and goes on
    with what the ball still leaves; the second is emptied."""
    _, channels, rows, columns = x.shape
    side = min(max(3, round(math.sqrt(share * rows * columns))), rows, columns)
    delta = x_t - x
    first, second = (_window(x, side, luck[:, i], luck[:, i + 1]) for i in (0, 2))
    profile = _profile(side).to(x)
    turned = torch.where(luck[:, 4, None, None] < 0.5, profile, profile.T)
    sign = (luck[:, 5:5 + channels, None, None] < 0.5) * 2.0 - 1
    bump = torch.zeros_like(x).masked_scatter(first, (sign.to(x) * turned[:, None]))
    old = torch.where(first, delta, 0)
    bump = bump + old / _length(old)
    spare = (eps**2 - delta.pow(2).sum((1, 2, 3), keepdim=True)).clamp_min(0) / channels
    budget = (spare + torch.where(first | second, delta, 0).pow(2).sum((2, 3), keepdim=True)).sqrt()
    delta = torch.where(second & ~first, 0, delta)
    delta = torch.where(first, bump / _length(bump) * budget, delta)
    return _of_length(delta, x, eps)


def _length(delta: Tensor) -> Tensor:
    """The l_2 length of each channel. [n, channels, 1, 1]"""
    return delta.pow(2).sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12)


def _of_length(delta: Tensor, x: Tensor, eps: float) -> Tensor:
    """Images whose perturbation has the length eps before the box cuts it."""
    long = delta * (eps / lp_norm(delta, 2).clamp_min(1e-12)).view(-1, 1, 1, 1)
    return project_box(x + long, x, eps, "l2")


@functools.cache
def _profile(side: int) -> Tensor:
    """Two pyramids side by side, one up and one down, of length 1: [side, side]."""
    half = side // 2
    both = torch.cat([_pyramid(half, side), -_pyramid(side - half, side)])
    return both / both.norm()


def _pyramid(rows: int, columns: int) -> Tensor:
    """Steps around the middle: sum over j from the distance to the middle of 1 / (j + 1)^2."""
    middle = (rows // 2, columns // 2)
    reach = max(middle) + 1
    heights = torch.arange(1.0, reach + 1).pow(-2).flip(0).cumsum(0).flip(0)
    away = [(torch.arange(n) - m).abs() for n, m in zip((rows, columns), middle, strict=True)]
    return heights[torch.maximum(away[0][:, None], away[1]).clamp_max(reach - 1)]


class _Luck:
    """The random numbers of each image: they depend on the seed and the image's place, no more."""

    def __init__(self, n: int, channels: int, generator: torch.Generator) -> None:
        self.generators = problem_generators(n, generator)
        self.numbers = torch.empty(n, 0, 5 + channels)
        self.used = 0

    def signs(self, *shape: int) -> Tensor:
        """+1 or -1 at random: [n, *shape]."""
        drawn = torch.stack([torch.rand(shape, generator=g) for g in self.generators])
        return (drawn < 0.5) * 2.0 - 1

    def of(self, active: Tensor) -> Tensor:
        """Numbers in [0, 1) for each active image: two places, a turn, a sign per channel."""
        if self.used == self.numbers.shape[1]:
            self.numbers = torch.zeros(len(self.generators), _BLOCK, self.numbers.shape[2])
            self.used = 0
            for i in active.tolist():  # those that have left never come back
                self.numbers[i] = torch.rand(self.numbers.shape[1:], generator=self.generators[i])
        self.used += 1
        return self.numbers[active.cpu(), self.used - 1].to(active.device)
