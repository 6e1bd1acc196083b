"""Every bad input is answered by a ValueError that says what is wrong and what to do."""

from __future__ import annotations

import pytest
import torch
from strategies import (
    assert_untouched,
    convolutional,
    generator,
    images,
    labels,
    trace,
    unusual,
)
from torch import nn

from course_lib.attacks import fgsm, ifgsm, mifgsm, pgd
from course_lib.gradients import input_gradient


def seeded_pgd(*args, **options) -> torch.Tensor:
    return pgd(*args, **{"generator": generator(), **options})


ATTACKS = {"fgsm": fgsm, "ifgsm": ifgsm, "pgd": seeded_pgd, "mifgsm": mifgsm}
STEPPING = {name: attack for name, attack in ATTACKS.items() if name != "fgsm"}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
stepping_attack = pytest.mark.parametrize("attack", STEPPING.values(), ids=STEPPING)

MODEL, X = convolutional(), images()
Y = labels(MODEL, X)
TARGET = (Y + 1) % 4


def spoilt(x: torch.Tensor, value: float) -> torch.Tensor:
    x = x.clone()
    x[1, 0, 2, 3] = value
    return x


BAD_IMAGES = {
    "0-255 floats": (X * 255, r"must lie in \[0, 1\].*divide 0-255 images by 255"),
    "0-255 integers": ((X * 255).byte(), r"not torch.uint8.*use x.float\(\) / 255"),
    "integers 0 and 1": (X.round().long(), "must be a float tensor, not torch.int64"),
    "booleans": (X > 0.5, "must be a float tensor, not torch.bool"),
    "complex numbers": (X + 0j, "must be a float tensor"),
    "normalised": ((X - 0.5) / 0.5, r"leave normalisation to the model"),
    "one pixel too bright": (spoilt(X, 1.001), r"reach from .* to 1.001"),
    "one pixel too dark": (spoilt(X, -0.001), r"reach from -0.001"),
    "NaN": (spoilt(X, float("nan")), r"must lie in \[0, 1\]"),
    "infinity": (spoilt(X, float("inf")), r"must lie in \[0, 1\]"),
    "a single image": (X[0], r"not \(3, 6, 5\): add a batch dimension with x\[None\]"),
    "a row of pixels": (X.flatten(1), r"\[batch, channels, rows, columns\]"),
    "five dimensions": (X[None], r"\[batch, channels, rows, columns\]"),
    "an array": (X.numpy(), "must be a float tensor, not float32"),
    "a list": (X.tolist(), "must be a float tensor, not list"),
    "no image": (X[:0], "give at least one image"),
}


@every_attack
@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_images(attack, kind):
    x, message = BAD_IMAGES[kind]
    with pytest.raises(ValueError, match=message):
        attack(MODEL, x, Y[:0] if kind == "no image" else Y, eps=0.1)


BAD_LABELS = {
    "too large": (Y + 4, "outside 0 … 3, the model has 4 classes"),
    "one too large": (torch.cat([TARGET[:-1], torch.tensor([4])]), "outside 0 … 3"),
    "negative": (Y - 5, "outside 0 … 3"),
    "too few": (Y[:-1], "6 images but 5 labels in {}: give one per image"),
    "too many": (torch.cat([Y, Y]), "6 images but 12 labels in {}"),
    "int32": (Y.int(), r"{} must be an int64 tensor of shape \[batch\], not 'torch.int32 \[6\]'"),
    "floats": (Y.float(), "{} must be an int64 tensor"),
    "one-hot": (nn.functional.one_hot(Y, 4), r"not 'torch.int64 \[6, 4\]': use torch.tensor"),
    "a column": (Y[:, None], r"not 'torch.int64 \[6, 1\]'"),
    "a list": (Y.tolist(), r"{} must be an int64 tensor .*use torch.tensor\(\[...\]\)"),
    "a number": (3, "{} must be an int64 tensor .* not 3"),
    "elsewhere": (Y.to("meta"), r"{} is on meta, the images on cpu: move one with .to\(device\)"),
}


@every_attack
@pytest.mark.parametrize("kind", BAD_LABELS)
def test_bad_labels(attack, kind):
    y, message = BAD_LABELS[kind]
    with pytest.raises(ValueError, match=message.format("y")):
        attack(MODEL, X, y, eps=0.1)


