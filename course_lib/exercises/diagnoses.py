"""The mistakes that many exercises share, each as a small test that names the mistake or is None.

Chain them with `or`: the first finding wins, and later tests may rely on the earlier ones.

    def diagnose(fn):
        p = problem()
        x_adv, finding = run(fn, p.model, p.x, p.y, 0.1)
        return (finding or image_like(x_adv, p.x) or finite(x_adv) or moved(x_adv, p.x)
                or in_ball(x_adv, p.x, 0.1) or in_box(x_adv) or climbs(p.model, p.x, x_adv, p.y))
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.norms import lp_norm

Finding = str | None


@dataclass(frozen=True)
class Problem:
    """A small classifier with images, labels and target classes on which attacks are checked."""

    model: nn.Sequential
    x: Tensor
    y: Tensor
    target: Tensor


def problem(images: int = 5, classes: int = 4, channels: int = 3, size: int = 6) -> Problem:
    """A fixed small problem, the same at every call.

    It is built to bring mistakes to light: batch norm and dropout, pixels that are exactly 0 and
    1, labels of which some are not what the model predicts, and another number of images than of
    colours, rows or columns, so that no shape fits by chance.
    """
    draw = torch.Generator().manual_seed(7)
    x = (1.6 * torch.rand(images, channels, size, size, generator=draw) - 0.3).clamp(0, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        first, norm = nn.Linear(channels * size**2, 24), nn.BatchNorm1d(24)
        model = nn.Sequential(nn.Flatten(), first, norm, nn.Tanh(), nn.Dropout(0.5),
                              nn.Linear(24, classes)).eval()
    with torch.no_grad():
        norm.running_mean = first(x.flatten(1)).mean(0)
        y = model(x).argmax(1)
    y[1::2] = (y[1::2] + 1) % classes
    return Problem(model, x, y, (y + 1) % classes)


class Watching(nn.Module):
    """Passes images on to a model and remembers them, batch by batch, in `seen`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.model(x)


def run(
    fn: Callable[..., Any], *args: object, may_change: Collection[str] = (), **kwargs: object
) -> tuple[Any, Finding]:
    """Call a student's function on copies, and say what it changed that was not its own.

    Looks at every tensor and model among the arguments: values and requires_grad of tensors;
    parameters, gradients, buffers and modes of models. `may_change` names arguments that the
    function is meant to change (a model to be trained).
    """
    bound = _bind(fn, args, kwargs)
    copies = [_copy(value) for value in args], {k: _copy(value) for k, value in kwargs.items()}
    result = fn(*copies[0], **copies[1])
    after = _bind(fn, copies[0], copies[1])
    for name, value in bound.items():
        if name not in may_change and (finding := _changed(name, value, after[name])):
            return result, finding
    return result, None


def _bind(fn: Callable, args: Collection[object], kwargs: dict[str, object]) -> dict[str, object]:
    try:
        return dict(inspect.signature(fn).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):  # wrong arguments: the call itself will say so
        return {f"argument {i + 1}": value for i, value in enumerate(args)} | kwargs


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return copy.deepcopy(value) if isinstance(value, nn.Module) else value


def _changed(name: str, before: object, after: Any) -> Finding:
    if isinstance(before, Tensor):
        return _tensor_changed(name, before, after)
    return _model_changed(before, after) if isinstance(before, nn.Module) else None


def _tensor_changed(name: str, before: Tensor, after: Tensor) -> Finding:
    if after.shape != before.shape or not torch.equal(after.detach(), before):
        return (f"your function changes {name} in place, so a second run would start from the "
                f"result of the first. Build a new tensor, for instance from {name}.clone().")
    if after.requires_grad != before.requires_grad:
        return (f"your function switches requires_grad on for the caller's own {name}. "
                f"Track gradients on a copy: {name}.clone().requires_grad_().")
    return None


