"""The one loop behind the gradient attacks: an update rule goes in, an adversarial batch comes out.

Speed lives here, so that an attack can stay the formula of its paper. Taught in lesson 04.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from course_lib.gradients import (
    check_finite,
    chunk_size,
    forward,
    frozen,
    logits_and_gradient,
    one_pass,
)
from course_lib.kernels.graph import aside, captured
from course_lib.kernels.launch import on_gpu
from course_lib.losses import Loss, cross_entropy, is_adversarial

# (x_t, gradient at x_t, clean x, state, step size) -> (x_(t+1), state). The state is a tensor whose
# first dimension counts images (a momentum, say), or None. The size is a number, or on a GPU a
# tensor that holds one.
Update = Callable[[Tensor, Tensor, Tensor, Any, float | Tensor], tuple[Tensor, Any]]
Callback = Callable[[int, Tensor], None]

# A CUDA graph pays from so many steps on. Replays look after so many whether images can be dropped.
_WORTH, _LOOK = 10, 8


class Iterated(NamedTuple):
    """Where a batch ended: images [n, ...] and whether each one is fooled [n]."""

    x_adv: Tensor
    fooled: Tensor


def iterate(
    model: nn.Module, x: Tensor, y: Tensor, *, update: Update, sizes: Sequence[float],
    start: Tensor | None = None, target: Tensor | None = None, loss: Loss = cross_entropy,
    early_stop: bool = False, callback: Callback | None = None,
) -> Iterated:
    """Repeat x_(t+1) = update(x_t, grad L(x_t)) for every image of a batch, a step per size.

    Whatever is returned for an image is its last iterate that fools the model, or plainly the
    last one where none does: success at any step counts. With `early_stop` an image leaves the
    batch as soon as it is fooled, which saves its remaining passes and changes no success. The
    prediction that decides comes for free with the next step's forward pass.

    Shape: x, start [n, channels, rows, columns]; y, target [n]; sizes: one number per step.
    callback(t, x_t) sees every iterate, from t = 0, of the images still in the batch.
    Trusts images and labels, which an attack checks once, at its door (`check_images`).
    Raises: ValueError for bad logits, or without a step.
    Lesson: 04.
    """
    if not sizes:
        raise ValueError("steps < 1: an attack needs at least one step")
    x, start = x.detach(), (x if start is None else start).detach()
    whole = on_gpu(x) and len(sizes) >= _WORTH and callback is None and chunk_size(x) >= len(x)
    with frozen(model):
        if whole:
            return _replayed(model, x, y, update, sizes, start, target, loss, early_stop)
        return _stepwise(model, x, y, update, sizes, start, target, loss, early_stop, callback)


def _stepwise(
    model: nn.Module, x: Tensor, y: Tensor, update: Update, sizes: Sequence[float], x_t: Tensor,
    target: Tensor | None, loss: Loss, early_stop: bool, callback: Callback | None,
) -> Iterated:
    result = x.clone()
    fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    active = torch.arange(len(x), device=x.device)
    finite = torch.ones((), dtype=torch.bool, device=x.device)
    state: Tensor | None = None
    for t, size in enumerate(sizes):
        if callback:
            callback(t, x_t)
        # The start is not judged: an image that was wrong from the beginning is attacked too.
        logits, gradient = logits_and_gradient(
            model, x_t, y, target, loss, check=t == 0,
            done=is_adversarial if early_stop and t else None)
        finite = finite & logits.isfinite().all()
        hit = is_adversarial(logits, y, target) if t else None
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
                    return Iterated(result, fooled)
        x_t, state = update(x_t, gradient, x, state, size)
    if callback:
        callback(len(sizes), x_t)
    logits = forward(model, x_t)
    check_finite(finite & logits.isfinite().all())
    hit = is_adversarial(logits, y, target)
    # An image that is not fooled at the end keeps an earlier iterate that did fool, if any.
    last = hit | ~fooled[active]
    result[active[last]] = x_t[last]
    fooled[active] |= hit
    return Iterated(result, fooled)


def _replayed(
    model: nn.Module, x: Tensor, y: Tensor, update: Update, sizes: Sequence[float], start: Tensor,
    target: Tensor | None, loss: Loss, early_stop: bool,
) -> Iterated:
    """The same on a GPU: all steps but the first are replays of one that is captured.

    Every tensor stays where it is. Images that are fooled are dropped when half of a batch is.
    """
    stream = torch.cuda.Stream()
    result, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    active, best, done = torch.arange(len(x), device=x.device), result.clone(), fooled.clone()
    finite, size = torch.ones_like(fooled[0]), x.new_full((), sizes[0])

    def judge(logits: Tensor) -> None:
        finite.logical_and_(logits.isfinite().all())
        hit = is_adversarial(logits, y, target)
        kept = hit & ~done if early_stop else hit
        best.copy_(torch.where(kept.view(-1, *[1] * (x.dim() - 1)), x_t, best))
        done.logical_or_(hit)

    def step() -> None:
        logits, gradient = one_pass(model, loss, False, None, x_t, y, target, None)
        judge(logits)
        moved, memory = update(x_t, gradient, x, state, size)
        x_t.copy_(moved)
        if state is not None:
            state.copy_(memory)

    with aside(stream):
        logits, gradient = logits_and_gradient(model, start, y, target, loss, check=True)
        x_t, state = update(start, gradient, x, None, size)
        judge(logits)  # the start does not count, but the next step shall find all prepared
    best.copy_(x)
    done.zero_()
    replay: Callable[[], None] | None = captured(step, stream)
    for t, number in enumerate(sizes[1:], 1):
        if early_stop and t % _LOOK == 0 and 2 * int(done.sum()) >= len(done):
            result[active], fooled[active] = best, done
            rest = ~done
            active, x, x_t, y, best, done = (held[rest] for held in (active, x, x_t, y, best, done))
            target = None if target is None else target[rest]
            state = None if state is None else state[rest]
            if not len(active):
                check_finite(finite)
                return Iterated(result, fooled)
            replay = None  # the graph of the larger batch does not fit
        size.fill_(number)
        if replay is None:
            with aside(stream):
                step()
            replay = captured(step, stream)
        else:
            replay()
    judge(forward(model, x_t))
    check_finite(finite)
    result[active] = torch.where(done.view(-1, *[1] * (x.dim() - 1)), best, x_t)
    fooled[active] = done
    return Iterated(result, fooled)
