"""The promise of lesson 03: one step of eight grey levels fools EfficientNet-Lite0."""

from __future__ import annotations

import pytest
import torch

from course_lib import datasets, evaluation, models
from course_lib.attacks import fgsm

EPS = 8 / 255


@pytest.fixture(scope="module")
def network():
    return models.load("efficientnet_lite0")


@pytest.fixture(scope="module")
def photos(network):
    """The photographs that the network names correctly."""
    images = datasets.imagenet().to(next(network.parameters()).device)
    return images[~evaluation.fooled(network, images.x, images.y)]


def test_one_batched_call_fools_most_photographs(network, photos):
    x_adv = fgsm(network, photos.x, photos.y, eps=EPS)
    assert len(photos) >= 17
    fooled = evaluation.fooled(network, x_adv, photos.y).float().mean().item()
    saved = evaluation.fooled(network, evaluation.eight_bits(x_adv), photos.y).float().mean().item()
    assert fooled >= 0.8 and saved >= 0.8
    assert bool((x_adv >= 0).all() and (x_adv <= 1).all())
    assert bool(((x_adv - photos.x).abs() <= EPS + 1e-6).all())


def test_random_signs_of_that_size_do_not(network, photos):
    """It is the direction that fools, not the size."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, photos.x.shape, generator=generator) * 2.0 - 1
    noisy = (photos.x + 2 / 255 * signs.to(photos.x)).clamp(0, 1)
    one_step = fgsm(network, photos.x, photos.y, eps=2 / 255)
    assert evaluation.fooled(network, noisy, photos.y).float().mean().item() <= 0.1
    assert evaluation.fooled(network, one_step, photos.y).float().mean().item() >= 0.7
