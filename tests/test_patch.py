"""An adversarial patch: where it lies, that it stays in the box, that it works in other places."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from strategies import assert_untouched, images, trace
from torch import nn

from course_lib import runtime
from course_lib.attacks.patch import (
    AREA,
    Places,
    adversarial_patch,
    paste,
    patch_gradient,
    random_places,
)

X = images(shape=(3, 32, 32))


def classifier() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.BatchNorm2d(8),
                             nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def place(across: float, down: float, side: float, degrees: float) -> Places:
    angle = torch.tensor([degrees]).deg2rad()
    return Places(*(torch.tensor([value]) for value in (across, down, side)), angle)


def test_a_patch_lies_where_its_place_says():
    x, patch = torch.zeros(1, 1, 8, 8), torch.arange(16.0).view(1, 4, 4) / 16 + 0.01
    found = paste(x, patch, place(0.5, -0.5, 0.5, 0))  # right, above
    assert torch.allclose(found[0, 0, :4, 4:], patch[0], atol=1e-5)
    assert float(found.sum()) == pytest.approx(float(patch.sum()), abs=1e-4)


def test_a_quarter_turn_is_clockwise():
    x, patch = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)
    patch[0, 0, 0] = 1  # the upper left corner goes to the upper right one
    assert float(paste(x, patch, place(0, 0, 1, 90))[0, 0, 0, 3]) == pytest.approx(1, abs=1e-4)


def test_random_places_keep_the_whole_patch_inside_and_its_area_near():
    places = random_places(200, generator=runtime.generator(3))
    on_it = paste(torch.zeros(200, 1, 100, 100), torch.ones(1, 4, 4), places)
    share = on_it.mean((1, 2, 3))
    assert float((share - places.side**2).abs().max()) < 0.004  # nothing was cut off
    assert share.mean() == pytest.approx(AREA, rel=0.05)
    assert {float(on_it[:, 0, i, j].amax()) for i in (20, 50, 80) for j in (20, 50, 80)} == {1.0}


def test_pixels_beside_the_patch_stay_and_its_gradient_is_that_of_the_mean_loss():
    model, places, patch = classifier(), random_places(len(X)), torch.full((3, 8, 8), 0.4)
    pasted = paste(X, patch, places)
    assert 0.8 < float((pasted == X).float().mean()) < 0.95
    gradient, loss = patch_gradient(model, X, patch, places, 2)
    moved = paste(X, patch - 1e-2 * gradient / gradient.norm(), places)

    def loss_of(x):
        return nn.functional.cross_entropy(model(x), torch.full((len(X),), 2)).item()

    assert loss_of(pasted) == pytest.approx(float(loss))
    gain = float(loss) - loss_of(moved)
    assert gain == pytest.approx(1e-2 * float(gradient.norm()), rel=0.1)


def test_training_lowers_the_loss_in_places_it_has_not_seen_and_stays_in_the_box():
    model = classifier()
    before = trace(model)
    patch = adversarial_patch(model, X, 1, steps=20, step_size=0.1)
    assert_untouched(model, before)
    assert float(patch.min()) >= 0 and float(patch.max()) <= 1
    places = random_places(len(X), generator=runtime.generator(9))
    losses = [patch_gradient(model, X, p, places, 1)[1]
              for p in (patch, torch.full_like(patch, 0.5))]
    assert losses[0] < losses[1] - 0.02
    assert torch.equal(patch, adversarial_patch(model, X, 1, steps=20, step_size=0.1))


@pytest.mark.parametrize(("changes", "words"), [
    ({"x": X * 255}, r"must lie in \[0, 1\]"), ({"steps": 0}, "at least one step"),
    ({"step_size": -1.0}, "step_size"), ({"target": 4}, "outside 0 … 3")])
def test_bad_input_is_named(changes, words):
    given = {"model": classifier(), "x": X, "target": 1, "steps": 1} | changes
    with pytest.raises(ValueError, match=words):
        adversarial_patch(given.pop("model"), given.pop("x"), given.pop("target"), **given)


def test_an_area_for_which_there_is_no_room():
    with pytest.raises(ValueError, match="a share of the image"):
        random_places(1, area=0.5)


def test_the_recorded_patch_is_a_square_picture_and_works_where_its_record_says():
    with Image.open(runtime.RESULTS / "patch_toaster.png") as picture:
        assert picture.size == (64, 64)
    record = runtime.recorded("patch")
    assert record["patch, held out"]["another name in %"] >= 70
    assert record["grey, held out"]["another name in %"] < 30
