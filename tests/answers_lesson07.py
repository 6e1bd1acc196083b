"""What people answer to the exercises of lesson 07, beside the mistakes that the checks declare."""

from __future__ import annotations

import copy
import itertools
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from course_lib import norms
from course_lib.attacks import fgsm, ifgsm, pgd
from course_lib.exercises.lesson07 import (
    RETURNED,
    attacked,
    clean,
    reporting,
    taken,
    training_on,
    training_step,
)
from course_lib.gradients import input_gradient

WRONG: dict[str, list] = {}
RIGHT: dict[str, list] = {}


# --- 7.1 ----------------------------------------------------------------------------------------

def _moved(w, b, x, y, eps):
    x_adv = x - eps * y[:, None] * w.sign()
    return y * (x_adv @ w + b)


def _corners(w, b, x, y, eps):
    moves = torch.tensor(list(itertools.product((-eps, eps), repeat=len(w))))
    return torch.stack([y * ((x + move) @ w + b) for move in moves]).amin(0)


def _point_by_point(w, b, x, y, eps):
    rows = [label * ((w * point).sum() + b) - eps * norms.lp_norm(w[None], "l1")[0]
            for point, label in zip(x, y, strict=True)]
    return torch.stack(rows)


def _by_gradient(w, b, x, y, eps):
    x_free = x.clone().requires_grad_()
    (y * (x_free @ w + b)).sum().backward()
    return y * ((x - eps * x_free.grad.sign()) @ w + b).detach()


def _in_the_callers_x(w, b, x, y, eps):
    x -= eps * y[:, None] * w.sign()
    return y * (x @ w + b)


WRONG["7.1"] = [
    (taken(lambda w, eps: eps * w[:4].abs().sum()), "eps = 0.2 and 5 coordinates at index"),
    (taken(lambda w, eps: (0.1 + eps / 2) * w.abs().sum()), "eps = 0.5 and 2 coordinates"),
    (lambda w, b, x, y, eps: y * ((x - eps * w.sign()) @ w + b), "multiplied by y"),
    (lambda *given: _moved(*given).mean(), "one number for all points"),
    (lambda *given: _moved(*given).min().item(), "one number for all points"),
    (lambda w, b, x, y, eps: (y * (x @ w + b))[:, None] - eps * w.abs(), "per coordinate"),
    (lambda *given: _moved(*given)[:, None], "have shape (5, 1)"),
    (lambda *given: _moved(*given) - _moved(*given).mean(), "eps = 0.2 and 2 coordinates at index"),
    (lambda w, b, x, y, eps: None, "returns nothing"),
    (lambda *given: _moved(*given) + torch.nan, "NaN"),
    (_in_the_callers_x, "changes x in place"),
]
RIGHT["7.1"] = [_moved, _corners, _point_by_point, _by_gradient]


# --- 7.2 ----------------------------------------------------------------------------------------

def _then(after, step=training_step):
    """A step, and something more after it."""
    def fn(model, optimizer, attack, x, y):
        loss = step(model, optimizer, attack, x, y)
        after(model, optimizer, attack, x, y)
        return loss
    return fn


def _attacking(how):
    """The right step, on images that how(attack, model, x, y) returns."""
    return lambda model, optimizer, attack, x, y: training_step(
        model, optimizer, partial(how, attack), x, y)


def _only_backward(model, optimizer, attack, x, y):
    loss = attacked(model, x, attack(model, x, y), y)
    loss.backward()
    return loss.item()


@torch.no_grad()
def _descend(model, *_):
    for p in model.parameters():
        p -= 0.3 * p.grad


