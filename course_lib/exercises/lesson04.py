"""Exercises of lesson 04: the iterated step, bugs in PGD, restarts, a defence that only hides."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from course_lib import datasets, evaluation, models
from course_lib.attacks import pgd
from course_lib.exercises.diagnoses import (
    Finding,
    Watching,
    climbs,
    finite,
    image_like,
    in_ball,
    in_box,
    moved,
    per_image,
    problem,
    repeatable,
    run,
)
from course_lib.exercises.examiner import Examiner, first
from course_lib.exercises.exercise import Exercise
from course_lib.exercises.source import Function
from course_lib.gradients import input_gradient
from course_lib.losses import margin
from course_lib.norms import project_box, uniform_ball

# --- 4.1 the iterated step ----------------------------------------------------------------------


def advance(x_t, gradient, x, alpha, eps):
    """x_(t+1) = Pi(x_t + alpha * sign(gradient)), Pi onto the eps-ball around x and onto [0, 1]."""
    x_new = x_t + alpha * gradient.sign()
    return torch.clamp(x_new, x - eps, x + eps).clamp(0, 1)


def _steps() -> list[tuple[Tensor, Tensor, Tensor, float, float]]:
    """Some pixels are still near x, some have reached the edge of the ball or of the box."""
    draw = torch.Generator().manual_seed(4)
    x = torch.rand(4, 1, 5, 5, generator=draw)
    x[0], x[1, 0, 0], x[1, 0, 1] = 0.5, 0.0, 1.0
    alpha, eps = 0.04, 0.1
    x_t = (x + eps * torch.randint(-1, 2, x.shape, generator=draw)).clamp(0, 1)
    scale = torch.tensor([1, 1e-6, 30, 1]).view(4, 1, 1, 1)
    return [(x_t, scale * torch.randn(x.shape, generator=draw), x, alpha, eps)]


def _every_pixel(fn: Function) -> Finding:
    ((x_t, gradient, x, alpha, eps),) = _steps()
    x_new, right = (step(x_t.clone(), gradient, x, alpha, eps) for step in (fn, advance))
    wrong = ((x_new - right).abs() > 1e-6).float().mean().item()
    return (in_ball(x_new, x, eps) or in_box(x_new)
            or first({f"{100 * wrong:.0f} % of the pixels differ from Pi(x_t + alpha "
                      "sign(gradient)). Step first, then the ball around x, then the box.": wrong})
            or per_image(lambda *batch: fn(*batch, alpha, eps), x_t, gradient, x))


_ADVANCE = Examiner(
    advance, _steps, exact=False, further=_every_pixel, atol=1e-6,
    properties=(lambda x_new, x_t, *_: image_like(x_new, x_t) or finite(x_new),),
    mistakes={
        "your image has not moved: add alpha times the sign of the gradient to x_t.":
            lambda x_t, *_: x_t,
        "your step goes downhill: the gradient already points where the attack wants to go, so "
        "add.": lambda x_t, g, *rest: advance(x_t, -g, *rest),
        "you step from x again: then only one step of all is ever taken. Step from x_t, where the "
        "last one ended.": lambda x_t, g, x, *rest: advance(x, g, x, *rest),
        "your step has length eps: that is FGSM. A step of I-FGSM has length alpha.":
            lambda x_t, g, x, alpha, eps: advance(x_t, g, x, eps, eps),
        "the gradient steps without its sign: pixels with a small gradient hardly move.":
            lambda x_t, g, x, alpha, eps: project_box(x_t + alpha * g, x, eps, "linf"),
        "your image leaves the ball: the projection is missing, or its centre is x_t, which walks "
        "along with the attack. The centre is the clean image x.":
            lambda x_t, g, x, alpha, eps: (x_t + alpha * g.sign()).clamp(0, 1),
        "you clamp the image itself to [-eps, eps]: it is the perturbation x_new - x that must "
        "stay in there.":
            lambda x_t, g, x, alpha, eps: (x_t + alpha * g.sign()).clamp(-eps, eps).clamp(0, 1),
        "the ball is there, the box is missing: clamp to [0, 1] at the end.":
            lambda x_t, g, x, alpha, eps: (x_t + alpha * g.sign()).clamp(x - eps, x + eps),
        "the edge of your ball is alpha: the whole way may be as long as eps.":
            lambda x_t, g, x, alpha, eps: advance(x_t, g, x, alpha, alpha),
    })


# --- 4.2 two bugs in PGD ------------------------------------------------------------------------


def pgd_repaired(model, x, y, eps, steps, generator):
    """PGD in l_inf from a point drawn uniformly from the ball."""
    alpha = 2.5 * eps / steps
    noise = (2 * torch.rand(x.shape, generator=generator) - 1) * eps
    x_t = (x + noise.to(x)).clamp(0, 1)
    for _ in range(steps):
        gradient = input_gradient(model, x_t, y)
        x_new = x_t + alpha * gradient.sign()
        x_t = torch.clamp(x_new, x - eps, x + eps).clamp(0, 1)
    return x_t


def _pgd_repaired(fn: Function) -> Finding:
    p, eps = problem(), 0.1

    def call(model: nn.Module, x: Tensor, y: Tensor, seed: int = 0, steps: int = 12) -> Tensor:
        return fn(model, x, y, eps, steps, torch.Generator().manual_seed(seed))

    # Where does it start? Thousands of pixels at 0.5, far from the box. What comes out cannot tell:
    # all starts may end in the same corner of the ball.
    big = problem(channels=3, size=22)
    grey = torch.full_like(big.x, 0.5)

    def start(seed: int) -> Tensor:
        watching = Watching(big.model)
        call(watching, grey.clone(), big.y, seed, steps=1)
        return next((x for x in watching.seen if not torch.equal(x, grey)), grey)

    x_adv, finding = run(lambda model, x, y: call(model, x, y), p.model, p.x, p.y)
    return (
        finding or image_like(x_adv, p.x) or finite(x_adv) or moved(x_adv, p.x)
        or in_ball(x_adv, p.x, eps, idea="Which point is the centre of the projection, in every "
                                         "step?")
        or in_box(x_adv) or climbs(p.model, p.x, x_adv, p.y)
        or _start((start(0) - grey) / eps)
        or repeatable(lambda: start(0)) or repeatable(lambda: call(p.model, p.x.clone(), p.y))
        or first({"two generators with different seeds give the same image: draw the noise from "
                  "the generator that is passed in.": torch.equal(start(0), start(1))}))


def _start(noise: Tensor) -> Finding:
    """Is the first perturbation, in units of eps, uniform in [-1, 1]?"""
    size, mean = noise.abs(), float(noise.mean())
    outside = 100 * float((size > 1 + 1e-4).float().mean())
    edge = 100 * float((size > 0.99).float().mean())
    return first({
        "it starts at x itself: the random start is gone. Draw r uniformly from the ball.":
            (size < 1e-5).all(),
        f"{outside:.0f} % of the pixels start outside the ball: a Gaussian has no edge. Draw every "
        "pixel uniformly from [-eps, eps].": outside,
        f"{edge:.0f} % of the pixels start on the very edge, at -eps or +eps. Uniform means that "
        "every value between them is equally likely.": edge > 10,
        f"the start is lopsided: its mean should be 0, yours is {mean:+.2f} eps. torch.rand draws "
        "from [0, 1]; stretch it to [-1, 1].": abs(mean) > 0.1,
        "the start is not uniform: the mean of |r| should be 0.50 eps, yours is "
        f"{size.mean():.2f} eps.": not 0.45 < size.mean() < 0.55,
    })


# --- 4.3 restarts that forget -------------------------------------------------------------------


def best_of_restarts(model, x, y, eps, steps, restarts, generator):
    """PGD with restarts: an image that was fooled once stays fooled."""
    x_adv, alpha = x.clone(), 2.5 * eps / steps
    for _ in range(restarts):
        x_t = project_box(x + uniform_ball(x.shape, eps, "linf", generator).to(x), x, eps, "linf")
        for _ in range(steps):
            gradient = input_gradient(model, x_t, y)
            x_t = project_box(x_t + alpha * gradient.sign(), x, eps, "linf")
        hit = evaluation.fooled(model, x_t, y)
        x_adv = torch.where(hit.view(-1, 1, 1, 1), x_t, x_adv)
    return x_adv


class _TwoHills(nn.Module):
    """From 0.5 the margin climbs on both sides, but only the hill to the right is high enough."""

    def forward(self, x: Tensor) -> Tensor:
        r = x.flatten(1)[:, :1] - 0.5
        wrong = torch.maximum(r, -0.5 * r) - 0.06
        return torch.cat([-wrong, wrong], 1)


def _best_of_restarts(fn: Function) -> Finding:
    model, eps = _TwoHills(), 0.1
    x, y = torch.full((400, 1, 1, 1), 0.5), torch.zeros(400, dtype=torch.int64)

    def call(restarts: int, steps: int) -> Tensor:
        return fn(model, x.clone(), y, eps, steps, restarts, torch.Generator().manual_seed(0))

    def hits(restarts: int, steps: int) -> Tensor:
        return evaluation.fooled(model, call(restarts, steps), y)

    def share(mask: Tensor) -> str:
        return f"{100 * mask.float().mean().item():.0f} %"

    x_adv, finding = run(lambda model, x, y: fn(model, x, y, eps, 5, 3,
                                                torch.Generator().manual_seed(0)), model, x, y)
    if finding or (finding := image_like(x_adv, x) or finite(x_adv) or in_ball(x_adv, x, eps)
                   or in_box(x_adv)):
        return finding
    once, one, six = hits(1, 1), hits(1, 5), hits(6, 5)
    lost = int((one & ~six).sum())
    return first({
        "with 1 start none of the images end up fooled, half of them should: does torch.where keep "
        "x_t where `hit` is true?": not once.any(),
        f"with one step and one start {share(once)} of the images end up fooled, half of them "
        "should: the image after the last step is never judged. When is `hit` computed?":
            once.float().mean() < 0.4,
        f"{lost} of {len(x)} images are fooled with 1 start, and no longer with 6: a later start "
        "that failed overwrites an earlier success. What does torch.where fall back on?": lost,
        "6 starts fool exactly the images that 1 start fools: does each draw new noise?":
            torch.equal(one, six),
        f"with 6 starts {share(six)} of the images end up fooled; each start succeeds with half of "
        "them, so it should be nearly all.": six.float().mean() < 0.9,
    }) or repeatable(lambda: call(2, 3))


# --- 4.4 a defence that only hides --------------------------------------------------------------


class Shield(nn.Module):
    """A "defence" that is none: 100 times the logits, so the softmax saturates.

    The predictions stay as they are. But in float32 the softmax becomes exactly 1 for the label and
    exactly 0 for all others, and so the gradient of the cross-entropy, softmax - one-hot, is 0.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return 100 * self.model(x)


