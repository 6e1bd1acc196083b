"""The context that leaves no trace, gradients against finite differences, losses by definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    PROPERTY,
    assert_untouched,
    batches,
    convolutional,
    generator,
    images,
    labels,
    linear,
    trace,
    unusual,
)
from torch import nn

from course_lib.gradients import frozen, input_gradient, logits_and_gradient
from course_lib.losses import cross_entropy, dlr, margin, objective
from course_lib.norms import steepest_step

LOSSES = (cross_entropy, margin, dlr)


def smooth(classes: int = 4) -> nn.Module:
    """Differentiable everywhere, so that finite differences converge; in double precision."""
    model = convolutional(classes).double()
    model[2] = model[5] = nn.Softplus()
    return model


# --- attacking ----------------------------------------------------------------------------------


def test_inside_the_model_is_in_eval_mode_and_frozen():
    model = unusual(convolutional())
    with frozen(model) as lent:
        assert lent is model
        assert not any(module.training for module in model.modules())
        assert not any(p.requires_grad for p in model.parameters())


def test_everything_is_restored():
    model = unusual(convolutional())
    before = trace(model)
    with frozen(model):
        model(images())
    assert_untouched(model, before)


def test_everything_is_restored_after_an_exception():
    model = unusual(convolutional())
    before = trace(model)
    with pytest.raises(KeyError), frozen(model):
        raise KeyError
    assert_untouched(model, before)


def test_everything_is_restored_when_eval_itself_fails():
    class Stubborn(nn.Linear):
        def train(self, mode: bool = True) -> nn.Module:
            if not mode:
                raise RuntimeError("no eval mode")
            return super().train(mode)

    model = unusual(convolutional())
    model.append(Stubborn(4, 4))
    before = trace(model)
    with pytest.raises(RuntimeError, match="no eval"), frozen(model):
        pass
    assert_untouched(model, before)


def test_nested_use_restores_in_two_steps():
    model = unusual(convolutional())
    before = trace(model)
    with frozen(model):
        with frozen(model):
            pass
        assert not model.training and not model[1].weight.requires_grad
    assert_untouched(model, before)


def test_shared_layers_and_weights_are_restored():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.Dropout(), layer).train()
    before = trace(model)
    with frozen(model):
        assert not layer.weight.requires_grad
    assert_untouched(model, before)


# --- input_gradient -----------------------------------------------------------------------------


def finite_differences(f, x: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        shift = torch.zeros_like(x).view(-1)
        shift[i] = step
        shift = shift.view_as(x)
        gradient.view(-1)[i] = (f(x + shift) - f(x - shift)) / (2 * step)
    return gradient


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("targeted", [False, True])
def test_gradient_equals_finite_differences(loss, targeted):
    model, x = smooth(), images(2, (3, 4, 3)).double() * 0.8 + 0.1
    y, target = torch.tensor([0, 3]), torch.tensor([2, 1])

    def climbed(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return objective(model(x), y, target if targeted else None, loss).sum()

    gradient = input_gradient(model, x, y, target=target if targeted else None, loss=loss)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(gradient, finite_differences(climbed, x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_does_not_depend_on_companions(loss):
    """Neither on their number: a mean over the batch would divide by it."""
    model, x = smooth(), images(5).double()
    y = torch.tensor([0, 1, 2, 3, 0])
    together = input_gradient(model, x, y, loss=loss)
    for i in range(5):
        alone = input_gradient(model, x[i:i + 1], y[i:i + 1], loss=loss)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-12)


def test_gradient_of_a_linear_model_is_known():
    """d cross-entropy / dx = W^T (softmax(z) - onehot(y))"""
    model, x, y = linear(), images(4, (1, 3, 4)), torch.tensor([0, 1, 2, 0])
    weight = model[1].weight
    expected = (model(x).softmax(1) - nn.functional.one_hot(y, 3)) @ weight
    torch.testing.assert_close(input_gradient(model, x, y).flatten(1), expected.detach())


def test_gradient_is_taken_in_eval_mode_and_leaves_no_trace():
    model = unusual(convolutional())
    x, y = images(), torch.tensor([0, 1, 2, 3, 0, 1])
    before = trace(model)
    gradient = input_gradient(model, x, y)
    assert_untouched(model, before)
    assert torch.equal(gradient, input_gradient(model, x, y)), "dropout must be still"
    torch.testing.assert_close(gradient, input_gradient(model.eval(), x, y), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_looks_like_the_images(dtype):
    model, x = convolutional().to(dtype), images().to(dtype).requires_grad_()
    y = labels(model, x)
    kept = x.detach().clone()
    with torch.no_grad():
        gradient = input_gradient(model, x, y)
    assert gradient.shape == x.shape and gradient.dtype == dtype and gradient.device == x.device
    assert not gradient.requires_grad and x.grad is None and x.requires_grad
    assert torch.equal(x, kept)


def test_one_pass_gives_the_logits_and_the_gradient():
    model, x, y = convolutional(), images(), torch.tensor([0, 1, 2, 3, 0, 1])
    with frozen(model):
        logits, gradient = logits_and_gradient(model, x, y)
        torch.testing.assert_close(logits, model(x))
    assert not logits.requires_grad
    torch.testing.assert_close(gradient, input_gradient(model, x, y), rtol=0, atol=0)


class Root(nn.Module):
    """Has no finite derivative where a pixel is 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.sqrt().sum((1, 2, 3)), x.sum((1, 2, 3))], 1)


