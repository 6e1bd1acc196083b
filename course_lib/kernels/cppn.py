"""Pictures from compositional pattern-producing networks, a whole population at once.

Taught in lesson 02.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from course_lib.kernels import launch
from course_lib.kernels.launch import fused, jit

if launch.AVAILABLE:
    import triton
    import triton.language as tl

INPUTS = 4  # x, y, distance from the centre, bias
_BLOCK = 128


def _sigmoid(z: Tensor) -> Tensor:
    return 2 * z.sigmoid() - 1


def _gaussian(z: Tensor) -> Tensor:
    return 2 * torch.exp(-z * z) - 1


def _linear(z: Tensor) -> Tensor:
    return z.clamp(-1, 1)


ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (torch.sin, _sigmoid, _gaussian, _linear)


def render_cppn(genomes: Tensor, channels: int, rows: int, columns: int) -> Tensor:
    """Every genome as a picture: h_k = act_k(sum over j < k of w_kj * h_j), slot after slot.

    The kernel holds all values of a block of pixels of one genome close to the processor; only the
    picture is written. It has no derivative: where one is asked for, the twin renders.

    Shape: genomes [n, slots, 1 + slots], see `course_lib.fooling.CPPN` -> [n, channels, rows,
    columns] in [0, 1].
    Lesson: 02.
    """
    places = _places(rows, columns, genomes)
    if fused(genomes) and not (genomes.requires_grad and torch.is_grad_enabled()):
        return _rendered(genomes.contiguous(), places, channels).view(-1, channels, rows, columns)
    n, slots, _ = genomes.shape
    values = [place.expand(n, -1) for place in places[:, None]]
    # used[k][j]: whether any genome of the batch connects j -> k; what none has costs nothing.
    used = (genomes[:, :, 1:] != 0).any(0).tolist()
    for k in range(INPUTS, slots):
        z = torch.zeros_like(values[0])
        for j in range(k):
            if used[k][j]:
                z = torch.addcmul(z, genomes[:, k, 1 + j, None], values[j])
        read = k >= slots - channels or any(row[k] for row in used)
        values.append(_activate(z, genomes[:, k, 0]) if read else z)
    return (torch.stack(values[-channels:], 1) / 2 + 0.5).view(n, channels, rows, columns)


def _places(rows: int, columns: int, like: Tensor) -> Tensor:
    """x and y from -1 to 1, the distance from the centre, and a constant 1: [4, pixels]."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns),
                          indexing="ij")
    return torch.stack([x, y, torch.hypot(x, y), torch.ones_like(x)]).to(like).flatten(1)


def _activate(z: Tensor, kinds: Tensor) -> Tensor:
    """Each row of z [n, pixels] through its own activation; every row is computed once."""
    result = torch.zeros_like(z)
    for kind, activation in enumerate(ACTIVATIONS):
        rows = (kinds == kind).nonzero()[:, 0]
        if len(rows):
            result = result.index_copy(0, rows, activation(z[rows]))
    return result


def _rendered(genomes: Tensor, places: Tensor, channels: int) -> Tensor:
    n, slots, _ = genomes.shape
    pixels = places.shape[1]
    result = genomes.new_empty(n, channels, pixels)
    _render[(triton.cdiv(pixels, _BLOCK), n)](
        genomes, places, result, slots, channels, pixels, INPUTS=INPUTS,
        SLOTS=triton.next_power_of_2(slots), BLOCK=_BLOCK)
    return result


@jit
def _render(
    genomes, places, result, slots, channels, pixels, INPUTS: tl.constexpr, SLOTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pixel, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    slot, inside = tl.arange(0, SLOTS), pixel < pixels
    values = tl.load(places + slot[:, None] * pixels + pixel,  # [SLOTS, BLOCK]: h_0 to h_3
                     (slot[:, None] < INPUTS) & inside, 0)
    for k in range(INPUTS, slots):
        gene = genomes + (image * slots + k) * (1 + slots)
        weights = tl.load(gene + 1 + slot, slot < k, 0)
        z = tl.sum(weights[:, None] * values, 0)
        h = _activated(z, tl.load(gene).to(tl.int32))
        values = tl.where(slot[:, None] == k, h, values)
        if k >= slots - channels:
            channel = k - (slots - channels)
            tl.store(result + (image * channels + channel) * pixels + pixel, h / 2 + 0.5, inside)


@jit
def _activated(z, kind):
    if kind == 0:
        h = tl.sin(z)
    elif kind == 1:
        h = 2 / (1 + tl.exp(-z)) - 1
    elif kind == 2:
        h = 2 * tl.exp(-z * z) - 1
    else:
        h = tl.minimum(tl.maximum(z, -1.0), 1.0)
    return h
