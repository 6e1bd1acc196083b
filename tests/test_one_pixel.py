"""The one-pixel attack on models small enough to try everything."""

from __future__ import annotations

import pytest
import torch
from strategies import (
    Counting,
    assert_untouched,
    convolutional,
    generator,
    images,
    labels,
    trace,
    trained,
    unusual,
)
from torch import Tensor, nn

from course_lib.attacks import one_pixel
from course_lib.attacks.one_pixel import corner_search, paint, search
from course_lib.losses import log_odds

MODEL, X = convolutional(), images(5)
Y = labels(MODEL, X)


def toy(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """4 x 4 grey images, three classes, a network that is not linear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)).eval()
        model[1].weight.data *= 3
    x = images(6, (1, 4, 4), seed)
    return model, x, labels(model, x)


def brute_force(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """All 16 positions with all 256 grey levels: images [4096, 1, 4, 4], their logits."""
    tried = x.repeat(4096, 1, 1, 1).view(16, 256, 1, 16)
    for place in range(16):
        tried[place, :, 0, place] = torch.arange(256) / 255
    tried = tried.view(-1, 1, 4, 4)
    with torch.no_grad():
        return tried, model(tried)


class Never(nn.Module):
    """A model whose prediction stays the same, while its logits move: the search never ends early.

    The largest logit belongs to a class of its own; the others are those of the toy.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        z = self.model(x)
        return torch.cat([z, torch.full_like(z[:, :1], 30)], 1)


@pytest.mark.parametrize("strategy, at_least", [("rand1", 6), ("best1", 3)])
def test_it_finds_the_best_of_all_pixels_and_grey_levels(strategy, at_least):
    """rand1 in every image; best1 is greedy and stays with a good pixel in some."""
    model, x, _ = toy()
    never, y = Never(model), torch.full((6,), 3)
    found = search(never, x, y, population=200, generations=60, strategy=strategy,
                   generator=generator())
    best = torch.stack([log_odds(brute_force(never, image)[1], y[:1].expand(4096)).min()
                        for image in x])
    assert (found.costs >= best - 1e-4).all()
    assert ((found.costs - best).abs() < 1e-4).sum() >= at_least


def test_it_fools_whatever_one_pixel_can_fool():
    model, x, y = toy(1)
    x_adv = one_pixel(model, x, y, population=100, generations=60, generator=generator())
    possible = [bool((brute_force(model, x[i])[1].argmax(1) != y[i]).any()) for i in range(6)]
    assert 0 < sum(possible) < 6
    assert (labels(model, x_adv) != y).tolist() == possible


def test_targets_are_reached_where_one_pixel_can():
    model, x, y = toy(1)
    x, y = x.repeat_interleave(2, 0), y.repeat_interleave(2)
    target = (y + torch.tensor([1, 2]).repeat(6)) % 3
    x_adv = one_pixel(model, x, y, target=target, population=100, generations=60,
                      generator=generator())
    possible = [bool((brute_force(model, x[i])[1].argmax(1) == target[i]).any()) for i in range(12)]
    assert 0 < sum(possible) < 12
    assert (labels(model, x_adv) == target).tolist() == possible


def test_corner_search_is_the_best_of_black_and_white():
    model, x, y = toy()
    found = corner_search(model, x, y)
    for i in range(6):
        tried, logits = brute_force(model, x[i])
        ends = [0, 255]
        costs = log_odds(logits, y[i].expand(4096)).view(16, 256)[:, ends]
        hits = (logits.argmax(1) != y[i]).view(16, 256)[:, ends]
        torch.testing.assert_close(found.cost_map[i].flatten(), costs.amin(1))
        assert found.fooled[i] == hits.any()
        best = costs.masked_fill(~hits, torch.inf).min() if hits.any() else costs.min()
        torch.testing.assert_close(found.costs[i], best)
        assert ((found.x_adv[i] == tried.view(16, 256, 1, 4, 4)[:, ends]).flatten(2).all(2)).any()


def test_corner_search_tries_every_extreme_colour():
    model = Counting(MODEL)
    found = corner_search(model, X[:2], Y[:2])
    assert sum(model.sizes) - 2 == 2 * 6 * 5 * 2**3
    changed = (found.x_adv != X[:2]).any(1)
    assert (changed.flatten(1).sum(1) == 1).all()
    assert ((found.x_adv == 0) | (found.x_adv == 1)).all(1)[changed].all()


def test_one_pixel_comes_close_to_the_corners_and_may_pass_them():
    d = trained()
    x, y = d.x[:12], d.y[:12]
    corners = corner_search(d.model, x, y)
    found = search(d.model, x, y, population=100, generations=30, generator=generator())
    open_ = ~corners.fooled & ~found.solved
    assert open_.any()
    assert (found.costs <= corners.costs + 0.05)[open_].all()


@pytest.mark.parametrize("pixels", [1, 3, 30])
def test_at_most_k_pixels_change_to_grey_levels_inside_the_box(pixels):
    x_adv = one_pixel(MODEL, X, Y, pixels=pixels, population=10, generations=3,
                      generator=generator())
    changed = (x_adv != X).any(1)
    assert (changed.flatten(1).sum(1) <= pixels).all()
    assert changed.any()
    levels = x_adv.movedim(1, -1)[changed] * 255
    torch.testing.assert_close(levels, levels.round())
    assert levels.min() >= 0 and levels.max() <= 255
    assert x_adv.dtype == X.dtype and x_adv.shape == X.shape and not x_adv.requires_grad


def test_column_before_row():
    """Images here are 6 rows of 5 columns: swapped, the last rows could not be reached."""
    painted = paint(torch.zeros(1, 3, 6, 5), torch.tensor([[1.7, 5.2, 1.0, 0.5, 0.0]]))
    assert painted[0, :, 5, 1].tolist() == pytest.approx([1.0, 128 / 255, 0.0])
    assert (painted != 0).sum() == 2


def test_every_place_can_be_drawn():
    seen = []
    search(Never(nn.Sequential(nn.Flatten(), nn.Linear(12, 2))), images(1, (1, 2, 6)),
           torch.tensor([2]), population=4000, generations=0, generator=generator(),
           callback=lambda t, genes, *_: seen.append(genes[0]))
    places = seen[0][:, :2].long()
    counts = torch.bincount(places[:, 1] * 6 + places[:, 0], minlength=12)
    assert len(counts) == 12
    assert counts.min() > 250 and counts.max() < 420
    # N(128, 127), cut to the levels there are: about 16 % at either end.
    colours = seen[0][:, 2]
    for edge in (0.0, 1.0):
        assert 0.12 < (colours == edge).float().mean() < 0.2


def test_a_column_beyond_the_edge_and_256_as_a_colour_are_cut():
    painted = paint(torch.zeros(1, 1, 2, 2), torch.tensor([[2.0, 2.0, 256 / 255]]))
    assert painted.flatten().tolist() == [0, 0, 0, 1]


def test_the_later_pixel_covers_the_earlier_as_a_whole():
    genes = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.2, 0.0, 0.4]])
    assert paint(torch.ones(1, 3, 1, 1), genes).flatten().tolist() == pytest.approx([0.2, 0, 0.4])


