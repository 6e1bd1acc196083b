"""The leaderboard of lesson 07: how robust can MnistCNN be made in 90 seconds on two cores?

    python benchmarks/challenge.py           writes data/results/challenge.json

Each recipe trains on the digits that ship, at eps = 0.3. Clean accuracy and accuracy under PGD-40
are those of the first 1,000 test digits, in %. About five minutes.
"""

from __future__ import annotations

import functools

import torch

from course_lib import datasets, device, evaluation, generator, models, runtime, training
from course_lib.attacks import pgd

GENTLE = functools.partial(training.jitter, degrees=6, shift=0.04, scale=0.05)
RECIPES = {
    "standard, 10 epochs": {"method": "standard", "epochs": 10},
    "pgd, 4 steps, 10 epochs": {"method": "pgd", "steps": 4, "epochs": 10},
    "free, 4 repetitions, 20 epochs": {"method": "free", "steps": 4, "epochs": 20},
    "the same, digits moved a little": {"method": "free", "steps": 4, "epochs": 20,
                                        "augment": GENTLE},
}


def row(**options: object) -> dict[str, float]:
    train, test = (datasets.mnist(split).to(device()) for split in ("train", "test"))
    model = models.MnistCNN()
    training.initialise(model, generator(0))
    history = training.fit(model.to(device()), train, batch_size=100, eps=0.3, **options)
    x, y = test.x[:1000], test.y[:1000]
    x_adv = pgd(model, x, y, eps=0.3, steps=40)
    return {"clean": 100 * evaluation.accuracy(model, x, y),
            "PGD-40": 100 * evaluation.accuracy(model, x_adv, y),
            "seconds": round(history.seconds, 1)}


def main() -> None:
    rows = {}
    for name, options in RECIPES.items():
        rows[name] = row(**options)
        print(name, rows[name], flush=True)
    runtime.record("challenge", "python benchmarks/challenge.py",
                   threads=torch.get_num_threads(), rows=rows)


if __name__ == "__main__":
    main()
