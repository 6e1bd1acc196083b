"""Figures of the course: plain functions from tensors to a matplotlib Figure, in one style.

Titles are sentences that say what to see; the caller writes them. Colours are those of Okabe and
Ito, told apart by the colour-blind; markers and line styles repeat the difference in grey.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib import color_sequences
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from course_lib import runtime

if TYPE_CHECKING:
    from IPython.display import Markdown

    from course_lib.detection import Boxes

Numbers = Sequence[float] | Tensor | np.ndarray

BLUE, VERMILLION, GREEN, BLACK, ORANGE, PURPLE = COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#000000", "#E69F00", "#CC79A7",
)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
_HATCHES = ("", "//", "..", "xx", "\\\\", "++")
_WIDTH = 10.0  # inches: every figure is as wide as the page


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
        "axes.prop_cycle": (cycler(color=COLOURS) + cycler(marker=_MARKERS)
                            + cycler(linestyle=_LINES)),
    })


# --- images -------------------------------------------------------------------------------------

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
    return "> 99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


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
                axis.text(left, top, f"{label - 1}: {percent(score)}", color="white",
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
    fig, axes = plt.subplots(1, len(names), figsize=(_WIDTH, 0.9), squeeze=False)
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
    return runtime.write(path, file.getvalue())


# --- curves, bars, matrices ---------------------------------------------------------------------

def curves(
    x: Numbers, lines: Mapping[str, Numbers], *, title: str = "", xlabel: str = "",
    ylabel: str = "", logx: bool = False,
) -> Figure:
    """Lines with markers, each named at its right end."""
    fig, axis = plt.subplots(figsize=(_WIDTH, 5))
    x = _numbers(x)
    ends = []
    for name, values in lines.items():
        (line,) = axis.plot(x, _numbers(values))
        ends.append((_numbers(values)[-1], name, line.get_color()))
    if logx:
        axis.set_xscale("log")
        axis.minorticks_off()
        axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.set(xlabel=xlabel, ylabel=ylabel)
    _name_ends(axis, x[-1], ends)
    _headline(fig, title)
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
    fig, axis = plt.subplots(figsize=(_WIDTH, 1.6 + 0.5 * len(labels) * max(1, len(groups) * 0.75)))
    places = np.arange(len(labels))
    for i, (name, values) in enumerate(groups.items()):
        values = _numbers(values)
        drawn = axis.barh(places + (i - (len(groups) - 1) / 2) * thick, values, thick * 0.92,
                          color=COLOURS[i], hatch=_HATCHES[i], edgecolor="white", label=name)
        axis.bar_label(drawn, [form.format(v) for v in values], padding=4)
    axis.set_yticks(places, labels)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.1)
    axis.set_xlabel(xlabel)
    if len(groups) > 1:
        fig.legend(loc="outside lower center", ncols=len(groups))
    _headline(fig, title)
    return fig


def heatmap(
    values: Sequence[Sequence[float]] | Tensor | np.ndarray, rows: Sequence[str],
    columns: Sequence[str], *, title: str = "", xlabel: str = "", ylabel: str = "",
    form: str = "{:.0f}",
) -> Figure:
    """A matrix of numbers on colour, such as success in % with sources in rows."""
    grid = np.asarray(_numbers(values))
    fig, axis = plt.subplots(figsize=(_WIDTH, 1.8 + 0.75 * len(rows)))
    axis.grid(visible=False)
    mesh = axis.imshow(grid, aspect="auto", vmin=min(0, grid.min()), vmax=grid.max() or 1)
    for (i, j), value in np.ndenumerate(grid):
        ink = "black" if np.asarray(mesh.norm(value)) > 0.5 else "white"
        axis.text(j, i, form.format(value), ha="center", va="center", color=ink)
    axis.set_xticks(range(len(columns)), [textwrap.fill(c, 14) for c in columns])
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    _headline(fig, title)
    return fig


def loss_plane(
    u: Numbers, v: Numbers, loss: Tensor | np.ndarray, *, path: Tensor | np.ndarray | None = None,
    title: str = "", xlabel: str = "", ylabel: str = "",
) -> Figure:
    """The loss over a plane through the image, as contours; a path of an attack on top.

    Shape: u [columns], v [rows], loss [rows, columns], path [points, 2] in the units of u and v.
    """
    fig, axis = plt.subplots(figsize=(_WIDTH * 0.75, 5.5))
    axis.grid(visible=False)
    filled = axis.contourf(_numbers(u), _numbers(v), _numbers(loss), levels=20)
    axis.contour(filled, colors="white", linewidths=0.5)
    fig.colorbar(filled, ax=axis, label="loss")
    if path is not None:
        path = _numbers(path)
        axis.plot(path[:, 0], path[:, 1], color="white", marker="o", linestyle="-",
                  markeredgecolor="black", linewidth=3)
        for point, name in ((path[0], "start"), (path[-1], "end")):
            axis.annotate(name, point, (8, 8), textcoords="offset points",
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})
    axis.set(xlabel=xlabel, ylabel=ylabel)
    _headline(fig, title)
    return fig


def surface(function: Callable[[Tensor], Tensor], u: Tensor, v: Tensor) -> Tensor:
    """The values of `function` (points [n, 2] to [n]) on a grid: v in rows, u in columns."""
    points = torch.cartesian_prod(v, u).flip(1)
    return function(points).view(len(v), len(u))


# --- a plane through an image -------------------------------------------------------------------

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
                     ylabel="$l_2$ distance across it")
    axis = fig.axes[0]
    fig.axes[1].set_ylabel("margin: best wrong logit minus right one")
    lines: tuple[tuple[str, Tensor, float, str, Any], ...] = (
        ("border", grid[0], 0.0, BLACK, "-"), ("eps-ball", grid[1], eps, "white", "--"))
    for _, values, level, colour, style in lines:
        axis.contour(u, v, _numbers(values), levels=[level], colors=colour, linewidths=3.5,
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


# --- balls --------------------------------------------------------------------------------------

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
    fig, axis = plt.subplots(figsize=(_WIDTH * 0.7, _WIDTH * 0.66))
    for i, p in enumerate(ps):
        x, y = outline(p).T.numpy()
        line, colour = _LINES[i % len(_LINES)], COLOURS[i % len(COLOURS)]
        axis.plot(x, y, marker="", linestyle=line, color=colour)
        corner = 2 ** (-1 / p)
        axis.annotate(f"p = {_p(p)}", (corner, corner), (4, 3), textcoords="offset points",
                      color=_ink(colour), fontweight="bold",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    _plane(axis, 1.35)
    _headline(fig, title)
    return fig


def ball_panels(ps: Sequence[float], point: Sequence[float], *, title: str = "") -> Figure:
    """One unit ball in each panel, with a point outside and the ball's nearest point to it."""
    texts = 5 * plt.rcParams["font.size"] / 72  # title, ticks, label
    fig, axes = plt.subplots(1, len(ps), figsize=(_WIDTH, _WIDTH / len(ps) + texts), sharey=True,
                             squeeze=False, layout="compressed")
    for axis, p in zip(axes[0], ps, strict=True):
        draw_ball(axis, p, point, nearest(p, point))
        axis.text(0.05, 0.95, f"p = {_p(p)}", transform=axis.transAxes, va="top", fontweight="bold")
        axis.label_outer()
    _headline(fig, title)
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
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$x_1$",
             ylabel="$x_2$", xticks=(-1, 0, 1), yticks=(-1, 0, 1))


