"""The same weights, images and starts in other libraries: Foolbox and torchattacks.

Compared are the last iterates (nearly every pixel the same: a rounding can turn the sign of a
gradient that is almost zero) and the success, which may differ by one image in a hundred. Where
the libraries do something else than the papers say, a test shows by computation what and why:

- both judge the last iterate only; `iterate` keeps an earlier iterate where the last one does not
  fool, so its success is never lower, see test_success_is_never_lower_than_of_the_last_iterate;
- Foolbox's l_1 attacks step along g / ||g||_1 and project by rescaling, and SparseL1Descent takes
  one hundredth of the pixels, see the l_1 tests;
- Foolbox divides by max(||g||_2, 1e-12), see test_foolbox_loses_tiny_gradients;
- torchattacks divides momentum by the mean of |g|, not by ||g||_1: the same direction, as the
  constant number of pixels cancels in the sign; but 0 / 0 is NaN, see
  test_torchattacks_loses_momentum_at_a_zero_gradient.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from strategies import generator, labels
from torch import Tensor

from course_lib import datasets, models
from course_lib.attacks import fgsm, ifgsm, mifgsm, pgd
from course_lib.evaluation import fooled
from course_lib.norms import lp_norm, project, project_box, steepest_direction, uniform_ball

foolbox = pytest.importorskip("foolbox")
torchattacks = pytest.importorskip("torchattacks")
from foolbox.attacks import gradient_descent_base  # noqa: E402 - only where Foolbox is installed

EPS = {"linf": 0.1, "l2": 1.3, "l1": 8.0}
STEPS = 7


@functools.cache
def digits() -> SimpleNamespace:
    """The shipped network and 100 digits that it names correctly."""
    model, images = models.load("mnist_cnn", device="cpu"), datasets.mnist("test")[:150]
    right = labels(model, images.x) == images.y
    x, y = images.x[right][:100], images.y[right][:100]
    return SimpleNamespace(model=model, x=x, y=y, target=(y + 1) % 10)


def start(name: str) -> Tensor:
    d = digits()
    noise = uniform_ball(d.x.shape, EPS[name], name, generator(7))
    return project_box(d.x + noise, d.x, EPS[name], name)


def last_iterate(attack, **options) -> Tensor:
    """What an attack holds after its last step, before it remembers earlier successes."""
    d, seen = digits(), []
    attack(d.model, d.x, d.y, steps=STEPS, callback=lambda t, x_t: seen.append(x_t), **options)
    return seen[-1]


def run_foolbox(attack, eps: float, *, targeted: bool = False, noise: Tensor | None = None):
    d = digits()
    if noise is not None:
        attack.get_random_start = lambda x0, epsilon: foolbox.models.base.ep.astensor(noise)
    criterion = foolbox.criteria.TargetedMisclassification(d.target) if targeted else d.y
    model = foolbox.PyTorchModel(d.model, bounds=(0, 1), device="cpu")
    return attack.run(model, d.x, criterion, epsilon=eps)


def assert_same(ours: Tensor, theirs: Tensor, target: Tensor | None = None) -> None:
    d = digits()
    same = ((ours - theirs).abs() < 1e-4).float().mean()
    assert same > 0.99, f"{1 - same:.1%} of the pixels differ"
    shares = [fooled(d.model, x, d.y, target).float().mean() for x in (ours, theirs)]
    assert abs(shares[0] - shares[1]) <= 0.01 + 1e-6
    assert 0.05 < shares[0] < 1 or target is not None, "a success of 0 or 1 would compare nothing"


# --- where they follow the papers ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["linf", "l2"])
def test_fgsm_is_foolbox_fgm(name):
    attack = {"linf": foolbox.attacks.LinfFastGradientAttack,
              "l2": foolbox.attacks.L2FastGradientAttack}[name]()
    d = digits()
    ours = fgsm(d.model, d.x, d.y, eps=EPS[name], norm=name)
    assert_same(ours, run_foolbox(attack, EPS[name]))


@pytest.mark.parametrize("name", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_ifgsm_is_foolbox_basic_iterative(name, targeted):
    attack = {"linf": foolbox.attacks.LinfBasicIterativeAttack,
              "l2": foolbox.attacks.L2BasicIterativeAttack}[name]
    target = digits().target if targeted else None
    ours = last_iterate(ifgsm, eps=EPS[name], norm=name, target=target)
    theirs = run_foolbox(attack(rel_stepsize=1 / STEPS, steps=STEPS), EPS[name], targeted=targeted)
    assert_same(ours, theirs, target)


@pytest.mark.parametrize("name", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_pgd_is_foolbox_pgd_from_the_same_start(name, targeted):
    attack = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[name]
    target = digits().target if targeted else None
    ours = last_iterate(pgd, eps=EPS[name], norm=name, target=target, generator=generator(7))
    theirs = run_foolbox(attack(rel_stepsize=2.5 / STEPS, steps=STEPS), EPS[name],
                         targeted=targeted, noise=start(name))
    assert_same(ours, theirs, target)


def test_fgsm_is_torchattacks_fgsm():
    d = digits()
    ours = fgsm(d.model, d.x, d.y, eps=EPS["linf"])
    assert_same(ours, torchattacks.FGSM(d.model, eps=EPS["linf"])(d.x, d.y))


@pytest.mark.parametrize("attack, theirs, options", [
    (ifgsm, torchattacks.BIM, {}),
    (mifgsm, torchattacks.MIFGSM, {"decay": 1.0}),
    (functools.partial(mifgsm, mu=0.5), torchattacks.MIFGSM, {"decay": 0.5}),
], ids=["ifgsm", "mifgsm", "mifgsm-half"])
@pytest.mark.parametrize("targeted", [False, True])
def test_iterative_attacks_are_those_of_torchattacks(attack, theirs, options, targeted):
    d, eps = digits(), EPS["linf"]
    other = theirs(d.model, eps=eps, alpha=eps / STEPS, steps=STEPS, **options)
    if targeted:
        other.set_mode_targeted_by_function(lambda x, y: d.target)
    ours = last_iterate(attack, eps=eps, target=d.target if targeted else None)
    assert_same(ours, other(d.x, d.y), d.target if targeted else None)


def test_pgd_is_torchattacks_pgd_from_the_same_start():
    """torchattacks draws from the global generator; ours is handed the same numbers."""
    d, eps = digits(), EPS["linf"]
    ours = last_iterate(pgd, eps=eps, generator=generator(7))
    before = torch.get_rng_state()
    try:
        torch.manual_seed(7)
        other = torchattacks.PGD(d.model, eps=eps, alpha=2.5 * eps / STEPS, steps=STEPS)
        theirs = other(d.x, d.y)
    finally:
        torch.set_rng_state(before)
    assert_same(ours, theirs)


# --- where they do not --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linf", "l2", "l1"])
def test_success_is_never_lower_than_of_the_last_iterate(name):
    d = digits()
    for attack in (ifgsm, mifgsm):
        options = {"eps": EPS[name], "norm": name}
        last = fooled(d.model, last_iterate(attack, **options), d.y)
        ours = fooled(d.model, attack(d.model, d.x, d.y, steps=STEPS, **options), d.y)
        assert bool((ours | ~last).all())


def test_foolbox_l1_step_is_not_the_steepest():
    """Along g / ||g||_1 a linear loss gains ||g||_2^2 / ||g||_1 per unit of l_1 size; the largest
    pixel alone gains ||g||_inf, which is never less (||g||_2^2 <= ||g||_inf ||g||_1) and for
    gradients of images several times as much."""
    g = torch.randn(5, 1, 28, 28, generator=generator())
    step = gradient_descent_base.normalize_lp_norms(foolbox.models.base.ep.astensor(g), p=1).raw
    theirs, ours = ((g * d).flatten(1).sum(1) for d in (step, steepest_direction(g, "l1")))
    torch.testing.assert_close(theirs, lp_norm(g, 2) ** 2 / lp_norm(g, 1))
    torch.testing.assert_close(ours, lp_norm(g, "linf"))
    assert bool((ours > 2 * theirs).all())


def test_foolbox_l1_projection_is_a_rescaling():
    """Feasible, but farther away than the nearest point of the ball."""
    delta = torch.tensor([[3.0, 1.0, 0.0]])
    theirs = gradient_descent_base.clip_lp_norms(
        foolbox.models.base.ep.astensor(delta), norm=1.0, p=1).raw
    torch.testing.assert_close(theirs, torch.tensor([[0.75, 0.25, 0.0]]))
    assert lp_norm(delta - project(delta, 1.0, "l1"), 2) < lp_norm(delta - theirs, 2)


@pytest.mark.parametrize("name", ["L1PGD", "SparseL1DescentAttack"])
def test_l1_pgd_is_at_least_as_strong_as_foolbox(name):
    """Much stronger than its L1PGD, for the two reasons above. SparseL1Descent (Tramer and Boneh
    2019) steps along the signs of the top hundredth of the pixels, however large eps is."""
    d, eps = digits(), EPS["l1"]
    attack = getattr(foolbox.attacks, name)(rel_stepsize=2.5 / 10, steps=10)
    theirs = fooled(d.model, run_foolbox(attack, eps, noise=start("l1")), d.y).float().mean()
    x_adv = pgd(d.model, d.x, d.y, eps=eps, norm="l1", steps=10, generator=generator(7))
    ours = fooled(d.model, x_adv, d.y).float().mean()
    assert ours >= theirs - 0.01 - 1e-6
    if name == "L1PGD":
        assert ours > theirs + 0.2


def test_foolbox_loses_tiny_gradients():
    """A confident network has gradients of 1e-15. Divided by max(||g||_2, 1e-12) they become steps
    of a thousandth of the size asked for, and the attack stands still;
    `steepest_direction` has length 1."""
    g = torch.randn(2, 1, 4, 4, generator=generator())
    g = 1e-15 * g / lp_norm(g, 2).view(-1, 1, 1, 1)
    theirs = gradient_descent_base.normalize_lp_norms(foolbox.models.base.ep.astensor(g), p=2).raw
    torch.testing.assert_close(lp_norm(theirs, 2), torch.full((2,), 1e-3))
    torch.testing.assert_close(lp_norm(steepest_direction(g, "l2"), 2), torch.ones(2))


def test_torchattacks_loses_momentum_at_a_zero_gradient():
    """Divided by the mean of |g| = 0 the momentum becomes NaN for good, whose sign is 0: the image
    stops on the first plateau. The paper's sum would carry it across, and `mifgsm` does."""
    class Plateau(torch.nn.Linear):
        """The loss rises up to 0.65 and is flat from there on."""

        def forward(self, x: Tensor) -> Tensor:
            height = x.flatten(1).sum(1).clamp_max(0.65)
            return torch.stack([-height, height], 1)

    model, x, y = Plateau(1, 1), torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    theirs = torchattacks.MIFGSM(model, eps=0.4, alpha=0.1, steps=4)(x, y)
    ours = []
    mifgsm(model, x, y, eps=0.4, steps=4, callback=lambda t, x_t: ours.append(x_t.item()))
    assert theirs.item() == pytest.approx(0.7) and ours[-1] == pytest.approx(0.9)
