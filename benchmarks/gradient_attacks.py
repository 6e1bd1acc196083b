"""Robust accuracy under PGD and the smallest perturbations of L-BFGS, beside other libraries.

    python benchmarks/gradient_attacks.py            all contests; writes the record
    python benchmarks/gradient_attacks.py lbfgs      only those named; prints, writes nothing

Every library attacks the same network with the same images, radius, step size, steps and random
starts (those of the Adversarial Robustness Toolbox are its own: it takes none from outside), is
handed the same number of images a call, and is judged by `course_lib.evaluation`. The libraries
run in turn; a ratio compares runs of one turn. Eight minutes on two cores.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version

import foolbox
import numpy as np
import torch
import torch.nn.functional as F
import torchattacks
from scipy_lbfgs import scipy_lbfgs
from torch import Tensor, nn

from course_lib import datasets, generator, models, runtime
from course_lib.attacks import lbfgs, pgd
from course_lib.evaluation import Attack, fooled, robust_accuracy
from course_lib.gradients import attacking
from course_lib.norms import norm, uniform_ball

OURS = "course_lib"
SEED = 0
PACKAGES = ["torch", "torchattacks", "foolbox", "adversarial-robustness-toolbox", "scipy"]


# --- PGD as each library offers it: (network, eps, steps, step size) -> attack --------------------


def our_pgd(model: nn.Module, eps: float, steps: int, step_size: float) -> Attack:
    return partial(pgd, eps=eps, steps=steps, step_size=step_size, generator=generator(SEED))


def torchattacks_pgd(model: nn.Module, eps: float, steps: int, step_size: float) -> Attack:
    torch.manual_seed(SEED)  # it draws from the global generator, and thus the same numbers
    attack = torchattacks.PGD(model, eps=eps, alpha=step_size, steps=steps)
    return lambda model, x, y: attack(x, y)


class SameStart(foolbox.attacks.LinfPGD):
    """Foolbox's attack with the random numbers of the others."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.generator = generator(SEED)

    def get_random_start(self, x0, epsilon: float):
        return x0 + uniform_ball(x0.shape, epsilon, "linf", self.generator).to(x0.raw)


def foolbox_pgd(model: nn.Module, eps: float, steps: int, step_size: float) -> Attack:
    attack = SameStart(abs_stepsize=step_size, steps=steps)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return lambda model, x, y: attack.run(wrapped, x, y, epsilon=eps)


