"""The networks that the course trains, and the layer that normalises."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MNIST_MEAN, _MNIST_STD = [0.1307], [0.3081]
_CIFAR_MEAN, _CIFAR_STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


class Normalize(nn.Module):
    """(x - mean) / std for each channel: the first layer of every network here.

    Shape: [n, channels, rows, columns] -> the same.

    >>> Normalize([0.5], [0.5])(torch.ones(1, 1, 1, 1))
    tensor([[[[1.]]]])
    """

    mean: Tensor
    std: Tensor
    same_place = True  # what windows.py asks: each place of the result needs the same place only

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class MnistCNN(nn.Sequential):
    """Two 3 x 3 convolutions with pooling and two linear layers, the shape of LeNet.

    Shape: [n, 1, 28, 28] -> [n, 10].
    """

    def __init__(self, channels: int = 16, hidden: int = 128) -> None:
        super().__init__(
            Normalize(_MNIST_MEAN, _MNIST_STD),
            # Pooling first gives the same numbers and leaves ReLU a quarter of the work.
            nn.Conv2d(1, channels, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * channels * 7 * 7, hidden), nn.ReLU(),
            nn.Linear(hidden, 10),
        )


class MnistAllConv(nn.Sequential):
    """Convolutions only: wide strided 5 x 5 kernels instead of pooling, an average at the end.

    Shape: [n, 1, 28, 28] -> [n, 10].
    """

    def __init__(self, channels: int = 24) -> None:
        super().__init__(
            Normalize(_MNIST_MEAN, _MNIST_STD),
            nn.Conv2d(1, channels, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1), nn.ReLU(),
            nn.Conv2d(2 * channels, 10, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )


class MnistMLP(nn.Sequential):
    """Three linear layers and no convolution.

    Shape: [n, 1, 28, 28] -> [n, 10].
    """

    def __init__(self, hidden: int = 256) -> None:
        super().__init__(
            Normalize(_MNIST_MEAN, _MNIST_STD),
            nn.Flatten(),
            nn.Linear(28 * 28, hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 10),
        )


class CifarAllConv(nn.Sequential):
    """Convolutions only: strides instead of pooling, batch norm, an average at the end.

    39 million multiply-adds an image. After Springenberg et al. 2015, narrower.

    Shape: [n, 3, 32, 32] -> [n, 10].
    """

    def __init__(self, channels: int = 32) -> None:
        widths = [3, channels, 2 * channels, 2 * channels, 4 * channels, 4 * channels, 4 * channels]
        strides = [1, 2, 1, 2, 1, 1]
        blocks = zip(widths, widths[1:], strides, strict=False)
        super().__init__(
            Normalize(_CIFAR_MEAN, _CIFAR_STD),
            *[layer for block in blocks for layer in _conv_block(*block)],
            nn.Conv2d(widths[-1], 10, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )


def _conv_block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs), nn.ReLU()]


class SceneSegmenter(nn.Module):
    """A small U-Net: down to an eighth of the rows and columns, up again, a class for each pixel.

    On the way up each size sees again what the way down knew at that size: what is where.
    After Ronneberger et al. 2015.

    Shape: [n, 3, rows, columns], both divisible by 8 -> [n, 11, rows, columns].
    """

    def __init__(self, widths: Sequence[int] = (8, 24, 48, 64), classes: int = 11) -> None:
        super().__init__()
        self.normalize = Normalize([0.5], [0.25])
        inputs = [3, *widths[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(*_conv_block(a, b, 1), *_conv_block(b, b, 1))
            for a, b in zip(inputs, widths, strict=True))
        self.up = nn.ModuleList(
            nn.Sequential(*_conv_block(a + b, a, 1))
            for a, b in itertools.pairwise(widths))
        self.names = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalize(x)
        seen: list[Tensor] = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if seen else x)
            seen.append(x)
        for block, before in zip(reversed(self.up), reversed(seen[:-1]), strict=True):
            x = block(torch.cat([before, F.interpolate(x, scale_factor=2.0)], 1))
        return self.names(x)


class SceneDetector(nn.Module):
    """Boxes without anchors: each fourth pixel names the digit around it, and says where it ends.

    Down to an eighth of the rows and columns, and up again to a quarter. After FCOS (Tian et al.
    2019): a place that belongs to an object predicts its class and the distances to its four sides.

    Shape: [n, 3, rows, columns], both divisible by 8 -> logits [n, 11, rows / 4, columns / 4] and
    distances in pixels [n, 4, rows / 4, columns / 4] to the left, top, right and lower side.
    """

    def __init__(self, widths: Sequence[int] = (12, 24, 48, 72), classes: int = 11) -> None:
        super().__init__()
        self.normalize = Normalize([0.5], [0.25])
        inputs = [3, *widths[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(*_conv_block(a, b, 1), *_conv_block(b, b, 1))
            for a, b in zip(inputs, widths, strict=True))
        self.up = nn.Sequential(*_conv_block(widths[3] + widths[2], widths[2], 1))
        self.names = nn.Conv2d(widths[2], classes, 1)
        self.sides = nn.Conv2d(widths[2], 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = quarter = self.normalize(x)
        for i, block in enumerate(self.down):
            quarter, x = x, block(F.max_pool2d(x, 2) if i else x)
        x = self.up(torch.cat([quarter, F.interpolate(x, scale_factor=2.0)], 1))
        return self.names(x), 10 * F.softplus(self.sides(x))


class Reader(nn.Module):
    """Reads a passage for a question: attention over its words, where the answer starts and ends.

    Convolutions read the words; each word of the passage looks at the words of the question, and
    wider convolutions weigh what belongs together. Words of names and numbers come as their shape,
    and each word of the passage is told whether it also stands in the question.

    Shape: passage, same [n, words] int64, question [n, words] int64, 0 where no word is -> logits
    [n, 2, words], -inf where no word is. same: 1 where a word also stands in the question.
    """

    def __init__(self, words: int = 96, width: int = 32) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width, padding_idx=0)
        self.same = nn.Embedding(2, width)
        self.near = nn.ModuleList(_residual(width, 1) for _ in range(2))
        self.joined = nn.Conv1d(4 * width, width, 1)
        self.wide = nn.ModuleList(_residual(width, dilation) for dilation in (1, 2, 4))
        self.ends = nn.Conv1d(width, 2, 1)

    def forward(self, passage: Tensor, same: Tensor, question: Tensor) -> Tensor:
        p = self._read(self.word(passage) + self.same(same), passage)
        q = self._read(self.word(question), question)
        attention = (p.transpose(1, 2) @ q) / p.shape[1] ** 0.5
        attention = attention.masked_fill((question == 0)[:, None], -torch.inf).softmax(2)
        seen = q @ attention.transpose(1, 2)
        asked = (q.sum(2) / (question > 0).sum(1, keepdim=True))[:, :, None].expand_as(p)
        there = (passage > 0)[:, None]
        h = self.joined(torch.cat([p, seen, p * seen, p * asked], 1)) * there
        for layer in self.wide:
            h = (h + layer(h)) * there
        return self.ends(h).masked_fill(~there, -torch.inf)

    def _read(self, embedded: Tensor, words: Tensor) -> Tensor:
        there = (words > 0)[:, None]  # what pads a shorter text must not be read
        h = embedded.transpose(1, 2) * there
        for layer in self.near:
            h = (h + layer(h)) * there
        return h


def _residual(width: int, dilation: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 5, padding=2 * dilation,
                                              dilation=dilation))
