"""Exercises of lesson 06, few pixels: JSMA and the one-pixel attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_lib.exercises.diagnoses import Finding, finite, image_like, per_image
from course_lib.exercises.examiner import Examiner
from course_lib.exercises.exercise import Exercise
from course_lib.losses import log_odds, margin


def saliency(a: Tensor, b: Tensor) -> Tensor:
    """S = a * |b| where a >= 0 and b <= 0, else 0: for each entry of each image, [n, d]."""
    return torch.where((a >= 0) & (b <= 0), a * b.abs(), torch.zeros_like(a))


def _derivatives() -> list[tuple[Tensor, Tensor]]:
    a, b = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(6))
    return [(a, b * torch.tensor([[1.0], [3.0], [0.2]]))]


_SALIENCY = Examiner(
    saliency, _derivatives, alone=True, name="the saliency map",
    idea="Compare case by case with the formula.",
    properties=(lambda s, a, b: image_like(s, a, "map") or finite(s, "map"),),
    mistakes={
        "the second term is missing: an entry that helps the target may help its rivals as much. "
        "Multiply by |b|, and count only entries with b <= 0.": lambda a, b: a * (a >= 0),
        "the first term is missing: an entry that hurts the others must also help the target. "
        "Multiply by a, and count only entries with a >= 0.": lambda a, b: b.abs() * (b <= 0),
        "no entry is ruled out. The map is zero where a < 0 or b > 0.": lambda a, b: a * b.abs(),
        "entries that hurt the target are not ruled out: the map is zero where a < 0, too.":
            lambda a, b: a * b.abs() * (b <= 0),
        "entries that help the other classes are not ruled out: the map is zero where b > 0, too.":
            lambda a, b: a * b.abs() * (a >= 0),
        "two wrongs make a right here: where a < 0 and b > 0 the product -a * b is positive. Rule "
        "these entries out.": lambda a, b: (-a * b).clamp_min(0),
        "the map is negative: b is, where it counts. Take |b|.": lambda a, b: -saliency(a, b),
        "the conditions are turned round: the target must rise (a >= 0) and the others fall "
        "(b <= 0).": lambda a, b: saliency(-a, -b),
        "the two terms are added. Their product asks for both at once; with a sum, much of one "
        "makes up for nothing of the other.": lambda a, b: (a + b.abs()) * (a >= 0) * (b <= 0),
        "the entries that are ruled out are not zero but one of the two terms.":
            lambda a, b: torch.where((a >= 0) & (b <= 0), a * b.abs(), a),
    })


def children(genes: Tensor, parents: Tensor, factor: float) -> Tensor:
    """c_r1 + factor * (c_r2 - c_r3) for each row (r1, r2, r3) of parents."""
    first, second, third = genes[parents].unbind(1)
    return first + factor * (second - third)


def _populations() -> list[tuple[Tensor, Tensor, float]]:
    size = torch.tensor([32.0, 32, 1, 1, 1])
    genes = torch.rand(6, 5, generator=torch.Generator().manual_seed(7)) * size
    parents = torch.tensor([[1, 2, 3], [4, 0, 5], [3, 1, 0], [5, 4, 2], [2, 3, 1], [0, 1, 4]])
    return [(genes, parents, 0.5), (genes, parents, 0.0)]


def mixed(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Children by a formula of the three parents and the factor."""
    return lambda genes, parents, factor: formula(*genes[parents].unbind(1), factor)


_CHILDREN = Examiner(
    children, _populations, name="the generation", idea="Compare with c_r1 + F * (c_r2 - c_r3).",
    properties=(lambda mine, genes, *_: image_like(mine, genes, "generation")
                or finite(mine, "generation"),),
    mistakes={
        "the children are the old candidates: nothing is mixed.": lambda genes, *_: genes,
        "the difference is turned round: c_r2 - c_r3, not c_r3 - c_r2.":
            mixed(lambda a, b, c, f: a + f * (c - b)),
        "each child starts from the candidate it may replace. It should start from c_r1, a "
        "stranger: genes[parents[:, 0]].":
            lambda g, parents, f: g + f * (g[parents[:, 1]] - g[parents[:, 2]]),
        "the factor is not used: the steps are twice as long as they should be.":
            mixed(lambda a, b, c, f: a + b - c),
        "the factor multiplies everything. It scales the difference alone.":
            mixed(lambda a, b, c, f: f * (a + b - c)),
        "the two are added, c_r2 + c_r3. It is the difference that makes the step shrink as the "
        "population gathers.": mixed(lambda a, b, c, f: a + f * (b + c)),
        "the children are clamped to [0, 1]. Only colours live there; columns and rows go up to "
        "the image's size, so every pixel would end in one corner.":
            lambda *given: children(*given).clamp(0, 1),
        "the positions are rounded. Keep them as real numbers: rounded, small differences vanish "
        "and the search stands still.": lambda *given: torch.cat(
            [children(*given)[:, :2].floor(), children(*given)[:, 2:]], 1),
        "every child has the same three parents, those of the first.":
            lambda *given: children(*given)[:1].expand(6, 5),
        "the difference is missing: a copy of c_r1 brings nothing new.":
            mixed(lambda a, b, c, f: a),
        "the difference is the whole child; it should be added to c_r1.":
            mixed(lambda a, b, c, f: f * (b - c)),
        "for F = 0 a child should be c_r1: is 0.5 written where F belongs?":
            mixed(lambda a, b, c, f: a + 0.5 * (b - c)),
    })


