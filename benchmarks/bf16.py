"""Whether training in bfloat16 is faster than in float32, and whether fit(bf16="auto") knows it.

    python benchmarks/bf16.py [repetitions]

Three trainings, on noise in place of images, side by side: with bf16=False, True and "auto"; then
all again where oneDNN may use AVX2 only, so that bfloat16 is emulated. A ratio is the time of the
training by that in float32: the median of the repetitions, with the smallest and the largest.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

import torch

from course_lib import datasets, device, generator, models, training

CHOICES = (False, True, "auto")
SLACK = 1.1  # how far two equal trainings may differ on a machine with other work
LIMITS = ("ALL", "AVX2")


@dataclass(frozen=True)
class Case:
    """A training of one epoch: the network, its method, and the usual batch."""

    model: str
    method: str
    images: int
    batch: int


CASES = (Case("mnist_cnn", "standard", 2000, 50), Case("mnist_cnn", "pgd", 300, 50),
         Case("cifar_allconv", "standard", 640, 128), Case("cifar_allconv", "fast", 384, 128))


def seconds(case: Case, bf16: bool | str) -> float:
    """The time of one epoch, from fresh weights."""
    model = models.build(case.model)
    training.initialise(model, generator(0))
    shape = (3, 32, 32) if case.model.startswith("cifar") else (1, 28, 28)
    x = torch.rand(case.images, *shape, generator=generator(0))
    images = datasets.Images(x, torch.arange(case.images) % 10, list("0123456789"))
    return training.fit(model.to(device()), images.to(device()), method=case.method, epochs=1,
                        eps=8 / 255, batch_size=case.batch, bf16=bf16).seconds


def race(case: Case, repetitions: int) -> dict[bool | str, list[float]]:
    """Seconds of each choice, one after the other in every repetition, after a warm-up."""
    for choice in CHOICES:
        seconds(case, choice)
    turns = [[seconds(case, choice) for choice in CHOICES] for _ in range(repetitions)]
    return dict(zip(CHOICES, map(list, zip(*turns, strict=True)), strict=True))


def ratios(times: dict[bool | str, list[float]], choice: bool | str) -> list[float]:
    """How long a choice took by float32's time in the same repetition, in ascending order."""
    return sorted(t / exact for t, exact in zip(times[choice], times[False], strict=True))


def line(case: Case, times: dict[bool | str, list[float]]) -> str:
    """One row of the table; the verdict is on "auto"."""
    said = [f"{case.model:14}{case.method:10}{case.batch:4}{min(times[False]):7.2f} s"]
    for choice in (True, "auto"):
        r = ratios(times, choice)
        said.append(f"{statistics.median(r):5.2f} ({r[0]:.2f}, {r[-1]:.2f})")
    slower = statistics.median(ratios(times, "auto")) > SLACK
    return "   ".join([*said, "TOO SLOW" if slower else "ok"])


def main(repetitions: int) -> None:
    limit = os.environ["ONEDNN_MAX_CPU_ISA"]
    print(f"{device()}, {torch.get_num_threads()} threads, oneDNN may use {limit}", flush=True)
    print("network       method   batch   float32   bfloat16             auto", flush=True)
    for case in CASES:
        print(line(case, race(case, repetitions)), flush=True)


if __name__ == "__main__":
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        main(*map(int, sys.argv[1:2] or [5]))
    else:  # oneDNN reads its limit once: a process for each
        for limit in LIMITS:
            subprocess.run([sys.executable, *sys.argv], check=True,
                           env={**os.environ, "ONEDNN_MAX_CPU_ISA": limit})
