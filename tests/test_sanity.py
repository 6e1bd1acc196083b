"""Sanity checks: each planted fault is found and named."""

from __future__ import annotations

import pytest
import torch
from strategies import (
    Wrapped,
    generator,
)

from course_lib import datasets, models
from course_lib.attacks import fgsm, ifgsm
from course_lib.norms import NORMS
from course_lib.sanity import sanity_checks

EPS = 0.15


@pytest.fixture(scope="module")
def digits():
    return models.load("mnist_cnn", "cpu"), datasets.mnist("test")[:60]


def judged(model, images, **options):
    options = {"eps": 0.15, "generator": generator(), "steps": 12, "queries": 60} | options
    return sanity_checks(model, images.x, images.y, **options)


def failed(report):
    return {check.name for check in report if not check.passed}


@pytest.mark.parametrize("p", NORMS)
def test_an_honest_model_passes(digits, p):
    eps = {"linf": 0.15, "l2": 2.0, "l1": 20.0}[p]
    report = judged(*digits, eps=eps, norm=p, substitute=models.load("mnist_mlp", "cpu"))
    assert report.passed and not report.suspicions and len(report) == 9, report
    assert all(line.startswith("✓") for line in repr(report).splitlines())


@pytest.mark.parametrize("fault", [
    pytest.param({"before": lambda x: (x * 8).round() / 8}, id="quantised"),
    pytest.param({"after": lambda z: 1e3 * z}, id="huge logits"),
    pytest.param({"after": lambda z: torch.tanh(1e3 * z)}, id="saturated"),
    pytest.param({"after": lambda z: z.detach() + 0 * z}, id="gradient cut"),
])
def test_masked_gradients_are_named(digits, fault):
    model, images = digits
    report = judged(Wrapped(model, **fault), images)
    assert "masked gradients" in report.suspicions
    assert {"gradients are not zero", "a huge eps fools everything"} <= failed(report)
    assert "✗" in repr(report) and "another loss (margin)" in repr(report)


def test_gradients_that_mislead_are_found_by_who_needs_none(digits):
    model, images = digits

    class Shattered(Wrapped):
        """Right outputs; the gradient is that of an unrelated random function."""

        def forward(self, x):
            z = self.model(x)
            noise = torch.rand(784, 10, generator=generator(3)) - 0.5
            bait = 100 * x.flatten(1) @ noise
            return z.detach() + bait - bait.detach()

    report = judged(Shattered(model), images, substitute=model, queries=200)
    assert {"black box finds nothing that white box missed",
            "transfer is not stronger than white box"} <= failed(report), report
    assert "gradients are not zero" not in failed(report)


@pytest.mark.slow
def test_the_robust_network_is_partly_masked():
    images = datasets.mnist("test")[200:220]
    report = sanity_checks(models.load("mnist_cnn_robust", "cpu"), images.x, images.y, eps=0.3)
    assert failed(report) == {"black box finds nothing that white box missed"}, report


@pytest.mark.parametrize(("attack", "check", "suspicion"), [
    (lambda model, x, y, eps, norm, steps: fgsm(model, x, y, eps=0.15),
     "eps = 0 changes nothing", "ignores eps"),
    (lambda model, x, y, eps, norm, steps: fgsm(model, x, y, eps=1.5 * eps),
     "it stays in ball and box", "missing projection"),
    (lambda model, x, y, eps, norm, steps: (x + eps * torch.ones_like(x)),
     "it stays in ball and box", "missing projection or clamp"),
    (lambda model, x, y, eps, norm, steps: x, "it is not weaker than FGSM", "step size"),
    (lambda model, x, y, eps, norm, steps: ifgsm(model, x, y, eps=eps, steps=max(1, 12 // steps)),
     "more steps are not weaker", "step size"),
])
def test_a_faulty_attack_is_named(digits, attack, check, suspicion):
    report = judged(*digits, attack=attack)
    assert check in failed(report), report
    assert suspicion in next(c.suspicion for c in report if c.name == check)


def test_an_attack_without_steps_skips_the_check_of_steps(digits):
    report = judged(*digits, attack=fgsm, steps=None)
    assert len(report) == 7 and "more steps are not weaker" not in {c.name for c in report}


def test_an_eps_beyond_all_sense_is_named(digits):
    assert "random noise is almost harmless" in failed(judged(*digits, eps=0.9))


def test_nothing_to_attack_is_said(digits):
    model, images = digits
    with pytest.raises(ValueError, match="names no image correctly"):
        sanity_checks(model, images.x, (images.y + 1) % 10, eps=0.1, generator=generator())