class Whole(nn.Module):
    """Hides an nn.Sequential, whose layers ART would call one by one, past the counter."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def art_pgd(model: nn.Module, eps: float, steps: int, step_size: float) -> Attack:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    np.random.seed(SEED)  # noqa: NPY002 - that is where it draws from
    classes = [*model.parameters()][-1].numel()  # the biases of the last layer

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        classifier = PyTorchClassifier(
            Whole(model), nn.CrossEntropyLoss(), tuple(x.shape[1:]), nb_classes=classes,
            clip_values=(0.0, 1.0), device_type="cpu")
        generate = ProjectedGradientDescentPyTorch(
            classifier, eps=eps, eps_step=step_size, max_iter=steps, num_random_init=1,
            batch_size=len(x), verbose=False).generate
        return torch.from_numpy(generate(x.numpy(), y.numpy()))

    return attack


PGD = {OURS: our_pgd, "torchattacks": torchattacks_pgd, "foolbox": foolbox_pgd, "art": art_pgd}


# --- counting and timing --------------------------------------------------------------------------


@dataclass
class Passes:
    """Single images that went through a network, forwards and back."""

    forward: int = 0
    backward: int = 0


@contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count every image that passes the model while the block runs."""
    passes = Passes()

    def returned(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    def passed(module: nn.Module, given: object, logits: Tensor) -> None:
        passes.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(returned)

    hook = model.register_forward_hook(passed)
    try:
        yield passes
    finally:
        hook.remove()


@dataclass
class Outcome:
    """One library in one contest; `seconds` of each repetition, `verdict` in the judge's words."""

    verdict: dict[str, float]
    passes: Passes
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


Run = Callable[[], dict[str, float]]


def race(model: nn.Module, runs: Mapping[str, Run], repetitions: int) -> dict[str, Outcome]:
    """Run all in turn, again and again; the passes and the verdict are those of the last turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    outcomes = {}
    for _ in range(repetitions):
        for name, run in runs.items():
            with counted(model) as passes, runtime.timed() as clock:
                verdict = run()
            seconds[name].append(clock.seconds)
            outcomes[name] = Outcome(verdict, passes, seconds[name])
    return outcomes


def ratios(outcomes: Mapping[str, Outcome], other: str) -> list[float]:
    """How many times as long another library took, repetition by repetition."""
    pairs = zip(outcomes[other].seconds, outcomes[OURS].seconds, strict=True)
    return [theirs / ours for theirs, ours in pairs]


def floor(model: nn.Module, x: Tensor, y: Tensor, passes: Passes) -> float:
    """Seconds that the passes alone take, at the pace of a full batch, without any attack."""
    x, y = x[:256], y[:256]

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def both() -> None:
        given = x.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(given), y), given)

    def seconds(work: Callable[[], None]) -> float:
        times = []
        for _ in range(6):
            with runtime.timed() as clock:
                work()
            times.append(clock.seconds)
        return statistics.median(times) / len(x)

    with attacking(model):
        return (passes.backward * seconds(both)
                + (passes.forward - passes.backward) * seconds(forward))


# --- the contests ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contest:
    """Who is faster at what, and at least how many times faster than the fastest other."""

    network: str
    images: int
    repetitions: int
    goal: float
    eps: float | None = None    # None: L-BFGS, which looks for the smallest
    steps: int | None = None
    batch: int | None = None    # images handed over at once


CONTESTS = {
    "mnist": Contest("mnist_cnn", 1000, 3, 2.0, eps=0.1, steps=40, batch=1000),
    # The others are quickest with a few hundred digits a call; ours makes such parts itself.
    "mnist_parts": Contest("mnist_cnn", 1000, 3, 1.0, eps=0.1, steps=40, batch=256),
    "mnist_robust": Contest("mnist_cnn_robust", 400, 3, 1.0, eps=0.3, steps=40, batch=200),
    "efficientnet": Contest("efficientnet_lite0", 20, 3, 10.0, eps=8 / 255, steps=20, batch=20),
    "lbfgs": Contest("mnist_cnn", 100, 3, 10.0),
}


def robustness(model: nn.Module, x: Tensor, y: Tensor, make: Callable[..., Attack],
               eps: float, steps: int, batch: int) -> dict[str, float]:
    """Clean and robust accuracy in %, judged as anybody's attack is; alpha = 2.5 * eps / steps."""
    attack = make(model, eps, steps, 2.5 * eps / steps)
    report = robust_accuracy(model, x, y, {"PGD": attack}, eps=eps, batch_size=batch)
    return {"clean": 100 * report.clean, "robust": 100 * report.robust}


def distortion(model: nn.Module, x: Tensor, y: Tensor, attack: Attack) -> dict[str, float]:
    """Images fooled in %, and the mean l2 distance of the images that were right at first."""
    right = ~fooled(model, x, y)
    x_adv = attack(model, x, y)
    return {"fooled": 100 * fooled(model, x_adv, y).double().mean().item(),
            "mean l2": norm(x_adv - x, 2)[right].mean().item()}


def hold(contest: Contest) -> tuple[dict[str, Outcome], float]:
    """The outcome of each library, and the floor of ours."""
    model = models.load(contest.network, "cpu")
    data = datasets.imagenet() if "efficientnet" in contest.network else datasets.mnist("test")
    x, y = data.x[:contest.images], data.y[:contest.images]
    if contest.eps is None:
        runs = {name: partial(distortion, model, x, y, attack)
                for name, attack in {OURS: lbfgs, "scipy": scipy_lbfgs}.items()}
    else:
        runs = {name: partial(robustness, model, x, y, make,
                              contest.eps, contest.steps, contest.batch)
                for name, make in PGD.items()}
    outcomes = race(model, runs, contest.repetitions)
    return outcomes, floor(model, x, y, outcomes[OURS].passes)


def summary(contest: Contest, outcomes: dict[str, Outcome], floor: float) -> dict[str, object]:
    """What goes on record: every library's numbers, and ours against the fastest other."""
    fastest = min((name for name in outcomes if name != OURS),
                  key=lambda name: outcomes[name].median)
    ratio = ratios(outcomes, fastest)
    return {
        **asdict(contest), "fastest other": fastest,
        "ratio": statistics.median(ratio), "ratio from": min(ratio), "ratio to": max(ratio),
        "goal met": statistics.median(ratio) >= contest.goal,
        "floor seconds": floor, "over floor": outcomes[OURS].median / floor,
        "libraries": {name: {**asdict(outcome), "median seconds": outcome.median,
                             "images per second": contest.images / outcome.median}
                      for name, outcome in outcomes.items()},
    }


def show(name: str, contest: Contest, outcomes: dict[str, Outcome], result: dict) -> None:
    task = ("the smallest l2 perturbation" if contest.eps is None else
            f"l_inf PGD, eps = {contest.eps:.4g}, {contest.steps} steps, "
            f"{contest.batch} images a call")
    print(f"\n{name}: {contest.network}, {contest.images} images, {task}, "
          f"{contest.repetitions} repetitions")
    words = list(outcomes[OURS].verdict)
    print(f"{'':14}" + "".join(f"{word:>9}" for word in words)
          + f"{'seconds':>9}{'ratio':>8}{'(from, to)':>16}{'forward':>10}{'backward':>10}")
    for library, outcome in outcomes.items():
        ratio = ratios(outcomes, library)
        spread = f"({min(ratio):.2f}, {max(ratio):.2f})"
        print(f"{library:14}" + "".join(f"{outcome.verdict[word]:9.2f}" for word in words)
              + f"{outcome.median:9.2f}{statistics.median(ratio):8.2f}{spread:>16}"
              f"{outcome.passes.forward:10,}{outcome.passes.backward:10,}")
    print(f"floor {result['floor seconds']:.2f} s, ours takes {result['over floor']:.2f} times that"
          f"; {result['ratio']:.2f} times as fast as {result['fastest other']}, "
          f"goal {contest.goal:g}: {'met' if result['goal met'] else 'MISSED'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("contests", nargs="*", metavar="contest", help=", ".join(CONTESTS))
    names = parser.parse_args().contests
    if unknown := set(names) - set(CONTESTS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(CONTESTS)}")
    results = {}
    with runtime.timed() as clock:
        for name in names or CONTESTS:
            outcomes, least = hold(CONTESTS[name])
            results[name] = summary(CONTESTS[name], outcomes, least)
            show(name, CONTESTS[name], outcomes, results[name])
    print(f"\n{clock.seconds:.0f} seconds in all")
    if not names:
        runtime.record(
            "gradient_attacks", "python benchmarks/gradient_attacks.py", seed=SEED,
            machine=platform.machine(), threads=torch.get_num_threads(),
            seconds=round(clock.seconds), python=platform.python_version(),
            versions={package: version(package) for package in PACKAGES}, contests=results)


if __name__ == "__main__":
    main()
