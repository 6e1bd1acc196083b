"""What the numerical tests share: Hypothesis strategies, small models and small batches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from course_lib.attacks import pgd
from course_lib.exercises.diagnoses import Watching
from course_lib.norms import NORMS

# The same examples on every machine; a first call that compiles or loads must not count as slow.
PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)

norms = st.sampled_from(NORMS)
radii = st.sampled_from([0.0, 1e-3, 0.05, 0.3, 1.0, 4.0, 50.0])


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, width=32, allow_subnormal=False)


@st.composite
def batches(draw: st.DrawFn, low: float = -10.0, high: float = 10.0, most: int = 12) -> Tensor:
    """Up to three small images; Hypothesis likes zeros, ties and single large entries."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, most)))
    return torch.from_numpy(draw(hnp.arrays(np.float32, shape, elements=floats(low, high))))


@st.composite
def allowed_and_new(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """An image inside the box and a point anywhere, of one shape."""
    x = draw(batches(0.0, 1.0))
    moved = draw(hnp.arrays(np.float32, tuple(x.shape), elements=floats(-3.0, 4.0)))
    return x, torch.from_numpy(moved)


def linear(classes: int = 3, shape: tuple[int, ...] = (1, 3, 4), seed: int = 0) -> nn.Module:
    """z = W x + b, whose optimal perturbations are known in closed form."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes)).eval()


def convolutional(classes: int = 4, channels: int = 3, seed: int = 0) -> nn.Module:
    """A little of everything that reacts to its mode: batch norm, dropout; any rows x columns."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5),
            nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
            nn.Linear(54, classes),
        )
        # Statistics as after some training; at 0 and 1 a layer in train mode might go unnoticed.
        model[1].running_mean.normal_(0, 0.3)
        model[1].running_var.uniform_(0.2, 0.6)
        # Larger logits, so that small perturbations change some predictions and not others.
        model[-1].weight.data *= 8
    return model.eval()


def images(n: int = 6, shape: tuple[int, ...] = (3, 6, 5), seed: int = 0) -> Tensor:
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def labels(model: nn.Module, x: Tensor) -> Tensor:
    """What the model says itself, so that every success is the attack's doing."""
    with torch.no_grad():
        return model(x).argmax(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


EPS = 0.15  # a radius in which `strong` fools some images of `trained` and not all


def strong(**options: Any) -> Callable[..., Tensor]:
    """PGD with 20 steps and a generator of its own."""
    return functools.partial(pgd, eps=EPS, steps=20, generator=generator(), **options)


@functools.cache
def trained() -> SimpleNamespace:
    """A small network that has learnt something: four noisy patterns; with some 100 fresh images.

    Attacks differ on it as they do on real networks: some images fall to one step, some to many,
    some to none.
    """
    classes, shape = 4, (1, 8, 7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        patterns = torch.rand(classes, *shape)

        def sample(n: int) -> tuple[Tensor, Tensor]:
            y = torch.randint(classes, (n,))
            return (0.35 * patterns[y] + 0.65 * torch.rand(n, *shape)).clamp(0, 1), y

        model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(),
                              nn.Flatten(), nn.Linear(72, classes))
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(80):
            x, y = sample(48)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
        x, y = sample(110)
    model.eval()
    right = labels(model, x) == y
    return SimpleNamespace(model=model, x=x[right], y=y[right])


def trace(model: nn.Module) -> dict[str, object]:
    """All that an attack could change: weights, statistics, gradients, modes, random state."""
    parameters = dict(model.named_parameters())
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "mode": {name: module.training for name, module in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in parameters.items()},
        "grad": {name: None if p.grad is None else p.grad.clone()
                 for name, p in parameters.items()},
        "random": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].copy(),  # noqa: NPY002 - the global one is meant
    }


def assert_untouched(model: nn.Module, before: dict[str, object]) -> None:
    """Compare with an earlier `trace`; a failure names what changed."""
    after = trace(model)
    for kind, value in before.items():
        torch.testing.assert_close(after[kind], value, rtol=0, atol=0,
                                   msg=lambda text, kind=kind: f"{kind} changed: {text}")


def unusual(model: nn.Module) -> nn.Module:
    """The model of `convolutional` in a mixed state, which a simple train() would not restore."""
    model.train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    return model


class Counting(Watching):
    """Says how many images a model got, call by call."""

    @property
    def sizes(self) -> list[int]:
        return [len(x) for x in self.seen]


class Small(Counting):
    """A network on a GPU whose memory holds only so many images."""

    def __init__(self, model: nn.Module, holds: int) -> None:
        super().__init__(model)
        self.holds = holds

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.holds:
            raise torch.OutOfMemoryError(f"{len(x)} images")
        return super().forward(x)


class Wrapped(nn.Module):
    def __init__(self, model, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, x):
        return self.after(self.model(self.before(x)))
