"""Networks that torchvision has trained on ImageNet, for who wants to attack more than ours."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import nn

from course_lib.models.networks import Normalize


def known(name: str) -> bool:
    """Whether torchvision has a classifier of that name with weights."""
    return name in torchvision.models.list_models(module=torchvision.models)


def load(name: str) -> nn.Module:
    """A classifier of torchvision with its best weights, for images in [0, 1].

    The weights come from torch's cache of downloads, or are fetched into it once; their hash is
    checked, and they are read without running what a pickle may hold.

    Raises: RuntimeError where they are not there and cannot be fetched.
    """
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, map_location="cpu",
                                       weights_only=True)
    except OSError as error:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise RuntimeError(f"the weights of {name} could not be fetched ({error}): connect once, "
                           f"or save {weights.url} as {file}") from error
    with torch.device("meta"):  # the random first weights would be overwritten at once
        model = torchvision.models.get_model(name)
    model.load_state_dict(state, assign=True)
    preset = weights.transforms()
    return nn.Sequential(Normalize(preset.mean, preset.std), model)
