"""What happened in a training, and its whole state in a file, so that a killed one goes on."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from course_lib import files


@dataclass
class History:
    """What happened in each epoch: the mean training loss and the accuracy on what was trained on.

    With method "pgd" both are those of the attacked images.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Run:
    """Everything that decides how a training goes on, to be kept in a file between epochs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: Generator
    history: History
    arguments: dict[str, object]

    def save(self, path: Path) -> None:
        """Write the state behind its sha256; the state before it stays as <path>.before."""
        content = io.BytesIO()
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                    "schedule": self.schedule.state_dict(), "history": vars(self.history),
                    "generator": self.generator.get_state(), "arguments": self.arguments}, content)
        state = content.getvalue()
        if path.exists():
            path.replace(_before(path))
        files.write(path, hashlib.sha256(state).digest() + state)

    def resume(self, path: Path) -> None:
        """Take up the newest state that is whole; without one, stay at the beginning."""
        for file in (path, _before(path)):
            content = file.read_bytes() if file.exists() else b""
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                break
        else:
            return
        # On the CPU first: the GPU that wrote it may be absent. Each part then moves its own.
        state = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
        theirs = state["arguments"]
        other = {k: theirs.get(k) for k, v in self.arguments.items() if theirs.get(k) != v}
        if other:
            raise ValueError(f"{file} belongs to another training, with {other}: "
                             "delete it or name another file")
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        vars(self.history).update(state["history"])


def name_of(function: Callable[..., Tensor] | None) -> str:
    """What an augmentation is called, the same in every process."""
    if isinstance(function, functools.partial):
        return f"{name_of(function.func)} {function.args} {sorted(function.keywords.items())}"
    return getattr(function, "__qualname__", type(function).__name__)


def digest_of(*tensors: Tensor) -> str:
    """The sha256 of all numbers of some tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")
