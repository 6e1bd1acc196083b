"""I-FGSM and PGD: their formulas, the random start, restarts that keep a success."""

from __future__ import annotations

import pytest
import torch
from strategies import Counting, convolutional, generator, images, labels, linear, trained

from course_lib.attacks import fgsm, ifgsm, pgd
from course_lib.attacks.pgd import gradient_step
from course_lib.evaluation import fooled
from course_lib.gradients import input_gradient
from course_lib.iterate import iterate
from course_lib.losses import margin
from course_lib.norms import NORMS, dual, lp_norm, project_box, uniform_ball

EPS = {"linf": 0.06, "l2": 0.35, "l1": 0.8}
every_norm = pytest.mark.parametrize("name", NORMS)


def start(x: torch.Tensor, eps: float, name: str, source: torch.Generator) -> torch.Tensor:
    return project_box(x + uniform_ball(x.shape, eps, name, source), x, eps, name)


# --- I-FGSM -------------------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("targeted", [False, True])
def test_one_step_of_ifgsm_is_fgsm_bit_for_bit(name, targeted):
    s = trained()
    target = (s.y + 1) % 4 if targeted else None
    for eps in (EPS[name], 8 * EPS[name]):
        one = ifgsm(s.model, s.x, s.y, eps=eps, steps=1, norm=name, target=target)
        assert torch.equal(one, fgsm(s.model, s.x, s.y, eps=eps, norm=name, target=target))


def test_ifgsm_is_the_formula():
    s, eps, alpha = trained(), 0.05, 0.02
    x_t = s.x
    for _ in range(4):
        x_t = x_t + alpha * input_gradient(s.model, x_t, s.y).sign()
        x_t = x_t.clamp(s.x - eps, s.x + eps).clamp(0, 1)
    run = ifgsm(s.model, s.x, s.y, eps=eps, steps=4, step_size=alpha)
    # An image that was fooled earlier, and is not any more, keeps the earlier iterate.
    stay = fooled(s.model, run, s.y) == fooled(s.model, x_t, s.y)
    assert stay.float().mean() > 0.9
    torch.testing.assert_close(run[stay], x_t[stay], rtol=0, atol=1e-6)


def test_the_step_size_is_eps_over_steps():
    s = trained()
    x_adv = ifgsm(s.model, s.x, s.y, eps=0.08, steps=4)
    assert torch.equal(x_adv, ifgsm(s.model, s.x, s.y, eps=0.08, steps=4, step_size=0.02))


@every_norm
@pytest.mark.parametrize("steps", [1, 5])
def test_many_steps_on_a_linear_model_gain_what_one_can(name, steps):
    """The gradient's direction is the same everywhere, so five small steps add up to one."""
    model, x, y = linear(2), images(6, (1, 3, 4)) * 0.3 + 0.35, torch.tensor([0, 1, 0, 1, 0, 1])
    x_adv = ifgsm(model, x, y, eps=0.2, steps=steps, norm=name)
    weight = model[1].weight.detach()
    with torch.no_grad():
        gain = margin(model(x_adv), y) - margin(model(x), y)
    expected = 0.2 * lp_norm(weight[1 - y] - weight[y], dual(name))
    torch.testing.assert_close(gain, expected, rtol=0, atol=1e-5)


# --- PGD ----------------------------------------------------------------------------------------


def test_without_a_start_pgd_is_ifgsm():
    s = trained()
    plain = pgd(s.model, s.x, s.y, eps=0.08, steps=5, step_size=0.03, random_start=False)
    assert torch.equal(plain, ifgsm(s.model, s.x, s.y, eps=0.08, steps=5, step_size=0.03))


def test_the_step_size_is_two_and_a_half_eps_over_steps():
    s = trained()
    one, two = (pgd(s.model, s.x, s.y, eps=0.08, steps=5, generator=generator(), **options)
                for options in ({}, {"step_size": 0.04}))
    assert torch.equal(one, two)


