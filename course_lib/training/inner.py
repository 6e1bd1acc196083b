"""The inner maximum of adversarial training: the images to train on instead of the clean ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from course_lib.attacks import fgsm
from course_lib.attacks.pgd import SHARE, gradient_step
from course_lib.gradients import frozen, input_gradient
from course_lib.iterate import iterate
from course_lib.norms import project_box, steepest_step, uniform_ball


def start_of(x: Tensor, method: str, generator: Generator, *, eps: float, norm: str) -> Tensor:
    """Where the inner maximisation of each image begins: at x, or at a random point around it."""
    if method in ("standard", "fgsm", "free"):
        return x
    reach = 2 * eps if method == "n-fgsm" else eps
    if method == "trades":  # the gradient of KL(p(x) || p(x')) is zero at x itself: a tiny move
        noise = 0.001 * torch.randn(x.shape, generator=generator)
    else:
        noise = uniform_ball(x.shape, reach, norm, generator)
    return project_box(x + noise.to(x), x, reach, norm)


def inner_maximum(
    model: nn.Module, x: Tensor, start: Tensor, y: Tensor, method: str, *, eps: float, steps: int,
    norm: str,
) -> Tensor:
    """The images to train on instead of x, each within its ball (n-fgsm: near it)."""
    if method == "standard" or not len(x):  # the last batch may leave a process without a share
        return x
    if method == "fgsm":
        return fgsm(model, x, y, eps=eps, norm=norm)
    if method == "pgd":
        return iterate(model, x, y, update=gradient_step(eps, norm, SHARE),
                      sizes=[2.5 * eps / steps] * steps, start=start).x_adv
    if method == "trades":
        return _farthest(model, x, start, eps=eps, steps=steps, norm=norm)
    gradient = input_gradient(model, start, y)
    if method == "n-fgsm":
        return steepest_step(start, gradient, eps, norm).clamp(0, 1)
    return project_box(steepest_step(start, gradient, 1.25 * eps, norm), x, eps, norm)


def _farthest(
    model: nn.Module, x: Tensor, start: Tensor, *, eps: float, steps: int, norm: str
) -> Tensor:
    """PGD on KL(p(x) || p(x'))."""
    x_adv = start
    with frozen(model):
        with torch.no_grad():
            clean = model(x).to(x.dtype)
        for _ in range(steps):
            x_adv.requires_grad_()
            (gradient,) = torch.autograd.grad(kl(clean, model(x_adv).to(x.dtype)).sum(), x_adv)
            step = steepest_step(x_adv.detach(), gradient, 2.5 * eps / steps, norm)
            x_adv = project_box(step, x, eps, norm)
    return x_adv


def kl(clean: Tensor, logits: Tensor) -> Tensor:
    """KL(p || q) of the predictions behind two sets of logits, for each image. [n]"""
    return F.kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="none",
                    log_target=True).sum(1)
