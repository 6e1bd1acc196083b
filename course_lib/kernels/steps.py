"""One step of a gradient attack: climb, back into the ball, back into the box. Taught in lesson 04.

Plain PyTorch reads and writes the batch once for each operation, five to twenty times a step; a
kernel reads each input once and writes the result once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.kernels import launch
from course_lib.kernels.launch import alike, fused, jit
from course_lib.norms import project_box, steepest_step

if launch.AVAILABLE:
    import triton
    import triton.language as tl

_BLOCK = 1024


def linf_step(x_t: Tensor, gradient: Tensor, x: Tensor, size: float | Tensor, eps: float) -> Tensor:
    """x_(t+1) = clamp(x_t + size * sign(gradient), max(x - eps, 0), min(x + eps, 1)).

    Shape: x_t, gradient, x [n, ...]; size: a number, or a tensor that holds one -> like x.
    Lesson: 04.

    >>> linf_step(torch.tensor([[0.5, 0.9]]), torch.tensor([[-2.0, 1.0]]),
    ...           torch.tensor([[0.5, 0.9]]), 0.25, 0.5)
    tensor([[0.2500, 1.0000]])
    """
    if not fused(x):
        return project_box(steepest_step(x_t, gradient, size, "linf"), x, eps, "linf")
    x, x_t, gradient = alike(x, x_t, gradient)
    result = torch.empty_like(x)
    linf_kernel[(triton.cdiv(x.numel(), _BLOCK),)](
        x_t, gradient, x, result, _held(size, x), eps, x.numel(), BLOCK=_BLOCK)
    return result


@jit
def linf_kernel(
    x_t, gradient, x, result, size, eps: tl.float64, entries, BLOCK: tl.constexpr
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # this program's entries
    inside = i < entries
    clean, here = tl.load(x + i, inside), tl.load(x_t + i, inside)
    moved = here + tl.load(size) * _sign(tl.load(gradient + i, inside))
    radius = tl.full([BLOCK], eps, clean.dtype)
    low, high = tl.maximum(clean - radius, 0.0), tl.minimum(clean + radius, 1.0)
    tl.store(result + i, tl.minimum(tl.maximum(moved, low), high), inside)


@jit
def _sign(g):
    return (g > 0).to(g.dtype) - (g < 0).to(g.dtype)


def l2_step(x_t: Tensor, gradient: Tensor, x: Tensor, size: float | Tensor, eps: float) -> Tensor:
    """d = x_t + size * g / ||g|| - x,   x_(t+1) = clamp(x + d * min(1, eps / ||d||), 0, 1).

    The kernel needs ||d|| before it has d: with r = x_t - x it is the root of
    <r, r> + 2 size <r, g> / ||g|| + size^2, so that one pass finds all sums and a second one steps.

    Shape: as `linf_step`.
    Lesson: 04.

    >>> l2_step(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), 1.0, 0.5)
    tensor([[0.3000, 0.4000]])
    """
    if not fused(x):
        return project_box(steepest_step(x_t, gradient, size, "l2"), x, eps, "l2")
    x, x_t, gradient = alike(x, x_t, gradient)
    entries = x[0].numel()
    grid = (triton.cdiv(entries, _BLOCK), len(x))
    parts = torch.empty(3, len(x), grid[0], dtype=torch.float64, device=x.device)
    _l2_sums[grid](x_t, gradient, x, parts, entries, BLOCK=_BLOCK)
    result = torch.empty_like(x)
    _l2_step[grid](x_t, gradient, x, result, parts.sum(2), _held(size, x), eps, entries,
                   BLOCK=_BLOCK)
    return result


@jit
def _l2_sums(x_t, gradient, x, parts, entries, BLOCK: tl.constexpr):
    chunk, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i = chunk * BLOCK + tl.arange(0, BLOCK)
    inside, here = i < entries, image * entries + i
    g = tl.load(gradient + here, inside, 0).to(tl.float64)
    r = (tl.load(x_t + here, inside, 0) - tl.load(x + here, inside, 0)).to(tl.float64)
    place, row = parts + image * tl.num_programs(0) + chunk, tl.num_programs(1) * tl.num_programs(0)
    tl.store(place, tl.sum(g * g))
    tl.store(place + row, tl.sum(r * g))
    tl.store(place + 2 * row, tl.sum(r * r))


@jit
def _l2_step(x_t, gradient, x, result, sums, size, eps: tl.float64, entries, BLOCK: tl.constexpr):
    chunk, image, n = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    gg, rg, rr = tl.load(sums + image), tl.load(sums + n + image), tl.load(sums + 2 * n + image)
    pace = tl.where(gg > 0, tl.load(size).to(tl.float64) / tl.sqrt(tl.where(gg > 0, gg, 1.0)), 0.0)
    length = tl.sqrt(tl.maximum(rr + 2 * pace * rg + pace * pace * gg, 0.0))
    shrink = tl.where(length > eps, eps / tl.where(length > eps, length, 1.0), 1.0)
    i = chunk * BLOCK + tl.arange(0, BLOCK)
    inside, here = i < entries, image * entries + i
    clean, g = tl.load(x + here, inside), tl.load(gradient + here, inside)
    d = (tl.load(x_t + here, inside) - clean).to(tl.float64) + pace * g.to(tl.float64)
    moved = clean + (d * shrink).to(clean.dtype)
    tl.store(result + here, tl.minimum(tl.maximum(moved, 0.0), 1.0), inside)


def momentum_step(
    x_t: Tensor, gradient: Tensor, x: Tensor, g: Tensor | None, size: float | Tensor, eps: float,
    mu: float,
) -> tuple[Tensor, Tensor]:
    """`accumulate` the gradient, then `linf_step` along the momentum.

    Shape: x_t, gradient, x, g [n, ...] -> x_(t+1), g'. size: as for `linf_step`.
    Lesson: 05.
    """
    if not fused(x):
        g = accumulate(gradient, g, mu)
        return linf_step(x_t, g, x, size, eps), g
    total = torch.linalg.vector_norm(gradient, 1, dim=tuple(range(1, x.dim())))
    x, x_t, gradient, g = alike(x, x_t, gradient, torch.zeros_like(x) if g is None else g)
    entries = x[0].numel()
    result, memory = torch.empty_like(x), torch.empty_like(g)
    _momentum_step[(triton.cdiv(entries, _BLOCK), len(x))](
        x_t, gradient, x, g, result, memory, total, _held(size, x), eps, mu, entries, BLOCK=_BLOCK)
    return result, memory


def accumulate(gradient: Tensor, g: Tensor | None, mu: float) -> Tensor:
    """g' = mu * g + gradient / ||gradient||_1, the l_1 norm of each image's own gradient.

    Shape: gradient, g [n, ...] -> g'. Without a g the sum begins.
    Reference: Dong et al. 2018, equation 6.
    Lesson: 05.

    >>> accumulate(torch.tensor([[1.0, -3.0]]), torch.tensor([[0.0, 1.0]]), mu=1.0)
    tensor([[0.2500, 0.2500]])
    """
    total = gradient.flatten(1).abs().sum(1).view(-1, *[1] * (gradient.dim() - 1))
    # A zero gradient adds nothing; dividing by its size would make NaN of the momentum.
    unit = gradient / torch.where(total > 0, total, torch.ones_like(total))
    return unit if g is None else mu * g + unit


@jit
def _momentum_step(
    x_t, gradient, x, g, result, memory, total, size, eps: tl.float64, mu: tl.float64, entries,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, here = i < entries, image * entries + i
    clean, sizes = tl.load(x + here, inside), tl.load(total + image)
    radius, decay = tl.full([BLOCK], eps, clean.dtype), tl.full([BLOCK], mu, clean.dtype)
    unit = tl.load(gradient + here, inside) / tl.where(sizes > 0, sizes, 1.0)
    sum_so_far = decay * tl.load(g + here, inside) + unit
    moved = tl.load(x_t + here, inside) + tl.load(size) * _sign(sum_so_far)
    low, high = tl.maximum(clean - radius, 0.0), tl.minimum(clean + radius, 1.0)
    tl.store(result + here, tl.minimum(tl.maximum(moved, low), high), inside)
    tl.store(memory + here, sum_so_far, inside)


def _held(size: float | Tensor, x: Tensor) -> Tensor:
    """The step size where a kernel, also one that is replayed, can read it."""
    return size if isinstance(size, Tensor) else x.new_full((), size)
