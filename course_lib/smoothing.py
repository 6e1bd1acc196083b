"""Randomised smoothing: a certified l_2 radius, from nothing but the classes a network names.

Taught in lesson 07. The smoothed classifier names the class that the network names most often
when Gaussian noise is added to the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from course_lib import runtime
from course_lib.evaluation import logits
from course_lib.evolution import problem_generators
from course_lib.gradients import check_images

ABSTAIN = -1  # the label of an image about which nothing is certified
_BLOCK = 100  # noisy images drawn at once; another number would draw other noise


class Certificates(NamedTuple):
    """What `certify` found for n images.

    labels [n] int64: the class of the smoothed classifier, -1 where it abstains.
    radii [n] float32: the l_2 radius within which no perturbation changes this class, 0 where it
    abstains.
    """

    labels: Tensor
    radii: Tensor


def certify(
    model: nn.Module, x: Tensor, *, sigma: float, samples: int = 1000, select: int = 100,
    alpha: float = 0.001, generator: torch.Generator | None = None,
) -> Certificates:
    """The class of the smoothed classifier, and a radius within which no attack can change it.

        g(x)   = the class c with the largest P(f(x + noise) = c),   noise ~ N(0, sigma^2 I)
        radius = sigma * Phi^-1(p_A),   p_A a lower bound of P(f(x + noise) = g(x)), if p_A > 1/2

    `select` noisy images choose the class, `samples` fresh ones count how often the network names
    it. Where p_A <= 1/2 the classifier abstains. The statement about one image is wrong with
    probability at most alpha: the noise is random. The noise of an image depends on the generator
    and on the image's place in the batch, and on nothing else. Noisy images leave [0, 1].

    Shape: x [n, channels, rows, columns].
    generator: by default a fresh one with seed 0.
    Raises: ValueError for bad images; a sigma <= 0 or not finite; fewer than one sample; an alpha
    outside (0, 1); or a model that returns no logits [batch, classes].
    Reference: Cohen, Rosenfeld, Kolter 2019, theorem 1 and section 3.2.2 (CERTIFY).
    Lesson: 07.

    >>> x = torch.tensor([[[[0.2, 0.9]]], [[[0.5, 0.5]]]])  # 0.49 from the border, and on it
    >>> certificates = certify(nn.Flatten(), x, sigma=0.5)
    >>> certificates.labels, (certificates.radii > 0.35) & (certificates.radii < 0.49)
    (tensor([ 1, -1]), tensor([ True, False]))
    """
    check_images(model, x, None)
    _check(sigma, samples, select, alpha)
    lucks = problem_generators(len(x), generator or runtime.generator(0))
    labels, radii = [], []
    for image, luck in runtime.progress(zip(x.detach(), lucks, strict=True), "certify", len(x)):
        label = int(votes(model, image, sigma, select, luck).argmax())
        hits = int(votes(model, image, sigma, samples, luck)[label])
        p_a = lower_bound(hits, samples, alpha)
        certain = p_a > 0.5
        labels.append(label if certain else ABSTAIN)
        radii.append(sigma * norm.ppf(p_a) if certain else 0.0)
    return Certificates(torch.tensor(labels, device=x.device),
                        torch.tensor(radii, dtype=torch.float32, device=x.device))


def votes(
    model: nn.Module, image: Tensor, sigma: float, samples: int, luck: torch.Generator
) -> Tensor:
    """How often the network names each class for the image with Gaussian noise: int64 [classes]."""
    counts = []
    for start in range(0, samples, _BLOCK):
        noise = torch.randn((min(_BLOCK, samples - start), *image.shape), generator=luck)
        scores = logits(model, image + sigma * noise.to(image))
        if scores.dim() != 2 or len(scores) != len(noise):
            raise ValueError("the model must return logits [batch, classes], "
                             f"not {tuple(scores.shape)}")
        counts.append(scores.argmax(1).bincount(minlength=scores.shape[1]))
    return torch.stack(counts).sum(0)


def lower_bound(hits: int, n: int, alpha: float) -> float:
    """The one-sided bound of Clopper and Pearson: a rate that the true one exceeds.

    It is the rate p at which `hits` or more of n have probability alpha. The true rate lies
    below the bound with probability at most alpha.

    Reference: Clopper and Pearson 1934.
    Lesson: 07.

    >>> round(lower_bound(990, 1000, 0.001), 3)
    0.976
    """
    return float(beta.ppf(alpha, hits, n - hits + 1)) if hits else 0.0


def certified_accuracy(
    certificates: Certificates, y: Tensor, radii: Sequence[float]
) -> list[float]:
    """The share of images with the right class and a certified radius of at least r, for each r.

    An image for which the classifier abstains counts as wrong, also at radius 0.

    Shape: y [n] labels. radii: numbers >= 0.
    Raises: ValueError for labels of another kind or length, or a negative or infinite radius.
    Reference: Cohen, Rosenfeld, Kolter 2019, section 4.
    Lesson: 07.

    >>> found = Certificates(torch.tensor([3, -1, 2]), torch.tensor([0.5, 0.0, 0.1]))
    >>> certified_accuracy(found, torch.tensor([3, 1, 2]), [0.0, 0.3])
    [0.6666666666666666, 0.3333333333333333]
    """
    labels, certified = certificates
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != labels.shape:
        got = f"{y.dtype} {list(y.shape)}" if isinstance(y, Tensor) else repr(y)
        raise ValueError(f"y must be an int64 tensor of shape [{len(labels)}], one label for each "
                         f"certificate, not {got}")
    if bool((y < 0).any()):
        raise ValueError("y holds a negative label: labels count from 0, and -1 means to abstain")
    for r in radii:
        if not (math.isfinite(r) and r >= 0):
            raise ValueError(f"{r} is no radius: use a finite number >= 0")
    return [((labels == y) & (certified >= r)).double().mean().item() for r in radii]


def _check(sigma: float, samples: int, select: int, alpha: float) -> None:
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma = {sigma} is no standard deviation: use a finite number > 0")
    for name, count in (("samples", samples), ("select", select)):
        if count < 1:
            raise ValueError(f"{name} = {count}: use at least one noisy image")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha = {alpha} is no probability of an error: use a number between "
                         "0 and 1, such as 0.001")
