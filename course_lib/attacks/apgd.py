"""Auto-PGD: projected gradient descent that sets its own step size. Taught in lesson 04."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import runtime
from course_lib.gradients import (
    check_finite,
    check_images,
    check_logits,
    forward,
    frozen,
    logits_and_gradient,
)
from course_lib.losses import Loss, cross_entropy, dlr, is_adversarial, objective, other_logits
from course_lib.norms import check_ball, project_box, steepest_direction, uniform_ball

_RISES = 0.75  # the share of steps between two reviews that has to raise the loss
_TURN = 0.75  # how much of a move is the gradient's; the rest goes on as the last move went


def apgd(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int = 100, norm: str = "linf",
    target: Tensor | None = None, loss: Loss = cross_entropy, restarts: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """PGD with momentum whose step size starts at 2 eps and is halved where it no longer pays.

        z       = Pi(x_t + step * direction(grad L(x_t)))
        x_(t+1) = Pi(x_t + 0.75 * (z - x_t) + 0.25 * (x_t - x_(t-1)))

    At reviews, which come ever more often, an image's step is halved and its search goes back to
    its best point, if fewer than 75 % of the steps since the last review raised the loss, or if
    neither the step nor the best loss has changed since then. An image leaves the batch as soon as
    it is fooled; of the others the point with the highest loss is returned.

    Shape: x [n, channels, rows, columns]; y, target [n] -> like x.
    generator: of the random starts, by default a fresh one with seed 0.
    Raises: ValueError as `fgsm`; also for steps or restarts below 1, and for the norm "l1".
    Reference: Croce and Hein 2020, algorithm 1 and section 3.2.
    Lesson: 04, 07.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
    >>> bool((apgd(model, x, y, eps=0.1) - x).abs().max() <= 0.1 + 1e-6)
    True
    """
    if restarts < 1:
        raise ValueError(f"restarts = {restarts}: an attack starts at least once")
    check_images(model, x, y, target)
    return _runs(model, x, y, [target] * restarts, eps=eps, steps=steps, norm=norm, loss=loss,
                 any_class=target is None, generator=generator)


def apgd_targeted(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int = 100, norm: str = "linf",
    targets: int = 9, generator: torch.Generator | None = None,
) -> Tensor:
    """APGD with the targeted DLR loss towards each of the most likely wrong classes in turn.

    Success is any wrong class, as in `apgd` without a target.

    Shape, Raises: as `apgd`; also ValueError for fewer than one target or four classes.
    Reference: Croce and Hein 2020, equation 7 and section 5.
    Lesson: 04, 07.
    """
    if targets < 1:
        raise ValueError(f"targets = {targets}: aim at one class at least")
    check_images(model, x, y)
    with frozen(model):
        logits = forward(model, x)
    check_logits(logits, y)
    likely = other_logits(logits, y).argsort(1, descending=True)[:, :-1]
    return _runs(model, x, y, likely[:, :targets].unbind(1), eps=eps, steps=steps, norm=norm,
                 loss=dlr, any_class=True, generator=generator)


def reviews(steps: int) -> list[int]:
    """The steps after which the step size is reviewed: after 22 %, then after ever shorter parts.

    >>> reviews(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    places = [0, 22]  # in per cent
    while places[-1] < 100:
        places.append(places[-1] + max(places[-1] - places[-2] - 3, 6))
    return [math.ceil(place * steps / 100) for place in places[1:] if place <= 100]


def _runs(
    model: nn.Module, x: Tensor, y: Tensor, targets: Sequence[Tensor | None], *, eps: float,
    steps: int, norm: str, loss: Loss, any_class: bool, generator: torch.Generator | None,
) -> Tensor:
    """One search for each target, from a random start, of the images that none before fooled."""
    check_ball(eps, norm)
    if norm == "l1":
        raise ValueError('apgd knows the norms "linf" and "l2"; for "l1" use pgd')
    if steps < 1:
        raise ValueError(f"steps = {steps}: an attack needs at least one step")
    generator = generator or runtime.generator(0)
    x = x.detach()
    x_adv, left = x.clone(), torch.arange(len(x), device=x.device)
    for target in targets:
        # Drawn for the whole batch, however few are left: an image's noise is its own.
        noise = uniform_ball(x.shape, eps, norm, generator).to(x)
        start = project_box(x + noise, x, eps, norm)
        search = _Search.begin(x, y, start, target, eps).keep(left)
        x_adv[left], fooled = search.run(model, eps, steps, norm, loss, any_class)
        left = left[~fooled]
        if not len(left):
            break
    return x_adv


@dataclass
class _Search:
    """What each image of a batch carries from step to step; the first dimension counts images."""

    x: Tensor
    y: Tensor
    target: Tensor | None
    x_t: Tensor
    before: Tensor  # x_(t-1)
    step: Tensor
    value: Tensor  # the loss at x_t
    rises: Tensor  # steps since the last review that raised the loss
    best: Tensor
    best_value: Tensor
    best_gradient: Tensor
    reviewed_value: Tensor  # the best loss at the last review
    halved: Tensor  # whether the last review halved the step

    @classmethod
    def begin(
        cls, x: Tensor, y: Tensor, start: Tensor, target: Tensor | None, eps: float
    ) -> _Search:
        lowest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        return cls(x, y, target, start, start, torch.full_like(lowest, 2 * eps), -lowest,
                   torch.zeros_like(lowest), start, lowest, torch.zeros_like(x), lowest,
                   torch.zeros_like(y, dtype=torch.bool))

    def keep(self, which: Tensor) -> _Search:
        parts: Iterator[Any] = (
            None if part is None else part[which] for part in vars(self).values())
        return _Search(*parts)

    def run(
        self, model: nn.Module, eps: float, steps: int, norm: str, loss: Loss, any_class: bool
    ) -> tuple[Tensor, Tensor]:
        """The images found [n, ...], and whether each one fools the model [n]."""
        s, last_review = self, 0
        found, fooled = s.x_t.clone(), torch.zeros_like(s.halved)
        active = torch.arange(len(s.y), device=s.y.device)
        finite = torch.ones((), dtype=torch.bool, device=s.y.device)
        with frozen(model):
            for t in range(steps + 1):
                logits, gradient = logits_and_gradient(model, s.x_t, s.y, s.target, loss,
                                                       check=t == 0)
                finite = finite & logits.isfinite().all()
                hit = is_adversarial(logits, s.y, None if any_class else s.target)
                if bool(hit.any()):
                    found[active[hit]], fooled[active[hit]] = s.x_t[hit], True
                    s, active = s.keep(~hit), active[~hit]
                    logits, gradient = logits[~hit], gradient[~hit]
                    if not len(active):
                        break
                s.note(objective(logits, s.y, s.target, loss), gradient)
                if t in reviews(steps):
                    gradient = s.review(gradient, t - last_review)
                    last_review = t
                s.move(gradient, eps, norm, turn=_TURN if t else 1.0)
        check_finite(finite)
        found[active] = s.best
        return found, fooled

    def note(self, value: Tensor, gradient: Tensor) -> None:
        """Count a rise of the loss, and keep the best point."""
        self.rises = self.rises + (value > self.value)
        better = value > self.best_value
        self.value, self.best_value = value, torch.where(better, value, self.best_value)
        self.best = torch.where(_wide(better), self.x_t, self.best)
        self.best_gradient = torch.where(_wide(better), gradient, self.best_gradient)

    def review(self, gradient: Tensor, interval: int) -> Tensor:
        """Halve the step and go back to the best point, where a condition of the paper holds."""
        too_few_rises = self.rises < _RISES * interval
        nothing_new = ~self.halved & (self.best_value <= self.reviewed_value)
        self.halved = too_few_rises | nothing_new
        self.reviewed_value, self.rises = self.best_value, torch.zeros_like(self.rises)
        self.step = torch.where(self.halved, self.step / 2, self.step)
        self.x_t = torch.where(_wide(self.halved), self.best, self.x_t)
        return torch.where(_wide(self.halved), self.best_gradient, gradient)

    def move(self, gradient: Tensor, eps: float, norm: str, turn: float) -> None:
        ahead = self.x_t + _wide(self.step) * steepest_direction(gradient, norm)
        z = project_box(ahead, self.x, eps, norm)
        moved = self.x_t + turn * (z - self.x_t) + (1 - turn) * (self.x_t - self.before)
        self.before, self.x_t = self.x_t, project_box(moved, self.x, eps, norm)


def _wide(per_image: Tensor) -> Tensor:
    """[n] as [n, 1, 1, 1], to meet images."""
    return per_image.view(-1, 1, 1, 1)
