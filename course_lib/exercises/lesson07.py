"""Exercises of lesson 07: the worst margin, a training step, a zero step, results too good."""

from __future__ import annotations

import numbers
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.attacks import pgd
from course_lib.exercises.diagnoses import (
    Finding,
    Watching,
    climbs,
    finite,
    image_like,
    in_ball,
    in_box,
    problem,
    run,
    uses_label,
)
from course_lib.exercises.examiner import Examiner, first
from course_lib.exercises.exercise import Exercise
from course_lib.exercises.source import Function
from course_lib.gradients import forward, frozen, input_gradient
from course_lib.losses import cross_entropy

# --- 7.1 the worst margin -----------------------------------------------------------------------


def worst_margin(w, b, x, y, eps):
    """The smallest y * (w . x' + b) over all x' with ||x' - x||_inf <= eps, for each point. [n]"""
    return y * (x @ w + b) - eps * w.abs().sum()


def taken(amount: Callable[[Tensor, float], Tensor]) -> Function:
    """The margin of the clean point, less an amount of w and eps."""
    return lambda w, b, x, y, eps: y * (x @ w + b) - amount(w, eps)


def _points() -> list[tuple[Any, ...]]:
    """In the plane, with another eps, and with five coordinates."""
    w, b = torch.tensor([-1.5, 0.4]), torch.tensor(0.3)
    x = torch.tensor([[0.9, 0.1], [-0.6, 0.8], [0.1, 0.7], [-0.4, -0.9], [0.2, 0.4]])
    y = torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0])
    draw = torch.Generator().manual_seed(7)
    five = torch.randn(5, generator=draw), b, torch.randn(5, 5, generator=draw), y, 0.2
    return [(w, b, x, y, 0.2), (w, b, x, y, 0.5), five]


def _one_per_point(mine: Any, w: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float) -> Finding:
    shape = mine.shape if isinstance(mine, Tensor) else None
    single = isinstance(mine, (int, float)) or (shape is not None and shape.numel() == 1)
    return first({
        "your function returns one number for all points. The worst x' is another one for each "
        "point: return one margin per point, without a mean, sum or minimum over the points.":
            single,
        "your function returns one number per coordinate. One margin per point is asked: "
        "sum |w| over the coordinates.": shape == x.shape,
        f"your margins have shape {tuple(shape or ())}, expected {tuple(y.shape)}: one number per "
        "point. x @ w is w . x for each row of x.": shape is not None and shape != y.shape,
    }) or image_like(mine, y, what="margin") or finite(mine, what="margin")


