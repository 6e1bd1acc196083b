"""What a changed pixel reaches, computed alone, against whole images."""

from __future__ import annotations

import pytest
import torch
from strategies import generator
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from course_lib import models
from course_lib.gradients import frozen
from course_lib.windows import OnePixelPasses

ROWS, COLUMNS = 11, 8


def everywhere(
    rows: int = ROWS, columns: int = COLUMNS, channels: int = 2
) -> tuple[Tensor, Tensor]:
    """Each place once, each with a colour of its own."""
    place = torch.arange(rows * columns)
    return place, torch.rand(len(place), channels, generator=generator(), dtype=torch.double)


def whole(model: nn.Module, x: Tensor, place: Tensor, colour: Tensor) -> Tensor:
    changed = x.flatten(2).repeat(len(place), 1, 1)
    changed[torch.arange(len(place)), :, place] = colour
    return model(changed.view(-1, *x.shape[1:]))


RELU = nn.ReLU()
STACKS = {
    "kernels of 3": [nn.Conv2d(2, 4, 3, padding=1), RELU, nn.Conv2d(4, 3, 3, padding=1), RELU],
    "strides": [nn.Conv2d(2, 4, 5, stride=2, padding=2), RELU, nn.Conv2d(4, 3, 3, 2, padding=1)],
    "steps over places": [nn.Conv2d(2, 4, 2, stride=3), nn.Conv2d(4, 4, 1)],
    "no padding": [nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), RELU],
    "pooling that overlaps": [nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)],
    "unlike sides": [nn.Conv2d(2, 4, (3, 1), (1, 2), padding=(1, 0)), nn.MaxPool2d((1, 2))],
    "groups and batch norm": [nn.Conv2d(2, 4, 3, groups=2, padding=1), nn.BatchNorm2d(4), RELU],
    "larger than the image": [nn.Conv2d(2, 4, 7, padding=3), nn.Conv2d(4, 4, 7, padding=3), RELU],
    "nothing near": [],
}


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
@torch.no_grad()
def test_every_place_gets_the_logits_of_the_whole_image(stack):
    torch.manual_seed(0)
    x = torch.rand(1, 2, ROWS, COLUMNS, generator=generator(1), dtype=torch.double)
    model = nn.Sequential(*stack, nn.Flatten(), nn.LazyLinear(3)).double().eval()
    model(x)
    for layer in stack:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)
    passes = OnePixelPasses(model, x)
    assert [layer for layer, _ in passes.near] == stack
    torch.testing.assert_close(passes.of(x)(*everywhere()), whole(model, x, *everywhere()))


FURTHER = {
    "circular": nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
    "dilated": nn.Conv2d(2, 4, 3, dilation=2),
    "same": nn.Conv2d(2, 4, 3, padding="same"),
    "pooling that rounds up": nn.MaxPool2d(3, ceil_mode=True),
    "statistics of the batch": nn.BatchNorm2d(2, track_running_stats=False),
    "an average": nn.AdaptiveAvgPool2d(2),
}


@pytest.mark.parametrize("layer", FURTHER.values(), ids=FURTHER)
@torch.no_grad()
def test_a_layer_that_looks_further_gets_whole_maps(layer):
    x = torch.rand(1, 2, ROWS, COLUMNS, generator=generator(1), dtype=torch.double)
    model = nn.Sequential(nn.Conv2d(2, 2, 3), layer, nn.Flatten()).double().eval()
    passes = OnePixelPasses(model, x)
    assert len(passes.near) == 1
    torch.testing.assert_close(passes.of(x)(*everywhere()), whole(model, x, *everywhere()))


class Twice(nn.Sequential):
    """A sequence that does more than its layers."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_network_of_its_own_sees_whole_images():
    x = torch.rand(1, 2, ROWS, COLUMNS)
    assert not OnePixelPasses(Twice(nn.Conv2d(2, 4, 3), nn.Flatten()), x).near
    assert not OnePixelPasses(nn.Flatten(), x).near


def test_a_hook_sees_whole_maps():
    x = torch.rand(1, 2, ROWS, COLUMNS)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), RELU, nn.Flatten())
    seen: list[torch.Size] = []
    model[1].register_forward_hook(lambda layer, given, result: seen.append(result.shape))
    passes, (place, colour) = OnePixelPasses(model, x).of(x), everywhere()
    seen.clear()
    passes(place, colour.float())
    assert seen == [torch.Size([len(place), 4, ROWS - 2, COLUMNS - 2])]
    model.register_forward_hook(lambda *_: None)
    assert not OnePixelPasses(model, x).near


@pytest.mark.parametrize("name, shape, part", [
    ("mnist_cnn", (1, 28, 28), 0.3), ("cifar_allconv", (3, 32, 32), 0.5)])
@torch.no_grad()
def test_it_saves_most_of_the_work(name, shape, part):
    model = models.load(name, "cpu")
    x = torch.rand(1, *shape, generator=generator())
    place, colour = everywhere(*x.shape[2:], x.shape[1])

    def work(passes) -> int:
        with FlopCounterMode(display=False) as counter:
            passes(place[::7], colour[::7].float())
        return counter.get_total_flops()

    with frozen(model):
        near = work(OnePixelPasses(model, x).of(x))
        full = work(lambda place, colour: whole(model, x, place, colour))
    assert near < part * full


@pytest.mark.parametrize("layers", [[nn.Flatten()], [nn.Conv2d(2, 4, 3), nn.Flatten()]])
@torch.no_grad()
def test_the_image_stays_as_it_is(layers):
    x = torch.rand(1, 2, ROWS, COLUMNS)
    before = x.clone()
    OnePixelPasses(nn.Sequential(*layers), x).of(x)(torch.tensor([3]), torch.ones(1, 2))
    assert (x == before).all()
