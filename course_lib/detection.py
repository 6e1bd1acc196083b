"""Detection: boxes and their names, how good they are, and how to train for them. For lesson 08.

    python -m course_lib.detection

trains the network that ships, writes data/weights/scene_detector.safetensors with its sha256, and
its card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou, generalized_box_iou_loss

from course_lib import runtime, scenes
from course_lib.attacks import dag
from course_lib.scenes import Scenes
from course_lib.segmentation import ship

NAME, CELL = "scene_detector", 4  # pixels between two places that predict a box
TESTED, ATTACKED = 100, 20  # scenes of the card
LEVELS = (4, 8, 16)  # grey levels of its attacks


@dataclass(frozen=True, eq=False)
class Boxes:
    """What a detector finds in one scene, the surest first.

    boxes [k, 4]: left, top, right and lower end in pixels; labels [k] int64: 1 + d for a digit d;
    scores [k]: the confidence.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


class Names(nn.Module):
    """The part of a detector that DAG attacks: the logits of its places."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> Tensor:
        return self.detector(x)[0]


def places(rows: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """The middle of each place that predicts a box, x and y in pixels: [rows, columns, 2]."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device),
                          indexing="ij")
    return CELL * torch.stack([x, y], 2) + CELL / 2


def place_map(batch: Scenes) -> tuple[Tensor, Tensor]:
    """What each place shall say: the digit whose box has it in its middle half, and which box.

    Shape: -> names [n, rows / 4, columns / 4] int64, 0 where there is no digit; index of the box,
    of the same shape.
    Lesson: 08.
    """
    x, y = places(scenes.SIDE // CELL, scenes.SIDE // CELL, batch.x.device).unbind(2)
    left, top, right, bottom = batch.boxes[..., None, None].unbind(2)  # each [n, 4, 1, 1]
    inside = (((x - (left + right) / 2).abs() <= (right - left).clamp_min(CELL) / 4 + 1)
              & ((y - (top + bottom) / 2).abs() <= (bottom - top) / 4 + 1)
              & (batch.labels > 0)[..., None, None])
    which = inside.float().argmax(1)
    names = batch.labels[..., None, None].expand(inside.shape).gather(1, which[:, None])[:, 0]
    return names * inside.any(1), which


def decoded(sides: Tensor) -> Tensor:
    """Boxes from distances to the four sides. [n, 4, rows, columns] -> [n, rows, columns, 4]"""
    middle = places(sides.shape[2], sides.shape[3], sides.device)
    near, far = sides.movedim(1, 3).split(2, 3)
    return torch.cat([middle - near, middle + far], 3)


def place_loss(model: nn.Module, batch: Scenes) -> Tensor:
    """Cross-entropy of each place's name, plus 1 - GIoU of the boxes at places that show a digit.

    Reference: Rezatofighi et al. 2019 for GIoU.
    Lesson: 08.
    """
    logits, sides = model(batch.x)
    names, which = place_map(batch)
    wanted = batch.boxes[torch.arange(len(which), device=which.device)[:, None, None], which]
    shown = names > 0
    weight = torch.where(shown, 3.0, 1.0)  # places with a digit are few
    loss = (weight * F.cross_entropy(logits, names, reduction="none")).mean()
    return loss + generalized_box_iou_loss(decoded(sides)[shown], wanted[shown], reduction="mean")


@torch.no_grad()
def detect(
    model: nn.Module, x: Tensor, *, least: float = 0.05, overlap: float = 0.4
) -> list[Boxes]:
    """The boxes that a detector finds in each scene.

    Each place proposes its surest digit; those below the confidence `least` are dropped. Of two
    boxes of one digit whose IoU is above `overlap`, the surer one stays (non-maximum suppression).

    Shape: x [n, 3, rows, columns] in [0, 1].
    Lesson: 08.
    """
    logits, sides = model(x)
    scores, labels = logits.softmax(1)[:, 1:].max(1)
    found = []
    for box, score, label in zip(decoded(sides).flatten(1, 2), scores.flatten(1),
                                 labels.flatten(1) + 1, strict=True):
        sure = score > least
        box, score, label = box[sure].clamp(0, x.shape[3]), score[sure], label[sure]
        kept = batched_nms(box, score, label, overlap)
        found.append(Boxes(box[kept], label[kept], score[kept]))
    return found


def mean_average_precision(
    found: Sequence[Boxes], batch: Scenes, *, iou: float = 0.5
) -> float:
    """mAP: for each digit the area under its curve of precision over recall, then the mean.

    The boxes of all scenes are sorted by confidence. A box is right when its IoU with a box of its
    digit that no surer one has taken is at least `iou`; precision is made to fall only, as in
    PASCAL VOC 2010. Digits that no scene shows do not count.

    Raises: ValueError when the numbers of scenes differ.
    Reference: Everingham et al. 2010, section 4.2.
    Lesson: 08.
    """
    if len(found) != len(batch):
        raise ValueError(f"boxes for {len(found)} scenes, but {len(batch)} scenes")
    shown = [k for k in range(1, len(scenes.CLASSES)) if bool((batch.labels == k).any())]
    return sum(_average_precision(found, batch, k, iou) for k in shown) / len(shown)


def _average_precision(found: Sequence[Boxes], batch: Scenes, k: int, iou: float) -> float:
    scores, hits = [], []
    for boxes, labels, truth in zip(found, batch.labels, batch.boxes, strict=True):
        mine, there = boxes.labels == k, truth[labels == k]
        free = torch.ones(len(there), dtype=torch.bool, device=there.device)
        for score, row in zip(boxes.scores[mine], box_iou(boxes.boxes[mine], there), strict=True):
            fits = row * free >= iou
            hit = bool(fits.any())
            if hit:
                free[(row * free).argmax()] = False
            scores.append(float(score))
            hits.append(float(hit))
    if not scores:
        return 0.0
    right = torch.tensor(hits)[torch.tensor(scores).argsort(descending=True, stable=True)]
    precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
    falling = precision.flip(0).cummax(0).values.flip(0)
    return float((falling * right).sum() / (batch.labels == k).sum())


def main(arguments: list[str] | None = None) -> None:
    """The command behind data/weights/scene_detector.safetensors and its card."""
    ship(NAME, "detection", place_loss, _measured, 12, arguments)


def _measured(model: nn.Module) -> str:
    """The table of the card: mAP on scenes of the split "test", before and after DAG."""
    test = scenes.compose(TESTED, "test").to(runtime.device())
    rows = [f"| 0 | none | {TESTED} | {mean_average_precision(detect(model, test.x), test):.3f} |"]
    few = test[:ATTACKED]
    for level in LEVELS:
        x_adv = dag(Names(model), few.x, place_map(few)[0], eps=level / 255)
        found = mean_average_precision(detect(model, x_adv), few)
        rows.append(f"| {level}/255 | DAG, 40 steps | {len(few)} | {found:.3f} |")
    return """| eps in l_inf | attack | scenes | mAP at IoU 0.5 |
| --- | --- | --- | --- |
""" + "".join(f"{row}\n" for row in rows)


if __name__ == "__main__":
    main()
