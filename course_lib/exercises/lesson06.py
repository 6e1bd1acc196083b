"""Exercises of lesson 06, few pixels: JSMA and the one-pixel attack."""

from __future__ import annotations

import torch
from torch import Tensor

from course_lib.exercises import Exercise
from course_lib.exercises.diagnoses import Finding, close, finite, image_like, per_image, run
from course_lib.losses import log_odds, other_logits


def saliency(a: Tensor, b: Tensor) -> Tensor:
    """S = a * |b| where a >= 0 and b <= 0, else 0: for each entry of each image, [n, d]."""
    return torch.where((a >= 0) & (b <= 0), a * b.abs(), torch.zeros_like(a))


def _diagnose_saliency(fn) -> Finding:
    draw = torch.Generator().manual_seed(6)
    a, b = torch.randn(2, 3, 12, generator=draw)
    b = b * torch.tensor([[1.0], [3.0], [0.2]])
    mine, said = run(fn, a, b)
    if said := said or image_like(mine, a, what="map") or finite(mine, what="map"):
        return said
    up, down = a >= 0, b <= 0
    right = saliency(a, b)
    mistakes = {
        "the second term is missing: an entry that helps the target may help its rivals as much. "
        "Multiply by |b|, and count only entries with b <= 0.": a * up,
        "the first term is missing: an entry that hurts the others must also help the target. "
        "Multiply by a, and count only entries with a >= 0.": b.abs() * down,
        "no entry is ruled out. The map is zero where a < 0 or b > 0.": a * b.abs(),
        "entries that hurt the target are not ruled out: the map is zero where a < 0, too.":
            a * b.abs() * down,
        "entries that help the other classes are not ruled out: the map is zero where b > 0, too.":
            a * b.abs() * up,
        "two wrongs make a right here: where a < 0 and b > 0 the product -a * b is positive. Rule "
        "these entries out.": (-a * b).clamp_min(0),
        "the map is negative: b is, where it counts. Take |b|.": a * b * (up & down),
        "the conditions are turned round: the target must rise (a >= 0) and the others fall "
        "(b <= 0).": (-a * b) * ((a <= 0) & (b >= 0)),
        "the two terms are added. Their product asks for both at once; with a sum, much of one "
        "makes up for nothing of the other.": (a + b.abs()) * (up & down),
        "the entries that are ruled out are not zero but one of the two terms.":
            torch.where(up & down, a * b.abs(), a),
    }
    for mistake, result in mistakes.items():
        if torch.allclose(mine, result, atol=1e-6):
            return mistake
    return (per_image(fn, a, b, what="map")
            or close(mine, right, "the saliency map", "Compare case by case with the formula.",
                     atol=1e-6))


def children(genes: Tensor, parents: Tensor, factor: float) -> Tensor:
    """c_r1 + factor * (c_r2 - c_r3) for each row (r1, r2, r3) of parents."""
    first, second, third = genes[parents].unbind(1)
    return first + factor * (second - third)


def _diagnose_children(fn) -> Finding:
    draw = torch.Generator().manual_seed(7)
    size = torch.tensor([32.0, 32, 1, 1, 1])
    genes = torch.rand(6, 5, generator=draw) * size
    parents = torch.tensor([[1, 2, 3], [4, 0, 5], [3, 1, 0], [5, 4, 2], [2, 3, 1], [0, 1, 4]])
    mine, said = run(fn, genes, parents, 0.5)
    if said := said or image_like(mine, genes, what="generation") or finite(mine, "generation"):
        return said
    x1, x2, x3 = (genes[parents[:, k]] for k in range(3))
    right = x1 + 0.5 * (x2 - x3)
    mistakes = {
        "the children are the old candidates: nothing is mixed.": genes,
        "the difference is turned round: c_r2 - c_r3, not c_r3 - c_r2.": x1 - 0.5 * (x2 - x3),
        "each child starts from the candidate it may replace. It should start from c_r1, a "
        "stranger: genes[parents[:, 0]].": genes + 0.5 * (x2 - x3),
        "the factor is not used: the steps are twice as long as they should be.": x1 + x2 - x3,
        "the factor multiplies everything. It scales the difference alone.":
            0.5 * (x1 + x2 - x3),
        "the two are added, c_r2 + c_r3. It is the difference that makes the step shrink as the "
        "population gathers.": x1 + 0.5 * (x2 + x3),
        "the children are clamped to [0, 1]. Only colours live there; columns and rows go up to "
        "the image's size, so every pixel would end in one corner.": right.clamp(0, 1),
        "the positions are rounded. Keep them as real numbers: rounded, small differences vanish "
        "and the search stands still.": torch.cat([right[:, :2].floor(), right[:, 2:]], 1),
        "every child has the same three parents, those of the first.": right[:1].expand(6, 5),
        "the difference is missing: a copy of c_r1 brings nothing new.": x1,
        "the difference is the whole child; it should be added to c_r1.": 0.5 * (x2 - x3),
    }
    for mistake, result in mistakes.items():
        if torch.allclose(mine, result, atol=1e-5):
            return mistake
    return (close(mine, right, "the generation", "Compare with c_r1 + F * (c_r2 - c_r3).")
            or close(fn(genes, parents, 0.0), x1, "the generation for F = 0",
                     "Without a difference a child is c_r1: is 0.5 written where F belongs?"))


