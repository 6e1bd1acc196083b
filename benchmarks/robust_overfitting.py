"""Adversarial training that goes on for too long on few images; for lesson 07.

    python benchmarks/robust_overfitting.py          writes data/results/robust_overfitting.json

MnistCNN, trained with PGD-7 at eps = 0.3 on 1,000 digits for 150 epochs, no augmentation. Every
fifth epoch: accuracy under PGD-20 on 500 of these digits and on 500 test digits, in %, and without
an attack. Reference: Rice et al. 2020. About five minutes on two cores.
"""

from __future__ import annotations

from course_lib import datasets, device, evaluation, generator, models, runtime, training
from course_lib.attacks import pgd
from course_lib.training import History

EPOCHS, EVERY, EPS, IMAGES, TESTED = 150, 5, 0.3, 1000, 500


def main() -> None:
    train = datasets.mnist("train")[:IMAGES].to(device())
    sets = {"train": train[:TESTED], "test": datasets.mnist("test")[:TESTED].to(device())}
    model, draw = models.MnistCNN(), generator(7)
    training.initialise(model, draw)
    model.to(device())
    log: dict[str, list[float]] = {"epochs": [], **{f"{name}, {way}": [] for name in sets
                                                   for way in ("clean", "PGD")}}

    def watch(history: History) -> None:
        if len(history.loss) % EVERY:
            return
        log["epochs"].append(len(history.loss))
        for name, digits in sets.items():
            x_adv = pgd(model, digits.x, digits.y, eps=EPS, steps=20, early_stop=True)
            for way, x in (("clean", digits.x), ("PGD", x_adv)):
                log[f"{name}, {way}"].append(100 * evaluation.accuracy(model, x, digits.y))
        print({key: values[-1] for key, values in log.items()}, flush=True)

    training.fit(model, train, method="pgd", epochs=EPOCHS, eps=EPS, steps=7, generator=draw,
                 on_epoch=watch)
    runtime.record("robust_overfitting", "python benchmarks/robust_overfitting.py",
                   network="MnistCNN", eps=EPS, images=IMAGES, tested=TESTED, **log)


if __name__ == "__main__":
    main()
