"""The style of all figures: colours, sizes, and the sentence above a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from course_lib import runtime

Numbers = Sequence[float] | Tensor | np.ndarray
BLUE, VERMILLION, GREEN, BLACK, ORANGE, PURPLE = COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#000000", "#E69F00", "#CC79A7",
)
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
HATCHES = ("", "//", "..", "xx", "\\\\", "++")
WIDTH = 10.0  # inches: every figure is as wide as the page


def use_style() -> None:
    """Set the style of the course; lecture mode makes text, lines and pictures larger."""
    lecture = runtime.lecture()
    font = 19 if lecture else 13
    plt.rcParams.update({
        "figure.dpi": 110 if lecture else 80,
        "savefig.dpi": "figure",
        "figure.constrained_layout.use": True,
        "font.size": font,
        "axes.titlesize": font,
        "axes.labelsize": font,
        "figure.titlesize": font * 1.15,
        "figure.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#DDDDDD",
        "lines.linewidth": 3.0 if lecture else 2.2,
        "lines.markersize": 9.0 if lecture else 7.0,
        "legend.frameon": False,
        "image.cmap": "cividis",
        "image.interpolation": "nearest",
        "axes.prop_cycle": (cycler(color=COLOURS) + cycler(marker=MARKERS)
                            + cycler(linestyle=LINES)),
    })


def numbers(values: object) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
    return np.asarray(values, dtype=float)


def headline(fig: Figure, title: str) -> None:
    """The figure's sentence, at the left, broken to the figure's width."""
    if title:
        fig.suptitle(broken(title, fig.get_figwidth()), x=0.01, ha="left")


def broken(title: str, width: float) -> str:
    letter = 0.69 * plt.rcParams["font.size"] / 72  # inches; titles are bold and larger
    return textwrap.fill(title, int(width / letter))


def ink(colour: str) -> tuple[float, ...]:
    """A line's colour, darker, for text: light orange letters cannot be read on a projector."""
    return tuple(0.7 * channel for channel in to_rgb(colour))
