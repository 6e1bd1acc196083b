"""Model cards: how a network that ships was made, and what it withstands. For lesson 07.

    python -m course_lib.training --card mnist_cnn

measures data/weights/mnist_cnn.safetensors again and writes the table of its card anew. Each
hundred images are written down at once, in data/cache/cards: an interrupted run goes on where it
stopped. Delete that file after a change of the attacks.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import inspect
import json
import platform
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from course_lib import datasets, files, models, runtime
from course_lib.attacks import pgd
from course_lib.datasets import Images
from course_lib.evaluation import accuracy, robust_accuracy, wilson

# The radii of l_inf in which each kind of network is attacked, and how many test images are.
RADII = {"mnist": {"0.1": 1000, "0.3": 1000}, "cifar": {"1/255": 500, "8/255": 1000}}
SLICE = 100  # images measured between two notes in the file
MEASURED = runtime.HOME / "data" / "cache" / "cards"

# The rows of a card: the key in the file, and the words for it.
_ATTACKS = {
    "PGD": "PGD-50, 10 starts, step eps/4",
    "APGD-CE": "APGD-CE, 100 steps",
    "APGD-T": "then APGD-T, 50 steps, 9 targets",
    "halving": "then PGD-50, 5 starts, falling step",
    "strong": "then Square, 1,000 queries: **strong**",
    "saved": "strong, saved with 8 bits",
}


def images_of(name: str, folder: str | None, split: str) -> Images:
    """What a network is trained and measured on: the digits, or CIFAR-10 as bytes from a folder."""
    if not name.startswith("cifar"):
        return datasets.mnist(split)
    if folder is None:
        raise ValueError(f"{name} needs CIFAR-10: name its folder, see datasets.cifar10_folder")
    return datasets.cifar10_folder(folder, split)


def summary(model: nn.Module) -> str:
    """The first line of what a network's class says of itself."""
    return (inspect.getdoc(type(model)) or "").split("\n")[0]


def head(model: nn.Module, args: argparse.Namespace, command: str, *, images: int,
         epochs_took: str) -> str:
    """The first part of a card: how the weights were made."""
    where = runtime.device()
    machine = (torch.cuda.get_device_name(where) if where.type == "cuda"
               else f"{torch.get_num_threads()} CPU thread(s), {platform.machine()}")
    data = f"`{args.data}`" if args.data else "the digits that ship, `datasets.mnist`"
    parameters = sum(p.numel() for p in model.parameters())
    return f"""# {args.model}

{type(model).__name__}, {parameters:,} parameters. {summary(model)}

- Data: {data}, {images:,} images to train
- Command: `{command}`
- Seed: {args.seed}
- Time: {epochs_took} on {machine}, PyTorch {torch.__version__}
"""


def write(name: str, made: str, folder: str | None) -> str:
    """Measure a network, write its card, and return it. made: the first part, as of `head`."""
    data = f" --data {folder}" if folder else ""
    text = f"""{made}- Measured: `python -m course_lib.training --card {name}{data}`, PyTorch \
{torch.__version__}

| eps in l_inf | attack, worst case for each image | images | accuracy | 95 % interval |
| --- | --- | --- | --- | --- |
""" + "".join(f"{row}\n" for row in _rows(name, folder))
    files.write(models.WEIGHTS / f"{name}.md", text.encode())
    return text


def again(name: str, folder: str | None) -> str:
    """Measure a network that ships; what its card says of its making stays.

    Raises: FileNotFoundError for a network without a card.
    """
    card = (models.WEIGHTS / f"{name}.md").read_text()
    return write(name, card.split("- Measured:")[0].split("\n| ")[0].rstrip("\n") + "\n", folder)


class Line(NamedTuple):
    """One line of a card: how many images, the accuracy and its 95 % interval, all three in %."""

    images: int
    accuracy: float
    low: float
    high: float


def read(name: str) -> dict[tuple[str, str], Line]:
    """What a card says, by radius and attack: ("0", "none"), ("8/255", "PGD"), ("8/255", "strong").

    Also "APGD-CE", "APGD-T", "halving" and "saved", see the card. Empty without a table.
    Lesson: 07.

    >>> read("mnist_cnn")["0", "none"].images
    1000
    """
    keys = {words: attack for attack, words in _ATTACKS.items()} | {"none": "none"}
    lines = {}
    for row in (models.WEIGHTS / f"{name}.md").read_text().splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) == 5 and cells[1] in keys:
            radius, attack, images, accuracy, interval = cells
            low, high = map(float, interval.split(" to "))
            lines[radius, keys[attack]] = Line(
                int(images.replace(",", "")), float(accuracy.rstrip("%")), low, high)
    return lines


def _rows(name: str, folder: str | None) -> list[str]:
    """The table, line by line: nothing, then each radius with each attack."""
    model, test = models.load(name), images_of(name, folder, "test").to(runtime.device())
    right = sum(accuracy(model, part.floats().x, part.y) * len(part) for part in _slices(test))
    rows = [_row("0", "none", round(right), len(test))]
    for radius, images in RADII[name.split("_")[0]].items():
        counts = _standing(name, model, test[:images], radius)
        n = counts.pop("images")
        rows += [_row(radius, _ATTACKS[attack], left, n) for attack, left in counts.items()]
    return rows


def _row(radius: str, attack: str, right: int, n: int) -> str:
    low, high = (100 * end for end in wilson(right, n))
    return f"| {radius} | {attack} | {n:,} | {right / n:.1%} | {low:.1f} to {high:.1f} |"


def _slices(images: Images) -> list[Images]:
    return [images[i:i + SLICE] for i in range(0, len(images), SLICE)]


def _standing(name: str, model: nn.Module, images: Images, radius: str) -> dict[str, int]:
    """How many images still have their name after each attack, and of how many."""
    file = MEASURED / f"{name}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    total: dict[str, int] = {"images": len(images)}
    for i, part in enumerate(_slices(images)):
        key = f"{_digest(models.WEIGHTS / f'{name}.safetensors')} {radius} {i * SLICE} {len(part)}"
        if key not in known:
            known[key] = _survivors(model, part.floats(), float(Fraction(radius)))
            files.write_json(file, known)
            print(f"{name}, {radius}, images {i * SLICE} to {i * SLICE + len(part) - 1}: "
                  f"{known[key]}", flush=True)
        for attack, left in known[key].items():
            total[attack] = total.get(attack, 0) + left
    return total


def _survivors(model: nn.Module, images: Images, eps: float) -> dict[str, int]:
    plain = functools.partial(pgd, eps=eps, steps=50, restarts=10, step_size=eps / 4,
                              early_stop=True)
    weak = robust_accuracy(model, images.x, images.y, {"PGD": plain}, eps=eps)
    strong = robust_accuracy(model, images.x, images.y, "strong", eps=eps)
    left = strong.per_attack
    shares = (weak.robust, left["APGD-CE"], left["APGD-T"], left["PGD"], strong.robust,
              strong.robust_8bit)
    return {attack: round(share * len(images))
            for attack, share in zip(_ATTACKS, shares, strict=True)}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
