"""Whether a kernel runs, and how its tensors must lie in memory. Taught in lesson 04."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# TRITON_INTERPRET=1 runs the kernels on the CPU, line by line in NumPy: slow, for the tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
AVAILABLE = (importlib.util.find_spec("triton") is not None
             and (INTERPRETED or torch.cuda.is_available()))

if AVAILABLE:
    import triton


def jit(kernel: Callable) -> Any:
    """`triton.jit`, where it is needed; lessons can show the source all the same."""
    if not AVAILABLE:
        return kernel
    jitted = triton.jit(kernel)
    jitted.__wrapped__ = kernel
    return jitted


def on_gpu(x: Tensor) -> bool:
    """Whether a tensor is on the GPU where kernels are launched; there may be others."""
    return x.is_cuda and x.get_device() == torch.cuda.current_device()


def fused(x: Tensor) -> bool:
    """Whether the kernel handles this tensor, or else the twin."""
    return (AVAILABLE and (on_gpu(x) or INTERPRETED)
            and x.dtype in (torch.float32, torch.float64) and x.numel() > 0)


def alike(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """All of them with their entries in the same order, those of one image side by side.

    What already lies so, also in channels_last, is not copied.
    """
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(
        memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return tuple(t.contiguous(memory_format=layout) for t in (x, *others))


def path() -> str:
    """How the steps of attacks run on a GPU here, for the line that `setup` prints."""
    return "Triton kernels" if AVAILABLE else "plain PyTorch (no Triton)"
