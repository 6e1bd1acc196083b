"""Robust accuracy under PGD and the smallest perturbations of L-BFGS, beside other libraries.

    python benchmarks/gradient_attacks.py            all contests
    python benchmarks/gradient_attacks.py lbfgs      only those named; the others' records stay

Every library attacks the same network with the same images, radius, step size, steps and random
starts (those of the Adversarial Robustness Toolbox are its own: it takes none from outside), is
handed the same number of images a call, and is judged by `course_lib.evaluation`. Timed is the
attack; the judge's predictions, the same for all, are timed apart. The libraries run in turn; a
ratio compares runs of one turn. Nine minutes on two cores.
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
from course_lib.gradients import device_of, frozen
from course_lib.norms import lp_norm, uniform_ball

OURS = "course_lib"
SEED = 0
PACKAGES = ["torch", "torchattacks", "foolbox", "adversarial-robustness-toolbox", "scipy"]


# --- PGD as each library offers it: (network, eps, steps, step size) -> attack --------------------


def our_pgd(model: nn.Module, eps: float, steps: int, step_size: float) -> Attack:
    return partial(pgd, eps=eps, steps=steps, step_size=step_size, generator=generator(SEED),
                   early_stop=True)


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
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=device_of(model))
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
            clip_values=(0.0, 1.0), device_type="gpu" if x.is_cuda else "cpu")
        generate = ProjectedGradientDescentPyTorch(
            classifier, eps=eps, eps_step=step_size, max_iter=steps, num_random_init=1,
            batch_size=len(x), verbose=False).generate
        return torch.from_numpy(generate(x.numpy(force=True), y.numpy(force=True))).to(x)

    return attack


PGD = {OURS: our_pgd, "torchattacks": torchattacks_pgd, "foolbox": foolbox_pgd, "art": art_pgd}


def one_thread(attack: Attack) -> Attack:
    """On one thread, where a single digit passes faster than on two."""

    def alone(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return attack(model, x, y)
        finally:
            torch.set_num_threads(threads)

    return alone


# --- counting and timing --------------------------------------------------------------------------


@dataclass
class Passes:
    """Single images that went through a network, forwards and back."""

    forward: int = 0
    backward: int = 0


@contextmanager
def counted(model: nn.Module, passes: Passes) -> Iterator[None]:
    """Add to `passes` every image that passes the model while the block runs.

    The last layer is watched, as a hook on the model makes `windows` compute whole images.
    """

    def returned(gradient: Tensor) -> None:
        passes.backward += len(gradient)

    def passed(module: nn.Module, given: object, logits: Tensor) -> None:
        passes.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(returned)

    hook = [*model.modules()][-1].register_forward_hook(passed)
    try:
        yield
    finally:
        hook.remove()


class Clocked:
    """An attack that adds up its seconds and its passes over the parts of a batch."""

    def __init__(self, attack: Attack) -> None:
        self.attack, self.seconds, self.passes = attack, 0.0, Passes()

    def __call__(self, model: nn.Module, *given: Tensor) -> Tensor:
        with counted(model, self.passes), runtime.timed() as clock:
            x_adv = self.attack(model, *given)
        self.seconds += clock.seconds
        return x_adv


@dataclass
class Outcome:
    """One library in one contest: the judge's verdict, the attack's passes, each turn's seconds.

    The predictions of the judge, before and after the attack, are timed apart: they are the same
    for every library.
    """

    verdict: dict[str, float]
    passes: Passes
    seconds: list[float]
    judging: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def race(
    makers: Mapping[str, Callable[[], Attack]], judge: Callable[[Attack], dict[str, float]],
    repetitions: int,
) -> dict[str, Outcome]:
    """Time the attacks in turn, each made afresh; a turn before the first warms up."""
    outcomes = {}
    for turn in range(repetitions + 1):
        for name, make in makers.items():
            attack = Clocked(make())
            with runtime.timed() as whole:
                verdict = judge(attack)
            if turn == 0:
                outcomes[name] = Outcome(verdict, attack.passes, [], [])
            else:
                outcomes[name].seconds.append(attack.seconds)
                outcomes[name].judging.append(whole.seconds - attack.seconds)
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

    with frozen(model):
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
    # The others are quickest with some hundred digits a call; ours makes such parts by itself.
    "mnist_parts": Contest("mnist_cnn", 1000, 3, 2.0, eps=0.1, steps=40, batch=256),
    "mnist_robust": Contest("mnist_cnn_robust", 400, 3, 1.0, eps=0.3, steps=40, batch=200),
    "efficientnet": Contest("efficientnet_lite0", 20, 3, 10.0, eps=8 / 255, steps=20, batch=20),
    "lbfgs": Contest("mnist_cnn", 100, 3, 10.0),
}


def robustness(
    contest: Contest, model: nn.Module, x: Tensor, y: Tensor, attack: Attack
) -> dict[str, float]:
    """Clean and robust accuracy in %, judged as anybody's attack is."""
    report = robust_accuracy(model, x, y, {"PGD": attack}, eps=contest.eps,
                             batch_size=contest.batch)
    return {"clean": 100 * report.clean, "robust": 100 * report.robust}


