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

        child_i = x_r1 + F * (x_r2 - x_r3),   i, r1, r2, r3 all different    ("best1": x_r1 = best)

    without crossover, as in the one-pixel paper. A child replaces its parent when it is not
    worse; all children of a generation are judged before any replaces. A problem leaves the batch
    with the generation that solves it.

    Shape: start [N, P, G]; lower, upper [G]; one generator a problem.
    callback(generation, genes, costs, problems) sees each population, from generation 0.
    Raises: ValueError for fewer than four candidates or an unknown strategy.
    Reference: Storn and Price 1997; Su, Vargas, Sakurai 2019, equation 3.
    Lesson: 06.

    >>> sphere = lambda genes, problems: (genes.square().sum(2), genes.square().sum(2) < 1e-6)
    >>> start = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(0))
    >>> found = differential_evolution(sphere, start, lower=-torch.ones(3), upper=torch.ones(3),
    ...     generations=200, generators=problem_generators(2, torch.Generator().manual_seed(0)))
    >>> found.solved
    tensor([True, True])
    """
    if start.shape[1] < 4:
        raise ValueError(f"a population of {start.shape[1]} has no three distinct parents for a "
                         "child beside itself: use at least 4")
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: use one of {', '.join(STRATEGIES)}")
    n, size, _ = start.shape
    where = start.device
    problems, genes = torch.arange(n, device=where), start.clamp(lower, upper)
    costs, solved = objective(genes, problems)
    best = Evolved(genes[:, 0].clone(), costs[:, 0].clone(), solved[:, 0].clone(),
                   torch.zeros(n, dtype=torch.int64, device=where))
    for generation in range(generations + 1):
        if callback:
            callback(generation, genes, costs, problems)
        best.evaluations[problems] += size
        index = champion(costs, solved)
        rows = torch.arange(len(problems), device=where)
        best.genes[problems], best.costs[problems] = genes[rows, index], costs[rows, index]
        best.solved[problems] = solved[rows, index]
        going = ~best.solved[problems]
        if generation == generations or not bool(going.any()):
            break
        problems, genes, costs, solved = problems[going], genes[going], costs[going], solved[going]
        children = _children(genes, costs, [generators[i] for i in problems.tolist()],
                             factor, strategy).clamp(lower, upper)
        new_costs, new_solved = objective(children, problems)
        better = new_costs <= costs
        genes = torch.where(better[..., None], children, genes)
        costs = torch.where(better, new_costs, costs)
        solved = torch.where(better, new_solved, solved)
    return best


def champion(costs: Tensor, solved: Tensor) -> Tensor:
    """The index [a] of the cheapest candidate; any that solves the problem goes before the rest."""
    eligible = solved | ~solved.any(1, keepdim=True)
    return costs.masked_fill(~eligible, torch.inf).argmin(1)


def _children(
    genes: Tensor, costs: Tensor, generators: list[torch.Generator], factor: float, strategy: str
) -> Tensor:
    a, size, length = genes.shape
    parents = torch.stack([distinct_parents(size, g) for g in generators]).to(genes.device)
    first, second, third = (
        genes.gather(1, parents[:, :, k, None].expand(a, size, length)) for k in range(3)
    )
    if strategy == "best1":
        first = genes[torch.arange(a, device=genes.device), costs.argmin(1)][:, None]
    return first + factor * (second - third)


def distinct_parents(size: int, generator: torch.Generator) -> Tensor:
    """Three parents for each of `size` candidates, all different and none of them itself.

    Drawn at once, without rejection: the k-th draw picks among the numbers not yet taken, then
    steps over the taken ones in ascending order.

    Shape: -> [size, 3] int64.

    >>> p = distinct_parents(4, torch.Generator().manual_seed(0))
    >>> [sorted([i, *row]) for i, row in enumerate(p.tolist())] == [[0, 1, 2, 3]] * 4
    True
    """
    taken = torch.arange(size)[:, None]
    for k in range(1, 4):
        draw = (torch.rand(size, 1, generator=generator) * (size - k)).long().clamp_max(size - k - 1)
        for column in taken.sort(1).values.split(1, dim=1):
            draw += draw >= column
        taken = torch.cat([taken, draw], 1)
    return taken[:, 1:]


@dataclass
class Archive:
    """MAP-Elites with one niche for each class: the champion is whoever convinces most.

    genomes: a dataclass or tensor indexable by class, given by the caller's `take`; here only
    the champions' scores [classes] and their index among all evaluated children are kept.
    Reference: Mouret and Clune 2015; Nguyen, Yosinski, Clune 2015, section 2.3.
    Lesson: 02.
    """

    genomes: Tensor
    scores: Tensor

    @classmethod
    def empty(cls, classes: int, genome_like: Tensor) -> Archive:
        genomes = genome_like.new_zeros(classes, *genome_like.shape[1:])
        return cls(genomes, torch.full((classes,), -torch.inf, device=genome_like.device))

    def compete(self, genomes: Tensor, scores: Tensor) -> Tensor:
        """Let every child [n, ...] compete in every class with its scores [n, classes].

        Returns the classes whose champion fell, as a bool [classes].
        """
        best, index = scores.max(0)
        fell = best > self.scores
        self.scores = torch.where(fell, best, self.scores)
        self.genomes[fell] = genomes[index[fell]]
        return fell