def _model_changed(before: nn.Module, after: nn.Module) -> Finding:
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    grads = [p.grad.abs().max().item() for k, p in new.items()
             if p.grad is not None and old[k].grad is None]
    if grads:
        return (f"gradients are left on the model's parameters (the largest is {max(grads):.2g}), "
                "where they would add to the next ones. torch.autograd.grad(loss, x) gives the "
                "image's gradient alone.")
    if any(not torch.equal(p, old[k]) for k, p in new.items()):
        return "the model's weights have changed: an attack moves the image, never the weights."
    if any(p.requires_grad != old[k].requires_grad for k, p in new.items()):
        return "the model's parameters come back with another requires_grad. Leave them as found."
    if [m.training for m in before.modules()] != [m.training for m in after.modules()]:
        return ("the model comes back in another mode (train instead of eval, or the reverse). "
                "Dropout and batch norm behave differently there: restore the mode.")
    if any(not torch.equal(a, b) for a, b in zip(before.buffers(), after.buffers(), strict=True)):
        return ("batch-norm statistics moved while your function ran: the model was in train "
                "mode. An attack needs eval mode.")
    return None


def image_like(value: object, x: Tensor, what: str = "image") -> Finding:
    """Not a tensor, another shape, dtype or device, or still tied to a gradient graph."""
    if value is None:
        return "your function returns nothing. Is the return line missing?"
    if not isinstance(value, Tensor):
        return f"your function returns a {type(value).__name__}; a tensor is expected."
    if value.shape != x.shape:
        return (f"your {what} has shape {tuple(value.shape)}, expected {tuple(x.shape)}, "
                "one result for each image of the batch.")
    if value.dtype != x.dtype:
        return f"your {what} has dtype {value.dtype}, expected {x.dtype}."
    if value.device != x.device:
        return f"your {what} is on {value.device}, the input was on {x.device}."
    if value.requires_grad:
        return f"your {what} still carries its gradient graph: return it with .detach()."
    return None


def finite(value: Tensor, what: str = "image") -> Finding:
    """NaN or infinite entries."""
    bad = int((~value.isfinite()).sum())
    if not bad:
        return None
    return (f"your {what} has NaN or infinite entries ({bad} of {value.numel()}). "
            "Was something divided by zero, such as a gradient by its norm?")


def moved(x_adv: Tensor, x: Tensor) -> Finding:
    """The input comes back unchanged: an attack that does nothing passes many other tests."""
    still = int((x_adv == x).flatten(1).all(1).sum())
    if still == len(x):
        return "your function returns the images unchanged: nothing was attacked."
    if still:
        return f"{still} of {len(x)} images come back unchanged: every image should move."
    return None


def in_box(x_adv: Tensor) -> Finding:
    """No clamp to [0, 1]."""
    low, high = x_adv.min().item(), x_adv.max().item()
    if low >= 0 and high <= 1:
        return None
    worst = f"smallest value {low:.3g}" if low < 0 else f"largest value {high:.3g}"
    return f"your image leaves [0, 1]: {worst}. Clamp to the box after the step."


_SIGN = {"linf": "l_inf", "l2": "l_2", "l1": "l_1", "l0": "l_0"}


def in_ball(
    x_adv: Tensor, x: Tensor, eps: float, norm: str = "linf",
    idea: str = "Stay inside the ball of radius eps around x.",
) -> Finding:
    """A perturbation larger than eps; `idea` points the way."""
    size = lp_norm(x_adv - x, norm).max().item()
    if size <= eps * (1 + 1e-4) + 1e-6:
        return None
    return (f"your perturbation is too large: its {_SIGN[norm]} norm is {size:.3g}, "
            f"eps is {eps:.3g}. {idea}")


def uses_budget(x_adv: Tensor, x: Tensor, eps: float, norm: str = "linf") -> Finding:
    """A perturbation that stays far below eps, where the box would leave room for more."""
    size = lp_norm(x_adv - x, norm).min().item()
    if size >= 0.9 * eps:
        return None
    return (f"your perturbation is smaller than allowed: its {_SIGN[norm]} norm is {size:.3g}, "
            f"eps is {eps:.3g}. Use the whole budget.")


