"""Training: it learns, it repeats, it attacks what it should, and it writes files whole."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from course_lib import cards, datasets, evaluation, files, models, norms, runtime, training
from course_lib.attacks import pgd
from course_lib.runtime import generator
from course_lib.training import __main__ as command


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
    model, history = trained(digits, epochs=6)
    assert history.loss[-1] < 0.5 * history.loss[0] and len(history.accuracy) == 6
    test = datasets.mnist("test")
    assert evaluation.accuracy(model, test.x, test.y) > 0.75
    assert not model.training and history.seconds > 0


@pytest.mark.parametrize("method", training.METHODS)
def test_the_same_seed_gives_the_same_weights(digits, method):
    options = {"method": method, "epochs": 1, "steps": 2, "augment": training.jitter}
    first, _ = trained(digits[:150], **options)
    torch.rand(7)  # whatever the global random state is, it has no say
    second, _ = trained(digits[:150], **options)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_pgd_training_trains_on_attacked_images(digits, monkeypatch):
    """A plant that returns the clean images (delta = 0) would make this training standard."""
    seen = []

    def spy(model, x, *args, eps, **options):
        x_adv = attack(model, x, *args, eps=eps, **options)
        seen.append((eps, float((x_adv - x).abs().max())))
        return x_adv

    attack = training.inner.inner_maximum
    monkeypatch.setattr(training.loop, "inner_maximum", spy)
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
                     generator=generator(1))
        x_adv = pgd(model, x, y, eps=0.1, generator=generator(0))
        robust[method] = evaluation.accuracy(model, x_adv, y)
    assert robust.pop("standard") < 0.2
    assert min(robust.values()) > 0.9, robust


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


def inner_maximum(model, x, y, method, *, eps, steps, norm, seed):
    start = training.inner.start_of(x, method, generator(seed), eps=eps, norm=norm)
    return training.inner.inner_maximum(model, x, start, y, method, eps=eps, steps=steps, norm=norm)


def test_the_inner_maximum_of_pgd_is_the_attack(digits):
    model, x, y = small(), digits.x[:40], digits.y[:40]
    for norm, eps in (("linf", 0.1), ("l2", 2.0), ("l1", 8.0)):
        attack = pgd(model, x, y, eps=eps, steps=3, norm=norm, generator=generator(5))
        assert torch.equal(attack, inner_maximum(model, x, y, "pgd", eps=eps, steps=3, norm=norm,
                                                 seed=5))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", [m for m in training.METHODS if m != "free"])
def test_the_inner_maximum_stays_in_its_ball_and_raises_the_loss(digits, method, norm):
    model, x, y = small().train(), digits.x[:40], digits.y[:40]
    eps = 0.1 if norm == "linf" else 2.0
    x_adv = inner_maximum(model, x, y, method, eps=eps, steps=3, norm=norm, seed=0)
    size = float(norms.lp_norm(x_adv - x, norm).max())
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    assert all(p.requires_grad and p.grad is None for p in model.parameters()) and model.training
    if method == "standard":
        assert size == 0
        return
    assert 0.5 * eps < size <= (3 if method == "n-fgsm" else 1) * eps + 1e-5
    start = x + norms.uniform_ball(x.shape, eps, norm, generator(0))
    if method == "trades":  # knows no labels: it climbs the disagreement with p(x)
        reached, before = (training.inner.kl(model(x), model(z)).mean() for z in (x_adv, start))
    else:
        reached, before = (nn.functional.cross_entropy(model(z), y) for z in (x_adv, x))
    assert reached > before


def test_the_single_steps_are_their_formulas(digits):
    """One linear layer, no box in the way: the gradient's sign is known, the rest is arithmetic."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    x, y = 0.4 + 0.2 * torch.rand(30, 1, 4, 4), torch.arange(30) % 2
    weight = model[1].weight.detach()
    sign = torch.sign(weight[1 - y] - weight[y]).view_as(x)

    def moved(method):
        return inner_maximum(model, x, y, method, eps=0.1, steps=1, norm="linf", seed=5) - x

    noise = (2 * torch.rand(x.shape, generator=generator(5)) - 1) * 0.1
    assert torch.allclose(moved("fgsm"), 0.1 * sign, atol=1e-6)
    assert torch.allclose(moved("fast"), (noise + 0.125 * sign).clamp(-0.1, 0.1), atol=1e-6)
    assert torch.allclose(moved("n-fgsm"), 2 * noise + 0.1 * sign, atol=1e-6)


