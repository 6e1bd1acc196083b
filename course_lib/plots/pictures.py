"""Images: side by side, attacked, with boxes, as label maps; and as files."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from course_lib import files
from course_lib.plots.style import WIDTH, broken, headline

if TYPE_CHECKING:
    from course_lib.detection import Boxes


def names(
    prediction: tuple[Tensor, Tensor], classes: Sequence[str], truth: Tensor | None = None
) -> list[str]:
    """Captions "tabby cat 93 %" from predicted labels and confidences.

    With `truth`, a mark in front says whether the prediction is right.

    >>> labels, confidences = torch.tensor([1, 0]), torch.tensor([0.93, 0.4])
    >>> names((labels, confidences), ["cat", "dog"], truth=torch.tensor([1, 1]))
    ['✓ dog\\n93 %', '✗ cat\\n40 %']
    """
    labels, confidences = (t.tolist() for t in prediction)
    marks = [""] * len(labels)
    if truth is not None:
        marks = ["✓ " if a == b else "✗ " for a, b in zip(labels, truth.tolist(), strict=True)]
    return [f"{mark}{classes[label]}\n{percent(confidence)}"
            for mark, label, confidence in zip(marks, labels, confidences, strict=True)]


def percent(share: float) -> str:
    """A probability as whole per cent, without claiming 0 or 100 that it is not.

    >>> percent(0.934), percent(0.0004), percent(0.9999)
    ('93 %', '< 1 %', '> 99 %')
    """
    if 0 < share < 0.005:
        return "< 1 %"
    return "> 99 %" if share >= 0.995 else f"{100 * share:.0f} %"


def images(
    x: Tensor, captions: Sequence[str] | None = None, *, title: str = "",
    columns: int | None = None,
) -> Figure:
    """Images side by side, `columns` in a row (at most six unless told), captions under them.

    Shape: x [n, 1 or 3, rows, columns] in [0, 1].
    """
    columns = columns or min(len(x), 6)
    rows = math.ceil(len(x) / columns)
    fig, axes = _grid(rows, columns, x, [captions or []] * rows, title)
    for i, image in enumerate(x):
        _picture(axes.flat[i], image, captions[i] if captions else "", columns)
    return fig


def boxes(
    x: Tensor, found: Sequence[Boxes], *, title: str = "", columns: int | None = None,
    least: float = 0.3,
) -> Figure:
    """Scenes with the boxes that a detector found, each with its digit and the confidence in %.

    Boxes with a confidence below `least` are left out.
    Shape: x [n, 3, rows, columns] in [0, 1].
    """
    fig = images(x, title=title, columns=columns)
    for axis, one in zip(fig.axes, found, strict=False):
        for box, label, score in zip(one.boxes.tolist(), one.labels.tolist(), one.scores.tolist(),
                                     strict=True):
            if score >= least:
                left, top, right, bottom = (end - 0.5 for end in box)  # of pixels, not middles
                colour = color_sequences["tab10"][label - 1]
                axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False,
                                         edgecolor=colour, linewidth=2))
                axis.text(max(left, 0), max(top, 5),  # inside the picture
                          f"{label - 1}: {percent(score)}", color="white",
                          fontsize="x-small", va="bottom", clip_on=True,
                          bbox={"facecolor": colour, "edgecolor": "none", "pad": 1})
    return fig


def compare_images(
    x: Tensor, x_adv: Tensor, captions: Sequence[str], captions_adv: Sequence[str], *,
    amplify: float | None = None, title: str = "",
) -> Figure:
    """What an attack did: original, perturbation amplified around mid-grey, adversarial image.

    One image stands in one row, as a sum; several stand in columns, at most six. The amplification
    is written beside the perturbation; left out, it is as large as the grey scale allows.

    Shape: x, x_adv [n, 1 or 3, rows, columns] in [0, 1].
    """
    delta = x_adv - x
    amplify = amplify or amplification(delta)
    kinds = ("original", f"perturbation\n× {amplify:g}", "adversarial")
    pictures = (x, amplified(delta, amplify), x_adv)
    texts = [*captions], [""] * len(x), [*captions_adv]
    if len(x) == 1:
        fig, axes = _grid(1, 3, x, [texts[0] + texts[2]], title)
        layout: Any = fig.get_layout_engine()
        layout.set(wspace=0.12)
        for axis, kind, picture, caption in zip(axes[0], kinds, pictures, texts, strict=True):
            _picture(axis, picture[0], caption[0], 3, smooth=picture is not pictures[1])
            axis.set_title(kind.replace("\n", " "))
        for axis, sign in zip(axes[0, 1:], "+=", strict=True):
            axis.text(-0.13, 0.5, sign, transform=axis.transAxes, ha="center", va="center",
                      fontsize="xx-large")
    else:
        fig, axes = _grid(3, len(x), x, texts, title, tallest=1.6)
        for row, kind, picture, caption in zip(axes, kinds, pictures, texts, strict=True):
            for axis, image, text in zip(row, picture, caption, strict=True):
                # Smoothed, a perturbation of pixel by pixel signs would look weaker than it is.
                _picture(axis, image, text, len(x), smooth=picture is not pictures[1])
            row[0].set_ylabel(kind)
    return fig


def amplified(delta: Tensor, by: float) -> Tensor:
    """A perturbation as a picture: mid-grey where it is zero, `by` times as strong elsewhere.

    >>> amplified(torch.tensor([-0.01, 0.0, 1.0]), 10)
    tensor([0.4000, 0.5000, 1.0000])
    """
    return (0.5 + by * delta).clamp(0, 1)


def amplification(delta: Tensor) -> float:
    """The largest round factor by which a perturbation still fits around mid-grey.

    >>> amplification(torch.tensor([8 / 255]))
    10
    """
    largest = delta.abs().max().item()
    return max([k for k in (1, 2, 5, 10, 20, 50, 100) if k * largest <= 0.5], default=1)


def painted(labels: Tensor) -> Tensor:
    """A label map as a picture: class 0 light grey, up to ten further classes in colours.

    Shape: labels [n, rows, columns] int64 -> [n, 3, rows, columns] in [0, 1].

    >>> painted(torch.zeros(1, 2, 2, dtype=torch.int64)).shape
    torch.Size([1, 3, 2, 2])
    """
    colours = torch.tensor([to_rgb("#EEEEEE"), *color_sequences["tab10"]])
    return colours[labels.cpu()].permute(0, 3, 1, 2)


def key(names: Sequence[str]) -> Figure:
    """Which colour `painted` gives to each class: one patch of colour per class, in one row."""
    fig, axes = plt.subplots(1, len(names), figsize=(WIDTH, 0.9), squeeze=False)
    for k, (axis, name) in enumerate(zip(axes[0], names, strict=True)):
        axis.imshow(array(painted(torch.full((1, 2, 4), k))[0]))
        axis.grid(visible=False)
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(name, fontsize=_caption_size(len(names)))
    return fig


def array(image: Tensor) -> np.ndarray:
    """An image [1 or 3, rows, columns] in [0, 1] as uint8 [rows, columns, 3] for screens."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()