def climbs(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Finding:
    """Sign wrong, untargeted: the loss of the true label must rise."""
    before, after = _losses(model, x, x_adv, y)
    if after > before:
        return None
    return (f"the loss of the true label falls from {before:.3g} to {after:.3g}. An untargeted "
            "attack climbs: check the sign of your step.")


def descends(model: nn.Module, x: Tensor, x_adv: Tensor, target: Tensor) -> Finding:
    """Sign wrong, targeted: the loss towards the target must fall."""
    before, after = _losses(model, x, x_adv, target)
    if after < before:
        return None
    return (f"the loss towards the target rises from {before:.3g} to {after:.3g}. A targeted "
            "attack goes downhill: check the sign of your step, and whose label the loss uses.")


def _losses(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> tuple[float, float]:
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item(), F.cross_entropy(model(x_adv), y).item()


def per_image(call: Callable[..., Tensor], *batch: Tensor, what: str = "result") -> Finding:
    """Per batch instead of per image: one image alone must get what it gets in company.

    `call` takes the tensors in `batch`, whose first dimension counts images.
    """
    together = call(*(t.clone() for t in batch))
    for i in range(len(batch[0])):
        alone = call(*(t[i:i + 1].clone() for t in batch))
        if alone.shape[0] != 1 or not torch.allclose(alone[0], together[i], atol=1e-5, rtol=1e-4):
            return (f"the {what} for one image depends on the other images of its batch. Work per "
                    "image: no mean, norm or maximum over the first dimension.")
    return None


def repeatable(call: Callable[[], Tensor]) -> Finding:
    """The same call must give the same result twice."""
    if torch.equal(call(), call()):
        return None
    return ("two equal calls give two results. Is there randomness that is not drawn from the "
            "generator, or something kept between calls?")


def uses_label(call: Callable[[Tensor], Tensor], y: Tensor, other: Tensor) -> Finding:
    """Label taken from the prediction: another label must give another result."""
    if not torch.equal(call(y.clone()), call(other.clone())):
        return None
    return ("your result is the same whatever label is given. Use the label that is passed in, "
            "not the model's own prediction.")


def close(
    value: object, expected: object, what: str, idea: str = "", *, atol: float = 1e-5,
    rtol: float = 1e-4,
) -> Finding:
    """A number or tensor that differs from the expected one; shows the entry that is furthest off.

    `what` names the quantity in a sentence ("the l_2 norm of [3, 4]"), `idea` points the way.
    """
    if not isinstance(value, (int, float, Tensor)):
        return f"{what} should be a number or a tensor, yours is a {type(value).__name__}. {idea}"
    got = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    want = torch.as_tensor(expected, dtype=torch.float64).detach().cpu()
    if got.shape != want.shape:
        return (f"{what} should have shape {tuple(want.shape)}, yours has "
                f"{tuple(got.shape)}. {idea}")
    if torch.allclose(got, want, atol=atol, rtol=rtol):
        return None
    gap = torch.nan_to_num((got - want).abs(), nan=torch.inf).flatten()
    worst = int(gap.argmax())
    index = [int(i) for i in torch.unravel_index(torch.tensor(worst), want.shape)]
    place = f" at index {index}" if want.dim() else ""
    return (f"{what}{place} should be {want.flatten()[worst]:.4g}, yours is "
            f"{got.flatten()[worst]:.4g}. {idea}")


def attack(
    call: Callable[..., Any], *, eps: float, norm: str = "linf", targeted: bool = False,
    full_budget: bool = False,
) -> Finding:
    """All the common mistakes of a gradient attack, on the small problem.

    `call(model, x, labels)` runs the student's function with its eps; labels are the targets of a
    targeted attack. `full_budget`: the attack is one step that should use eps to the full.
    """
    p = problem()
    labels = p.target if targeted else p.y
    x_adv, finding = run(call, p.model, p.x, labels)
    if finding or (finding := image_like(x_adv, p.x) or finite(x_adv) or moved(x_adv, p.x)):
        return finding
    slope = descends if targeted else climbs
    return (
        slope(p.model, p.x, x_adv, labels)
        or in_ball(x_adv, p.x, eps, norm)
        or in_box(x_adv)
        or (uses_budget(x_adv, p.x, eps, norm) if full_budget else None)
        or uses_label(lambda y: call(p.model, p.x.clone(), y), labels, (labels + 2) % 4)
        or per_image(lambda x, y: call(p.model, x, y), p.x, labels, what="adversarial image")
    )
