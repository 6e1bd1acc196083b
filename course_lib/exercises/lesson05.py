"""Exercises of lesson 05, momentum and transfer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from course_lib import evaluation
from course_lib.exercises.diagnoses import (
    Finding,
    attack,
    finite,
    image_like,
    problem,
)
from course_lib.exercises.examiner import Examiner
from course_lib.exercises.exercise import Exercise
from course_lib.gradients import input_gradient
from course_lib.norms import project_box


def momentum(g: Tensor, gradient: Tensor, mu: float) -> Tensor:
    """g_(t+1) = mu * g_t + gradient / ||gradient||_1, for each image of the batch."""
    size = gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
    return mu * g + gradient / size.clamp_min(1e-30)


def _gradients() -> list[tuple[Tensor, Tensor, float]]:
    g, gradient = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    steepness = torch.tensor([1.0, 10.0, 0.1])[:, None, None, None]
    return [(g, steepness * gradient, 0.9), (g, torch.zeros_like(g), 0.9)]


def _momentum_like(new: Tensor, g: Tensor, gradient: Tensor, mu: float) -> Finding:
    where = "" if gradient.any() else " for a zero gradient"
    return image_like(new, g, what="momentum") or finite(new, what="momentum" + where)


def summed(
    divide: Callable[[Tensor], Tensor],
    mix: Callable[[Tensor, Tensor, float], Tensor] = lambda g, unit, mu: mu * g + unit,
) -> Callable[[Tensor, Tensor, float], Tensor]:
    """The momentum with another divide(gradient), or another way to add it to g."""
    return lambda g, gradient, mu: mix(g, divide(gradient), mu)


def unit(gradient: Tensor) -> Tensor:
    return gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)


_MOMENTUM = Examiner(
    momentum, _gradients, in_order=True, alone=True, properties=(_momentum_like,), atol=1e-6,
    name="the new momentum", idea="Compare term by term with the formula.",
    mistakes={
        "the sign is taken before the momentum, so every pixel counts the same however small its "
        "gradient is. Add up the gradients themselves; the sign comes in the step.":
            summed(torch.sign),
        "the gradient is not divided by its l_1 norm: a steep place would drown all the others.":
            summed(lambda d: d),
        "the gradient is divided by its l_2 norm, the formula has the l_1 norm: the sum of the "
        "absolute values.": summed(lambda d: d / d.flatten(1).norm(dim=1)[:, None, None, None]),
        "the gradient is divided by the mean of its absolute values, the formula has their sum.":
            summed(lambda d: d / d.abs().mean((1, 2, 3), keepdim=True)),
        "mu multiplies the new gradient; it is the memory g that fades.":
            summed(unit, lambda g, unit, mu: g + mu * unit),
        "mu is not used: the memory never fades.": summed(unit, lambda g, unit, mu: g + unit),
        "the old momentum is missing: nothing is remembered.":
            summed(unit, lambda g, unit, mu: unit),
        "the gradient is divided by a norm over the whole batch. Each image has its own: sum over "
        "the dimensions 1, 2, 3 with keepdim=True.": summed(lambda d: d / d.abs().sum()),
    })


def ensemble_logits(models: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The mean of the networks' logits, [n, classes]."""
    return torch.stack([model(x) for model in models]).mean(0)


def _networks() -> list[tuple[list[nn.Module], Tensor]]:
    p, draw = problem(), torch.Generator().manual_seed(6)
    other = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    with torch.no_grad():
        for weights in other.parameters():
            weights.copy_(torch.randn(weights.shape, generator=draw))
    return [([p.model, other], p.x)]


def _logits_like(both: object, models: Sequence[nn.Module], x: Tensor) -> Finding:
    expected = models[0](x).detach()
    if isinstance(both, Tensor) and both.shape == expected.shape:
        return image_like(both.detach(), expected, "tensor of logits")
    shape = tuple(both.shape) if isinstance(both, Tensor) else type(both).__name__
    return f"your function returns {shape}; logits {tuple(expected.shape)} are expected."


def _carries_a_gradient(fn: Callable[..., Tensor]) -> Finding:
    (case,) = _networks()
    if fn(*case).requires_grad:
        return None
    return ("no gradient flows back through your result, so nothing could be attacked. Leave out "
            "torch.no_grad() and .detach().")


def fused(fuse: Callable[[Tensor], Tensor]) -> Callable[[Sequence[nn.Module], Tensor], Tensor]:
    """fuse(logits) of the logits of all networks, [networks, n, classes]."""
    return lambda models, x: fuse(torch.stack([model(x) for model in models]))


