"""Unit balls of the lp norms in the plane, and where they send a point or an arrow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_lib.plots.style import (
    BLACK,
    BLUE,
    COLOURS,
    LINES,
    VERMILLION,
    WIDTH,
    headline,
    ink,
)


def outline(p: float, points: int = 2000) -> Tensor:
    """The unit circle of the lp norm in the plane, counter-clockwise from (1, 0): [points + 1, 2].

    >>> outline(2, points=4).round(decimals=3).abs().tolist()[:2]
    [[1.0, 0.0], [0.0, 1.0]]
    """
    t = torch.linspace(0, 2 * math.pi, points + 1, dtype=torch.float64)
    circle = torch.stack([t.cos(), t.sin()], 1)
    if p > 2:
        # Divide out the largest entry first: cos^p underflows for large p.
        scaled = circle / circle.abs().amax(1, keepdim=True)
        return scaled if p == math.inf else scaled / scaled.abs().pow(p).sum(1, True).pow(1 / p)
    return circle.sign() * circle.abs().pow(2 / p)  # dense where the ball has its cusps


def nearest(p: float, point: Sequence[float]) -> tuple[float, float]:
    """The point of the unit ball nearest to `point` in the plane, for any p > 0 (by search)."""
    target = torch.tensor(point, dtype=torch.float64)
    if _inside(p, target):
        return float(target[0]), float(target[1])
    border = outline(p, points=8000)
    x, y = border[(border - target).norm(dim=1).argmin()].tolist()
    return x, y


def steepest(p: float, arrow: Sequence[float]) -> tuple[float, float]:
    """The point of the unit ball that lies furthest along `arrow`, for any p > 0 (by search)."""
    border = outline(p, points=8000)
    x, y = border[(border @ torch.tensor(arrow, dtype=torch.float64)).argmax()].tolist()
    return x, y


def _inside(p: float, point: Tensor) -> bool:
    size = point.abs().max() if p == math.inf else point.abs().pow(p).sum()
    return bool(size <= 1)


def norm_balls(ps: Sequence[float], *, title: str = "") -> Figure:
    """The unit balls of several norms over each other, each named where it meets the diagonal."""
    fig, axis = plt.subplots(figsize=(WIDTH * 0.7, WIDTH * 0.66))
    for i, p in enumerate(ps):
        x, y = outline(p).T.numpy()
        line, colour = LINES[i % len(LINES)], COLOURS[i % len(COLOURS)]
        axis.plot(x, y, marker="", linestyle=line, color=colour)
        corner = 2 ** (-1 / p)
        axis.annotate(f"p = {_p(p)}", (corner, corner), (4, 3), textcoords="offset points",
                      color=ink(colour), fontweight="bold",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    _plane(axis, 1.35)
    headline(fig, title)
    return fig


def ball_panels(ps: Sequence[float], point: Sequence[float], *, title: str = "") -> Figure:
    """One unit ball in each panel, with a point outside and the ball's nearest point to it."""
    texts = 5 * plt.rcParams["font.size"] / 72  # title, ticks, label
    fig, axes = plt.subplots(1, len(ps), figsize=(WIDTH, WIDTH / len(ps) + texts), sharey=True,
                             squeeze=False, layout="compressed")
    for axis, p in zip(axes[0], ps, strict=True):
        draw_ball(axis, p, point, nearest(p, point))
        axis.text(0.05, 0.95, f"p = {_p(p)}", transform=axis.transAxes, va="top", fontweight="bold")
        axis.label_outer()
    headline(fig, title)
    return fig


def ball(p: float, point: Sequence[float], reached: Sequence[float], *, arrow: bool) -> Figure:
    """One unit ball with a point or an arrow, and the point of the ball that it leads to."""
    fig, axis = plt.subplots(figsize=(4.5, 4.5))
    draw_ball(axis, p, point, reached, arrow=arrow)
    return fig


def draw_ball(
    axis: Axes, p: float, point: Sequence[float], reached: Sequence[float], *, arrow: bool = False
) -> None:
    """Draw the unit ball, a point (or an arrow from the origin), and the point it leads to."""
    x, y = outline(p).T.numpy()
    axis.fill(x, y, facecolor="#BBD7EA", edgecolor=BLUE, linewidth=2)
    if arrow:
        axis.annotate("", (point[0], point[1]), (0, 0), arrowprops={
            "arrowstyle": "-|>", "color": BLACK, "lw": 2, "mutation_scale": 20})
    else:
        axis.plot(*zip(point, reached, strict=True), color=BLACK, linestyle=":", marker="")
        axis.plot(*point, color=BLACK, marker="o", linestyle="")
    axis.plot(*reached, color=VERMILLION, marker="s", linestyle="", markersize=10)
    _plane(axis, 1.6)


def _plane(axis: Axes, reach: float) -> None:
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$r_1$",
             ylabel="$r_2$", xticks=(-1, 0, 1), yticks=(-1, 0, 1))


def _p(p: float) -> str:
    return "∞" if p == math.inf else f"{p:g}"
