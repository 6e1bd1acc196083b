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
_BLOCK = 256


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

    Shape: genomes [n, slots, 1 + slots], see `course_lib.encodings.CPPN` -> [n, channels, rows,
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
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, size, dtype=like.dtype, device=like.device)
                            for size in (rows, columns)), indexing="ij")
    return torch.stack([x, y, torch.hypot(x, y), torch.ones_like(x)]).flatten(1)


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
        genomes, places, result, pixels, SLOTS=slots, CHANNELS=channels, BLOCK=_BLOCK)
    return result


@jit
def _render(
    genomes, places, result, pixels, SLOTS: tl.constexpr, CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pixel, image = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    inside, place = pixel < pixels, places + pixel
    values = (tl.load(place, inside), tl.load(place + pixels, inside),
              tl.load(place + 2 * pixels, inside), tl.load(place + 3 * pixels, inside))
    for k in tl.static_range(4, SLOTS):  # unrolled: every h_k stays in a register
        gene = genomes + (image * SLOTS + k) * (1 + SLOTS)
        z = tl.load(gene + 1) * values[0]
        for j in tl.static_range(1, k):
            z += tl.load(gene + 1 + j) * values[j]
        h = _activated(z, tl.load(gene).to(tl.int32))
        values = values + (h,)  # type: ignore  # noqa: RUF005 - Triton knows no star here
        if k >= SLOTS - CHANNELS:
            channel = k - (SLOTS - CHANNELS)
            tl.store(result + (image * CHANNELS + channel) * pixels + pixel, h / 2 + 0.5, inside)


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
