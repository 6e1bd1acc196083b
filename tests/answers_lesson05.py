"""What people answer to the exercises of lesson 05."""

from __future__ import annotations

import torch

from course_lib.evaluation import predict
from course_lib.gradients import input_gradient
from course_lib.norms import lp_norm


def _momentum(divide, mix=lambda g, unit, mu: mu * g + unit):
    return lambda g, gradient, mu: mix(g, divide(gradient), mu)


def _l1(gradient):
    return gradient / lp_norm(gradient, 1)[:, None, None, None].clamp_min(1e-12)


def _iterate(accumulate):
    def fn(model, x, y, eps):
        x_adv, g = x.clone(), torch.zeros_like(x)
        for _ in range(10):
            g = accumulate(g, input_gradient(model, x_adv, y))
            x_adv = x_adv + eps / 10 * g.sign()
            x_adv = torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
        return x_adv
    return fn


def _share(keep, wrong):
    def fn(model, x, x_adv, y):
        before, after = predict(model, x).labels, predict(model, x_adv).labels
        return wrong(before, after, y)[keep(before, y)].float().mean().item()
    return fn


def _every(before, y):
    return torch.ones_like(y, dtype=torch.bool)


_RIGHT_BEFORE = _share(lambda b, y: b == y, lambda b, a, y: a != y)
_STEP = _iterate(lambda g, d: g + _l1(d))


def _in_place(g, gradient, mu):
    g.mul_(mu).add_(_l1(gradient))
    return g


def _probabilities(models, x):
    return sum(m(x).softmax(1) for m in models) / len(models)


def _away_from_the_prediction(model, x, y, eps):
    return _STEP(model, x, predict(model, x).labels, eps)


def _no_clamp(model, x, y, eps):
    g = torch.zeros_like(x)
    for _ in range(10):
        g = g + _l1(input_gradient(model, x, y))
        x = x + eps / 10 * g.sign()
    return x


WRONG = {
    "5.1": [
        (_momentum(torch.sign), "sign is taken before"),
        (_momentum(lambda d: d), "not divided by its l_1 norm"),
        (_momentum(lambda d: d / lp_norm(d, 2)[:, None, None, None]), "l_2 norm"),
        (_momentum(lambda d: d / d.abs().mean((1, 2, 3), keepdim=True)), "mean of its absolute"),
        (_momentum(lambda d: d / d.abs().sum()), "whole batch"),
        (_momentum(_l1, lambda g, u, mu: g + mu * u), "memory g that fades"),
        (_momentum(_l1, lambda g, u, mu: g + u), "mu is not used"),
        (_momentum(_l1, lambda g, u, mu: u), "nothing is remembered"),
        (_momentum(lambda d: d / d.abs().sum((1, 2, 3), keepdim=True)), "NaN"),
        (_in_place, "in place"),
        (lambda g, gradient, mu: None, "returns nothing"),
    ],
    "5.2": [
        (lambda models, x: models[1](x), "last network"),
        (lambda models, x: sum(m(x) for m in models), "added, not averaged"),
        (_probabilities, "probabilities are averaged"),
        (lambda models, x: sum(m(x).log_softmax(1) for m in models) / 2, "logarithms"),
        (lambda models, x: torch.stack([m(x) for m in models]).amax(0), "largest logit"),
        (lambda models, x: torch.stack([m(x) for m in models]), "are expected"),
        (lambda models, x: sum(m(x).detach() for m in models) / 2, "no gradient flows"),
        (lambda models, x: sum(m(x) for m in models) / 2 + 1, "fused logits"),
    ],
    "5.3": [
        (_share(_every, lambda b, a, y: a != y), "before any attack"),
        (_share(_every, lambda b, a, y: (b == y) & (a != y)), "number of all images"),
        (_share(_every, lambda b, a, y: a != b), "changed predictions"),
        (_share(lambda b, y: b == y, lambda b, a, y: a == y), "accuracy under attack"),
        (lambda *a: 100 * _RIGHT_BEFORE(*a), "percent"),
        (lambda *a: 5 * _RIGHT_BEFORE(*a), "count"),
        (lambda *a: "0.6", "one number"),
        (lambda *a: 0.25, "should be 0.6"),
    ],
    "5.4": [
        (_iterate(lambda g, d: _l1(d)), "this is I-FGSM"),
        (_iterate(lambda g, d: g + 2 * d.sign()), "before the sum"),
        (_iterate(lambda g, d: g + d), "added undivided"),
        (_iterate(lambda g, d: g + d / d.abs().sum()), "norm over the whole batch"),
        (_iterate(lambda g, d: g + d / d.abs().mean()), "norm over the whole batch"),
        (_iterate(lambda g, d: g - _l1(d)), "falls"),
        (_away_from_the_prediction, "same whatever label"),
        (_iterate(lambda g, d: 0.1 * g + _l1(d)), "differ from MI-FGSM"),
        (_no_clamp, "must lie in [0, 1]"),
        (lambda model, x, y, eps: x, "unchanged"),
    ],
}
RIGHT = {
    "5.1": [_momentum(_l1),
            lambda g, d, mu: torch.stack([mu * a + b / (b.abs().sum() + 1e-20)
                                          for a, b in zip(g, d, strict=True)])],
    "5.2": [lambda models, x: sum(m(x) for m in models) / len(models),
            lambda models, x: torch.stack([m(x) for m in models], 2).mean(2)],
    "5.3": [_RIGHT_BEFORE,
            lambda m, x, a, y: (1 - (predict(m, a).labels == y)[predict(m, x).labels == y]
                                .double().mean()).item()],
    "5.4": [_STEP, _iterate(lambda g, d: g + d / d.abs().mean((1, 2, 3), keepdim=True)),
            _iterate(lambda g, d: g + d / (d.abs().sum((1, 2, 3), keepdim=True) + 1e-20))],
}
