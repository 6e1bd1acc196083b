"""What people answer to the exercises of lesson 08, beside the mistakes that the checks declare."""

from __future__ import annotations

import torch

from course_lib import runtime
from course_lib.attacks.dag import dense_gradient
from course_lib.attacks.patch import patch_gradient, random_places
from course_lib.exercises.lesson08 import (
    added_sentence,
    dag_step,
    each_class,
    share,
    slope,
    stepping,
    towards,
    unit,
)
from course_lib.losses import margin
from course_lib.norms import project_box


def _by_a_table(predicted, mask, classes):
    table = torch.zeros(classes, classes)
    for a, b in zip(predicted.flatten(), mask.flatten(), strict=True):
        table[a, b] += 1
    both, either = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
    return (both[either > 0] / either[either > 0]).mean()


def _class_by_class(predicted, mask, classes):
    scores = []
    for k in set(predicted.flatten().tolist()) | set(mask.flatten().tolist()):
        a, b = predicted == k, mask == k
        scores.append(((a & b).sum() / (a | b).sum()).item())
    return sum(scores) / len(scores)


def _scene_by_scene(predicted, mask, classes):
    scores = [_by_a_table(a, b, classes) for a, b in zip(predicted, mask, strict=True)]
    return sum(scores) / len(scores)


def _with_the_library(model, x_t, x, mask, eps, step_size):
    return project_box(x_t + step_size * unit(dense_gradient(model, x_t, mask)[0]), x, eps, "linf")


def _image_by_image(model, x_t, x, mask, eps, step_size):
    rows = []
    for i in range(len(x)):
        gradient = slope(model, x_t[i:i + 1], mask[i:i + 1], mask[i:i + 1].eq)
        largest = gradient.abs().max()
        step = step_size * gradient / largest if largest > 0 else 0
        moved = x[i:i + 1] + (x_t[i:i + 1] + step - x[i:i + 1]).clamp(-eps, eps)
        rows.append(moved.clamp(0, 1))
    return torch.cat(rows)


def _by_the_margin(model, x_t, mask, target):
    x_t = x_t.clone().requires_grad_()
    reached = -margin(model(x_t), target)
    return torch.autograd.grad(reached.clamp_max(0).sum(), x_t)[0]


def _by_the_library(model, x, patch, target, step_size, generator):
    places = random_places(len(x), generator=generator)
    gradient, _ = patch_gradient(model, x, patch, places, target)
    return (patch - step_size * gradient.sign()).clamp(0, 1)


def _three_places_for_each(model, x, patch, target, step_size, generator):
    gradient = sum(patch_gradient(model, x, patch, random_places(len(x), generator=generator),
                                  target)[0] for _ in range(3))
    return (patch - step_size * gradient.sign()).clamp(0, 1)


def _out_of_the_box(model, x, patch, target, step_size, generator):
    places = random_places(len(x), generator=generator)
    return patch - step_size * patch_gradient(model, x, patch, places, target)[0].sign()


# What a wrong submission is, and words of the message that must name its mistake.
WRONG = {
    "8.1": [
        (each_class(lambda a, b: share(a & b, a | b)), "leave it out"),
        (each_class(lambda a, b: (a & b).sum() / (a | b).sum()), "leave it out"),
        (each_class(lambda a, b: 1 - share(a ^ b, a | b)), "leave it out"),
        (_scene_by_scene, "over all scenes together"),
        (lambda predicted, mask, classes: None, "returns nothing"),
    ],
    "8.2": [
        (stepping(lambda gradient: gradient / gradient.abs().amax((1, 2, 3), True)), "NaN"),
        (lambda model, x_t, x, mask, eps, step_size:
         x_t + step_size * unit(slope(model, x_t, mask, mask.eq)), "leaves [0, 1]"),
        (lambda model, x_t, x, *rest: dag_step(model, x_t, x_t, *rest),
         "onto the ball around x, not x_t"),
        (lambda model, x_t, *rest: x_t, "unchanged"),
        (stepping(lambda gradient: 0.5 * unit(gradient)), "take step_size times that"),
    ],
    "8.3": [
        (lambda *given: towards(*given) / 108, "nothing but the pixels"),
        (lambda *given: towards(*given)[:1], "has shape"),
    ],
    "8.4": [
        (lambda role, person, age, event: added_sentence(role, "Somebody", age, event),
         "does not hold the name"),
        (lambda *_: added_sentence("sailor", "Anna Costa", "23", "Golden Regatta XIV"),
         "hold the name in `person`"),
        (lambda role, person, age, event: f"{person} is the name of the {role} who was {age}.",
         "another contest"),
        (lambda role, person, age, event: f"{person} won {event} at the age of {age}.",
         "another order"),
        (lambda role, person, age, event: f"{person} likes to cook and has a picture of {event}.",
         "another order"),
        (lambda role, person, age, event: [person, "was", age, "in", event], "as text"),
        (lambda role, person, age, event: None, "returns nothing"),
    ],
    "8.5": [
        (lambda *given: _by_the_library(*given[:-1], runtime.generator(7)),
         "whatever the generator draws"),
        (lambda model, x, patch, target, step_size, generator:
         _by_the_library(model, x, patch, target, -step_size, generator), "go down"),
        (_out_of_the_box, "leaves [0, 1]"),
        (lambda model, x, *rest: _by_the_library(model, x[:1], *rest), "only the first image"),
        (lambda *given: _by_the_library(*given).expand(len(given[1]), -1, -1, -1), "shape"),
        (lambda model, x, patch, *rest: patch, "unchanged"),
    ],
}
RIGHT = {
    "8.1": [_by_a_table, _class_by_class],
    "8.2": [_with_the_library, _image_by_image],
    "8.3": [_by_the_margin,
            lambda model, x_t, mask, target: dense_gradient(model, x_t, mask, target)[0],
            lambda model, x_t, mask, target: -slope(model, x_t, target, lambda named:
                                                    ~(named == target))],
    "8.4": [
        lambda role, person, age, event:
            f"{person} is the name of the {role} who was {age} in {event} .",
        lambda role, person, age, event:
            f"{person} is the name of the {role} who had the jersey number {age} in {event}.",
        lambda role, person, age, event:
            f"The name of the {role} who was {age} in {event} is {person} .",
    ],
    "8.5": [_by_the_library, _three_places_for_each],
}
