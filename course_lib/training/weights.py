"""Weights: the first ones, and the trained ones as a file with its hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.torch import save as serialise
from torch import Generator, nn

from course_lib import files, models


def initialise(model: nn.Module, generator: Generator) -> None:
    """Draw fresh weights from a generator of one's own: PyTorch's default, U(-b, b).

        b = 1 / sqrt(inputs of a unit)

    Embeddings are drawn from N(0, 1).
    The larger weights of He et al. 2015 leave a network constant under training with large eps.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=generator)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight.data[module.padding_idx])
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def save(name: str, model: nn.Module, folder: Path | None = None) -> Path:
    """Write <name>.safetensors and its line in SHA256SUMS, each in one move.

    A run that is killed leaves the old files or the new ones. Between the two moves `models.load`
    calls the file damaged, which it is not; running the command again mends that.
    """
    folder = folder or models.WEIGHTS
    content = serialise({k: v.cpu().contiguous() for k, v in model.state_dict().items()})
    file = folder / f"{name}.safetensors"
    sums = models.checksums(folder) | {file.name: hashlib.sha256(content).hexdigest()}
    files.write(file, content)
    lines = "".join(f"{digest}  {entry}\n" for entry, digest in sorted(sums.items()))
    files.write(folder / "SHA256SUMS", lines.encode())
    return file
