"""Differential evolution against SciPy, batches against single problems, and MAP-Elites."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy import optimize
from strategies import generator
from torch import Tensor

from course_lib.evolution import (
    Archive,
    cheapest,
    differential_evolution,
    distinct_parents,
    problem_generators,
)


def rosenbrock(g: Tensor) -> Tensor:
    return (100 * (g[..., 1:] - g[..., :-1] ** 2) ** 2 + (1 - g[..., :-1]) ** 2).sum(-1)


def rastrigin(g: Tensor) -> Tensor:
    return (g * g - 10 * torch.cos(2 * torch.pi * g) + 10).sum(-1)


def sphere(g: Tensor) -> Tensor:
    return g.square().sum(-1)


FUNCTIONS = {"sphere": sphere, "rosenbrock": rosenbrock, "rastrigin": rastrigin}
# log10 of the median cost that 30 generations reach at least.
REACHED = {"sphere": -4.0, "rosenbrock": -0.4, "rastrigin": 0.6}


def run(function, *, n=6, size=24, genes=3, generations=30, solved_below=-1.0, reach=2.0, seed=0,
        problems=None, **options):
    """`problems` picks some of the n: their starts and generators are those they have among all."""
    sources = problem_generators(n, generator(seed))
    start = torch.stack([torch.rand(size, genes, generator=g, dtype=torch.float64)
                         for g in sources]) * 2 * reach - reach
    chosen = range(n) if problems is None else problems
    edge = torch.full((genes,), reach, dtype=torch.float64)

    def objective(g: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        return function(g), function(g) < solved_below

    return differential_evolution(
        objective, start[list(chosen)], lower=-edge, upper=edge, generations=generations,
        generators=[sources[i] for i in chosen], **options)


@pytest.mark.parametrize("strategy", ["rand1", "best1"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_descends_as_scipy_does(name, strategy):
    """Both from random starts of the same kind: medians of 30 runs, on the logarithmic scale."""
    function, generations, n = FUNCTIONS[name], 30, 30
    ours = run(function, n=n, generations=generations, strategy=strategy).costs
    random = np.random.default_rng(1)
    theirs = torch.tensor([
        optimize.differential_evolution(
            lambda g: function(torch.from_numpy(g.T)).numpy(), [(-2, 2)] * 3,
            strategy=f"{strategy}bin", mutation=0.5, recombination=1.0, updating="deferred",
            init=random.uniform(-2, 2, (24, 3)), maxiter=generations, tol=0, polish=False,
            vectorized=True, rng=seed).fun
        for seed in range(n)])
    ours, theirs = ((costs + 1e-15).log10() for costs in (ours, theirs))
    spread = torch.cat([ours - ours.median(), theirs - theirs.median()]).std()
    # The median of 30 has a standard error of about spread * 1.25 / sqrt(30).
    assert abs(ours.median() - theirs.median()) < 4 * 2**0.5 * 1.25 * spread / n**0.5
    assert ours.median() < REACHED[name]


def test_parents_are_distinct_and_every_choice_is_equally_likely():
    size, draws = 5, 8000
    parents = distinct_parents(torch.rand(draws, size, 3, generator=generator()))
    for i in range(size):
        seen = Counter(map(tuple, parents[:, i].tolist()))
        assert all(len({i, *three}) == 4 for three in seen)
        assert len(seen) == 4 * 3 * 2
        expected = draws / len(seen)
        assert sum((k - expected) ** 2 / expected for k in seen.values()) < 60  # chi2(23), p 4e-5


def test_the_largest_luck_float32_has_stays_in_range():
    almost_one = torch.full((1, 400, 3), 1 - 2**-24)
    assert distinct_parents(almost_one).max() == 399


def test_replacement_waits_for_the_whole_generation():
    """Every child is made of the population before it, and a parent only leaves for no worse."""
    judged, seen = [], []

    def objective(genes, problems):
        judged.append(genes.clone())
        return genes.sum(2).round(decimals=1), torch.zeros(genes.shape[:2], dtype=torch.bool)

    differential_evolution(
        objective, torch.rand(2, 8, 3, generator=generator()), lower=torch.zeros(3),
        upper=torch.ones(3), generations=5, generators=problem_generators(2, generator(1)),
        callback=lambda t, genes, costs, problems: seen.append((genes.clone(), costs.clone())))
    sources = problem_generators(2, generator(1))
    for (genes, costs), children, (after, new) in zip(seen[:-1], judged[1:], seen[1:], strict=True):
        luck = torch.stack([torch.rand(8, 3, generator=g) for g in sources])
        for p, parents in enumerate(distinct_parents(luck)):
            a, b, c = (genes[p][parents[:, k]] for k in range(3))
            torch.testing.assert_close(children[p], (a + 0.5 * (b - c)).clamp(0, 1))
        cheaper_or_equal = children.sum(2).round(decimals=1) <= costs
        assert torch.equal(after, torch.where(cheaper_or_equal[..., None], children, genes))
        assert (new <= costs).all()


def test_an_equal_child_replaces_its_parent():
    """On a plateau a population must drift; strict improvement would freeze it."""
    populations = []
    run(lambda g: torch.zeros(g.shape[:-1]), generations=1,
        callback=lambda t, genes, *_: populations.append(genes))
    assert (populations[0] != populations[1]).any(2).all()


def test_children_of_best1_surround_the_best():
    populations = []
    run(sphere, generations=1, strategy="best1", reach=1.0, n=1,
        callback=lambda t, genes, costs, _: populations.append((genes[0], costs[0])))
    (before, costs), (after, _) = populations
    new = after[(after != before).any(1)]
    assert len(new)
    best = before[costs.argmin()]
    steps = (0.5 * (before[:, None] - before)).flatten(0, 1)
    for child in new[(new.abs() < 1).all(1)]:
        assert ((child - best - steps).abs().amax(1) < 1e-9).any()


def test_candidates_stay_in_the_box():
    seen = []
    run(lambda g: -g.sum(-1), generations=40, solved_below=-100,
        callback=lambda t, g, *_: seen.append(g))
    assert max(float(g.abs().max()) for g in seen) == 2.0


def test_a_solved_problem_leaves_and_the_queries_are_counted():
    """Each problem is solved below a bound of its own; the first is solved from the start."""
    bounds, present = torch.tensor([100.0, 0.01, 1e-4, -1.0]), []

    def objective(genes, problems):
        present.append(problems.tolist())
        return sphere(genes), sphere(genes) < bounds[problems][:, None]

    start = 4 * torch.rand(4, 20, 2, generator=generator()) - 2
    found = differential_evolution(
        objective, start, lower=-2 * torch.ones(2), upper=2 * torch.ones(2), generations=40,
        generators=problem_generators(4, generator()))
    assert found.solved.tolist() == [True, True, True, False]
    assert (found.costs[:3] < bounds[:3]).all()
    counted = [20 * sum(p in batch for batch in present) for p in range(4)]
    assert found.evaluations.tolist() == counted
    assert counted[0] == 20 < counted[1] < counted[2] < counted[3] == 820
    torch.testing.assert_close(sphere(found.genes), found.costs)


def test_a_solving_child_enters_even_at_a_higher_cost():
    """Cost and success can disagree: another class may rise above a label that rises too."""
    def objective(genes, problems):
        return genes[..., 0], genes[..., 0] > 0.9

    found = differential_evolution(
        objective, torch.linspace(0, 0.8, 60).view(1, 60, 1), lower=torch.zeros(1),
        upper=torch.ones(1), generations=60, generators=problem_generators(1, generator()))
    assert found.solved.item()
    assert found.costs.item() > 0.9


@pytest.mark.parametrize("problems", [[0], [3], [1, 4], [5, 2, 0]])
def test_companions_change_nothing(problems):
    options = {"solved_below": 1e-3, "generations": 25}
    everyone, some = run(sphere, **options), run(sphere, problems=problems, **options)
    for name in ("genes", "costs", "solved", "evaluations"):
        assert torch.equal(getattr(some, name), getattr(everyone, name)[problems]), name


def test_a_problem_has_the_same_luck_in_a_larger_batch():
    few, many = problem_generators(3, generator()), problem_generators(40, generator())
    assert [g.initial_seed() for g in few] == [g.initial_seed() for g in many[:3]]


def test_only_the_generator_decides():
    torch.manual_seed(1)
    first = run(rastrigin)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first.genes, run(rastrigin).genes)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first.genes, run(rastrigin, seed=1).genes)


def test_the_champion_solves_if_anyone_does():
    costs = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    solved = torch.tensor([[True, False, True], [False] * 3])
    assert cheapest(costs, solved).tolist() == [2, 1]


def test_a_cost_that_is_nan_is_no_champion():
    nan = torch.nan
    costs = torch.tensor([[nan, 1.0, 2.0], [3.0, nan, 2.0], [nan, nan, nan], [nan, 4.0, 1.0]])
    solved = torch.zeros(4, 3) > 0
    solved[3, :2] = True
    assert cheapest(costs, solved)[[0, 1, 3]].tolist() == [1, 2, 1]


@pytest.mark.parametrize("strategy", ["rand1", "best1"])
def test_candidates_without_a_cost_die_out(strategy):
    def half_sphere(g: Tensor) -> Tensor:
        return sphere(g).masked_fill(g[..., 0] < 0, torch.nan)

    found = run(half_sphere, strategy=strategy)
    assert found.costs.isfinite().all() and (found.genes[:, 0] >= 0).all()


def test_bad_input():
    for size in (1, 3):
        with pytest.raises(ValueError, match=f"population of {size} .* use at least 4"):
            run(sphere, size=size)
    with pytest.raises(ValueError, match="unknown strategy 'rand2': use one of rand1, best1"):
        run(sphere, strategy="rand2")
    with pytest.raises(ValueError, match="generations = -1"):
        run(sphere, generations=-1)
    with pytest.raises(ValueError, match="2 problems but 3 generators"):
        differential_evolution(
            None, torch.rand(2, 5, 1), lower=torch.zeros(1), upper=torch.ones(1), generations=1,
            generators=problem_generators(3, generator()))


# --- MAP-Elites ---------------------------------------------------------------------------------


def test_every_child_competes_in_every_class():
    archive = Archive.empty(3, torch.zeros(1, 2))
    first, second = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 2.0], [3.0, 3.0]])
    one = archive.add(first, torch.tensor([[0.0, 5.0, 1.0]]))
    two = one.add(second, torch.tensor([[1.0, 4.0, 2.0], [2.0, 3.0, 1.5]]))
    assert one.genomes[:, 0].tolist() == [1, 1, 1]
    assert two.genomes[:, 0].tolist() == [3, 1, 2]
    assert two.scores.tolist() == [2, 5, 2]
    # An archive is a fact of its generation: what came later has not changed it.
    assert one.scores.tolist() == [0, 5, 1]
    assert archive.scores.isinf().all()


def test_a_child_whose_score_is_nan_stops_nobody():
    archive = Archive.empty(2, torch.zeros(1, 1))
    scores = torch.tensor([[torch.nan, 7.0], [4.0, torch.nan], [5.0, 6.0]])
    archive = archive.add(torch.tensor([[1.0], [2.0], [3.0]]), scores)
    assert archive.scores.tolist() == [5, 7] and archive.genomes.flatten().tolist() == [3, 1]


def test_rounding_makes_no_champion():
    archive = Archive.empty(1, torch.zeros(1, 1)).add(torch.ones(1, 1), torch.ones(1, 1))
    rival = archive.add(2 * torch.ones(1, 1), torch.tensor([[1 + 1e-6]]))
    assert rival.genomes.item() == 1
    assert archive.add(2 * torch.ones(1, 1), torch.tensor([[1.01]])).genomes.item() == 2
