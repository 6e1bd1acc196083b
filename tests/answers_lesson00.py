"""What people answer to the exercise of lesson 00."""

from __future__ import annotations

from course_lib.norms import lp_norm

# What a wrong submission is, and words of the message that must name its mistake.
WRONG: dict[str, list] = {"0.1": []}
RIGHT: dict[str, list] = {"0.1": []}


def wrong(says: str):
    return lambda fn: WRONG["0.1"].append((fn, says)) or fn


def right(fn):
    RIGHT["0.1"].append(fn)
    return fn


@right
def step_by_step(f, x, y, r, eps):
    if f(x) != y or f(x + r) == y:
        return False
    for entry, change in zip((x + r).flatten().tolist(), r.flatten().tolist(), strict=True):
        if not 0 <= entry <= 1 or abs(change) > eps:
            return False
    return True


@right
def as_a_tensor(f, x, y, r, eps):
    x_adv = x + r
    box = ((x_adv >= 0) & (x_adv <= 1)).all()
    return box & (r.abs() <= eps).all() & (f(x) == y) & (f(x_adv) != y)


@right
def with_the_library(f, x, y, r, eps):
    small = lp_norm(r[None], "linf").item() <= eps
    return small and (x + r).equal((x + r).clamp(0, 1)) and f(x) == y and f(x + r) != y


def inside(x):
    return bool(x.min() >= 0 and x.max() <= 1)


def within(r, eps):
    return bool(r.abs().max() <= eps)


@wrong("Your function says no")
def never(f, x, y, r, eps):
    return bool(eps < 0)


@wrong("use <=, not <")
def strictly(f, x, y, r, eps):
    return bool(r.abs().max() < eps) and inside(x + r) and f(x) == y and f(x + r) != y


@wrong("do not add the entries up")
def in_l2(f, x, y, r, eps):
    return bool(r.norm() <= eps) and inside(x + r) and f(x) == y and f(x + r) != y


@wrong("Compare the largest entry of |r| with eps")
def no_ball(f, x, y, r, eps):
    return inside(x + r) and f(x) == y and f(x + r) != y


@wrong("Compare the largest entry of |r| with eps")
def only_the_names(f, x, y, r, eps):
    return f(x) == y and f(x + r) != y


@wrong("Take r.abs()")
def without_the_sign(f, x, y, r, eps):
    return bool(r.max() <= eps) and inside(x + r) and f(x) == y and f(x + r) != y


@wrong("so it is no image")
def no_box(f, x, y, r, eps):
    return within(r, eps) and f(x) == y and f(x + r) != y


@wrong("clamps it before it asks")
def clamped(f, x, y, r, eps):
    return within(r, eps) and f(x) == y and f((x + r).clamp(0, 1)) != y


@wrong("Look at both ends")
def one_end(f, x, y, r, eps):
    return within(r, eps) and bool((x + r).max() <= 1) and f(x) == y and f(x + r) != y


@wrong("Ask for f(x + r) != y")
def right_before(f, x, y, r, eps):
    return within(r, eps) and inside(x + r) and f(x) == y


@wrong("not with f(x)")
def another_name(f, x, y, r, eps):
    return within(r, eps) and inside(x + r) and f(x + r) != f(x)


@wrong("r has broken nothing")
def wrong_already(f, x, y, r, eps):
    return within(r, eps) and inside(x + r) and f(x + r) != y


@wrong("Your function says no")
def name_kept(f, x, y, r, eps):
    return within(r, eps) and inside(x + r) and f(x) == y and f(x + r) == y


@wrong("in place")
def writes_into_the_image(f, x, y, r, eps):
    named = f(x)
    x += r
    return within(r, eps) and inside(x) and named == y and f(x) != y


@wrong("return line missing")
def no_return(f, x, y, r, eps):
    only_the_names(f, x, y, r, eps)


@wrong("one image gets one answer")
def entry_by_entry(f, x, y, r, eps):
    return (r.abs() <= eps) & (f(x + r) != y)


@wrong("True or False")
def the_new_name(f, x, y, r, eps):
    return f(x + r)