def test_free_training_replays_each_batch_and_keeps_its_perturbation():
    """Four replays of 0.1 in a ball of 0.1: the images seen are x, then x + 0.1 sign(gradient)."""
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            seen.append(x.detach().clone())
            return super().forward(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), Spy(16, 2))
    weight = model[1].weight.detach()
    sign = torch.sign(weight[0] - weight[1])  # what raises the loss of class 1
    x = 0.4 + 0.2 * torch.rand(6, 1, 4, 4)
    images = datasets.Images(x, torch.ones(6, dtype=torch.int64), ["no", "yes"])
    training.fit(model, images, method="free", epochs=1, steps=4, batch_size=3, eps=0.1, lr=1e-6,
                 generator=generator(0))
    assert len(seen) == 8
    order = torch.randperm(6, generator=generator(0))
    second = x[order[3:]].flatten(1)  # by its turn the radius has grown to its full size
    assert torch.allclose(seen[5] - second, 0.1 * sign.expand(3, -1), atol=1e-6)
    assert torch.allclose(seen[7], seen[5], atol=1e-6)
    assert torch.equal(seen[0], x[order[:3]].flatten(1))


@pytest.mark.parametrize("norm, eps", [("l1", 2.0), ("l2", 0.4), ("linf", 0.1)])
def test_free_training_steps_from_the_image(norm, eps):
    """White and black pixels: an l1 step has a pixel's whole range, and goes only inwards."""
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            seen.append(x.detach().clone())
            return super().forward(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), Spy(16, 2))
    weight = model[1].weight.detach()
    x = (torch.arange(16) % 2).float().view(1, 1, 4, 4)
    images = datasets.Images(x, torch.ones(1, dtype=torch.int64), ["no", "yes"])
    training.fit(model, images, method="free", norm=norm, eps=eps, epochs=10, steps=4, lr=1e-9,
                 generator=generator(0))
    towards = (weight[0] - weight[1]).view_as(x)  # what raises the loss of class 1
    best = norms.steepest_step(x, towards, eps, norm).clamp(0, 1)
    torch.testing.assert_close(seen[-3].view_as(x), best, rtol=0, atol=1e-5)
    assert norms.lp_norm(best - x, norm) > 0.9 * eps or norm == "l2"


def test_trades_pays_for_disagreement_with_its_own_clean_prediction():
    clean, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    p, q = clean.softmax(1), other.softmax(1)
    assert torch.allclose(training.inner.kl(clean, other), (p * (p / q).log()).sum(1))
    assert float(training.inner.kl(clean, clean)) == pytest.approx(0, abs=1e-7)


class Killed(Exception):
    pass


def killed_after(epochs):
    def on_epoch(history):
        if len(history.loss) == epochs:
            raise Killed

    return on_epoch


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(),
                                                 second.state_dict().values(), strict=True))


def test_a_killed_run_ends_with_the_weights_of_one_never_killed(digits, tmp_path):
    options = {"method": "fast", "epochs": 4, "augment": training.jitter}
    whole, history = trained(digits[:150], **options)
    file = tmp_path / "run.checkpoint"
    for epoch in (1, 3):
        with pytest.raises(Killed):
            trained(digits[:150], checkpoint=file, on_epoch=killed_after(epoch), **options)
    resumed, again = trained(digits[:150], checkpoint=file, **options)
    assert same(whole, resumed) and history.loss == again.loss
    assert history.accuracy == again.accuracy


# Its processes begin as forks of one that has imported what they need.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["course_lib.training"])


def train_in_a_process(begins, checkpoint, folder):
    torch.set_num_threads(1)
    model, digits = small(), datasets.mnist("train")[:500]
    begins.set()
    training.fit(model, digits, method="fast", epochs=60, lr=0.01, eps=0.1, batch_size=250,
                 checkpoint=checkpoint, generator=generator(1))
    training.save("net", model, folder)


def run_child(checkpoint, folder, seconds=None):
    """Train in a process of its own, killed `seconds` after its training began."""
    begins = FORKS.Event()
    child = FORKS.Process(target=train_in_a_process, args=(begins, checkpoint, folder))
    child.start()
    assert begins.wait(60)
    child.join(seconds)
    child.kill()
    child.join()
    return child.exitcode == 0


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tmp_path):
    moments = (0.3 * torch.rand(10, generator=generator(0))).tolist()
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    finished = [run_child(tmp_path / "cut.checkpoint", cut, s) for s in moments]
    assert finished.count(False) >= 5
    assert run_child(tmp_path / "cut.checkpoint", cut)
    assert run_child(tmp_path / "whole.checkpoint", whole)
    name = "net.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_a_truncated_checkpoint_gives_way_to_the_one_before(digits, tmp_path):
    file = tmp_path / "run.checkpoint"
    whole, _ = trained(digits[:150], epochs=3)
    with pytest.raises(Killed):
        trained(digits[:150], epochs=3, checkpoint=file, on_epoch=killed_after(2))
    file.write_bytes(file.read_bytes()[:-100])
    seen = []
    resumed, _ = trained(digits[:150], epochs=3, checkpoint=file,
                         on_epoch=lambda history: seen.append(len(history.loss)))
    assert seen == [2, 3] and same(whole, resumed)


