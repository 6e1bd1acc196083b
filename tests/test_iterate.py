"""What holds for every gradient attack: allowed, alone or in company, step by step, no trace."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    PROPERTY,
    Counting,
    Small,
    assert_untouched,
    convolutional,
    generator,
    images,
    labels,
    linear,
    norms,
    radii,
    trace,
    trained,
    unusual,
)
from torch import nn

import course_lib.iterate
from course_lib import gradients
from course_lib.attacks import fgsm, ifgsm, mifgsm, pgd
from course_lib.attacks.pgd import gradient_step
from course_lib.evaluation import fooled
from course_lib.iterate import iterate
from course_lib.losses import cross_entropy, is_adversarial, margin
from course_lib.norms import NORMS, lp_norm, project_box, uniform_ball

EPS = {"linf": 0.06, "l2": 0.35, "l1": 0.8}


def seeded_pgd(*args, seed: int = 0, **options) -> torch.Tensor:
    return pgd(*args, generator=generator(seed), **options)


ATTACKS = {"fgsm": fgsm, "ifgsm": ifgsm, "pgd": seeded_pgd, "mifgsm": mifgsm}
ONE_STEP = {"fgsm"}
STEPPING = {name: attack for name, attack in ATTACKS.items() if name not in ONE_STEP}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
stepping_attack = pytest.mark.parametrize("attack", STEPPING.values(), ids=STEPPING)
every_norm = pytest.mark.parametrize("name", NORMS)


# --- allowed, finite, of the right kind ---------------------------------------------------------


@PROPERTY
@given(st.sampled_from(list(STEPPING)), norms, radii, st.integers(1, 4), st.booleans(),
       st.integers(0, 20))
def test_inside_ball_and_box(attack, name, eps, steps, targeted, seed):
    model, x = convolutional(), images(3, seed=seed)
    x[0] = x[0].round()
    y = labels(model, x)
    x_adv = STEPPING[attack](model, x, y, eps=eps, norm=name, steps=steps,
                             target=(y + 1) % 4 if targeted else None)
    assert bool((x_adv >= 0).all()) and bool((x_adv <= 1).all())
    assert bool((lp_norm((x_adv - x).double(), name) <= eps + 1e-6).all())


@every_attack
@every_norm
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_looks_like_the_input_which_stays_as_it_was(attack, name, dtype):
    model, x = convolutional().to(dtype), images().to(dtype).requires_grad_()
    y, kept = labels(model, x), x.detach().clone()
    x_adv = attack(model, x, y, eps=EPS[name], norm=name)
    assert (x_adv.shape, x_adv.dtype, x_adv.device) == (x.shape, dtype, x.device)
    assert not x_adv.requires_grad and x_adv.grad_fn is None
    assert x_adv.data_ptr() != x.data_ptr()
    assert torch.equal(x, kept) and x.grad is None
    assert not torch.equal(x_adv, x)


@every_attack
@pytest.mark.parametrize("shape, classes", [((1, 5, 9), 3), ((3, 9, 5), 2), ((2, 4, 4), 1000)])
def test_shapes_and_numbers_of_classes(attack, shape, classes):
    model, x = convolutional(classes, shape[0]), images(3, shape)
    y = labels(model, x)
    for target in (None, (y + 1) % classes):
        x_adv = attack(model, x, y, eps=0.1, target=target)
        assert x_adv.shape == x.shape and bool(x_adv.isfinite().all())
        assert (x_adv - x).abs().max() == pytest.approx(0.1, abs=1e-6)


@every_attack
@every_norm
def test_layout_in_memory_does_not_matter(attack, name):
    model, x = convolutional().double(), images().double()
    y = labels(model, x)
    other = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(attack(model, other, y, eps=EPS[name], norm=name),
                               attack(model, x, y, eps=EPS[name], norm=name))


class Constant(nn.Module):
    """A model whose gradient is zero everywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0 * x.flatten(1)[:, :3] + torch.tensor([1.0, 2.0, 3.0])


@every_attack
@every_norm
def test_a_zero_gradient_is_safe(attack, name):
    x, y = images(2, (1, 4, 4)), torch.tensor([2, 2])
    x_adv = attack(Constant(), x, y, eps=0.5, norm=name)
    assert bool(x_adv.isfinite().all())
    if attack is not seeded_pgd:
        assert torch.equal(x_adv, x)