def test_the_input_is_not_painted():
    before = X.clone()
    one_pixel(MODEL, X, Y, population=8, generations=2, generator=generator())
    assert torch.equal(X, before)


def test_log_odds_still_differ_where_probabilities_do_not():
    logits = torch.tensor([[30.0, 0.0, -2.0], [40.0, 0.0, -2.0]])
    y = torch.zeros(2, dtype=torch.int64)
    p = logits.softmax(1)[:, 0]
    assert p[0] == p[1] == 1
    assert log_odds(logits, y).tolist() == pytest.approx([29.873, 39.873], abs=1e-3)
    ordinary = torch.randn(100, 3, generator=generator())
    p = ordinary.softmax(1)[:, 1]
    torch.testing.assert_close(log_odds(ordinary, torch.ones(100, dtype=torch.int64)), p.logit(),
                               rtol=1e-3, atol=1e-4)


def test_a_saturated_network_is_attacked_all_the_same():
    """Logits times 100: every probability is exactly 1, and a cost of 1 - p would be flat."""
    model, x, y = toy()

    class Loud(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 100 * Never(model)(x)

    y = torch.full((6,), 3)
    found = search(Loud(), x, y, population=200, generations=60, generator=generator())
    for i in range(6):
        _, logits = brute_force(Never(model), x[i])
        best = log_odds(100 * logits, y[:1].expand(4096)).min()
        torch.testing.assert_close(found.costs[i], best, rtol=0, atol=1e-2)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_papers_stop_asks_for_confidence(targeted):
    model, x, y = toy(2)
    model[3].weight.data *= 12  # more certain, but of the same classes
    model[3].bias.data *= 12
    target = (y + 1) % 3 if targeted else None
    options = {"target": target, "population": 60, "generations": 40}
    first, paper = (search(model, x, y, stop=stop, generator=generator(), **options)
                    for stop in ("argmax", "paper"))
    p = model(paint(x, paper.genes)).softmax(1)
    sure = p.gather(1, y[:, None]) < 0.05 if target is None else p.gather(1, target[:, None]) > 0.9
    assert torch.equal(paper.solved, sure[:, 0]) and 0 < paper.solved.sum() < first.solved.sum()
    assert (paper.evaluations >= first.evaluations).all()
    assert (paper.costs <= first.costs).all()
    x_adv = one_pixel(model, x, y, stop="paper", generator=generator(), **options)
    assert torch.equal(x_adv, paint(x, paper.genes))


def test_with_many_classes_less_than_five_percent_can_lead():
    """The paper's criterion alone would stop at the clean image, which nothing fools here."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 100))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.eye(100)[7] / 2
    x, y = images(1, (1, 4, 4)), torch.tensor([7])
    assert model(x).softmax(1)[0, 7] < 0.05
    assert not search(model, x, y, population=4, generations=0, stop="paper").solved.item()


def test_queries_are_counted():
    model = Counting(MODEL)
    found = search(model, X, Y, population=12, generations=6, generator=generator())
    assert (found.evaluations[~found.solved] == 12 * 7).all()
    # The clean images go through the model to check its logits; nothing is learnt from them. Two
    # queries were repetitions.
    assert sum(model.sizes) - len(X) == found.evaluations.sum() - 2


@pytest.mark.parametrize("pixels", [1, 2])
def test_candidates_that_paint_the_same_share_a_pass(pixels):
    model = Counting(convolutional(channels=1))
    x = images(1, (1, 3, 3))
    search(model, x, labels(model, x), pixels=pixels, population=200, generations=5,
           strategy="best1", stop="paper", generator=generator())
    passes = model.seen[2:]
    assert sum(map(len, passes)) < 0.8 * 200 * len(passes)
    # Of two pixels, the same ones in another order count as another candidate.
    assert pixels == 2 or all(len(batch.unique(dim=0)) == len(batch) for batch in passes)


@pytest.mark.parametrize("chosen", [[0], [4], [3, 1]])
def test_companions_change_nothing(chosen):
    """The luck of an image comes with its place in the batch, so it keeps its place here."""
    everyone = one_pixel(MODEL, X, Y, population=20, generations=8, generator=generator())
    x, y = X.flip(0).clone(), Y.flip(0)
    x[chosen], y[chosen] = X[chosen], Y[chosen]
    others = one_pixel(MODEL, x, y, population=20, generations=8, generator=generator())
    assert torch.equal(everyone[chosen], others[chosen])


def test_a_smaller_batch_is_the_beginning_of_a_larger_one():
    whole = one_pixel(MODEL, X, Y, population=20, generations=8, generator=generator())
    part = one_pixel(MODEL, X[:2], Y[:2], population=20, generations=8, generator=generator())
    assert torch.equal(whole[:2], part)


def test_nothing_is_left_behind():
    model = unusual(convolutional())
    before = trace(model)
    one_pixel(model, X, Y, population=8, generations=2, generator=generator())
    corner_search(model, X[:1], Y[:1])
    assert_untouched(model, before)


def attack(**options) -> Tensor:
    return one_pixel(MODEL, X, Y, **{"population": 8, "generations": 1, "generator": generator(),
                                     **options})


@pytest.mark.parametrize("options, message", [
    ({"population": 3}, "population of 3 has no three distinct parents .* use at least 4"),
    ({"pixels": 0}, "pixels = 0: an image here has 1 to 30 pixels"),
    ({"pixels": 31}, "pixels = 31: an image here has 1 to 30 pixels"),
    ({"generations": -1}, "generations = -1"),
    ({"strategy": "rand2"}, "unknown strategy 'rand2'"),
    ({"target": Y}, "target equals its image's label"),
    ({"stop": "never"}, "unknown stop='never': use one of argmax, paper"),
    ({"target": torch.tensor([(int(k) + 1) % 4 for k in Y[:-1]] + [4])}, "outside 0 … 3"),
], ids=["population", "no pixel", "too many pixels", "generations", "strategy", "stop",
        "label as target", "no class"])
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        attack(**options)


@pytest.mark.parametrize("run", [
    lambda x, y: one_pixel(MODEL, x, y, population=8, generations=1, generator=generator()),
    lambda x, y: corner_search(MODEL, x, y),
], ids=["one_pixel", "corner_search"])
def test_bad_images_and_labels(run):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        run(X * 255, Y)
    with pytest.raises(ValueError, match="outside 0 … 3, the model has 4 classes"):
        run(X, torch.cat([Y[:-1], torch.tensor([7])]))
