"""The fast gradient sign method: one step along the sign of the gradient. Taught in lesson 03."""

from __future__ import annotations

from torch import Tensor, nn

from course_lib.gradients import input_gradient
from course_lib.norms import check_ball, project_box, steepest_step


def fgsm(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "linf",
    target: Tensor | None = None,
) -> Tensor:
    """One step of size eps in the direction that raises the loss fastest.

        untargeted  x' = x + eps * sign(grad_x L(theta, x, y))
        targeted    x' = x - eps * sign(grad_x L(theta, x, y_t))

    then clamped to [0, 1]. For l2 and l1 the sign gives way to the steepest direction of that
    norm (`course_lib.norms.steepest_step`). On a linear model the step is optimal: as long as the
    box is not in its way, the loss rises by eps times the dual norm of the gradient.

    Shape: x [n, channels, rows, columns] in [0, 1]; y, target [n] int64 -> like x.
    eps: in pixel units, 8/255 means eight grey levels.
    Raises: ValueError for bad images, labels, logits, eps or norm.
    Reference: Goodfellow, Shlens, Szegedy 2015, section 4.
    Lesson: 03.

    >>> import torch; model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
    >>> bool((fgsm(model, x, y, eps=0.1) - x).abs().max() <= 0.1 + 1e-6)
    True
    """
    check_ball(eps, norm)
    gradient = input_gradient(model, x, y, target=target)
    x = x.detach()
    return project_box(steepest_step(x, gradient, eps, norm), x, eps, norm)
