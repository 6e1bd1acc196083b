"""Exercises of lesson 08: mean IoU, DAG, a map that is not reached, an added sentence, a patch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import models, passages, runtime
from course_lib.attacks.patch import paste, random_places
from course_lib.exercises.diagnoses import Finding, close, finite, image_like, in_ball, in_box, run
from course_lib.exercises.examiner import Examiner, first
from course_lib.exercises.exercise import Exercise
from course_lib.exercises.source import Function
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

def _maps() -> list[tuple[Tensor, Tensor, int]]:
    mask = torch.tensor([[[0, 0, 0, 0], [0, 0, 1, 2]]])
    predicted = torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0]]])
    return [(predicted, mask, 3)]


def _other_maps(fn: Function) -> Finding:
    ((predicted, mask, classes),) = _maps()
    two = torch.cat([predicted, mask]), torch.cat([mask, mask]), classes
    return (
        close(fn(predicted, mask, 5), mean_iou(predicted, mask, 5),
              "with the classes 3 and 4 in neither map, the mean IoU",
              "A class that neither map holds has no union: leave it out.")
        or close(fn(mask, predicted, classes), mean_iou(mask, predicted, classes),
                 "the mean IoU with both maps exchanged", "Divide by the union, not by one map.")
        or close(fn(*two), mean_iou(*two), "the mean IoU of two scenes",
                 "Count each class over all scenes together.")
    )


def each_class(score: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """The mean over all classes of the score of two regions: predicted, and of the mask."""
    return lambda predicted, mask, classes: torch.stack(
        [score(predicted == k, mask == k) for k in range(classes)]).mean()


def share(part: Tensor, whole: Tensor) -> Tensor:
    return part.sum() / whole.sum().clamp_min(1)


def _a_number(value: Any, *_: Any) -> Finding:
    return None if isinstance(value, (int, float, Tensor)) else close(value, 0.0, "the mean IoU")


_IOU = Examiner(
    mean_iou, _maps, name="the mean IoU of the classes 0, 1, 2", further=_other_maps,
    properties=(_a_number,),
    idea="Each class counts the same: intersection over union per class, then the mean.",
    mistakes={
        "this is the share of pixels that are named rightly: large classes count most. Take "
        "intersection over union per class.": lambda a, b, _: (a == b).float().mean(),
        "this divides by the pixels that the mask gives to a class: its recall, which forgives a "
        "region that is too large. Take intersection over union per class.":
            each_class(lambda a, b: share(a & b, b)),
        "this divides by the pixels that are predicted to be of a class: its precision, which "
        "forgives a region that is too small. Take intersection over union per class.":
            each_class(lambda a, b: share(a & b, a)),
        "this is the Dice score, twice the intersection over the sum of both regions. Take "
        "intersection over union per class.": each_class(
            lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum()).clamp_min(1)),
        "this divides all intersections by all unions: large classes count most. Take intersection "
        "over union per class, then the mean.":
            lambda a, b, _: (a == b).sum() / (2 * b.numel() - (a == b).sum()),
    })


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


def slope(
    model: nn.Module, x: Tensor, labels: Tensor, counts: Callable[[Tensor], Tensor]
) -> Tensor:
    """The gradient of the margins to `labels`, of the pixels whose present names count."""
    x_free = x.clone().requires_grad_()
    logits = model(x_free)
    margins = margin(logits, labels) * counts(logits.argmax(1))
    return torch.autograd.grad(margins.sum(), x_free)[0]


def unit(gradient: Tensor) -> Tensor:
    return gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)


def stepping(
    scaled: Callable[[Tensor], Tensor] = unit,
    counts: Callable[[Tensor], Callable[[Tensor], Tensor]] = lambda mask: mask.eq,
    at: Callable[[Tensor, Tensor], Tensor] = lambda x_t, x: x_t,
) -> Function:
    """A step of DAG: how its gradient is scaled, which pixels count for it, and where it is."""
    return lambda model, x_t, x, mask, eps, step_size: project_box(
        x_t + step_size * scaled(slope(model, at(x_t, x), mask, counts(mask))), x, eps, "linf")


def _steps() -> list[tuple[Any, ...]]:
    """The first step, and one from the border of the ball, where it needs the projection."""
    model, x, mask, _ = dense_problem()
    far = (x + EPS * (x < 0.5)).clamp(0, 1)
    return [(model, x, x, mask, EPS, STEP), (model, far, x, mask, EPS, 5 * STEP)]


def _allowed(
    x_new: Any, model: nn.Module, x_t: Tensor, x: Tensor, mask: Tensor, eps: float, step_size: float
) -> Finding:
    finding = image_like(x_new, x) or finite(x_new)
    if not finding and torch.equal(x_new, x_t):
        return "your function returns the images unchanged: nothing was attacked."
    return (finding or in_box(x_new)
            or in_ball(x_new, x, eps, idea="Project onto the ball around x, not x_t."))


_DAG = Examiner(
    dag_step, _steps, properties=(_allowed,), name="the image after one step",
    idea="Divide the gradient of each image by its own largest entry, then take step_size times "
         "that. The gradient is that at x_t; the ball lies around x.",
    mistakes={
        "your step goes downhill: the margins of the pixels that are left have to rise.":
            stepping(lambda gradient: -unit(gradient)),
        "your step still works for pixels that have lost their name: multiply the margins with "
        "`left`, so that only those with the right name count.":
            stepping(counts=lambda mask: torch.ones_like),
        "this is the sign of the gradient: each pixel moves by the whole step. Divide the gradient "
        "of each image by its own largest entry.": stepping(torch.sign),
        "all images are divided by the largest entry of the batch. Divide the gradient of each "
        "image by its own largest entry.":
            stepping(lambda gradient: gradient / gradient.abs().max()),
        "the gradient is taken at the clean image. From the second step on it is another one: the "
        "gradient is that at x_t.": stepping(at=lambda x_t, x: x),
    })


# --- 8.3 towards a map --------------------------------------------------------------------------

def towards(model, x_t, mask, target):
    """The gradient of one step towards a target map."""
    x_free = x_t.clone().requires_grad_()
    logits = model(x_free)
    margins = -margin(logits, target)
    left = logits.argmax(1) != target
    return torch.autograd.grad((margins * left).sum(), x_free)[0]


_TOWARDS = Examiner(
    towards, lambda: [dense_problem()], name="the gradient",
    idea="Change nothing but the pixels that count.",
    properties=(lambda mine, model, x_t, *_: image_like(mine, x_t, "gradient")
                or finite(mine, "gradient"),),
    mistakes={
        "a pixel that has lost its own name, and has not got that of the map, is given up: ask for "
        "which pixels the map has not been reached.":
            lambda model, x_t, mask, target: -slope(model, x_t, target, mask.eq),
        "pixels that are already named as the map says still pull: leave them out.":
            lambda model, x_t, mask, target: -slope(model, x_t, target, torch.ones_like),
        "what is left depends on what the model says now, not on the maps alone.":
            lambda model, x_t, mask, target: -slope(model, x_t, target, lambda _: mask != target),
        "your gradient leads away from the map: the margin of the target has to fall.":
            lambda model, x_t, mask, target: slope(model, x_t, target, target.ne),
    })


# --- 8.4 an added sentence ----------------------------------------------------------------------

ASKED = "What is the name of the"


def added_sentence(role, person, age, event):
    """A sentence on another person and another contest that looks like an answer."""
    return f"The {role} {person} was {age} in {event}."


@cache
def name_questions() -> list[Item]:
    """Passages with the question for the name of somebody of a certain age."""
    return [item for item in passages.compose(1500, "test") if item.question.startswith(ASKED)]


def _share_fooled(fn: Function) -> float:
    """The share of items whose answer is wrong with the sentence that fn writes at the end."""
    items = name_questions()
    told = [item.with_sentence(fn(*(item.another[key] for key in ("role", "person", "age",
                                                                  "event"))))
            for item in items]
    answers = read(models.load("reader", "cpu"), told)
    return sum(a.answer != item.answer for a, item in zip(answers, items, strict=True)) / len(items)


def _names_another(sentence: Any, role: str, person: str, age: str, event: str) -> Finding:
    text = sentence if isinstance(sentence, str) else ""
    return first({
        f"your function returns {sentence!r}: return a sentence, as text.": not text.strip(),
        "your sentence does not hold the name in `person`: the reader shall take it for the "
        "answer.": person not in text,
        "your sentence does not hold `event`: say that it was another contest.": event not in text,
    })


def _fools(fn: Function) -> Finding:
    fooled = _share_fooled(fn)
    if fooled >= 0.5:
        return None
    return (f"the reader now answers {100 * fooled:.0f} % of the questions wrongly, and half is "
            "the goal: use the words of the question, and try another order.")


_SENTENCE = Examiner(
    added_sentence, exact=False, properties=(_names_another,), further=_fools,
    cases=lambda: [("sailor", "Anna Costa", "23", "Golden Regatta XIV"),
                   ("rider", "Rita Vogel", "40", "Royal Derby LI")])


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

    def loss(sticker: Tensor) -> float:
        places = random_places(600, generator=runtime.generator(5))
        with torch.no_grad():
            return F.cross_entropy(model(paste(x.repeat(50, 1, 1, 1), sticker, places)),
                                   torch.ones(600, dtype=torch.int64)).item()

    stepped, finding = run(step, 0)
    if finding := finding or image_like(stepped, patch, "the patch") or finite(stepped):
        return finding
    moved = torch.stack([stepped, *(step(seed) for seed in range(1, 8))])
    return first({
        "your function returns the patch unchanged: nothing was learned.":
            torch.equal(stepped, patch),
        "your step uses the same places whatever the generator draws: such a patch works there "
        "only. Draw new places with `generator` in each call.":
            all(torch.equal(stepped, other) for other in moved[1:3]),
        "only the first image counts in your step: take the mean loss over all of them.":
            torch.equal(stepped, step(0, x[:1].repeat(len(x), 1, 1, 1))),
        "the loss towards the target rises along your step: go down, against the gradient.":
            loss(moved.mean(0)) >= loss(patch),
    }) or in_box(fn(model, x, (patch > 0.5).float(), 1, 0.1, runtime.generator(0)))


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
        diagnose=_IOU,
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
        diagnose=_DAG,
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
        diagnose=_TOWARDS,
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
        diagnose=_SENTENCE,
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
