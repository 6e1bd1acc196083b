"""Exercises of lesson 03: FGSM, towards a target, in l_2, and two results that are too good."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import evaluation
from course_lib.attacks import fgsm
from course_lib.exercises.diagnoses import (
    Finding,
    attack,
    close,
    finite,
    image_like,
    problem,
    run,
)
from course_lib.exercises.examiner import Examiner
from course_lib.exercises.exercise import Exercise
from course_lib.exercises.source import Function
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


def _step(fn: Function, targeted: bool = False) -> Finding:
    p = problem()
    labels = p.target if targeted else p.y

    def call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return fn(model, x, y, EPS)

    finding = _no_sign(call, labels) or attack(call, eps=EPS, targeted=targeted, full_budget=True)
    if finding:
        return finding
    full = fgsm(p.model, p.x, p.y, eps=EPS, target=p.target if targeted else None)
    short = int(((call(p.model, p.x.clone(), labels) - full).abs() > 1e-5).sum())
    if not short:
        return None
    return (f"{short} of {full.numel()} pixels do not use their budget: in l_inf every pixel may "
            "move by eps, whatever the size of its gradient. Take the sign, do not rescale.")


def _no_sign(call: Function, labels: Tensor) -> Finding:
    """The gradient itself, or its absolute values, in the place of its sign."""
    p = problem()
    grey = 0.4 + 0.2 * p.x  # no pixel reaches the box
    x_adv, finding = run(call, p.model, grey, labels)
    if finding or image_like(x_adv, grey):
        return finding
    direction, g = steepest_direction(x_adv - grey, "l2"), input_gradient(p.model, grey, labels)
    for slope, name in ((g, "the gradient itself"), (-g, "the gradient itself"),
                        (g.abs(), "the gradient's absolute value")):
        if torch.allclose(direction, steepest_direction(slope, "l2"), atol=1e-4):
            return (f"your step follows {name}, so that most pixels hardly move. The formula takes "
                    "sign(gradient): every pixel goes all of eps, up or down.")
    return None


# --- 3.2 towards a target -----------------------------------------------------------------------


def fgsm_targeted(model, x, target, eps):
    """One step of size eps towards the class `target`."""
    gradient = input_gradient(model, x, target)
    return (x - eps * gradient.sign()).clamp(0, 1)


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


def _grey() -> list[tuple[nn.Module, Tensor, Tensor, float]]:
    """Images of which no single pixel can reach the box; the second model has no slope."""
    p = problem()
    return [(model, 0.3 + 0.4 * p.x, p.y, 0.2) for model in (p.model, _Flat())]


def stepped(move: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """One step by eps times move(gradient), and the box."""
    return lambda model, x, y, eps: (x + eps * move(input_gradient(model, x, y))).clamp(0, 1)


def size_of(g: Tensor, p: float | str = 2) -> Tensor:
    """The lp norm of each image, [n, 1, 1, 1]."""
    return lp_norm(g, p).clamp_min(1e-30).view(-1, 1, 1, 1)


def _along(fn: Function) -> Finding:
    """The direction first, then the length, then whatever an attack can do wrong."""
    (model, x, y, eps), flat = _grey()
    r = fn(model, x.clone(), y, eps) - x
    uphill = steepest_direction(input_gradient(model, x, y), "l2")
    along = F.cosine_similarity(r.flatten(1), uphill.flatten(1))
    if float(along.max()) < 0:
        return "your step goes downhill: an untargeted attack climbs, check its sign."
    if float(along.min()) < 0.999:
        return ("your step does not point along the gradient (cosine "
                f"{float(along.min()):.2f}). In l_2 the steepest direction is the gradient itself, "
                "no sign is taken.")
    return (finite(x + r)
            or close(lp_norm(r, 2), torch.full((len(x),), eps), "the l_2 length of your step",
                     "Divide by the gradient's own length, then multiply by eps.", rtol=1e-3)
            or attack(lambda model, x, y: fn(model, x, y, eps), eps=eps, norm="l2")
            or close(r, eps * uphill, "the step", "Go along the gradient itself.", atol=1e-4)
            or finite(fn(*flat)))


_L2 = Examiner(
    fgsm_l2, _grey, in_order=True, exact=False, further=_along, atol=1e-6,
    properties=(lambda x_adv, model, x, *_: image_like(x_adv, x),),
    mistakes={
        "your function returns the images unchanged: nothing was attacked.":
            lambda model, x, y, eps: x,
        "the gradient keeps its own length. Divide it by its l_2 norm first.": stepped(lambda g: g),
        "you divide by the norm of the whole batch. Every image has a length of its own: "
        "lp_norm(gradient, 2) gives one number for each.": stepped(lambda g: g / g.norm()),
        "you divide by the l_1 norm; the Euclidean length is lp_norm(gradient, 2).":
            stepped(lambda g: g / size_of(g, 1)),
        "you divide by the largest entry; the Euclidean length is lp_norm(gradient, 2).":
            stepped(lambda g: g / size_of(g, "linf")),
        "you divide by the square root of the length: lp_norm(gradient, 2) is already the root of "
        "the sum of squares.": stepped(lambda g: g / size_of(g).sqrt()),
        "you divide by the squared length: lp_norm(gradient, 2) has its root already.":
            stepped(lambda g: g / size_of(g) ** 2),
        "every pixel moves by eps, which is the l_inf step. Here eps is the length of the whole "
        "arrow.": stepped(torch.sign),
        "you divide each colour by a length of its own. The arrow of an image goes through all its "
        "entries: lp_norm(gradient, 2) is one number per image.":
            stepped(lambda g: g / g.norm(dim=(2, 3), keepdim=True)),
        "an image whose gradient is zero comes back as NaN: 0 / 0. Divide by max(length, a tiny "
        "number), for instance length.clamp_min(1e-30).":
            stepped(lambda g: g / lp_norm(g, 2).view(-1, 1, 1, 1)),
    })


# --- 3.4 a colleague's attack -------------------------------------------------------------------


def colleague(model, x, y, eps):
    """FGSM, mended."""
    x_adv = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x_adv), y)
    (gradient,) = torch.autograd.grad(loss, x_adv)
    x_adv = x_adv.detach() + eps * gradient.sign()
    return x_adv.clamp_(0, 1)


def _labelled() -> list[tuple[nn.Module, Tensor, Tensor, float]]:
    p = problem()
    return [(p.model, p.x, p.y, EPS)]


_COLLEAGUE = Examiner(
    colleague, _labelled, exact=False, further=_step,
    properties=(lambda x_adv, model, x, *_: image_like(x_adv, x) or finite(x_adv),),
    mistakes={
        "your result is the same whatever label is given: the loss still uses the class that the "
        "network names. Where that is wrong already, the step leads away from the mistake and "
        "mends the image. Use y.":
            lambda model, x, y, eps: colleague(model, x, model(x).argmax(1), eps),
    })


# --- 3.5 a report that is too good --------------------------------------------------------------


def success(model, x, y, eps):
    """The share of images that FGSM fools, 0 to 1, so that a sceptic accepts it."""
    right = ~evaluation.fooled(model, x, y)
    x_adv = evaluation.eight_bits(fgsm(model, x, y, eps=eps))
    return evaluation.fooled(model, x_adv, y)[right].float().mean().item()


def _fragile() -> list[tuple[nn.Module, Tensor, Tensor, float]]:
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
    return [(model, x, y, eps) for eps in (0.0, 0.25 / 255, 4 / 255)]


def _share(share: Any, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Finding:
    single = isinstance(share, Tensor) and share.numel() == 1
    if not single and not isinstance(share, (int, float)):
        return f"a share is one number from 0 to 1, yours is a {type(share).__name__}."
    if share != share:
        return "your share is NaN: a mean over no images. Which images did you keep?"
    if not 0 <= float(share) <= 1:
        return (f"at eps = {eps * 255:.3g}/255 your share is {share:.3g}; it must lie between 0 "
                "and 1.")
    return None


def counted(
    keep: Callable[[Tensor, Tensor], Tensor],
    save: Callable[[Tensor], Tensor] = evaluation.eight_bits,
) -> Callable[..., float]:
    """The mean of keep(wrong, right): wrong once attacked and saved, right without an attack."""
    def share(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> float:
        wrong = evaluation.fooled(model, save(fgsm(model, x, y, eps=eps)), y)
        return keep(wrong, ~evaluation.fooled(model, x, y)).float().mean().item()
    return share


_SUCCESS = Examiner(
    success, _fragile, in_order=True, part=float, properties=(_share,),
    name="the share that a fair judge finds at eps = {3:.2g}",
    idea="Two questions: which images count, and what can be saved as a picture?",
    mistakes={
        "at eps = 0 your share is 25 %: it counts images that the network misnamed before the "
        "attack. Judge only those that it names correctly without one.":
            counted(lambda wrong, right: wrong),
        "your share judges pixels that no image file can hold. Round the adversarial image to the "
        "256 grey levels, as saving it would.":
            counted(lambda wrong, right: wrong[right], save=lambda x: x),
        "you divide by the number of all images. The ones that were wrong from the start belong "
        "neither above nor below the line.": counted(lambda wrong, right: wrong & right),
        "you divide by the number of all images, and judge pixels that no image file can hold.":
            counted(lambda wrong, right: wrong & right, save=lambda x: x),
        "grey levels are cut off, not rounded: the whole picture gets darker. Use round().":
            counted(lambda wrong, right: wrong[right], save=lambda x: (x * 255).floor() / 255),
        "that is the accuracy that is left, not the share that is fooled.":
            counted(lambda wrong, right: ~wrong[right]),
    })


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
        diagnose=functools.partial(_step, targeted=True),
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
            "number per image, `.view(-1, 1, 1, 1)` makes it fit. What if a gradient is zero?",
            "`length = lp_norm(gradient, 2).clamp_min(1e-30).view(-1, 1, 1, 1)`, then "
            "`x + eps * gradient / length`, then the box.",
        ),
        diagnose=_L2,
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
        diagnose=_COLLEAGUE,
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
        diagnose=_SUCCESS,
        praise="Which images count, and what can be saved: ask both whenever you read a success "
               "rate.",
    ),
]
