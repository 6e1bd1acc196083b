"""What the kernels and the replayed steps gain on a GPU; for lesson 04.

    make bench                        installs torchattacks and the Adversarial Robustness Toolbox
    python benchmarks/gpu.py          about four minutes on an H100; writes data/results/gpu.json

Kernels: milliseconds of each one, of its plain twin and of that twin under torch.compile, on
tensors larger than the GPU's cache; the bytes that it must move over that time, as a share of the
bandwidth of a copy. Attacks: PGD-40 beside 40 bare passes and beside the other libraries, no image
dropped, and on how many images the replayed steps and single ones disagree. One pixel, 400
candidates and 100 generations, beside torchattacks; pictures of painting networks scored per
minute. Times are medians. Without a GPU everything runs at small sizes, to try it out: it prints
"not measured on a GPU" and writes nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from unittest.mock import patch

import torch
import torch.nn.functional as F
import torchattacks
from gradient_attacks import PGD as LIBRARIES
from gradient_attacks import SEED
from torch import Tensor

from course_lib import datasets, evaluation, generator, iterate, kernels, models, runtime
from course_lib.attacks import one_pixel, pgd
from course_lib.encodings import CPPN
from course_lib.fooling import class_scores
from course_lib.gradients import frozen
from course_lib.kernels import launch

GPU = torch.cuda.is_available()
STEPS, TURNS = (40, 3) if GPU else (4, 1)
NETWORKS = {"mnist_cnn": 0.1, "cifar_allconv": 1 / 255, "efficientnet_lite0": 1 / 255}
Made = Callable[[], object]


def seconds(work: Made, turns: int = TURNS) -> float:
    """The median time of a call, after two that warm up."""
    times = []
    for _ in range(turns + 2):
        with runtime.timed() as clock:
            work()
        times.append(clock.seconds)
    return statistics.median(times[2:])


def milliseconds(work: Made) -> float:
    """Of the GPU alone, without the launch; the cache is emptied in between."""
    if not GPU:
        return 1000 * seconds(work)
    from triton.testing import do_bench

    return do_bench(work, warmup=20, rep=100, return_mode="median")


def twins() -> AbstractContextManager:
    """Plain PyTorch, whatever kernels there are."""
    return patch.object(launch, "AVAILABLE", False)


def kernel_contests(where: torch.device) -> dict[str, tuple[Made, int]]:
    """Each kernel at work, and the bytes it must move: inputs read once, results written once."""
    draw = torch.Generator(where).manual_seed(SEED)
    shape = (256, 3, 224, 224) if GPU else (2, 3, 32, 32)
    x, gradient, g = (torch.rand(shape, device=where, generator=draw) for _ in range(3))
    gradient, g = gradient - 0.5, g - 0.5
    x_t, size = (x + 0.03).clamp(0, 1), x.new_full((), 0.01)
    one = 4 * x.numel()
    image = torch.rand(1, 3, 224, 224, device=where, generator=draw)
    genes = torch.rand(shape[0], 5, device=where, generator=draw) * 200
    encoding = CPPN((3, *shape[2:]))
    genomes = encoding.start(shape[0], generator(SEED))
    for _ in range(50):
        genomes = encoding.mutate(genomes, generator(SEED))
    genomes = genomes.to(where)
    return {
        "linf_step": (lambda: kernels.linf_step(x_t, gradient, x, size, 0.03), 4 * one),
        "l2_step": (lambda: kernels.l2_step(x_t, gradient, x, size, 0.3), 4 * one),
        "momentum_step": (
            lambda: kernels.momentum_step(x_t, gradient, x, g, size, 0.03, 1.0), 6 * one),
        "paint": (lambda: kernels.paint(image.expand(shape[0], -1, -1, -1), genes), one),
        "render_cppn": (lambda: encoding.render(genomes), one),
    }


def measure_kernels(where: torch.device) -> dict[str, dict]:
    big = torch.rand(2**28 if GPU else 2**16, device=where)
    target = torch.empty_like(big)
    copy = 2 * 4 * big.numel() / milliseconds(lambda: target.copy_(big)) / 1e6
    result = {"copy, GB/s": round(copy)}
    for name, (work, must) in kernel_contests(where).items():
        with runtime.timed() as first:
            work()
        row = {"first call of the kernel, s": first.seconds, "kernel, ms": milliseconds(work)}
        row["share of the copy's bandwidth, %"] = 100 * must / row["kernel, ms"] / 1e6 / copy
        with twins():
            row["twin, ms"] = milliseconds(work)
            if name != "render_cppn":  # whose twin compiles for every population, over a minute
                row |= compiled(work)
        result[name] = {key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}
    return result


def compiled(work: Made) -> dict[str, float]:
    fast = torch.compile(work, dynamic=False)
    with runtime.timed() as first:
        fast()
    return {"first call of the compiled twin, s": first.seconds,
            "compiled twin, ms": milliseconds(fast)}


def images_of(name: str, n: int, where: torch.device) -> datasets.Images:
    """n images of the network's kind; where fewer ship, the same ones again."""
    kinds = {"mnist": lambda: datasets.mnist("test"), "cifar": datasets.cifar10}
    images = kinds.get(name.split("_")[0], datasets.imagenet)()
    return images[torch.arange(n) % len(images)].to(where)


