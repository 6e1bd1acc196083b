"""Many images that differ from one image in one pixel: compute only what that pixel reaches.

Behind a convolution of 3 x 3 a changed pixel reaches 3 x 3 places, behind a second one 5 x 5. All
other places hold what the image itself left there. So a candidate of the one-pixel attack needs a
small window of each map, until the windows are as large as the maps.

Used in lesson 06.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Which places each window takes, for every place of the pixel: at most 16 MB a layer.
_MOST_INDICES = 2**22


class OnePixelPasses:
    """A network for images [1, channels, rows, columns] of one shape, each with one other pixel.

    `of` an image gives a function passes(place, colour): the logits [m, classes] of that image with
    colour [m, channels] at place [m] = row * columns + column, as the network would give them, up
    to rounding. Windows serve the first layers of an nn.Sequential, up to the first that does more
    than look at a few neighbours; the layers from there on, and any other network, see whole maps.

    x: any image of that shape.
    Lesson: 06.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 6 * 6, 3))
    >>> x, changed = torch.zeros(2, 1, 1, 8, 8)
    >>> changed[..., 5, 6] = 1
    >>> z = OnePixelPasses(model, x).of(x)(torch.tensor([5 * 8 + 6]), torch.ones(1, 1))
    >>> torch.allclose(z, model(changed), atol=1e-6)
    True
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.near: list[tuple[nn.Module, _Cut | None]] = []
        pixel = torch.cartesian_prod(*(torch.arange(extent) for extent in x.shape[2:]))
        self.windows = _Windows(pixel, (1, 1))
        layers = list(model) if _plain(model) else [model]
        while layers and not _watched(layer := layers[0]):
            cut = None
            if _looks_around(layer):
                reached, cut = _behind(layer, self.windows, x)
                if cut.taken.numel() > _MOST_INDICES:
                    break
                self.windows = reached
            elif not _same_place(layer):
                break
            self.near.append((layers.pop(0), cut))
            x = layer(x)
        self.rest = nn.Sequential(*layers)

    def of(self, x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The passes of one image."""
        maps = []
        for layer, _ in self.near:
            maps.append(_padded(layer, x)[0].permute(1, 2, 0).flatten(0, 1))
            x = layer(x)

        def passes(place: Tensor, colour: Tensor) -> Tensor:
            values = colour[:, :, None, None]
            for (layer, cut), image in zip(self.near, maps, strict=True):
                values = _unpadded(layer, cut(values, place, image)) if cut else layer(values)
            whole = x.repeat(len(values), 1, 1, 1)
            rows, columns = _rows_and_columns(self.windows, place)
            whole[torch.arange(len(whole))[:, None, None], :, rows[:, :, None],
                  columns[:, None]] = values.permute(0, 2, 3, 1)
            return self.rest(whole)

        return passes


class _Windows(NamedTuple):
    """Parts of a map, one for each place of the pixel: their corners [places, 2] and size."""

    corner: Tensor
    size: tuple[int, int]


class _Cut(NamedTuple):
    """Larger windows around others, for every place of the pixel.

    taken [places, rows * columns]: where their places lie in the map of the image, or behind its
    end in the smaller window.
    """

    taken: Tensor
    size: tuple[int, int]

    def __call__(self, values: Tensor, place: Tensor, image: Tensor) -> Tensor:
        """Windows [m, channels, *size] around values [m, channels, height, width]."""
        m, channels, height, width = values.shape
        index = self.taken[place]
        own = torch.arange(m, dtype=index.dtype)[:, None] * (height * width)
        index = index + own * (index >= len(image))
        values = torch.cat([image, values.permute(0, 2, 3, 1).reshape(-1, channels)])
        cut = values.index_select(0, index.flatten())
        return cut.view(m, *self.size, channels).permute(0, 3, 1, 2)


def _behind(
    layer: nn.Conv2d | nn.MaxPool2d, windows: _Windows, x: Tensor
) -> tuple[_Windows, _Cut]:
    """What a layer makes of windows of the map x, and what it must see for that."""
    kernel, stride, padding = (torch.tensor(n).expand(2) for n in (
        layer.kernel_size, layer.stride, layer.padding))
    extent = torch.tensor(layer(x).shape[2:])
    # Output o looks at inputs o * stride - padding and the following ones, `kernel` of them.
    size = torch.minimum((torch.tensor(windows.size) + kernel - 2) // stride + 1, extent)
    first = -((kernel - 1 - padding - windows.corner) // stride)  # rounded up
    first = first.clamp(torch.zeros_like(extent), extent - size)
    own = _Windows(windows.corner + padding, windows.size)
    seen = _Windows(first * stride, _pair((size - 1) * stride + kernel))
    return _Windows(first, _pair(size)), _cut(own, seen, _padded(layer, x).shape[2:])


def _cut(own: _Windows, seen: _Windows, extent: torch.Size) -> _Cut:
    rows, columns = _rows_and_columns(seen)
    below, right = rows - own.corner[:, :1], columns - own.corner[:, 1:]
    height, width = own.size
    inside = (((below >= 0) & (below < height))[:, :, None]
              & ((right >= 0) & (right < width))[:, None])
    index = torch.where(
        inside, (extent.numel() + below * width)[:, :, None] + right[:, None],
        (rows * extent[1])[:, :, None] + columns[:, None])
    return _Cut(index.flatten(1).int(), seen.size)


def _rows_and_columns(windows: _Windows, place: Tensor | None = None) -> tuple[Tensor, Tensor]:
    corner = windows.corner if place is None else windows.corner[place]
    return (corner[:, :1] + torch.arange(windows.size[0]),
            corner[:, 1:] + torch.arange(windows.size[1]))


def _pair(numbers: Tensor) -> tuple[int, int]:
    first, second = numbers.tolist()
    return first, second


def _padded(layer: nn.Module, x: Tensor) -> Tensor:
    """x with the border that a convolution or pooling gives it."""
    if not _looks_around(layer):
        return x
    rows, columns = _pair(torch.tensor(layer.padding).expand(2))
    return F.pad(x, [columns, columns, rows, rows],
                 value=0.0 if isinstance(layer, nn.Conv2d) else -torch.inf)


def _unpadded(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer without its border."""
    if isinstance(layer, nn.MaxPool2d):
        return F.max_pool2d(x, layer.kernel_size, layer.stride)
    assert isinstance(layer, nn.Conv2d)
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, groups=layer.groups)


def _plain(model: nn.Module) -> TypeGuard[nn.Sequential]:
    return type(model).forward is nn.Sequential.forward and not _watched(model)


def _watched(module: nn.Module) -> bool:
    """Whether a hook waits for it: what watches a network shall see whole images."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _same_place(layer: nn.Module) -> bool:
    """Whether each place of the result needs the same place alone."""
    if isinstance(layer, nn.BatchNorm2d):
        return layer.running_mean is not None and not layer.training
    return isinstance(layer, nn.ReLU) or getattr(layer, "same_place", False)


def _looks_around(layer: nn.Module) -> TypeGuard[nn.Conv2d | nn.MaxPool2d]:
    """Whether it is a convolution or max-pooling as `_behind` computes them."""
    if isinstance(layer, nn.Conv2d):
        return (layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
                and layer.dilation == (1, 1))
    return isinstance(layer, nn.MaxPool2d) and layer.dilation == 1 and not layer.ceil_mode