def _p(p: float) -> str:
    return "∞" if p == math.inf else f"{p:g}"


# --- squares around points ----------------------------------------------------------------------

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
    width = _WIDTH / max(len(margins), 1.4)
    height = min((width - 0.8) * (high[1] - low[1]) / (high[0] - low[0]), 5.5)
    heading = _broken(title, width * len(margins)).count("\n") + 1
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
    _headline(fig, title)
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
        values = _numbers(surface(lambda grid: margin(grid.to(points)), u, v))
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
        axis.plot(*_numbers(points[labels == label]).T, color=colour, marker=marker, linestyle="",
                  markeredgecolor=BLACK, markeredgewidth=0.8, zorder=4)


def _squares_legend() -> tuple[list[Artist], list[str]]:
    points = [Line2D([], [], color=colour, marker=marker, linestyle="", markeredgecolor=BLACK)
              for colour, marker in _POINTS]
    border = Line2D([], [], color=BLACK, linestyle="-", marker="",
                    linewidth=1.6 * plt.rcParams["lines.linewidth"])
    return ([*points, border, Rectangle((0, 0), 1, 1, **_BEYOND)],
            ["label 0", "label 1", "border", "square beyond it"])


def _check_points(points: Tensor, labels: Tensor, eps: float) -> None:
    if points.dim() != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points must be [n, 2], not {tuple(points.shape)}")
    if labels.shape != points.shape[:1] or not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(f"give each of the {len(points)} points a label, 0 or 1")
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps = {eps} is no radius: use a finite number >= 0")


