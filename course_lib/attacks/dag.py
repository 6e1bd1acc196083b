"""Dense adversary generation: each pixel of a label map is attacked. Taught in lesson 08."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from course_lib.gradients import check_classes, check_finite, check_images, check_step_size, frozen
from course_lib.iterate import Callback
from course_lib.losses import goal_margin
from course_lib.norms import check_ball, project_box


def dag(
    model: nn.Module, x: Tensor, mask: Tensor, *, eps: float, target: Tensor | None = None,
    steps: int = 40, step_size: float | None = None, callback: Callback | None = None,
) -> Tensor:
    """Move the image so that every pixel changes its name; each step works for those left over.

        T_t     = the pixels still named rightly (with a target map: not yet named as it says)
        g_t     = grad_x of the sum over T_t of (max over k != y of z_k, minus z_y)
        x_(t+1) = Pi(x_t + gamma * g_t / ||g_t||_inf)

    Pi leads back into the l_inf ball of radius eps and into the box. With a target map y_t the sum
    is over (z_target - max over k != target of z_k). gamma is `step_size`, by default 4 eps: most
    entries of g_t are far smaller than the largest, and the ball holds what goes too far. Towards
    a target map smaller steps often get further. Two things differ from the paper: it has no ball,
    and it fixes the wrong class of each pixel beforehand, by a random permutation of the classes;
    here it is the strongest rival at each step.

    Shape: x [n, channels, rows, columns] in [0, 1]; mask, target int64 [n, r, c] and the model's
    logits [n, classes, r, c] -> like x. r and c are the rows and columns of a segmenter; a detector
    has fewer, as each of its places stands for a box. An image's result is its own: each has its T.
    callback(t, x_t) sees every iterate, from t = 0.
    Raises: ValueError for bad images, label maps, logits, eps or steps.
    Reference: Xie, Wang, Zhang, Zhou, Xie, Yuille 2017, algorithm 1.
    Lesson: 08.

    >>> model, mask = nn.Conv2d(3, 4, 1), torch.zeros(1, 8, 8, dtype=torch.int64)
    >>> x = torch.rand(1, 3, 8, 8)
    >>> bool((dag(model, x, mask, eps=0.1) - x).abs().max() <= 0.1 + 1e-6)
    True
    """
    check_ball(eps, "linf")
    step_size = 4 * eps if step_size is None else step_size
    check_step_size(step_size)
    if steps < 1:
        raise ValueError("steps < 1: an attack needs at least one step")
    check_images(model, x, None)
    _check_map("mask", mask, x)
    if target is not None:
        _check_map("target", target, x)
        if target.shape != mask.shape:
            raise ValueError(f"target has the shape {tuple(target.shape)}, the mask "
                             f"{tuple(mask.shape)}: give a target for each label of the mask")
    x = x_t = x.detach()
    with frozen(model):
        for t in range(steps):
            if callback:
                callback(t, x_t)
            gradient, left = dense_gradient(model, x_t, mask, target)
            if not bool(left.any()):
                return x_t
            largest = gradient.abs().amax((1, 2, 3), keepdim=True)
            # Where no pixel is left, nothing moves: 0 / 1.
            step = step_size * gradient / torch.where(largest > 0, largest, 1)
            x_t = project_box(x_t + step, x, eps, "linf")
    if callback:
        callback(steps, x_t)
    return x_t


def dense_gradient(
    model: nn.Module, x: Tensor, mask: Tensor, target: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient of the summed margins of all pixels that are left, and which these are.

    Shape: as `dag` -> gradient like x, left [n, rows, columns] bool.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        _check_dense(logits.detach(), mask, target)
        named = logits.argmax(1)
        left = named == mask if target is None else named != target
        margins = goal_margin(logits, mask, target)
        (gradient,) = torch.autograd.grad((margins * left).sum(), x)
    return gradient, left


def _check_map(name: str, labels: Tensor, x: Tensor) -> None:
    if (not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.dim() != 3
            or len(labels) != len(x)):
        got = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else labels
        raise ValueError(f"{name} must be an int64 tensor [{len(x)}, rows, columns], a label for "
                         f"each pixel or place that the model names, not {got!r}")
    if labels.device != x.device:
        raise ValueError(f"{name} is on {labels.device}, the images on {x.device}: "
                         "move one with .to(device)")


def _check_dense(logits: Tensor, mask: Tensor, target: Tensor | None) -> None:
    if logits.dim() != 4 or logits[:, 0].shape != mask.shape:
        raise ValueError("the model must return logits [batch, classes, rows, columns], one for "
                         f"each class and pixel of the mask {tuple(mask.shape)}, not "
                         f"{tuple(logits.shape)}")
    check_finite(logits.isfinite().all())
    check_classes(logits.shape[1], mask=mask, target=target)
