"""Training on several processes, started by torchrun: each works on its share of every batch.

    torchrun --nproc-per-node=2 -m course_lib.training --model mnist_cnn --method pgd

All processes hold the same weights, images and random numbers. Each computes the gradient of its
share of a batch, the gradients are added up, and each makes the same step. Taught in lesson 07.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def processes() -> Iterator[None]:
    """Join the other processes for the length of the block, if torchrun started this one: by gloo
    on CPUs, by nccl on GPUs, one GPU each. Otherwise this process stays the only one.

    At the end the processes wait for each other: what only one of them does comes after the block.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
        dist.barrier()
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return not dist.is_initialized() or dist.get_rank() == 0


def share() -> slice:
    """Which places of a batch are this process's: every n-th of n processes."""
    if not dist.is_initialized():
        return slice(None)
    return slice(dist.get_rank(), None, dist.get_world_size())


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its sum over all processes; one message for all."""
    if not dist.is_initialized() or not tensors:
        return
    everything = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(everything)
    for tensor, total in zip(tensors, everything.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, in place, by its mean over all processes."""
    add_up(tensors)
    if dist.is_initialized():
        for tensor in tensors:
            tensor.div_(dist.get_world_size())