@every_attack
@every_norm
def test_one_zero_gradient_among_others_is_safe(attack, name):
    """The network's first layer is dead for a black image, but not for its companions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # one draw of weights in 256 would leave a companion without a slope
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    nn.init.zeros_(model[1].bias)
    model[1].bias.data -= 1e-9
    x = images(3, (1, 4, 4)).double()
    x[1] = 0
    y = labels(model, x)
    x_adv = attack(model, x, y, eps=0.3, norm=name)
    assert bool(x_adv.isfinite().all())
    assert not torch.equal(x_adv[0], x[0])


class Faint(nn.Module):
    """Scales logits so that gradients are near the smallest numbers of single precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3] * 1e-38


@every_attack
@every_norm
def test_a_tiny_gradient_still_gives_a_whole_step(attack, name):
    x, y = images(3, (1, 2, 3)) * 0.2 + 0.4, torch.tensor([0, 1, 2])
    options = {} if attack not in STEPPING.values() else {"steps": 2, "step_size": 0.1}
    x_adv = attack(Faint(), x, y, eps=0.1, norm=name, **options)
    assert lp_norm(x_adv - x, name).numpy() == pytest.approx(0.1, abs=1e-6)


class Broken(nn.Module):
    """Has no derivative at grey, which is where the second step finds the image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        far = (x - 0.5).pow(2).sum((1, 2, 3)).sqrt()
        return torch.stack([far, torch.ones_like(far)], 1)


@stepping_attack
def test_a_gradient_that_becomes_nan_spoils_nothing(attack):
    x, y = torch.full((1, 1, 1, 2), 0.75), torch.tensor([0])
    options = {"random_start": False} if attack is seeded_pgd else {}
    x_adv = attack(Broken(), x, y, eps=0.5, steps=3, step_size=0.25, **options)
    # Without a gradient the image waits, or goes where its momentum carries it.
    assert x_adv.flatten().tolist() == ([0.25, 0.25] if attack is mifgsm else [0.5, 0.5])


# --- no trace on the model ----------------------------------------------------------------------


@every_attack
@every_norm
def test_the_model_is_untouched(attack, name):
    model, x = unusual(convolutional()), images()
    before = trace(model)
    attack(model, x, torch.tensor([0, 1, 2, 3, 0, 1]), eps=EPS[name], norm=name)
    assert_untouched(model, before)


class Failing(nn.Module):
    """Raises in the given call of the model, forwards or backwards."""

    def __init__(self, call: int, backward: bool) -> None:
        super().__init__()
        self.left, self.backward = call, backward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left == 0 and self.backward:
            x.register_hook(self.fail)
        elif self.left == 0:
            self.fail()
        return x

    def fail(self, *_: object) -> None:
        raise KeyError("in the middle of an attack")


@every_attack
@pytest.mark.parametrize("call", [1, 3])
@pytest.mark.parametrize("backward", [False, True])
def test_the_model_is_untouched_after_an_exception(attack, call, backward):
    if attack not in STEPPING.values() and call > 1:
        call = 1
    model, x = unusual(convolutional()), images()
    model.append(Failing(call, backward))
    before = trace(model)
    with pytest.raises(KeyError):
        attack(model, x, torch.tensor([0, 1, 2, 3, 0, 1]), eps=0.1)
    assert_untouched(model, before)


@every_attack
def test_a_model_in_train_mode_is_attacked_as_in_eval_mode(attack):
    model, x = convolutional(), images()
    y = labels(model, x)
    calm = attack(model, x, y, eps=0.1)
    assert torch.equal(attack(model.train(), x, y, eps=0.1), calm)


@every_attack
def test_twice_is_the_same(attack):
    model, x = convolutional(), images()
    y = labels(model, x)
    torch.manual_seed(1)
    first = attack(model, x, y, eps=0.1)
    torch.manual_seed(2)
    assert torch.equal(attack(model, x, y, eps=0.1), first)


@every_attack
def test_works_where_gradients_are_switched_off(attack):
    model, x = convolutional(), images()
    y = labels(model, x)
    with torch.no_grad():
        quiet = attack(model, x, y, eps=0.1)
    assert torch.equal(quiet, attack(model, x, y, eps=0.1))


# --- alone, in company, in any order ------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("attack", ["fgsm", "ifgsm", "mifgsm", "pgd from its start"])
@pytest.mark.parametrize("early_stop", [False, True])
def test_company_and_order_do_not_matter(attack, name, early_stop):
    """In double precision, where the rounding of other batch sizes cannot turn a sign."""
    model = convolutional().double()
    x = images(7).double()
    y, eps = labels(model, x), EPS[name]
    noise = project_box(x + uniform_ball(x.shape, eps, name, generator()).to(x), x, eps, name)

    def run(which: list[int]) -> torch.Tensor:
        if attack == "pgd from its start":
            return iterate(model, x[which], y[which], update=gradient_step(eps, name),
                          sizes=[eps / 4] * 6, start=noise[which], early_stop=early_stop).x_adv
        options = {} if attack == "fgsm" else {"steps": 5, "early_stop": early_stop}
        return ATTACKS[attack](model, x[which], y[which], eps=eps, norm=name, **options)

    together = run(list(range(7)))
    for which in ([0], [6], [3, 2], [6, 5, 4, 3, 2, 1, 0], [2, 2, 5]):
        torch.testing.assert_close(run(which), together[which], rtol=1e-9, atol=1e-9)


@every_norm
@stepping_attack
def test_dropping_finished_images_changes_no_success(attack, name):
    s = trained()
    options = {"eps": EPS[name], "norm": name, "steps": 6}
    flags = [fooled(s.model, attack(s.model, s.x, s.y, early_stop=stop, **options), s.y)
             for stop in (False, True)]
    assert torch.equal(*flags)
    assert 0.1 < flags[0].float().mean() < 0.95, "some fall, some stand, or this tests nothing"


@every_norm
def test_dropping_changes_nothing_for_those_who_stay(name):
    s = trained()
    runs = [iterate(s.model, s.x, s.y, update=gradient_step(EPS[name], name),
                   sizes=[EPS[name] / 4] * 6, early_stop=stop) for stop in (False, True)]
    assert torch.equal(runs[0].fooled, runs[1].fooled)
    stay = ~runs[0].fooled
    torch.testing.assert_close(runs[0].x_adv[stay], runs[1].x_adv[stay], rtol=0, atol=1e-4)


@stepping_attack
def test_dropping_saves_passes(attack):
    s = trained()
    counts = {}
    for stop in (False, True):
        model = Counting(s.model)
        attack(model, s.x, s.y, eps=0.1, steps=8, early_stop=stop)
        counts[stop] = sum(model.sizes)
    assert counts[False] == 9 * len(s.x), "steps passes for gradients and one for the last verdict"
    assert counts[True] < 0.75 * counts[False]


@pytest.mark.parametrize("targeted", [False, True])
def test_a_large_batch_in_parts_gives_the_same(monkeypatch, targeted):
    s = trained()
    model, x = s.model.double(), s.x.double()
    target = (s.y + 1) % 4 if targeted else None
    whole = ifgsm(model, x, s.y, eps=0.06, target=target)
    monkeypatch.setattr(gradients, "_PART", 10 * x[0].numel())
    counting = Counting(model)
    parts = ifgsm(counting, x, s.y, eps=0.06, target=target)
    s.model.float()
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    assert max(counting.sizes) == 10, "in the last pass too"


@every_attack
def test_a_batch_too_large_for_the_memory_is_halved(attack):
    s = trained()
    small, x, y = Small(s.model, 5), s.x[:23], s.y[:23]
    torch.testing.assert_close(attack(small, x, y, eps=0.06), attack(s.model, x, y, eps=0.06))
    assert max(small.sizes) > 2


def test_one_image_too_large_for_the_memory_is_an_error():
    def model(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("one image")

    with pytest.raises(torch.OutOfMemoryError, match="one image"):
        gradients.forward(model, images(3))


@pytest.mark.parametrize("free, kept, expected", [
    (80 * 2**30, 0, 285), (2**30, 0, 3), (2**30, 2**30, 7), (0, 0, 1),
])
def test_on_a_gpu_the_part_follows_the_free_memory(monkeypatch, free, kept, expected):
    class OnGpu(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: kept + 100)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    photographs = torch.zeros(1, 3, 224, 224).expand(500, -1, -1, -1).as_subclass(OnGpu)
    assert gradients.chunk_size(photographs) == expected
    assert gradients.chunk_size(photographs[:2]) == 2, "so small that nobody need ask"


def test_an_image_larger_than_a_part_passes_alone(monkeypatch):
    monkeypatch.setattr(gradients, "_PART", 1)
    model, x = Counting(convolutional()), images(3)
    fgsm(model, x, torch.tensor([0, 1, 2]), eps=0.1)
    assert model.sizes == [1, 1, 1]


# --- step by step -------------------------------------------------------------------------------


@every_norm
@stepping_attack
def test_more_steps_of_one_size_are_never_weaker(attack, name):
    s = trained()
    earlier = torch.zeros_like(s.y, dtype=torch.bool)
    for steps in (1, 2, 4, 7):
        x_adv = attack(s.model, s.x, s.y, eps=EPS[name], norm=name, steps=steps,
                       step_size=EPS[name] / 3)
        now = fooled(s.model, x_adv, s.y)
        assert bool((now | ~earlier).all()), "an image once fooled stays fooled"
        earlier = now


@every_norm
@stepping_attack
def test_a_large_radius_reaches_all(attack, name):
    s = trained()
    eps = {"linf": 0.5, "l2": 3.0, "l1": 20.0}[name]
    x_adv = attack(s.model, s.x, s.y, eps=eps, norm=name, steps=20)
    assert fooled(s.model, x_adv, s.y).float().mean() >= 0.99


@every_norm
@stepping_attack
def test_many_steps_are_not_weaker_than_one(attack, name):
    s = trained()
    one = fooled(s.model, fgsm(s.model, s.x, s.y, eps=EPS[name], norm=name), s.y)
    many = fooled(s.model, attack(s.model, s.x, s.y, eps=EPS[name], norm=name, steps=20), s.y)
    assert many.sum() >= one.sum()


@every_norm
@stepping_attack
def test_a_target_is_reached(attack, name):
    s = trained()
    target = (s.y + 1) % 4
    eps = {"linf": 0.3, "l2": 2.0, "l1": 8.0}[name]
    x_adv = attack(s.model, s.x, s.y, eps=eps, norm=name, steps=20, target=target)
    assert fooled(s.model, x_adv, s.y, target).float().mean() > 0.95


def test_eps_zero_is_the_identity():
    model, x = convolutional(), images()
    for attack in ATTACKS.values():
        for name in NORMS:
            assert torch.equal(attack(model, x, labels(model, x), eps=0.0, norm=name), x)


class Bands(nn.Module):
    """One pixel; class 1 where low < pixel < high, else class 0. The gradient always points up."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = x.flatten(1)[:, 0]
        inside = ((v > self.low) & (v < self.high)).to(v)
        # The difference of logits has slope 1 everywhere, its sign says the class.
        difference = v - v.detach() + 2 * inside - 1
        return torch.stack([-difference, difference], 1)