def _diagnose_cost(fn) -> Finding:
    draw = torch.Generator().manual_seed(8)
    y = torch.arange(40) % 10
    logits = 3 * torch.randn(40, 10, generator=draw)
    mine, said = run(fn, logits, y)
    if said := said or image_like(mine, logits[:, 0], what="cost"):
        return said
    certain = torch.zeros(4, 10)
    certain[:, 2] = torch.tensor([20.0, 30.0, 40.0, 60.0])
    sure = fn(certain.clone(), torch.full((4,), 2))
    p = logits.double().softmax(1).gather(1, y[:, None]).squeeze(1).float()
    chosen = logits.gather(1, y[:, None]).squeeze(1)
    rest = other_logits(logits, y)
    by_name = {
        "this is the logit of y alone. It says nothing about the rivals: all logits may rise "
        "together.": chosen,
        "this is the margin to the best rival. Good, but it does not order as p_y does: the other "
        "rivals may rise and lower p_y, and it does not see them. Take the logsumexp of all.":
            chosen - rest.amax(1),
        "this subtracts the logsumexp of all logits, y among them: the logarithm of p_y. Near "
        "p_y = 1 it is 0 in float32. Leave y out of the sum.": p.log(),
        "this is p_y itself. In float32 a sure network gives all candidates the same few values "
        "near 1, and a population that sees them has little to climb.": p,
        "the sign is turned round, and the values saturate: 1 - p_y grows as the network doubts. "
        "Smaller should mean less sure of y.": 1 - p,
        "the sign is turned round: smaller should mean less sure of y.":
            -log_odds(logits, y),
    }
    for mistake, result in by_name.items():
        if torch.allclose(mine, result, atol=1e-4, rtol=1e-4):
            return mistake
    if said := finite(torch.cat([mine, sure]), what="cost"):
        return said + " A softmax that says exactly 1 leaves 1 - p = 0: stay with the logits."
    if not bool((sure.diff() > 0).all()):
        return ("for y ahead by 20, 30, 40 and 60 logits your cost is "
                f"{[round(v, 4) for v in sure.tolist()]}: it goes flat where the network is sure. "
                "Stay with the logits, without a softmax.")
    order = mine[p.argsort()]
    if bool((order.diff() < 0).all()):
        return "the sign is turned round: smaller should mean less sure of y."
    if not bool((order.diff() > 0).all()):
        return ("your cost orders the candidates in another way than p_y does. Compare the "
                "logit of y with the logsumexp of the other logits.")
    return per_image(fn, logits, y, what="cost")


def paint_pixel(x: Tensor, gene: Tensor) -> Tensor:
    """x [1, 3, rows, columns] with one pixel repainted: gene = (column, row, r, g, b)."""
    x_adv = x.clone()
    column = min(int(gene[0]), x.shape[3] - 1)
    row = min(int(gene[1]), x.shape[2] - 1)
    x_adv[0, :, row, column] = gene[2:]
    return x_adv


def _diagnose_paint(fn) -> Finding:
    x = torch.rand(1, 3, 5, 8, generator=torch.Generator().manual_seed(9)) * 0.5

    def painted(row: int, column: int, colour: Tensor) -> Tensor:
        result = x.clone()
        result[0, :, row, column] = colour
        return result

    gene = torch.tensor([2.7, 4.2, 0.9, 0.0, 1.0])
    colour = gene[2:]
    mine, said = run(fn, x, gene)
    if said := said or image_like(mine, x):
        return said
    added = x.clone()
    added[0, :, 4, 2] += colour
    whole_row, whole_column = x.clone(), x.clone()
    whole_row[0, :, 4] = colour[:, None]
    whole_column[0, :, :, 2] = colour[:, None]
    mistakes = {
        "column and row are swapped: a tensor is indexed [image, channel, row, column]. On square "
        "images nobody notices; the search is as successful, and every map comes out mirrored.":
            painted(2, 4, colour),
        "the position is rounded: 2.7 is still column 2. Rounded, the first row and column get "
        "half as many candidates as the others.": painted(4, 3, colour),
        "the colour is added to the old one. A gene holds the new colour.": added,
        "the colour is divided by 255: genes hold it in [0, 1] already.":
            painted(4, 2, colour / 255),
        "only the first channel is painted.": painted(4, 2, torch.tensor([0.9, *x[0, 1:, 4, 2]])),
        "all three channels get the same value.": painted(4, 2, colour[0]),
        "a whole row is painted.": whole_row,
        "a whole column is painted.": whole_column,
        "nothing is painted.": x,
    }
    for mistake, result in mistakes.items():
        if torch.allclose(mine, result, atol=1e-6):
            return mistake
    if said := close(mine, painted(4, 2, colour), "the image after the gene (2.7, 4.2, ...)",
                     "Row 4, column 2, and nothing else."):
        return said
    for position, place in (((8.0, 5.0), (4, 7)), ((1.0, 5.0), (4, 1)), ((8.0, 1.0), (1, 7))):
        edge = torch.tensor([*position, 0.2, 0.4, 0.6])
        try:
            mine = fn(x.clone(), edge)
        except IndexError:
            return (f"a gene at column {position[0]:g}, row {position[1]:g} of this image, 8 wide "
                    "and 5 high, raises an IndexError. Genes are clamped to the image's size "
                    "itself: bring both positions down to the last column and the last row.")
        if not torch.allclose(mine, painted(*place, edge[2:]), atol=1e-6):
            return (f"a gene at column {position[0]:g}, row {position[1]:g} of an image 8 wide and "
                    f"5 high belongs to row {place[0]}, column {place[1]}. shape[2] counts rows, "
                    "shape[3] columns.")
    return None


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
        diagnose=_diagnose_saliency,
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
        diagnose=_diagnose_children,
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
        diagnose=_diagnose_cost,
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
        diagnose=_diagnose_paint,
        praise="The first mistake cost no success at all, which is why it can live for years.",
    ),
]