_MARGIN = Examiner(
    worst_margin, _points, in_order=True,
    name="the worst margin for eps = {4} and {0.shape[0]} coordinates",
    idea="Take one point: which corner of its square is the worst, and what is the margin there?",
    properties=(_one_per_point,),
    mistakes={
        "eps is not used: this is the margin of the clean point. Subtract the most that x' can "
        "take away.": lambda w, b, x, y, eps: y * (x @ w + b),
        "this is the best case for the network: the attack lowers the margin, so subtract.":
            taken(lambda w, eps: -eps * w.abs().sum()),
        "this uses the l_2 norm of w. Against a perturbation bounded in l_inf it is the dual norm, "
        "l_1 (lesson 01): every coordinate may move by eps.": taken(lambda w, eps: eps * w.norm()),
        "this uses the l_inf norm of w. l_inf bounds the perturbation; what it can gain is the "
        "dual norm of w, l_1 (lesson 01).": taken(lambda w, eps: eps * w.abs().max()),
        "eps is multiplied by y: for points with y = -1 the attack now helps the network. It "
        "lowers the margin for both labels, so y belongs to the score alone.":
            lambda w, b, x, y, eps: y * (x @ w + b - eps * w.abs().sum()),
        "the label is missing: for y = -1 the margin is minus the score.":
            lambda w, b, x, y, eps: x @ w + b - eps * w.abs().sum(),
        "label and eps are missing: this is the score itself.": lambda w, b, x, *_: x @ w + b,
        "this takes |sum of w|: weights of different signs cancel. The attack gains from each "
        "coordinate on its own: sum of |w|.": taken(lambda w, eps: eps * w.sum().abs()),
        "this sums w with its signs: weights of different signs cancel. Sum |w|.":
            taken(lambda w, eps: eps * w.sum()),
        "this takes the mean of |w|. Every coordinate may move by eps at the same time: take the "
        "sum.": taken(lambda w, eps: eps * w.abs().mean()),
        "|w| is not multiplied by eps.": taken(lambda w, eps: w.abs().sum()),
        "the ball counts twice: from x each coordinate moves by eps, not by 2 eps.":
            taken(lambda w, eps: 2 * eps * w.abs().sum()),
        "the bias b is missing in the score w . x + b.":
            lambda w, b, *rest: worst_margin(w, 0, *rest),
        "the bias b is not multiplied by the label: the margin is y * (w . x + b).":
            lambda w, b, *rest: worst_margin(w, 0, *rest) + b,
        "b is counted among the weights. The attack moves x, and x does not touch b.":
            lambda w, b, x, y, eps: worst_margin(w, b, x, y, eps) - eps * b.abs(),
        "the sign of the whole is turned round: the margin is positive where the network is "
        "right.": lambda *given: -worst_margin(*given),
        "the margin is cut off at 0. A negative value says that the network is wrong: keep it.":
            lambda *given: worst_margin(*given).clamp_min(0),
        "this is the loss of the worst margin. The margin itself is asked.":
            lambda *given: F.softplus(-worst_margin(*given)),
        "your margins are right for eps = 0.2, and wrong for eps = 0.5. Is 0.2 written where eps "
        "belongs?": taken(lambda w, eps: 0.2 * w.abs().sum()),
        "your margins are right in the plane, and wrong with five coordinates: w [d] may have more "
        "than two entries. Sum over all of them.": taken(lambda w, eps: eps * w[:2].abs().sum()),
    })


# --- 7.2 one step of adversarial training -------------------------------------------------------


