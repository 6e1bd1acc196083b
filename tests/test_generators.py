"""A generator is an option: without one, a call draws from seed 0 and from nothing else."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random

import numpy as np
import pytest
import torch
from strategies import convolutional, generator, images, labels
from torch import Tensor, nn

import course_lib
from course_lib import training
from course_lib.attacks import adversarial_patch, apgd, apgd_targeted, one_pixel, pgd, square
from course_lib.attacks.one_pixel import search
from course_lib.attacks.patch import random_places
from course_lib.datasets import Images
from course_lib.encodings import Direct
from course_lib.fooling import evolve
from course_lib.sanity import sanity_checks
from course_lib.smoothing import certify

MODEL, X = convolutional(), images()
Y = labels(MODEL, X)


def fit(**options) -> Tensor:
    # Without dropout, which draws from the global state.
    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(nn.Flatten(), nn.Linear(90, 4))
    training.initialise(model, generator(3))
    data = Images(X, Y, list("abcd"))
    training.fit(model, data, method="fast", epochs=1, batch_size=2, **options)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


CALLS = {
    pgd: lambda **g: pgd(MODEL, X, Y, eps=8 / 255, restarts=2, **g),
    one_pixel: lambda **g: one_pixel(MODEL, X, Y, population=8, generations=2, **g),
    search: lambda **g: search(MODEL, X, Y, population=8, generations=2, **g).genes,
    apgd: lambda **g: apgd(MODEL, X, Y, eps=8 / 255, steps=5, restarts=2, **g),
    apgd_targeted: lambda **g: apgd_targeted(MODEL, X, Y, eps=8 / 255, steps=5, targets=2, **g),
    square: lambda **g: square(MODEL, X, Y, eps=0.1, queries=9, **g),
    certify: lambda **g: torch.cat(certify(MODEL, X, sigma=0.3, samples=40, select=9, **g)),
    sanity_checks: lambda **g: repr(sanity_checks(MODEL, X, Y, eps=0.1, queries=9, **g)),
    evolve: lambda **g: evolve(MODEL, Direct((3, 6, 5)), classes=4, generations=2,
                               children=8, **g).genomes,
    training.fit: fit,
    random_places: lambda **g: torch.stack([*vars(random_places(5, **g)).values()]),
    adversarial_patch: lambda **g: adversarial_patch(MODEL, X, 0, steps=2, **g),
}


def same(a, b) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def global_states() -> list[object]:
    numpy = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global one is meant
    return [torch.get_rng_state().tolist(), numpy, random.getstate()]


@pytest.mark.parametrize("call", CALLS.values(), ids=[f.__name__ for f in CALLS])
def test_without_a_generator_a_call_draws_from_seed_0_alone(call):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first = call()
        torch.rand(7)
        before = global_states()
        assert same(first, call())
        assert global_states() == before
        assert same(first, call(generator=generator(0)))


def test_every_function_that_takes_a_generator_as_an_option_is_tested_here():
    found = set()
    for module in pkgutil.walk_packages(course_lib.__path__, "course_lib."):
        # A widget's path begins at the image itself unless it is given a generator.
        if ".exercises" in module.name or ".widgets" in module.name:
            continue
        for _, function in inspect.getmembers(importlib.import_module(module.name),
                                              inspect.isfunction):
            parameter = inspect.signature(function).parameters.get("generator")
            if (parameter and parameter.kind is parameter.KEYWORD_ONLY
                    and not function.__name__.startswith("_")):
                assert parameter.default is None, function
                found.add(function)
    assert found == set(CALLS)
