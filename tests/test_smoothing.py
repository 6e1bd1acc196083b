"""Randomised smoothing against classifiers whose smoothed twin is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom
from strategies import (
    Small,
    assert_untouched,
    convolutional,
    generator,
    images,
    labels,
    linear,
    trace,
    trained,
    unusual,
)
from torch import Tensor, nn

from course_lib import evaluation, smoothing
from course_lib.attacks import pgd
from course_lib.exercises.diagnoses import Watching
from course_lib.norms import lp_norm
from course_lib.smoothing import ABSTAIN, Certificates, certified_accuracy, certify, lower_bound

SIGMA = 0.4


def plain(n: int = 40) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model of two classes, images, and their exact l_2 distance to the hyperplane.

    Gaussian noise is symmetric, so the smoothed classifier is the model itself.
    """
    model, x = linear(2), images(n, (1, 3, 4))
    w = model[1].weight.detach()
    # The images on both sides, some close to the border.
    model[1].bias.data += torch.tensor([1.0, -1.0]) * (model(x).diff().mean() / 2)
    distance = model(x).detach().diff().abs().squeeze(1) / (w[1] - w[0]).norm()
    return model, x, distance


class Constant(nn.Module):
    """Names class 2 of 3 for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[0.0, 0.0, 1.0]]).repeat(len(x), 1)


class Coin(nn.Module):
    """Names a class by the third decimal of the first pixel: with noise, a fair coin."""

    def forward(self, x: Tensor) -> Tensor:
        heads = ((x[:, 0, 0, 0] * 1000).floor() % 2).float()
        return torch.stack([heads, 1 - heads], 1)


# --- the radius ---------------------------------------------------------------------------------

def test_the_smoothed_linear_classifier_is_the_classifier():
    model, x, distance = plain()
    found = certify(model, x, sigma=SIGMA)
    assert found.labels.dtype == torch.int64 and found.radii.dtype == torch.float32
    sure = found.labels != ABSTAIN
    assert torch.equal(found.labels[sure], labels(model, x)[sure])
    assert bool(sure[distance > SIGMA / 2].all())  # there the winner has 69 % of the votes
    assert torch.equal(found.radii > 0, sure)
    assert bool((found.radii <= distance).all())
    assert len(set(found.labels[sure].tolist())) == 2


def test_with_many_samples_the_radius_comes_close_to_the_distance():
    model, x, distance = plain()
    near = (distance > 0.1) & (distance < 2 * SIGMA)
    assert near.sum() >= 8
    x, distance = x[near][:8], distance[near][:8]
    few, many = (certify(model, x, sigma=SIGMA, samples=n).radii for n in (100, 20_000))
    assert bool((many <= distance).all()) and bool((few < many).all())
    assert bool((distance - many < 0.06 * SIGMA).all())


def share_of_wrong_radii(alpha: float, n: int = 1500) -> float:
    """How often the statement about an image is wrong: another class, or too large a radius."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).eval()
    model[1].weight.data = torch.tensor([[-1.0], [1.0]])  # the distance to 0 is the pixel itself
    x = torch.linspace(0.0, 0.6, n).view(n, 1, 1, 1)
    found = certify(model, x, sigma=SIGMA, samples=100, select=10, alpha=alpha)
    wrong = (found.labels == 0) | (found.radii > x.flatten())
    return wrong.double().mean().item()


def test_at_most_alpha_of_the_statements_are_wrong():
    wrong = share_of_wrong_radii(0.1)
    assert 0.03 < wrong < 0.1 + 3 * math.sqrt(0.1 * 0.9 / 1500)


@pytest.mark.parametrize("bound", [
    lambda hits, n, alpha: hits / n,  # no bound
    lambda hits, n, alpha: hits / n - 0.5 * math.sqrt(hits * (n - hits) / n**3),  # too short a one
])
def test_a_rate_that_is_no_bound_is_wrong_too_often(monkeypatch, bound):
    monkeypatch.setattr(smoothing, "lower_bound", bound)
    assert share_of_wrong_radii(0.1) > 0.2


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("hits, n", [(1, 1), (1, 10), (7, 10), (10, 10), (990, 1000)])
def test_the_bound_is_exact_and_one_sided(hits, n, alpha):
    """At the bound, as many hits or more have probability alpha; two-sided, it would be alpha/2."""
    assert binom.sf(hits - 1, n, lower_bound(hits, n, alpha)) == pytest.approx(alpha, rel=1e-6)


def test_no_hit_bounds_nothing():
    assert lower_bound(0, 10, 0.001) == 0.0