def test_an_infinite_gradient_is_reported_at_the_first_pass():
    with pytest.raises(ValueError, match=r"derivative.*add a small constant"):
        input_gradient(Root(), torch.zeros(1, 1, 2, 2), torch.tensor([1]))


def test_a_later_undefined_gradient_moves_nothing():
    x = torch.tensor([[[[0.0, 0.25]]]])
    _, gradient = logits_and_gradient(Root(), x, torch.tensor([1]), loss=lambda z, y: 0 * z[:, 0])
    assert gradient.flatten().tolist() == [0.0, 0.0]


class Steep(nn.Module):
    """Two pixels; the derivative by the first is infinite where it is 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.flatten(1).unbind(1)
        return torch.stack([first.sqrt() + second, torch.zeros_like(first)], 1)


def test_a_later_infinite_gradient_does_not_take_the_whole_step():
    x = torch.tensor([[[[0.0, 0.5]]]])
    _, gradient = logits_and_gradient(Steep(), x, torch.tensor([1]), loss=margin)
    assert gradient.flatten().tolist() == [0.0, 1.0]
    assert steepest_step(x, gradient, 0.25, "l2").flatten().tolist() == [0.0, 0.75]


# --- losses -------------------------------------------------------------------------------------


@st.composite
def logits_and_labels(draw: st.DrawFn, fewest: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    classes = draw(st.integers(fewest, 6))
    z = draw(batches(-30.0, 30.0, most=1)).repeat(1, classes)
    z = z + torch.randn(z.shape, generator=generator(draw(st.integers(0, 99)))) * 5
    return z, torch.tensor([draw(st.integers(0, classes - 1)) for _ in z])


@PROPERTY
@given(logits_and_labels())
def test_cross_entropy_by_definition(pair):
    z, y = pair
    values = cross_entropy(z, y).tolist()
    for row, label, value in zip(z.double().tolist(), y.tolist(), values, strict=True):
        top = max(row)
        expected = top + math.log(sum(math.exp(v - top) for v in row)) - row[label]
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-5)


@PROPERTY
@given(logits_and_labels())
def test_margin_by_definition(pair):
    z, y = pair
    values = margin(z, y)
    for row, label, value in zip(z.tolist(), y.tolist(), values.tolist(), strict=True):
        others = row[:label] + row[label + 1:]
        assert value == pytest.approx(max(others) - row[label], rel=1e-5, abs=1e-5)
    assert torch.equal(values > 0, z.argmax(1) != y)


@PROPERTY
@given(logits_and_labels(fewest=3), st.sampled_from([1e-3, 7.0]), st.sampled_from([-5.0, 3.0]))
def test_dlr_by_definition(pair, scale, shift):
    z, y = pair
    values = dlr(z, y)
    for row, label, value in zip(z.double().tolist(), y.tolist(), values.tolist(), strict=True):
        others, ordered = row[:label] + row[label + 1:], sorted(row, reverse=True)
        expected = -(row[label] - max(others)) / (ordered[0] - ordered[2])
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-4)
    torch.testing.assert_close(dlr(z.double() * scale + shift, y), dlr(z.double(), y),
                               rtol=1e-6, atol=1e-6)


@PROPERTY
@given(logits_and_labels(fewest=3), st.sampled_from([1e-3, 7.0]), st.sampled_from([-5.0, 3.0]))
def test_targeted_dlr_by_definition(pair, scale, shift):
    """Croce and Hein 2020; of three classes the third takes the fourth's place."""
    z, y = pair
    z, target = z.double(), (y + 1) % z.shape[1]
    values = dlr(z, y, target)
    for row, label, goal, value in zip(*(t.tolist() for t in (z, y, target, values)), strict=True):
        ordered = sorted(row, reverse=True)
        mean = (ordered[2] + ordered[min(3, len(row) - 1)]) / 2
        assert value == pytest.approx(-(row[label] - row[goal]) / (ordered[0] - mean), rel=1e-6)
    torch.testing.assert_close(dlr(z * scale + shift, y, target), values, rtol=1e-6, atol=1e-6)


def test_a_targeted_attack_climbs_the_targeted_dlr():
    z, y, target = torch.tensor([[4.0, 2.0, 3.0, 1.0]]), torch.tensor([0]), torch.tensor([1])
    assert objective(z, y, target, dlr).item() == pytest.approx(-2 / 2.5)
    assert -dlr(z, target).item() == pytest.approx(-2 / 2), "which is another loss"
    assert objective(z, y, None, dlr).item() == dlr(z, y).item()


def test_dlr_of_equal_logits_is_finite():
    assert dlr(torch.zeros(1, 4), torch.tensor([1])).item() == 0
    assert dlr(torch.zeros(1, 4), torch.tensor([1]), torch.tensor([2])).item() == 0


def test_dlr_needs_three_classes():
    with pytest.raises(ValueError, match="use loss=margin"):
        dlr(torch.zeros(1, 2), torch.tensor([0]))


def test_losses_do_not_change_the_logits():
    z = torch.randn(3, 4, generator=generator())
    kept, y = z.clone(), torch.tensor([0, 1, 2])
    for loss in LOSSES:
        loss(z, y)
        assert torch.equal(z, kept)


def test_the_objective_turns_for_a_target():
    z = torch.randn(2, 4, generator=generator())
    y, target = torch.tensor([0, 1]), torch.tensor([2, 3])
    assert torch.equal(objective(z, y, None, margin), margin(z, y))
    assert torch.equal(objective(z, y, target, margin), -margin(z, target))
