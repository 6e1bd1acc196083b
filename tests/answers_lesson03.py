"""What people answer to the exercises of lesson 03."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_lib import evaluation
from course_lib.attacks import fgsm
from course_lib.gradients import input_gradient
from course_lib.norms import lp_norm, steepest_direction

# What a wrong submission is, and words of the message that must name its mistake.
WRONG: dict[str, list] = {id: [] for id in ("3.1", "3.2", "3.3", "3.4", "3.5")}
RIGHT: dict[str, list] = {id: [] for id in WRONG}


def wrong(id: str, says: str):
    return lambda fn: WRONG[id].append((fn, says)) or fn


def right(id: str):
    return lambda fn: RIGHT[id].append(fn) or fn


def own_gradient(model, x, y):
    """The gradient as a beginner takes it, without a trace."""
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]


def view(size):
    return size.view(-1, 1, 1, 1)


# --- 3.1 and 3.4: the same attack ---------------------------------------------------------------

@right("3.1")
@right("3.4")
def with_the_library(model, x, y, eps):
    return fgsm(model, x, y, eps=eps)


@right("3.1")
@right("3.4")
def pixel_by_pixel(model, x, y, eps):
    """A mean instead of a sum, one image at a time, where() instead of sign()."""
    rows = []
    for i in range(len(x)):
        image = x[i:i + 1].clone().requires_grad_()
        F.cross_entropy(model(image), y[i:i + 1]).backward(inputs=[image])
        step = torch.where(image.grad > 0, eps, torch.where(image.grad < 0, -eps, 0.0))
        rows.append(torch.minimum(torch.maximum(x[i:i + 1] + step, torch.zeros(1)), torch.ones(1)))
    return torch.cat(rows)


@wrong("3.1", "Clamp to the box")
@wrong("3.4", "Clamp to the box")
def no_clamp(model, x, y, eps):
    return x + eps * own_gradient(model, x, y).sign()


@wrong("3.1", "climbs: check the sign")
@wrong("3.4", "climbs: check the sign")
def downhill(model, x, y, eps):
    return (x - eps * own_gradient(model, x, y).sign()).clamp(0, 1)


@wrong("3.1", "sign(gradient)")
def absolute_values(model, x, y, eps):
    return (x + eps * own_gradient(model, x, y).abs()).clamp(0, 1)


@wrong("3.1", "sign(gradient)")
def no_sign(model, x, y, eps):
    return (x + eps * own_gradient(model, x, y)).clamp(0, 1)


@wrong("3.1", "Take the sign, do not rescale")
def largest_entry_to_eps(model, x, y, eps):
    gradient = own_gradient(model, x, y)
    # Doubled, so that clipping to the ball hides that the step is no sign.
    step = 2 * gradient / view(gradient.flatten(1).abs().amax(1))
    return (x + eps * step.clamp(-1, 1)).clamp(0, 1)


@wrong("3.1", "too large")
def eps_in_normalised_units(model, x, y, eps):
    return (x + eps / 0.3081 * own_gradient(model, x, y).sign()).clamp(0, 1)


@wrong("3.1", "smaller than allowed")
def eps_in_grey_levels(model, x, y, eps):
    return (x + eps / 255 * own_gradient(model, x, y).sign()).clamp(0, 1)


@wrong("3.1", "in place")
@wrong("3.4", "in place")
def in_place(model, x, y, eps):
    gradient = own_gradient(model, x, y)
    x += eps * gradient.sign()
    return x.clamp_(0, 1)


@wrong("3.1", "whatever label")
@wrong("3.4", "mends the image")
def predicted_label(model, x, y, eps):
    gradient = own_gradient(model, x, model(x).argmax(1))
    return (x + eps * gradient.sign()).clamp(0, 1)


@wrong("3.1", "gradients are left on the model's parameters")
@wrong("3.4", "gradients are left on the model's parameters")
def backward_through_everything(model, x, y, eps):
    image = x.clone().requires_grad_()
    F.cross_entropy(model(image), y).backward()
    return (x + eps * image.grad.sign()).clamp(0, 1)


@wrong("3.1", "batch-norm statistics moved")
def left_in_train_mode(model, x, y, eps):
    model.train()
    gradient = own_gradient(model, x, y)
    model.eval()
    return (x + eps * gradient.sign()).clamp(0, 1)


@wrong("3.1", "unchanged")
def nothing(model, x, y, eps):
    return x.clone()


@wrong("3.1", "gradient graph")
def still_attached(model, x, y, eps):
    image = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(image), y), image)
    return (image + eps * gradient.sign()).clamp(0, 1)


@wrong("3.1", "returns nothing")
def no_return(model, x, y, eps):
    own_gradient(model, x, y)


@wrong("3.4", "in place")
def only_the_label_mended(model, x, y, eps):
    x_adv = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
    x_adv = x_adv.detach()
    x_adv += eps * gradient.sign()
    return x_adv.clamp_(0, 1)


@wrong("3.4", "mends the image")
def only_the_memory_mended(model, x, y, eps):
    x_adv = x.clone().requires_grad_()
    logits = model(x_adv)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(1)), x_adv)
    return (x_adv.detach() + eps * gradient.sign()).clamp(0, 1)


# --- 3.2 ----------------------------------------------------------------------------------------

@right("3.2")
def library_targeted(model, x, target, eps):
    return fgsm(model, x, (target + 1) % 4, eps=eps, target=target)


@right("3.2")
def log_probability(model, x, target, eps):
    """Up the log-probability of the target is down its cross-entropy."""
    image = x.clone().requires_grad_()
    score = model(image).log_softmax(1).gather(1, target[:, None]).sum()
    (uphill,) = torch.autograd.grad(score, image)
    return torch.clamp(x + eps * torch.sign(uphill), min=0, max=1)


@wrong("3.2", "goes downhill: check the sign")
def away_from_the_target(model, x, target, eps):
    return (x + eps * input_gradient(model, x, target).sign()).clamp(0, 1)


@wrong("3.2", "goes downhill: check the sign")
def sign_turned_twice(model, x, target, eps):
    other = (target + 1) % 4
    gradient = input_gradient(model, x, other, target=target)  # turned inside already
    return (x - eps * gradient.sign()).clamp(0, 1)


@wrong("3.2", "whatever label")
def away_from_the_prediction(model, x, target, eps):
    gradient = input_gradient(model, x, model(x).argmax(1))
    return (x + eps * gradient.sign()).clamp(0, 1)


@wrong("3.2", "Clamp to the box")
def targeted_no_clamp(model, x, target, eps):
    return x - eps * input_gradient(model, x, target).sign()


@wrong("3.2", "sign(gradient)")
def targeted_no_sign(model, x, target, eps):
    return (x - eps * input_gradient(model, x, target)).clamp(0, 1)


@wrong("3.2", "too large")
def targeted_twice(model, x, target, eps):
    return (x - 2 * eps * input_gradient(model, x, target).sign()).clamp(0, 1)


@wrong("3.2", "in place")
def targeted_in_place(model, x, target, eps):
    return x.sub_(eps * input_gradient(model, x, target).sign()).clamp_(0, 1)


@wrong("3.2", "Take the sign, do not rescale")
def targeted_rescaled(model, x, target, eps):
    gradient = input_gradient(model, x, target)
    step = 2 * gradient / view(lp_norm(gradient, "linf"))
    return (x - eps * step.clamp(-1, 1)).clamp(0, 1)


# --- 3.3 ----------------------------------------------------------------------------------------

@right("3.3")
def with_steepest(model, x, y, eps):
    return (x + eps * steepest_direction(input_gradient(model, x, y), "l2")).clamp(0, 1)


@right("3.3")
def with_normalize(model, x, y, eps):
    flat = F.normalize(input_gradient(model, x, y).flatten(1), dim=1)
    return torch.clamp(x + eps * flat.view_as(x), 0, 1)


@wrong("3.3", "unchanged")
def l2_nothing(model, x, y, eps):
    return x.clone()


@wrong("3.3", "keeps its own length")
def l2_not_divided(model, x, y, eps):
    return (x + eps * input_gradient(model, x, y)).clamp(0, 1)


@wrong("3.3", "whole batch")
def l2_batch_norm(model, x, y, eps):
    gradient = input_gradient(model, x, y)
    return (x + eps * gradient / gradient.norm()).clamp(0, 1)


@wrong("3.3", "every pixel moves by eps")
def l2_sign(model, x, y, eps):
    return (x + eps * input_gradient(model, x, y).sign()).clamp(0, 1)


@wrong("3.3", "does not point along the gradient")
def l2_sign_rescaled(model, x, y, eps):
    sign = input_gradient(model, x, y).sign()
    return (x + eps * sign / view(lp_norm(sign, 2))).clamp(0, 1)


@wrong("3.3", "l_1 norm")
def l2_divided_by_l1(model, x, y, eps):
    gradient = input_gradient(model, x, y)
    return (x + eps * gradient / view(lp_norm(gradient, 1))).clamp(0, 1)


@wrong("3.3", "largest entry")
def l2_divided_by_largest(model, x, y, eps):
    gradient = input_gradient(model, x, y)
    return (x + eps * gradient / view(lp_norm(gradient, "linf"))).clamp(0, 1)


@wrong("3.3", "downhill")
def l2_downhill(model, x, y, eps):
    return (x - eps * steepest_direction(input_gradient(model, x, y), "l2")).clamp(0, 1)


@wrong("3.3", "Clamp to the box")
def l2_no_clamp(model, x, y, eps):
    return x + eps * steepest_direction(input_gradient(model, x, y), "l2")


@wrong("3.3", "[n, 1, 1, 1]")
def l2_one_length_per_column(model, x, y, eps):
    """lp_norm(gradient, 2) is [n]: it would broadcast over the columns if there were n of them."""
    gradient = input_gradient(model, x, y)
    return (x + eps * gradient / lp_norm(gradient, 2).clamp_min(1e-30)).clamp(0, 1)


@wrong("3.3", "each colour by a length of its own")
def l2_per_colour(model, x, y, eps):
    gradient = input_gradient(model, x, y)
    length = gradient.norm(dim=(2, 3), keepdim=True).clamp_min(1e-30)
    return (x + eps * gradient / length).clamp(0, 1)


@right("3.3")
def l2_normalized(model, x, y, eps):
    gradient = input_gradient(model, x, y)
    return (x + eps * F.normalize(gradient.flatten(1)).view_as(x)).clamp(0, 1)


@wrong("3.3", "0 / 0")
def l2_zero_gradient(model, x, y, eps):
    gradient = input_gradient(model, x, y)
    return (x + eps * gradient / view(lp_norm(gradient, 2))).clamp(0, 1)


@wrong("3.3", "in place")
def l2_in_place(model, x, y, eps):
    return x.add_(eps * steepest_direction(input_gradient(model, x, y), "l2")).clamp_(0, 1)


# --- 3.5 ----------------------------------------------------------------------------------------

@right("3.5")
def only_the_right_ones_attacked(model, x, y, eps):
    keep = evaluation.predict(model, x).labels == y
    x, y = x[keep], y[keep]
    x_adv = (fgsm(model, x, y, eps=eps) * 255).round().div(255)
    return 1 - evaluation.accuracy(model, x_adv, y)


@right("3.5")
def as_bytes(model, x, y, eps):
    right = ~evaluation.fooled(model, x, y)
    levels = fgsm(model, x, y, eps=eps).mul(255).add(0.5).to(torch.uint8)
    broken = evaluation.fooled(model, levels.float() / 255, y)
    return (broken & right).sum() / right.sum()


@wrong("3.5", "misnamed before the attack")
def all_images(model, x, y, eps):
    x_adv = evaluation.eight_bits(fgsm(model, x, y, eps=eps))
    return evaluation.fooled(model, x_adv, y).float().mean().item()


@wrong("3.5", "no image file can hold")
def not_saved(model, x, y, eps):
    right = ~evaluation.fooled(model, x, y)
    return evaluation.fooled(model, fgsm(model, x, y, eps=eps), y)[right].float().mean().item()


@wrong("3.5", "divide by the number of all images")
def over_all_images(model, x, y, eps):
    right = ~evaluation.fooled(model, x, y)
    x_adv = evaluation.eight_bits(fgsm(model, x, y, eps=eps))
    return (evaluation.fooled(model, x_adv, y) & right).float().mean().item()


@wrong("3.5", "cut off")
def cut_off(model, x, y, eps):
    right = ~evaluation.fooled(model, x, y)
    x_adv = (fgsm(model, x, y, eps=eps) * 255).to(torch.uint8).float() / 255
    return evaluation.fooled(model, x_adv, y)[right].float().mean().item()


@wrong("3.5", "accuracy that is left")
def accuracy_left(model, x, y, eps):
    return 1 - only_the_right_ones_attacked(model, x, y, eps)


@wrong("3.5", "between 0 and 1")
def in_percent(model, x, y, eps):
    return 100 * only_the_right_ones_attacked(model, x, y, eps)


@wrong("3.5", "one number")
def one_flag_per_image(model, x, y, eps):
    return evaluation.fooled(model, fgsm(model, x, y, eps=eps), y)


@wrong("3.5", "a fair judge finds")
def made_up(model, x, y, eps):
    return 0.123 if eps else 0.0


@wrong("3.5", "in place")
def rounds_the_original(model, x, y, eps):
    x.copy_(fgsm(model, x, y, eps=eps))
    return 0.0
