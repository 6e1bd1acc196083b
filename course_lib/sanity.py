"""Sanity checks: what must hold if a robust accuracy is to be believed. Taught in lesson 04."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib import runtime
from course_lib.attacks import fgsm, pgd, square
from course_lib.evaluation import Attack, fooled, share
from course_lib.gradients import check_images, input_gradient
from course_lib.norms import WRITTEN, check_ball, lp_norm, project_box, uniform_ball

_MASKED = "masked gradients"
_ADVICE = """\
Masked gradients mislead an attack and protect nobody. Before you believe the robust accuracy, try
another loss (margin), a substitute network, or a search without gradients."""


class Check(NamedTuple):
    """One check: what must hold, whether it does, what was measured, what to suspect if not."""

    name: str
    passed: bool
    measured: str
    suspicion: str

    def __repr__(self) -> str:
        line = f"{'✓' if self.passed else '✗'} {self.name}: {self.measured}"
        return line if self.passed else f"{line} → suspect {self.suspicion}"


class Sanity(tuple[Check, ...]):
    """The checks that were made, in order; prints as a list."""

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self)

    @property
    def suspicions(self) -> list[str]:
        """What the failed checks point to, each once, in order."""
        return list(dict.fromkeys(check.suspicion for check in self if not check.passed))

    def __repr__(self) -> str:
        advice = [_ADVICE] if any(_MASKED in suspicion for suspicion in self.suspicions) else []
        return "\n".join([*map(repr, self), *advice])


def sanity_checks(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "linf",
    attack: Attack | None = None, steps: int | None = 20, substitute: nn.Module | None = None,
    queries: int = 1000, slack: float = 0.03, generator: torch.Generator | None = None,
) -> Sanity:
    """Ask of an attack and a model what must hold if the robust accuracy is to be believed.

    A failed check does not say which of the two is at fault; its suspicion says where to look.

    attack: a callable of (model, x, y, eps=..., norm=..., steps=...); by default `pgd`. steps: None
    for an attack that has none. substitute: another network for the same classes,
    from which attacks are transferred. queries: predictions for Square, the black box, per image
    that `attack` does not fool; Square has no l1 version.
    slack: the share of images by which chance may tip a comparison. Square gets none: an image that
    it fools, and the white box did not, shows that the white box misses something.
    generator: of all random numbers here, by default a fresh one with seed 0.
    Raises: ValueError for bad images, or when the model names none of them correctly.
    Reference: Carlini et al. 2019, section 5; Athalye, Carlini, Wagner 2018, section 3.1.
    Lesson: 04.
    """
    check_images(model, x, y)
    check_ball(eps, norm)
    right = ~fooled(model, x, y)
    if not bool(right.any()):
        raise ValueError("the model names no image correctly: there is nothing to attack")
    x, y = x[right], y[right]
    generator = generator or runtime.generator(0)
    attack = attack or functools.partial(pgd, generator=generator)

    def attacked(radius: float = eps, net: nn.Module = model, n: int | None = steps) -> Tensor:
        return attack(net, x, y, eps=radius, norm=norm, **({"steps": n} if n else {}))

    def broken(x_adv: Tensor) -> Tensor:
        return fooled(model, x_adv, y)

    def compare(name: str, strong: Tensor, weak: Tensor, words: str, suspicion: str) -> Check:
        a, b = share(strong), share(weak)
        return Check(name, a >= b - slack, words.format(a, b), suspicion)

    x_adv = attacked()
    white = broken(x_adv)
    missed = ~white
    still = (attacked(0.0) - x).abs().max().item()
    size = lp_norm(x_adv - x, norm).max().item()
    inside = bool((x_adv >= 0).all() and (x_adv <= 1).all()) and size <= eps * (1 + 1e-4) + 1e-6
    huge = share(broken(attacked(_whole_box(x, norm))))
    flat = share((input_gradient(model, x, y) == 0).flatten(1).all(1))
    noise = uniform_ball(x.shape, eps, norm, generator).to(x)
    random = share(broken(project_box(x + noise, x, eps, norm)))
    black = white.clone()
    if norm != "l1" and bool(missed.any()):
        black[missed] = fooled(model, square(
            model, x[missed], y[missed], eps=eps, norm=norm, queries=queries, generator=generator,
        ), y[missed])
    checks = [
        Check("eps = 0 changes nothing", still <= 1e-6, f"largest change {still:.2g}",
              "an attack that ignores eps"),
        Check("it stays in ball and box", inside,
              f"largest {WRITTEN[norm]} size {size:.4g}, eps {eps:.4g}",
              "a missing projection or clamp"),
        Check("a huge eps fools everything", huge >= 0.99,
              f"{huge:.0%} at eps {_whole_box(x, norm):.4g}", _MASKED),
        Check("gradients are not zero", flat <= slack, f"{flat:.0%} of the images have gradient 0",
              _MASKED),
    ]
    if steps:
        few = max(1, steps // 4)
        checks.append(compare("more steps are not weaker", white, broken(attacked(n=few)),
                              f"{{:.0%}} with {steps} steps, {{:.0%}} with {few}",
                              f"a step size that does not fit, or {_MASKED}"))
    checks += [
        compare("it is not weaker than FGSM", white, broken(fgsm(model, x, y, eps=eps, norm=norm)),
                "attack {:.0%}, FGSM {:.0%}", f"a step size that does not fit, or {_MASKED}"),
        Check("random noise is almost harmless", random <= 0.1, f"{random:.0%} fooled",
              "an eps that destroys the image, or a model that needs no adversary to fail"),
        Check("black box finds nothing that white box missed", bool((black == white).all()),
              f"{share(white):.0%}, with {queries} queries of Square on the rest "
              f"{share(black):.0%}", _MASKED),
    ]
    if substitute is not None:
        checks.append(compare("transfer is not stronger than white box", white,
                              white | broken(attacked(net=substitute)),
                              "{:.0%}, with images from the substitute {:.0%}", _MASKED))
    return Sanity(checks)


def _whole_box(x: Tensor, norm: str) -> float:
    """A radius within which every image of the box can be reached from every other."""
    d = x[0].numel()
    return {"linf": 1.0, "l2": math.sqrt(d), "l1": float(d)}[norm]
