"""One pixel and JSMA beside torchattacks, the Adversarial Robustness Toolbox (ART) and SciPy.

    make bench        installs torchattacks 3.5.1, the first version with JSMA
    python benchmarks/gradient_free.py               both contests; writes the record
    python benchmarks/gradient_free.py jsma          only those named; prints, writes nothing

Every library attacks the same network and images with the same budget: one pixel with best/1, 400
candidates (torchattacks and ART round them to 399) and 20 generations, stopping an image once it
is fooled; JSMA with theta = 1 and at most 14.5 % of the pixels. ART's JSMA looks at single pixels
and the target's slope alone. The judge is `course_lib.evaluation`; the libraries run in turn.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from dataclasses import asdict
from functools import partial
from importlib.metadata import version

import numpy as np
import torch
import torchattacks
from art.attacks.evasion import PixelAttack, SaliencyMapMethod
from art.estimators.classification import PyTorchClassifier
from gradient_attacks import OURS, Clocked, Outcome, Whole, race, ratios
from scipy import optimize
from torch import Tensor, nn

from course_lib import datasets, generator, models, runtime
from course_lib.attacks import jsma, one_pixel
from course_lib.attacks.one_pixel import paint
from course_lib.evaluation import Attack, fooled
from course_lib.gradients import frozen
from course_lib.losses import log_odds

POPULATION, GENERATIONS, FRACTION, SEED = 400, 20, 0.145, 0
PACKAGES = ["torch", "torchattacks", "adversarial-robustness-toolbox", "scipy"]
# Repetitions, images, and how many times faster than each library the course wants to be.
CONTESTS = {
    "one_pixel": (3, 20, {"torchattacks": 3.0, "art": 10.0}),
    "jsma": (1, 100, {"torchattacks": 30.0, "art": 5.0}),
}


def next_class(y: Tensor) -> Tensor:
    """JSMA's targets."""
    return (y + 1) % 10


