"""Fooling images: the encodings by themselves, evolution and ascent on digits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from strategies import assert_untouched, convolutional, generator, images, trace, unusual
from torch import Tensor, nn

from course_lib import models
from course_lib.encodings import CPPN, Direct
from course_lib.fooling import class_scores, confidence, evolve, gradient_ascent

SHAPE = (3, 6, 5)
MODEL = convolutional()
ENCODINGS = {"direct": Direct(SHAPE), "cppn": CPPN(SHAPE, hidden=6)}
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)


def population(encoding, n: int = 12, rounds: int = 15, seed: int = 0) -> Tensor:
    """Genomes some mutations old."""
    g = generator(seed)
    genomes = encoding.start(n, g)
    for _ in range(rounds):
        genomes = encoding.mutate(genomes, g)
    return genomes


@every_encoding
def test_every_genome_is_an_image(encoding):
    x = encoding.render(population(encoding))
    assert x.shape == (12, *SHAPE)
    assert x.min() >= 0 and x.max() <= 1
    assert x.flatten(1).std(1).min() > 0, "a picture of one colour only"


@every_encoding
def test_children_leave_their_parents_alone(encoding):
    genomes = population(encoding)
    before = genomes.clone()
    children = encoding.mutate(genomes, generator(1))
    assert torch.equal(genomes, before)
    assert (children != genomes).flatten(1).any(1).float().mean() > 0.3


@every_encoding
def test_only_the_generator_decides(encoding):
    torch.manual_seed(1)
    first = population(encoding)
    torch.manual_seed(2)
    assert torch.equal(first, population(encoding))
    assert not torch.equal(first, population(encoding, seed=1))


# --- direct -------------------------------------------------------------------------------------


def test_the_rate_is_the_share_of_genes_that_move():
    genomes = torch.full((200, 1, 20, 20), 0.5)
    for rate in (0.01, 0.1):
        moved = Direct((1, 20, 20), rate).mutate(genomes, generator()) != genomes
        assert moved.float().mean() == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize("eta", [0.5, 15.0])
def test_polynomial_mutation_has_its_distribution(eta):
    """From the middle: density (eta + 1) / 2 * (1 - |d|)^eta * 2 for a step d / 2, symmetric.

    The closed form of the mean of |d| is 1 / (eta + 2), for a gene far from both borders.
    """
    x = torch.full((1, 1, 400, 400), 0.5)
    step = Direct((1, 400, 400), rate=1.0, eta=eta).mutate(x, generator()) - x
    assert step.mean().abs() < 0.005
    # With the borders half a unit away, |step| <= 0.5: the truncated law's own mean.
    u = (torch.arange(100_000) + 0.5) / 100_000 / 2
    law = 1 - (2 * u + (1 - 2 * u) * 0.5 ** (eta + 1)) ** (1 / (eta + 1))
    assert step.abs().mean().item() == pytest.approx(law.mean().item(), rel=0.01)
    assert step.abs().max() <= 0.5


@pytest.mark.parametrize("gene", [0.0, 0.1, 1.0])
def test_mutation_reaches_both_borders_and_not_beyond(gene):
    x = torch.full((1, 1, 300, 300), gene)
    child = Direct((1, 300, 300), rate=1.0, eta=0.5).mutate(x, generator())
    assert child.min() >= 0 and child.max() <= 1
    assert child.min() < 0.02 and child.max() > 0.98
    assert child.isfinite().all()


# --- CPPN ---------------------------------------------------------------------------------------

SCALARS = [math.sin, lambda z: 2 / (1 + math.exp(-z)) - 1, lambda z: 2 * math.exp(-z * z) - 1,
           lambda z: min(max(z, -1.0), 1.0)]


def pixel(genome: list[list[float]], channels: int, x: float, y: float) -> list[float]:
    """One pixel of one genome, slot by slot, as the definition says."""
    values = [x, y, math.hypot(x, y), 1.0]
    for kind, *weights in genome[4:]:
        z = sum(w * v for w, v in zip(weights, values, strict=False))
        values.append(SCALARS[int(kind)](z))
    return [v / 2 + 0.5 for v in values[-channels:]]


def test_the_picture_is_that_of_the_definition():
    encoding = ENCODINGS["cppn"]
    genomes = population(encoding, rounds=30)
    x = encoding.render(genomes)
    for n, genome in enumerate(genomes.tolist()):
        for row, column in ((0, 0), (2, 3), (5, 4)):
            place = (-1 + 2 * column / 4, -1 + 2 * row / 5)
            assert x[n, :, row, column].tolist() == pytest.approx(pixel(genome, 3, *place),
                                                                  abs=1e-5)


def test_a_neuron_without_inputs_still_has_its_activation():
    """A gaussian of nothing is 1, whoever else is in the batch."""
    encoding = CPPN((1, 2, 2), hidden=1)
    genome = torch.zeros(1, 6, 7)
    genome[0, 4, 0], genome[0, 5, 0], genome[0, 5, 1 + 4] = 2, 3, 0.5
    assert encoding.render(genome).flatten().tolist() == pytest.approx([0.75] * 4)


def test_companions_change_no_picture():
    encoding = ENCODINGS["cppn"]
    genomes = population(encoding, n=20)
    together = encoding.render(genomes)
    for i in range(20):
        torch.testing.assert_close(encoding.render(genomes[i:i + 1])[0], together[i],
                                   rtol=0, atol=1e-6)


def test_any_size_shows_the_same_picture():
    """Twice the intervals: every second pixel is one of the small picture."""
    encoding = CPPN((1, 8, 8))
    genomes = population(encoding)
    large = encoding.render(genomes, 15, 15)
    assert large.shape == (12, 1, 15, 15)
    torch.testing.assert_close(large[:, :, ::2, ::2], encoding.render(genomes), rtol=0, atol=1e-5)


def test_graphs_grow_and_stay_graphs():
    encoding = CPPN((1, 8, 8))
    old = population(encoding, n=60, rounds=60)
    weights = old[:, :, 1:]
    order = torch.arange(encoding.slots)
    backwards = weights[:, order[:, None] <= order]
    assert not backwards.any(), "a connection from a later slot, or of a slot with itself"
    assert not weights[:, :4].any(), "a connection into an input"
    neurons = encoding._neurons(weights).sum(1)
    assert neurons.float().mean() > 2 and neurons.min() < neurons.max() <= 12
    assert set(old[:, :, 0].flatten().tolist()) == {0, 1, 2, 3}
    young = encoding.start(60, generator())[:, :, 1:]
    assert not encoding._neurons(young).any()


def changed(encoding, name: str) -> tuple[Tensor, Tensor]:
    weights = population(encoding, n=60)[:, :, 1:]
    return weights, getattr(encoding, name)(weights, generator(1))


def test_adding_a_neuron_splits_a_connection():
    encoding = ENCODINGS["cppn"]
    before, after = changed(encoding, "_add_neuron")
    assert (encoding._neurons(after).sum(1) - encoding._neurons(before).sum(1)).max() == 1
    split = 0
    for old, new in zip(before, after, strict=True):
        if torch.equal(old, new):
            continue
        ((k, j),) = ((old != 0) & (new == 0)).nonzero().tolist()
        added = ((old == 0) & (new != 0)).nonzero().tolist()
        s = added[0][0]
        assert added == [[s, j], [k, s]] and j < s < k
        assert new[s, j] == old[k, j] and new[k, s] == 1
        split += 1
    assert split > 10


def test_deleting_a_neuron_deletes_what_it_was_connected_to():
    encoding = ENCODINGS["cppn"]
    before, after = changed(encoding, "_delete_neuron")
    lost = encoding._neurons(before) & ~after.any(2)
    gone = [row.nonzero().flatten().tolist() for row in (before != after).any(2) & lost]
    assert sum(map(len, gone)) > 10
    for old, new in zip(before, after, strict=True):
        places = ((old != new).nonzero()).tolist()
        common = set.intersection(*[set(p) for p in places]) if places else {4}
        assert common and (new[old != new] == 0).all(), "more than one neuron was touched"


def test_a_connection_comes_and_goes():
    encoding = ENCODINGS["cppn"]
    before, after = changed(encoding, "_add_connection")
    assert ((before != after).flatten(1).sum(1) <= 1).all()
    assert (before[before != after] == 0).all() and (before != after).any()
    before, after = changed(encoding, "_delete_connection")
    assert ((before != after).flatten(1).sum(1) == 1).all()
    assert (after[before != after] == 0).all()


def test_mutation_keeps_absent_connections_absent():
    """Only _add_connection and _add_neuron connect: jitter must not fill the padding."""
    encoding = ENCODINGS["cppn"]
    before = encoding.start(200, generator())
    after = encoding.mutate(before, generator(1))
    added = ((after[:, :, 1:] != 0) & (before[:, :, 1:] == 0)).flatten(1).sum(1)
    assert added.max() <= 3


# --- evolution ----------------------------------------------------------------------------------


def evolved(encoding, model: nn.Module = MODEL, classes: int = 4, **options):
    options = {"generations": 8, "children": 30, "generator": generator(), **options}
    return evolve(model, encoding, classes=classes, **options)


@every_encoding
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_changes_no_champion(encoding, batch_size):
    assert torch.equal(evolved(encoding).genomes, evolved(encoding, batch_size=batch_size).genomes)


@every_encoding
def test_scores_only_rise_and_belong_to_their_genomes(encoding):
    history = []
    evolved(encoding, callback=lambda t, archive: history.append(archive))
    for before, after in itertools.pairwise(history):
        assert (after.scores >= before.scores).all()
    assert (history[-1].scores > history[0].scores).all()
    for archive in history:
        scores = class_scores(MODEL, encoding, archive.genomes).diagonal()
        torch.testing.assert_close(scores, archive.scores, rtol=1e-4, atol=1e-4)


@every_encoding
def test_every_class_has_the_best_child_of_all(encoding):
    """One generation: the champion of each class is the best of the whole population there."""
    archive = evolved(encoding, generations=1)
    scores = class_scores(MODEL, encoding, encoding.start(30, generator()))
    torch.testing.assert_close(archive.scores, scores.amax(0), rtol=1e-4, atol=1e-4)


def test_an_archive_goes_on_where_it_was():
    encoding = ENCODINGS["direct"]
    first = evolved(encoding)
    kept = first.genomes.clone()
    second = evolved(encoding, archive=first, generator=generator(1))
    assert torch.equal(first.genomes, kept)
    assert (second.scores >= first.scores).all() and (second.scores > first.scores).any()


def test_scores_are_the_log_odds_of_the_confidence():
    encoding = ENCODINGS["direct"]
    genomes = population(encoding)
    with torch.no_grad():
        p = MODEL(genomes).double().softmax(1)
    torch.testing.assert_close(class_scores(MODEL, encoding, genomes).double(), p.logit(),
                               rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(confidence(p.logit()), p)


class Mean(nn.Module):
    """A network without weights: two classes, light and dark."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return torch.stack([mean, -mean], 1)


