"""Five changes of a photograph that have the same length. Taught in lesson 01."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import runtime
from course_lib.attacks import ifgsm
from course_lib.norms import lp_norm


def five_changes(model: nn.Module, x: Tensor, y: Tensor, length: float = 6.0) -> Tensor:
    """A spot, brighter, noise, softer, and a change computed with the model, in this order.

    Shape: x [1, channels, rows, columns] in [0, 1]; y [1] -> [5, channels, rows, columns].
    Raises: ValueError as `ifgsm`.
    Lesson: 01.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 2))
    >>> x = torch.rand(1, 3, 224, 224)
    >>> lp_norm(five_changes(model, x, torch.tensor([0])) - x, 2)
    tensor([6.0000, 6.0000, 6.0000, 6.0000, 6.0000])
    """
    spot = x.clone()
    spot[..., 30:39, 150:159] = 1 - spot[..., 30:39, 150:159].round()
    noise = torch.randn(x.shape, generator=runtime.generator(1)).to(x)
    soft = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    computed = ifgsm(model, x, y, eps=4 / 255, steps=3, step_size=2 / 255)
    return _at_length(x, torch.cat([spot, x + 0.02, x + noise, soft, computed]), length)


def _at_length(x: Tensor, x_new: Tensor, length: float) -> Tensor:
    """Scale each change to the l_2 norm `length`, inside the box [0, 1]."""
    for _ in range(20):  # clamping shortens a change: scale and clamp in turn
        factor = length / lp_norm(x_new - x, 2)
        x_new = (x + factor.view(-1, 1, 1, 1) * (x_new - x)).clamp(0, 1)
    return x_new
