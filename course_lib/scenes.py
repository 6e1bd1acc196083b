"""Scenes for lesson 08: handwritten digits on photographs, with the name of every pixel.

The digits are those of `datasets.mnist`, the photographs those that scikit-image ships. Nothing is
downloaded, and nothing is stored: scenes are composed when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from course_lib import datasets, runtime

SIDE = 64  # rows and columns of a scene
CLASSES = ["background", *datasets.DIGITS]

_BACKGROUNDS = ("brick.png", "grass.png", "gravel.png", "coffee.png", "astronaut.png",
                "chelsea.png")
_HELD_OUT = 1 / 3  # the right part of each photograph, from which the scenes to test are cut


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes, what each of their pixels shows, and where the digits are.

    x [n, 3, 64, 64] float32 in [0, 1]; mask [n, 64, 64] int64: 0 background, 1 + d a digit d.
    labels [n, 4] int64: one place for each quarter of the scene, 1 + d for a digit d, 0 for none;
    boxes [n, 4, 4] float32: its left, top, right and lower end in pixels, zeros for none.
    A slice, a list of indices or a boolean mask selects scenes; `to` moves them to a device.
    """

    x: Tensor
    mask: Tensor
    labels: Tensor
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: slice | list[int] | Tensor) -> Scenes:
        return Scenes(*(getattr(self, f.name)[which] for f in fields(self)))

    def to(self, device: torch.device | str) -> Scenes:
        """The same scenes on another device."""
        return Scenes(*(getattr(self, f.name).to(device) for f in fields(self)))


def compose(n: int, split: str = "train", seed: int = 0) -> Scenes:
    """Put one to four digits at random places, in random sizes and colours, on photographs.

        x = (1 - ink) * photograph + ink * colour

    where ink is the digit's grey, from 0 to 1. A pixel belongs to a digit where its ink is above
    one half. Each digit has a quarter of the scene to itself, so they hardly ever touch. The
    scenes of "test" have other digits and other parts of the photographs than those of "train".

    Equal arguments give equal scenes.
    Raises: ValueError for an unknown split, or fewer than one scene.
    Lesson: 08.

    >>> scenes = compose(2)
    >>> scenes.x.shape, scenes.mask.shape
    (torch.Size([2, 3, 64, 64]), torch.Size([2, 64, 64]))
    """
    if n < 1:
        raise ValueError(f"n = {n}: compose at least one scene")
    digits = datasets.mnist(split)
    generator = runtime.generator(seed)
    x = _crops(n, split, generator)
    mask = torch.zeros(n, SIDE, SIDE, dtype=torch.int64)
    labels, boxes = torch.zeros(n, 4, dtype=torch.int64), torch.zeros(n, 4, 4)
    for quarter, filled in zip(range(4), _filled(n, generator), strict=True):
        chosen = torch.randint(len(digits), (n,), generator=generator)
        ink = _placed(digits.x[chosen], quarter, generator) * filled.view(n, 1, 1, 1)
        x = (1 - ink) * x + ink * _colours(x, ink, generator)
        name, seen = 1 + digits.y[chosen], ink[:, 0] > 0.5
        mask = torch.where(seen, name.view(n, 1, 1), mask)
        labels[:, quarter] = name * seen.any((1, 2))
        boxes[:, quarter] = _extents(seen)
    return Scenes(x, mask, labels, boxes)


def _filled(n: int, generator: Generator) -> Tensor:
    """Which quarters of each scene hold a digit: one to four of them. [4, n] of 0 and 1"""
    count = torch.randint(1, 5, (n,), generator=generator)
    rank = torch.rand(4, n, generator=generator).argsort(0).argsort(0)
    return (rank < count).float()


def _crops(n: int, split: str, generator: Generator) -> Tensor:
    """A random square of a random photograph for each scene, out of the part of that split."""
    photographs, found = _photographs(), []
    for _ in range(n):
        which, row, column = torch.rand(3, generator=generator).tolist()
        photograph = photographs[int(which * len(photographs))]
        border = int((1 - _HELD_OUT) * photograph.shape[2])
        part = photograph[:, :, :border] if split == "train" else photograph[:, :, border:]
        top, left = int(row * (part.shape[1] - SIDE)), int(column * (part.shape[2] - SIDE))
        found.append(part[:, top:top + SIDE, left:left + SIDE])
    return torch.stack(found)


@lru_cache
def _photographs() -> list[Tensor]:
    """Each [3, rows, columns], at half its size, so that a crop shows more of it."""
    return [F.avg_pool2d(datasets.photograph(name), 2) for name in _BACKGROUNDS]


def _placed(digits: Tensor, quarter: int, generator: Generator) -> Tensor:
    """Digits drawn somewhere in a quarter of the scene, 28 to 40 pixels wide with their margin.

    Shape: digits [n, 1, 28, 28] -> [n, 1, 64, 64].
    """
    n = len(digits)
    size = 28 + 12 * torch.rand(n, generator=generator)
    room = (SIDE / 2 - 0.8 * size) / 2  # the margin of a digit may leave the quarter
    shift = (2 * torch.rand(2, n, generator=generator) - 1) * room
    # A side is 2 long in the coordinates of grid_sample; affine leads from scene to digit.
    middle = torch.tensor([2 * (quarter % 2) - 1, 2 * (quarter // 2) - 1]) / 2
    x, y = middle.view(2, 1) + 2 * shift / SIDE
    zoom, zero = SIDE / size, torch.zeros(n)
    affine = torch.stack([torch.stack([zoom, zero, -zoom * x], 1),
                          torch.stack([zero, zoom, -zoom * y], 1)], 1)
    grid = F.affine_grid(affine, [n, 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(digits, grid, align_corners=False).clamp(0, 1)


def _extents(seen: Tensor) -> Tensor:
    """Left, top, right and lower end of what is True, zeros where nothing is.

    Shape: [n, rows, columns] bool -> [n, 4].
    """
    ends = []
    for along in (seen.any(1).float(), seen.any(2).float()):  # columns, then rows
        ends.append((along.argmax(1), SIDE - along.flip(1).argmax(1)))
    (left, right), (top, bottom) = ends
    box = torch.stack([left, top, right, bottom], 1).float()
    return box * seen.any((1, 2))[:, None]


def _colours(x: Tensor, ink: Tensor, generator: Generator) -> Tensor:
    """A colour for each digit, 0.35 or more away from the mean behind it, in every channel."""
    behind = (x * ink).sum((2, 3)) / ink.sum((2, 3)).clamp_min(1e-6)
    away = 0.35 + 0.3 * torch.rand(behind.shape, generator=generator)
    return ((behind + away) % 1)[:, :, None, None]