PIXEL, ZERO = torch.tensor([[[[0.0]]]]), torch.tensor([0])


def test_no_backward_pass_for_parts_that_are_all_fooled(monkeypatch):
    """Image by image: a gradient at the start and at each iterate that does not fool, no other."""
    s, backward, standing = trained(), [], []
    monkeypatch.setattr(gradients, "_PART", s.x[0].numel())

    def passed(module: nn.Module, given: object, logits: torch.Tensor) -> None:
        if logits.requires_grad:
            logits.register_hook(lambda gradient: backward.append(len(gradient)))

    def callback(t: int, x_t: torch.Tensor) -> None:
        standing.append(len(x_t))

    hook = s.model.register_forward_hook(passed)
    ifgsm(s.model, s.x, s.y, eps=0.06, steps=5, early_stop=True, callback=callback)
    hook.remove()
    # What the callback saw at step t + 1 are the images that did not fool at step t.
    assert len(standing) == 6 and standing[0] > standing[-1] > 0
    assert sum(backward) == standing[0] + sum(standing[2:])


@pytest.mark.parametrize("early_stop", [False, True])
def test_success_at_the_last_step_counts(early_stop):
    """Steps of 0.125 from 0: the fourth, and last, reaches 0.5."""
    run = iterate(Bands(0.45, 2.0), PIXEL, ZERO, update=gradient_step(0.5, "linf"),
                 sizes=[0.125] * 4, early_stop=early_stop)
    assert run.fooled.item() and run.x_adv.item() == 0.5
    run = iterate(Bands(0.45, 2.0), PIXEL, ZERO, update=gradient_step(0.5, "linf"),
                 sizes=[0.125] * 3, early_stop=early_stop)
    assert not run.fooled.item() and run.x_adv.item() == 0.375


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("steps", [2, 3, 5])
def test_success_on_the_way_counts(early_stop, steps):
    """Only the second iterate, 0.25, is fooled; later ones have walked through."""
    run = iterate(Bands(0.2, 0.3), PIXEL, ZERO, update=gradient_step(0.9, "linf"),
                 sizes=[0.125] * steps, early_stop=early_stop)
    assert run.fooled.item() and run.x_adv.item() == 0.25


