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
from course_lib.attacks.one_pixel import log_odds, paint
from course_lib.datasets import Images
from course_lib.evaluation import fooled, logits


@torch.no_grad()
def drops(model: nn.Module, image: Images) -> Tensor:
    """The map of one image, [rows, columns], and below zero nothing."""
    rows, columns = image.x.shape[2:]
    colours = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * image.x.shape[1])
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1)
    genes = torch.cat([places.repeat_interleave(len(colours), 0).float(),
                       colours.repeat(len(places), 1)], 1).to(image.x)

    def odds(x: Tensor) -> Tensor:
        return log_odds(logits(model, x), image.y.expand(len(x)))

    painted = torch.cat([odds(paint(image.x.expand(len(part), -1, -1, -1), part))
                         for part in genes.split(256)])
    best = painted.view(rows, columns, -1).amin(2)
    return (odds(image.x) - best).clamp(min=0).cpu()


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
