"""Dense adversary generation, on a linear model whose optimum is known and on a small network."""

from __future__ import annotations

import pytest
import torch
from strategies import assert_untouched, images, trace
from torch import nn

from course_lib.attacks import dag
from course_lib.attacks.dag import dense_gradient

X = images(shape=(3, 8, 8))


def network(seed: int = 0) -> nn.Module:
    """Logits for each pixel, from its neighbourhood; batch norm and dropout show their mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                             nn.Dropout(0.5), nn.Conv2d(8, 4, 3, padding=1)).eval()


MODEL = network()
MASK = MODEL(X).argmax(1)


def one_weight() -> nn.Module:
    """Each pixel on its own: z_0 = 0, z_1 = x - 0.5, of one channel."""
    model = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
        model.bias.copy_(torch.tensor([0.0, -0.5]))
    return model


def test_a_linear_model_is_moved_just_where_it_is_right():
    """The best step is known: up where the name is 0, down where it is 1, and 0 where it is lost"""
    x = torch.tensor([0.45, 0.55, 0.2, 0.8]).view(1, 1, 2, 2)
    mask = torch.tensor([0, 1, 0, 0]).view(1, 2, 2)  # the last pixel is misnamed already
    x_adv = dag(one_weight(), x, mask, eps=0.1, steps=20, step_size=0.02)
    assert torch.allclose(x_adv.flatten(), torch.tensor([0.51, 0.49, 0.3, 0.8]), atol=0.011)
    assert x_adv.flatten()[3] == x.flatten()[3] and x_adv.flatten()[2] == pytest.approx(0.3)


def test_an_attack_stops_where_nothing_is_left():
    x = torch.full((1, 1, 4, 4), 0.48)
    seen = []
    x_adv = dag(one_weight(), x, torch.zeros(1, 4, 4, dtype=torch.int64), eps=0.2, steps=50,
                step_size=0.01, callback=lambda t, x_t: seen.append(t))
    assert seen == [0, 1, 2, 3] and float(x_adv.max()) < 0.52


@pytest.mark.parametrize("eps", [0.0, 2 / 255, 0.1])
def test_ball_and_box(eps):
    x_adv = dag(MODEL, X, MASK, eps=eps)
    assert float((x_adv - X).abs().max()) <= eps + 1e-6
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    assert x_adv.shape == X.shape and x_adv.dtype == X.dtype and not x_adv.requires_grad


def test_fewer_pixels_keep_their_name_than_under_noise_of_the_same_size():
    coin = torch.rand(X.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    noisy = (X + 0.2 * coin.sign()).clamp(0, 1)
    kept = [(MODEL(x).argmax(1) == MASK).float().mean().item()
            for x in (noisy, dag(MODEL, X, MASK, eps=0.2))]
    assert kept[1] < kept[0] - 0.2


def test_a_target_map_is_approached_and_a_reached_one_is_left_alone():
    target = (MASK + 1) % 4
    reached = [(MODEL(x).argmax(1) == target).float().mean().item()
               for x in (X, dag(MODEL, X, MASK, eps=0.2, target=target))]
    assert reached[0] == 0 and reached[1] > 0.15
    assert torch.equal(dag(MODEL, X, MASK, eps=0.1, target=MASK), X)


def test_only_the_pixels_that_are_left_count():
    lost = MASK.clone()
    lost[:, :, 4:] = (lost[:, :, 4:] + 1) % 4
    gradient, left = dense_gradient(MODEL, X, lost)
    assert torch.equal(left, lost == MASK)
    assert float(gradient[..., 6:].abs().max()) == 0 < float(gradient[..., :4].abs().max())


def test_an_image_does_not_depend_on_its_batch():
    together = dag(MODEL, X, MASK, eps=0.1, steps=5)
    for i in range(len(X)):
        alone = dag(MODEL, X[i:i + 1], MASK[i:i + 1], eps=0.1, steps=5)
        assert torch.allclose(alone[0], together[i], atol=1e-5)


def test_model_and_images_stay_as_they_were_and_a_call_repeats():
    model, x = network().train(), X.clone()
    before = trace(model)
    first = dag(model, x, MASK, eps=0.1, steps=3)
    assert_untouched(model, before)
    assert torch.equal(x, X)
    assert torch.equal(first, dag(model, x, MASK, eps=0.1, steps=3))


@pytest.mark.parametrize(("changes", "words"), [
    ({"x": X * 255}, r"must lie in \[0, 1\]"), ({"mask": MASK[:2]}, "a label for each pixel"),
    ({"mask": MASK.float()}, "must be an int64 tensor"), ({"mask": MASK + 4}, "outside 0 … 3"),
    ({"target": MASK[:, :4]}, "a target for each label"),
    ({"target": MASK[0]}, "target must be an int64"), ({"target": MASK - 4}, "target holds"),
    ({"eps": -1.0}, "no radius"), ({"steps": 0}, "at least one step"),
    ({"step_size": float("nan")}, "finite number"),
    ({"model": nn.Sequential(nn.Flatten(), nn.Linear(192, 4))}, "one for each class and pixel"),
    ({"model": nn.Conv2d(3, 4, 3)}, "one for each class and pixel"),
])
def test_bad_input_is_named(changes, words):
    given = {"model": MODEL, "x": X, "mask": MASK, "eps": 0.1} | changes
    with pytest.raises(ValueError, match=words):
        dag(given.pop("model"), given.pop("x"), given.pop("mask"), **given)


def test_logits_that_are_not_finite():
    model = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        model.bias[1] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        dag(model, X, MASK, eps=0.1)