def test_a_network_without_weights_can_be_fooled():
    archive = evolve(Mean(), Direct((1, 4, 4)), classes=2, generations=5, children=20)
    assert archive.scores.isfinite().all()
    assert archive.genomes[0].mean() > archive.genomes[1].mean()


@pytest.mark.parametrize("run", [
    lambda model, encoding: evolve(model, encoding, classes=4, generations=1),
    lambda model, encoding: gradient_ascent(model, encoding, population(encoding),
                                            torch.arange(12) % 4),
], ids=["evolve", "gradient_ascent"])
def test_logits_with_rows_and_columns(run):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ValueError, match=r"must return logits \[batch, classes\]"):
        run(model, ENCODINGS["direct"])


def test_scores_do_not_saturate():
    class Certain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[50.0, 0.0, -50.0]]).repeat(len(x), 1)

    scores = class_scores(Certain(), ENCODINGS["direct"], images(1))
    assert scores[0].tolist() == pytest.approx([50, -50, -100])


DIGITS = {"direct": Direct((1, 28, 28)), "cppn": CPPN((1, 28, 28))}


@pytest.mark.slow
@pytest.mark.parametrize("encoding", DIGITS.values(), ids=DIGITS)
def test_ten_certain_digits(encoding):
    """Most of the way here, for time's sake; the lesson takes 200 generations."""
    model = models.load("mnist_cnn", "cpu")
    archive = evolve(model, encoding, classes=10, generations=110, generator=generator())
    p = confidence(archive.scores)
    assert p.median() >= 0.9999
    assert p.min() >= 0.99
    # What is stored is what a fresh look at the genome gives.
    with torch.no_grad():
        again = model(encoding.render(archive.genomes)).softmax(1).diagonal()
    torch.testing.assert_close(again, p, rtol=0, atol=1e-5)


