"""The scoreboard: a row per attack, in the course's units. Taught in lessons 04 and 07."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from course_lib import runtime
from course_lib.evaluation import Attack, fooled, inspected, share
from course_lib.gradients import check_images
from course_lib.norms import WRITTEN, lp_norm


@dataclass(frozen=True)
class Row:
    """One attack's line on the scoreboard.

    knowledge: what the attacker has, such as "white box". queries, gradients: images sent through
    the network forwards and backwards, for each attacked image. success: share of the images
    named correctly that are fooled. size: median of their perturbations in `norm`; None for none.
    """

    attack: str
    norm: str
    knowledge: str
    queries: float
    gradients: float
    seconds: float
    success: float
    size: float | None
    images: int


class _Counting(nn.Module):
    """Passes images on to a model and counts them, forwards and backwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.queries, self.gradients = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.queries += len(x)
        out = self.model(x)
        if out.requires_grad:
            out.register_hook(self._count)
        return out

    def _count(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


def measure(
    name: str, attack: Attack, model: nn.Module, x: Tensor, y: Tensor, *, norm: str = "linf",
    knowledge: str = "white box",
) -> Row:
    """Run an attack on the images that the model names correctly, and fill its scoreboard row.

    attack: a callable of (model, x, y). norm: that of `size`, also "l0".
    Raises: as `robust_accuracy`; ValueError when the model names no image correctly.
    Lesson: 04, 07.

    >>> import torch; from functools import partial; from course_lib.attacks import fgsm
    >>> x, y = torch.tensor([[[[0.5, 0.6]]]]), torch.tensor([1])
    >>> row = measure("FGSM", partial(fgsm, eps=0.25), nn.Flatten(), x, y)
    >>> row.queries, row.gradients, row.success, row.size
    (1.0, 1.0, 1.0, 0.25)
    """
    check_images(model, x, y)
    right = ~fooled(model, x, y)
    if not bool(right.any()):
        raise ValueError("the model names no image correctly: there is nothing to attack")
    x, y, counting = x[right], y[right], _Counting(model)
    with runtime.timed() as clock:
        x_adv = attack(counting, x, y)
    inspected(name, x_adv, x)
    broken = fooled(model, x_adv, y)
    sizes = lp_norm(x_adv - x, norm)[broken]
    return Row(name, norm, knowledge, counting.queries / len(x), counting.gradients / len(x),
               clock.seconds, share(broken), sizes.median().item() if len(sizes) else None,
               len(x))


def lines(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Column names and lines of text, for `plots.table(*scoreboard.lines(rows))`.

    >>> lines([Row("FGSM", "linf", "white box", 1, 1, 0.21, 0.93, 0.1, 40)])[1][0]
    ['FGSM', 'l_inf', 'white box', '1', '1', '0.2', '93 %', '0.1']
    """
    columns = ["attack", "norm", "knowledge", "queries per image", "gradients per image", "seconds",
               "success", "median size"]
    return columns, [
        [row.attack, WRITTEN[row.norm], row.knowledge, f"{row.queries:.3g}", f"{row.gradients:.3g}",
         f"{row.seconds:.1f}", f"{100 * row.success:.0f} %",
         "–" if row.size is None else f"{row.size:.3g}"]
        for row in rows
    ]