def scipy_one_pixel(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The library's objective and judge, minimised by SciPy one image at a time."""
    return torch.cat([_scipy_one(model, x[i:i + 1], y[i:i + 1]) for i in range(len(x))])


@torch.no_grad()
def _scipy_one(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    channels, rows, columns = x.shape[1:]

    def logits(genes: np.ndarray) -> Tensor:
        painted = torch.from_numpy(genes).float()
        return model(paint(x.expand(len(painted), -1, -1, -1), painted))

    def cost(genes: np.ndarray) -> np.ndarray:
        z = logits(genes.T)
        return log_odds(z, y.expand(len(z))).numpy()

    def stop(genes: np.ndarray, convergence: float) -> bool:
        return bool(logits(genes[None]).argmax(1) != y)

    start = np.random.default_rng(SEED).random((POPULATION, 2 + channels))
    box = np.array([columns, rows, *[1] * channels])
    with frozen(model):
        found = optimize.differential_evolution(
            cost, [(0, top) for top in box], init=start * box, maxiter=GENERATIONS, mutation=0.5,
            recombination=1, strategy="best1bin", updating="deferred", vectorized=True,
            callback=stop, tol=0, polish=False, rng=SEED)
    return paint(x, torch.from_numpy(found.x[None]).float())


def torchattacks_one_pixel(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    np.random.seed(SEED)  # noqa: NPY002 - that is where it draws from
    return torchattacks.OnePixel(model, pixels=1, steps=GENERATIONS, popsize=POPULATION,
                                 inf_batch=POPULATION)(x, y)


def torchattacks_jsma(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    attack = torchattacks.JSMA(model, theta=1.0, gamma=FRACTION)
    attack.set_mode_targeted_by_label(quiet=True)
    return attack(x, next_class(y))


def art_classifier(model: nn.Module, x: Tensor) -> PyTorchClassifier:
    return PyTorchClassifier(Whole(model), nn.CrossEntropyLoss(), tuple(x.shape[1:]),
                             nb_classes=10, clip_values=(0.0, 1.0), device_type="cpu")


def art_one_pixel(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    np.random.seed(SEED)  # noqa: NPY002 - that is where it draws from
    attack = PixelAttack(art_classifier(model, x), th=1, es=1, max_iter=GENERATIONS, verbose=False)
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def art_jsma(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    attack = SaliencyMapMethod(art_classifier(model, x), theta=1.0, gamma=FRACTION,
                               batch_size=len(x), verbose=False)
    return torch.from_numpy(attack.generate(x.numpy(), next_class(y).numpy()))


def our_one_pixel(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return one_pixel(model, x, y, population=POPULATION, generations=GENERATIONS,
                     strategy="best1", generator=generator(SEED))


def our_jsma(model: nn.Module, x: Tensor, y: Tensor, others: str) -> Tensor:
    return jsma(model, x, y, target=next_class(y), max_fraction=FRACTION, others=others)


ATTACKS: dict[str, dict[str, Attack]] = {
    "one_pixel": {OURS: our_one_pixel, "torchattacks": torchattacks_one_pixel,
                  "art": art_one_pixel, "scipy": scipy_one_pixel},
    "jsma": {OURS: partial(our_jsma, others="likely"),
             f"{OURS}, the paper's sum": partial(our_jsma, others="all"),
             "torchattacks": torchattacks_jsma, "art": art_jsma},
}


def verdict(contest: str, model: nn.Module, x: Tensor, y: Tensor, attack: Clocked) -> dict:
    """Images fooled in %, and how many of the pixels changed, in % on average and at most."""
    x_adv = attack(model, x.clone(), y)
    hit = fooled(model, x_adv, y, next_class(y) if contest == "jsma" else None)
    changed = ((x_adv - x).abs() > 1e-6).any(1).flatten(1).double().mean(1)
    return {"success": 100 * hit.double().mean().item(),
            "mean pixels": 100 * changed[hit].mean().item() if hit.any() else 0.0,
            "most pixels": 100 * changed.max().item()}


def hold(contest: str) -> dict[str, Outcome]:
    repetitions, n, _ = CONTESTS[contest]
    model, data = models.load("mnist_cnn", "cpu"), datasets.mnist("test")
    right = ~fooled(model, data.x, data.y)
    x, y = data.x[right][:n], data.y[right][:n]
    makers = {name: lambda attack=attack: attack for name, attack in ATTACKS[contest].items()}
    return race(makers, partial(verdict, contest, model, x, y), repetitions)


def summary(contest: str, outcomes: dict[str, Outcome]) -> dict[str, object]:
    repetitions, n, goals = CONTESTS[contest]
    factor = {name: statistics.median(ratios(outcomes, name)) for name in outcomes}
    return {"images": n, "repetitions": repetitions, "goals": goals, "times as fast as": factor,
            "goal met": {name: factor[name] >= goal for name, goal in goals.items()},
            "libraries": {name: {**asdict(outcome), "median seconds": outcome.median}
                          for name, outcome in outcomes.items()}}


def show(contest: str, outcomes: dict[str, Outcome], result: dict) -> None:
    print(f"\n{contest}: {result['images']} digits, {result['repetitions']} repetitions")
    words = list(outcomes[OURS].verdict)
    print(f"{'':28}" + "".join(f"{word:>13}" for word in words)
          + f"{'seconds':>9}{'ratio':>8}{'forward':>10}{'backward':>10}")
    for name, outcome in outcomes.items():
        print(f"{name:28}" + "".join(f"{outcome.verdict[word]:13.2f}" for word in words)
              + f"{outcome.median:9.2f}{result['times as fast as'][name]:8.1f}"
              f"{outcome.passes.forward:10,}{outcome.passes.backward:10,}")
    print("goals:", ", ".join(f"{goal:g} x {name} {'met' if result['goal met'][name] else 'MISSED'}"
                              for name, goal in result["goals"].items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("contests", nargs="*", metavar="contest", help=", ".join(CONTESTS))
    names = parser.parse_args().contests
    if unknown := set(names) - set(CONTESTS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(CONTESTS)}")
    results = {}
    for name in names or CONTESTS:
        outcomes = hold(name)
        results[name] = summary(name, outcomes)
        show(name, outcomes, results[name])
    if not names:
        runtime.record(
            "gradient_free", "python benchmarks/gradient_free.py", network="mnist_cnn", seed=SEED,
            population=POPULATION, generations=GENERATIONS, max_fraction=FRACTION,
            machine=platform.machine(), threads=torch.get_num_threads(),
            versions={package: version(package) for package in PACKAGES}, contests=results)


if __name__ == "__main__":
    main()