@every_attack
@pytest.mark.parametrize("kind", BAD_LABELS)
def test_bad_targets(attack, kind):
    target, message = BAD_LABELS[kind]
    with pytest.raises(ValueError, match=message.format("target")):
        attack(MODEL, X, Y, eps=0.1, target=target)


@every_attack
def test_a_target_that_is_the_label(attack):
    target = TARGET.clone()
    target[2] = Y[2]
    with pytest.raises(ValueError, match=r"target equals .* label: choose another class"):
        attack(MODEL, X, Y, eps=0.1, target=target)


@every_attack
@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf")])
def test_bad_eps(attack, eps):
    with pytest.raises(ValueError, match="is no radius: use a finite number >= 0"):
        attack(MODEL, X, Y, eps=eps)


@every_attack
@pytest.mark.parametrize("name", ["l3", "L2", "inf", 2, None])
def test_unknown_norms(attack, name):
    with pytest.raises(ValueError, match=r"unknown norm .*: use one of 'linf', 'l2', 'l1'"):
        attack(MODEL, X, Y, eps=0.1, norm=name)


class Image(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


BAD_MODELS = {
    "probabilities": (nn.Sequential(convolutional(), nn.Softmax(1)), "returns probabilities .*"
                      "attack the logits, the layer before the softmax"),
    "NaN": (nn.Sequential(nn.Flatten(), nn.Linear(90, 4)), "NaN or infinite logits: check"),
    "infinity": (nn.Sequential(nn.Flatten(), nn.Linear(90, 4)), "NaN or infinite logits: check"),
    "images": (Image(), r"must return logits \[batch, classes\], not \(6, 3, 6, 5\)"),
    "one row for all": (nn.Sequential(convolutional(), nn.Flatten(0)), r"\[batch, classes\]"),
    "another device": (convolutional().to("meta"), r"images are on cpu, the model on meta: move"),
}
nn.init.constant_(BAD_MODELS["NaN"][0][1].weight, float("nan"))
nn.init.constant_(BAD_MODELS["infinity"][0][1].bias, float("inf"))


@every_attack
@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models(attack, kind):
    model, message = BAD_MODELS[kind]
    with pytest.raises(ValueError, match=message):
        attack(model, X, Y, eps=0.1)


@every_attack
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_images_on_the_gpu_and_the_model_not(attack):
    with pytest.raises(ValueError, match="move one with"):
        attack(MODEL, X.cuda(), Y.cuda(), eps=0.1)


@stepping_attack
@pytest.mark.parametrize("steps", [0, -1])
def test_too_few_steps(attack, steps):
    with pytest.raises(ValueError, match="at least one step"):
        attack(MODEL, X, Y, eps=0.1, steps=steps)


@pytest.mark.parametrize("options, message", [
    ({"restarts": 0}, "starts at least once"),
    ({"restarts": 2, "random_start": False}, "need random_start=True"),
])
def test_bad_options_of_pgd(options, message):
    with pytest.raises(ValueError, match=message):
        seeded_pgd(MODEL, X, Y, eps=0.1, **options)


@pytest.mark.parametrize("mu", [-0.1, float("nan")])
def test_bad_mu(mu):
    with pytest.raises(ValueError, match="decay factor must be >= 0"):
        mifgsm(MODEL, X, Y, eps=0.1, mu=mu)


@pytest.mark.parametrize("kind", ["0-255 floats", "a single image", "one pixel too bright"])
def test_input_gradient_checks_too(kind):
    x, message = BAD_IMAGES[kind]
    with pytest.raises(ValueError, match=message):
        input_gradient(MODEL, x, Y)


@every_attack
def test_a_refused_attack_leaves_no_trace(attack):
    model = unusual(convolutional())
    before = trace(model)
    for x, y in ((X * 255, Y), (X, Y + 4)):
        with pytest.raises(ValueError):
            attack(model, x, y, eps=0.1)
    assert_untouched(model, before)


@every_attack
def test_what_only_looks_bad_is_accepted(attack):
    """The edges of the box, one image, all labels wrong, half a batch of equal labels."""
    for x, y in ((X.round(), Y), (X[:1], Y[:1]), (X, TARGET), (X, torch.zeros_like(Y))):
        assert attack(MODEL, x, y, eps=0.1).shape == x.shape
