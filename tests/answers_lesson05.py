"""What people answer to the exercises of lesson 05, beside the mistakes that the checks declare."""

from __future__ import annotations

import torch

from course_lib.evaluation import predict
from course_lib.exercises.lesson05 import (
    black_box_success,
    counted,
    ensemble_logits,
    fused,
    iterated,
    momentum,
    repaired,
    summed,
    unit,
)
from course_lib.gradients import input_gradient


def _no_clamp(model, x, y, eps):
    g = torch.zeros_like(x)
    for _ in range(10):
        g = g + unit(input_gradient(model, x, y))
        x = x + eps / 10 * g.sign()
    return x


WRONG = {
    "5.1": [
        (summed(lambda d: d / d.abs().sum((1, 2, 3), keepdim=True)), "NaN"),
        (lambda g, gradient, mu: g.copy_(momentum(g, gradient, mu)), "in place"),
        (lambda g, gradient, mu: None, "returns nothing"),
    ],
    "5.2": [
        (lambda models, x: torch.stack([m(x) for m in models]), "are expected"),
        (lambda models, x: ensemble_logits(models, x).detach(), "no gradient flows"),
        (fused(lambda z: z.mean(0) + 1), "fused logits"),
    ],
    "5.3": [
        (lambda *given: "0.6", "one number"),
        (lambda *given: 0.25, "should be 0.6"),
    ],
    "5.4": [
        (iterated(lambda g, d: g + 2 * d.sign()), "before the sum"),
        (iterated(lambda g, d: g + d / d.abs().mean()), "norm over the whole batch"),
        (iterated(lambda g, d: g - unit(d)), "falls"),
        (lambda model, x, y, eps: repaired(model, x, predict(model, x).labels, eps),
         "same whatever label"),
        (iterated(lambda g, d: 0.1 * g + unit(d)), "differ from MI-FGSM"),
        (_no_clamp, "must lie in [0, 1]"),
        (lambda model, x, y, eps: x, "unchanged"),
    ],
}
RIGHT = {
    "5.1": [summed(unit),
            lambda g, d, mu: torch.stack([mu * a + b / (b.abs().sum() + 1e-20)
                                          for a, b in zip(g, d, strict=True)])],
    "5.2": [lambda models, x: sum(m(x) for m in models) / len(models),
            lambda models, x: torch.stack([m(x) for m in models], 2).mean(2)],
    "5.3": [counted(lambda before, after, y: (after != y)[before == y].float().mean()),
            lambda *given: torch.tensor([black_box_success(*given)]),
            lambda m, x, a, y: (1 - (predict(m, a).labels == y)[predict(m, x).labels == y]
                                .double().mean()).item()],
    "5.4": [iterated(lambda g, d: g + unit(d)),
            iterated(lambda g, d: g + d / d.abs().mean((1, 2, 3), keepdim=True)),
            iterated(lambda g, d: g + d / (d.abs().sum((1, 2, 3), keepdim=True) + 1e-20))],
}