WRONG["7.2"] = [
    *((step, message) for message, step in RETURNED.mistakes.items()),
    (_then(lambda model, optimizer, *_: optimizer.zero_grad(), training_on(attacked, zero="never")),
     "the gradient that the attack left"),
    (_only_backward, "optimizer.step() is never called"),
    (_then(_descend, _only_backward), "without optimizer.step()"),
    (_then(lambda model, optimizer, *_: optimizer.step()), "called 2 times"),
    (_then(lambda model, optimizer, *_: (optimizer.zero_grad(), optimizer.step()), _only_backward),
     "there were no gradients"),
    (lambda model, *rest: training_step(copy.deepcopy(model), *rest), "there were no gradients"),
    (_then(lambda model, _, attack, x, y: attack(model, x, y),
           _attacking(lambda attack, model, x, y: x)), "after optimizer.step()"),
    (_attacking(lambda attack, model, x, y: fgsm(model, x, y, eps=0.1)), "never called"),
    (_attacking(lambda attack, model, x, y: attack(model, x, model(x).argmax(1))),
     "other labels than y"),
    (_attacking(lambda attack, model, x, y: x.copy_(attack(model, x, y))), "changes x in place"),
    (training_on(lambda *given: attacked(*given) + clean(*given) - clean(*given).detach()),
     "the clean images is added"),
    (training_on(lambda *given: attacked(*given) + 0.5 * clean(*given)), "vector of all weights"),
    (training_on(lambda *given: attacked(*given[:3], (given[3] + 1) % 3)), "vector of all weights"),
    (_then(lambda model, *_: model.eval()), "left in eval mode"),
    (training_on(lambda model, *rest: attacked(model.eval(), *rest)), "left in eval mode"),
    (_then(lambda model, *_: model.requires_grad_(False)), "frozen after the step"),
    (training_on(lambda model, *rest: attacked(model.requires_grad_(False), *rest)),
     "requires_grad is False when the loss is computed"),
    (torch.no_grad()(training_step), "torch.no_grad()"),
    (training_on(lambda *given: attacked(*given[:3], given[3].float())), "RuntimeError"),
    (reporting(attacked), "gradient graph"),
    (reporting(lambda *_: None), "returns nothing"),
    (reporting(lambda *_: "0.7"), "yours is a str"),
    (reporting(lambda model, x, x_adv, y: y.float()), "yours has shape (5,)"),
    (reporting(lambda *_: 1.0), "the losses that two steps return"),
]


def _logs_the_clean_loss(model, optimizer, attack, x, y):
    assert F.cross_entropy(model(x), y).item() > 0
    model.eval()
    x_adv = attack(model, x, y)
    return training_step(model.train(), optimizer, lambda *_: x_adv, x, y)


def _by_hand(model, optimizer, attack, x, y):
    x_adv = attack(model, x, y)
    log_p = model(x_adv).log_softmax(1)
    loss = -log_p[torch.arange(len(y)), y].mean()
    weights = list(model.parameters())
    for p, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        p.grad = gradient
    optimizer.step()
    return loss.detach()


def _freezes_for_the_attack(model, optimizer, attack, x, y):
    model.requires_grad_(False)
    x_adv = attack(model, x, y)
    model.requires_grad_(True)
    return training_step(model, optimizer, lambda *_: x_adv, x, y)


def _model_zero_grad(model, optimizer, attack, x, y):
    with torch.no_grad():
        x_adv = attack(model, x, y)
    model.train()
    loss = torch.nn.CrossEntropyLoss()(model(x_adv), y)
    model.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach().numpy()[()]


RIGHT["7.2"] = [training_on(attacked), _logs_the_clean_loss, _by_hand, _freezes_for_the_attack,
                _model_zero_grad, _then(lambda model, optimizer, *_: optimizer.zero_grad())]


# --- 7.3 ----------------------------------------------------------------------------------------

def _to_ball_and_box(x_adv, x, eps):
    return torch.max(torch.min(x_adv, x + eps), x - eps).clamp(0, 1)


def _random_start(x, eps):
    return (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)


def _climbs(
    size=lambda eps, steps: 2.5 * eps / steps, start=lambda x, eps: x, project=_to_ball_and_box,
    gradient=input_gradient, direction=torch.sign, count=lambda steps: steps,
    origin=lambda x, x_adv: x_adv, at=lambda x, x_adv: x_adv,
):
    """The loop, with one part exchanged."""
    def fn(model, x, y, eps, steps):
        x_adv = start(x, eps)
        for _ in range(count(steps)):
            step = size(eps, steps) * direction(gradient(model, at(x, x_adv), y))
            x_adv = project(origin(x, x_adv) + step, x, eps)
        return x_adv
    return fn


def _one_gradient(model, x, y, *sizes):
    gradient = input_gradient(model, x, y)
    return _climbs(gradient=lambda *_: gradient)(model, x, y, *sizes)


def _in_the_image(model, x, y, eps, steps):
    x.copy_(_climbs()(model, x, y, eps, steps))
    return x


def _leaves_gradients(model, x, y):
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    return x.grad


