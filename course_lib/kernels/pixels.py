"""Candidates of the one-pixel attack: many copies of an image, each with a few other pixels.

Taught in lesson 06.
"""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.kernels import launch
from course_lib.kernels.launch import fused, jit

if launch.AVAILABLE:
    import triton
    import triton.language as tl

_BLOCK = 1024


def paint(x: Tensor, genes: Tensor) -> Tensor:
    """Set pixels of an image: genes hold (column, row, colour) pixel after pixel.

    Positions are floored, colours rounded to the 256 grey levels, so the result is a real image.
    Where two pixels share a place, the later one covers the earlier. The kernel writes every
    candidate once; it reads one image for all of them where `x` is expanded.

    Shape: x [n, channels, rows, columns], genes [n, pixels * (2 + channels)] -> like x.
    Lesson: 06.

    >>> paint(torch.zeros(1, 1, 2, 3), torch.tensor([[2.9, 0.0, 1.0]]))[0, 0]
    tensor([[0., 0., 1.],
            [0., 0., 0.]])
    """
    n, channels = x.shape[:2]
    if fused(x):
        return _painted(x, genes.reshape(n, -1, 2 + channels).contiguous())
    result, image = x.clone(), torch.arange(n, device=x.device)
    for pixel in rounded(genes, x.shape).view(n, -1, 2 + channels).unbind(1):
        column, row = pixel[:, :2].long().unbind(1)
        result[image, :, row, column] = pixel[:, 2:]
    return result


def rounded(genes: Tensor, shape: torch.Size) -> Tensor:
    """Genes [m, pixels * (2 + channels)] as `paint` reads them: whole places, 256 grey levels.

    shape: of the images [n, channels, rows, columns].

    >>> rounded(torch.tensor([[2.9, -1.0, 1.2]]), torch.Size([1, 1, 2, 3]))
    tensor([[2., 0., 1.]])
    """
    _, channels, rows, columns = shape
    pixels = genes.reshape(len(genes), -1, 2 + channels)
    last = pixels.new_tensor([columns - 1, rows - 1])
    place = pixels[..., :2].trunc().clamp(torch.zeros_like(last), last)
    colour = (pixels[..., 2:].clamp(0, 1) * 255).round() / 255
    return torch.cat([place, colour], 2).flatten(1)


def _painted(x: Tensor, genes: Tensor) -> Tensor:
    n, channels, rows, columns = x.shape
    if not x[0].is_contiguous():
        x = x.contiguous()
    result = x.new_empty(x.shape)
    entries = channels * rows * columns
    _paint[(triton.cdiv(entries, _BLOCK), n)](
        x, x.stride(0), genes, result, rows, columns, entries, CHANNELS=channels,
        PIXELS=genes.shape[1], BLOCK=_BLOCK,
        enable_fp_fusion=False)  # the product with 255 is rounded before the sum, as in PyTorch
    return result


@jit
def _paint(
    x, stride, genes, result, rows, columns, entries, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i, candidate = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1).to(tl.int64)
    inside = i < entries
    value = tl.load(x + candidate * stride + i, inside)
    gene = genes + candidate * PIXELS * (2 + CHANNELS)
    for _ in range(PIXELS):
        column = tl.minimum(tl.maximum(tl.load(gene).to(tl.int32), 0), columns - 1)
        row = tl.minimum(tl.maximum(tl.load(gene + 1).to(tl.int32), 0), rows - 1)
        for channel in range(CHANNELS):
            colour = _grey_level(tl.load(gene + 2 + channel))
            value = tl.where(i == (channel * rows + row) * columns + column, colour, value)
        gene += 2 + CHANNELS
    tl.store(result + candidate * entries + i, value, inside)


@jit
def _grey_level(colour):
    level = tl.minimum(tl.maximum(colour, 0.0), 1.0) * 255
    # Adding this number leaves no place for what is behind the point: rounding, half to even.
    whole = 8388608.0 if colour.dtype == tl.float32 else 4503599627370496.0  # 2^23, 2^52
    # The division in double precision, as the one in single precision is not exact on a GPU.
    return ((level + whole - whole).to(tl.float64) / 255).to(colour.dtype)
