"""Two classes of points, the l_inf ball around each, and a border between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from course_lib.plots.landscape import surface
from course_lib.plots.style import (
    BLACK,
    BLUE,
    ORANGE,
    VERMILLION,
    WIDTH,
    broken,
    headline,
    numbers,
)

Margin = Callable[[Tensor], Tensor]  # points [m, 2] to [m], above zero on the side of label 1
_SIDES = ("#DCEAF5", "#FBEBCB")  # the sides of label 0 and label 1, pale
_POINTS = ((BLUE, "o"), (ORANGE, "^"))
_OUTLINES: tuple[dict[str, Any], ...] = (
    {"fill": False, "edgecolor": "#999999", "linewidth": 0.8, "zorder": 2},
    {"fill": False, "edgecolor": "#333333", "linewidth": 1.1, "zorder": 2.5})  # crosses
_BEYOND: dict[str, Any] = {"facecolor": (*to_rgb(VERMILLION), 0.25), "edgecolor": VERMILLION,
                           "linewidth": 1.6, "hatch": "//", "zorder": 3}


def crossing(points: Tensor, labels: Tensor, margin: Margin, eps: float) -> Tensor:
    """Whether the l_inf ball around each point reaches the wrong side of the border. bool [n]

    A square that lies wholly on the wrong side counts, too. The margin is evaluated at the point
    and along the edges of its square, corners included.

    Shape: points [n, 2], labels [n] of 0 and 1. margin: points [m, 2] to [m], above zero on the
    side of label 1.
    Lesson: 00, 07.

    >>> points, labels = torch.tensor([[0.3, 0.0], [0.1, 0.0]]), torch.tensor([1, 1])
    >>> crossing(points, labels, lambda points: points[:, 0], eps=0.2)
    tensor([False,  True])
    """
    _check_points(points, labels, eps)
    t = torch.linspace(-1, 1, 33).to(points)
    one = torch.ones_like(t)
    edges = torch.cat([torch.stack(pair, 1) for pair in ((t, one), (t, -one), (one, t), (-one, t))])
    offsets = eps * torch.cat([edges, torch.zeros_like(edges[:1])])
    with torch.no_grad():
        values = margin((points[:, None] + offsets).flatten(0, 1)).view(len(points), -1)
    return ((2 * labels[:, None] - 1) * values < 0).any(1)


def squares(
    points: Tensor, labels: Tensor, margin: Margin, eps: float, *, title: str = ""
) -> Figure:
    """Points of two classes, the l_inf ball around each, and the border where the margin is zero.

    What a ball reaches of the wrong side is drawn in vermillion, hatched.

    Shape: as `crossing`.
    Raises: ValueError for points that are not [n, 2], labels other than 0 and 1, or a bad eps.
    Lesson: 00, 07.
    """
    return _squares(points, labels, [margin], [""], eps, title)


def square_panels(
    points: Tensor, labels: Tensor, margins: Mapping[str, Margin], eps: float, *, title: str = "",
) -> Figure:
    """`squares` for several borders side by side, each with its name.

    Shape: as `crossing`. margins: names and margins.
    Raises: as `squares`; ValueError for no margin.
    Lesson: 00, 07.
    """
    if not margins:
        raise ValueError("no margins: give names and functions of points")
    return _squares(points, labels, [*margins.values()], [*margins], eps, title)


def crossings(points: Tensor, labels: Tensor, margin: Margin, eps: float) -> str:
    """The count of `crossing` in words.

    >>> crossings(torch.tensor([[0.1, 0.0]]), torch.tensor([1]), lambda points: points[:, 0], 0.2)
    '1 of 1 squares cross the border'
    """
    count = int(crossing(points, labels, margin, eps).sum())
    return f"{count} of {len(points)} squares cross the border"


def _squares(
    points: Tensor, labels: Tensor, margins: Sequence[Margin], names: Sequence[str], eps: float,
    title: str,
) -> Figure:
    _check_points(points, labels, eps)
    extent = (points.amax(0) - points.amin(0)).max().item()
    room = eps + 0.06 * (extent or 1)
    low, high = (points.amin(0) - room).tolist(), (points.amax(0) + room).tolist()
    # All panels share one scale; a square has to look like a square.
    width = WIDTH / max(len(margins), 1.4)
    height = min((width - 0.8) * (high[1] - low[1]) / (high[0] - low[0]), 5.5)
    heading = broken(title, width * len(margins)).count("\n") + 1
    lines = 6 + 1.5 * heading + 1.5 * any(names)  # ticks, label, legend; titles
    height += lines * plt.rcParams["font.size"] / 72
    fig, axes = plt.subplots(1, len(margins), figsize=(width * len(margins), height),
                             sharex=True, sharey=True, squeeze=False, layout="constrained")
    layout: Any = fig.get_layout_engine()
    layout.set(h_pad=0.08)
    for axis, margin, name in zip(axes[0], margins, names, strict=True):
        axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xlabel="$x_1$",
                 ylabel="$x_2$")
        draw_squares(axis, points, labels, margin, eps)
        if name:
            axis.set_title(name)
        axis.label_outer()
    fig.legend(*_squares_legend(), loc="outside lower center", ncols=4, columnspacing=1.2,
               handletextpad=0.5, fontsize="small")
    headline(fig, title)
    layout.execute(fig)  # it needs two passes, and drawing makes only one
    return fig


def draw_squares(
    axis: Axes, points: Tensor, labels: Tensor, margin: Margin, eps: float
) -> None:
    """Draw the two sides, the border, the points and their l_inf balls into the view of an axis.

    Many balls overlap, so they are thin outlines; only what lies beyond the border is filled.
    """
    u, v = (torch.linspace(*limits, 81) for limits in (axis.get_xlim(), axis.get_ylim()))
    with torch.no_grad():
        values = numbers(surface(lambda grid: margin(grid.to(points)), u, v))
    far = abs(values).max() + 1
    axis.grid(visible=False)
    sides = axis.contourf(u, v, values, levels=[-far, 0, far], colors=_SIDES).get_paths()
    if values.min() < 0 < values.max():
        axis.contour(u, v, values, levels=[0], colors=BLACK, linestyles="-",
                     linewidths=1.6 * plt.rcParams["lines.linewidth"], zorder=3.5)
    crosses = crossing(points, labels, margin, eps).tolist()
    for corner, label, bad in zip((points - eps).tolist(), labels.tolist(), crosses, strict=True):
        axis.add_patch(Rectangle(corner, 2 * eps, 2 * eps, **_OUTLINES[bad]))
        if bad:
            beyond = axis.add_patch(Rectangle(corner, 2 * eps, 2 * eps, **_BEYOND))
            beyond.set_clip_path(sides[1 - label], axis.transData)
    for label, (colour, marker) in enumerate(_POINTS):
        axis.plot(*numbers(points[labels == label]).T, color=colour, marker=marker, linestyle="",
                  markeredgecolor=BLACK, markeredgewidth=0.8, zorder=4)


def _squares_legend() -> tuple[list[Artist], list[str]]:
    points = [Line2D([], [], color=colour, marker=marker, linestyle="", markeredgecolor=BLACK)
              for colour, marker in _POINTS]
    border = Line2D([], [], color=BLACK, linestyle="-", marker="",
                    linewidth=1.6 * plt.rcParams["lines.linewidth"])
    return ([*points, border, Rectangle((0, 0), 1, 1, **_BEYOND)],
            ["label 0", "label 1", "border", "part beyond it"])


def _check_points(points: Tensor, labels: Tensor, eps: float) -> None:
    if points.dim() != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points must be [n, 2], not {tuple(points.shape)}")
    if labels.shape != points.shape[:1] or not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(f"give each of the {len(points)} points a label, 0 or 1")
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps = {eps} is no radius: use a finite number >= 0")
