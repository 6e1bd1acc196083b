"""DDN: the smallest l2 perturbation, from one run of normalised steps. Taught in lesson 04."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from course_lib.attacks.lbfgs import clearly_fooled
from course_lib.gradients import (
    check_finite,
    check_images,
    check_step_size,
    frozen,
    logits_and_gradient,
)
from course_lib.losses import Loss, cross_entropy
from course_lib.norms import lp_norm, steepest_direction

LAST = 0.01          # the last step's length, as a share of the first's


def ddn(
    model: nn.Module, x: Tensor, y: Tensor, *, target: Tensor | None = None, steps: int = 100,
    step_size: float = 1.0, radius: float = 1.0, gamma: float = 0.05, loss: Loss = cross_entropy,
) -> Tensor:
    """The smallest l2 perturbation that fools the model: decoupled direction and norm.

        r = r + alpha * g / ||g||_2                                       the direction
        radius = radius * (1 - gamma) if x_t is fooled, else * (1 + gamma)      the norm
        x_t = x + radius * r / ||r||_2, clamped to [0, 1]

    The length alpha of the steps falls from `step_size` to a hundredth of it along a cosine. L-BFGS
    weighs the size against the loss and has to search for that weight; here the size is set, by
    whether the last image was fooled.

    Returned is the smallest perturbation seen that fools the model by more than rounding; where
    none does, the last point of the search; an image that is fooled as it is, unchanged. The
    paper also rounds every x_t to 256 grey levels; this one does not. On a network whose softmax is
    undecided every class pulls on the direction: use loss=margin there.

    Shape: x [n, channels, rows, columns] in [0, 1]; y, target [n] int64 -> like x.
    Raises: ValueError for bad images, labels or logits, steps < 1, a radius <= 0, a gamma outside
        (0, 1).
    Reference: Rony et al. 2019, algorithm 1.
    Lesson: 04.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x = torch.rand(2, 1, 2, 2)
    >>> ddn(model, x, model(x).argmax(1)).shape
    torch.Size([2, 1, 2, 2])
    """
    check_images(model, x, y, target)
    check_step_size(step_size)
    if steps < 1:
        raise ValueError(f"steps = {steps}: the search needs at least one")
    if not (math.isfinite(radius) and radius > 0 and 0 < gamma < 1):
        raise ValueError(f"radius = {radius}, gamma = {gamma}: use a radius > 0 and 0 < gamma < 1")
    clean, least = x.detach(), x.new_full((len(x), 1, 1, 1), torch.inf)
    x_t, best, length = clean, clean, torch.full_like(least, radius)
    finite = torch.ones_like(y, dtype=torch.bool)
    with frozen(model):
        for t in range(steps + 1):                          # the last pass judges the last step
            logits, gradient = logits_and_gradient(model, x_t, y, target, loss, check=t == 0)
            finite &= logits.isfinite().all(1)
            hit = clearly_fooled(logits, y, target).view(least.shape)
            size = lp_norm(x_t - clean, 2).view(least.shape)
            # Nothing has been found yet: the last point stands in.
            best = torch.where(hit & (size < least) | least.isinf(), x_t, best)
            least = torch.where(hit, least.minimum(size), least)
            alpha = step_size * (LAST + (1 - LAST) * (1 + math.cos(math.pi * t / steps)) / 2)
            r = x_t - clean + alpha * steepest_direction(gradient, "l2")
            length = length * torch.where(hit, 1 - gamma, 1 + gamma)
            x_t = (clean + length * steepest_direction(r, "l2")).clamp(0, 1)
    check_finite(finite)
    return best.clone()