def test_without_early_stop_the_last_success_is_kept():
    run = iterate(Bands(0.2, 0.6), PIXEL, ZERO, update=gradient_step(0.9, "linf"),
                 sizes=[0.125] * 7)
    assert run.fooled.item() and run.x_adv.item() == 0.5


def test_the_start_is_not_judged():
    """An image that the model gets wrong anyway is attacked like any other."""
    for early_stop in (False, True):
        run = iterate(Bands(-1.0, 2.0), PIXEL, ZERO, early_stop=early_stop, sizes=[0.125] * 2,
                     update=gradient_step(0.5, "linf"))
        assert run.fooled.item() and run.x_adv.item() > 0


def test_flags_are_those_of_the_judge():
    s = trained()
    for early_stop in (False, True):
        run = iterate(s.model, s.x, s.y, update=gradient_step(0.05, "linf"), sizes=[0.02] * 5,
                     early_stop=early_stop)
        assert torch.equal(run.fooled, fooled(s.model, run.x_adv, s.y))


def test_the_callback_sees_every_iterate():
    seen = []
    x_adv = ifgsm(Bands(0.9, 2.0), PIXEL, ZERO, eps=0.5, steps=4,
                  callback=lambda t, x_t: seen.append((t, x_t.item())))
    assert seen == [(0, 0.0), (1, 0.125), (2, 0.25), (3, 0.375), (4, 0.5)]
    assert x_adv.item() == 0.5


