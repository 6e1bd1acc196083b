"""The one-pixel attack: differential evolution over a few pixels, knowing only the outputs.

Taught in lesson 06.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import runtime
from course_lib.evolution import (
    Evolved,
    cheapest,
    differential_evolution,
    problem_generators,
)
from course_lib.gradients import check_finite, check_images, check_outputs, frozen, in_parts
from course_lib.kernels import paint
from course_lib.kernels.pixels import rounded
from course_lib.losses import is_adversarial, log_odds
from course_lib.windows import OnePixelPasses

# Candidates go through the model in batches of about so many image entries.
_BATCH_ENTRIES = 2**20
_STOPS = ("argmax", "paper")
_SURE, _UNSURE = math.log(0.9 / 0.1), math.log(0.05 / 0.95)  # log odds of 90 % and of 5 %


def one_pixel(
    model: nn.Module, x: Tensor, y: Tensor, *, pixels: int = 1, population: int = 400,
    generations: int = 100, target: Tensor | None = None, strategy: str = "rand1",
    stop: str = "argmax", generator: torch.Generator | None = None,
) -> Tensor:
    """Repaint at most `pixels` pixels so that the class changes (or becomes the target).

        c = (column, row, one value per channel);   child = c_r1 + 0.5 * (c_r2 - c_r3)

    Only the outputs are asked for: a black-box attack. See `search` for what is minimised and the
    number of queries. An image leaves the search with the generation that solves it:

        stop="argmax"  the predicted class is another one, or the target: the fewest queries
        stop="paper"   also the confidence in the true class is below 5 %, or above 90 % in the
                       target

    The paper asks for the confidence alone; of 20 or more classes, one can lead with less than 5 %.

    Shape: x [n, channels, rows, columns] in [0, 1]; y, target [n] -> like x.
    generator: by default a fresh one with seed 0, so that a call repeats exactly.
    Raises: ValueError as `fgsm`; for pixels outside 1 ... rows * columns; population < 4;
    generations < 0; an unknown strategy or stop.
    Reference: Su, Vargas, Sakurai 2019, section 3.
    Lesson: 06.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> x = torch.rand(2, 1, 4, 4)
    >>> x_adv = one_pixel(model, x, torch.tensor([0, 2]), population=20, generations=3)
    >>> bool(((x_adv != x).flatten(1).sum(1) <= 1).all())
    True
    """
    found = search(model, x, y, pixels=pixels, population=population, generations=generations,
                   target=target, strategy=strategy, stop=stop, generator=generator)
    return paint(x.detach(), found.genes)


def search(
    model: nn.Module, x: Tensor, y: Tensor, *, pixels: int = 1, population: int = 400,
    generations: int = 100, target: Tensor | None = None, strategy: str = "rand1",
    stop: str = "argmax", generator: torch.Generator | None = None,
    callback: Callable[[int, Tensor, Tensor, Tensor], None] | None = None,
) -> Evolved:
    """The evolution behind `one_pixel`: genes [n, pixels * (2 + channels)], costs, queries.

    The cost, log(p_y / (1 - p_y)) or for a target log((1 - p_t) / p_t), orders candidates as the
    paper's p_y and 1 - p_t do, see `log_odds`. The start is the paper's: uniform positions,
    colours from N(128, 127) grey levels. Each candidate is one query: `evaluations` counts them,
    also those that repeat another and need no pass of their own.

    callback(generation, genes, costs, problems): as in `differential_evolution`; `paint` turns
    genes into images.
    Shape, Raises: as `one_pixel`.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> found = search(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 2]), population=20,
    ...                generations=0)
    >>> found.evaluations
    tensor([20, 20])
    """
    check_images(model, x, y, target)
    n, channels, rows, columns = x.shape
    if not 1 <= pixels <= rows * columns:
        raise ValueError(f"pixels = {pixels}: an image here has 1 to {rows * columns} pixels")
    if stop not in _STOPS:
        raise ValueError(f"unknown stop={stop!r}: use one of {', '.join(_STOPS)}")
    generators = problem_generators(n, generator or runtime.generator(0))
    length = pixels * (2 + channels)
    start = torch.stack([_start(population, pixels, x.shape, g) for g in generators]).to(x)
    upper = torch.tensor([columns, rows, *[1.0] * channels]).repeat(pixels).to(x)
    with frozen(model), torch.no_grad():
        check_outputs(model, x, y, target)
        return differential_evolution(
            _objective(model, x, y, target, stop), start, lower=x.new_zeros(length), upper=upper,
            generations=generations, generators=generators, strategy=strategy, callback=callback,
        )


def _start(
    population: int, pixels: int, shape: torch.Size, generator: torch.Generator
) -> Tensor:
    _, channels, rows, columns = shape
    position = torch.rand(population, pixels, 2, generator=generator)
    colour = torch.randn(population, pixels, channels, generator=generator) * 127 + 128
    size = torch.tensor([columns, rows])
    return torch.cat([position * size, (colour / 255).clamp(0, 1)], 2).flatten(1)


def _objective(
    model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None, stop: str = "argmax"
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Costs and successes of candidates, image by image.

    One image's candidates never share a batch with another's: rounding differs between batch
    sizes, and a result shall not depend on an image's companions.
    """

    near = OnePixelPasses(model, x[:1])

    @functools.cache
    def passes(i: int) -> Callable[[Tensor], Tensor]:
        return _passes(model, x[i:i + 1], near)

    def judge(genes: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        label = y[i].expand(len(genes))
        wanted = None if target is None else target[i].expand(len(genes))
        logits = passes(i)(genes)
        cost = log_odds(logits, label) if wanted is None else -log_odds(logits, wanted)
        solved = is_adversarial(logits, label, wanted)
        if stop == "paper":
            solved &= cost < (_UNSURE if wanted is None else -_SURE)
        return cost, solved, logits.isfinite().all()

    def objective(genes: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        judged = [judge(own, i) for own, i in zip(genes, problems.tolist(), strict=True)]
        costs, solved, finite = map(torch.stack, zip(*judged, strict=True))
        check_finite(finite)
        return costs, solved

    return objective


def _passes(
    model: nn.Module, image: Tensor, near: OnePixelPasses
) -> Callable[[Tensor], Tensor]:
    """From the genes [m, G] of candidates for one image [1, ...] to their logits [m, classes].

    On a CPU candidates that paint the same pixels share a pass, and of one pixel's changes only
    what it reaches is computed; see `course_lib.windows`.
    """
    _, channels, _, columns = image.shape
    changed = near.of(image)

    def painted(genes: Tensor) -> tuple[Tensor]:
        if image.is_cuda or genes.shape[1] > 2 + channels:
            return (model(paint(image.expand(len(genes), -1, -1, -1), genes)).float(),)
        place = genes[:, 1] * columns + genes[:, 0]
        return (changed(place.long(), genes[:, 2:]).float(),)

    def logits(genes: Tensor) -> Tensor:
        if not image.is_cuda:
            genes, which = rounded(genes, image.shape).unique(dim=0, return_inverse=True)
        parts = genes.split(max(1, _BATCH_ENTRIES // image.numel()))
        found = torch.cat([in_parts(painted, part)[0] for part in parts])
        return found if image.is_cuda else found[which]

    return logits


def corner_genes(x: Tensor) -> Tensor:
    """One-pixel genes of every position with every extreme colour, each channel 0 or 1.

    Row after row, in a row column after column, at a position all 2^channels colours.

    Shape: x [n, channels, rows, columns] -> [rows * columns * 2^channels, 2 + channels].
    Lesson: 06.

    >>> corner_genes(torch.zeros(1, 1, 1, 2))
    tensor([[0., 0., 0.],
            [0., 0., 1.],
            [1., 0., 0.],
            [1., 0., 1.]])
    """
    _, channels, rows, columns = x.shape
    position = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1)
    colour = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * channels).view(-1, channels)
    return torch.cat([position.repeat_interleave(len(colour), 0).float(),
                      colour.repeat(len(position), 1)], 1).to(x)


class Corners(NamedTuple):
    """What the corner search found.

    x_adv [n, channels, rows, columns]: each image with its best pixel. costs [n]: as in `search`.
    fooled [n] bool. cost_map [n, rows, columns]: the lowest cost over the colours at each position,
    the map of fragile pixels.
    """

    x_adv: Tensor
    costs: Tensor
    fooled: Tensor
    cost_map: Tensor


@torch.no_grad()
def corner_search(
    model: nn.Module, x: Tensor, y: Tensor, *, target: Tensor | None = None
) -> Corners:
    """Try every position with every extreme colour (each channel 0 or 1): rows * columns * 2^C.

    No luck involved, so its success is a floor for what one pixel can do; colours inside the
    cube are left out, so it is no ceiling.

    Shape: x [n, channels, rows, columns] in [0, 1]; y, target [n].
    Raises: ValueError as `fgsm`.
    Lesson: 06.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> corner_search(model, torch.rand(1, 1, 4, 4), torch.tensor([0])).cost_map.shape
    torch.Size([1, 4, 4])
    """
    check_images(model, x, y, target)
    n, _, rows, columns = x.shape
    genes = corner_genes(x)
    with frozen(model):
        check_outputs(model, x, y, target)
        costs, hits = _objective(model, x, y, target)(genes.expand(n, -1, -1), torch.arange(n))
    best = cheapest(costs, hits)
    return Corners(paint(x, genes[best]), costs.gather(1, best[:, None]).squeeze(1),
                   hits.any(1), costs.view(n, rows, columns, -1).amin(3))
