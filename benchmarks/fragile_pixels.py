"""Where one pixel does most, over all CIFAR-10 images that ship; for lesson 06.

    python benchmarks/fragile_pixels.py              writes data/results/fragile_pixels.json

For each place of an image the largest drop in the log odds of its class that any of the eight
extreme colours brings (0 where none brings one): the mean of these maps over all images that
cifar_allconv names correctly, and for each image the best place. About two minutes on two cores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from course_lib import datasets, device, models, runtime
from course_lib.attacks.one_pixel import corner_search
from course_lib.datasets import Images
from course_lib.evaluation import fooled, logits
from course_lib.losses import log_odds


def drops(model: nn.Module, image: Images) -> Tensor:
    """The map of one image, [rows, columns], and below zero nothing."""
    clean = log_odds(logits(model, image.x), image.y)
    return (clean - corner_search(model, image.x, image.y).cost_map[0]).clamp(min=0).cpu()


def main() -> None:
    model, images = models.load("cifar_allconv"), datasets.cifar10().to(device())
    right = (~fooled(model, images.x, images.y)).nonzero().flatten().tolist()
    maps = torch.stack([drops(model, images[i:i + 1]) for i in right])
    best = [divmod(int(m.argmax()), m.shape[1]) for m in maps]
    clean = log_odds(logits(model, images.x), images.y)
    runtime.record(
        "fragile_pixels", "python benchmarks/fragile_pixels.py", network="cifar_allconv",
        images=[{"index": i, "row": row, "column": column,
                 "log odds": round(clean[i].item(), 2), "drop": round(m.max().item(), 2)}
                for i, (row, column), m in zip(right, best, maps, strict=True)],
        mean_drop=[[round(v, 3) for v in row] for row in maps.mean(0).tolist()])


if __name__ == "__main__":
    main()
