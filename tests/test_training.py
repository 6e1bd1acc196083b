"""Training: it learns, it repeats, it attacks what it should, and it writes files whole."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from course_lib import datasets, evaluation, models, training
from course_lib.runtime import generator


def small(seed: int = 0) -> nn.Module:
    model = models.MnistCNN(channels=4, hidden=16)
    training.initialise(model, generator(seed))
    return model


def trained(images, **options):
    model = small()
    history = training.fit(model, images, generator=generator(1), lr=0.01, **options)
    return model, history


@pytest.fixture(scope="module")
def digits():
    return datasets.mnist("train")[:600]


def test_standard_training_learns(digits):
    model, history = trained(digits, epochs=6, augmented=False)
    assert history.loss[-1] < 0.5 * history.loss[0] and len(history.accuracy) == 6
    test = datasets.mnist("test")
    assert evaluation.accuracy(model, test.x, test.y) > 0.75
    assert not model.training and history.seconds > 0


@pytest.mark.parametrize("method", training.METHODS)
def test_the_same_seed_gives_the_same_weights(digits, method):
    options = {"method": method, "epochs": 1, "steps": 2}
    first, _ = trained(digits[:150], **options)
    torch.rand(7)  # whatever the global random state is, it has no say
    second, _ = trained(digits[:150], **options)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_pgd_training_trains_on_attacked_images(digits, monkeypatch):
    """A plant that returns the clean images (delta = 0) would make this training standard."""
    seen = []

    def spy(model, x, y, *, eps, **options):
        x_adv = training_pgd(model, x, y, eps=eps, **options)
        seen.append((eps, float((x_adv - x).abs().max())))
        return x_adv

    training_pgd = training.pgd
    monkeypatch.setattr(training, "pgd", spy)
    trained(digits[:200], method="pgd", epochs=5, eps=0.2, steps=2)
    assert len(seen) == 5 * 4
    for eps, size in seen[1:]:  # the first one has eps = 0
        assert 0.9 * eps < size <= eps + 1e-6
    radii = [eps for eps, _ in seen]
    assert radii == sorted(radii) and radii[0] == 0 and radii[4:] == [0.2] * 16


def test_pgd_training_gives_robustness_that_standard_training_does_not():
    """Two stripes: a weak feature on every pixel, and a strong one on a single pixel."""
    x, y = stripes(400)
    images, robust = datasets.Images(x, y, ["dark", "bright"]), {}
    for method in training.METHODS:
        model = nn.Sequential(nn.Flatten(), nn.Linear(100, 2))
        training.initialise(model, generator(0))
        training.fit(model, images, method=method, epochs=20, lr=0.02, eps=0.1, steps=3,
                     augmented=False, generator=generator(1))
        x_adv = training.pgd(model, x, y, eps=0.1, generator=generator(0))
        robust[method] = evaluation.accuracy(model, x_adv, y)
    assert robust["standard"] < 0.2 and robust["pgd"] > 0.9


def stripes(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of 10 x 10: the first pixel tells the class by 0.5 and is wrong in 5 % of them, the
    others tell it together by 0.05 each, less than the attack may take away."""
    draw = generator(0)
    y = torch.randint(0, 2, (n,), generator=draw)
    side = 2.0 * y - 1
    x = 0.5 + 0.05 * side[:, None] + 0.05 * torch.randn(n, 100, generator=draw)
    liar = torch.rand(n, generator=draw) < 0.05
    x[:, 0] = 0.5 + 0.25 * torch.where(liar, -side, side)
    return x.clamp(0, 1).view(n, 1, 10, 10), y


def test_jitter_moves_each_image_its_own_way_inside_the_box(digits):
    x = digits.x[:1].expand(8, -1, -1, -1)
    moved = training.jitter(x, generator(0))
    assert moved.shape == x.shape and float(moved.min()) >= 0 and float(moved.max()) <= 1
    assert len({image.numpy().tobytes() for image in moved}) == 8
    still = training.jitter(x, generator(0), degrees=0, shift=0, scale=0)
    assert torch.allclose(still, x, atol=1e-5)


def test_jitter_shifts_as_far_as_it_says():
    x = torch.zeros(200, 1, 41, 41)
    x[:, :, 20, 20] = 1
    moved = training.jitter(x, generator(0), degrees=0, scale=0, shift=0.1)
    columns = moved.sum(2).squeeze(1) @ torch.arange(41.0) / moved.sum((1, 2, 3))
    assert 3.5 < float((columns - 20).abs().max()) < 4.2  # 0.1 * 41 pixels


def test_nothing_to_train_is_an_error(digits):
    for options in ({"method": "trades", "epochs": 1}, {"epochs": 0}):
        with pytest.raises(ValueError, match=r"unknown method 'trades'|nothing to train"):
            trained(digits, **options)
    with pytest.raises(ValueError, match="0 images"):
        trained(digits[:0], epochs=1)


def test_saved_weights_load_again_and_keep_the_others(tmp_path):
    model = small()
    training.save("first", model, tmp_path)
    file = training.save("second", model, tmp_path)
    sums = models.checksums(tmp_path)
    assert set(sums) == {"first.safetensors", "second.safetensors"}
    assert sums[file.name] == hashlib.sha256(file.read_bytes()).hexdigest()
    for key, value in load_file(file).items():
        assert torch.equal(value, model.state_dict()[key])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    training.save("net", small(0), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full_disk(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(training.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        training.save("net", small(1), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_command_writes_weights_and_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    monkeypatch.setattr(training.datasets, "mnist", lambda split: small_set(split))
    training.main(["--model", "mnist_mlp", "--epochs", "1", "--seed", "3"])
    card = (tmp_path / "mnist_mlp.md").read_text()
    assert "`python -m course_lib.training --model mnist_mlp --epochs 1 --seed 3`" in card
    assert "| none | " in card and "PGD-40" in card and "Seed: 3" in card
    assert isinstance(models.load("mnist_mlp", "cpu"), models.MnistMLP)
    assert "epoch 1: loss" in capsys.readouterr().out


def small_set(split, load=datasets.mnist):
    return load(split)[:100]
