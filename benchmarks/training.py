"""What each method of training costs, and how long ART's trainer takes; for lesson 07.

    make bench                               installs the Adversarial Robustness Toolbox (ART)
    python benchmarks/training.py            about two minutes; writes data/results/training.json

One epoch on 2,000 digits, MnistCNN, batches of 100, eps = 0.3. Each method beside standard training
and beside the passes, forward and backward, that it should cost; PGD-7 beside the trainer of ART,
AdversarialTrainerMadryPGD, with the same network, optimizer, batch and steps. A ratio is the median
of three turns, in which all run one after the other, with the smallest and the largest.
"""

from __future__ import annotations

import statistics
from importlib.metadata import version

import torch
from torch import nn

from course_lib import datasets, generator, models, runtime, training
from course_lib.datasets import Images

EPS, LR, BATCH, IMAGES, TURNS = 0.3, 5e-3, 100, 2000, 3
# (method, steps): passes per image. A pass forward alone is counted as a third of one.
PASSES = {("standard", 1): 1, ("fgsm", 1): 2, ("fast", 1): 2, ("n-fgsm", 1): 2, ("free", 8): 8,
          ("pgd", 7): 8 + 1 / 3, ("trades", 7): 9 + 1 / 3}


def network() -> nn.Module:
    model = models.build("mnist_cnn")
    training.initialise(model, generator(0))
    return model


def ours(images: Images, method: str, steps: int) -> float:
    """Seconds of one epoch."""
    return training.fit(network(), images, method=method, steps=steps, epochs=1, eps=EPS, lr=LR,
                        batch_size=BATCH).seconds


def art(images: Images, steps: int) -> float:
    """Seconds of one epoch of ART's trainer."""
    from art.defences.trainer import AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    model = network()
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(images.x.shape[1:]), nb_classes=10,
        optimizer=torch.optim.Adam(model.parameters(), lr=LR), clip_values=(0.0, 1.0),
        device_type="cpu")
    trainer = AdversarialTrainerMadryPGD(
        classifier, nb_epochs=1, batch_size=BATCH, eps=EPS, eps_step=2.5 * EPS / steps,
        max_iter=steps, num_random_init=1)
    with runtime.timed() as clock:
        trainer.fit(images.x.numpy(), images.y.numpy())
    return clock.seconds


def turn(images: Images) -> dict[str, float]:
    seconds = {f"{method}, {steps}": ours(images, method, steps) for method, steps in PASSES}
    return seconds | {"ART": art(images, 7)}


def ratio(turns: list[dict[str, float]], name: str, to: str) -> list[float]:
    """Median, smallest and largest."""
    ratios = [seconds[name] / seconds[to] for seconds in turns]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def main() -> None:
    images = datasets.mnist("train")[:IMAGES]
    turn(images[:2 * BATCH])  # warm up
    turns = [turn(images) for _ in range(TURNS)]
    table = {name: {"passes": passes, "times standard": ratio(turns, name, "standard, 1")}
             for passes, name in zip(PASSES.values(), turns[0], strict=False)}
    beside = ratio(turns, "ART", "pgd, 7")
    runtime.record(
        "training", "python benchmarks/training.py", images=IMAGES, batch=BATCH, turns=turns,
        methods=table, art_by_ours=beside, threads=torch.get_num_threads(),
        versions={p: version(p) for p in ("torch", "adversarial-robustness-toolbox")})
    for name, line in table.items():
        print(f"{name:12} {line['passes']:5.2f} passes, {line['times standard'][0]:5.2f} "
              f"({line['times standard'][1]:.2f}, {line['times standard'][2]:.2f}) times standard")
    print("ART, PGD-7: {:.2f} ({:.2f}, {:.2f}) times ours".format(*beside))


if __name__ == "__main__":
    main()
