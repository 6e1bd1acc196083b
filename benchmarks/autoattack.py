"""The strong evaluation beside AutoAttack, both with the budgets of Croce and Hein 2020.

    python benchmarks/autoattack.py                   the two networks for digits
    python benchmarks/autoattack.py data/cache/cifar10_jpeg         and cifar_allconv
    python benchmarks/autoattack.py data/cache/cifar10_jpeg --at-once 1000         on a GPU

writes data/results/autoattack.json: how many images still have their name after `robust_accuracy`
with the attacks of `strong_attacks(targeted_steps=100, queries=5000)` and after the AutoAttack of
torchattacks: APGD-CE, APGD-T, FAB-T with 100 steps and nine targets each, Square with 5,000
queries. (`torchattacks.AutoAttack` itself has 10 steps in each of the first three.) Both get the
same fifty images at a time, or --at-once, in turn, and `course_lib.evaluation` judges both; each
fifty are written down at once, and an interrupted run goes on. About 90 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from fractions import Fraction
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torchattacks import APGD, APGDT, FAB, Square
from torchattacks.wrappers.multiattack import MultiAttack

from course_lib import cards, models, runtime
from course_lib.evaluation import fooled, robust_accuracy, strong_attacks

CONTESTS = [("mnist_cnn", "0.1", 1000), ("mnist_cnn_robust", "0.3", 1000),
            ("cifar_allconv", "1/255", 200)]


def ours(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, queries: int) -> Tensor:
    """Which images are fooled. bool [n]"""
    attacks = strong_attacks(eps, steps=steps, targeted_steps=steps, queries=queries)
    return robust_accuracy(model, x, y, attacks, eps=eps).fooled


def autoattack(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, queries: int
) -> Tensor:
    """Which images are fooled, of those that the model names. bool [n]"""
    beaten = fooled(model, x, y)
    right = ~beaten
    attack = MultiAttack([
        APGD(model, eps=eps, steps=steps, loss="ce"), APGDT(model, eps=eps, steps=steps),
        FAB(model, eps=eps, steps=steps, multi_targeted=True, n_classes=10),
        Square(model, eps=eps, n_queries=queries)])
    if right.any():
        beaten[right] = fooled(model, attack(x[right], y[right]), y[right])
    return beaten


def contest(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, steps: int = 100, queries: int = 5000,
) -> dict[str, dict[str, float]]:
    """For both: how many images stand, and the seconds it took."""
    result = {}
    for name, attack in (("course_lib", ours), ("torchattacks", autoattack)):
        with runtime.timed() as clock:
            beaten = attack(model, x, y, eps, steps, queries)
        result[name] = {"standing": int((~beaten).sum()), "seconds": round(clock.seconds, 1)}
    return result


def summary(slices: Sequence[dict]) -> dict[str, float]:
    """Robust accuracies in %, and the ratio of the seconds."""
    n = sum(part["images"] for part in slices)
    total = {(name, what): sum(part[name][what] for part in slices)
             for name in ("course_lib", "torchattacks") for what in ("standing", "seconds")}
    return {"images": n,
            "course_lib": 100 * total["course_lib", "standing"] / n,
            "torchattacks": 100 * total["torchattacks", "standing"] / n,
            "times as long": total["torchattacks", "seconds"] / total["course_lib", "seconds"]}


def device_name() -> str:
    """What computes: the GPU's name, or the number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", help="CIFAR-10, see datasets.cifar10_folder")
    parser.add_argument("--at-once", type=int, default=50, help="images per turn")
    args = parser.parse_args(arguments)
    folder, size = args.folder, args.at_once
    file = runtime.RESULTS / "autoattack.json"
    record = json.loads(file.read_text()) if file.exists() else {}
    found = record.get("slices", {})
    for name, radius, images in CONTESTS:
        if name.startswith("cifar") and not folder:
            continue
        model = models.load(name)
        test = cards.images_of(name, folder, "test")[:images].floats()
        done = found.setdefault(f"{name}, {radius}", [])
        for i in range(sum(part["images"] for part in done), images, size):
            part = test[i:i + size].to(runtime.device())
            done.append({"images": len(part), "device": device_name(),
                         "version": version("torchattacks")} | contest(
                model, part.x.contiguous(),  # FAB takes no channels_last
                part.y, float(Fraction(radius))))
            runtime.record("autoattack", "python benchmarks/autoattack.py data/cache/cifar10_jpeg",
                           **{key: summary(parts) for key, parts in found.items()}, slices=found)
            print(name, radius, i, done[-1], flush=True)
        print(name, radius, summary(done), flush=True)


if __name__ == "__main__":
    main()
