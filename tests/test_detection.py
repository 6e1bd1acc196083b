"""The detector of scenes: what its places learn, what it finds, and the mean average precision."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from course_lib import detection, models, runtime, scenes, segmentation
from course_lib.attacks import dag
from course_lib.detection import Boxes, Names, decoded, detect, mean_average_precision, place_map
from course_lib.training import initialise


def test_boxes_are_the_ends_of_the_digits_and_none_is_zero():
    batch = scenes.compose(50)
    for labels, boxes, mask in zip(batch.labels, batch.boxes, batch.mask, strict=True):
        for label, (left, top, right, bottom) in zip(labels, boxes.long(), strict=True):
            part = mask[top:bottom, left:right] == label
            if label == 0:
                assert part.numel() == 0
            else:  # every side of the box touches the digit
                assert all(side.any() for side in (part[0], part[-1], part[:, 0], part[:, -1]))
    assert set((batch.labels > 0).sum(1).tolist()) == {1, 2, 3, 4}


def test_places_in_the_middle_of_a_digit_name_it_and_the_others_are_background():
    batch = scenes.compose(20)
    names, which = place_map(batch)
    assert names.shape == which.shape == (20, 16, 16)
    middles = detection.places(16, 16)
    for i, row, column in (names > 0).nonzero().tolist():
        left, top, right, bottom = batch.boxes[i, which[i, row, column]].tolist()
        x, y = middles[row, column].tolist()
        assert left <= x <= right + 1 and top <= y <= bottom + 1
        assert names[i, row, column] == batch.labels[i, which[i, row, column]]
    for labels, there in zip(batch.labels, names, strict=True):  # no digit is without a place
        assert set(labels[labels > 0].tolist()) == set(there[there > 0].tolist())


def test_distances_lead_back_to_the_box():
    sides = torch.zeros(1, 4, 2, 2)
    sides[0, :, 1, 0] = torch.tensor([1.0, 2, 3, 4])  # from the middle, x = 2 and y = 6
    assert decoded(sides)[0, 1, 0].tolist() == [1, 4, 5, 10]


def perfect(batch: scenes.Scenes) -> list[Boxes]:
    """What is there, found with confidence 0.9."""
    return [Boxes(boxes[labels > 0], labels[labels > 0], torch.full_like(labels[labels > 0], 0.9,
                                                                         dtype=torch.float32))
            for labels, boxes in zip(batch.labels, batch.boxes, strict=True)]


def test_map_of_what_is_there_is_one_and_of_nothing_zero():
    batch = scenes.compose(30)
    assert mean_average_precision(perfect(batch), batch) == 1
    nothing = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert mean_average_precision([nothing] * 30, batch) == 0
    with pytest.raises(ValueError, match="boxes for 29 scenes, but 30"):
        mean_average_precision(perfect(batch)[:29], batch)


def one_class(boxes: list[list[float]]) -> scenes.Scenes:
    """A scene with ones (label 2) in these boxes."""
    whole = torch.zeros(1, 4, 4)
    whole[0, :len(boxes)] = torch.tensor(boxes)
    labels = torch.zeros(1, 4, dtype=torch.int64)
    labels[0, :len(boxes)] = 2
    return replace(scenes.compose(1), labels=labels, boxes=whole)


@pytest.mark.parametrize(("scores", "expected"), [
    # Two digits, found by boxes 0 and 2; box 1 is the first digit once more, box 3 is nowhere.
    ([0.9, 0.1, 0.8, 0.05], 1.0),                    # right, right, twice, nowhere
    ([0.9, 0.8, 0.7, 0.6], (1 + 2 / 3) / 2),         # right, twice, right
    ([0.5, 0.1, 0.4, 0.9], (2 / 3 + 2 / 3) / 2),     # nowhere, right, right: precision only falls
])
def test_map_by_hand(scores, expected):
    batch = one_class([[0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [50, 50, 60, 60]])
    found = [Boxes(boxes, torch.full((4,), 2), torch.tensor(scores))]
    assert mean_average_precision(found, batch) == pytest.approx(expected)


def test_a_box_that_is_too_far_off_or_has_another_name_is_wrong():
    batch = one_class([[0, 0, 10, 10]])
    for box, label, expected in (([0.0, 0, 10, 6], 2, 1), ([0.0, 0, 10, 4], 2, 0),
                                 ([0.0, 0, 10, 10], 3, 0)):
        found = [Boxes(torch.tensor([box]), torch.tensor([label]), torch.tensor([0.9]))]
        assert mean_average_precision(found, batch) == expected


def test_of_two_boxes_on_one_digit_the_surer_stays():
    class Two(torch.nn.Module):
        def forward(self, x):
            logits, sides = torch.zeros(1, 11, 16, 16), torch.full((1, 4, 16, 16), 6.0)
            logits[:, 0] = 9
            logits[0, 3, 5, 5], logits[0, 3, 5, 6] = 20, 12
            return logits, sides

    (found,) = detect(Two(), torch.zeros(1, 3, 64, 64))
    assert found.labels.tolist() == [3] and float(found.scores) > 0.99
    assert found.boxes.tolist() == [[16, 16, 28, 28]]


def test_training_lowers_the_loss():
    losses, model = [], models.build("scene_detector")
    initialise(model, runtime.generator(0))
    segmentation.fit(model, detection.place_loss, rounds=3, scenes_per_round=32, batch_size=8,
                     on_round=lambda number, loss: losses.append(loss))
    assert losses[2] < losses[0]


def test_the_detector_that_ships_finds_what_its_card_says_and_dag_takes_it_away():
    card = (models.WEIGHTS / "scene_detector.md").read_text()
    said = {level: float(value) for level, value
            in re.findall(r"\| (\S+) \| [\w, ]+ \| \d+ \| ([\d.]+) \|", card)}
    test, model = scenes.compose(100, "test"), models.load("scene_detector", "cpu")
    found = mean_average_precision(detect(model, test.x), test)
    assert found >= 0.8 and found == pytest.approx(said["0"], abs=0.005)
    few = test[:20]
    x_adv = dag(Names(model), few.x, place_map(few)[0], eps=16 / 255)
    assert float((x_adv - few.x).abs().max()) <= 16 / 255 + 1e-6
    left = mean_average_precision(detect(model, x_adv), few)
    assert left == pytest.approx(said["16/255"], abs=0.03) and left < 0.15
    assert (models.WEIGHTS / "scene_detector.safetensors").stat().st_size < 5e6