def test_the_checkpoint_of_another_training_is_an_error(digits, tmp_path):
    file = tmp_path / "run.checkpoint"
    trained(digits[:50], epochs=1, checkpoint=file)
    with pytest.raises(ValueError, match=r"another training, with \{'epochs': 1\}: delete"):
        trained(digits[:50], epochs=2, checkpoint=file)


def mirrored(x, generator):
    return x.flip(3)


def test_the_checkpoint_knows_seed_augmentation_and_first_weights(digits, tmp_path):
    """Otherwise a second training returns the weights of the first."""
    images, file = digits[:50], tmp_path / "run.checkpoint"

    def train(seed=1, weights=0, augment=mirrored):
        training.fit(small(weights), images, epochs=1, checkpoint=file, augment=augment,
                     generator=generator(seed))

    train()
    train()
    for options, name in (({"seed": 2}, "generator"), ({"weights": 2}, "weights"),
                          ({"augment": training.jitter}, "augment"), ({"augment": None}, "augment"),
                          ({"augment": functools.partial(training.jitter, shift=0)}, "augment")):
        with pytest.raises(ValueError, match=rf"belongs to another training, with \{{'{name}'"):
            train(**options)


def test_an_augmentation_is_called_the_same_in_every_process():
    partial = functools.partial(training.jitter, shift=0.1, degrees=3)
    name_of = training.checkpoint.name_of
    assert name_of(partial) == "jitter () [('degrees', 3), ('shift', 0.1)]"
    assert name_of(mirrored) == "mirrored" and name_of(nn.Identity()) == "Identity"


def test_a_checkpoint_of_a_gpu_resumes_on_a_cpu(digits, tmp_path, monkeypatch):
    """Its tensors are labelled as a GPU would label them."""
    file, options = tmp_path / "run.checkpoint", {"method": "fast", "epochs": 2}
    whole, _ = trained(digits[:100], **options)
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        with pytest.raises(Killed):
            trained(digits[:100], checkpoint=file, on_epoch=killed_after(1), **options)
    assert b"cuda:0" in file.read_bytes()
    resumed, _ = trained(digits[:100], checkpoint=file, **options)
    assert same(whole, resumed)