WRONG["7.3"] = [
    (_climbs(size=lambda eps, steps: 2.5 * eps // steps), "perturbation is still zero"),
    (_climbs(size=lambda eps, steps: int(2.5 * eps / steps)), "perturbation is still zero"),
    (_climbs(size=lambda eps, steps: 2.5 * eps // steps, start=_random_start),
     "steps are still zero"),
    (lambda model, x, y, eps, steps: _random_start(x, eps), "never asked"),
    (_climbs(project=lambda x_adv, x, eps: x_adv.clamp(0, 1)), "into the ball"),
    (_climbs(project=lambda x_adv, x, eps: x_adv.clamp(-eps, eps).clamp(0, 1)), "into the ball"),
    (lambda *given: _climbs()(*given[:3], 2 * given[3], given[4]), "into the ball"),
    (_climbs(project=lambda x_adv, x, eps: torch.clamp(x_adv, x - eps, x + eps)),
     "leaves [0, 1] on"),
    (_climbs(project=lambda x_adv, x, eps: torch.clamp(x_adv, x - eps, x + eps),
             gradient=lambda model, x, y: input_gradient(model, x.clamp(0, 1), y)),
     "leaves [0, 1]:"),
    (_climbs(size=lambda eps, steps: -2.5 * eps / steps), "check the sign"),
    (_climbs(count=lambda steps: 1), "only one step"),
    (_one_gradient, "only one step"),
    (lambda model, x, y, eps, steps: fgsm(model, x, y, eps=eps), "only one step"),
    (_climbs(at=lambda x, x_adv: x), "at the same point"),
    (_climbs(origin=lambda x, x_adv: x), "no more than one step"),
    (_climbs(origin=lambda x, x_adv: x, start=_random_start), "no more than one step"),
    (_climbs(count=lambda steps: 10), "equally often"),
    (_climbs(size=lambda eps, steps: 2.5 * eps), "too long"),
    (_climbs(size=lambda eps, steps: 2.5 * eps, start=_random_start), "too long"),
    (_climbs(size=lambda eps, steps: eps / 20), "the library's pgd"),
    (_climbs(direction=lambda gradient: gradient), "the sign of the gradient"),
    (_climbs(direction=lambda gradient: gradient, start=_random_start), "the library's pgd"),
    (_climbs(direction=lambda gradient: gradient / gradient.abs().max(),
             size=lambda eps, steps: eps), "other images"),
    (_climbs(gradient=lambda model, x, y: input_gradient(model, x, model(x).argmax(1))),
     "not the model's own prediction"),
    (_climbs(gradient=_leaves_gradients), "gradients are left"),
    (_climbs(gradient=lambda model, x, y: input_gradient(model, x, y[:1])), "labels in y"),
    (_climbs(direction=lambda gradient: gradient / 0 * 0), "NaN entries after a step"),
    (lambda *given: _climbs()(*given) * torch.nan, "NaN or infinite"),
    (_in_the_image, "changes x in place"),
    (lambda model, x, y, eps, steps: None, "returns nothing"),
]


def _delta(model, x, y, eps, steps):
    r = torch.zeros_like(x)
    for _ in range(steps):
        r = r + 2.5 * eps / steps * input_gradient(model, x + r, y).sign()
        r = (x + r.clamp(-eps, eps)).clamp(0, 1) - x
    return x + r


def _image_by_image(model, x, y, eps, steps):
    return torch.cat([_climbs(start=_random_start)(model, x[i:i + 1], y[i:i + 1], eps, steps)
                      for i in range(len(x))])


def _autograd(model, x, y, eps, steps):
    x_adv = _random_start(x, eps)
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.cross_entropy(model(x_adv), y)
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = (x_adv + 2.5 * eps / steps * gradient.sign()).detach()
        x_adv = torch.clamp(x_adv, (x - eps).clamp_min(0), (x + eps).clamp_max(1))
    return x_adv


def _numpy_start(x, eps):
    noise = np.random.uniform(-eps, eps, x.shape)  # noqa: NPY002
    return (x + torch.tensor(noise, dtype=x.dtype)).clamp(0, 1)


RIGHT["7.3"] = [
    _climbs(), _climbs(start=_random_start), _climbs(start=_numpy_start),
    _climbs(start=lambda x, eps: (x + eps * torch.randn_like(x).sign()).clamp(0, 1)),
    _climbs(project=lambda x_adv, x, eps: norms.project_box(x_adv, x, eps, "linf")),
    _climbs(project=lambda x_adv, x, eps: x + norms.project(x_adv.clamp(0, 1) - x, eps, "linf")),
    _climbs(size=lambda eps, steps: eps / steps),
    _climbs(size=lambda eps, steps: eps / steps, start=_random_start),
    _climbs(size=lambda eps, steps: eps / 4), _climbs(size=lambda eps, steps: eps / 2),
    _climbs(direction=lambda gradient: gradient / gradient.abs().amax((1, 2, 3), True),
            size=lambda eps, steps: 5 * eps / steps),
    _delta, _image_by_image, _autograd,
    lambda model, x, y, eps, steps: pgd(model, x, y, eps=eps, steps=steps),
    lambda model, x, y, eps, steps: pgd(model, x, y, eps=eps, steps=steps, schedule="halving"),
    lambda model, x, y, eps, steps: ifgsm(model, x, y, eps=eps, steps=steps),
]


# --- 7.4 ----------------------------------------------------------------------------------------

_WEAKER = "FGSM", "Square", "transfer"
_EPS_1 = "PGD, eps = 1"


def _reads(*weaker, rest=2.0, points=2.0, any_of=any, below="PGD"):
    """The rule, with fewer signs or other limits."""
    def fn(left):
        signs = [left[name] < left[below] - points for name in weaker]
        return any_of([*signs, left[_EPS_1] > rest] if rest is not None else signs)
    return fn


_RULE = _reads(*_WEAKER)


def _loop(left):
    for name, value in left.items():
        if name in _WEAKER and left["PGD"] - value > 2:
            return True
    return left["PGD, eps = 1"] > 2


def _eats(left):
    pgd, rest, _ = left.pop("PGD"), left.pop(_EPS_1), left.pop("clean")
    return min(left.values()) < pgd - 2 or rest > 2


WRONG["7.4"] = [
    (_reads("FGSM", "Square"), 'this sign is missed: "transfer"'),
    (_reads("FGSM", "transfer"), 'this sign is missed: "Square"'),
    (_reads("Square", "transfer"), 'this sign is missed: "FGSM"'),
    (_reads(*_WEAKER, rest=None), 'this sign is missed: "PGD, eps = 1"'),
    (_reads("FGSM"), 'these signs are missed: "Square" and "transfer"'),
    (_reads("Square", rest=None),
     'these signs are missed: "FGSM" and "transfer" and "PGD, eps = 1"'),
    (_reads(), 'these signs are missed: "FGSM" and "Square" and "transfer"'),
    (_reads(*_WEAKER, any_of=all), "several signs at once"),
    (lambda left: _reads(*_WEAKER, rest=None, any_of=all)(left) or left[_EPS_1] > 2,
     "asks that all weaker attacks"),
    (lambda left: _reads(*_WEAKER, rest=None)(left) and left[_EPS_1] > 2, "several signs"),
    (lambda left: not _RULE(left), "the answer is turned round"),
    (lambda left: any(left[k] > left["PGD"] + 2 for k in _WEAKER) or left[_EPS_1] > 2,
     "the comparison is turned round"),
    (lambda left: any(abs(left[k] - left["PGD"]) > 2 for k in _WEAKER) or left[_EPS_1] > 2,
     "the comparison is turned round"),
    (lambda left: _reads(*_WEAKER, rest=None)(left) or left[_EPS_1] < 2,
     "at eps = 1 is turned round"),
    (_reads(*_WEAKER, _EPS_1), "compared like a weaker attack"),
    (_reads(*_WEAKER, _EPS_1, rest=None), "compared like a weaker attack"),
    (lambda left: min(left.values()) < left["PGD"] - 2, "compared like a weaker attack"),
    (_reads(*_WEAKER, below="clean"), "clean accuracy alone"),
    (lambda left: left["PGD"] < left["clean"] - 2, "clean accuracy alone"),
    (lambda left: left["PGD"] > left["clean"] - 5 or _RULE(left), "clean accuracy alone"),
    (_reads(*_WEAKER, points=0), "1 point less"),
    (_reads(*_WEAKER, points=0.02), "1 point less"),
    (_reads(*_WEAKER, rest=0.02), "1 % left at eps = 1"),
    (_reads(*_WEAKER, rest=0), "1 % left at eps = 1"),
    (lambda left: any(left[k] <= left["PGD"] - 2 for k in _WEAKER) or left[_EPS_1] >= 2,
     "exactly 2"),
    (lambda left: left["PGD"] > 50 or _RULE(left), "an honest report suspicious"),
    (_reads(*_WEAKER, points=10), 'a small sign at "FGSM" is missed'),
    (_reads(*_WEAKER, rest=10), 'a small sign at "PGD, eps = 1" is missed'),
    (lambda left: left[_EPS_1] > left["PGD"] or _reads(*_WEAKER, rest=None)(left),
     'this sign is missed: "PGD, eps = 1"'),
    (lambda left: sum(_reads(*_WEAKER, rest=None, any_of=list)(left)) == 1 or left[_EPS_1] > 100,
     'this sign is missed: "PGD, eps = 1"'),
    (lambda left: (sum(left[k] < left["PGD"] - 2 for k in _WEAKER) + (left[_EPS_1] > 2)) == 1,
     "several signs at once. The report"),
    (lambda left: True, "says True for each"),
    (lambda left: False, "says False for each"),
    (lambda left: str(_RULE(left)), "not a str"),
    (lambda left: _RULE(left) or None, "returns nothing for some"),
    (_eats, "changes the report"),
    (lambda left: left["pgd"] > 50, "KeyError"),
]
RIGHT["7.4"] = [
    _RULE, _loop,
    lambda left: left["PGD"] - min(left[name] for name in _WEAKER) > 2 or left[_EPS_1] > 2,
    lambda left: np.array([left["PGD"] - left[k] for k in _WEAKER] + [left[_EPS_1]]).max() > 2,
    lambda left: _eats(dict(left)),
    lambda left: _RULE(left) or left["PGD"] > left["clean"] + 2,
]
