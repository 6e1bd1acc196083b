"""Exercises of lesson 05, momentum and transfer."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from course_lib import evaluation
from course_lib.attacks import ifgsm, mifgsm
from course_lib.exercises import Exercise
from course_lib.exercises.diagnoses import (
    Finding,
    attack,
    climbs,
    close,
    finite,
    image_like,
    per_image,
    problem,
    run,
)
from course_lib.gradients import input_gradient
from course_lib.norms import project_box


def momentum(g: Tensor, gradient: Tensor, mu: float) -> Tensor:
    """g_(t+1) = mu * g_t + gradient / ||gradient||_1, for each image of the batch."""
    size = gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
    return mu * g + gradient / size.clamp_min(1e-30)


def _diagnose_momentum(fn) -> Finding:
    draw = torch.Generator().manual_seed(5)
    g, gradient = torch.randn(2, 3, 1, 4, 4, generator=draw)
    gradient = gradient * torch.tensor([1.0, 10.0, 0.1])[:, None, None, None]
    new, said = run(fn, g, gradient, 0.9)
    if said := said or image_like(new, g, what="momentum") or finite(new, what="momentum"):
        return said
    right = momentum(g, gradient, 0.9)
    unit = right - 0.9 * g
    mistakes = {
        "the sign is taken before the momentum, so every pixel counts the same however small its "
        "gradient is. Add up the gradients themselves; the sign comes in the step.":
            0.9 * g + gradient.sign(),
        "the gradient is not divided by its l_1 norm: a steep place would drown all the others.":
            0.9 * g + gradient,
        "the gradient is divided by its l_2 norm, the formula has the l_1 norm: the sum of the "
        "absolute values.":
            0.9 * g + gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None],
        "the gradient is divided by the mean of its absolute values, the formula has their sum.":
            0.9 * g + unit * 16,
        "mu multiplies the new gradient; it is the memory g that fades.": g + 0.9 * unit,
        "mu is not used: the memory never fades.": g + unit,
        "the old momentum is missing: nothing is remembered.": unit,
        "the gradient is divided by a norm over the whole batch. Each image has its own: sum over "
        "the dimensions 1, 2, 3 with keepdim=True.": 0.9 * g + gradient / gradient.abs().sum(),
    }
    for mistake, result in mistakes.items():
        if torch.allclose(new, result, atol=1e-6):
            return mistake
    return (
        per_image(lambda a, b: fn(a, b, 0.9), g, gradient, what="momentum")
        or close(new, right, "the new momentum", "Compare term by term with the formula.",
                 atol=1e-6)
        or finite(fn(g, torch.zeros_like(g), 0.9), what="momentum for a zero gradient")
    )


def ensemble_logits(models: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The mean of the networks' logits, [n, classes]."""
    return torch.stack([model(x) for model in models]).mean(0)


def _diagnose_ensemble(fn) -> Finding:
    p = problem()
    draw = torch.Generator().manual_seed(6)
    other = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    with torch.no_grad():
        for weights in other.parameters():
            weights.copy_(torch.randn(weights.shape, generator=draw))
    models = [p.model, other]
    parts = [model(p.x).detach() for model in models]
    both, said = run(fn, models, p.x)
    if said:
        return said
    if not isinstance(both, Tensor) or both.shape != parts[0].shape:
        shape = tuple(both.shape) if isinstance(both, Tensor) else type(both).__name__
        return f"your function returns {shape}; logits {tuple(parts[0].shape)} are expected."
    value, mean = both.detach(), torch.stack(parts).mean(0)
    probabilities = torch.stack([part.softmax(1) for part in parts])
    mistakes = {
        "only the first network is asked.": parts[0],
        "only the last network is asked: is the result overwritten in the loop?": parts[-1],
        "the logits are added, not averaged: the weights of the networks should sum to 1.":
            sum(parts),
        "the probabilities are averaged, not the logits. Where one network is certain its softmax "
        "is flat, and its gradient vanishes.": probabilities.mean(0),
        "the logarithms of the probabilities are averaged. Close, but the formula fuses the "
        "logits, before the softmax.": torch.stack([q.log_softmax(1) for q in parts]).mean(0),
        "the largest logit is taken, not the mean.": torch.stack(parts).amax(0),
    }
    for mistake, result in mistakes.items():
        if torch.allclose(value, result, atol=1e-5):
            return mistake
    if not both.requires_grad:
        return ("no gradient flows back through your result, so nothing could be attacked. Leave "
                "out torch.no_grad() and .detach().")
    return close(value, mean, "the fused logits", "Average what each model returns for x.")