def test_batch_norm_learns_its_statistics_from_training_only(digits):
    """They move in the steps on the weights, never inside an attack; at the end they rest."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(784, 10))
    training.fit(model, digits[:100], method="fast", epochs=2, eps=0.1, generator=generator(0))
    assert int(model[0].num_batches_tracked) == 4 and not model[0].training
    assert float(model[0].running_mean) > 0


def test_crop_and_flip_moves_bytes_and_floats_alike():
    x = torch.randint(1, 256, (64, 3, 8, 8), generator=generator(0), dtype=torch.uint8)
    moved = training.crop_and_flip(x, generator(1))
    assert moved.dtype == torch.uint8 and moved.shape == x.shape
    assert torch.equal(training.crop_and_flip(x.float(), generator(1)), moved.float())
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    found = set()
    for i in range(64):
        for down in range(5):
            for right in range(5):
                crop = padded[i, :, down:down + 8, right:right + 8]
                for flipped in (False, True):
                    if torch.equal(crop.flip(2) if flipped else crop, moved[i]):
                        found.add((i, down, right, flipped))
    assert len(found) == 64  # every image is one of the fifty
    assert {flipped for *_, flipped in found} == {False, True}
    assert {down for _, down, _, _ in found} == {right for _, _, right, _ in found} == set(range(5))


def test_bytes_train_as_their_floats_do(digits):
    pixels = datasets.Images((255 * digits.x[:100]).round().byte(), digits.y[:100], digits.classes)
    floats = datasets.Images(pixels.x.float() / 255, pixels.y, pixels.classes)
    first, _ = trained(pixels, epochs=1)
    second, _ = trained(floats, epochs=1)
    assert same(first, second)


def test_bfloat16_learns_what_float32_learns(digits):
    _, exact = trained(digits, epochs=3)
    model, rough = trained(digits, epochs=3, bf16=True)
    assert rough.loss[-1] == pytest.approx(exact.loss[-1], rel=0.1)
    assert rough.loss != exact.loss  # it was used
    assert all(p.dtype == torch.float32 for p in model.parameters())


HARDWARE = {  # what the processor has, what oneDNN may use -> whether "auto" takes it
    "bf16": ({"avx512_bf16": True}, None, True),
    "amx": ({"avx512_bf16": False, "amx_bf16": True}, "", True),
    "all of it": ({"avx512_bf16": True}, "ALL", True),
    "enough of it": ({"avx512_bf16": True}, "AVX512_CORE_BF16", True),
    "hidden": ({"avx512_bf16": True}, "AVX2", False),
    "hidden, lower case": ({"avx512_bf16": True}, "avx512_core_vnni", False),
    "no bf16": ({"avx512_f": True}, None, False),
    "unknown": (None, None, False),
}


@pytest.mark.parametrize("has, limit, expected", HARDWARE.values(), ids=HARDWARE)
def test_auto_asks_the_processor(monkeypatch, has, limit, expected):
    if has is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    colour, digit = torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 28, 28)
    assert training.in_bfloat16("auto", colour) is expected
    assert training.in_bfloat16("auto", digit) is False
    for wanted in (True, False):
        assert training.in_bfloat16(wanted, colour) is training.in_bfloat16(wanted, digit) is wanted


def test_auto_asks_the_gpu_and_counts_no_emulation(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: including_emulation)
    assert not runtime.multiplies_bfloat16(torch.device("cuda"))
    assert not runtime.multiplies_bfloat16(torch.device("meta"))


def test_a_checkpoint_holds_what_auto_became(monkeypatch, tmp_path):
    """On another machine "auto" may be another training."""
    data = datasets.Images(torch.rand(4, 3, 32, 32, generator=generator(0)), torch.arange(4),
                           list("abcd"))

    def train(machine: bool, **options) -> None:
        monkeypatch.setattr(runtime, "multiplies_bfloat16", lambda where: machine)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))
        training.initialise(model, generator(0))
        training.fit(model, data, epochs=1, checkpoint=tmp_path / "run.checkpoint", **options)

    train(True)
    train(False, bf16=True)
    with pytest.raises(ValueError, match="'bf16': True"):
        train(False)


def test_digits_train_in_float32_unless_told_otherwise(digits, monkeypatch):
    monkeypatch.setattr(runtime, "multiplies_bfloat16", lambda where: True)
    assert same(trained(digits[:100], epochs=1)[0], trained(digits[:100], epochs=1, bf16=False)[0])
    with pytest.raises(ValueError, match="unknown bf16='yes'"):
        trained(digits[:100], epochs=1, bf16="yes")


@pytest.mark.parametrize("words, expected", [
    ([], "auto"), (["--bf16"], True), (["--bf16", "yes"], True), (["--bf16", "no"], False),
])
def test_the_command_says_bfloat16_with_a_word_or_without(monkeypatch, words, expected):
    class Seen(Exception):
        pass

    def fit(*args, bf16, **options):
        raise Seen(bf16)

    monkeypatch.setattr(command, "fit", fit)
    with pytest.raises(Seen) as seen:
        command.main(["--model", "mnist_mlp", *words, "--epochs", "1"])
    assert seen.value.args == (expected,)


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


@pytest.mark.parametrize("steps", range(1, 8))
def test_a_training_of_a_few_steps_runs(digits, steps):
    _, history = trained(digits[:10 * steps], epochs=1, batch_size=10)
    assert history.loss[0] > 0


def test_nothing_to_train_is_an_error(digits):
    for options in ({"method": "hope", "epochs": 1}, {"epochs": 0}):
        with pytest.raises(ValueError, match=r"unknown method 'hope'|nothing to train"):
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

    monkeypatch.setattr(files.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        training.save("net", small(1), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_the_command_trains_on_a_folder_of_cifar10(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    monkeypatch.setattr(cards, "MEASURED", tmp_path / "cards")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    for split in ("train", "test"):
        np.savez(tmp_path / f"cifar10_{split}.npz", images=pixels, labels=np.arange(20) % 10)
    command.main(["--model", "cifar_allconv", "--method", "fast", "--eps", "8/255", "--epochs",
                   "1", "--bf16", "--data", str(tmp_path)])
    card = (tmp_path / "cifar_allconv.md").read_text()
    assert "20 images to train" in card and "1 epochs in bfloat16" in card
    assert "| 8/255 | PGD-50, 10 starts" in card and "--eps 8/255" in card
    assert not models.load("cifar_allconv", "cpu").training
    with pytest.raises(SystemExit):
        command.main(["--model", "cifar_allconv"])
