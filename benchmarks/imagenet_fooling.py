"""CPPN pictures that EfficientNet-Lite0 takes for ImageNet classes; a recorded run for lesson 02.

    python benchmarks/imagenet_fooling.py --evaluations 200000

writes data/results/imagenet_fooling.json, the curves, and imagenet_champions.safetensors, the
genome of each class's champion with its confidence. The search scores in bfloat16, 2.4 times
faster on a CPU that has it; every confidence on record is judged in float32. Half an hour on two
cores; on a GPU take --evaluations 2000000, the number of images of the paper.
"""

from __future__ import annotations

import argparse

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from course_lib import device, evolution, fooling, generator, models, runtime
from course_lib.encodings import CPPN

CHILDREN = 400
POINTS = 12  # of the recorded curves


class HalfPrecision(nn.Module):
    """A network that computes in bfloat16, with the channels last in memory."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.model(x.contiguous(memory_format=torch.channels_last))


def judged(model: nn.Module, encoding: CPPN, archive: evolution.Archive) -> Tensor:
    """The confidence of each class in its champion, in float32: [classes]."""
    with torch.no_grad():
        scores = fooling.class_scores(model, encoding, archive.genomes, batch_size=50)
    return fooling.confidence(scores.diagonal())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--evaluations", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = models.load("efficientnet_lite0", device())
    encoding = CPPN((3, 224, 224))
    generations = args.evaluations // CHILDREN
    every, curve = max(1, generations // POINTS), []

    def report(generation: int, archive: evolution.Archive) -> None:
        if generation % every and generation != generations - 1:
            return
        p = judged(model, encoding, archive)
        curve.append({"evaluations": (generation + 1) * CHILDREN, "median": p.median().item(),
                      "above_50": int((p > 0.5).sum()), "above_90": int((p > 0.9).sum())})
        print(f"{clock.seconds:.0f} s", curve[-1], flush=True)

    with runtime.timed() as clock:
        archive = fooling.evolve(
            HalfPrecision(model), encoding, classes=1000, generations=generations,
            children=CHILDREN, batch_size=50, generator=generator(args.seed), callback=report)
    runtime.record(
        "imagenet_fooling",
        f"python benchmarks/imagenet_fooling.py --evaluations {args.evaluations}",
        network="efficientnet_lite0", seed=args.seed, children=CHILDREN,
        evaluations=generations * CHILDREN, seconds=round(clock.seconds),
        device=str(device()), torch=torch.__version__, curve=curve)
    save_file({"genomes": archive.genomes.half().cpu(), "confidence": judged(
        model, encoding, evolution.Archive(archive.genomes.half().float(), archive.scores)).cpu()},
        runtime.RESULTS / "imagenet_champions.safetensors")


if __name__ == "__main__":
    main()