@pytest.mark.parametrize("samples, alpha", [(100, 0.001), (1000, 0.05), (12, 0.2)])
def test_the_largest_radius_that_samples_can_certify(samples, alpha):
    """All votes for one class give p_A = alpha^(1/samples), in closed form."""
    found = certify(Constant(), images(3), sigma=SIGMA, samples=samples, alpha=alpha)
    largest = SIGMA * torch.special.ndtri(torch.tensor(alpha, dtype=torch.float64) ** (1 / samples))
    assert found.labels.tolist() == [2, 2, 2]
    torch.testing.assert_close(found.radii, largest.float().expand(3))


def test_more_noise_certifies_larger_radii_of_a_constant_model():
    radii = [certify(Constant(), images(1), sigma=sigma).radii.item() for sigma in (0.25, 0.5, 1.0)]
    assert radii == pytest.approx([radii[0], 2 * radii[0], 4 * radii[0]])


def test_it_abstains_where_no_class_has_the_majority():
    found = certify(Coin(), images(30), sigma=SIGMA)
    assert found.labels.tolist() == [ABSTAIN] * 30 and found.radii.tolist() == [0.0] * 30
    model = linear(2)
    model[1].bias.data -= model(torch.full((1, 1, 3, 4), 0.5))[0]  # 0.5 lies on the border
    found = certify(model, torch.full((30, 1, 3, 4), 0.5), sigma=SIGMA)
    assert found.labels.tolist() == [ABSTAIN] * 30


def test_one_sample_is_too_few_to_certify():
    assert certify(Constant(), images(1), sigma=SIGMA, samples=1).labels.tolist() == [ABSTAIN]


# --- attacks ------------------------------------------------------------------------------------

class Smoothed(nn.Module):
    """The smoothed classifier as an attack sees it: the log of the mean probability in noise."""

    def __init__(self, model: nn.Module, shape: torch.Size, n: int = 60) -> None:
        super().__init__()
        self.model = model
        self.noise = SIGMA * torch.randn((n, 1, *shape), generator=generator(7))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.model((x + self.noise).flatten(0, 1)).log_softmax(1)
        return scores.view(len(self.noise), len(x), -1).logsumexp(0) - math.log(len(self.noise))


@pytest.fixture(scope="module")
def attacked():
    """A trained model, its images, their certificates, and how to attack the smoothed model."""
    small = trained()
    x = small.x[:40]
    found = certify(small.model, x, sigma=SIGMA)
    good = found.labels != ABSTAIN
    assert good.sum() >= 20

    def again(scale: float, net: nn.Module) -> Tensor:
        """The certified labels after an attack with `scale` times each image's own radius."""
        x_adv = torch.cat([
            pgd(net, x[i:i + 1], found.labels[i:i + 1], eps=scale * found.radii[i].item(),
                norm="l2", steps=20) for i in torch.nonzero(good).flatten().tolist()])
        sizes = lp_norm(x_adv - x[good], "l2") / found.radii[good]
        assert 0.5 * scale < sizes.median() <= scale * 1.001
        return certify(small.model, x_adv, sigma=SIGMA, generator=generator(9)).labels

    return again, small.model, Smoothed(small.model, x.shape[1:]), found.labels[good]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["the model", "the smoothed model"])
def test_no_attack_below_the_radius_changes_the_smoothed_class(attacked, kind):
    again, model, smooth, before = attacked
    after = again(0.99, smooth if kind == "the smoothed model" else model)
    assert bool(((after == before) | (after == ABSTAIN)).all())


@pytest.mark.slow
def test_the_same_attack_well_beyond_the_radius_changes_it(attacked):
    again, _, smooth, before = attacked
    after = again(4.0, smooth)
    assert ((after != before) & (after != ABSTAIN)).sum() >= 5


# --- the noise ----------------------------------------------------------------------------------

def test_the_noise_is_gaussian_fresh_and_leaves_the_box():
    spy = Watching(Constant())
    x = images(2)
    certify(spy, x, sigma=SIGMA, samples=250, select=130)
    asked = torch.cat(spy.seen)
    assert len(asked) == 2 * (250 + 130)
    noise = asked - x.repeat_interleave(380, 0)
    assert noise.flatten(1).unique(dim=0).shape[0] == 760
    assert abs(noise.mean()) < 0.01 and noise.std().item() == pytest.approx(SIGMA, rel=0.02)
    assert noise.abs().max() > 3 * SIGMA and asked.min() < -0.5 and asked.max() > 1.5


def test_the_result_depends_on_seed_and_place_only(monkeypatch):
    model, x = convolutional(), images(6)
    found = certify(model, x, sigma=SIGMA, samples=300)
    assert len(found.radii.unique()) > 1
    first = certify(model, x[:2], sigma=SIGMA, samples=300)
    other = certify(model, torch.cat([x[:2], 1 - x[2:]]), sigma=SIGMA, samples=300)
    for part in (first, other):
        assert torch.equal(part.labels[:2], found.labels[:2])
        assert torch.equal(part.radii[:2], found.radii[:2])
    monkeypatch.setattr(evaluation, "_batch", lambda x: 7)
    parts = certify(model, x, sigma=SIGMA, samples=300)
    assert all(map(torch.equal, parts, found))
    fresh = certify(model, x, sigma=SIGMA, samples=300, generator=generator(1))
    assert not torch.equal(fresh.radii, found.radii)


