"""The helper library of the course on the adversarial robustness of convolutional networks."""

from __future__ import annotations

import importlib
from types import ModuleType

from course_lib.runtime import device, generator, setup

__all__ = ["device", "generator", "setup"]

_SUBMODULES = {
    "ascent", "attacks", "datasets", "evaluation", "exercises", "gradients", "models",
    "norms", "plots", "runtime", "training", "widgets",
}


def __getattr__(name: str) -> ModuleType:
    """Import a submodule on first use: matplotlib and torchvision cost seconds nobody may need."""
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