# --- tables -------------------------------------------------------------------------------------

def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markdown:
    """A table as Markdown text, so that tests can compare it; round the numbers before.

    >>> print(table(["attack", "paper", "here"], [["FGSM", "99.9 %", "97 %"]]).data)
    | attack | paper | here |
    | :--- | :--- | :--- |
    | FGSM | 99.9 % | 97 % |
    """
    from IPython.display import Markdown

    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{len(columns)} columns, but the row {row!r} has {len(row)} entries")
    lines = [columns, [":---"] * len(columns), *rows]
    return Markdown("\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |"
        for line in lines))


# --- words --------------------------------------------------------------------------------------

def shaded_words(
    texts: Mapping[str, tuple[Sequence[str], Numbers]], *, title: str = ""
) -> Figure:
    """Texts word by word, each word on a ground as dark as its weight, from 0 to 1.

    texts: a heading for each text, its words and their weights. A word above one half is bold.
    """
    size = 0.95 * plt.rcParams["font.size"]
    letter, line = 0.605 * size / 72, 1.9 * size / 72  # inches, of the monospaced font
    room = int((_WIDTH - 0.2) / letter)
    placed, row = [], 0  # (row, column, word, weight, is a heading)
    for heading, (words, weights) in texts.items():
        placed.append((row, 0, heading, 0.0, True))
        row, column = row + 1, 0
        for word, weight in zip(words, _numbers(weights), strict=True):
            if column + len(word) > room:
                row, column = row + 1, 0
            placed.append((row, column, word, float(weight), False))
            column += len(word) + 1
        row += 2
    heading_lines = _broken(title, _WIDTH).count("\n") + 1
    height = (row - 1) * line + (1.6 * heading_lines * size * 1.2 / 72 if title else 0) + 0.1
    fig, axis = plt.subplots(figsize=(_WIDTH, height))
    axis.set(xlim=(0, _WIDTH), ylim=((row - 1) * line, 0))
    axis.axis("off")
    for row, column, word, weight, is_heading in placed:
        ground = tuple(1 - weight * (1 - channel) for channel in to_rgb(ORANGE))
        axis.text(column * letter, (row + 0.5) * line, word, va="center", fontsize=size,
                  family="sans-serif" if is_heading else "monospace",
                  fontweight="bold" if is_heading or weight > 0.5 else "normal",
                  bbox=None if is_heading else {"facecolor": ground, "edgecolor": "none",
                                                "pad": 1.5})
    _headline(fig, title)
    return fig


# --- parts --------------------------------------------------------------------------------------

def _numbers(values: object) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
    return np.asarray(values, dtype=float)


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
    title_height = 1.5 * plt.rcParams["font.size"] / 72 * (_broken(title, width).count("\n") + 1)
    fig, axes = plt.subplots(rows, columns, squeeze=False, figsize=(
        width, rows * (picture + 0.1) + lines * line + 0.2 + title_height))
    _headline(fig, title)
    for axis in axes.flat:
        axis.grid(visible=False)
        axis.set(xticks=[], yticks=[], anchor="N")  # spare height goes below the caption
        axis.spines[:].set_visible(False)
    return fig, axes


def _cell(columns: int) -> float:
    """The width in inches that a picture and its caption have."""
    return min(_WIDTH / columns, 3.3)


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
        broken = textwrap.wrap(line, room)
        if len(broken) > 2:
            broken = [broken[0], broken[1][:room - 1] + "…"]
        lines += broken
    return "\n".join(lines)


def _headline(fig: Figure, title: str) -> None:
    """The figure's sentence, at the left, broken to the figure's width."""
    if title:
        fig.suptitle(_broken(title, fig.get_figwidth()), x=0.01, ha="left")


def _broken(title: str, width: float) -> str:
    letter = 0.69 * plt.rcParams["font.size"] / 72  # inches; titles are bold and larger
    return textwrap.fill(title, int(width / letter))


def _ink(colour: str) -> tuple[float, ...]:
    """A line's colour, darker, for text: light orange letters cannot be read on a projector."""
    return tuple(0.7 * channel for channel in to_rgb(colour))


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
                      color=_ink(colour), fontweight="bold", annotation_clip=False)
