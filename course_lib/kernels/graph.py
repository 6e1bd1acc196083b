"""A step that repeats itself, without Python between its kernels. Taught in lesson 04."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

Work = Callable[[], None]


def captured(work: Work) -> Work:
    """Run `work` once, capture it on a CUDA graph, and return what replays it.

    A step of an attack launches some hundred kernels, and for a small batch Python takes longer to
    launch them than the GPU to run them. A graph is launched once. `work` reads and writes tensors
    that stay where they are, and never waits for the GPU. Where it cannot be captured, a warning
    says why and `work` itself comes back.
    """
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what a library prepares at its first call is not captured
        work()
    torch.cuda.current_stream().wait_stream(side)
    try:
        with torch.cuda.graph(graph, stream=side):
            work()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"no CUDA graph of this model, its steps run one by one: {reason}",
                      stacklevel=2)
        return work
    return graph.replay