def shield(model: nn.Module) -> nn.Module:
    """The network behind the shield, ready to be used and attacked."""
    return Shield(model).eval()


def break_shield(model, x, y, eps, generator):
    """PGD on the margin: a difference of two logits never saturates."""
    return pgd(model, x, y, eps=eps, steps=20, loss=margin, generator=generator)


@functools.cache
def _shielded() -> tuple[nn.Module, Tensor, Tensor, float]:
    """The shielded network, 40 digits, and how many of them survive plain PGD."""
    model, digits = shield(models.load("mnist_cnn", "cpu")), datasets.mnist("test")[100:140]
    x_adv = pgd(model, digits.x, digits.y, eps=0.2, steps=20,
                generator=torch.Generator().manual_seed(0))
    return model, digits.x, digits.y, evaluation.accuracy(model, x_adv, digits.y)


def _break_shield(fn: Function) -> Finding:
    (model, x, y, approved), eps = _shielded(), 0.2

    def call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return fn(model, x, y, eps, torch.Generator().manual_seed(0))

    x_adv, finding = run(call, model, x, y)
    if finding or (finding := image_like(x_adv, x) or finite(x_adv)):
        return finding
    if torch.equal(x_adv, x):
        return "your function returns the images unchanged: is the gradient it climbs exactly zero?"
    if finding := in_ball(x_adv, x, eps) or in_box(x_adv):
        return finding
    left = evaluation.accuracy(model, x_adv, y)
    survive = (f"{100 * left:.0f} % of the digits survive, where plain PGD leaves "
               f"{100 * approved:.0f} %")
    return first({
        f"{survive}: your attack is misled in the same way. Look at the gradient it follows.":
            left >= approved - 0.05,
        f"you are on a way in: {survive}. Other losses or more queries go below 30 %.": left > 0.3,
    }) or repeatable(lambda: call(model, x.clone(), y.clone()))


