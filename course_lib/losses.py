"""What an attack climbs, and when it has reached its goal: losses of logits, one number per image.

Taught in lessons 03 (cross-entropy), 04 (margin, DLR) and 06 (log odds).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """L = -log softmax(z)_y for each image, the loss that networks are trained with.

    Shape: logits [n, classes], y [n] -> [n].
    Lesson: 03.

    >>> cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
    tensor([0.6931])
    """
    return F.cross_entropy(logits, y, reduction="none")


def other_logits(logits: Tensor, y: Tensor) -> Tensor:
    """The logits of all classes but y, whose own becomes -inf and so wins no comparison.

    Shape: logits [n, classes, ...], y [n, ...] -> like the logits.

    >>> other_logits(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    tensor([[-inf, 1.]])
    """
    return logits.scatter(1, y[:, None], -torch.inf)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """L = max over k != y of z_k, minus z_y: above zero exactly when the prediction is not y.

    It does not saturate where the cross-entropy's gradient vanishes in float32.

    Shape: logits [n, classes], y [n] -> [n].
    Reference: Carlini and Wagner 2017, f_6 without its floor.
    Lesson: 04.

    >>> margin(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
    tensor([-2.])
    """
    return other_logits(logits, y).amax(1) - logits.gather(1, y[:, None]).squeeze(1)


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """log(p_y / (1 - p_y)) for each image: orders as p_y does, but never saturates.

    In float32, 1 - p is zero for every p above 0.99999994, and a population that sees only zeros
    has nothing to climb.

    Shape: logits [n, classes], y [n] -> [n].
    Lesson: 02, 06.

    >>> log_odds(torch.tensor([[60.0, 0.0]]), torch.tensor([0]))
    tensor([60.])
    """
    return logits.gather(1, y[:, None]).squeeze(1) - other_logits(logits, y).logsumexp(1)


def dlr(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Difference of logits ratio: a margin divided by a spread of logits, so no rescaling hides it.

        untargeted  L = -(z_y - max over k != y of z_k) / (z_(1) - z_(3)),  z_(k) the k-th largest
        targeted    L = -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)

    Both are climbed. A targeted attack with `loss=dlr` climbs the second, see `objective`. With
    three classes there is no z_(4), and z_(3) alone takes the place of the mean.

    Shape: logits [n, classes >= 3], y, target [n] -> [n].
    Raises: ValueError below three classes.
    Reference: Croce and Hein 2020, equation 6 and its targeted form.
    Lesson: 04, 07.

    >>> dlr(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0]))
    tensor([-0.6667])
    >>> dlr(torch.tensor([[4.0, 1.0, 0.0, 0.0]]), torch.tensor([0]), torch.tensor([1]))
    tensor([-0.7500])
    """
    if logits.shape[1] < 3:
        raise ValueError("dlr needs at least three classes: use loss=margin for a two-class model")
    top = logits.topk(3 if target is None else min(4, logits.shape[1]), dim=1).values
    spread = (top[:, 0] - top[:, 2:].mean(1)).clamp_min(1e-12)
    if target is None:
        return margin(logits, y) / spread
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1) / spread


def objective(logits: Tensor, y: Tensor, target: Tensor | None, loss: Loss) -> Tensor:
    """What an attack climbs: the loss of the true label, or minus the loss of the target. [n]

    `dlr` has a targeted form of its own, which looks at both labels.
    """
    if loss is dlr:
        return dlr(logits, y, target)
    return loss(logits, y) if target is None else -loss(logits, target)


def goal_margin(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """How far the logits are beyond the border: above zero where the goal is reached. [n]"""
    return margin(logits, y) if target is None else -margin(logits, target)


def is_adversarial(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Whether each prediction misses its label, or hits its target when there is one. bool [n]"""
    predicted = logits.argmax(1)
    return predicted != y if target is None else predicted == target
