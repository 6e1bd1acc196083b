"""The momentum iterative method, MI-FGSM, and ensembles in logits. Taught in lesson 05."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from course_lib import kernels
from course_lib.gradients import check_images, check_step_size
from course_lib.iterate import Callback, Update, iterate
from course_lib.kernels.launch import fused
from course_lib.kernels.steps import accumulate
from course_lib.losses import Loss, cross_entropy
from course_lib.norms import check_ball, project_box, steepest_step


class Ensemble(nn.Module):
    """Several networks as one, fused in their logits: z(x) = sum_k w_k * z_k(x), w_k = 1/K.

    An attack on it must fool all of them, which leaves less room for what is peculiar to one.

    Shape: [n, ...] -> [n, classes].
    Raises: ValueError without a network.
    Reference: Dong et al. 2018, equation 8.
    Lesson: 05.

    >>> Ensemble(nn.Flatten(), nn.Flatten())(torch.ones(1, 1, 1, 2))
    tensor([[1., 1.]])
    """

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        if not models:
            raise ValueError("an ensemble needs at least one network")
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x) for model in self.models]).mean(0)


def momentum_step(eps: float, norm: str, mu: float) -> Update:
    """The update of Dong et al.: accumulate l1-normalised gradients, then step along their sum."""

    def update(
        x_t: Tensor, gradient: Tensor, x: Tensor, g: Tensor | None, size: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        if fused(x) and norm == "linf":  # the two lines below in one pass over memory
            return kernels.momentum_step(x_t, gradient, x, g, size, eps, mu)
        g = accumulate(gradient, g, mu)
        return project_box(steepest_step(x_t, g, size, norm), x, eps, norm), g

    return update


def mifgsm(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int = 10,
    step_size: float | None = None, mu: float = 1.0, norm: str = "linf",
    target: Tensor | None = None, loss: Loss = cross_entropy, early_stop: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """I-FGSM with a memory of past gradients, which carries it to other networks.

        g_(t+1) = mu * g_t + grad_x L / ||grad_x L||_1
        x_(t+1) = Pi(x_t + alpha * sign(g_(t+1)))        alpha = eps / steps

    With mu = 0 it is I-FGSM.

    Shape, Raises: as `fgsm`; also ValueError for a negative mu.
    Reference: Dong et al. 2018, equations 6 and 7.
    Lesson: 05.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
    >>> bool((mifgsm(model, x, y, eps=0.1) - x).abs().max() <= 0.1 + 1e-6)
    True
    """
    check_ball(eps, norm)
    check_images(model, x, y, target)
    if not mu >= 0:
        raise ValueError(f"mu = {mu}: the decay factor must be >= 0 (the paper uses 1)")
    alpha = eps / max(steps, 1) if step_size is None else step_size
    check_step_size(alpha)
    return iterate(model, x, y, update=momentum_step(eps, norm, mu), sizes=[alpha] * steps,
                  target=target, loss=loss, early_stop=early_stop, callback=callback).x_adv
