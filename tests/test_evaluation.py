"""The judge: worst case over attacks, transfer, curves."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from strategies import (
    EPS,
    Wrapped,
    assert_untouched,
    generator,
    strong,
    trace,
)
from torch import nn

from course_lib import evaluation
from course_lib.attacks import fgsm, ifgsm, pgd
from course_lib.evaluation import (
    accuracy_curve,
    eight_bits,
    robust_accuracy,
    transfer_matrix,
)
from course_lib.norms import NORMS
from course_lib.sanity import sanity_checks
from course_lib.scoreboard import measure

# --- robust accuracy ----------------------------------------------------------------------------

def test_worst_case_over_attacks_image_by_image(small):
    half = torch.arange(len(small.x)) % 2 == 0

    def breaks(which):
        x_adv = fgsm(small.model, small.x, small.y, eps=1.0)
        table = {row.numpy().tobytes(): i for i, row in enumerate(small.x)}

        def attack(model, x, y):
            rows = torch.tensor([table[row.numpy().tobytes()] for row in x])
            return torch.where(which[rows].view(-1, 1, 1, 1), x_adv[rows], x)
        return attack

    broken = evaluation.fooled(small.model, fgsm(small.model, small.x, small.y, eps=1.0), small.y)
    report = robust_accuracy(small.model, small.x, small.y,
                             {"even": breaks(half), "odd": breaks(~half)})
    assert torch.equal(report.fooled, broken)
    assert report.per_attack["even"] > report.per_attack["odd"] == report.robust
    assert report.robust == pytest.approx((~broken).double().mean().item())
    assert report.clean == 1.0


def test_later_attacks_see_only_what_still_stands(small):
    seen = []

    def spy(model, x, y):
        seen.append(len(x))
        return x

    first = robust_accuracy(small.model, small.x, small.y, [functools.partial(fgsm, eps=EPS)])
    report = robust_accuracy(small.model, small.x, small.y, [functools.partial(fgsm, eps=EPS), spy])
    assert sum(seen) == int((~first.fooled).sum()) < len(small.x)
    assert report.robust == first.robust


def test_images_wrong_from_the_start_count_as_fooled_and_are_not_attacked(small):
    wrong = (small.y + 1) % 4

    def never(model, x, y):
        raise AssertionError("nothing is left to attack")

    report = robust_accuracy(small.model, small.x, wrong, {"never": never})
    assert report.clean == report.robust == 0 and bool(report.fooled.all())


def test_chunks_change_nothing(small):
    attack = functools.partial(ifgsm, eps=EPS)
    whole, parts = (robust_accuracy(small.model, small.x, small.y, [attack], batch_size=n)
                    for n in (1000, 7))
    assert torch.equal(whole.fooled, parts.fooled) and whole.robust == parts.robust


def test_photographs_go_through_in_smaller_chunks_than_digits():
    assert evaluation._batch(torch.zeros(1, 1, 28, 28)) == 256
    assert evaluation._batch(torch.zeros(1, 3, 224, 224)) == 55
    assert evaluation._batch(torch.zeros(1, 3, 4000, 4000)) == 1


def test_rounding_to_8_bits_can_save_an_image():
    class Threshold(nn.Module):
        def forward(self, x):
            margin = x.flatten(1)[:, :1] - 0.5021
            return torch.cat([margin, -margin], 1)

    def judged(x, y, *found, eps=None):
        x, *found = (torch.full((1, 1, 1, 1), value) for value in (x, *found))
        attacks = [lambda m, x, y, x_adv=x_adv: x_adv for x_adv in found]
        report = robust_accuracy(Threshold(), x, torch.tensor([y]), attacks, eps=eps)
        return report.robust, report.robust_8bit

    # 0.50205 and 0.5022 both become 128/255 = 0.50196, unless that is outside the ball.
    assert judged(0.6, 0, 0.50205) == (0, 0)
    assert judged(0.4, 1, 0.5022) == (0, 1)
    assert judged(0.6, 0, 0.50205, eps=0.098) == (0, 1)  # 129/255 is the next one inside
    # What one attack cannot save, the next one may, in whatever order.
    assert judged(0.4, 1, 0.5022, 0.51) == judged(0.4, 1, 0.51, 0.5022) == (0, 0)


def test_eight_bits_leaves_what_came_from_a_file():
    levels = torch.arange(256) / 255
    assert torch.equal(eight_bits(levels), levels)


@pytest.mark.parametrize(("attack", "message"), [
    (lambda m, x, y: x + 0.5, "0, 1"),
    (lambda m, x, y: x * torch.nan, "0, 1"),
    (lambda m, x, y: x[:1], "shape"),
    (lambda m, x, y: None, "NoneType"),
])
def test_what_is_no_image_is_refused(small, attack, message):
    with pytest.raises(ValueError, match=f"planted returned.*{message}"):
        robust_accuracy(small.model, small.x, small.y, {"planted": attack})


def test_what_leaves_the_ball_is_refused(small):
    far = functools.partial(fgsm, eps=2 * EPS)
    with pytest.raises(ValueError, match=r"far left the ball: l_inf size 0\.3 for eps = 0\.15"):
        robust_accuracy(small.model, small.x, small.y, {"far": far}, eps=EPS)
    with pytest.raises(ValueError, match=r"far left the ball: l_2 size .* for eps = 0\.15"):
        robust_accuracy(small.model, small.x, small.y, {"far": far}, eps=EPS, norm="l2")
    # Where nobody knows eps, the report says how far the attack went.
    report = robust_accuracy(small.model, small.x, small.y,
                             [lambda m, x, y: fgsm(m, x, y, eps=0.2)])
    assert report.size == pytest.approx(0.2, abs=1e-6) and "0.2" in repr(report)


def test_report_reads_well(small):
    weak = [functools.partial(fgsm, eps=EPS / 50), functools.partial(ifgsm, eps=EPS / 20)]
    text = repr(robust_accuracy(small.model, small.x, small.y, [*weak, *weak]))
    assert text.splitlines()[0].split() == ["clean", "100.0%"]
    for words in ("after fgsm ", "after ifgsm (2) ", f"on {len(small.x)} images", "8 bits"):
        assert words in text
    assert "tensor" not in text and len(text.splitlines()) == 6


def test_nothing_is_left_on_the_model(small):
    before = trace(small.model)
    robust_accuracy(small.model, small.x, small.y, [strong()])
    sanity_checks(small.model, small.x, small.y, eps=EPS, generator=generator(), queries=5)
    measure("PGD", strong(), small.model, small.x, small.y)
    assert_untouched(small.model, before)


def test_bad_input_is_refused(small):
    with pytest.raises(ValueError, match="no attacks"):
        robust_accuracy(small.model, small.x, small.y, [])
    with pytest.raises(ValueError, match="divide 0-255 images"):
        robust_accuracy(small.model, small.x * 255, small.y, [strong()])
    with pytest.raises(ValueError, match="radius"):
        robust_accuracy(small.model, small.x, small.y, [strong()], eps=-1.0)


# --- curves and transfer ------------------------------------------------------------------------

@pytest.mark.parametrize("p", NORMS)
def test_accuracy_falls_with_eps(small, p):
    d = small.x[0].numel()
    unit = {"linf": 1.0, "l2": math.sqrt(d), "l1": d}[p]
    levels = [share * unit for share in (0, 0.05, 0.1, 0.3, 1)]
    curve = accuracy_curve(small.model, small.x, small.y, levels,
                           functools.partial(pgd, generator=generator()), norm=p)
    assert curve[0] == 1.0 and curve[-1] == 0.0
    assert curve == sorted(curve, reverse=True)


def test_an_attack_that_ignores_eps_gets_no_curve(small):
    with pytest.raises(ValueError, match=r"eps = 0 left the ball"):
        accuracy_curve(small.model, small.x, small.y, [0.0, 0.1],
                       lambda model, x, y, eps, norm: fgsm(model, x, y, eps=0.1))


def test_transfer_attacks_each_source_once_and_counts_common_images(small):
    other = nn.Sequential(nn.Flatten(), nn.Linear(56, 4))
    with torch.no_grad():
        patterns = torch.stack([small.x[small.y == k].mean(0).flatten() for k in range(4)])
        other[1].weight.copy_(patterns)
        other[1].bias.copy_(-patterns.square().sum(1) / 2)
    calls = []

    def attack(model, x, y):
        calls.append(model)
        return fgsm(model, x, y, eps=0.3)

    nets = {"cnn": small.model, "nearest mean": other}
    result = transfer_matrix(nets, nets, small.x, small.y, attack=attack)
    assert calls == [small.model, other]
    right = ~evaluation.fooled(other, small.x, small.y)
    assert result.images == int(right.sum())
    x_adv = fgsm(small.model, small.x[right], small.y[right], eps=0.3)
    assert result.success[0, 1].item() == pytest.approx(
        100 * evaluation.fooled(other, x_adv, small.y[right]).float().mean().item())
    assert result.sources == result.targets == ["cnn", "nearest mean"]
    with pytest.raises(ValueError, match="by all the networks"):
        transfer_matrix(nets, nets, small.x, (small.y + 1) % 4, attack=attack)


# --- strong -------------------------------------------------------------------------------------

def test_strong_is_the_worst_case_of_four_attacks(small):
    report = robust_accuracy(small.model, small.x, small.y, "strong", eps=EPS)
    assert list(report.per_attack) == ["APGD-CE", "APGD-T", "PGD", "Square"]
    left = list(report.per_attack.values())
    assert left == sorted(left, reverse=True) and left[-1] == report.robust
    alone = robust_accuracy(small.model, small.x, small.y, [strong()])
    assert report.robust <= alone.robust < report.clean


def test_strong_needs_an_eps_and_is_the_only_name(small):
    for attacks, eps in (("strong", None), ("weak", 0.1)):
        with pytest.raises(ValueError, match='write attacks="strong", eps'):
            robust_accuracy(small.model, small.x, small.y, attacks, eps=eps)


# --- the judge ----------------------------------------------------------------------------------

def test_the_judge_does_not_mind_autocast(small):
    with torch.autocast("cpu", torch.bfloat16):
        inside = evaluation.logits(small.model, small.x)
    assert torch.equal(inside, evaluation.logits(small.model, small.x))


def test_tf32_is_off_in_the_judge_and_as_before_after_it(small):
    class Asked(nn.Module):
        def forward(self, x):
            seen.append((matmul.allow_tf32, cudnn.allow_tf32))
            return small.model(x)

    seen, matmul, cudnn = [], torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
        evaluation.logits(Asked(), small.x)
        assert seen == [(False, False)] and matmul.allow_tf32 and cudnn.allow_tf32
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def test_a_logit_that_is_nan_is_never_a_class(small):
    sick = Wrapped(small.model, after=lambda z: z.index_fill(1, torch.tensor([1]), torch.nan))
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        evaluation.fooled(sick, small.x, small.y)


def test_shares_are_exact():
    x, y = torch.eye(10).view(10, 1, 1, 10), torch.arange(10)
    assert evaluation.accuracy(nn.Flatten(), x, torch.where(y < 3, (y + 1) % 10, y)) == 0.7
