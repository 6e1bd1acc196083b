"""Exercises of lesson 03: FGSM, towards a target, in l_2, and two results that are too good."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import evaluation
from course_lib.attacks import fgsm
from course_lib.exercises import Exercise, Function
from course_lib.exercises.diagnoses import (
    Finding,
    attack,
    close,
    finite,
    image_like,
    problem,
    run,
)
from course_lib.gradients import input_gradient
from course_lib.norms import lp_norm, steepest_direction

EPS = 0.1

# --- 3.1 the step -------------------------------------------------------------------------------


def fgsm_step(model, x, y, eps):
    """Move every pixel by eps in the direction that raises the loss."""
    x_free = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x_free), y, reduction="sum")
    gradient = torch.autograd.grad(loss, x_free)[0]
    return (x + eps * gradient.sign()).clamp(0, 1)


def _step(fn: Function) -> Finding:
    def call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return fn(model, x, y, EPS)

    p = problem()
    said = _no_sign(call, p.y) or attack(call, eps=EPS, full_budget=True)
    if said:
        return said
    x_adv, x = call(p.model, p.x.clone(), p.y), p.x
    return _every_pixel(x_adv, x, input_gradient(p.model, x, p.y))


def _no_sign(call: Function, labels: Tensor) -> Finding:
    """The gradient itself, or its absolute values, in the place of its sign."""
    p = problem()
    grey = 0.4 + 0.2 * p.x  # no pixel reaches the box
    x_adv, said = run(call, p.model, grey, labels)
    if said or image_like(x_adv, grey):
        return said
    direction, g = steepest_direction(x_adv - grey, "l2"), input_gradient(p.model, grey, labels)
    for slope, name in ((g, "the gradient itself"), (-g, "the gradient itself"),
                        (g.abs(), "the gradient's absolute value")):
        if torch.allclose(direction, steepest_direction(slope, "l2"), atol=1e-4):
            return (f"your step follows {name}, so that most pixels hardly move. The formula takes "
                    "sign(gradient): every pixel goes all of eps, up or down.")
    return None


def _every_pixel(x_adv: Tensor, x: Tensor, uphill: Tensor) -> Finding:
    """The right ball, the right slope, and yet not the sign."""
    full = (x + EPS * uphill.sign()).clamp(0, 1)
    short = int(((x_adv - full).abs() > 1e-5).sum())
    if not short:
        return None
    return (f"{short} of {x.numel()} pixels do not use their budget: in l_inf every pixel may move "
            "by eps, whatever the size of its gradient. Take the sign, do not rescale.")


# --- 3.2 towards a target -----------------------------------------------------------------------


def fgsm_targeted(model, x, target, eps):
    """One step of size eps towards the class `target`."""
    gradient = input_gradient(model, x, target)
    return (x - eps * gradient.sign()).clamp(0, 1)


def _targeted(fn: Function) -> Finding:
    def call(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return fn(model, x, target, EPS)

    p = problem()
    said = _no_sign(call, p.target) or attack(call, eps=EPS, targeted=True, full_budget=True)
    if said:
        return said
    return _every_pixel(call(p.model, p.x.clone(), p.target), p.x,
                        -input_gradient(p.model, p.x, p.target))


# --- 3.3 the l_2 step ---------------------------------------------------------------------------


def fgsm_l2(model, x, y, eps):
    """One step of l_2 length eps in the direction that raises the loss fastest."""
    gradient = input_gradient(model, x, y)
    length = lp_norm(gradient, 2).clamp_min(1e-30).view(-1, 1, 1, 1)
    return (x + eps * gradient / length).clamp(0, 1)


class _Flat(nn.Module):
    """Logits that do not depend on the image: every gradient is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.flatten(1)[:, :4]


