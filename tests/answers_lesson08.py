"""What people answer to the exercises of lesson 08."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_lib import runtime
from course_lib.attacks.dag import dense_gradient
from course_lib.attacks.patch import paste, patch_gradient, random_places
from course_lib.losses import margin
from course_lib.norms import project_box

# What a wrong submission is, and words of the message that must name its mistake.
WRONG: dict[str, list] = {id: [] for id in ("8.1", "8.2", "8.3", "8.4", "8.5")}
RIGHT: dict[str, list] = {id: [] for id in WRONG}


def wrong(id: str, says: str):
    return lambda fn: WRONG[id].append((fn, says)) or fn


def right(id: str):
    return lambda fn: RIGHT[id].append(fn) or fn


# --- 8.1 ----------------------------------------------------------------------------------------

@right("8.1")
def by_a_table(predicted, mask, classes):
    table = torch.zeros(classes, classes)
    for a, b in zip(predicted.flatten(), mask.flatten(), strict=True):
        table[a, b] += 1
    both, either = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
    return (both[either > 0] / either[either > 0]).mean()


def each_class(predicted, mask, classes, score):
    return sum(score(predicted == k, mask == k) for k in range(classes)) / classes


@wrong("8.1", "leave it out")
def absent_counts_as_zero(predicted, mask, classes):
    return each_class(predicted, mask, classes,
                      lambda a, b: float((a & b).sum()) / max(int((a | b).sum()), 1))


@wrong("8.1", "intersection over union per class")
def recall(predicted, mask, classes):
    return each_class(predicted, mask, classes,
                      lambda a, b: float((a & b).sum()) / max(int(b.sum()), 1))


@wrong("8.1", "intersection over union per class")
def all_classes_together(predicted, mask, classes):
    both = sum(int(((predicted == k) & (mask == k)).sum()) for k in range(classes))
    either = sum(int(((predicted == k) | (mask == k)).sum()) for k in range(classes))
    return both / either


@wrong("8.1", "over all scenes together")
def scene_by_scene(predicted, mask, classes):
    return sum(float(by_a_table(a, b, classes)) for a, b in zip(predicted, mask, strict=True)) \
        / len(mask)


@right("8.1")
def class_by_class(predicted, mask, classes):
    scores = []
    for k in set(predicted.flatten().tolist()) | set(mask.flatten().tolist()):
        a, b = predicted == k, mask == k
        scores.append(((a & b).sum() / (a | b).sum()).item())
    return sum(scores) / len(scores)


@wrong("8.1", "intersection over union per class")
def dice(predicted, mask, classes):
    return each_class(predicted, mask, classes,
                      lambda a, b: 2 * float((a & b).sum()) / max(int(a.sum() + b.sum()), 1))


@wrong("8.1", "NoneType")
def no_return(predicted, mask, classes):
    by_a_table(predicted, mask, classes)


# --- 8.2 ----------------------------------------------------------------------------------------

def slope(model, x_t, mask, everywhere=False):
    x_t = x_t.clone().requires_grad_()
    logits = model(x_t)
    left = everywhere | (logits.argmax(1) == mask)
    return torch.autograd.grad((margin(logits, mask) * left).sum(), x_t)[0]


def stepped(x_t, gradient, step_size):
    return x_t + step_size * gradient / gradient.abs().amax((1, 2, 3), True).clamp_min(1e-12)


@right("8.2")
def with_the_library(model, x_t, x, mask, eps, step_size):
    gradient, _ = dense_gradient(model, x_t, mask)
    return project_box(stepped(x_t, gradient, step_size), x, eps, "linf")


@right("8.2")
def image_by_image(model, x_t, x, mask, eps, step_size):
    rows = []
    for i in range(len(x)):
        gradient = slope(model, x_t[i:i + 1], mask[i:i + 1])
        largest = gradient.abs().max()
        step = step_size * gradient / largest if largest > 0 else 0
        moved = x[i:i + 1] + (x_t[i:i + 1] + step - x[i:i + 1]).clamp(-eps, eps)
        rows.append(moved.clamp(0, 1))
    return torch.cat(rows)


@wrong("8.2", "that have lost their name")
def all_pixels(model, x_t, x, mask, eps, step_size):
    gradient = slope(model, x_t, mask, everywhere=True)
    return project_box(stepped(x_t, gradient, step_size), x, eps, "linf")


@wrong("8.2", "downhill")
def wrong_sign(model, x_t, x, mask, eps, step_size):
    return project_box(stepped(x_t, slope(model, x_t, mask), -step_size), x, eps, "linf")


@wrong("8.2", "NaN")
def divided_by_zero(model, x_t, x, mask, eps, step_size):
    gradient = slope(model, x_t, mask)
    step = step_size * gradient / gradient.abs().amax((1, 2, 3), keepdim=True)
    return project_box(x_t + step, x, eps, "linf")


@wrong("8.2", "leaves [0, 1]")
def no_projection(model, x_t, x, mask, eps, step_size):
    return stepped(x_t, slope(model, x_t, mask), step_size)


@wrong("8.2", "onto the ball around x, not x_t")
def ball_around_the_last(model, x_t, x, mask, eps, step_size):
    return project_box(stepped(x_t, slope(model, x_t, mask), step_size), x_t, eps, "linf")


@wrong("8.2", "by its own largest entry")
def signs(model, x_t, x, mask, eps, step_size):
    return project_box(x_t + step_size * slope(model, x_t, mask).sign(), x, eps, "linf")


@wrong("8.2", "by its own largest entry")
def one_size_for_the_batch(model, x_t, x, mask, eps, step_size):
    gradient = slope(model, x_t, mask)
    return project_box(x_t + step_size * gradient / gradient.abs().max(), x, eps, "linf")


@wrong("8.2", "gradient is that at x_t")
def always_from_the_start(model, x_t, x, mask, eps, step_size):
    return project_box(stepped(x_t, slope(model, x, mask), step_size), x, eps, "linf")


# --- 8.3 ----------------------------------------------------------------------------------------

def pulled(model, x_t, target, left):
    x_t = x_t.clone().requires_grad_()
    logits = model(x_t)
    return torch.autograd.grad((-margin(logits, target) * left(logits.argmax(1))).sum(), x_t)[0]


@right("8.3")
def not_yet_there(model, x_t, mask, target):
    return pulled(model, x_t, target, lambda named: ~(named == target))


@right("8.3")
def by_the_margin(model, x_t, mask, target):
    x_t = x_t.clone().requires_grad_()
    reached = -margin(model(x_t), target)
    return torch.autograd.grad(reached.clamp_max(0).sum(), x_t)[0]


@wrong("8.3", "nothing but the pixels")
def a_mean(model, x_t, mask, target):
    return not_yet_there(model, x_t, mask, target) / mask.numel()


@wrong("8.3", "has shape")
def of_one_image(model, x_t, mask, target):
    return not_yet_there(model, x_t, mask, target)[:1]


@wrong("8.3", "still pull")
def everybody(model, x_t, mask, target):
    return pulled(model, x_t, target, torch.ones_like)


@wrong("8.3", "not on the maps alone")
def from_the_maps(model, x_t, mask, target):
    return pulled(model, x_t, target, lambda named: mask != target)


@wrong("8.3", "away from the map")
def turned_round(model, x_t, mask, target):
    return -not_yet_there(model, x_t, mask, target)


@wrong("8.3", "is given up")
def only_another_way_to_write_it(model, x_t, mask, target):
    return pulled(model, x_t, target, lambda named: torch.where(named == mask, 1.0, 0.0))


# --- 8.4 ----------------------------------------------------------------------------------------

@right("8.4")
def name_first(role, person, age, event):
    return f"{person} is the name of the {role} who was {age} in {event} ."


@right("8.4")
def a_jersey(role, person, age, event):
    return f"{person} is the name of the {role} who had the jersey number {age} in {event}."


@right("8.4")
def name_last(role, person, age, event):
    return f"The name of the {role} who was {age} in {event} is {person} ."


@wrong("8.4", "does not hold the name")
def without_a_person(role, person, age, event):
    return f"Somebody is the name of the {role} who was {age} in {event}."


@wrong("8.4", "another contest")
def without_a_contest(role, person, age, event):
    return f"{person} is the name of the {role} who was {age}."


@wrong("8.4", "another order")
def a_winner(role, person, age, event):
    return f"{person} won {event} at the age of {age}."


@wrong("8.4", "another order")
def about_something_else(role, person, age, event):
    return f"{person} likes to cook and has a picture of {event}."


@wrong("8.4", "hold the name in `person`")
def always_the_same(role, person, age, event):
    return "Anna Costa is the name of the sailor who was 23 in Golden Regatta XIV."


@wrong("8.4", "as text")
def a_list_of_words(role, person, age, event):
    return [person, "was", age, "in", event]


# --- 8.5 ----------------------------------------------------------------------------------------

@right("8.5")
def by_the_library(model, x, patch, target, step_size, generator):
    places = random_places(len(x), generator=generator)
    gradient, _ = patch_gradient(model, x, patch, places, target)
    return (patch - step_size * gradient.sign()).clamp(0, 1)


@right("8.5")
def three_places_for_each(model, x, patch, target, step_size, generator):
    gradient = sum(patch_gradient(model, x, patch, random_places(len(x), generator=generator),
                                  target)[0] for _ in range(3))
    return (patch - step_size * gradient.sign()).clamp(0, 1)


@wrong("8.5", "whatever the generator draws")
def a_seed_of_its_own(model, x, patch, target, step_size, generator):
    return by_the_library(model, x, patch, target, step_size, runtime.generator(7))


@wrong("8.5", "go down")
def uphill(model, x, patch, target, step_size, generator):
    return by_the_library(model, x, patch, target, -step_size, generator)


@wrong("8.5", "leaves [0, 1]")
def out_of_the_box(model, x, patch, target, step_size, generator):
    places = random_places(len(x), generator=generator)
    return patch - step_size * patch_gradient(model, x, patch, places, target)[0].sign()


@wrong("8.5", "only the first image")
def first_image_only(model, x, patch, target, step_size, generator):
    return by_the_library(model, x[:1], patch, target, step_size, generator)


@wrong("8.5", "shape")
def a_patch_for_each_image(model, x, patch, target, step_size, generator):
    return by_the_library(model, x, patch, target, step_size, generator).expand(len(x), -1, -1, -1)


@wrong("8.5", "unchanged")
def not_moved(model, x, patch, target, step_size, generator):
    F.cross_entropy(model(paste(x, patch, random_places(len(x)))), torch.full((len(x),), target))
    return patch
