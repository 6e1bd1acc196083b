"""Augmentation: each image changed a little, at random, before it is trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def jitter(
    x: Tensor, generator: Generator, *, degrees: float = 12, shift: float = 0.08, scale: float = 0.1
) -> Tensor:
    """Turn, shift and scale each image a little at random, the whole batch in one sampling.

    degrees: largest turn either way; shift: largest move, as a part of the image's side;
    scale: largest relative change of size. Outside the image is black.

    Shape: [n, channels, rows, columns] -> the same, in [0, 1].

    >>> jitter(torch.ones(2, 1, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 8, 8])
    """
    turn, size, right, down = 2 * torch.rand(4, len(x), generator=generator) - 1
    angle, zoom = torch.deg2rad(degrees * turn), 1 + scale * size
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    # A side is 2 long in the coordinates of grid_sample.
    rows = (cos, -sin, 2 * shift * right), (sin, cos, 2 * shift * down)
    affine = torch.stack([torch.stack(row, 1) for row in rows], 1).to(x)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


def crop_and_flip(x: Tensor, generator: Generator, *, reach: int = 2) -> Tensor:
    """Move each image by up to `reach` pixels, black behind it, and mirror every second one.

    Shape: [n, channels, rows, columns], floats or bytes -> the same, stored channels last.

    >>> crop_and_flip(torch.ones(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """
    n, _, rows, columns = x.shape
    down, right = torch.randint(2 * reach + 1, (2, n, 1), generator=generator)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    row = down + torch.arange(rows)
    column = right + torch.arange(columns)
    column = torch.where(mirrored, column.flip(1), column)
    image = torch.arange(n).view(n, 1, 1)
    padded = F.pad(x, (reach,) * 4)
    picked = padded.permute(0, 2, 3, 1)[image, row[:, :, None], column[:, None, :]]
    return picked.permute(0, 3, 1, 2)
