"""The explorer of adversarial training in two dimensions, in lesson 07."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import ipywidgets as ui
from matplotlib.figure import Figure
from torch import Tensor

from course_lib import plots
from course_lib.widgets.page import figure_png, present


def squares_explorer(
    points: Tensor, labels: Tensor, train: Callable[[float], plots.Margin],
    levels: Sequence[float], *, eps: float,
) -> None:
    """The border that training with a radius of your choice draws between squares of half side eps.

    train: from the radius of the training to a margin, as `plots.squares` takes it. levels: the
    radii of the slider. Its still twin shows the first and the last level. Taught in lesson 07.
    """
    present(lambda: SquaresExplorer(points, labels, train, levels, eps=eps),
            lambda: squares_strip(points, labels, train, levels, eps=eps))


def squares_strip(
    points: Tensor, labels: Tensor, train: Callable[[float], plots.Margin],
    levels: Sequence[float], *, eps: float,
) -> Figure:
    """The first and the last level side by side, and how many squares cross each border."""
    first, last = (train(level) for level in (levels[0], levels[-1]))
    before, after = (int(plots.crossing(points, labels, margin, eps).sum())
                     for margin in (first, last))
    return plots.square_panels(
        points, labels, {f"training with eps = {levels[0]:g}": first,
                         f"training with eps = {levels[-1]:g}": last}, eps,
        title=f"{before} of {len(points)} squares cross the first border, {after} cross the second")


class SquaresExplorer:
    """The slider and the picture of the squares explorer; `box` is what is displayed."""

    def __init__(
        self, points: Tensor, labels: Tensor, train: Callable[[float], plots.Margin],
        levels: Sequence[float], *, eps: float,
    ) -> None:
        self.points, self.labels, self.train, self.eps = points, labels, train, eps
        # Trained and drawn once for each level: a slider that comes back answers at once.
        self.drawn = functools.cache(self._drawn)
        self.level = ui.SelectionSlider(
            options=[(f"{level:g}", level) for level in levels], value=levels[0],
            description="training eps", continuous_update=True, style={"description_width": "7em"})
        self.picture, self.caption = ui.Image(format="png"), ui.HTML()
        self.picture.add_class("squares-picture")
        self.box = ui.VBox([self.level, self.caption, self.picture])
        self.box.add_class("squares-explorer")
        self.level.observe(self._changed, "value")
        self._changed()

    def _drawn(self, level: float) -> tuple[bytes, str]:
        margin = self.train(level)
        fig = plots.squares(self.points, self.labels, margin, self.eps)
        return figure_png(fig), plots.crossings(self.points, self.labels, margin, self.eps)

    def _changed(self, _: object = None) -> None:
        self.picture.value, count = self.drawn(self.level.value)
        self.caption.value = (f'<div aria-live="polite"><b>{count}</b>, '
                              f"training with eps = {self.level.value:g}</div>")
