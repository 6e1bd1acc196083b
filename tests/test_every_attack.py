"""What all attacks refuse alike: images and models, and logits at every pass and of every image."""

from __future__ import annotations

import functools

import pytest
import torch
from strategies import Small, convolutional, images, labels
from torch import Tensor, nn

from course_lib import evaluation
from course_lib.attacks import ddn, fgsm, ifgsm, jsma, lbfgs, mifgsm, one_pixel, pgd
from course_lib.attacks.one_pixel import corner_search

MODEL, X = convolutional(), images()
Y = labels(MODEL, X)
TARGET = (Y + 1) % 4
ITERATIVE = {
    "ifgsm": functools.partial(ifgsm, eps=0.1, steps=3),
    "ifgsm, early stop": functools.partial(ifgsm, eps=0.1, steps=3, early_stop=True),
    "pgd": functools.partial(pgd, eps=0.1, steps=3),
    "pgd, restarts": functools.partial(pgd, eps=0.01, steps=3, restarts=2),
    "mifgsm": functools.partial(mifgsm, eps=0.1, steps=3),
    "lbfgs": lbfgs,
    "ddn": functools.partial(ddn, steps=3),
    "jsma": functools.partial(jsma, target=TARGET),
    "one_pixel": functools.partial(one_pixel, population=6, generations=2),
}
ATTACKS = ITERATIVE | {
    "fgsm": functools.partial(fgsm, eps=0.1),
    "corner_search": lambda model, x, y: corner_search(model, x, y).x_adv,
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
iterative = pytest.mark.parametrize("attack", ITERATIVE.values(), ids=ITERATIVE)


class Spoilt(nn.Module):
    """The network, but from its call number `first` on one logit of the last image is `value`."""

    def __init__(self, value: float, first: int = 0) -> None:
        super().__init__()
        self.model, self.value, self.left = MODEL, value, first

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        self.left -= 1
        if self.left >= 0:
            return logits
        place = torch.zeros_like(logits, dtype=torch.bool)
        place[-1, 1] = True
        return logits.masked_fill(place, self.value)


VALUES = (float("nan"), float("inf"), -float("inf"))


@every_attack
@pytest.mark.parametrize("value", VALUES)
def test_one_logit_of_one_image_that_is_not_finite(attack, value):
    with pytest.raises(ValueError, match="NaN or infinite logits: check its weights, and its"):
        attack(Spoilt(value), X, Y)


@iterative
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_logit_that_is_not_finite_later(attack, value, first):
    """3 is the last pass of three steps, whose gradient nobody asks for."""
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        attack(Spoilt(value, first), X, Y)


@every_attack
def test_logits_with_rows_and_columns(attack):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ValueError, match=r"must return logits \[batch, classes\], not \(6, 4, 1"):
        attack(model, X, Y)


@every_attack
def test_probabilities(attack):
    with pytest.raises(ValueError, match="attack the logits, the layer before the softmax"):
        attack(nn.Sequential(MODEL, nn.Softmax(1)), X, Y)


HALVES = (torch.float16, torch.bfloat16)


@every_attack
@pytest.mark.parametrize("of_images, of_model, message", [
    (torch.float64, torch.float32, r"images are torch.float64, the model is torch.float32: conv"),
    (torch.float32, torch.float64, r"images are torch.float32, the model is torch.float64: conv"),
    (torch.float32, torch.bfloat16, r"the model is torch.bfloat16: convert one with .float\(\)"),
    *[(half, of_model, r"must be float32 or float64, not torch.\w+16.*use x.float\(\) and model")
      for half in HALVES for of_model in (torch.float32, half)],
    (torch.uint8, torch.float32, r"not torch.uint8: use x.float\(\) / 255"),
    (torch.int64, torch.float32, "not torch.int64"),
])
def test_other_numbers_than_the_models(attack, of_images, of_model, message):
    with pytest.raises(ValueError, match=message):
        attack(convolutional().to(of_model), X.to(of_images), Y)


@every_attack
def test_double_precision_of_both_is_welcome(attack):
    assert attack(convolutional().double(), X.double(), Y).dtype == torch.float64


@every_attack
def test_inference_mode(attack):
    message = "torch.inference_mode .*leave it, or use torch.no_grad"
    with torch.inference_mode():
        made_in_it = X.clone()
        with pytest.raises(ValueError, match=message):
            attack(MODEL, X, Y)
    with pytest.raises(ValueError, match=message):
        attack(MODEL, made_in_it, Y)
    with torch.no_grad():
        assert attack(MODEL, X, Y).shape == X.shape


@every_attack
def test_a_batch_norm_without_running_statistics(attack):
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), convolutional())
    with pytest.raises(ValueError, match="depend on the rest of its batch: use running"):
        attack(model, X, Y)


@every_attack
def test_what_comes_back_has_no_graph(attack):
    x_adv = attack(MODEL, X.clone().requires_grad_(), Y)
    assert not x_adv.requires_grad and x_adv.grad_fn is None
    assert x_adv.dtype == X.dtype and x_adv.shape == X.shape


STEPPING = {"ifgsm": functools.partial(ifgsm, eps=0.1), "pgd": functools.partial(pgd, eps=0.1),
            "mifgsm": functools.partial(mifgsm, eps=0.1), "ddn": ddn}


@pytest.mark.parametrize("attack", STEPPING.values(), ids=STEPPING)
@pytest.mark.parametrize("step_size", [-0.01, float("nan"), float("inf")])
def test_bad_step_sizes(attack, step_size):
    with pytest.raises(ValueError, match=r"step_size = .*: use a finite number >= 0"):
        attack(MODEL, X, Y, step_size=step_size)


@every_attack
def test_a_batch_too_large_for_the_memory_is_halved(attack):
    small = Small(MODEL, 2)
    # L-BFGS builds on each rounding.
    torch.testing.assert_close(attack(small, X, Y), attack(MODEL, X, Y), rtol=0, atol=1e-3)
    assert small.sizes


def test_the_judge_halves_it_too():
    torch.testing.assert_close(evaluation.logits(Small(MODEL, 2), X), evaluation.logits(MODEL, X))


@every_attack
def test_a_function_is_no_model(attack):
    with pytest.raises(ValueError, match=r"a nn\.Module, not a function: write a class whose"):
        attack(lambda x: MODEL(x), X, Y)
