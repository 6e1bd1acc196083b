"""Numbers: curves, bars and heat maps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_lib.plots.style import (
    COLOURS,
    HATCHES,
    WIDTH,
    Numbers,
    headline,
    ink,
    numbers,
)


def curves(
    x: Numbers, lines: Mapping[str, Numbers], *, title: str = "", xlabel: str = "",
    ylabel: str = "", logx: bool = False,
) -> Figure:
    """Lines with markers, each named at its right end."""
    fig, axis = plt.subplots(figsize=(WIDTH, 5))
    x = numbers(x)
    ends = []
    for name, values in lines.items():
        (line,) = axis.plot(x, numbers(values))
        ends.append((numbers(values)[-1], name, line.get_color()))
    if logx:
        axis.set_xscale("log")
        axis.minorticks_off()
        axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.set(xlabel=xlabel, ylabel=ylabel)
    _name_ends(axis, x[-1], ends)
    headline(fig, title)
    return fig


def accuracy_curve(
    eps: Numbers, lines: Mapping[str, Numbers], *, title: str = "",
    xlabel: str = "eps in grey levels of 255", ylabel: str = "accuracy in %",
) -> Figure:
    """Accuracy (or success) in % against eps; the scale always runs from 0 to 100."""
    fig = curves(eps, lines, title=title, xlabel=xlabel, ylabel=ylabel)
    fig.axes[0].set_ylim(-3, 103)
    return fig


def bars(
    labels: Sequence[str], groups: Mapping[str, Numbers], *, title: str = "", xlabel: str = "",
    form: str = "{:.0f}",
) -> Figure:
    """Horizontal bars with their values; several groups stand beneath each other, named below.

    One group needs no name: `bars(labels, {"": values})`.
    """
    thick = 0.8 / len(groups)
    fig, axis = plt.subplots(figsize=(WIDTH, 1.6 + 0.5 * len(labels) * max(1, len(groups) * 0.75)))
    places = np.arange(len(labels))
    for i, (name, values) in enumerate(groups.items()):
        values = numbers(values)
        drawn = axis.barh(places + (i - (len(groups) - 1) / 2) * thick, values, thick * 0.92,
                          color=COLOURS[i], hatch=HATCHES[i], edgecolor="white", label=name)
        axis.bar_label(drawn, [form.format(v) for v in values], padding=4)
    axis.set_yticks(places, labels)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.1)
    axis.set_xlabel(xlabel)
    if len(groups) > 1:
        fig.legend(loc="outside lower center", ncols=len(groups))
    headline(fig, title)
    return fig


def heatmap(
    values: Sequence[Sequence[float]] | Tensor | np.ndarray, rows: Sequence[str],
    columns: Sequence[str], *, title: str = "", xlabel: str = "", ylabel: str = "",
    form: str = "{:.0f}",
) -> Figure:
    """A matrix of numbers on colour, such as success in % with sources in rows."""
    grid = np.asarray(numbers(values))
    fig, axis = plt.subplots(figsize=(WIDTH, 1.8 + 0.75 * len(rows)))
    axis.grid(visible=False)
    mesh = axis.imshow(grid, aspect="auto", vmin=min(0, grid.min()), vmax=grid.max() or 1)
    for (i, j), value in np.ndenumerate(grid):
        ink = "black" if np.asarray(mesh.norm(value)) > 0.5 else "white"
        axis.text(j, i, form.format(value), ha="center", va="center", color=ink)
    axis.set_xticks(range(len(columns)), [textwrap.fill(c, 14) for c in columns])
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    headline(fig, title)
    return fig


def _name_ends(axis: Axes, x: float, ends: list[tuple[float, str, Any]]) -> None:
    """Name lines at their right end, pushed apart where two ends would overlap."""
    low, high = axis.get_ylim()
    height = axis.bbox.height / axis.figure.dpi * 72  # in points, as font sizes are
    gap = (high - low) * plt.rcParams["font.size"] * 1.25 / height
    ends = sorted(ends)
    places = [y for y, _, _ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    overflow = max(0.0, places[-1] - high)
    for (_, name, colour), y in zip(ends, places, strict=True):
        axis.annotate(name, (x, y - overflow), (10, 0), textcoords="offset points", va="center",
                      color=ink(colour), fontweight="bold", annotation_clip=False)
