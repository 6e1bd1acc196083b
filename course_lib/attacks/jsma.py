"""The Jacobian-based saliency map attack: two pixels at a time. Taught in lesson 06."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from course_lib.ascent import is_fooled
from course_lib.gradients import attacking, check_images, check_logits


def jsma(
    model: nn.Module, x: Tensor, y: Tensor, *, target: Tensor, theta: float = 1.0,
    max_fraction: float = 0.145,
) -> Tensor:
    """Change the pair of entries with the highest saliency by theta, until the target is named.

        S(p, q) = -(a_p + a_q) * (b_p + b_q)  where a_p + a_q > 0 and b_p + b_q < 0
        a = dZ_t/dx (the target),   b = sum over k != t of dZ_k/dx (all others)

    for theta > 0; a negative theta darkens and turns both signs. An entry leaves the search once
    it is changed to the border of the box, an image once it is fooled, once `max_fraction` of its
    entries are changed, or when no pair helps the target and hurts the others.

    Shape: x [n, channels, rows, columns] in [0, 1]; y, target [n] -> like x.
    Raises: ValueError as `fgsm`; for theta outside [-1, 1] or 0; for max_fraction outside (0, 1].
    Reference: Papernot et al. 2016, algorithms 2 and 3, on the logits Z.
    Lesson: 06.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x = torch.rand(2, 1, 2, 2)
    >>> jsma(model, x, torch.tensor([0, 2]), target=torch.tensor([1, 1]), max_fraction=1.0).shape
    torch.Size([2, 1, 2, 2])
    """
    check_images(model, x, y, target)
    if not 0 < abs(theta) <= 1:
        raise ValueError(f"theta = {theta}: a change of an entry is in [-1, 1] and not 0")
    if not 0 < max_fraction <= 1:
        raise ValueError(f"max_fraction = {max_fraction}: the share of entries is in (0, 1]")
    result, active = x.detach().clone(), torch.arange(len(x), device=x.device)
    pairs = int(max_fraction * x[0].numel()) // 2
    with attacking(model):
        for step in range(pairs * math.ceil(1 / abs(theta)) + 1):
            x_t = result[active]
            logits, a, b = _forward_derivative(model, x_t, target[active], check_y=y[active] if not step else None)
            u, v = (a, -b) if theta > 0 else (-a, b)
            room = (x_t < 1 if theta > 0 else x_t > 0).flatten(1)
            changed = (x_t != x[active]).flatten(1).sum(1)
            index, helps = best_pair(u.flatten(1), v.flatten(1), room)
            going = ~is_fooled(logits, y[active], target[active]) & helps & (changed + 2 <= 2 * pairs)
            active, index, x_t = active[going], index[going], x_t[going]
            if not len(active):
                break
            flat = x_t.flatten(1)
            moved = flat.scatter(1, index, (flat.gather(1, index) + theta).clamp(0, 1))
            result[active] = moved.view_as(x_t)
    return result


def _forward_derivative(
    model: nn.Module, x: Tensor, target: Tensor, check_y: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, dZ_t/dx, and the sum of all other rows of the Jacobian, from two backward passes.

    The others' sum is the gradient of the sum of all logits less the target's: no need for one
    pass a class.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        if check_y is not None:
            check_logits(logits.detach(), check_y, target)
        chosen = logits.gather(1, target[:, None]).sum()
        (a,) = torch.autograd.grad(chosen, x, retain_graph=True)
        (b,) = torch.autograd.grad(logits.sum() - chosen, x)
    return logits.detach(), a, b


def best_pair(u: Tensor, v: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The pair p != q of allowed entries with the largest (u_p + u_q) * (v_p + v_q), both sums > 0.

    Exact, though it compares only few pairs: an entry that two others beat in u and in v alike can
    always be exchanged for one of them. Sorted by u, what remains are the entries whose v is above
    the second largest v before them, a few dozen of 150,000.

    Shape: u, v [n, d], allowed [n, d] bool -> pairs [n, 2] int64, and [n] bool whether one exists.

    >>> best_pair(torch.tensor([[3., 1., 2.]]), torch.tensor([[1., 3., -9.]]), torch.ones(1, 3) > 0)
    (tensor([[0, 1]]), tensor([True]))
    """
    low = torch.finfo(u.dtype).min / 4
    u, v = u.masked_fill(~allowed, low), v.masked_fill(~allowed, low)
    # Order by u, ties by v: a stable sort by v first, then by u.
    order = v.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, u.gather(1, order).argsort(dim=1, descending=True, stable=True))
    sorted_v = v.gather(1, order)
    before = torch.cat([torch.full_like(v[:, :1], -torch.inf), sorted_v.cummax(1).values[:, :-1]], 1)
    second = torch.minimum(sorted_v, before).cummax(1).values
    second = torch.cat([torch.full_like(v[:, :1], -torch.inf), second[:, :-1]], 1)
    kept = sorted_v > second
    count = max(int(kept.sum(1).max()), 2)
    # The kept entries first, padded with others, which can do no harm: they are real entries.
    few = order.gather(1, kept.int().argsort(dim=1, descending=True, stable=True)[:, :count])
    few_u, few_v = u.gather(1, few), v.gather(1, few)
    sum_u, sum_v = few_u[:, :, None] + few_u[:, None], few_v[:, :, None] + few_v[:, None]
    score = torch.where((sum_u > 0) & (sum_v > 0), sum_u * sum_v, -torch.ones_like(sum_u))
    score.diagonal(dim1=1, dim2=2).fill_(-1)
    best, flat = score.flatten(1).max(1)
    pair = torch.stack([flat // count, flat % count], 1)
    return few.gather(1, pair).sort(1).values, best > 0
