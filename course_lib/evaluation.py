"""The judge: every claim that an image fools a network is decided here, in float32."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.gradients import attacking

_BATCH = 256


class Prediction(NamedTuple):
    """Predicted classes [n] and the probabilities the model gives them [n]."""

    labels: Tensor
    confidence: Tensor


@torch.no_grad()
def logits(model: nn.Module, x: Tensor, batch_size: int = _BATCH) -> Tensor:
    """Logits [n, classes] of images [n, channels, rows, columns], in float32, batch by batch."""
    with attacking(model):
        return torch.cat([model(part).float() for part in x.split(batch_size)])


def predict(model: nn.Module, x: Tensor) -> Prediction:
    """The class the model names for each image, and its confidence (the softmax probability).

    Lesson: 03.

    >>> predict(nn.Flatten(), torch.tensor([[[[0.0, 9.0]]]])).labels
    tensor([1])
    """
    confidence, labels = logits(model, x).softmax(1).max(1)
    return Prediction(labels, confidence)


def fooled(model: nn.Module, x_adv: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Whether each image misses its label, or hits its target when there is one. bool [n]"""
    labels = predict(model, x_adv).labels
    return labels != y if target is None else labels == target


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images whose predicted class is their label, from 0 to 1.

    >>> accuracy(nn.Flatten(), torch.tensor([[[[0.0, 9.0]]]]), torch.tensor([1]))
    1.0
    """
    return 1 - fooled(model, x, y).float().mean().item()
