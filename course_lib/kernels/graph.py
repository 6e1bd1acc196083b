"""A step that repeats itself, without Python between its kernels. Taught in lesson 04."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Work = Callable[[], None]


@contextmanager
def aside(stream: torch.cuda.Stream) -> Iterator[None]:
    """Work on another stream, between what came before and what comes after."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def captured(work: Work, stream: torch.cuda.Stream) -> Work:
    """`work` as a CUDA graph: what is called runs all its kernels at a single launch.

    A step of an attack launches some hundred kernels, and for a small batch Python takes longer to
    launch them than the GPU to run them. `work` reads and writes tensors that stay where they are,
    never waits for the GPU, and has run on the stream before: what libraries prepare at a first
    call cannot be captured. Where capturing fails, a warning says why and `work` itself comes back.
    """
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, stream=stream):
            work()
    except RuntimeError as error:
        torch.cuda.set_stream(before)  # a capture that breaks off does not
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"no CUDA graph of this model, its steps run one by one: {reason}",
                      stacklevel=2)
        return work
    return graph.replay
