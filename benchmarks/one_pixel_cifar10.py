"""The one-pixel attack in the paper's setting on random CIFAR-10 test images; for lesson 06.

    python benchmarks/one_pixel_cifar10.py data/cache/cifar10 --images 500
    python benchmarks/one_pixel_cifar10.py data/cache/cifar10 --images 40 --pixels 5
    python benchmarks/one_pixel_cifar10.py data/cache/cifar10 --images 5 --targets

writes data/results/one_pixel_cifar10.json (.._5_pixels.json, .._targets.json): population 400, up
to 100 generations, F = 0.5, on images of the test set, drawn at random, that cifar_allconv names
correctly; and for one pixel how many of them the corner search fools, which tries every position
with every extreme colour. --targets asks for each of the nine other classes. Each image's outcome
is written down at once: an interrupted run goes on where it stopped. The folder: see
`datasets.cifar10_folder`. About 30 seconds on two cores for each image that resists.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from course_lib import datasets, device, generator, models, runtime
from course_lib.attacks.one_pixel import corner_search, paint, search
from course_lib.datasets import Images
from course_lib.evaluation import fooled, predict, wilson


def outcome(
    model: nn.Module, image: Images, index: int, *, pixels: int, target: int | None,
    population: int, generations: int, seed: int,
) -> dict:
    """Attack one image; its luck depends on seed and index alone, not on the images before it."""
    wanted = None if target is None else image.y.new_tensor([target])
    found = search(model, image.x, image.y, pixels=pixels, population=population,
                   generations=generations, target=wanted,
                   generator=generator(1_000_003 * seed + index))
    labels, confidences = predict(model, paint(image.x, found.genes))
    result = {
        "index": index, "label": int(image.y), "target": target, "fooled": bool(found.solved),
        "class": int(labels), "confidence": round(confidences.item(), 4),
        "cost": round(found.costs.item(), 3), "queries": int(found.evaluations),
        "pixel": [round(v, 3) for v in found.genes[0].tolist()],
    }
    if pixels == 1 and target is None:
        corners = corner_search(model, image.x, image.y)
        result |= {"corners": bool(corners.fooled), "corner_cost": round(corners.costs.item(), 3)}
    return result


def summary(outcomes: Sequence[dict]) -> dict:
    """Rates with their intervals, and the mean number of queries."""
    n, hits = len(outcomes), sum(o["fooled"] for o in outcomes)
    result = {"attacks": n, "success": 100 * hits / n,
              "interval": [100 * end for end in wilson(hits, n)],
              "mean_queries": sum(o["queries"] for o in outcomes) / n}
    if all("corners" in o for o in outcomes):
        result["success_of_corners"] = 100 * sum(o["corners"] for o in outcomes) / n
    return result


def before(path: Path, setting: dict) -> list[dict]:
    """What an interrupted run with the same setting has left."""
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    same = all(record.get(name) == value for name, value in setting.items())
    return record.get("outcomes", []) if same else []


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--pixels", type=int, default=1)
    parser.add_argument("--targets", action="store_true", help="each of the nine other classes")
    parser.add_argument("--population", type=int, default=400)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--of", choices=datasets.CIFAR10, help="images of this class only")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    name = ("one_pixel_cifar10" + f"_{args.pixels}_pixels" * (args.pixels > 1)
            + "_targets" * args.targets + (f"_{args.of}" if args.of else ""))
    setting = {"network": "cifar_allconv", "seed": args.seed, "pixels": args.pixels,
               "population": args.population, "generations": args.generations}
    outcomes = before(runtime.RESULTS / f"{name}.json", setting)
    done = {(o["index"], o["target"]) for o in outcomes}
    model = models.load("cifar_allconv")
    for index, image in chosen(model, args.folder, args.images, args.seed, args.of):
        targets = [k for k in range(10) if k != int(image.y)] if args.targets else [None]
        for target in targets:
            if (index, target) in done:
                continue
            outcomes.append(outcome(
                model, image, index, pixels=args.pixels, target=target,
                population=args.population, generations=args.generations, seed=args.seed))
            runtime.record(name, command(args), **setting,
                           images=len({o["index"] for o in outcomes}), **summary(outcomes),
                           outcomes=outcomes)
            print(outcomes[-1], flush=True)
    print(json.dumps(summary(outcomes)))


def command(args: argparse.Namespace) -> str:
    """What to type to get this record again."""
    words = ["python benchmarks/one_pixel_cifar10.py", args.folder]
    for name in ("images", "pixels", "population", "generations", "of", "seed"):
        if (value := getattr(args, name)) != {"pixels": 1, "population": 400, "generations": 100,
                                              "of": None, "seed": 0}.get(name):
            words.append(f"--{name} {value}")
    return " ".join([*words, *["--targets"] * args.targets])


def chosen(
    model: nn.Module, folder: str, images: int, seed: int, of: str | None
) -> list[tuple[int, Images]]:
    """Images drawn from the test set that the model names correctly, with their place in it.

    Raises: ValueError when there are fewer than that.
    """
    test = datasets.cifar10_folder(folder, "test")
    order = torch.randperm(len(test), generator=generator(seed))
    if of:
        order = order[test.y[order] == datasets.CIFAR10.index(of)]
    order = order[:2 * images]
    drawn = test[order].floats().to(device())
    right = ~fooled(model, drawn.x, drawn.y)
    places = right.nonzero().squeeze(1)[:images].tolist()
    if len(places) < images:
        raise ValueError(f"only {len(places)} images are named correctly: ask for fewer than that")
    return [(int(order[i]), drawn[i:i + 1]) for i in places]


if __name__ == "__main__":
    main()
