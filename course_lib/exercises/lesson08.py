"""Exercises of lesson 08: mean IoU, DAG, a map that is not reached, an added sentence, a patch."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import models, passages, runtime
from course_lib.attacks.dag import dense_gradient
from course_lib.attacks.patch import paste, random_places
from course_lib.exercises import Exercise, Function
from course_lib.exercises.diagnoses import Finding, close, finite, image_like, in_ball, in_box, run
from course_lib.losses import margin
from course_lib.norms import project_box
from course_lib.passages import Item
from course_lib.reading import read
from course_lib.segmentation import mean_iou

EPS, STEP = 0.1, 0.04


class Dense(NamedTuple):
    """A small segmenter with images, label maps and target maps on which attacks are checked."""

    model: nn.Module
    x: Tensor
    mask: Tensor
    target: Tensor


def dense_problem() -> Dense:
    """Fixed: some pixels are misnamed, the last image everywhere; pixels at 0 and 1."""
    draw = torch.Generator().manual_seed(8)
    x = (1.6 * torch.rand(3, 1, 6, 6, generator=draw) - 0.3).clamp(0, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(),
                              nn.Conv2d(8, 4, 3, padding=1)).eval()
    with torch.no_grad():
        mask = model(x).argmax(1)
    mask[:, ::3] = (mask[:, ::3] + 1) % 4
    mask[2] = (model(x[2:]).argmax(1)[0] + 1) % 4
    target = torch.randint(4, mask.shape, generator=draw)
    return Dense(model, x, mask, target)


# --- 8.1 mean intersection over union -----------------------------------------------------------

def _iou(fn: Function) -> Finding:
    mask = torch.tensor([[[0, 0, 0, 0], [0, 0, 1, 2]]])
    predicted = torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0]]])
    value, said = run(fn, predicted, mask, 3)
    if said:
        return said
    return (
        close(value, mean_iou(predicted, mask, 3), "the mean IoU of the classes 0, 1, 2",
              "Each class counts the same: intersection over union per class, then the mean.")
        or close(fn(mask, mask, 5), 1.0, "with the classes 3 and 4 in neither map, the mean IoU of "
                 "a map with itself", "A class that neither map holds has no union: leave it out.")
        or close(fn(mask, predicted, 3), mean_iou(predicted, mask, 3),
                 "the mean IoU with both maps exchanged", "Divide by the union, not by one map.")
        or close(fn(torch.cat([predicted, mask]), torch.cat([mask, mask]), 3),
                 mean_iou(torch.cat([predicted, mask]), torch.cat([mask, mask]), 3),
                 "the mean IoU of two scenes", "Count each class over all scenes together.")
    )


# --- 8.2 one step of DAG ------------------------------------------------------------------------

def dag_step(model, x_t, x, mask, eps, step_size):
    """One step of DAG: away from the names in `mask`, wherever they are still given."""
    x_free = x_t.clone().requires_grad_()
    logits = model(x_free)
    margins = margin(logits, mask)
    left = logits.argmax(1) == mask
    gradient = torch.autograd.grad((margins * left).sum(), x_free)[0]
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return project_box(x_t + step_size * gradient / largest, x, eps, "linf")


def _step(fn: Function) -> Finding:
    p = dense_problem()
    first, said = run(fn, p.model, p.x, p.x, p.mask, EPS, STEP)
    if said or (said := image_like(first, p.x) or finite(first)):
        return said
    if torch.equal(first, p.x):
        return "your function returns the images unchanged: nothing was attacked."
    # From the border of the ball, where a step without a projection leaves it.
    far = (p.x + EPS * (p.x < 0.5)).clamp(0, 1)
    second = fn(p.model, far, p.x, p.mask, EPS, 5 * STEP)
    every, opposite = (
        _moved(p, sign, everywhere) for sign, everywhere in ((1, True), (-1, False)))
    if torch.allclose(first, opposite, atol=1e-6):
        return "your step goes downhill: the margins of the pixels that are left have to rise."
    if torch.allclose(first, every, atol=1e-6):
        return ("your step still works for pixels that have lost their name: multiply the margins "
                "with `left`, so that only those with the right name count.")
    return (
        in_box(second) or in_ball(second, p.x, EPS, idea="Project onto the ball around x, not x_t.")
        or close(first, dag_step(p.model, p.x, p.x, p.mask, EPS, STEP), "the image after one step",
                 "Divide the gradient of each image by its own largest entry, then take step_size "
                 "times that.")
        or close(second, dag_step(p.model, far, p.x, p.mask, EPS, 5 * STEP),
                 "the image after a step from within the ball",
                 "The gradient is that at x_t; the ball lies around x.")
    )


def _moved(p: Dense, sign: int, everywhere: bool) -> Tensor:
    x_free = p.x.clone().requires_grad_()
    logits = p.model(x_free)
    left = everywhere | (logits.argmax(1) == p.mask)
    (gradient,) = torch.autograd.grad((margin(logits, p.mask) * left).sum(), x_free)
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return project_box(p.x + sign * STEP * gradient / largest, p.x, EPS, "linf")


# --- 8.3 towards a map --------------------------------------------------------------------------

def towards(model, x_t, mask, target):
    """The gradient of one step towards a target map."""
    x_free = x_t.clone().requires_grad_()
    logits = model(x_free)
    margins = -margin(logits, target)
    left = logits.argmax(1) != target
    return torch.autograd.grad((margins * left).sum(), x_free)[0]


def _towards(fn: Function) -> Finding:
    p = dense_problem()
    gradient, said = run(fn, p.model, p.x, p.mask, p.target)
    if said or (said := image_like(gradient, p.x, "gradient") or finite(gradient, "gradient")):
        return said
    x_free = p.x.clone().requires_grad_()
    logits = p.model(x_free)
    margins, everywhere = -margin(logits, p.target), torch.ones_like(p.mask, dtype=torch.bool)
    for left, words in (
        (logits.argmax(1) == p.mask, "a pixel that has lost its own name, and has not got that of "
         "the map, is given up: ask for which pixels the map has not been reached."),
        (everywhere, "pixels that are already named as the map says still pull: leave them out."),
        (p.mask != p.target, "what is left depends on what the model says now, not on the maps "
         "alone."),
    ):
        (known,) = torch.autograd.grad((margins * left).sum(), x_free, retain_graph=True)
        if torch.allclose(gradient, known, atol=1e-6):
            return words
    expected = dense_gradient(p.model, p.x, p.mask, p.target)[0]
    if torch.allclose(gradient, -expected, atol=1e-6):
        return "your gradient leads away from the map: the margin of the target has to fall."
    return close(gradient, expected, "the gradient", "Change nothing but the pixels that count.")


# --- 8.4 an added sentence ----------------------------------------------------------------------

ASKED = "What is the name of the"


def added_sentence(role, person, age, event):
    """A sentence on another person and another contest that looks like an answer."""
    return f"The {role} {person} was {age} in {event}."


@cache
def name_questions() -> list[Item]:
    """Passages with the question for the name of somebody of a certain age."""
    return [item for item in passages.compose(1500, "test") if item.question.startswith(ASKED)]


def share_fooled(fn: Function, items: list[Item]) -> float:
    """The share of items whose answer is wrong with the sentence that fn writes at the end."""
    told = [item.with_sentence(fn(*(item.another[key] for key in ("role", "person", "age",
                                                                  "event"))))
            for item in items]
    answers = read(models.load("reader", "cpu"), told)
    return sum(a.answer != item.answer for a, item in zip(answers, items, strict=True)) / len(items)


def _added(fn: Function) -> Finding:
    given = ("sailor", "Anna Costa", "23", "Golden Regatta XIV")
    sentence, said = run(fn, *given)
    if said:
        return said
    if not isinstance(sentence, str) or not sentence.strip():
        return f"your function returns {sentence!r}: return a sentence, as text."
    other, _ = run(fn, "rider", "Rita Vogel", "40", "Royal Derby LI")
    if given[1] not in sentence or "Rita Vogel" not in other:
        return ("your sentence does not hold the name in `person`: the reader shall take it for "
                "the answer.")
    if given[3] not in sentence:
        return "your sentence does not hold `event`: say that it was another contest."
    share = share_fooled(fn, name_questions())
    if share < 0.5:
        return (f"the reader now answers {100 * share:.0f} % of the questions wrongly, and half is "
                "the goal: use the words of the question, and try another order.")
    return None


# --- 8.5 a patch for one place only -------------------------------------------------------------

def patch_step(model, x, patch, target, step_size, generator):
    """One step of a patch towards `target`, on all images, each time at other places."""
    places = random_places(len(x), generator=generator)
    patch = patch.clone().requires_grad_()
    labels = torch.full((len(x),), target)
    loss = F.cross_entropy(model(paste(x, patch, places)), labels)
    gradient = torch.autograd.grad(loss, patch)[0]
    return (patch - step_size * gradient.sign()).detach().clamp(0, 1)


def _patch(fn: Function) -> Finding:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        model = nn.Sequential(nn.Conv2d(1, 6, 5, stride=2), nn.Tanh(), nn.Flatten(),
                              nn.Linear(600, 3)).eval()
    draw = torch.Generator().manual_seed(8)
    x, patch = torch.rand(12, 1, 23, 23, generator=draw), torch.rand(1, 9, 9, generator=draw)

    def step(seed: int, images: Tensor = x) -> Tensor:
        return fn(model, images, patch.clone(), 1, 0.02, runtime.generator(seed))

    first, said = run(step, 0)
    if said or (said := image_like(first, patch, "the patch") or finite(first)):
        return said
    if torch.equal(first, patch):
        return "your function returns the patch unchanged: nothing was learned."
    if torch.equal(first, step(1)) and torch.equal(first, step(2)):
        return ("your step uses the same places whatever the generator draws: such a patch works "
                "there only. Draw new places with `generator` in each call.")
    if torch.equal(first, step(0, torch.cat([x[:1]] * len(x)))):
        return "only the first image counts in your step: take the mean loss over all of them."
    places = random_places(600, generator=runtime.generator(5))
    many = x.repeat(50, 1, 1, 1)

    def loss(sticker: Tensor) -> float:
        with torch.no_grad():
            return F.cross_entropy(model(paste(many, sticker, places)),
                                   torch.ones(600, dtype=torch.int64)).item()

    moved = torch.stack([step(seed) for seed in range(8)]).mean(0)
    if loss(moved) >= loss(patch):
        return "the loss towards the target rises along your step: go down, against the gradient."
    return in_box(fn(model, x, (patch > 0.5).float(), 1, 0.1, runtime.generator(0)))


EXERCISES = [
    Exercise(
        id="8.1",
        title="mean intersection over union",
        stub='''
def iou_score(predicted, mask, classes):
    """Mean IoU of two label maps; a class that is in neither does not count."""
    return (predicted == mask).float().mean().item()   # this is the share of pixels
''',
        solution=mean_iou,
        hints=(
            "Go through the classes one by one. For class k, `predicted == k` and `mask == k` are "
            "two regions.",
            "`(a & b).sum()` counts the intersection of two regions, `(a | b).sum()` the union. "
            "What if the union is empty?",
            "Collect intersection / union of each class whose union is not empty, and return the "
            "mean.",
        ),
        diagnose=_iou,
        praise="A class of few pixels counts as much as the background.",
    ),
    Exercise(
        id="8.2",
        title="one step of DAG",
        stub='''
def dag_step(model, x_t, x, mask, eps, step_size):
    """One step of DAG: away from the names in `mask`, wherever they are still given."""
    x_free = x_t.clone().requires_grad_()
    logits = model(x_free)
    margins = margin(logits, mask)    # one per pixel, above 0 where it is fooled
    # Here are missing: who is left, the gradient of their sum, the step, ball and box.
    return x_t
''',
        solution=dag_step,
        hints=(
            "A pixel is left while `logits.argmax(1) == mask`. Only the margins of these count.",
            "`torch.autograd.grad((margins * left).sum(), x_free)[0]` is the gradient. Divide it, "
            "for each image, by its largest entry: `.abs().amax((1, 2, 3), keepdim=True)`. That "
            "may be zero.",
            "`project_box(x_t + step_size * gradient / largest, x, eps, \"linf\")` with `largest` "
            "clamped from below by 1e-12.",
        ),
        diagnose=_step,
        praise="One backward pass serves thousands of pixels.",
    ),
    Exercise(
        id="8.3",
        title="a map that is not reached",
        stub='''
def towards(model, x_t, mask, target):
    """The gradient of one step towards a target map, as a colleague wrote it."""
    x_free = x_t.clone().requires_grad_()
    logits = model(x_free)
    margins = -margin(logits, target)          # above 0 where the map is reached
    left = logits.argmax(1) == mask
    return torch.autograd.grad((margins * left).sum(), x_free)[0]
''',
        solution=towards,
        hints=(
            "Follow one pixel whose true name is 4 and whose target is 0. The network says 7. "
            "What does the colleague's step do for it?",
            "Which pixels are done? For an attack towards a map these are not the same as those "
            "that have lost their name.",
            "A pixel is left as long as the network's name for it differs from `target`.",
        ),
        diagnose=_towards,
        praise="Wrong is not enough for an attack with a target.",
    ),
    Exercise(
        id="8.4",
        title="an added sentence",
        stub='''
def added_sentence(role, person, age, event):
    """A sentence on another person and another contest that looks like an answer."""
    return f"{person} never saw {event}."
''',
        solution=added_sentence,
        hints=(
            "Read the question aloud. Which statement would answer it?",
            "Turn the question round: its words, with the other person, age and contest in the "
            "places of the right ones.",
            "The question says \"the {role} who was {age} in {event}\". Put the name right behind "
            "the role.",
        ),
        diagnose=_added,
        praise="Nothing in the passage became false, and the answer went.",
    ),
    Exercise(
        id="8.5",
        title="a patch for one place only",
        stub='''
def patch_step(model, x, patch, target, step_size, generator):
    """One step of a patch towards `target`, as a colleague wrote it."""
    places = random_places(1, generator=course_lib.generator(0))    # one for all images
    patch = patch.clone().requires_grad_()
    labels = torch.full((len(x),), target)
    loss = F.cross_entropy(model(paste(x, patch, places)), labels)
    gradient = torch.autograd.grad(loss, patch)[0]
    return (patch - step_size * gradient.sign()).detach().clamp(0, 1)
''',
        solution=patch_step,
        hints=(
            "Call the step twice. Which part of it is the same in both calls, and should not be?",
            "A generator that is made anew with seed 0 draws the same numbers each time.",
            "`places = random_places(len(x), generator=generator)`: a place for each image, drawn "
            "anew in each call.",
        ),
        diagnose=_patch,
        praise="A mean over places is estimated with new places at each step.",
    ),
]