_ENSEMBLE = Examiner(
    ensemble_logits, _networks, properties=(_logits_like,), further=_carries_a_gradient,
    name="the fused logits", idea="Average what each model returns for x.",
    mistakes={
        "only the first network is asked.": fused(lambda z: z[0]),
        "only the last network is asked: is the result overwritten in the loop?":
            fused(lambda z: z[-1]),
        "the logits are added, not averaged: the weights of the networks should sum to 1.":
            fused(lambda z: z.sum(0)),
        "the probabilities are averaged, not the logits. Where one network is certain its softmax "
        "is flat, and its gradient vanishes.": fused(lambda z: z.softmax(2).mean(0)),
        "the logarithms of the probabilities are averaged. Close, but the formula fuses the "
        "logits, before the softmax.": fused(lambda z: z.log_softmax(2).mean(0)),
        "the largest logit is taken, not the mean.": fused(lambda z: z.amax(0)),
    })


def black_box_success(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> float:
    """Of the images named correctly, the share that the model gets wrong as x_adv."""
    right = ~evaluation.fooled(model, x, y)
    return evaluation.fooled(model, x_adv, y)[right].float().mean().item()


class _Lookup(nn.Module):
    """A network whose prediction is written into the image: class k for grey level k / 10."""

    def forward(self, x: Tensor) -> Tensor:
        named = (x[:, 0, 0, 0] * 10).round().long()
        return nn.functional.one_hot(named, 4).float() * 5


def _example() -> list[tuple[nn.Module, Tensor, Tensor, Tensor]]:
    """Right at first: images 0, 2, 3, 4, 6. After the attack the images 2, 3, 6 are wrong."""
    def picture(*classes: int) -> Tensor:
        return (torch.tensor(classes) / 10)[:, None, None, None].expand(-1, 1, 2, 2).clone()

    return [(_Lookup(), picture(0, 1, 1, 1, 2, 3, 3, 0), picture(0, 2, 0, 2, 2, 2, 1, 2),
             torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))]


def _one_number(share: object, *_: object) -> Finding:
    if isinstance(share, float | int) or (isinstance(share, Tensor) and share.numel() == 1):
        return None
    return f"your function returns a {type(share).__name__}; one number is expected."


