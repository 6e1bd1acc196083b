"""What people answer to the exercises of lesson 03, beside the mistakes that the checks declare."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_lib import evaluation
from course_lib.attacks import fgsm
from course_lib.exercises.lesson03 import colleague, counted, size_of, stepped, success
from course_lib.gradients import input_gradient
from course_lib.norms import steepest_direction

# --- 3.1 and 3.4: the same attack ---------------------------------------------------------------

def _pixel_by_pixel(model, x, y, eps):
    """A mean instead of a sum, one image at a time, where() instead of sign()."""
    rows = []
    for i in range(len(x)):
        image = x[i:i + 1].clone().requires_grad_()
        F.cross_entropy(model(image), y[i:i + 1]).backward(inputs=[image])
        step = torch.where(image.grad > 0, eps, torch.where(image.grad < 0, -eps, 0.0))
        rows.append(torch.minimum(torch.maximum(x[i:i + 1] + step, torch.zeros(1)), torch.ones(1)))
    return torch.cat(rows)


def _downhill(g):
    return -g.sign()


def _rescaled(g):
    """Doubled, so that clipping to the ball hides that the step is no sign."""
    return (2 * g / size_of(g, "linf")).clamp(-1, 1)


def _in_normalised_units(g):
    return g.sign() / 0.3081


def _in_grey_levels(g):
    return g.sign() / 255


def _no_clamp(model, x, y, eps):
    return x + eps * input_gradient(model, x, y).sign()


def _in_place(model, x, y, eps):
    return x.add_(eps * input_gradient(model, x, y).sign()).clamp_(0, 1)


def _backward_through_everything(model, x, y, eps):
    image = x.clone().requires_grad_()
    F.cross_entropy(model(image), y).backward()
    return (x + eps * image.grad.sign()).clamp(0, 1)


def _left_in_train_mode(model, x, y, eps):
    model.train()
    model(x)
    model.eval()
    return colleague(model, x, y, eps)


def _still_attached(model, x, y, eps):
    image = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(image), y), image)
    return (image + eps * gradient.sign()).clamp(0, 1)


def _only_the_label_mended(model, x, y, eps):
    x_adv = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
    x_adv = x_adv.detach()
    x_adv += eps * gradient.sign()
    return x_adv.clamp_(0, 1)


BOTH = [
    (_no_clamp, "Clamp to the box"),
    (stepped(_downhill), "climbs: check the sign"),
    (_in_place, "in place"),
    (_backward_through_everything, "gradients are left on the model's parameters"),
]


# --- 3.2 ----------------------------------------------------------------------------------------

def _sign_turned_twice(model, x, target, eps):
    gradient = input_gradient(model, x, (target + 1) % 4, target=target)  # turned inside already
    return (x - eps * gradient.sign()).clamp(0, 1)


def _log_probability(model, x, target, eps):
    """Up the log-probability of the target is down its cross-entropy."""
    image = x.clone().requires_grad_()
    score = model(image).log_softmax(1).gather(1, target[:, None]).sum()
    (uphill,) = torch.autograd.grad(score, image)
    return torch.clamp(x + eps * torch.sign(uphill), min=0, max=1)


def _targeted_in_place(model, x, target, eps):
    return x.sub_(eps * input_gradient(model, x, target).sign()).clamp_(0, 1)


# --- 3.3 ----------------------------------------------------------------------------------------

def _unit(g):
    return steepest_direction(g, "l2")


# --- 3.5 ----------------------------------------------------------------------------------------

def _only_the_right_ones_attacked(model, x, y, eps):
    keep = evaluation.predict(model, x).labels == y
    x, y = x[keep], y[keep]
    x_adv = (fgsm(model, x, y, eps=eps) * 255).round().div(255)
    return 1 - evaluation.accuracy(model, x_adv, y)


def _saved_inside_the_ball(model, x, y, eps):
    right = ~evaluation.fooled(model, x, y)
    saved = evaluation.eight_bits(fgsm(model, x, y, eps=eps), x)
    return evaluation.fooled(model, saved, y)[right].double().mean()


def _as_bytes(model, x, y, eps):
    right = ~evaluation.fooled(model, x, y)
    levels = fgsm(model, x, y, eps=eps).mul(255).add(0.5).to(torch.uint8)
    broken = evaluation.fooled(model, levels.float() / 255, y)
    return (broken & right).sum() / right.sum()


WRONG = {
    "3.1": [
        *BOTH,
        (stepped(torch.abs), "sign(gradient)"),
        (stepped(lambda g: g), "sign(gradient)"),
        (stepped(_rescaled), "Take the sign, do not rescale"),
        (stepped(_in_normalised_units), "too large"),
        (stepped(_in_grey_levels), "smaller than allowed"),
        (lambda model, x, y, eps: colleague(model, x, model(x).argmax(1), eps), "whatever label"),
        (_left_in_train_mode, "batch-norm statistics moved"),
        (lambda model, x, y, eps: x.clone(), "unchanged"),
        (_still_attached, "gradient graph"),
        (lambda model, x, y, eps: None, "returns nothing"),
    ],
    "3.2": [
        (stepped(torch.sign), "goes downhill: check the sign"),
        (_sign_turned_twice, "goes downhill: check the sign"),
        (lambda model, x, target, eps: colleague(model, x, model(x).argmax(1), eps),
         "whatever label"),
        (lambda model, x, target, eps: x - eps * input_gradient(model, x, target).sign(),
         "Clamp to the box"),
        (stepped(torch.neg), "sign(gradient)"),
        (stepped(lambda g: 2 * _downhill(g)), "too large"),
        (_targeted_in_place, "in place"),
        (stepped(lambda g: -_rescaled(g)), "Take the sign, do not rescale"),
    ],
    "3.3": [
        (stepped(lambda g: g.sign() / size_of(g.sign())), "does not point along the gradient"),
        (stepped(lambda g: -_unit(g)), "downhill"),
        (stepped(lambda g: 0.5 * _unit(g)), "the l_2 length of your step"),
        (lambda model, x, y, eps: x + eps * _unit(input_gradient(model, x, y)), "Clamp to the box"),
        # [n] would broadcast over the columns if there were n of them
        (stepped(lambda g: g / size_of(g).flatten()), "[n, 1, 1, 1]"),
        (lambda model, x, y, eps: x.add_(eps * _unit(input_gradient(model, x, y))).clamp_(0, 1),
         "in place"),
    ],
    "3.4": [*BOTH, (_only_the_label_mended, "in place")],
    "3.5": [
        (lambda *given: 100 * success(*given), "between 0 and 1"),
        (lambda model, x, y, eps: evaluation.fooled(model, x, y), "one number"),
        (lambda model, x, y, eps: 0.123 if eps else 0.0, "a fair judge finds"),
        (lambda model, x, y, eps: float(x.copy_(fgsm(model, x, y, eps=eps)).sum() * 0), "in place"),
        (counted(lambda wrong, right: wrong[wrong & False]), "NaN"),
    ],
}
RIGHT = {
    "3.1": [lambda model, x, y, eps: fgsm(model, x, y, eps=eps), _pixel_by_pixel],
    "3.2": [lambda model, x, target, eps: fgsm(model, x, (target + 1) % 4, eps=eps, target=target),
            _log_probability],
    "3.3": [stepped(_unit),
            stepped(lambda g: F.normalize(g.flatten(1), dim=1).view_as(g)),
            stepped(lambda g: g / g.flatten(1).norm(dim=1).add(1e-20).view(-1, 1, 1, 1))],
    "3.4": [lambda model, x, y, eps: fgsm(model, x, y, eps=eps), _pixel_by_pixel],
    "3.5": [_only_the_right_ones_attacked, _as_bytes, _saved_inside_the_ball],
}