def _l2(fn: Function) -> Finding:
    eps, p = 0.2, problem()
    grey = 0.3 + 0.4 * p.x  # no single pixel can reach the box with this eps
    x_adv, said = run(lambda model, x, y: fn(model, x, y, eps), p.model, grey, p.y)
    if said or (said := image_like(x_adv, grey) or finite(x_adv)):
        return said
    if said := _l2_length(x_adv - grey, input_gradient(p.model, grey, p.y), eps):
        return said
    if said := attack(lambda model, x, y: fn(model, x, y, eps), eps=eps, norm="l2"):
        return said
    flat, _ = run(lambda model, x, y: fn(model, x, y, eps), _Flat(), grey, p.y)
    if not bool(flat.isfinite().all()):
        return ("an image whose gradient is zero comes back as NaN: 0 / 0. Divide by "
                "max(length, a tiny number), for instance length.clamp_min(1e-30).")
    uphill = steepest_direction(input_gradient(p.model, grey, p.y), "l2")
    return close(x_adv - grey, eps * uphill, "the step", "Go along the gradient itself.", atol=1e-4)


def _l2_length(r: Tensor, gradient: Tensor, eps: float) -> Finding:
    """A step of the wrong length or direction, with what was probably done."""
    length, size = lp_norm(r, 2), lp_norm(gradient, 2)
    whole = torch.linalg.vector_norm(gradient)
    if float(r.abs().max()) == 0:
        return "your function returns the images unchanged: nothing was attacked."
    direction = steepest_direction(r, "l2")
    along = (direction * steepest_direction(gradient, "l2")).flatten(1).sum(1)
    if float(along.max()) < 0:
        return "your step goes downhill: an untargeted attack climbs, check its sign."
    wrong = [
        (eps * size, "the gradient keeps its own length. Divide it by its l_2 norm first."),
        (eps * size / whole, "you divide by the norm of the whole batch. Every image has a length "
                             "of its own: lp_norm(gradient, 2) gives one number for each."),
        (eps * size / lp_norm(gradient, 1), "you divide by the l_1 norm; the Euclidean length is "
                                         "lp_norm(gradient, 2)."),
        (eps * size / lp_norm(gradient, "linf"), "you divide by the largest entry; the Euclidean "
                                              "length is lp_norm(gradient, 2)."),
        (eps * size**0.5, "you divide by the square root of the length: lp_norm(gradient, 2) is "
                          "already the root of the sum of squares."),
        (eps / size, "you divide by the squared length: lp_norm(gradient, 2) has its "
                     "root already."),
        (torch.full_like(size, eps * r[0].numel() ** 0.5),
         "every pixel moves by eps, which is the l_inf step. Here eps is the length of the whole "
         "arrow."),
    ]
    for value, meaning in wrong:
        if torch.allclose(length, value, rtol=1e-3) and not torch.allclose(
                value, torch.full_like(value, eps), rtol=1e-2):
            return f"your step has length {length[0]:.3g} instead of eps = {eps:g}: {meaning}"
    colours = r.flatten(2).norm(dim=2)
    if torch.allclose(colours, torch.full_like(colours, eps), rtol=1e-3):
        return ("you divide each colour by a length of its own. The arrow of an image goes through "
                "all its entries: lp_norm(gradient, 2) is one number per image.")
    if float(along.min()) < 0.999:
        return ("your step does not point along the gradient (cosine "
                f"{float(along.min()):.2f}). In l_2 the steepest direction is the gradient itself, "
                "no sign is taken.")
    return close(length, torch.full_like(length, eps), "the l_2 length of your step",
                 "Divide by the gradient's own length, then multiply by eps.", rtol=1e-3)


# --- 3.4 a colleague's attack -------------------------------------------------------------------


def colleague(model, x, y, eps):
    """FGSM, mended."""
    x_adv = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x_adv), y)
    (gradient,) = torch.autograd.grad(loss, x_adv)
    x_adv = x_adv.detach() + eps * gradient.sign()
    return x_adv.clamp_(0, 1)


def _colleague(fn: Function) -> Finding:
    p = problem()
    x_adv, said = run(fn, p.model, p.x, p.y, EPS)
    if said:
        return said
    if said := image_like(x_adv, p.x) or finite(x_adv):
        return said
    named = p.model(p.x).argmax(1).detach()
    if torch.equal(x_adv, fn(p.model, p.x.clone(), named, EPS)):
        return ("your result is the same whatever label is given: the loss still uses the class "
                "that the network names. Where that is wrong already, the step leads away from "
                "the mistake and mends the image. Use y.")
    return _step(fn)


