"""Every pair of EfficientNet-Lite networks, attacked and judged; writes data/results/transfer.json.

    python benchmarks/transfer.py

The photographs of the course, eps = 8/255, ten steps, mu = 1 (lesson 05 shows the result). A few
minutes on two cores.
"""

from __future__ import annotations

from functools import partial

from course_lib import datasets, device, models, runtime
from course_lib.attacks import fgsm, ifgsm, mifgsm
from course_lib.attacks.momentum import Ensemble
from course_lib.evaluation import transfer_matrix

EPS, STEPS = 8 / 255, 10
ATTACKS = {
    "FGSM": partial(fgsm, eps=EPS),
    "I-FGSM": partial(ifgsm, eps=EPS, steps=STEPS),
    "MI-FGSM": partial(mifgsm, eps=EPS, steps=STEPS),
}


def main() -> None:
    photos = datasets.imagenet().to(device())
    nets = {f"lite{k}": models.load(f"efficientnet_lite{k}") for k in range(3)}
    pairs = {f"{a} and {b}": Ensemble(nets[a], nets[b])
             for a, b in (("lite0", "lite1"), ("lite0", "lite2"), ("lite1", "lite2"))}
    matrix, ensemble = {}, {}
    with runtime.timed() as clock:
        for name, attack in ATTACKS.items():
            result = transfer_matrix(nets, nets, photos.x, photos.y, attack=attack)
            matrix[name] = result.success.tolist()
            print(name, result, sep="\n")
        result = transfer_matrix(pairs, nets, photos.x, photos.y, attack=ATTACKS["MI-FGSM"])
        ensemble = dict(zip(result.sources, result.success.tolist(), strict=True))
    print("ensembles", result, sep="\n")
    runtime.record("transfer", "python benchmarks/transfer.py", networks=[*nets],
                   images=result.images, eps="8/255", steps=STEPS, mu=1.0,
                   seconds=round(clock.seconds), matrix=matrix, ensemble=ensemble)


if __name__ == "__main__":
    main()