EXERCISES = [
    Exercise(
        id="4.1", title="one of many steps", solution=advance, diagnose=_ADVANCE,
        stub='''
def advance(x_t, gradient, x, alpha, eps):
    """From x_t one step along sign(gradient), then Pi: ball around x, box."""
    # your two lines here
    return x_t
''',
        hints=(
            "The step is that of FGSM, only shorter. From which image does it start, and how long "
            "is it?",
            "The ball around $x$ in $l_\\infty$ is an interval for every pixel, from `x - eps` to "
            "`x + eps`. `torch.clamp(values, low, high)` takes tensors as limits.",
            "Two clamps: first the interval of each pixel, then 0 and 1. Which image is the "
            "centre of that interval in every step?",
        ),
        praise="Ball and box are both intervals for every pixel, so in l_inf two clamps are the "
               "exact projection.",
    ),
    Exercise(
        id="4.2", title="two bugs in PGD", solution=pgd_repaired, diagnose=_pgd_repaired,
        stub='''
def pgd_repaired(model, x, y, eps, steps, generator):
    """PGD in l_inf. It runs, and two of its lines are wrong: mend them."""
    alpha = 2.5 * eps / steps
    noise = eps * torch.randn(x.shape, generator=generator)
    x_t = (x + noise.to(x)).clamp(0, 1)
    for _ in range(steps):
        gradient = input_gradient(model, x_t, y)
        x_new = x_t + alpha * gradient.sign()
        x_t = torch.clamp(x_new, x_t - eps, x_t + eps).clamp(0, 1)
    return x_t
''',
        hints=(
            "Measure what comes out: `(pgd_repaired(…) - x).abs().max()`, for 1 step and for 10. "
            "It should never exceed eps.",
            "One bug is in the start: from which distribution does `randn` draw, and does it have "
            "an edge? The other is in the projection: a ball has a centre.",
            "The start: `torch.rand` draws from [0, 1]; stretch and shift it to [-eps, eps]. The "
            "projection: which image stays where it is while `x_t` walks?",
        ),
        praise="A ball whose centre walks along is no ball, and success rates made with it are "
               "worth nothing.",
    ),
    Exercise(
        id="4.3", title="restarts that forget", solution=best_of_restarts,
        diagnose=_best_of_restarts,
        stub='''
def best_of_restarts(model, x, y, eps, steps, restarts, generator):
    """PGD with restarts. Every image is allowed, yet too few are fooled. Why?"""
    x_adv, alpha = x.clone(), 2.5 * eps / steps
    for _ in range(restarts):
        noise = norms.uniform_ball(x.shape, eps, "linf", generator).to(x)
        x_t = norms.project_box(x + noise, x, eps, "linf")
        for _ in range(steps):
            hit = evaluation.fooled(model, x_t, y)
            gradient = input_gradient(model, x_t, y)
            x_t = norms.project_box(x_t + alpha * gradient.sign(), x, eps, "linf")
        x_adv = torch.where(hit.view(-1, 1, 1, 1), x_t, x)
    return x_adv
''',
        hints=(
            "There are two mistakes, and neither makes an image illegal. Follow one image on "
            "paper: its first start succeeds, its second fails. What is returned?",
            "And when is `hit` computed? Follow `steps = 1`: which image is judged, and which one "
            "is returned?",
            "After which line is `x_t` final? And which variable holds the earlier successes when "
            "a later start fails?",
        ),
        praise="Once fooled, always fooled: worst cases are kept image by image, and the last step "
               "counts like any other.",
    ),
    Exercise(
        id="4.4", title="break the shield", solution=break_shield, diagnose=_break_shield,
        stub='''
def break_shield(model, x, y, eps, generator):
    """Images within eps (l_inf) that the shielded network gets wrong."""
    # as many lines as you like; anything from this course may be used
    return x
''',
        hints=(
            "PGD can only follow the gradient it gets. Print "
            "`input_gradient(model, x, y).abs().max()` for a few digits; then look at `model(x)`: "
            "how large are the logits?",
            "The gradient of the cross-entropy with respect to the logits is the softmax minus a "
            "vector that is 1 at the label and 0 elsewhere. What is the softmax of logits hundreds "
            "apart, in float32?",
            "Climb something that has no softmax in it: `pgd` takes a `loss`. Which quantity of "
            "this lesson is a plain difference of two logits?",
        ),
        praise="The shield stopped the attack that was tried, and no attacker.",
    ),
]
