"""The one-pixel attack in the paper's setting on random CIFAR-10 test images; for lesson 06.

    python benchmarks/one_pixel_cifar10.py data/cache/cifar10 --images 500

writes data/results/one_pixel_cifar10.json: population 400, up to 100 generations, F = 0.5, on
images of the test set, drawn at random, that cifar_allconv names correctly; and how many of them
the exhaustive search over positions and extreme colours fools. The folder: see
`datasets.cifar10_folder`. An hour on two cores.
"""

from __future__ import annotations

import argparse

import torch

from course_lib import datasets, device, generator, models, runtime
from course_lib.attacks.one_pixel import corner_search, search
from course_lib.evaluation import fooled

AT_ONCE = 25  # images, so that progress shows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, test = models.load("cifar_allconv"), datasets.cifar10_folder(args.folder, "test")
    draw = generator(args.seed)
    images = test[torch.randperm(len(test), generator=draw)[:2 * args.images]].to(device())
    x, y = images.x.float() / 255, images.y
    right = ~fooled(model, x, y)
    x, y = x[right][:args.images], y[right][:args.images]
    if len(y) < args.images:
        raise ValueError(f"only {len(y)} images are named correctly: ask for fewer than that")
    solved, by_corners, queries = [], [], []
    with runtime.timed() as clock:
        parts = list(zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True))
        for part in runtime.progress(parts, "parts"):
            found = search(model, *part, generator=draw)
            solved += found.solved.tolist()
            queries += found.evaluations.tolist()
            by_corners += corner_search(model, *part).fooled.tolist()
    runtime.record(
        "one_pixel_cifar10", f"python benchmarks/one_pixel_cifar10.py {args.folder} "
        f"--images {args.images}", network="cifar_allconv", images=len(y), seed=args.seed,
        population=400, generations=100, success=100 * sum(solved) / len(y),
        success_of_corners=100 * sum(by_corners) / len(y), mean_queries=sum(queries) / len(y),
        seconds=round(clock.seconds))
    print(f"{sum(solved)} of {len(y)} by evolution, {sum(by_corners)} by exhaustive search")


if __name__ == "__main__":
    main()