def distortion(model: nn.Module, x: Tensor, y: Tensor, attack: Attack) -> dict[str, float]:
    """Images fooled in %, and the mean l2 distance of the images that were right at first."""
    right = ~fooled(model, x, y)
    x_adv = attack(model, x, y)
    return {"fooled": 100 * fooled(model, x_adv, y).double().mean().item(),
            "mean l2": lp_norm(x_adv - x, 2)[right].mean().item()}


def hold(contest: Contest) -> tuple[dict[str, Outcome], float]:
    """The outcome of each library, and the floor of ours."""
    model = models.load(contest.network, "cpu")
    data = datasets.imagenet() if "efficientnet" in contest.network else datasets.mnist("test")
    x, y = data.x[:contest.images], data.y[:contest.images]
    if contest.eps is None:
        judge = partial(distortion, model, x, y)
        makers = {OURS: lambda: lbfgs, "scipy": lambda: one_thread(scipy_lbfgs)}
    else:
        judge = partial(robustness, contest, model, x, y)
        step_size = 2.5 * contest.eps / contest.steps
        makers = {name: partial(make, model, contest.eps, contest.steps, step_size)
                  for name, make in PGD.items()}
    outcomes = race(makers, judge, contest.repetitions)
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
                             "median judging": statistics.median(outcome.judging),
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
          + f"{'seconds':>9}{'judging':>9}{'ratio':>8}{'(from, to)':>16}"
          f"{'forward':>10}{'backward':>10}")
    for library, outcome in outcomes.items():
        ratio = ratios(outcomes, library)
        spread = f"({min(ratio):.2f}, {max(ratio):.2f})"
        print(f"{library:14}" + "".join(f"{outcome.verdict[word]:9.2f}" for word in words)
              + f"{outcome.median:9.2f}{statistics.median(outcome.judging):9.2f}"
              f"{statistics.median(ratio):8.2f}{spread:>16}"
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
    for name in names or CONTESTS:
        with runtime.timed() as clock:
            outcomes, least = hold(CONTESTS[name])
        result = summary(CONTESTS[name], outcomes, least)
        show(name, CONTESTS[name], outcomes, result)
        keep(name, {"seconds in all": round(clock.seconds), **result})


def keep(name: str, result: dict[str, object]) -> None:
    """Write one contest into the record, with what it ran on; the others stay as they are."""
    there = (runtime.RESULTS / "gradient_attacks.json").exists()
    contests = runtime.recorded("gradient_attacks")["contests"] if there else {}
    contests[name] = {
        "machine": platform.machine(), "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES}, **result}
    runtime.record("gradient_attacks", "python benchmarks/gradient_attacks.py", seed=SEED,
                   contests=contests)


if __name__ == "__main__":
    main()