def counted(value: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., float]:
    """value(before, after, y) of the predictions before and after the attack, as a number."""
    def success(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> float:
        before, after = (evaluation.predict(model, images).labels for images in (x, x_adv))
        return value(before, after, y).item()
    return success


_SUCCESS = Examiner(
    black_box_success, _example, properties=(_one_number,), part=float,
    name="the black-box success of the example",
    idea="Which images count, and which of them are wrong afterwards?",
    mistakes={
        "you return percent; a share between 0 and 1 is expected.":
            lambda *given: 100 * black_box_success(*given),
        "you count images that the network got wrong before any attack. Nobody fooled it there: "
        "keep only those it names correctly.":
            counted(lambda before, after, y: (after != y).float().mean()),
        "you divide by the number of all images. An image that was wrong from the start is neither "
        "a success nor a failure: divide by the number named correctly.":
            counted(lambda before, after, y: ((before == y) & (after != y)).float().mean()),
        "you count changed predictions. Compare with the label y: a prediction that changes from "
        "wrong to right is no success.":
            counted(lambda before, after, y: (after != before).float().mean()),
        "you return the accuracy under attack; success is its complement.":
            counted(lambda before, after, y: (after == y)[before == y].float().mean()),
        "you return a count; a share between 0 and 1 is expected.":
            counted(lambda before, after, y: ((before == y) & (after != y)).sum()),
    })


def repaired(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """MI-FGSM with mu = 1: ten steps of eps / 10 along the sign of the momentum."""
    x_adv, g = x.clone(), torch.zeros_like(x)
    for _ in range(10):
        gradient = input_gradient(model, x_adv, y)
        g = g + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
        x_adv = x_adv + eps / 10 * g.sign()
        x_adv = torch.clamp(x_adv, x - eps, x + eps).clamp(0, 1)
    return x_adv


def _sure() -> list[tuple[nn.Module, Tensor, Tensor, float]]:
    """A sure network: its gradients grow by far on the way."""
    p = problem()
    with torch.no_grad():
        for parameter in p.model[-1].parameters():
            parameter.mul_(10)
    return [(p.model, p.x, p.y, 0.5)]


def iterated(accumulate: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The attack with g = accumulate(g, gradient)."""
    def ten_steps(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        x_adv, g = x.clone(), torch.zeros_like(x)
        for _ in range(10):
            g = accumulate(g, input_gradient(model, x_adv, y))
            x_adv = project_box(x_adv + eps / 10 * g.sign(), x, eps, "linf")
        return x_adv
    return ten_steps


def _differs(fn: Callable[..., Tensor]) -> Finding:
    ((model, x, y, eps),) = _sure()
    finding = attack(lambda model, x, y: fn(model, x, y, 0.2), eps=0.2)
    if finding or torch.allclose(fn(model, x.clone(), y, eps), repaired(model, x, y, eps),
                                 atol=1e-5):
        return finding
    return ("the images differ from MI-FGSM with mu = 1. Write the two lines of the formula below "
            "each other and compare: normalise, add to g, then step along sign(g).")


_REPAIRED = Examiner(
    repaired, _sure, exact=False, further=_differs,
    properties=(lambda x_adv, model, x, *_: image_like(x_adv, x),),
    mistakes={
        "this is I-FGSM: the momentum has no effect. Is g made anew in every step, or the sign "
        "taken of the last gradient only?": iterated(lambda g, d: d),
        "the sign is still taken before the sum: each pixel casts one vote per step, however small "
        "its gradient. Accumulate the normalised gradient itself.":
            iterated(lambda g, d: g + d.sign()),
        "the gradient is added undivided, so that steep places outvote the others: divide it by "
        "its l_1 norm.": iterated(lambda g, d: g + d),
        "the gradient is divided by a norm over the whole batch, so that images disturb each "
        "other: sum over the dimensions 1, 2, 3 with keepdim=True.":
            iterated(lambda g, d: g + d / d.abs().sum()),
    })


EXERCISES = [
    Exercise(
        id="5.1",
        title="the momentum",
        stub='''
def momentum(g, gradient, mu):
    """g_(t+1) = mu * g_t + gradient / ||gradient||_1, for each image of the batch."""
    # your lines here
    return g
''',
        solution=momentum,
        hints=(
            "Three pieces: the size of the gradient of each image, the gradient divided by it, "
            "and the old g, faded by mu.",
            "The l_1 norm of each image: `gradient.abs().sum(dim=(1, 2, 3), keepdim=True)`. With "
            "`keepdim` the division works image by image.",
            "A gradient can be exactly zero, where 0 / 0 is NaN and stays NaN for all later "
            "steps. `size.clamp_min(1e-30)` is a cheap guard.",
        ),
        diagnose=_MOMENTUM,
        praise="Dividing by the l_1 norm lets every step vote with the same weight.",
    ),
    Exercise(
        id="5.2",
        title="several networks as one",
        stub='''
def ensemble_logits(models, x):
    """The mean of the networks' logits, [n, classes]."""
    return models[0](x)
''',
        solution=ensemble_logits,
        hints=(
            "Ask every model in the list for its logits.",
            "`torch.stack` puts a list of tensors of one shape into one tensor with a new first "
            "dimension.",
            "Stack the logits, then take the mean over dimension 0. No softmax anywhere.",
        ),
        diagnose=_ENSEMBLE,
        praise="The attack now needs one perturbation that suits all of them.",
    ),
    Exercise(
        id="5.3",
        title="an honest success rate",
        stub='''
def black_box_success(model, x, x_adv, y):
    """Of the images named correctly, the share that the model gets wrong as x_adv."""
    return 0.0
''',
        solution=black_box_success,
        hints=(
            "Two questions for each image: was the model right about x, and is it wrong about "
            "x_adv?",
            "`evaluation.predict(model, x).labels` gives the predicted classes. The images that "
            "count are those where it equals y.",
            "Both are tensors of True and False. `a[b]` keeps the entries of a where b is True. "
            "The mean of True and False needs `.float()`.",
        ),
        diagnose=_SUCCESS,
        praise="Without the first filter, a weak network makes every attack look strong.",
    ),
    Exercise(
        id="5.4",
        title="find the mistake",
        stub='''
def repaired(model, x, y, eps):
    """MI-FGSM with mu = 1: ten steps of eps / 10 along the sign of the momentum."""
    x_adv, g = x.clone(), torch.zeros_like(x)
    for _ in range(10):
        gradient = input_gradient(model, x_adv, y)
        g = g + gradient.sign()
        x_adv = x_adv + eps / 10 * g.sign()
        x_adv = torch.clamp(x_adv, x - eps, x + eps).clamp(0, 1)
    return x_adv
''',
        solution=repaired,
        hints=(
            "Everything about ball and box is right. Read the line that changes g.",
            "A pixel with gradient 0.000001 and one with gradient 1: how much does each add to g?",
            "Write the line below the formula for g_(t+1): what is in one and not in the other?",
        ),
        diagnose=_REPAIRED,
        praise="The bug left an attack that works, only less well: a test of success alone would "
               "have passed it.",
    ),
]
