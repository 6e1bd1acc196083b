"""Many small steps: I-FGSM, and PGD with its random start and restarts. Taught in lesson 04."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from course_lib import runtime
from course_lib.gradients import check_images, check_step_size
from course_lib.iterate import Callback, Update, iterate
from course_lib.kernels.launch import fused
from course_lib.kernels.steps import l2_step, linf_step
from course_lib.losses import Loss, cross_entropy
from course_lib.norms import check_ball, project_box, steepest_step, uniform_ball

# An l1 step of PGD moves no pixel by more than a quarter of the step or of the pixel's range. The
# best single step would give all to one pixel, but a gradient does not hold that far: of 100
# digits at eps = 8 the greedy step fools 67 with 10 steps and 75 with 40, this one 75 and 81.
SHARE = 0.25


def gradient_step(eps: float, norm: str, share: float = 1.0) -> Update:
    """The update x_(t+1) = Pi(steepest_step(x_t, grad, alpha_t)), Pi onto eps-ball and box."""
    on_gpu = {"linf": linf_step, "l2": l2_step}  # the same in one pass over memory

    def update(
        x_t: Tensor, gradient: Tensor, x: Tensor, state: None, size: float | Tensor
    ) -> tuple[Tensor, None]:
        if fused(x) and norm in on_gpu:
            return on_gpu[norm](x_t, gradient, x, size, eps), state
        return project_box(steepest_step(x_t, gradient, size, norm, share), x, eps, norm), state

    return update


def halving(first: float, steps: int) -> list[float]:
    """Step sizes that start at `first` and are halved after every fifth of the steps.

    >>> halving(0.8, 10)
    [0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05]
    """
    return [first / 2 ** (5 * t // steps) for t in range(steps)]


def ifgsm(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int = 10,
    step_size: float | None = None, norm: str = "linf", target: Tensor | None = None,
    loss: Loss = cross_entropy, early_stop: bool = False, callback: Callback | None = None,
) -> Tensor:
    """FGSM in many small steps, each from where the last one ended.

        x_0 = x,   x_(t+1) = Pi(x_t + alpha * sign(grad_x L(theta, x_t, y)))

    with alpha = eps / steps unless `step_size` says otherwise, the step of Dong et al. Kurakin et
    al. move one grey level per step: step_size=1/255, steps=min(eps + 4, 1.25 eps) with eps in grey
    levels. Towards a target the sign turns.

    Shape, Raises: as `fgsm`. early_stop, callback: see `course_lib.iterate.iterate`.
    Reference: Kurakin, Goodfellow, Bengio 2017, section 2.2; Dong et al. 2018, algorithm 1.
    Lesson: 04.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
    >>> bool((ifgsm(model, x, y, eps=0.1) - x).abs().max() <= 0.1 + 1e-6)
    True
    """
    check_ball(eps, norm)
    check_images(model, x, y, target)
    alpha = eps / max(steps, 1) if step_size is None else step_size
    check_step_size(alpha)
    return iterate(model, x, y, update=gradient_step(eps, norm), sizes=[alpha] * steps,
                  target=target, loss=loss, early_stop=early_stop, callback=callback).x_adv


def pgd(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int = 10,
    step_size: float | None = None, norm: str = "linf", target: Tensor | None = None,
    loss: Loss = cross_entropy, schedule: str = "constant", random_start: bool = True,
    restarts: int = 1, generator: torch.Generator | None = None, early_stop: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """Projected gradient descent: I-FGSM from a random point of the ball, again where it failed.

        x_0 = Pi(x + r), r uniform in the eps-ball,   x_(t+1) = Pi(x_t + alpha * sign(grad_x L))

    with alpha = 2.5 * eps / steps unless `step_size` says otherwise, so that the far side of the
    ball is in reach. schedule="halving": alpha starts at eps, or `step_size`, and is halved after
    every fifth of the steps; the large steps find a hill, the small ones its top. A restart attacks
    only images that no earlier one has fooled.

    Shape, Raises: as `fgsm`. generator: where the starts come from, by default a fresh one with
    seed 0, so that a call repeats exactly.
    Reference: Madry et al. 2018, section 2.1.
    Lesson: 04.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
    >>> x_adv = pgd(model, x, y, eps=0.1)
    >>> bool((x_adv - x).abs().max() <= 0.1 + 1e-6)
    True
    """
    check_ball(eps, norm)
    check_images(model, x, y, target)
    if restarts < 1:
        raise ValueError(f"restarts = {restarts}: an attack starts at least once")
    if restarts > 1 and not random_start:
        raise ValueError("restarts need random_start=True: without it each one repeats the first")
    generator = generator or runtime.generator(0)
    if schedule not in ("constant", "halving"):
        raise ValueError(f"unknown schedule {schedule!r}: use \"constant\" or \"halving\"")
    first = eps if schedule == "halving" else 2.5 * eps / max(steps, 1)
    first = first if step_size is None else step_size
    check_step_size(first)
    sizes = halving(first, steps) if schedule == "halving" else [first] * steps
    x = x_adv = x.detach()
    left = torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        start = x
        if random_start:
            # Drawn for the whole batch, however few are left: an image's noise is its own.
            noise = uniform_ball(x.shape, eps, norm, generator).to(x)
            start = project_box(x + noise, x, eps, norm)
        result = iterate(
            model, x[left], y[left], update=gradient_step(eps, norm, SHARE), sizes=sizes,
            start=start[left], target=None if target is None else target[left], loss=loss,
            early_stop=early_stop, callback=callback,
        )
        x_adv = x_adv.index_copy(0, left, result.x_adv)
        left = left[~result.fooled]
        if not len(left):
            break
    return x_adv
