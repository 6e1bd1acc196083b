"""What people answer to the exercises of lesson 04, beside the mistakes that the checks declare."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_lib import evaluation, norms
from course_lib.attacks import fgsm, ifgsm, pgd, square
from course_lib.gradients import input_gradient
from course_lib.losses import dlr, margin

WRONG, RIGHT = {}, {}


# --- 4.1 ----------------------------------------------------------------------------------------

WRONG["4.1"] = [
    (lambda x_t, g, x, a, e: (x_t + a * g.sign()).clamp(x_t - e, x_t + e).clamp(0, 1),
     "its centre is x_t"),
    (lambda x_t, g, x, a, e: x_t.add_(a * g.sign()).clamp(x - e, x + e).clamp(0, 1),
     "changes x_t in place"),
    (lambda x_t, g, x, a, e: norms.project_box(x_t + a * g / g.abs().max(), x, e, "linf"),
     "of the pixels differ"),
    (lambda x_t, g, x, a, e: None, "returns nothing"),
    (lambda x_t, g, x, a, e: x_t + "1", "TypeError"),
]
RIGHT["4.1"] = [
    lambda x_t, g, x, a, e: torch.clip(x + torch.clip(x_t - x + a * g.sign(), -e, e), 0, 1),
    lambda x_t, g, x, a, e: norms.project_box(x_t + a * g.sign(), x, e, "linf"),
    lambda x_t, g, x, a, e: torch.maximum(torch.minimum(x_t + a * g.sign(), x + e), x - e)
                                 .clamp(0, 1),
]


# --- 4.2 ----------------------------------------------------------------------------------------

def _uniform(x, eps, generator):
    return (2 * torch.rand(x.shape, generator=generator) - 1) * eps


def _pgd(start=_uniform, low=lambda x_t, x, eps: x - eps, high=lambda x_t, x, eps: x + eps,
         sign=1, box=lambda x: x.clamp(0, 1), gradient=input_gradient):
    def fn(model, x, y, eps, steps, generator):
        x_t = (x + start(x, eps, generator)).clamp(0, 1)
        for _ in range(steps):
            x_new = x_t + sign * 2.5 * eps / steps * gradient(model, x_t, y).sign()
            x_t = box(x_new.clamp(low(x_t, x, eps), high(x_t, x, eps)))
        return x_t
    return fn


def _gaussian(x, eps, generator):
    return eps * torch.randn(x.shape, generator=generator)


def _with_grad(model, x, y):
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    return x.grad


WRONG["4.2"] = [
    (_pgd(low=lambda x_t, x, e: x_t - e, high=lambda x_t, x, e: x_t + e), "too large"),
    (_pgd(start=_gaussian), "Gaussian has no edge"),
    (_pgd(start=lambda x, e, g: _gaussian(x, e, g).clamp(-e, e)), "on the very edge"),
    (_pgd(start=lambda x, e, g: e * _gaussian(x, e, g).sign()), "on the very edge"),
    (_pgd(start=lambda x, e, g: e * torch.rand(x.shape, generator=g)), "lopsided"),
    (_pgd(start=lambda x, e, g: e * (torch.rand(x.shape, generator=g) - 0.5)), "not uniform"),
    (_pgd(start=lambda x, e, g: 0.01 * _gaussian(x, e, g)), "not uniform"),
    (_pgd(start=lambda x, e, g: 0 * x), "random start is gone"),
    (_pgd(start=lambda x, e, g: e * (2 * torch.rand(x.shape) - 1)), "two equal calls"),
    # an unseeded start that nobody sees at the end: every way leads to the same corner
    (_pgd(start=lambda x, e, g: _uniform(x, e, None), sign=12), "two equal calls"),
    (_pgd(start=lambda x, e, g: _uniform(x, e, torch.Generator().manual_seed(1))),
     "different seeds"),
    (_pgd(sign=-1), "climbs"),
    (_pgd(box=lambda x: x), "images must lie in [0, 1]"),
    (_pgd(gradient=_with_grad), "gradients"),
]


def _judging_on_the_way(model, x, y, eps, steps, generator):
    evaluation.fooled(model, x, y)
    return _pgd(start=lambda x, e, g: norms.uniform_ball(x.shape, e, "linf", g))(
        model, x, y, eps, steps, generator)


RIGHT["4.2"] = [
    _pgd(), _judging_on_the_way,
    lambda model, x, y, eps, steps, generator: pgd(model, x, y, eps=eps, steps=steps,
                                                   generator=generator),
]


# --- 4.3 ----------------------------------------------------------------------------------------

def _restarts(keep=lambda hit, x_t, x_adv, x: torch.where(hit, x_t, x_adv), judge_last=True,
              redraw=True, eps_scale=1.0):
    def fn(model, x, y, eps, steps, restarts, generator):
        x_adv, eps = x.clone(), eps_scale * eps
        for i in range(restarts):
            if redraw or not i:
                r = norms.uniform_ball(x.shape, eps, "linf", generator)
            x_t = norms.project_box(x + r, x, eps, "linf")
            for _ in range(steps):
                hit = evaluation.fooled(model, x_t, y)
                step = 2.5 * eps / steps * input_gradient(model, x_t, y).sign()
                x_t = norms.project_box(x_t + step, x, eps, "linf")
            hit = evaluation.fooled(model, x_t, y) if judge_last else hit
            x_adv = keep(hit.view(-1, 1, 1, 1), x_t, x_adv, x)
        return x_adv
    return fn


WRONG["4.3"] = [
    (_restarts(keep=lambda hit, x_t, x_adv, x: torch.where(hit, x_t, x)), "overwrites"),
    (_restarts(keep=lambda hit, x_t, x_adv, x: x_t), "overwrites"),
    (_restarts(judge_last=False), "last step is never judged"),
    (_restarts(redraw=False), "draw new noise"),
    (_restarts(eps_scale=2), "too large"),
    (_restarts(keep=lambda hit, x_t, x_adv, x: torch.where(hit, x_adv, x_t)), "keep x_t"),
    (lambda model, x, y, eps, steps, restarts, generator:
     pgd(model, x, y, eps=eps, steps=steps, generator=torch.Generator().manual_seed(3)),
     "new noise"),
    (lambda model, x, y, eps, steps, restarts, generator: x.add_(eps).clamp(0, 1), "in place"),
]


def _only_the_rest(model, x, y, eps, steps, restarts, generator):
    x_adv = x.clone()
    for _ in range(restarts):
        left = ~evaluation.fooled(model, x_adv, y)
        if left.any():
            x_adv[left] = pgd(model, x[left], y[left], eps=eps, steps=steps, generator=generator)
    return x_adv


RIGHT["4.3"] = [
    _restarts(), _only_the_rest,
    lambda model, x, y, eps, steps, restarts, generator: pgd(
        model, x, y, eps=eps, steps=steps, restarts=restarts, generator=generator),
]


# --- 4.4 ----------------------------------------------------------------------------------------

def _attacked(attack=pgd, share=1.0, **options):
    """An attack of the library with a share of eps."""
    return lambda model, x, y, eps, generator: attack(model, x, y, eps=share * eps, **options)


WRONG["4.4"] = [
    (lambda model, x, y, eps, generator: x + 0, "unchanged"),
    (_attacked(fgsm), "misled in the same way"),
    (_attacked(steps=40), "misled in the same way"),
    (_attacked(share=2, loss=margin), "too large"),
    (lambda *given: _attacked(ifgsm, loss=margin)(*given) * 1.05, "perturbation is too large"),
    (_attacked(share=0.5, loss=margin), "on a way in"),
    (lambda model, x, y, eps, generator: x + 0.1 * torch.nan, "NaN"),
    (lambda model, x, y, eps, generator: y, "shape"),
    (lambda model, x, y, eps, generator: pgd(
        lambda images: model(images) / 100, x, y, eps=eps, generator=generator),
     "write a class whose forward does what your function does"),
    (_attacked(square, queries=20), "survive"),
]
RIGHT["4.4"] = [
    _attacked(steps=20, loss=margin), _attacked(steps=20, loss=dlr),
    lambda model, x, y, eps, generator: pgd(model.model, x, y, eps=eps, steps=20,
                                            generator=generator),
]