# --- 3.5 a report that is too good --------------------------------------------------------------


def success(model, x, y, eps):
    """The share of images that FGSM fools, 0 to 1, so that a sceptic accepts it."""
    right = ~evaluation.fooled(model, x, y)
    x_adv = evaluation.eight_bits(fgsm(model, x, y, eps=eps))
    return evaluation.fooled(model, x_adv, y)[right].float().mean().item()


def _success(fn: Function) -> Finding:
    model, x, y = _fragile()
    for eps in (0.0, 0.25 / 255, 0.75 / 255, 4 / 255):
        share, said = run(fn, model, x, y, eps)
        if said or (said := _share_finding(share, model, x, y, eps)):
            return said
    return None


def _fragile() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model, and pictures so faint that a quarter of a grey level fools it on many.

    A quarter of the labels is not what the model names.
    """
    draw = torch.Generator().manual_seed(3)
    layer = nn.Linear(300, 4)
    layer.weight.data = torch.randn(4, 300, generator=draw)
    layer.bias.data = -layer.weight.data.sum(1) * 128 / 255
    model = nn.Sequential(nn.Flatten(), layer)
    x = torch.randint(116, 141, (120, 3, 10, 10), generator=draw) / 255
    y = evaluation.predict(model, x).labels
    y[::4] = (y[::4] + 1) % 4
    return model, x, y


def _share_finding(share: object, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Finding:
    if isinstance(share, Tensor) and share.numel() == 1:
        share = share.item()
    if not isinstance(share, (int, float)):
        return f"a share is one number from 0 to 1, yours is a {type(share).__name__}."
    if share != share:
        return "your share is NaN: a mean over no images. Which images did you keep?"
    if abs(share - success(model, x, y, eps)) < 1e-6:
        return None
    level = f"{eps * 255:.3g}/255"
    if not 0 <= share <= 1:
        return f"at eps = {level} your share is {share:.3g}; it must lie between 0 and 1."
    right = ~evaluation.fooled(model, x, y)
    x_adv = fgsm(model, x, y, eps=eps)
    unsaved = evaluation.fooled(model, x_adv, y)
    saved = evaluation.fooled(model, evaluation.eight_bits(x_adv), y)
    cut = evaluation.fooled(model, (x_adv * 255).floor() / 255, y)
    already = ("it counts images that the network misnamed before the attack. Judge only those "
               "that it names correctly without one.")
    guesses = [
        (saved, already),
        (unsaved, already + " And it judges pixels that no image file can hold."),
        (unsaved[right], "it judges pixels that no image file can hold. Round the adversarial "
                         "image to the 256 grey levels, as saving it would."),
        (saved & right, "you divide by the number of all images. The ones that were wrong from "
                        "the start belong neither above nor below the line."),
        (unsaved & right, "you divide by the number of all images, and judge pixels that no image "
                          "file can hold."),
        (cut[right], "grey levels are cut off, not rounded: the whole picture gets darker. Use "
                     "round()."),
        (cut, already + " And grey levels are cut off, not rounded."),
        (~saved[right], "that is the accuracy that is left, not the share that is fooled."),
    ]
    for flags, meaning in guesses:
        if abs(share - flags.float().mean().item()) < 1e-6:
            return f"at eps = {level} your share is {share:.0%}: {meaning}"
    return (f"at eps = {level} your share is {share:.0%}, a fair judge finds "
            f"{success(model, x, y, eps):.0%}. Two questions: which images count, and what can "
            "be saved as a picture?")


EXERCISES = [
    Exercise(
        id="3.1",
        title="the missing step",
        stub='''
def fgsm_step(model, x, y, eps):
    """Move every pixel by eps in the direction that raises the loss."""
    x_free = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x_free), y, reduction="sum")
    gradient = torch.autograd.grad(loss, x_free)[0]
    return x          # here the step is missing, and the box
''',
        solution=fgsm_step,
        hints=(
            "Compare the formula with what is there. `gradient` has the shape of `x`; two symbols "
            "of the formula are not in the code yet.",
            "`gradient.sign()` is +1 or -1 in every pixel. How far may a pixel go, and where must "
            "it stay?",
            "Add `eps` times the sign to `x`, then `.clamp(0, 1)`.",
        ),
        diagnose=_step,
        praise="Gradient, sign, step, box: this is the whole attack.",
    ),
    Exercise(
        id="3.2",
        title="targeted FGSM",
        stub='''
def fgsm_targeted(model, x, target, eps):
    """One step of size eps towards the class `target`."""
    # input_gradient(model, x, labels) is the gradient of L(theta, x, labels) in x
    return x
''',
        solution=fgsm_targeted,
        hints=(
            "Two things differ from 3.1: whose loss is looked at, and whether it should rise or "
            "fall.",
            "The loss of the *target* has to become small. In which direction does it fall "
            "fastest?",
            "`gradient = input_gradient(model, x, target)`, and then against its sign.",
        ),
        diagnose=_targeted,
        praise="The true label is not needed: the attacker only says where to go.",
    ),
    Exercise(
        id="3.3",
        title="FGSM in l_2",
        stub='''
def fgsm_l2(model, x, y, eps):
    """One step of l_2 length eps in the direction that raises the loss fastest."""
    gradient = input_gradient(model, x, y)
    return x
''',
        solution=fgsm_l2,
        hints=(
            "Lesson 01: among all arrows of Euclidean length 1, which one gains most against a "
            "gradient $g$?",
            "$g / \\|g\\|_2$, and each image has its own length: `lp_norm(gradient, 2)` gives one "
            "number an image, `.view(-1, 1, 1, 1)` makes it fit. What if a gradient is zero?",
            "`length = lp_norm(gradient, 2).clamp_min(1e-30).view(-1, 1, 1, 1)`, then "
            "`x + eps * gradient / length`, then the box.",
        ),
        diagnose=_l2,
        praise="No sign any more: large gradients get large steps, small ones hardly any.",
    ),
    Exercise(
        id="3.4",
        title="find two mistakes",
        stub='''
def colleague(model, x, y, eps):
    """FGSM, as a colleague wrote it."""
    x_adv = x.detach().requires_grad_()
    logits = model(x_adv)
    loss = F.cross_entropy(logits, logits.argmax(1))
    (gradient,) = torch.autograd.grad(loss, x_adv)
    x_adv = x_adv.detach()
    x_adv += eps * gradient.sign()
    return x_adv.clamp_(0, 1)
''',
        solution=colleague,
        hints=(
            "One mistake for each symptom. Symptom 1: what do `x` and `x_adv` share? Symptom 2: "
            "which argument is never used?",
            "`detach()` copies nothing: the new tensor has the same memory, and `+=` and `clamp_` "
            "write there. `logits.argmax(1)` is what the network *says*, `y` is what is true.",
            "Start from `x.clone()`, and compute the loss with `y`.",
        ),
        diagnose=_colleague,
        praise="The second mistake makes a network look more robust than it is, and nobody "
               "complains about a good result.",
    ),
    Exercise(
        id="3.5",
        title="a result that is too good",
        stub='''
def success(model, x, y, eps):
    """The share of images that FGSM fools, 0 to 1, so that a sceptic accepts it."""
    x_adv = fgsm(model, x, y, eps=eps)
    return evaluation.fooled(model, x_adv, y).float().mean().item()
''',
        solution=success,
        hints=(
            "Put in `eps=0`. What should an attack that does nothing achieve, and what does this "
            "function say?",
            "A picture is stored with 256 grey levels, 0/255 to 255/255. Where does a pixel end "
            "that moved by a quarter of a level?",
            "Find the images that are right without an attack (`~evaluation.fooled(model, x, y)`), "
            "round with `evaluation.eight_bits(x_adv)`, and take the mean over the former.",
        ),
        diagnose=_success,
        praise="Which images count, and what can be saved: ask both whenever you read a success "
               "rate.",
    ),
]