def _logits() -> list[tuple[Tensor, Tensor]]:
    y = torch.arange(40) % 10
    return [(3 * torch.randn(40, 10, generator=torch.Generator().manual_seed(8)), y)]


def probability(logits: Tensor, y: Tensor) -> Tensor:
    """p_y, in double precision before it is rounded."""
    return logits.double().softmax(1).gather(1, y[:, None]).squeeze(1).float()


def logit(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None]).squeeze(1)


def _orders_the_sure(fn: Callable[..., Tensor]) -> Finding:
    """Costs where the network is sure: none infinite, none equal, and ordered as p_y is."""
    certain = torch.zeros(4, 10)
    certain[:, 2] = torch.tensor([20.0, 30.0, 40.0, 60.0])
    sure = fn(certain.clone(), torch.full((4,), 2))
    ((logits, y),) = _logits()
    mine = fn(logits.clone(), y.clone())
    if finding := finite(torch.cat([mine, sure]), what="cost"):
        return finding + " A softmax that says exactly 1 leaves 1 - p = 0: stay with the logits."
    if not bool((sure.diff() > 0).all()):
        return ("for y ahead by 20, 30, 40 and 60 logits your cost is "
                f"{[round(v, 4) for v in sure.tolist()]}: it goes flat where the network is sure. "
                "Stay with the logits, without a softmax.")
    order = mine[probability(logits, y).argsort()]
    if bool((order.diff() < 0).all()):
        return "the sign is turned round: smaller should mean less sure of y."
    if not bool((order.diff() > 0).all()):
        return ("your cost orders the candidates in another way than p_y does. Compare the "
                "logit of y with the logsumexp of the other logits.")
    return per_image(fn, logits, y, what="cost")


_COST = Examiner(
    log_odds, _logits, exact=False, atol=1e-4, further=_orders_the_sure,
    properties=(lambda mine, logits, y: image_like(mine, logits[:, 0], what="cost"),),
    mistakes={
        "this is the logit of y alone. It says nothing about the rivals: all logits may rise "
        "together.": logit,
        "this is the margin to the best rival. Good, but it does not order as p_y does: the other "
        "rivals may rise and lower p_y, and it does not see them. Take the logsumexp of all.":
            lambda logits, y: -margin(logits, y),
        "this subtracts the logsumexp of all logits, y among them: the logarithm of p_y. Near "
        "p_y = 1 it is 0 in float32. Leave y out of the sum.":
            lambda *given: probability(*given).log(),
        "this is p_y itself. In float32 a sure network gives all candidates the same few values "
        "near 1, and a population that sees them has little to climb.": probability,
        "the sign is turned round, and the values saturate: 1 - p_y grows as the network doubts. "
        "Smaller should mean less sure of y.": lambda *given: 1 - probability(*given),
        "the sign is turned round: smaller should mean less sure of y.":
            lambda *given: -log_odds(*given),
    })


def paint_pixel(x: Tensor, gene: Tensor) -> Tensor:
    """x [1, 3, rows, columns] with one pixel repainted: gene = (column, row, r, g, b)."""
    x_adv = x.clone()
    column = min(int(gene[0]), x.shape[3] - 1)
    row = min(int(gene[1]), x.shape[2] - 1)
    x_adv[0, :, row, column] = gene[2:]
    return x_adv


def repainted(
    place: Callable[..., Any], colour: Callable[..., Any] = lambda old, new: new
) -> Callable[[Tensor, Tensor], Tensor]:
    """Sets the pixel at place(gene) to colour(what is there, the gene's colour)."""
    def paint(x: Tensor, gene: Tensor) -> Tensor:
        x_adv = x.clone()
        row, column = place(gene)
        x_adv[0, :, row, column] = colour(x_adv[0, :, row, column], gene[2:])
        return x_adv
    return paint


def there(gene: Tensor) -> tuple[int, int]:
    return int(gene[1]), int(gene[0])


def _edges(fn: Callable[..., Tensor]) -> Finding:
    """Positions at the far ends: genes are clamped to the size itself, one too far for an index."""
    ((x, _),) = _genes()
    for position, place in (((8.0, 5.0), (4, 7)), ((1.0, 5.0), (4, 1)), ((8.0, 1.0), (1, 7))):
        edge = torch.tensor([*position, 0.2, 0.4, 0.6])
        try:
            mine = fn(x.clone(), edge)
        except IndexError:
            return (f"a gene at column {position[0]:g}, row {position[1]:g} of this image, 8 wide "
                    "and 5 high, raises an IndexError. Genes are clamped to the image's size "
                    "itself: bring both positions down to the last column and the last row.")
        if not torch.allclose(mine, paint_pixel(x, edge), atol=1e-6):
            return (f"a gene at column {position[0]:g}, row {position[1]:g} of an image 8 wide and "
                    f"5 high belongs to row {place[0]}, column {place[1]}. shape[2] counts rows, "
                    "shape[3] columns.")
    return None