def test_the_callback_sees_only_images_still_in_the_batch():
    x, y = torch.tensor([0.0, 0.3]).view(2, 1, 1, 1), torch.tensor([0, 0])
    seen = []
    ifgsm(Bands(0.4, 2.0), x, y, eps=0.5, steps=4, early_stop=True,
          callback=lambda t, x_t: seen.append(len(x_t)))
    # The second image is fooled after one step, which the next forward pass finds out.
    assert seen == [2, 2, 1, 1, 1]


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_the_loss_is_the_one_asked_for(loss):
    """Of a linear model with three classes the two losses have different gradients."""
    model, x = linear(3), images(8, (1, 3, 4)) * 0.5 + 0.25
    y = labels(model, x)
    x_adv = ifgsm(model, x, y, eps=0.01, steps=1, loss=loss)
    expected = gradients.input_gradient(model, x, y, loss=loss).sign()
    assert torch.equal((x_adv - x).sign(), expected)


def test_is_adversarial():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    zero, one = torch.tensor([0, 0]), torch.tensor([1, 1])
    assert is_adversarial(logits, zero).tolist() == [False, True]
    assert is_adversarial(logits, zero, torch.tensor([1, 2])).tolist() == [False, True]
    assert is_adversarial(logits, one, torch.tensor([2, 0])).tolist() == [False, False]


@pytest.fixture
def on_gpu(monkeypatch):
    """The loop of the GPU on a CPU: what would be captured runs as it is."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(course_lib.iterate, "aside", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(course_lib.iterate, "captured", lambda work, stream: work)
    monkeypatch.setattr(course_lib.iterate, "_stepwise",
                        lambda *arguments: course_lib.iterate._replayed(*arguments[:-1]))


@every_norm
@stepping_attack
@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_replays_give_what_single_steps_give(attack, name, early_stop, targeted, request):
    """The halves of the batch that are dropped do not matter: eleven steps look once for them."""
    s = trained()
    options = {"eps": EPS[name], "norm": name, "steps": 11, "early_stop": early_stop,
               "target": (s.y + 1) % 4 if targeted else None}
    expected = attack(s.model, s.x, s.y, **options)
    request.getfixturevalue("on_gpu")
    found = attack(s.model, s.x, s.y, **options)
    same = ((found - expected).flatten(1).abs().amax(1) <= 1e-4).float().mean()
    assert same >= 0.97, "other batch sizes round differently, and a sign may turn"
    if not early_stop and name != "l1":  # where the size enters a sum in single precision
        assert torch.equal(found, expected)


def test_replays_keep_the_step_sizes_in_order(on_gpu):
    run = iterate(Bands(2.0, 3.0), PIXEL, ZERO, update=gradient_step(1.0, "linf"),
                 sizes=[0.5, 0.25, 0.125])
    assert run.x_adv.item() == 0.875


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("band, fooled, place", [((0.2, 0.3), True, 0.25), ((0.45, 2.0), True, 0.5),
                                                 ((0.7, 2.0), False, 0.5)])
def test_replays_keep_a_success(on_gpu, early_stop, band, fooled, place):
    run = iterate(Bands(*band), PIXEL, ZERO, update=gradient_step(0.9, "linf"), sizes=[0.125] * 4,
                 early_stop=early_stop)
    assert run.fooled.item() == fooled and run.x_adv.item() == place


def test_replays_find_a_logit_that_is_not_finite(on_gpu):
    class Breaks(nn.Module):
        def forward(self, x):
            z = Bands(2.0, 3.0)(x)
            return torch.where(x.flatten(1) > 0.2, torch.nan, z)

    with pytest.raises(ValueError, match="NaN"):
        iterate(Breaks(), PIXEL, ZERO, update=gradient_step(0.9, "linf"), sizes=[0.125] * 4)
