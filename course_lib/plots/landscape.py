"""The loss over a plane of images, with the path of an attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from course_lib.plots.style import (
    BLACK,
    VERMILLION,
    WIDTH,
    Numbers,
    headline,
    numbers,
)


def loss_plane(
    u: Numbers, v: Numbers, loss: Tensor | np.ndarray, *, path: Tensor | np.ndarray | None = None,
    title: str = "", xlabel: str = "", ylabel: str = "",
) -> Figure:
    """The loss over a plane through the image, as contours; a path of an attack on top.

    Shape: u [columns], v [rows], loss [rows, columns], path [points, 2] in the units of u and v.
    """
    fig, axis = plt.subplots(figsize=(WIDTH * 0.75, 5.5))
    axis.grid(visible=False)
    filled = axis.contourf(numbers(u), numbers(v), numbers(loss), levels=20)
    axis.contour(filled, colors="white", linewidths=0.5)
    fig.colorbar(filled, ax=axis, label="loss")
    if path is not None:
        path = numbers(path)
        axis.plot(path[:, 0], path[:, 1], color="white", marker="o", linestyle="-",
                  markeredgecolor="black", linewidth=3)
        for point, name in ((path[0], "start"), (path[-1], "end")):
            axis.annotate(name, point, (8, 8), textcoords="offset points",
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})
    axis.set(xlabel=xlabel, ylabel=ylabel)
    headline(fig, title)
    return fig


def surface(function: Callable[[Tensor], Tensor], u: Tensor, v: Tensor) -> Tensor:
    """The values of `function` (points [n, 2] to [n]) on a grid: v in rows, u in columns."""
    points = torch.cartesian_prod(v, u).flip(1)
    return function(points).view(len(v), len(u))


@dataclass(frozen=True)
class ImagePlane:
    """The plane through an image x and two others, with Euclidean coordinates and x at (0, 0).

    The first axis points to the first of the two; the second is orthogonal to it and spans the
    plane with the other.

    >>> origin, right = torch.zeros(2), torch.tensor([2.0, 0.0])
    >>> plane = ImagePlane.through(origin, right, torch.tensor([1.0, 3.0]))
    >>> plane.coordinates(torch.tensor([[1.0, 3.0]]))
    tensor([[1., 3.]])
    """

    x: Tensor
    axes: Tensor  # [2, ...], orthonormal

    @classmethod
    def through(cls, x: Tensor, a: Tensor, b: Tensor) -> ImagePlane:
        along, to_b = (a - x).flatten(), (b - x).flatten()
        along = along / along.norm()
        across = to_b - (to_b @ along) * along
        return cls(x, torch.stack([along, across / across.norm()]).view(2, *x.shape))

    def coordinates(self, images: Tensor) -> Tensor:
        """Where images [n, ...] lie, seen at a right angle to the plane: [n, 2]."""
        return (images - self.x).flatten(1) @ self.axes.flatten(1).T

    def images(self, points: Tensor) -> Tensor:
        """The images at points [n, 2]; some of them outside [0, 1]."""
        return self.x + torch.tensordot(points.to(self.axes), self.axes, 1)


def loss_landscape(
    plane: ImagePlane, margin: Callable[[Tensor], Tensor], *, eps: float, reach: Tensor,
    path: Tensor | None = None, marks: Mapping[str, Tensor] | None = None, title: str = "",
) -> Figure:
    """The margin over a plane through an image, with its zero line, the l_inf ball and a path.

    margin: images [n, ...] to [n], above zero where the network is fooled. The dashed outline is
    where the plane leaves the eps-ball.
    Shape: reach [k, 2], points to be in view; path [points, 2]; marks, names and points [2].
    """
    low, high = reach.amin(0), reach.amax(0)
    room = 0.3 * (high - low).max()
    u, v = (torch.linspace(a - room, b + room, 41) for a, b in zip(low.tolist(), high.tolist(),
                                                                   strict=True))
    grid = [surface(lambda points: margin(plane.images(points)), u, v),
            surface(lambda points: (plane.images(points) - plane.x).flatten(1).abs().amax(1), u, v)]
    fig = loss_plane(u, v, grid[0].cpu(), path=path, title=title,
                     xlabel="$l_2$ distance along the one step of FGSM",
                     ylabel="$l_2$ distance at right angles to FGSM")
    axis = fig.axes[0]
    fig.axes[1].set_ylabel("margin: best wrong - right logit")
    lines: tuple[tuple[str, Tensor, float, str, Any], ...] = (
        ("border", grid[0], 0.0, BLACK, "-"), ("eps-ball", grid[1], eps, "white", "--"))
    for _, values, level, colour, style in lines:
        axis.contour(u, v, numbers(values), levels=[level], colors=colour, linewidths=3.5,
                     linestyles=style)
    axis.legend([Line2D([], [], color=colour, linestyle=style, marker="")
                 for *_, colour, style in lines], [name for name, *_ in lines],
                loc="lower left", frameon=True, facecolor="#999999", labelcolor=BLACK)
    for name, point in (marks or {}).items():
        axis.plot(*point.tolist(), color=VERMILLION, marker="s", markersize=11, linestyle="",
                  markeredgecolor="white")
        axis.annotate(name, tuple(point.tolist()), (10, -4), textcoords="offset points",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})
    return fig