def _genes() -> list[tuple[Tensor, Tensor]]:
    x = torch.rand(1, 3, 5, 8, generator=torch.Generator().manual_seed(9)) * 0.5
    return [(x, torch.tensor([2.7, 4.2, 0.9, 0.0, 1.0]))]


_PAINT = Examiner(
    paint_pixel, _genes, name="the image after the gene (2.7, 4.2, ...)", further=_edges,
    idea="Row 4, column 2, and nothing else.", atol=1e-6,
    properties=(lambda mine, x, gene: image_like(mine, x),),
    mistakes={
        "column and row are swapped: a tensor is indexed [image, channel, row, column]. On square "
        "images nobody notices; the search is as successful, and every map comes out mirrored.":
            repainted(lambda gene: there(gene)[::-1]),
        "the position is rounded: 2.7 is still column 2. Rounded, the first row and column get "
        "half as many candidates as the others.": repainted(lambda gene: there(gene.round())),
        "the colour is added to the old one. A gene holds the new colour.":
            repainted(there, lambda old, new: old + new),
        "the colour is divided by 255: genes hold it in [0, 1] already.":
            repainted(there, lambda old, new: new / 255),
        "only the first channel is painted.":
            repainted(there, lambda old, new: torch.cat([new[:1], old[1:]])),
        "all three channels get the same value.": repainted(there, lambda old, new: new[0]),
        "a whole row is painted.":
            repainted(lambda gene: (there(gene)[0], slice(None)), lambda old, new: new[:, None]),
        "a whole column is painted.":
            repainted(lambda gene: (slice(None), there(gene)[1]), lambda old, new: new[:, None]),
        "nothing is painted.": lambda x, gene: x,
    })


EXERCISES = [
    Exercise(
        id="6.1",
        title="the saliency map",
        stub='''
def saliency(a, b):
    """S = a * |b| where a >= 0 and b <= 0, else 0: for each entry of each image, [n, d]."""
    # your line here
    return a
''',
        solution=saliency,
        hints=(
            "Two questions for each entry: does it count at all, and if so, how much?",
            "`(a >= 0) & (b <= 0)` is True where an entry counts. Mind the brackets: & binds "
            "tighter than >=.",
            "`torch.where(counts, value, torch.zeros_like(a))`, with `a * b.abs()` as the value.",
        ),
        diagnose=_SALIENCY,
        praise="The product asks for both at once: up with the target, down with the rest.",
    ),
    Exercise(
        id="6.2",
        title="children",
        stub='''
def children(genes, parents, factor):
    """c_r1 + factor * (c_r2 - c_r3) for each row (r1, r2, r3) of parents."""
    return genes
''',
        solution=children,
        hints=(
            "`parents[:, 0]` are the numbers of the first parents, one for each child.",
            "A tensor of numbers can be an index: `genes[parents[:, 0]]` has shape [P, G].",
            "Look up all three, then write the formula as it stands. No clamp and no rounding: "
            "the search does that where it belongs.",
        ),
        diagnose=_CHILDREN,
        praise="The differences shrink as the population gathers, so the steps adapt by "
               "themselves.",
    ),
    Exercise(
        id="6.3",
        title="a cost that never goes flat",
        stub='''
def cost(logits, y):
    """Orders as p_y does, smaller is better; tells any two candidates apart. [n]"""
    return logits.softmax(1).gather(1, y[:, None]).squeeze(1)
''',
        solution=log_odds,
        hints=(
            "p_y and any growing function of p_y give the same order. Which one does not "
            "saturate?",
            "The odds p_y / (1 - p_y): written in logits, log p_y - log(1 - p_y) is z_y minus the "
            "logsumexp of all other logits.",
            "`logits.scatter(1, y[:, None], -torch.inf)` takes y out of the race; then "
            "`.logsumexp(1)`, and subtract it from the logit of y.",
        ),
        diagnose=_COST,
        praise="Same order, same winners; only now every candidate can be told from its parent.",
    ),
    Exercise(
        id="6.4",
        title="find two mistakes",
        stub='''
def paint_pixel(x, gene):
    """x [1, 3, rows, columns] with one pixel repainted: gene = (column, row, r, g, b)."""
    x_adv = x.clone()
    x_adv[0, :, int(gene[0]), int(gene[1])] = gene[2:]
    return x_adv
''',
        solution=paint_pixel,
        hints=(
            "Try an image that is not square, and look where the pixel lands.",
            "A gene begins with the column; a tensor is indexed by channel, row, column.",
            "The second mistake: positions are clamped to [0, columns] and [0, rows], both ends "
            "included. What is `int` of the upper end, and is there such a column?",
        ),
        diagnose=_PAINT,
        praise="The first mistake cost no success at all, which is why it can live for years.",
    ),
]