def black_box_success(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> float:
    """Of the images named correctly, the share that the model gets wrong as x_adv."""
    right = ~evaluation.fooled(model, x, y)
    return evaluation.fooled(model, x_adv, y)[right].float().mean().item()


class _Lookup(nn.Module):
    """A network whose prediction is written into the image: class k for grey level k / 10."""

    def forward(self, x: Tensor) -> Tensor:
        named = (x[:, 0, 0, 0] * 10).round().long()
        return nn.functional.one_hot(named, 4).float() * 5


def _diagnose_success(fn) -> Finding:
    def picture(classes: list[int]) -> Tensor:
        return (torch.tensor(classes) / 10)[:, None, None, None].expand(-1, 1, 2, 2).clone()

    y = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    # Right at first: images 0, 2, 3, 4, 6. After the attack the images 2, 3, 6 of these are wrong.
    before, after = [0, 1, 1, 1, 2, 3, 3, 0], [0, 2, 0, 2, 2, 2, 1, 2]
    share, said = run(fn, _Lookup(), picture(before), picture(after), y)
    if said:
        return said
    if isinstance(share, Tensor) and share.numel() == 1:
        share = share.item()
    if not isinstance(share, float | int):
        return f"your function returns a {type(share).__name__}; one number is expected."
    mistakes = {
        100 * 3 / 5: "you return percent; a share between 0 and 1 is expected.",
        5 / 8: "you count images that the network got wrong before any attack. Nobody fooled it "
               "there: keep only those it names correctly.",
        3 / 8: "you divide by the number of all images. An image that was wrong from the start "
               "is neither a success nor a failure: divide by the number named correctly.",
        6 / 8: "you count changed predictions. Compare with the label y: a prediction that "
               "changes from wrong to right is no success.",
        2 / 5: "you return the accuracy under attack; success is its complement.",
        3.0: "you return a count; a share between 0 and 1 is expected.",
    }
    for wrong, mistake in mistakes.items():
        if abs(share - wrong) < 1e-4:
            return mistake
    return close(share, 3 / 5, "the black-box success of the example",
                 "Which images count, and which of them are wrong afterwards?")


def repaired(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """MI-FGSM with mu = 1: ten steps of eps / 10 along the sign of the momentum."""
    x_adv, g = x.clone(), torch.zeros_like(x)
    for _ in range(10):
        gradient = input_gradient(model, x_adv, y)
        g = g + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp_min(1e-30)
        x_adv = x_adv + eps / 10 * g.sign()
        x_adv = torch.clamp(x_adv, x - eps, x + eps).clamp(0, 1)
    return x_adv


def _diagnose_repaired(fn) -> Finding:
    said = attack(lambda model, x, y: fn(model, x, y, 0.2), eps=0.2)
    if said:
        return said
    p, eps = problem(), 0.5
    model = copy.deepcopy(p.model)
    with torch.no_grad():  # a sure network: its gradients grow by far on the way
        for parameter in model[-1].parameters():
            parameter.mul_(10)
    mine = fn(model, p.x.clone(), p.y, eps)

    def is_that_of(attack_: Callable[..., Tensor]) -> bool:
        return torch.allclose(mine, attack_(model, p.x, p.y, eps=eps), atol=1e-5)

    if is_that_of(mifgsm):
        return None
    if is_that_of(ifgsm):
        return ("this is I-FGSM: the momentum has no effect. Is g made anew in every step, or the "
                "sign taken of the last gradient only?")
    mistakes = {
        "the sign is still taken before the sum: each pixel casts one vote a step, however small "
        "its gradient. Accumulate the normalised gradient itself.": torch.sign,
        "the gradient is added undivided, so that steep places outvote the others: divide it by "
        "its l_1 norm.": lambda d: d,
        "the gradient is divided by a norm over the whole batch, so that images disturb each "
        "other: sum over the dimensions 1, 2, 3 with keepdim=True.": lambda d: d / d.abs().sum(),
    }
    for mistake, share in mistakes.items():
        if is_that_of(functools.partial(_accumulating, share)):
            return mistake
    return climbs(model, p.x, mine, p.y) or (
        "the images differ from MI-FGSM with mu = 1. Write the two lines of the formula below each "
        "other and compare: normalise, add to g, then step along sign(g).")


def _accumulating(
    share: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor, y: Tensor, eps: float
) -> Tensor:
    """MI-FGSM with something else in the place of the normalised gradient."""
    x_adv, g = x.clone(), torch.zeros_like(x)
    for _ in range(10):
        g = g + share(input_gradient(model, x_adv, y))
        x_adv = project_box(x_adv + eps / 10 * g.sign(), x, eps, "linf")
    return x_adv


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
        diagnose=_diagnose_momentum,
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
        diagnose=_diagnose_ensemble,
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
            "Index the second answer with the first: `wrong_after[right_before]`, then the mean "
            "of it as a float.",
        ),
        diagnose=_diagnose_success,
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
            "Only the step takes a sign. In g belongs the gradient, divided by its l_1 norm.",
        ),
        diagnose=_diagnose_repaired,
        praise="The bug left an attack that works, only less well: a test of success alone would "
               "have passed it.",
    ),
]
