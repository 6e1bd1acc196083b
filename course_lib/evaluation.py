"""The judge: every claim that an image fools a network is decided here, in float32.

Taught in lesson 04. An attack is any function of (model, x, y) that returns images; attacks of
the library become one with `functools.partial(pgd, eps=0.1)`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from course_lib import runtime
from course_lib.attacks import apgd, apgd_targeted, fgsm, pgd, square
from course_lib.gradients import check_finite, check_images, forward, frozen
from course_lib.norms import WRITTEN, check_ball, lp_norm

Attack = Callable[..., Tensor]


class Prediction(NamedTuple):
    """Predicted classes [n] and the probabilities the model gives them [n]."""

    labels: Tensor
    confidence: Tensor


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Logits [n, classes] of images [n, channels, rows, columns], in float32, in parts.

    Whatever surrounds the call: no autocast, and none of the shorter numbers that GPUs multiply
    in when they may (TF32).
    Raises: ValueError for a logit that is NaN or infinite: its largest class means nothing.
    """
    with frozen(model), _full_precision(x.device):
        found = forward(model, x).float()
    check_finite(found.isfinite())
    return found


@contextmanager
def _full_precision(where: torch.device) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = False
        with torch.autocast(where.type, enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def predict(model: nn.Module, x: Tensor) -> Prediction:
    """The class the model names for each image, and its confidence (the softmax probability).

    Lesson: 03.

    >>> predict(nn.Flatten(), torch.tensor([[[[0.0, 9.0]]]])).labels
    tensor([1])
    """
    confidence, labels = logits(model, x).softmax(1).max(1)
    return Prediction(labels, confidence)


def fooled(model: nn.Module, x_adv: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Whether each image misses its label, or hits its target when there is one. bool [n]"""
    labels = predict(model, x_adv).labels
    return labels != y if target is None else labels == target


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images whose predicted class is their label, from 0 to 1.

    >>> accuracy(nn.Flatten(), torch.tensor([[[[0.0, 9.0]]]]), torch.tensor([1]))
    1.0
    """
    return share(~fooled(model, x, y))


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The interval in which the true rate lies behind `hits` of n; z = 1.96 for 95 %.

        (p + z^2/2n -+ z sqrt(p(1 - p)/n + z^2/4n^2)) / (1 + z^2/n),  p = hits / n

    Unlike p -+ z sqrt(p(1 - p)/n) it is right for few images and at 0 and 1, too.

    Raises: ValueError unless 0 <= hits <= n and n > 0.
    Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    Lesson: 06, 07.

    >>> [round(end, 2) for end in wilson(29, 100)]
    [0.21, 0.39]
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} of {n} is no rate")
    p, middle = hits / n, z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((p + middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def _batch(x: Tensor) -> int:
    """How many images to attack at once: 256 digits, 55 photographs of 224 x 224."""
    return max(1, min(256, 2**23 // max(1, x[:1].numel())))


# --- robust accuracy ----------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Report:
    """What `robust_accuracy` found. All accuracies are shares, from 0 to 1.

    clean: accuracy without an attack. robust: with the worst attack for each image.
    robust_8bit: the same, of adversarial images that can be saved: 256 levels, in the ball.
    per_attack: the accuracy that is left after each attack, in turn. fooled: which images are
    misclassified, bool [n]. size: the largest l_inf perturbation that was judged.
    """

    clean: float
    robust: float
    robust_8bit: float
    per_attack: dict[str, float]
    fooled: Tensor
    size: float

    def __repr__(self) -> str:
        wide = max(len("clean"), *(len(name) + 6 for name in self.per_attack))
        lines = [f"{'clean':{wide}}  {self.clean:6.1%}"]
        lines += [f"{'after ' + name:{wide}}  {left:6.1%}"
                  for name, left in self.per_attack.items()]
        lines.append(f"robust accuracy {self.robust:.1%} on {len(self.fooled)} images; saved with "
                     f"8 bits {self.robust_8bit:.1%}; largest l_inf perturbation {self.size:.4g}")
        return "\n".join(lines)


def robust_accuracy(
    model: nn.Module, x: Tensor, y: Tensor,
    attacks: Sequence[Attack] | Mapping[str, Attack] | str, *,
    eps: float | None = None, norm: str = "linf", batch_size: int | None = None,
) -> Report:
    """The share of images that no attack fools: the worst case for each image.

        robust = mean over images of min over attacks of [f(attack(x)) = y]

    An image that is wrong from the start counts as fooled; each attack sees only the images that
    are still standing, as they are or when saved with 8 bits. Whatever the attack believes, the
    verdict is a fresh float32 prediction of the images it returned, which must lie in [0, 1] and,
    where eps is given, in the ball.

    Shape: x [n, channels, rows, columns]; y [n]. attacks: callables of (model, x, y), or names
    and callables, or "strong" for `strong_attacks(eps, norm)`; early_stop=True saves an attack of
    the library time and changes no verdict. batch_size: images attacked at once, by default as
    many as memory allows.
    Raises: ValueError for bad images, no attacks, "strong" without eps, or an attack that returns
    images of another shape, with NaN, outside [0, 1] or outside the ball.
    Reference: Croce and Hein 2020, section 5, for the worst case over attacks.
    Lesson: 04, 07.

    >>> model, x = nn.Flatten(), torch.tensor([[[[0.2, 0.9]]], [[[0.5, 0.6]]]])
    >>> swap = lambda model, x, y: (x + torch.tensor([0.1, -0.1])).clamp(0, 1)
    >>> robust_accuracy(model, x, torch.tensor([1, 1]), {"swap": swap}).robust
    0.5
    """
    check_images(model, x, y)
    if eps is not None:
        check_ball(eps, norm)
    if not attacks:
        raise ValueError("no attacks: give a list of callables of (model, x, y)")
    if isinstance(attacks, str):
        if attacks != "strong" or eps is None:
            raise ValueError(f"attacks={attacks!r}, eps={eps}: write attacks=\"strong\", eps=8/255")
        attacks = strong_attacks(eps, norm)
    named = attacks if isinstance(attacks, Mapping) else _named(attacks)
    clean = fooled(model, x, y)
    beaten, saved = clean.clone(), clean.clone()
    size, left = 0.0, {}
    for name, attack in named.items():
        # What is beaten, but not once it is saved, goes on to the next attack.
        parts = _parts(~(beaten & saved), batch_size or _batch(x))
        for part in runtime.progress(parts, name, total=len(parts)):
            x_adv = attack(model, x[part], y[part])
            size = max(size, inspected(name, x_adv, x[part], eps, norm))
            beaten[part] |= fooled(model, x_adv, y[part])
            saved[part] |= fooled(model, _saved(x_adv, x[part], eps, norm), y[part])
        left[name] = share(~beaten)
    return Report(share(~clean), share(~beaten), share(~saved), left, beaten, size)


def strong_attacks(
    eps: float, norm: str = "linf", *, steps: int = 100, targeted_steps: int = 50,
    targets: int = 9, restarts: int = 5, queries: int = 1000,
) -> dict[str, Attack]:
    """Four attacks that differ in loss, step size and knowledge, the most effective one first.

    APGD on the cross-entropy; APGD on the targeted DLR towards the most likely wrong classes; PGD
    with a falling step from several starts; Square, which asks for scores only. AutoAttack's
    budgets are targeted_steps=100, queries=5000.

    Reference: Croce and Hein 2020, section 5; they have FAB where PGD stands here.
    Lesson: 04, 07.

    >>> list(strong_attacks(8 / 255))
    ['APGD-CE', 'APGD-T', 'PGD', 'Square']
    """
    ball: dict[str, Any] = {"eps": eps, "norm": norm}
    return {
        "APGD-CE": functools.partial(apgd, steps=steps, **ball),
        "APGD-T": functools.partial(apgd_targeted, steps=targeted_steps, targets=targets, **ball),
        "PGD": functools.partial(pgd, steps=50, restarts=restarts, schedule="halving",
                                 early_stop=True, **ball),
        "Square": functools.partial(square, queries=queries, **ball),
    }


def eight_bits(x: Tensor, towards: Tensor | None = None) -> Tensor:
    """Images as they come back from a PNG file: with the 256 levels k/255, the nearest ones.

    towards: the clean images; each entry then takes the next level on their side, so that an
    image that was in a ball around them stays there.

    >>> eight_bits(torch.tensor([0.5001])), eight_bits(torch.tensor([0.1]), torch.tensor([0.0]))
    (tensor([0.5020]), tensor([0.0980]))
    """
    levels = x * 255
    if towards is None:
        return levels.round() / 255
    near = levels.round()
    inner = torch.where(x > towards, levels.floor(), levels.ceil())
    # What is a level already, to rounding, stays one.
    return torch.where((levels - near).abs() < 1e-3, near, inner) / 255


def _saved(x_adv: Tensor, x: Tensor, eps: float | None, norm: str) -> Tensor:
    """Images as a PNG file can hold them without leaving the ball, where one is known."""
    nearest = eight_bits(x_adv)
    if eps is None:
        return nearest
    outside = lp_norm(nearest - x, norm) > eps * (1 + 1e-4) + 1e-6
    return torch.where(outside.view(-1, 1, 1, 1), eight_bits(x_adv, x), nearest)


def _parts(mask: Tensor, size: int) -> Sequence[Tensor]:
    """The indices where a mask holds, `size` at a time."""
    (where,) = torch.nonzero(mask, as_tuple=True)
    return where.split(size) if len(where) else ()  # an empty tensor splits into one empty part


def share(mask: Tensor) -> float:
    return mask.double().mean().item()


def _named(attacks: Sequence[Attack]) -> dict[str, Attack]:
    named: dict[str, Attack] = {}
    for attack in attacks:
        function = attack.func if isinstance(attack, functools.partial) else attack
        name = getattr(function, "__name__", type(function).__name__)
        same = sum(known.split(" (")[0] == name for known in named)
        named[f"{name} ({same + 1})" if same else name] = attack
    return named


def inspected(
    name: str, x_adv: Tensor, x: Tensor, eps: float | None = None, norm: str = "linf"
) -> float:
    """Refuse what is no image or too far away; else the largest l_inf perturbation."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        got = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise ValueError(f"{name} returned {got}: expected images of shape {tuple(x.shape)}")
    low, high = torch.aminmax(x_adv)
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise ValueError(f"{name} returned values from {low:.4g} to {high:.4g}: an image lies in "
                         "[0, 1]; clamp it")
    delta = x_adv - x
    size = lp_norm(delta, norm).max().item()
    if eps is not None and size > eps * (1 + 1e-4) + 1e-6:
        raise ValueError(f"{name} left the ball: {WRITTEN[norm]} size {size:.4g} for "
                         f"eps = {eps:.4g}")
    return lp_norm(delta, "linf").max().item()


def accuracy_curve(
    model: nn.Module, x: Tensor, y: Tensor, levels: Sequence[float], attack: Attack = fgsm, *,
    norm: str = "linf",
) -> list[float]:
    """Accuracy, from 0 to 1, under `attack` at each radius of a list; radius 0 is no attack.

    attack: a callable of (model, x, y, eps=..., norm=...), such as `fgsm` or `pgd`.
    Raises: as `robust_accuracy`.
    Lesson: 04.

    >>> x, y = torch.tensor([[[[0.5, 0.7]]]]), torch.tensor([1])
    >>> accuracy_curve(nn.Flatten(), x, y, [0, 0.05, 0.2])
    [1.0, 1.0, 0.0]
    """
    def at(eps: float) -> float:
        named = {f"the attack at eps = {eps:g}": functools.partial(attack, eps=eps, norm=norm)}
        return robust_accuracy(model, x, y, named, eps=eps, norm=norm).robust

    return [at(eps) for eps in levels]


# --- transfer -----------------------------------------------------------------------------------


class Transfer(NamedTuple):
    """Success in % [sources, targets], the names of both, and the number of images."""

    success: Tensor
    sources: list[str]
    targets: list[str]
    images: int


def transfer_matrix(
    sources: Mapping[str, nn.Module], targets: Mapping[str, nn.Module], x: Tensor, y: Tensor, *,
    attack: Attack,
) -> Transfer:
    """How often what fools one network fools another: attack each source once, ask every target.

    Counted over the images that all the networks name correctly. Stopping early would leave the
    images just across the source's border, so no attack is told to.

    Shape: x [n, channels, rows, columns]; y [n]. attack: a callable of (model, x, y).
    Raises: ValueError when no image is named correctly by all; else as `robust_accuracy`.
    Reference: Dong et al. 2018, table 1.
    Lesson: 05.

    >>> x, y, net = torch.tensor([[[[0.5, 0.6]]]]), torch.tensor([1]), nn.Flatten()
    >>> attack = functools.partial(fgsm, eps=0.2)
    >>> transfer_matrix({"a": net}, {"b": net}, x, y, attack=attack).success
    tensor([[100.]])
    """
    right = torch.ones_like(y, dtype=torch.bool)
    for model in {**sources, **targets}.values():
        check_images(model, x, y)
        right &= ~fooled(model, x, y)
    if not bool(right.any()):
        raise ValueError("no image is named correctly by all the networks: give more images")
    x, y = x[right], y[right]
    rows = []
    for name, source in sources.items():
        x_adv = torch.cat([attack(source, *part) for part in
                           zip(x.split(_batch(x)), y.split(_batch(x)), strict=True)])
        inspected(f"the attack on {name}", x_adv, x)
        rows.append([100 * share(fooled(target, x_adv, y)) for target in targets.values()])
    return Transfer(torch.tensor(rows), [*sources], [*targets], len(x))