# --- gradient ascent ----------------------------------------------------------------------------


@every_encoding
def test_the_ascent_climbs_and_keeps_its_best(encoding):
    genomes, target, seen = population(encoding, n=4), torch.tensor([0, 1, 2, 3]), []
    before = genomes.clone()
    best, scores = gradient_ascent(MODEL, encoding, genomes, target, steps=20,
                          callback=lambda t, g, s: seen.append((g, s)))
    assert torch.equal(genomes, before) and len(seen) == 21
    torch.testing.assert_close(scores, torch.stack([s for _, s in seen]).amax(0))
    assert (scores > seen[0][1]).all()
    torch.testing.assert_close(
        class_scores(MODEL, encoding, best)[range(4), target], scores, rtol=1e-4, atol=1e-4)
    x = encoding.render(best)
    assert x.min() >= 0 and x.max() <= 1


def test_the_ascent_of_a_cppn_keeps_its_graph():
    encoding = ENCODINGS["cppn"]
    genomes = population(encoding, n=4)
    best, _ = gradient_ascent(MODEL, encoding, genomes, torch.tensor([0, 1, 2, 3]), steps=10)
    assert torch.equal(best[:, :, 0], genomes[:, :, 0])
    assert not best[:, :, 1:][genomes[:, :, 1:] == 0].any()
    assert (best != genomes).any()


