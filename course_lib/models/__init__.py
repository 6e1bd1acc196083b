"""The networks of the course. Each takes images in [0, 1] and returns logits.

Normalisation is a layer inside the network, so that eps means the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load as parse
from torch import nn

from course_lib import runtime
from course_lib.files import verified
from course_lib.models.efficientnet import WEIGHTS_SHA256, channels_last, efficientnet_lite
from course_lib.models.networks import (
    CifarAllConv,
    MnistAllConv,
    MnistCNN,
    MnistMLP,
    Normalize,
    Reader,
    SceneDetector,
    SceneSegmenter,
)

__all__ = [
    "WEIGHTS", "CifarAllConv", "MnistAllConv", "MnistCNN", "MnistMLP", "Normalize", "Reader",
    "SceneDetector", "SceneSegmenter", "build", "checksums", "load", "names", "trainable",
]

WEIGHTS = runtime.DATA / "weights"

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


def names() -> list[str]:
    """The names that `load` knows: networks with weights in data/weights, and the packaged ones."""
    with_weights = checksums()
    return [*(n for n in _SHIPPED if f"{n}.safetensors" in with_weights), *WEIGHTS_SHA256]


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
    return channels_last(_SHIPPED[name]())


def load(name: str, device: torch.device | str | None = None) -> nn.Module:
    """A trained network in eval mode, on `device` (by default `course_lib.device()`).

    mnist_*: trained on the 4,000 training digits; cifar_*: on the 50,000 training images of
    CIFAR-10; data/weights/<name>.md says how and how well.
    scene_segmenter: names each pixel of the scenes of `course_lib.scenes`; scene_detector: finds
    the boxes of their digits.
    reader: answers questions on the passages of `course_lib.passages`.
    efficientnet_lite0, 1, 2: 1000 ImageNet classes; made for 224, 240 and 260 pixels, and all
    three accept any size; batch norm is folded into the convolutions.
    resnet50 and the other classifiers of `torchvision.models`: fetched once; the only networks
    here that need a connection.

    Raises: ValueError for an unknown name; RuntimeError for a missing or damaged weights file,
    with its name and what to do.

    >>> load("mnist_cnn", "cpu").training
    False
    """
    if name in WEIGHTS_SHA256:
        model = efficientnet_lite(name)
    elif name in _SHIPPED:
        model = _shipped(name)
    else:
        from course_lib.models import pretrained  # torchvision takes seconds to import

        if not pretrained.known(name):
            raise ValueError(f"unknown network {name!r}: use one of {', '.join(names())}, or a "
                             "classifier of torchvision, such as resnet50")
        model = pretrained.load(name)
    return model.to(device or runtime.device()).eval()


def _shipped(name: str) -> nn.Module:
    file = WEIGHTS / f"{name}.safetensors"
    advice = f"restore it with `git checkout -- data/weights` or make it again: see {name}.md there"
    model = build(name)
    model.load_state_dict(parse(verified(file, checksums().get(file.name), advice)))
    return model


def checksums(folder: Path | None = None) -> dict[str, str]:
    """The sha256 of each file that SHA256SUMS lists, in data/weights or another folder."""
    sums = (folder or WEIGHTS) / "SHA256SUMS"
    lines = sums.read_text().splitlines() if sums.exists() else []
    return {name: digest for digest, name in (line.split() for line in lines)}
