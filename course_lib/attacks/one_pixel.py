"""The one-pixel attack: differential evolution over a few pixels, knowing only the outputs.

Taught in lesson 06.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.ascent import is_fooled
from course_lib.evolution import (
    Evolved,
    champion,
    differential_evolution,
    problem_generators,
)
from course_lib.gradients import attacking, check_images, check_logits

# Candidates go through the model in batches of about so many image entries.
_BATCH_ENTRIES = 2**20


def one_pixel(
    model: nn.Module, x: Tensor, y: Tensor, *, pixels: int = 1, population: int = 400,
    generations: int = 100, target: Tensor | None = None, strategy: str = "rand1",
    generator: torch.Generator,
) -> Tensor:
    """Repaint at most `pixels` pixels so that the class changes (or becomes the target).

        a gene is (column, row, one value a channel);   child = g_r1 + 0.5 * (g_r2 - g_r3)

    Only the outputs are asked for: a black-box attack. See `search` for what it minimises and
    for the number of queries.

    Shape: x [n, channels, rows, columns] in [0, 1]; y, target [n] -> like x.
    Raises: ValueError as `fgsm`; for pixels outside 1 ... rows * columns; population < 4.
    Reference: Su, Vargas, Sakurai 2019, section 3.
    Lesson: 06.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> x = torch.rand(2, 1, 4, 4)
    >>> x_adv = one_pixel(model, x, torch.tensor([0, 2]), population=20, generations=3,
    ...                   generator=torch.Generator().manual_seed(0))
    >>> bool(((x_adv != x).flatten(1).sum(1) <= 1).all())
    True
    """
    found = search(model, x, y, pixels=pixels, population=population, generations=generations,
                   target=target, strategy=strategy, generator=generator)
    return paint(x, found.genes[:, None])


def search(
    model: nn.Module, x: Tensor, y: Tensor, *, pixels: int = 1, population: int = 400,
    generations: int = 100, target: Tensor | None = None, strategy: str = "rand1",
    generator: torch.Generator,
    callback: Callable[[int, Tensor, Tensor, Tensor], None] | None = None,
) -> Evolved:
    """The evolution behind `one_pixel`: genes [n, pixels * (2 + channels)], costs, queries.

    The cost orders candidates as the paper's p_y does (or 1 - p_t), see `log_odds`; the start is
    the paper's: uniform positions, colours from N(128, 127) grey levels.
    """
    check_images(model, x, y, target)
    n, channels, rows, columns = x.shape
    if not 1 <= pixels <= rows * columns:
        raise ValueError(f"pixels = {pixels}: an image here has 1 to {rows * columns} pixels")
    objective = _objective(model, x, y, target)
    generators = problem_generators(n, generator)
    length = pixels * (2 + channels)
    start = torch.stack([_start(population, pixels, x.shape, g) for g in generators]).to(x)
    upper = torch.tensor([columns, rows, *[1.0] * channels]).repeat(pixels).to(x)
    with attacking(model), torch.no_grad():
        check_logits(model(x[:1]), y[:1], None if target is None else target[:1])
        return differential_evolution(
            objective, start, lower=x.new_zeros(length), upper=upper, generations=generations,
            generators=generators, strategy=strategy, callback=callback,
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
    model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def objective(genes: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        a, size, _ = genes.shape
        owner = problems.repeat_interleave(size)
        wanted = None if target is None else target[owner]
        outputs = candidate_logits(model, x, genes.flatten(0, 1), owner)
        cost = log_odds(outputs, y[owner]) if target is None else -log_odds(outputs, wanted)
        return cost.view(a, size), is_fooled(outputs, y[owner], wanted).view(a, size)

    return objective


def candidate_logits(model: nn.Module, x: Tensor, genes: Tensor, owner: Tensor) -> Tensor:
    """Logits [m, classes] of m candidates: genes [m, G] painted on the images x[owner]."""
    batch = max(1, _BATCH_ENTRIES // x[0].numel())
    return torch.cat([
        model(paint(x[o], g[:, None])).float()
        for g, o in zip(genes.split(batch), owner.split(batch), strict=True)
    ])


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """log(p_y / (1 - p_y)) for each image: orders as p_y does, but never saturates.

    In float32, 1 - p is zero for every p above 0.99999994, and a population that sees only zeros
    has nothing to climb.

    >>> log_odds(torch.tensor([[60.0, 0.0]]), torch.tensor([0]))
    tensor([60.])
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    return logits.gather(1, y[:, None]).squeeze(1) - others.logsumexp(1)


def paint(x: Tensor, genes: Tensor) -> Tensor:
    """Set pixels of an image: genes hold (column, row, colour) pixel after pixel.

    Positions are floored, colours rounded to the 256 grey levels, so the result is a real image.

    Shape: x [n, channels, rows, columns], genes [n, 1, pixels * (2 + channels)] -> like x.
    """
    n, channels, rows, columns = x.shape
    genes = genes.reshape(n, -1, 2 + channels)
    column = genes[..., 0].long().clamp(0, columns - 1)
    row = genes[..., 1].long().clamp(0, rows - 1)
    colour = (genes[..., 2:].clamp(0, 1) * 255).round() / 255
    position = (row * columns + column)[:, None].expand(-1, channels, -1)
    return x.flatten(2).scatter(2, position, colour.transpose(1, 2)).view_as(x)


class Corners(NamedTuple):
    """What the exhaustive search found: best images, their costs [n], success [n], and for each
    position the lowest cost over the colours, [n, rows, columns]: the map of fragile pixels."""

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
    n, channels, rows, columns = x.shape
    position = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1)
    colour = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * channels).view(-1, channels)
    genes = torch.cat([position.repeat_interleave(len(colour), 0).float(),
                       colour.repeat(len(position), 1)], 1).to(x)
    with attacking(model):
        check_logits(model(x[:1]), y[:1], None if target is None else target[:1])
        tried = [_objective(model, x, y, target)(genes[None], torch.tensor([i], device=x.device))
                 for i in range(n)]
    costs = torch.cat([cost for cost, _ in tried])
    hits = torch.cat([hit for _, hit in tried])
    best = champion(costs, hits)
    return Corners(paint(x, genes[best][:, None]), costs.gather(1, best[:, None]).squeeze(1),
                   hits.any(1), costs.view(n, rows, columns, -1).amin(3))