def test_grey_becomes_any_digit():
    model = models.load("mnist_cnn", "cpu")
    grey = torch.full((10, 1, 28, 28), 0.5)
    _, scores = gradient_ascent(model, Direct((1, 28, 28)), grey, torch.arange(10))
    assert confidence(scores).min() > 0.999


@every_encoding
def test_nothing_is_left_behind(encoding):
    model = unusual(convolutional())
    before = trace(model)
    evolved(encoding, model, generations=2)
    gradient_ascent(model, encoding, population(encoding, n=1), torch.tensor([1]), steps=2)
    assert_untouched(model, before)


@pytest.mark.parametrize("options, message", [
    ({"children": 0}, "at least one child and one generation"),
    ({"generations": 0}, "at least one child and one generation"),
    ({"classes": 5}, "outside 0 … 3, the model has 4 classes"),
    ({"classes": 3}, "classes = 3, but the model has 4"),
    ({"model": nn.Sequential(MODEL, nn.Softmax(1))}, "returns probabilities"),
], ids=["no child", "no generation", "too many classes", "too few classes", "probabilities"])
def test_bad_evolution(options, message):
    with pytest.raises(ValueError, match=message):
        evolved(ENCODINGS["direct"], **options)


@pytest.mark.parametrize("target, steps, message", [
    (torch.tensor([0, 4]), 5, "outside 0 … 3"),
    (torch.tensor([0, 1, 2]), 5, "2 genomes but targets of shape"),
    (torch.tensor([0, 1]), 0, "steps = 0"),
], ids=["no class", "too many", "no step"])
def test_bad_ascent(target, steps, message):
    with pytest.raises(ValueError, match=message):
        gradient_ascent(MODEL, ENCODINGS["direct"], images(2), target, steps=steps)


@pytest.mark.parametrize("step_size", [-0.05, math.nan, math.inf])
def test_bad_steps_of_the_ascent(step_size):
    with pytest.raises(ValueError, match=r"step_size = .*: use a finite number >= 0"):
        gradient_ascent(MODEL, ENCODINGS["direct"], images(2), torch.tensor([0, 1]),
                        step_size=step_size)