def test_a_gpu_whose_memory_ends_changes_nothing():
    model, x = convolutional(), images(3)
    assert all(map(torch.equal, certify(Small(model, 11), x, sigma=SIGMA),
                   certify(model, x, sigma=SIGMA)))


def test_more_samples_only_go_on_with_the_noise():
    """The noise comes in blocks of one size, so a longer run begins like the shorter one."""
    asked = []
    for samples in (200, 500):
        spy = Watching(Constant())
        certify(spy, images(1), sigma=SIGMA, samples=samples)
        asked.append(torch.cat(spy.seen)[:300])
    assert torch.equal(*asked)


def test_nothing_is_left_behind():
    model, x = unusual(convolutional()), images(3)
    before, clean = trace(model), x.clone()
    found = certify(model, x.requires_grad_(), sigma=SIGMA)
    assert_untouched(model, before)
    assert torch.equal(x, clean) and x.grad is None and not found.radii.requires_grad


def test_double_precision_is_welcome():
    model, x, distance = plain(4)
    found = certify(model.double(), x.double(), sigma=SIGMA)
    assert found.radii.dtype == torch.float32 and bool((found.radii <= distance).all())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_certifies_the_same():
    model, x, _ = plain(8)
    here = certify(model, x, sigma=SIGMA)
    there = certify(model.cuda(), x.cuda(), sigma=SIGMA)
    assert there.labels.is_cuda and there.radii.is_cuda
    assert torch.equal(there.labels.cpu(), here.labels)
    torch.testing.assert_close(there.radii.cpu(), here.radii, atol=0.01, rtol=0)


# --- certified accuracy -------------------------------------------------------------------------

FOUND = Certificates(torch.tensor([0, 1, 2, ABSTAIN]), torch.tensor([0.5, 0.25, 1.0, 0.0]))
TRUTH = torch.tensor([0, 1, 0, 3])


def test_certified_accuracy_counts_right_classes_with_at_least_the_radius():
    radii = [0, 0.25, 0.26, 0.5, 0.75]
    assert certified_accuracy(FOUND, TRUTH, radii) == [0.5, 0.5, 0.25, 0.25, 0.0]
    assert certified_accuracy(FOUND, TRUTH, []) == []


# --- errors -------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, message", [
    ({"sigma": 0.0}, "use a finite number > 0"),
    ({"sigma": -0.1}, "use a finite number > 0"),
    ({"sigma": math.nan}, "use a finite number > 0"),
    ({"sigma": math.inf}, "use a finite number > 0"),
    ({"samples": 0}, "samples = 0: use at least one"),
    ({"select": 0}, "select = 0: use at least one"),
    ({"alpha": 0.0}, "between 0 and 1"),
    ({"alpha": 1.0}, "between 0 and 1"),
    ({"alpha": math.nan}, "between 0 and 1"),
])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        certify(Constant(), images(2), **{"sigma": SIGMA, **options})


@pytest.mark.parametrize("model, x, message", [
    (Constant(), images(2) * 255, "divide 0-255 images by 255"),
    (Constant(), images(2)[0], "add a batch dimension"),
    (Constant(), images(2)[:0], "at least one image"),
    (Constant(), (images(2) * 255).byte(), "must be a float tensor"),
    (convolutional(), images(2).double(), "convert one with"),
    (nn.Flatten(0), images(2), r"must return logits \[batch, classes\]"),
    (nn.Identity(), images(2), r"must return logits \[batch, classes\]"),
    (nn.Threshold(1e9, math.nan), images(2), "NaN or infinite"),
])
def test_bad_images_and_models(model, x, message):
    with pytest.raises(ValueError, match=message):
        certify(model, x, sigma=SIGMA)


@pytest.mark.parametrize("y, radii, message", [
    (TRUTH[:3], [0.0], r"one label for each certificate, not torch.int64 \[3\]"),
    (TRUTH.float(), [0.0], "must be an int64 tensor"),
    (TRUTH[:, None], [0.0], r"shape \[4\]"),
    ([0, 1, 0, 3], [0.0], r"int64 tensor .*not \[0, 1, 0, 3\]"),
    (torch.tensor([0, 1, 0, -1]), [0.0], "negative label"),
    (TRUTH, [0.1, -0.1], "-0.1 is no radius"),
    (TRUTH, [math.nan], "nan is no radius"),
    (TRUTH, [math.inf], "inf is no radius"),
])
def test_bad_labels_and_radii(y, radii, message):
    with pytest.raises(ValueError, match=message):
        certified_accuracy(FOUND, y, radii)