@every_norm
def test_the_start_is_uniform_noise_in_the_ball_then_the_box(name):
    s, seen = trained(), []
    pgd(s.model, s.x, s.y, eps=EPS[name], norm=name, generator=generator(5),
        callback=lambda t, x_t: seen.append(x_t) if t == 0 else None)
    assert torch.equal(seen[0], start(s.x, EPS[name], name, generator(5)))
    assert not torch.equal(seen[0], s.x)


@every_norm
@pytest.mark.parametrize("early_stop", [False, True])
def test_restarts_are_runs_with_the_next_noise_where_the_last_ones_failed(name, early_stop):
    """Noise is drawn for the whole batch each time, so an image's third start is the same
    whether or not its companions have been fooled by then."""
    s, eps, source = trained(), EPS[name], generator(3)
    expected = done = None
    for _ in range(3):
        run = iterate(s.model, s.x, s.y, start=start(s.x, eps, name, source),
                     sizes=[eps / 3] * 3, update=gradient_step(eps, name, 0.25),
                     early_stop=early_stop)
        if expected is None:
            expected, done = run
        else:
            expected = torch.where(done.view(-1, 1, 1, 1), expected, run.x_adv)
            done = done | run.fooled
    x_adv = pgd(s.model, s.x, s.y, eps=eps, norm=name, steps=3, step_size=eps / 3, restarts=3,
                generator=generator(3), early_stop=early_stop)
    assert torch.equal(fooled(s.model, x_adv, s.y), done)
    torch.testing.assert_close(x_adv[~done], expected[~done], rtol=0, atol=1e-4)


@every_norm
def test_more_restarts_are_never_weaker_and_keep_each_success(name):
    s, options = trained(), {"eps": EPS[name], "norm": name, "steps": 2}
    previous = None
    for restarts in (1, 2, 5):
        x_adv = pgd(s.model, s.x, s.y, restarts=restarts, generator=generator(1), **options)
        flags = fooled(s.model, x_adv, s.y)
        if previous is not None:
            assert bool((flags | ~previous[1]).all())
            assert torch.equal(x_adv[previous[1]], previous[0][previous[1]])
        previous = x_adv, flags
    assert 0 < previous[1].float().mean() < 1


def test_restarts_find_more():
    """Where starts decide: a single tiny step, so that success is a matter of the noise."""
    s = trained()
    share = [fooled(s.model, pgd(s.model, s.x, s.y, eps=0.12, steps=1, step_size=0.04,
                                 restarts=restarts, generator=generator()), s.y).float().mean()
             for restarts in (1, 12)]
    assert share[1] > share[0]


def test_restarts_attack_only_who_is_left():
    s = trained()
    model = Counting(s.model)
    first = fooled(s.model, pgd(s.model, s.x, s.y, eps=0.06, steps=2, generator=generator()), s.y)
    pgd(model, s.x, s.y, eps=0.06, steps=2, restarts=2, generator=generator())
    n, left = len(s.x), int((~first).sum())
    assert 0 < left < n
    assert model.sizes == [n] * 3 + [left] * 3


def test_another_seed_is_another_start():
    s = trained()
    one, two = (pgd(s.model, s.x, s.y, eps=0.08, steps=2, step_size=0.01, generator=generator(k))
                for k in (0, 1))
    assert not torch.equal(one, two)


@every_norm
def test_an_l1_step_is_not_lost_in_the_box(name):
    """Half the pixels are black or white, as in digits; every norm still uses its budget."""
    model, x = convolutional(), images(6, (3, 8, 8)).round()
    y, eps = labels(model, x), {"linf": 0.1, "l2": 1.0, "l1": 6.0}[name]
    x_adv = pgd(model, x, y, eps=eps, norm=name, steps=10, generator=generator())
    used = lp_norm(x_adv - x, name) / eps
    assert used.min() > (0.5 if name == "l2" else 0.9)