def training_step(model, optimizer, attack, x, y):
    """One step of adversarial training; returns the mean loss at the attacked images, a float."""
    x_adv = attack(model, x, y)
    loss = F.cross_entropy(model(x_adv), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def _careless(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """An attack that leaves gradients on the weights, as `backward` does. It restores the mode.

    It takes no sign, so a rounding error in the weights cannot turn a pixel round.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.enable_grad():
        x_free = x.detach().clone().requires_grad_()
        F.cross_entropy(model(x_free), y, reduction="sum").backward()
    for module, mode in modes.items():
        module.training = mode
    assert x_free.grad is not None
    return (x + 0.5 * x_free.grad).clamp(0, 1).detach()


def _beginning() -> tuple[nn.Module, torch.optim.Optimizer, list[tuple[Tensor, Tensor]]]:
    """A tiny network in train mode, its optimizer, and two batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        # Momentum 0: further passes of a student do not move the statistics. Train and eval mode
        # still differ.
        model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.BatchNorm1d(6, momentum=0.0),
                              nn.Tanh(), nn.Linear(6, 3)).train()
        x, y = torch.rand(2, 5, 1, 3, 3), torch.tensor([[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    return model, optimizer, list(zip(x, y, strict=True))


def _weights(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def _two_steps(step: Function) -> tuple[Tensor | str, list[Any]]:
    """The weights after two steps, and what the steps returned.

    In the place of the weights, in words, what can be seen to be wrong without a look at them.
    """
    model, optimizer, batches = _beginning()
    events: list[str] = []
    labels: list[Tensor] = []
    losses: list[Any] = []

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        events.append("attack")
        labels.append(y)
        return _careless(model, x, y)

    optimizer.register_step_pre_hook(lambda *_: events.append("step"))
    for x, y in batches:
        events.clear()
        labels.clear()
        before = _weights(model)
        try:
            loss, finding = run(partial(step, model, optimizer, attack), x, y)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            return _no_way_back(model), losses
        if finding := finding or _what_happened(model, before, events, labels, y):
            return finding, losses
        losses.append(loss)
    return _weights(model), losses


def _no_way_back(model: nn.Module) -> str:
    if all(p.requires_grad for p in model.parameters()):
        return ("the loss has no way back to the weights. Was it detached, or was model(x_adv) "
                "computed under torch.no_grad()?")
    return ("the weights are frozen: requires_grad is False when the loss is computed, so the loss "
            "has no gradient. Unfreeze the weights after the attack.")


def _what_happened(
    model: nn.Module, before: Tensor, events: list[str], labels: list[Tensor], y: Tensor
) -> Finding:
    still, steps = torch.equal(before, _weights(model)), events.count("step")
    return first({
        "the weights are frozen after the step: requires_grad is False, so the next step cannot "
        "train them. Leave requires_grad as it was.":
            not all(p.requires_grad for p in model.parameters()),
        "the model is left in eval mode. It came in train mode, and the next step trains in the "
        "mode that it finds. Restore it with model.train().":
            not all(module.training for module in model.modules()),
        "the attack is never called: the images to train on are x_adv = attack(model, x, y).":
            "attack" not in events,
        "the weights have not moved: optimizer.step() is never called.": still and not steps,
        "the weights moved without optimizer.step(). Use the optimizer that is passed in: it may "
        "be Adam, or have momentum.": not steps,
        "the attack is called after optimizer.step(). Attack first: the step trains on the images "
        "that the attack returns.": events[:1] == ["step"],
        f"optimizer.step() is called {steps} times. One step is asked.": steps > 1,
        "the attack gets other labels than y. With the labels that the network predicts, the "
        "attack climbs the loss of a wrong name wherever the network is wrong. Pass y.":
            not all(torch.equal(given, y) for given in labels),
        "optimizer.step() is called, and the weights have not moved: there were no gradients. Call "
        "loss.backward() after zero_grad() and before step().": still,
    })


def weights_of(step: Function) -> Callable[[], Tensor | str]:
    return lambda: _two_steps(step)[0]


def losses_of(step: Function) -> Callable[[], Tensor | str]:
    """What two steps returned as a tensor, or in words why it cannot be one."""
    def losses() -> Tensor | str:
        returned = _two_steps(step)[1]
        finding = next(filter(None, map(_no_number, returned)), None)
        return finding or torch.tensor([float(loss) for loss in returned])
    return losses


def _no_number(loss: Any) -> Finding:
    return first({
        "the weights are right, but your function returns nothing: return the loss as a number, "
        "loss.item().": loss is None,
        "the weights are right, but the loss you return still carries its gradient graph, which "
        "keeps the whole batch in memory. Return loss.item().":
            isinstance(loss, Tensor) and loss.requires_grad,
        "the weights are right. Return the loss as a float; yours is a "
        f"{type(loss).__name__}.": not isinstance(loss, (numbers.Real, Tensor)),
        "the weights are right. Return one number, the mean over the batch; yours has shape "
        f"{tuple(getattr(loss, 'shape', ()))}.": isinstance(loss, Tensor) and loss.numel() != 1,
    })


def _in_words(outcome: Tensor | str) -> Finding:
    return outcome if isinstance(outcome, str) else None


Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Any]  # of model, x, x_adv and y


def attacked(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x_adv), y)


def clean(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y)


def summed(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x_adv), y, reduction="sum")


def _in_eval_mode(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    loss = attacked(model.eval(), x, x_adv, y)
    model.train()
    return loss


def training_on(loss_of: Loss, zero: str = "after the attack") -> Function:
    """A step with another loss, or with the gradients zeroed elsewhere."""
    def step(model, optimizer, attack, x, y):
        if zero == "before the attack":
            optimizer.zero_grad()
        x_adv = attack(model, x, y)
        if zero == "after the attack":
            optimizer.zero_grad()
        loss = loss_of(model, x, x_adv, y)
        loss.backward()
        optimizer.step()
        return loss.item()
    return step


def reporting(value_of: Loss, when: str = "before the step") -> Function:
    """The right step, which returns another value."""
    def step(model, optimizer, attack, x, y):
        x_adv = attack(model, x, y)
        value = value_of(model, x, x_adv, y)
        training_step(model, optimizer, lambda *_: x_adv, x, y)
        return value_of(model, x, x_adv, y) if when == "after the step" else value
    return step


RETURNED = Examiner(
    training_step, lambda: [()], through=losses_of, properties=(_in_words,), atol=1e-4,
    name="the losses that two steps return",
    idea="Return the mean cross-entropy at x_adv, before the step.",
    mistakes={
        "the weights are right. The number you return is the loss of the clean images; return the "
        "one at x_adv.": reporting(lambda *given: clean(*given).item()),
        "the weights are right. The number you return is the sum over the batch; return the mean.":
            reporting(lambda *given: summed(*given).item()),
        "the weights are right. The number you return has the wrong sign.":
            reporting(lambda *given: -attacked(*given).item()),
        "the weights are right. The number you return is the loss after the step; return the one "
        "that the step was made with.":
            reporting(lambda *given: attacked(*given).item(), when="after the step"),
    })

_STEP = Examiner(
    training_step, lambda: [()], through=weights_of, properties=(_in_words,), atol=1e-4,
    name="the vector of all weights after two steps",
    idea="At which images is your loss, and of which gradients is the step made?",
    mistakes={
        "the weights are trained on the clean images x. Compute the loss at x_adv.":
            training_on(clean),
        "the loss of the clean images is added. The exercise asks for the loss at x_adv alone.":
            training_on(lambda *given: attacked(*given) + clean(*given)),
        "the loss is a mean over clean and attacked images. The exercise asks for the loss at "
        "x_adv alone.": training_on(lambda *given: (attacked(*given) + clean(*given)) / 2),
        "the loss is the sum over the batch: its gradient grows with the number of images. Take "
        "the mean.": training_on(summed),
        "the gradients are not zeroed: each step adds those of all steps before, and those of the "
        "attack. Call optimizer.zero_grad() before loss.backward().":
            training_on(attacked, zero="never"),
        "the gradient that the attack left on the weights is counted: this attack calls "
        "backward(), too. Call optimizer.zero_grad() after the attack and before loss.backward().":
            training_on(attacked, zero="before the attack"),
        "the loss rises: the step on the weights goes uphill. The attack climbs the loss, the "
        "weights descend it.": training_on(lambda *given: -attacked(*given)),
        "the loss that moves the weights is computed in eval mode. The weights are trained in "
        "train mode.": training_on(_in_eval_mode),
        "the loss uses the labels that the network predicts. Use y.":
            training_on(lambda model, x, x_adv, y: attacked(model, x, x_adv, model(x).argmax(1))),
        "the loss uses the labels that the network predicts for x_adv. Use y.":
            training_on(lambda model, x, x_adv, y:
                        attacked(model, x, x_adv, model(x_adv).argmax(1))),
    },
    further=RETURNED)


# --- 7.3 why this training gives no robustness --------------------------------------------------


def inner_maximum(model, x, y, eps, steps):
    """x moved uphill in the loss by `steps` steps of size 2.5 * eps / steps, in eps and [0, 1]."""
    step = 2.5 * eps / steps
    x_adv = x
    for _ in range(steps):
        x_adv = x_adv + step * input_gradient(model, x_adv, y).sign()
        x_adv = torch.max(torch.min(x_adv, x + eps), x - eps).clamp(0, 1)
    return x_adv


class _Summit(nn.Module):
    """Two classes; each pixel has its own best value, inside the ball around 0.5, for an attack."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        r = (x.flatten(1) - 0.5) / self.eps
        best = torch.linspace(-0.75, 0.75, r.shape[1]).to(r)
        wrong = -8 * (r - best).square().mean(1, keepdim=True)
        return torch.cat([-wrong, wrong], 1) / 2


def _same_draws() -> None:
    """A random start draws the same numbers again; `check` restores the states."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 what students may use


def _inner_maximum(fn: Function) -> Finding:
    p, eps, steps = problem(), 0.1, 10

    def call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        _same_draws()
        return fn(model, x.clone(), y.clone(), eps, steps)

    try:
        x_adv, finding = run(lambda model, x, y: fn(model, x, y, eps, steps), p.model, p.x, p.y)
    except ValueError as error:
        if "images must lie in [0, 1]" not in str(error):
            raise
        if "nan" in str(error):
            return "your image has NaN entries after a step. Was something divided by zero?"
        return ("your image leaves [0, 1] on the way, and input_gradient refuses it. Clamp to the "
                "box after each step.")
    return (finding or image_like(x_adv, p.x) or finite(x_adv)
            or in_ball(x_adv, p.x, eps,
                       idea="Bring every step back into the ball around the clean image x.")
            or in_box(x_adv)
            or _standing_still(fn, p.model, p.x[:1], p.y[:1], eps)
            or uses_label(lambda y: call(p.model, p.x, y), p.y, (p.y + 2) % 4)
            or climbs(p.model, p.x, x_adv, p.y)
            or _one_step(fn, p.model, p.x[:1], p.y[:1], eps)
            or _alone(call, p.model, p.x, p.y)
            or _too_low(call, p.model, p.x, p.y, eps, steps)
            or _over_the_summit(fn, eps, steps))


def _standing_still(
    fn: Function, model: nn.Module, x: Tensor, y: Tensor, eps: float
) -> Finding:
    watching = Watching(model)
    x_adv = fn(watching, x.clone(), y, eps, 10)
    return first({
        "the perturbation is still zero: after 10 steps x_adv is x, so the network is trained on "
        "clean images. Print the size of a step.": torch.allclose(x_adv, x, atol=1e-3 * eps),
        "the network is never asked: the perturbation needs the gradient of its loss.":
            not watching.seen,
        "the steps are still zero: x_adv is the random start, and 10 steps do not move it. Print "
        "the size of a step.": all(torch.equal(image, x_adv) for image in watching.seen),
    })


def _one_step(fn: Function, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Finding:
    four, ten = Watching(model), Watching(model)
    fn(four, x.clone(), y, eps, 4)
    moves = (fn(ten, x.clone(), y, eps, 10) - x).abs()
    size = moves.max().item() / eps
    # The sign moves all pixels by 0.25 eps, where the box does not stop them.
    full = moves[(x > eps) & (x < 1 - eps)].median() > 0.2 * eps
    return first({
        "only one step is taken: the network is asked for one gradient, though steps = 10. Does "
        "`return` stand inside the loop, or the gradient before it?": len(ten.seen) == 1,
        "all gradients are taken at the same point: together the steps are one step of FGSM. Take "
        "each gradient at x_adv, where the last step ended.":
            all(torch.equal(image, ten.seen[0]) for image in ten.seen),
        f"steps = 4 and steps = 10 ask the network equally often, {len(ten.seen)} times: use the "
        "argument `steps`.": len(ten.seen) == len(four.seen),
        f"after 10 steps the largest |r| is {size:.2f} eps, no more than one step of 0.25 eps. "
        "Start each step from x_adv, not from x.": size < 0.3 and bool(full),
    })


def _gain(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> float:
    """By how much the mean loss rises."""
    return float((cross_entropy(forward(model, x_adv), y)
                  - cross_entropy(forward(model, x), y)).mean())


def _too_low(
    call: Callable[..., Tensor], model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int
) -> Finding:
    with frozen(model):
        mine = _gain(model, x, call(model, x, y), y)
        theirs = _gain(model, x, pgd(model, x, y, eps=eps, steps=steps), y)
    if mine >= 0.7 * theirs:  # steps of eps / steps from a random point: 0.8
        return None
    return (f"the mean loss rises by {mine:.2f}, with the library's pgd and as many steps by "
            f"{theirs:.2f}. Does every pixel move by the full step (the sign of the gradient), and "
            "do all steps together reach the edge of the ball?")


def _over_the_summit(fn: Function, eps: float, steps: int) -> Finding:
    """A loss whose maximum lies inside the ball: steps as long as the ball jump over it."""
    model = _Summit(eps)
    x, y = torch.full((40, 1, 4, 4), 0.5), torch.zeros(40, dtype=torch.int64)
    mine = _gain(model, x, fn(model, x.clone(), y, eps, steps), y)
    theirs = _gain(model, x, pgd(model, x, y, eps=eps, steps=steps), y)
    if mine >= 0.3 * theirs:  # steps of eps / 2: 0.5; of 2.5 eps: below 0
        return None
    return ("your steps are too long: on a loss with its maximum inside the ball they jump over "
            f"it. The mean loss changes by {mine:+.2f}, with the library's pgd by {theirs:+.2f}. "
            "The size of a step is 2.5 * eps / steps.")


def _alone(call: Callable[..., Tensor], model: nn.Module, x: Tensor, y: Tensor) -> Finding:
    """Other companions must not change an image's result; the random start stays the same."""
    together = call(model, x, y)
    for kept in (slice(0, None, 2), slice(1, None, 2)):
        others, labels = 0.5 * (1 - x), (y + 1) % 4
        others[kept], labels[kept] = x[kept], y[kept]
        if not torch.allclose(call(model, others, labels)[kept], together[kept], atol=1e-4):
            return ("the result for one image depends on the other images of its batch. Work per "
                    "image: no mean, norm or maximum over the first dimension.")
    return None


# --- 7.4 too good to be true --------------------------------------------------------------------


def too_good(left):
    """Whether the robust accuracy left["PGD"] must not be believed."""
    weakest = min(left["FGSM"], left["Square"], left["transfer"])
    return weakest < left["PGD"] - 2 or left["PGD, eps = 1"] > 2


_KEYS = ("clean", "FGSM", "PGD", "Square", "transfer", "PGD, eps = 1")
_WEAKER = ("FGSM", "Square", "transfer")


def _report(*percent: float) -> dict[str, float]:
    return dict(zip(_KEYS, percent, strict=True))


_ROBUST = _report(98.0, 90.0, 84.0, 87.0, 95.0, 0.0)  # an honest report

# Reports that may be believed. In all of them each weaker attack leaves as much as PGD or more,
# or so little less that it can be chance.
_HONEST = {
    "robust": _ROBUST,
    "not robust": _report(99.0, 12.0, 0.0, 3.0, 40.0, 0.0),
    "tie": _report(97.0, 84.0, 84.0, 84.0, 84.0, 0.0),
    "no attack works": _report(98.0, 98.0, 98.0, 98.0, 98.0, 0.0),
    "chance": _ROBUST | {"Square": 83.0},
    "limit": _ROBUST | {"FGSM": 82.0},
    "a rest at eps = 1": _ROBUST | {"PGD, eps = 1": 1.0},
    "limit at eps = 1": _ROBUST | {"PGD, eps = 1": 2.0},
}
# One sign of masked gradients alone, small and large.
_SIGNS = {key: [_ROBUST | {key: 80.5}, _ROBUST | {key: 20.0}] for key in _WEAKER}
_SIGNS["PGD, eps = 1"] = [_ROBUST | {"PGD, eps = 1": 4.0}, _ROBUST | {"PGD, eps = 1": 60.0}]
_SEVERAL = [
    _report(98.0, 35.0, 84.0, 20.0, 30.0, 70.0),
    _report(98.0, 35.0, 84.0, 20.0, 30.0, 75.0) | {"PGD": 90.0},
]


def _too_good(fn: Function) -> Finding:
    reports = [*_HONEST.values(), *(report for pair in _SIGNS.values() for report in pair),
               *_SEVERAL]
    for report in reports:
        given = dict(report)
        verdict = fn(given)
        if finding := _unusable(verdict, changed=given != report):
            return finding

    def says(report: dict[str, float]) -> bool:
        return bool(fn(dict(report)))

    verdicts = [says(report) for report in reports]
    right = [too_good(report) for report in reports]
    if verdicts == right:
        return None
    return first({
        f"your function says {verdicts[0]} for each of {len(reports)} reports. Some of them can be "
        "believed and some cannot.": len(set(verdicts)) == 1,
        "the answer is turned round: return True when the robust accuracy must not be believed.":
            verdicts == [not value for value in right],
        "your answer changes with the clean accuracy alone. Every attack leaves less than that: "
        "compare the weaker attacks with PGD instead.":
            any(says(report) != says(report | {"clean": clean})
                for report in reports for clean in (report["PGD"], 100.0)),
    }) or _false_alarm(says) or _missed(says)


def _unusable(verdict: object, changed: bool) -> Finding:
    return first({
        "your function changes the report that it reads, so a second call sees another one. Read "
        "the values, and leave left as it is.": changed,
        "your function returns nothing for some reports: return True or False for each.":
            verdict is None,
        f"return True or False, not a {type(verdict).__name__}.":
            not isinstance(verdict, (bool, int, np.bool_))
            and not (isinstance(verdict, Tensor) and verdict.numel() == 1),
    })


def _shown(report: dict[str, float]) -> str:
    return "The report: " + ", ".join(f'"{key}": {value:g}' for key, value in report.items()) + "."


def _false_alarm(says: Callable[[dict[str, float]], bool]) -> Finding:
    """True for a report that may be believed."""
    alarms = [name for name, report in _HONEST.items() if says(report)]
    if "robust" in alarms:
        return _suspects_the_robust(says)
    if not alarms:
        return None
    return first({
        "your function finds a report suspicious in which Square leaves 1 point less than PGD. "
        "That can be chance: only more than 2 points count. The numbers are in %.":
            "chance" in alarms,
        "your function finds 1 % left at eps = 1 suspicious: only more than 2 % count. The numbers "
        "are in %.": "a rest at eps = 1" in alarms,
        "a difference of exactly 2 points, or exactly 2 % at eps = 1, does not count yet: \"more "
        "than 2\" is > 2, not >= 2.": set(alarms) <= {"limit", "limit at eps = 1"},
    }) or (f"your function finds an honest report suspicious ({alarms[0]}). "
           f"{_shown(_HONEST[alarms[0]])}")


def _suspects_the_robust(says: Callable[[dict[str, float]], bool]) -> Finding:
    return first({
        "\"PGD, eps = 1\" is compared like a weaker attack. It should leave less than PGD, because "
        "its eps is larger: more than 2 % is the bad sign.":
            says(_ROBUST | {"PGD": 20.0}) and not says(_ROBUST | {"PGD": 1.5}),
        "the comparison at eps = 1 is turned round: there PGD should leave nothing, and more than "
        "2 % is the bad sign.": not says(_ROBUST | {"PGD, eps = 1": 83.0}),
        "the comparison is turned round: a weaker attack should leave more than PGD. It is a bad "
        f"sign when it leaves less. {_shown(_ROBUST)}":
            not says(_ROBUST | dict.fromkeys(_WEAKER, 84.0)),
    }) or f"your function finds an honest report suspicious. {_shown(_ROBUST)}"


def _missed(says: Callable[[dict[str, float]], bool]) -> Finding:
    """False for a report with a sign of masked gradients."""
    missed = [key for key, (_, large) in _SIGNS.items() if not says(large)]
    small = [key for key, (little, _) in _SIGNS.items() if not says(little)]
    if not missed and small:
        return (f'a small sign at "{small[0]}" is missed: your limit is above 2. '
                f"{_shown(_SIGNS[small[0]][0])}")
    if not missed:
        return "your function misses a report with several signs at once. " + _shown(_SEVERAL[0])
    what = "this sign is" if len(missed) == 1 else "these signs are"
    names = " and ".join(f'"{key}"' for key in missed)
    return first({
        "your function asks for several signs at once. One is enough: each weaker attack alone, "
        "and eps = 1 alone.": len(missed) == len(_SIGNS),
        "your function asks that all weaker attacks leave less than PGD. One that does is enough: "
        "FGSM, Square or transfer.": set(missed) == set(_WEAKER) and any(
            says(_ROBUST | dict.fromkeys(_WEAKER, value)) for value in (20.0, 50.0)),
    }) or f"{what} missed: {names}. One sign alone is enough. {_shown(_SIGNS[missed[0]][1])}"


EXERCISES = [
    Exercise(
        id="7.1", title="the worst margin", solution=worst_margin, diagnose=_MARGIN,
        stub='''
def worst_margin(w, b, x, y, eps):
    """The smallest y * (w . x' + b) for ||x' - x||_inf <= eps, for each point.

    w [d], b a single number, x [n, d], y [n] of +1 and -1 -> [n]
    """
    # your line here
    return torch.zeros_like(y)
''',
        hints=(
            "Begin with eps = 0: what is the margin of the clean points? `x @ w` is w . x for "
            "each row of x.",
            "Take one point with w = (1, -2) and draw its square. To which corner does the "
            "attacker go if y = +1, and to which if y = -1? How much does the margin lose in each "
            "case?",
            "Each coordinate moves by at most eps, on its own. Write down what coordinate i takes "
            "from the margin at worst; then add up all coordinates. Which norm of w have you "
            "written?",
        ),
        praise="For a linear model the inner maximum has a formula; for a network we need an "
               "attack.",
    ),
    Exercise(
        id="7.2", title="one step of adversarial training", solution=training_step,
        diagnose=_STEP,
        stub='''
def training_step(model, optimizer, attack, x, y):
    """One step of adversarial training; returns the mean loss as a float.

    attack(model, x, y) returns the attacked images.
    """
    # your lines here
    return 0.0
''',
        hints=(
            "Which lines has a usual training step, on clean images? Write these first.",
            "Only the images change. Which image does the loss see, and what must have happened "
            "before?",
            "Some attacks call `backward()`, which leaves gradients on the weights, too. Between "
            "which two lines must `optimizer.zero_grad()` stand so that the step uses the gradient "
            "of your loss alone?",
        ),
        praise="The attack climbs the loss in x, the optimizer descends it in the weights.",
    ),
    Exercise(
        id="7.3", title="find why this training gives no robustness", solution=inner_maximum,
        diagnose=_inner_maximum,
        stub='''
def inner_maximum(model, x, y, eps, steps):
    """x moved uphill in `steps` steps, within ball and box."""
    step = 2.5 * eps // steps
    x_adv = x
    for _ in range(steps):
        x_adv = x_adv + step * input_gradient(model, x_adv, y).sign()
        x_adv = torch.max(torch.min(x_adv, x + eps), x - eps).clamp(0, 1)
    return x_adv
''',
        hints=(
            "Measure what comes out: `(inner_maximum(…) - x).abs().max()`. It should be near eps.",
            "Print `step` for eps = 0.3 and steps = 7.",
            "`//` divides and rounds down to a whole number. Which operator divides without "
            "rounding?",
        ),
        praise="Nothing failed and the clean accuracy was fine: only an attack, or a look at the "
               "perturbation, shows such a mistake.",
    ),
    Exercise(
        id="7.4", title="too good to be true", solution=too_good, diagnose=_too_good,
        stub='''
def too_good(left):
    """Whether the numbers show that left["PGD"] must not be believed: True or False.

    left: accuracy left, in %, with the keys "clean", "FGSM", "PGD", "Square",
    "transfer" and "PGD, eps = 1". Up to 2 points can be chance.
    """
    # decide which numbers contradict each other
    return False
''',
        hints=(
            "PGD takes many steps along the network's own gradient. Which attacks take fewer "
            "steps, or know less? If PGD works, what should they leave, compared with PGD?",
            "With eps = 1 every image can become every other image. What accuracy should be left?",
            "You have two kinds of sign, and one sign is enough. For the first kind look at the "
            "weaker attack that leaves least.",
        ),
        praise="The report cannot prove that a network is robust; it can show that a result is "
               "wrong.",
    ),
]