def save_png(image: Tensor, path: Path) -> Path:
    """Write an image [1 or 3, rows, columns] in [0, 1] as a PNG file: every grey level survives."""
    file = io.BytesIO()
    Image.fromarray(array(image)).save(file, format="PNG")
    return files.write(path, file.getvalue())


def _grid(
    rows: int, columns: int, x: Tensor, captions: Sequence[Sequence[str]], title: str,
    *, tallest: float = math.inf,
) -> tuple[Figure, np.ndarray]:
    """Bare axes for pictures: as wide as the page allows, none higher than `tallest` inches.

    `captions` holds those of each row, so that each row gets the height its text needs.
    """
    line = _caption_size(columns) / 72 * 1.3
    lines = sum(max((_wrap(c, columns).count("\n") + 1 for c in row if c), default=0)
                for row in captions)
    picture = min(_cell(columns) * x.shape[2] / x.shape[3], tallest)
    width = _cell(columns) * columns
    title_height = 1.5 * plt.rcParams["font.size"] / 72 * (broken(title, width).count("\n") + 1)
    fig, axes = plt.subplots(rows, columns, squeeze=False, figsize=(
        width, rows * (picture + 0.1) + lines * line + 0.2 + title_height))
    headline(fig, title)
    for axis in axes.flat:
        axis.grid(visible=False)
        axis.set(xticks=[], yticks=[], anchor="N")  # spare height goes below the caption
        axis.spines[:].set_visible(False)
    return fig, axes


def _cell(columns: int) -> float:
    """The width in inches that a picture and its caption have."""
    return min(WIDTH / columns, 3.3)


def _caption_size(columns: int) -> float:
    return max(9.5, plt.rcParams["font.size"] * min(1, 5 / columns))


def _picture(axis: Axes, image: Tensor, caption: str, columns: int, *, smooth: bool = True) -> None:
    smooth = smooth and image.shape[-1] > 64
    axis.imshow(array(image), interpolation="antialiased" if smooth else "nearest")
    axis.set_xlabel(_wrap(caption, columns), fontsize=_caption_size(columns))


def _wrap(caption: str, columns: int) -> str:
    """Break a caption's lines to the width of its picture, two lines for a long class name."""
    room = max(4, int(_cell(columns) * 72 / (0.62 * _caption_size(columns))))
    lines = []
    for line in caption.split("\n"):
        parts = textwrap.wrap(line, room)
        if len(parts) > 2:
            parts = [parts[0], parts[1][:room - 1] + "…"]
        lines += parts
    return "\n".join(lines)
