"""Scenes, the segmenter that names their pixels, and how good its maps are."""

from __future__ import annotations

import pytest
import torch

from course_lib import models, runtime, scenes, segmentation
from course_lib.segmentation import mean_iou
from course_lib.training import initialise


def test_scenes_are_images_with_a_name_for_every_pixel():
    found = scenes.compose(50)
    assert found.x.shape == (50, 3, 64, 64) and found.x.dtype == torch.float32
    assert found.mask.shape == (50, 64, 64) and found.mask.dtype == torch.int64
    assert float(found.x.min()) >= 0 and float(found.x.max()) <= 1
    assert set(found.mask.unique().tolist()) == set(range(11))


def test_every_scene_holds_one_to_four_digits_in_quarters_of_their_own():
    mask = scenes.compose(100).mask
    quarters = torch.stack([mask[:, i:i + 32, j:j + 32].flatten(1) for i in (0, 32)
                            for j in (0, 32)])
    filled = (quarters > 0).float().mean(2) > 0.02
    assert set(filled.sum(0).tolist()) == {1, 2, 3, 4}


def test_a_digit_stands_out_from_what_is_behind_it():
    found = scenes.compose(100)
    for x, mask in zip(found.x, found.mask, strict=True):
        inside, outside = x[:, mask > 0].mean(1), x[:, mask == 0].mean(1)
        assert float((inside - outside).abs().max()) > 0.05


def test_equal_arguments_give_equal_scenes_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    first, again, other = (scenes.compose(5, "test", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.x, again.x) and torch.equal(first.mask, again.mask)
    assert not torch.equal(first.x, other.x)
    assert torch.equal(before, torch.get_rng_state())


def test_scenes_to_test_come_from_other_parts_of_the_photographs(monkeypatch):
    """Photographs that grow brighter from left to right tell where a crop was cut."""
    ramp = torch.linspace(0, 1, 300).expand(3, 100, 300)
    monkeypatch.setattr(scenes, "_photographs", lambda: [ramp])
    crops = {split: scenes._crops(50, split, runtime.generator(0)) for split in ("train", "test")}
    assert float(crops["train"].max()) <= 2 / 3 <= float(crops["test"].min()) + 0.01


def test_a_selection_and_a_device():
    found = scenes.compose(4)
    assert len(found[1:3]) == 2 and torch.equal(found[[3]].mask[0], found.mask[3])
    assert found.to("cpu").x.device.type == "cpu"


@pytest.mark.parametrize(("arguments", "words"), [((0,), "at least one scene"),
                                                  ((1, "valid"), "unknown split 'valid'")])
def test_what_cannot_be_composed(arguments, words):
    with pytest.raises(ValueError, match=words):
        scenes.compose(*arguments)


def test_mean_iou_by_hand():
    mask = torch.tensor([[[0, 0, 0, 1]]])
    assert mean_iou(mask, mask) == 1.0
    assert mean_iou(torch.zeros_like(mask), mask) == pytest.approx((3 / 4 + 0) / 2)
    assert mean_iou(torch.tensor([[[0, 0, 1, 1]]]), mask) == pytest.approx((2 / 3 + 1 / 2) / 2)


@pytest.mark.parametrize(("shape", "value", "words"), [
    ((1, 11, 4, 4), 0, "not logits"), ((1, 4, 4), 11, "outside 0 … 10"),
    ((1, 4, 4), -1, "outside 0 … 10")])
def test_maps_that_cannot_be_compared(shape, value, words):
    with pytest.raises(ValueError, match=words):
        mean_iou(torch.full(shape, value), torch.zeros(1, 4, 4, dtype=torch.int64))


def test_the_segmenter_takes_other_sizes_and_is_small():
    model = models.build("scene_segmenter").eval()
    assert model(torch.zeros(2, 3, 32, 48)).shape == (2, 11, 32, 48)
    assert sum(p.numel() for p in model.parameters()) <= 300_000


def test_training_lowers_the_loss_and_repeats_exactly():
    losses, weights = [], []
    for _ in range(2):
        model = models.build("scene_segmenter")
        initialise(model, runtime.generator(0))
        segmentation.fit(model, rounds=3, scenes_per_round=32, batch_size=8,
                         on_round=lambda number, loss: losses.append(loss))
        assert not model.training
        weights.append(model.names.weight.detach())
    assert losses[2] < losses[0] and losses[:3] == losses[3:]
    assert torch.equal(*weights)


def test_the_segmenter_that_ships_names_held_out_scenes():
    """Those of its card; among 100 scenes chance moves the score by about 0.02."""
    test, model = scenes.compose(100, "test"), models.load("scene_segmenter", "cpu")
    assert mean_iou(segmentation.label_map(model, test.x), test.mask) >= 0.8
    assert (models.WEIGHTS / "scene_segmenter.safetensors").stat().st_size < 5e6
    assert (models.WEIGHTS / "scene_segmenter.md").read_text().startswith("# scene_segmenter\n")
