"""The one loop behind the gradient attacks: an update rule goes in, an adversarial batch comes out.

Speed lives here, so that an attack can stay the formula of its paper. Taught in lesson 04.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.gradients import (
    Loss,
    attacking,
    check_finite,
    check_images,
    cross_entropy,
    forward,
    logits_and_gradient,
)

# (x_t, gradient at x_t, clean x, state) -> (x_(t+1), state). The state is a tensor whose first
# dimension counts images (a momentum, say), or None.
Update = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
Callback = Callable[[int, Tensor], None]


class Ascent(NamedTuple):
    """Where a batch ended: images [n, ...] and whether each one is fooled [n]."""

    x_adv: Tensor
    fooled: Tensor


def ascend(
    model: nn.Module, x: Tensor, y: Tensor, *, update: Update, steps: int,
    start: Tensor | None = None, target: Tensor | None = None, loss: Loss = cross_entropy,
    early_stop: bool = False, callback: Callback | None = None,
) -> Ascent:
    """Repeat x_(t+1) = update(x_t, grad L(x_t)) for every image of a batch.

    Whatever is returned for an image is its last iterate that fools the model, or plainly the
    last one where none does: success at any step counts. With `early_stop` an image leaves the
    batch as soon as it is fooled, which saves its remaining passes and changes no success. The
    prediction that decides comes for free with the next step's forward pass.

    Shape: x, start [n, channels, rows, columns]; y, target [n].
    callback(t, x_t) sees every iterate, from t = 0, of the images still in the batch.
    Raises: ValueError for bad images, labels or logits, or steps < 1.
    Lesson: 04.
    """
    check_images(model, x, y, target)
    if steps < 1:
        raise ValueError(f"steps = {steps}: an attack needs at least one step")
    result = x.detach().clone()
    fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    active = torch.arange(len(x), device=x.device)
    finite = torch.ones((), dtype=torch.bool, device=x.device)
    x, x_t = x.detach(), (x if start is None else start).detach()
    state: Tensor | None = None

    with attacking(model):
        for t in range(steps):
            if callback:
                callback(t, x_t)
            # The start is not judged: an image that was wrong from the beginning is attacked too.
            logits, gradient = logits_and_gradient(
                model, x_t, y, target, loss, check=t == 0,
                done=is_fooled if early_stop and t else None)
            finite = finite & logits.isfinite().all()
            hit = is_fooled(logits, y, target) if t else None
            if hit is not None and bool(hit.any()):
                result[active[hit]], fooled[active[hit]] = x_t[hit], True
                if early_stop:
                    rest = ~hit
                    active, x, x_t, y = active[rest], x[rest], x_t[rest], y[rest]
                    gradient = gradient[rest]
                    target = None if target is None else target[rest]
                    state = None if state is None else state[rest]
                    if not len(active):
                        check_finite(finite)
                        return Ascent(result, fooled)
            x_t, state = update(x_t, gradient, x, state)
        if callback:
            callback(steps, x_t)
        logits = forward(model, x_t)
    check_finite(finite & logits.isfinite().all())
    hit = is_fooled(logits, y, target)
    # An image that is not fooled at the end keeps an earlier iterate that did fool, if any.
    last = hit | ~fooled[active]
    result[active[last]] = x_t[last]
    fooled[active] |= hit
    return Ascent(result, fooled)


def is_fooled(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Whether each prediction misses its label, or hits its target when there is one. bool [n]"""
    predicted = logits.argmax(1)
    return predicted != y if target is None else predicted == target
