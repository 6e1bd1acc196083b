"""Optimisation without gradients: differential evolution of many problems at once, and MAP-Elites.

Taught in lessons 02 (MAP-Elites) and 06 (differential evolution).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (genes [a, P, G], problems [a]) -> (costs [a, P] to minimise, solved [a, P] bool)
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
STRATEGIES = ("rand1", "best1")


@dataclass(frozen=True)
class Evolved:
    """What evolution found for each of N problems.

    genes [N, G] and costs [N] of the best candidate (a solved one where there is one), solved [N]
    bool, evaluations [N]: how many candidates the objective has judged for this problem.
    """

    genes: Tensor
    costs: Tensor
    solved: Tensor
    evaluations: Tensor


def problem_generators(n: int, generator: torch.Generator) -> list[torch.Generator]:
    """One source of random numbers for each problem, so that its luck is its own.

    A problem's result then depends on its seed, not on how many companions it has or when they
    leave the batch.
    """
    seeds = torch.randint(2**62, (n,), generator=generator)
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def differential_evolution(
    objective: Objective, start: Tensor, *, lower: Tensor, upper: Tensor, generations: int,
    generators: list[torch.Generator], factor: float = 0.5, strategy: str = "rand1",
    callback: Callable[[int, Tensor, Tensor, Tensor], None] | None = None,
) -> Evolved:
    """Minimise N objectives at once, each with its own population of P candidates.

        child_i = c_r1 + F * (c_r2 - c_r3),   i, r1, r2, r3 all different    ("best1": c_r1 = best)

    without crossover, as in the one-pixel paper. A child replaces its parent when it is not
    worse, or when it solves the problem; all children of a generation are judged before any
    replaces. A problem leaves the batch with the generation that solves it.

    Shape: start [N, P, G]; lower, upper [G]; one generator a problem.
    callback(generation, genes, costs, problems) sees each population, from generation 0: genes
    [a, P, G] and costs [a, P] of the a problems still in the batch, problems [a] says which.
    Raises: ValueError for fewer than four candidates, negative generations, a number of generators
    other than N, or an unknown strategy.
    Reference: Storn and Price 1997; Su, Vargas, Sakurai 2019, equation 3.
    Lesson: 06.

    >>> sphere = lambda genes, problems: (genes.square().sum(2), genes.square().sum(2) < 1e-6)
    >>> start = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(0))
    >>> found = differential_evolution(sphere, start, lower=-torch.ones(3), upper=torch.ones(3),
    ...     generations=200, generators=problem_generators(2, torch.Generator().manual_seed(0)))
    >>> found.solved
    tensor([True, True])
    """
    n, size, _ = start.shape
    _check(n, size, generations, generators, strategy)
    where = start.device
    problems, genes = torch.arange(n, device=where), start.clamp(lower, upper)
    costs, solved = objective(genes, problems)
    best = Evolved(genes[:, 0].clone(), costs[:, 0].clone(), solved[:, 0].clone(),
                   torch.zeros(n, dtype=torch.int64, device=where))
    for generation in range(generations + 1):
        if callback:
            callback(generation, genes, costs, problems)
        rows, index = torch.arange(len(problems), device=where), cheapest(costs, solved)
        best.evaluations[problems] += size
        best.genes[problems], best.costs[problems] = genes[rows, index], costs[rows, index]
        best.solved[problems] = solved[rows, index]
        going = ~best.solved[problems]
        if generation == generations or not bool(going.any()):
            break
        problems, genes, costs = problems[going], genes[going], costs[going]
        children = _children(genes, costs, [generators[i] for i in problems.tolist()],
                             factor, strategy).clamp(lower, upper)
        new_costs, solved = objective(children, problems)
        # Nobody left here solves its problem, so whatever does goes before its parent.
        better = solved | (new_costs <= costs) | costs.isnan()
        genes = torch.where(better[..., None], children, genes)
        costs = torch.where(better, new_costs, costs)
    return best


def _check(
    n: int, size: int, generations: int, generators: list[torch.Generator], strategy: str
) -> None:
    if size < 4:
        raise ValueError(f"a population of {size} has no three distinct parents for a child "
                         "beside itself: use at least 4")
    if generations < 0:
        raise ValueError(f"generations = {generations}: use 0 (the start alone) or more")
    if len(generators) != n:
        raise ValueError(f"{n} problems but {len(generators)} generators: "
                         "give one for each, see problem_generators")
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: use one of {', '.join(STRATEGIES)}")


def cheapest(costs: Tensor, solved: Tensor) -> Tensor:
    """The index [a] of the cheapest candidate; any that solves the problem goes before the rest.

    A cost that is NaN counts as infinite.

    Shape: costs [a, P], solved [a, P] bool -> [a].

    >>> cheapest(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[False, True, True]]))
    tensor([2])
    """
    eligible = solved | ~solved.any(1, keepdim=True)
    return costs.masked_fill(~eligible | costs.isnan(), torch.inf).argmin(1)


def _children(
    genes: Tensor, costs: Tensor, generators: list[torch.Generator], factor: float, strategy: str
) -> Tensor:
    luck = torch.stack([torch.rand(genes.shape[1], 3, generator=g) for g in generators])
    rows = torch.arange(len(genes), device=genes.device)[:, None]
    first, second, third = (genes[rows, parent]
                            for parent in distinct_parents(luck).to(genes.device).unbind(2))
    if strategy == "best1":
        first = genes[rows, cheapest(costs, torch.zeros_like(costs, dtype=torch.bool))[:, None]]
    return first + factor * (second - third)


def distinct_parents(luck: Tensor) -> Tensor:
    """Three parents for each of P candidates, all different and none of them itself.

    Without rejection: the k-th draw picks among the numbers not yet taken, then steps over the
    taken ones in ascending order. Every choice is equally likely.

    Shape: luck [problems, P, 3], uniform in [0, 1) -> [problems, P, 3] int64.

    >>> p = distinct_parents(torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(0)))
    >>> [sorted([i, *row]) for i, row in enumerate(p[0].tolist())] == [[0, 1, 2, 3]] * 4
    True
    """
    size = luck.shape[1]
    taken = torch.arange(size, device=luck.device).expand(len(luck), -1)[..., None]
    for k, draw in enumerate(luck.split(1, dim=2), start=1):
        free = size - k
        pick = (draw * free).long().clamp_max(free - 1)  # float32 can round up to `free`
        for column in taken.sort(2).values.split(1, dim=2):
            pick = pick + (pick >= column)
        taken = torch.cat([taken, pick], 2)
    return taken[..., 1:]


# What a challenger's score must add. Less can be rounding, which differs between batch sizes.
_MARGIN = 1e-3


@dataclass(frozen=True)
class Archive:
    """MAP-Elites with one niche for each class: its champion is whoever convinces most.

    genomes [classes, ...] and scores [classes] of the champions; the score of a class without
    one is -inf. An archive never changes: `add` returns the next one.

    Reference: Mouret and Clune 2015; Nguyen, Yosinski, Clune 2015, section 2.3.
    Lesson: 02.

    >>> archive = Archive.empty(2, torch.zeros(1, 3))
    >>> archive.add(torch.ones(1, 3), torch.tensor([[0.5, 2.0]])).scores
    tensor([0.5000, 2.0000])
    """

    genomes: Tensor
    scores: Tensor

    @classmethod
    def empty(cls, classes: int, genomes: Tensor) -> Archive:
        """An archive without champions, for genomes like the rows of `genomes`."""
        return cls(genomes.new_zeros(classes, *genomes.shape[1:]),
                   torch.full((classes,), -torch.inf, device=genomes.device))

    def add(self, genomes: Tensor, scores: Tensor) -> Archive:
        """Let every child compete in every class; a champion falls to a clearly better child.

        Shape: genomes [n, ...], scores [n, classes]; a score that is NaN beats nobody.
        """
        best, index = scores.masked_fill(scores.isnan(), -torch.inf).max(0)
        fell = best > self.scores + _MARGIN
        champions = self.genomes.clone()
        champions[fell] = genomes[index[fell]]
        return Archive(champions, torch.where(fell, best, self.scores))
