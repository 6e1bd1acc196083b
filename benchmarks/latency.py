"""How long a move of the FGSM explorer's slider takes, from the new value to the new picture.

    python benchmarks/latency.py [moves]

Drives the widget as a front end does, by setting its traits. "new image" counts everything: the
gradient, the step, the prediction, the pictures. "eps move" reuses the gradient.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable

import torch

import course_lib
from course_lib import datasets, models
from course_lib.widgets import FgsmExplorer

LIMIT_MS = 150


def milliseconds(move: Callable[[object], None], values: Iterable[object]) -> list[float]:
    """The time of each move; on a GPU the picture's bytes are waited for by the move itself."""
    times = []
    for value in values:
        start = time.perf_counter()
        move(value)
        times.append(1000 * (time.perf_counter() - start))
    return times


def measure(moves: int = 60) -> dict[str, tuple[float, float]]:
    """Median and 95th percentile in ms for each kind of move, after a short warm-up."""
    explorer = FgsmExplorer(models.load("efficientnet_lite0"),
                            datasets.imagenet().to(course_lib.device()))
    count = len(explorer.images)

    def move_eps(levels: object) -> None:
        explorer.eps.value = levels

    def move_image(index: object) -> None:
        explorer.gradient.cache_clear()
        explorer.image.value = index

    def move_everything(levels: object) -> None:
        explorer.gradient.cache_clear()
        explorer.eps.value = levels

    kinds = {
        "eps move, gradient at hand": (move_eps, [0.5 + 0.5 * (i % 30) for i in range(moves)]),
        "eps move, gradient anew": (move_everything, [15 - 0.5 * (i % 30) for i in range(moves)]),
        "new image": (move_image, [(i + 1) % count for i in range(moves)]),
    }
    results = {}
    for name, (move, values) in kinds.items():
        milliseconds(move, values[:5])
        times = milliseconds(move, values[5:])
        results[name] = statistics.median(times), statistics.quantiles(times, n=20)[-1]
    return results


if __name__ == "__main__":
    device = course_lib.device()
    print(f"FGSM explorer, EfficientNet-Lite0 at 224 x 224, {device}, "
          f"{torch.get_num_threads()} threads; limit {LIMIT_MS} ms at the 95th percentile")
    for name, (median, p95) in measure(*map(int, sys.argv[1:2])).items():
        verdict = "ok" if p95 < LIMIT_MS else "TOO SLOW"
        print(f"{name:30} median {median:6.1f} ms   p95 {p95:6.1f} ms   {verdict}")
