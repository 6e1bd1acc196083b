"""What people answer to the exercise of lesson 00."""

from __future__ import annotations

from course_lib.norms import lp_norm


def _step_by_step(f, x, y, r, eps):
    if f(x) != y or f(x + r) == y:
        return False
    for entry, change in zip((x + r).flatten().tolist(), r.flatten().tolist(), strict=True):
        if not 0 <= entry <= 1 or abs(change) > eps:
            return False
    return True


def _as_a_tensor(f, x, y, r, eps):
    x_adv = x + r
    box = ((x_adv >= 0) & (x_adv <= 1)).all()
    return box & (r.abs() <= eps).all() & (f(x) == y) & (f(x_adv) != y)


def _with_the_library(f, x, y, r, eps):
    small = lp_norm(r[None], "linf").item() <= eps
    return small and (x + r).equal((x + r).clamp(0, 1)) and f(x) == y and f(x + r) != y


def _judged(
    small=lambda r, eps: r.abs().max() <= eps,
    image=lambda x_adv: x_adv.min() >= 0 and x_adv.max() <= 1,
    names=lambda f, x, x_adv, y: f(x) == y and f(x_adv) != y,
):
    """The definition, with one condition exchanged."""
    return lambda f, x, y, r, eps: bool(
        small(r, eps) and image(x + r) and names(f, x, x + r, y))


def _anything(*_):
    return True


def _writes_into_the_image(f, x, y, r, eps):
    named = f(x)
    x += r
    return _judged(names=lambda f, _, x_adv, y: named == y and f(x) != y)(f, x, y, 0 * r, eps)


# What a wrong submission is, and words of the message that must name its mistake.
WRONG = {"0.1": [
    (lambda f, x, y, r, eps: bool(eps < 0), "Your function says no"),
    (_judged(small=lambda r, eps: r.abs().max() < eps), "use <=, not <"),
    (_judged(small=lambda r, eps: r.norm() <= eps), "do not add the entries up"),
    (_judged(small=_anything), "Compare the largest entry of |r| with eps"),
    (_judged(small=_anything, image=_anything), "Compare the largest entry of |r| with eps"),
    (_judged(small=lambda r, eps: r.max() <= eps), "Take r.abs()"),
    (_judged(image=_anything), "so it is no image"),
    (_judged(image=_anything,
             names=lambda f, x, x_adv, y: f(x) == y and f(x_adv.clamp(0, 1)) != y),
     "clamps it before it asks"),
    (_judged(image=lambda x_adv: x_adv.max() <= 1), "Look at both ends"),
    (_judged(names=lambda f, x, x_adv, y: f(x) == y), "Ask for f(x + r) != y"),
    (_judged(names=lambda f, x, x_adv, y: f(x_adv) != f(x)), "not with f(x)"),
    (_judged(names=lambda f, x, x_adv, y: f(x_adv) != y), "r has broken nothing"),
    (_judged(names=lambda f, x, x_adv, y: f(x) == f(x_adv) == y), "Your function says no"),
    (_writes_into_the_image, "in place"),
    (lambda f, x, y, r, eps: None, "return line missing"),
    (lambda f, x, y, r, eps: (r.abs() <= eps) & (f(x + r) != y), "one image gets one answer"),
    (lambda f, x, y, r, eps: f(x + r), "True or False"),
]}
RIGHT = {"0.1": [_step_by_step, _as_a_tensor, _with_the_library, _judged()]}