def stepwise(*arguments: object) -> iterate.Iterated:
    """Steps one by one where they would be replayed."""
    return iterate._stepwise(*arguments, callback=None)


def measure_attack(name: str, eps: float, batch: int, where: torch.device) -> dict:
    model = models.load(name).to(where)
    images = images_of(name, batch, where)
    x, y, size = images.x, images.y, 2.5 * eps / STEPS

    def ours() -> Tensor:
        return pgd(model, x, y, eps=eps, steps=STEPS, step_size=size)

    def passes() -> None:
        with frozen(model):
            for _ in range(STEPS):
                given = x.clone().requires_grad_()
                torch.autograd.grad(F.cross_entropy(model(given), y, reduction="sum"), given)

    with patch.object(iterate, "_replayed", stepwise), twins():
        row = {"single steps, ms": 1000 * seconds(ours)}
        flags = evaluation.fooled(model, ours(), y)
    fooled = evaluation.fooled(model, ours(), y)
    row |= {"ours, ms": 1000 * seconds(ours), "bare passes, ms": 1000 * seconds(passes),
            "fooled, %": 100 * fooled.float().mean().item(),
            "flags that differ": int((fooled != flags).sum())}
    for library, make in LIBRARIES.items():
        if library != "course_lib" and not (library == "art" and find_spec("art") is None):
            attack = make(model, eps, STEPS, size)
            row[f"{library}, ms"] = 1000 * seconds(lambda: attack(model, x, y))  # noqa: B023
    return {key: round(value, 3) for key, value in row.items()}


def measure_one_pixel(where: torch.device) -> dict:
    """The paper's setting; torchattacks takes its time, so it gets three of the images."""
    n, few, population, generations = (100, 3, 400, 100) if GPU else (2, 1, 8, 2)
    model = models.load("cifar_allconv").to(where)
    images = images_of("cifar", n, where)
    with runtime.timed() as ours:
        found = one_pixel(model, images.x, images.y, population=population,
                          generations=generations)
    theirs = torchattacks.OnePixel(model, pixels=1, steps=generations, popsize=population // 5,
                                   inf_batch=population)
    with runtime.timed() as other:
        theirs(images.x[:few], images.y[:few])
    with runtime.timed() as same:
        one_pixel(model, images.x[:few], images.y[:few], population=population,
                  generations=generations)
    return {"images": n, "seconds": round(ours.seconds, 2),
            "fooled, %": 100 * evaluation.fooled(model, found, images.y).float().mean().item(),
            f"seconds for {few}": round(same.seconds, 2),
            f"torchattacks, seconds for {few}": round(other.seconds, 2)}


def measure_pictures(where: torch.device) -> dict:
    """Painted, scored in all classes, compared with the champions: as `evolve` does it."""
    n, rounds = (1000, 10) if GPU else (2, 1)
    model, encoding = models.load("efficientnet_lite0").to(where), CPPN((3, 224, 224))
    draw = generator(SEED)
    genomes = encoding.start(n, draw).to(where)
    result = {}
    with frozen(model), torch.no_grad():
        for name, mutate in (("painted and scored", False), ("mutated too", True)):
            class_scores(model, encoding, genomes)
            with runtime.timed() as clock:
                for _ in range(rounds):
                    genomes = encoding.mutate(genomes, draw) if mutate else genomes
                    class_scores(model, encoding, genomes)
            result[f"{name}, pictures per minute"] = round(60 * n * rounds / clock.seconds)
    return result


def main() -> None:
    where = runtime.device()
    record: dict[str, object] = {
        "device": torch.cuda.get_device_name(where) if GPU else "CPU",
        "versions": {p: version(p) for p in ("torch", "triton", "torchattacks") if find_spec(p)}}
    parts = {"one pixel": measure_one_pixel, "pictures": measure_pictures,
             "kernels": measure_kernels}
    for name, eps in NETWORKS.items():
        for batch in (1, 128) if GPU else (1, 2):
            parts[f"pgd, {name}, batch {batch}"] = partial(measure_attack, name, eps, batch)
    for name, measure in parts.items():
        record[name] = measure(where)
        print(name, record[name], flush=True)
        if GPU:
            runtime.record("gpu", "python benchmarks/gpu.py", **record)
    if not GPU:
        print("not measured on a GPU: small sizes, to try the program out; nothing is written")


if __name__ == "__main__":
    main()
