"""The Jacobian-based saliency map attack: two pixels at a time. Taught in lesson 06."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from course_lib.gradients import (
    check_finite,
    check_images,
    check_outputs,
    finite_or_zero,
    frozen,
    in_parts,
)
from course_lib.losses import other_logits

# How many image entries go through the model at once, and how many pairs are compared at once.
_ENTRIES, _PAIRS = 2**20, 2**22
_OTHERS = ("likely", "all")


def jsma(
    model: nn.Module, x: Tensor, y: Tensor, *, target: Tensor, theta: float = 1.0,
    max_fraction: float = 0.145, others: str = "likely",
) -> Tensor:
    """Change the pair of entries with the highest saliency by theta, until the target is named.

        S(p, q) = -(a_p + a_q) * (b_p + b_q)  where a_p + a_q > 0 and b_p + b_q < 0
        a = dZ_t/dx (the target),   b = d/dx log(sum over k != t of exp Z_k) (all others)

    for theta > 0; a negative theta darkens and turns both signs. An entry leaves the search once
    it is changed to the border of the box, an image once it is fooled, once `max_fraction` of its
    entries are changed, or when no pair helps the target and hurts the others.

    `others="likely"` weighs each other class by its probability: a - b is the slope of the
    target's log odds. `others="all"` is the paper's b = sum over k != t of dZ_k/dx, in which
    lowering a class that nobody would name counts as much as lowering the present one: on the
    MNIST network it reaches its target far less often.

    Shape: x [n, channels, rows, columns] in [0, 1]; y, target [n] -> like x.
    Raises: ValueError as `fgsm`; for |theta| outside [1/255, 1]; for max_fraction outside (0, 1];
    for another name of the others.
    Reference: Papernot et al. 2016, algorithms 2 and 3, on the logits Z.
    Lesson: 06.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x = torch.rand(2, 1, 2, 2)
    >>> jsma(model, x, torch.tensor([0, 2]), target=torch.tensor([1, 1]), max_fraction=1.0).shape
    torch.Size([2, 1, 2, 2])
    """
    check_images(model, x, y, target)
    if not 1 / 255 <= abs(theta) <= 1:
        raise ValueError(f"theta = {theta}: an entry changes by 1/255 (a grey level) to 1, "
                         "up or down")
    if not 0 < max_fraction <= 1:
        raise ValueError(f"max_fraction = {max_fraction}: the share of entries is in (0, 1]")
    if others not in _OTHERS:
        raise ValueError(f"unknown others={others!r}: use one of {', '.join(_OTHERS)}")
    most = int(max_fraction * x[0].numel() + 1e-6)  # int(0.29 * 100) is 28
    size = max(1, _ENTRIES // x[0].numel())
    with frozen(model):
        check_outputs(model, x, y, target)
        return torch.cat([
            _attack(model, part, t, theta, most, others)
            for part, t in zip(x.detach().split(size), target.split(size), strict=True)
        ])


def _attack(
    model: nn.Module, x: Tensor, target: Tensor, theta: float, most: int, others: str
) -> Tensor:
    """Change at most `most` entries of each image of one part of the batch."""
    result, active = x.clone(), torch.arange(len(x), device=x.device)
    sign = math.copysign(1, theta)
    while len(active):
        x_t = result[active]
        logits, a, b = in_parts(partial(_forward_derivative, model, others), x_t, target[active])
        check_finite(logits.isfinite())
        changed = (x_t != x[active]).flatten(1)
        full = changed.sum(1, keepdim=True) + 2 > most
        # A full image may still finish the entries it has begun.
        allowed = (x_t < 1 if theta > 0 else x_t > 0).flatten(1) & (changed | ~full)
        pair, helps = best_pair(sign * a.flatten(1), -sign * b.flatten(1), allowed)
        going = (logits.argmax(1) != target[active]) & helps
        active, pair, flat = active[going], pair[going], x_t[going].flatten(1)
        moved = flat.scatter(1, pair, (flat.gather(1, pair) + theta).clamp(0, 1))
        result[active] = moved.view(-1, *x.shape[1:])
    return result


def _forward_derivative(
    model: nn.Module, others: str, x: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, the slope a of the target and the slope b of all others, from two backward passes.

    b is the gradient of one number, so there is no need for one pass a class.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        chosen = logits.gather(1, target[:, None])
        if others == "all":
            rest = logits.sum(1, keepdim=True) - chosen
        else:
            rest = other_logits(logits, target).logsumexp(1)
        (a,) = torch.autograd.grad(chosen.sum(), x, retain_graph=True)
        (b,) = torch.autograd.grad(rest.sum(), x)
    return logits.detach(), finite_or_zero(a), finite_or_zero(b)


def best_pair(u: Tensor, v: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The pair p != q of allowed entries with the largest (u_p + u_q) * (v_p + v_q), both sums > 0.

    Exact, though it compares only few pairs: an entry that two others beat in u and in v alike can
    always be exchanged for one of them. Sorted by u, what remains are the entries whose v is above
    the second largest v before them, a few dozen of 150,000.

    Shape: u, v [n, d], allowed [n, d] bool -> pairs [n, 2] int64, and [n] bool whether one exists.

    >>> best_pair(torch.tensor([[3., 1., 2.]]), torch.tensor([[1., 3., -9.]]), torch.ones(1, 3) > 0)
    (tensor([[0, 1]]), tensor([True]))
    """
    # The scale does not matter, but the product of two tiny slopes would be zero.
    u, v = (z / z.abs().amax(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny) for z in (u, v))
    u, v = (z.masked_fill(~allowed, -4) for z in (u, v))
    few = _undominated(u, v)
    u, v = u.gather(1, few), v.gather(1, few)
    n, count = few.shape
    best, pair = torch.full_like(u[:, 0], -1), few.new_zeros(n, 2)
    # In blocks of rows: where u and v contradict each other everywhere, the few can be many.
    for rows in torch.arange(count, device=u.device).split(max(1, _PAIRS // (n * count))):
        sum_u, sum_v = u[:, rows, None] + u[:, None], v[:, rows, None] + v[:, None]
        score = torch.where((sum_u > 0) & (sum_v > 0), sum_u * sum_v, -1)
        score[:, torch.arange(len(rows)), rows] = -1
        value, flat = score.flatten(1).max(1)
        here = torch.stack([rows[0] + flat // count, flat % count], 1)
        better = value > best
        best, pair = torch.where(better, value, best), torch.where(better[:, None], here, pair)
    return few.gather(1, pair).sort(1).values, best >= 0


def _undominated(u: Tensor, v: Tensor) -> Tensor:
    """The entries that at most one other beats in u and v; rows padded with others. [n, few]"""
    # Where entries have the same u, a few more may be kept than need be.
    order = u.argsort(dim=1, descending=True, stable=True)
    v = v.gather(1, order)
    second = _before(torch.minimum(v, _before(v.cummax(1).values)).cummax(1).values)
    kept = v > second
    count = max(int(kept.sum(1).max()), min(2, v.shape[1]))
    # The kept ones first; the padding can do no harm, it is made of real entries.
    return order.gather(1, kept.int().topk(count).indices.sort(1).values)


def _before(z: Tensor) -> Tensor:
    """Each row one place to the right, with -inf at its beginning."""
    return torch.cat([torch.full_like(z[:, :1], -torch.inf), z[:, :-1]], 1)
