"""The norm-ball explorer of lesson 01."""

from __future__ import annotations

import math

import ipywidgets as ui
import torch

from course_lib import plots
from course_lib.norms import lp_norm
from course_lib.widgets.page import captioned, figure_png, present

_EXPONENTS = (0.3, 0.4, 0.5, 0.7, 0.85, 1, 1.2, 1.5, 2, 3, 4, 6, 10, 20, 50, math.inf)
_NEAREST, _STEEPEST = "nearest point", "steepest step"


def norm_ball_explorer() -> None:
    """The unit ball of l_p in the plane while p moves, and where it sends a point or a gradient.

    Its still twin shows four balls side by side.
    """
    present(NormBallExplorer, lambda: plots.ball_panels(
        [0.5, 1, 2, math.inf], (1.3, 0.6), title="The nearest point of the ball depends on p"))


class NormBallExplorer:
    """The controls and the picture of the norm-ball explorer; `box` is what is displayed."""

    def __init__(self) -> None:
        self.p = ui.SelectionSlider(
            options=[("∞" if p == math.inf else f"{p:g}", p) for p in _EXPONENTS], value=2,
            description="p", continuous_update=True)
        self.r1, self.r2 = (
            ui.FloatSlider(value=value, min=-1.5, max=1.5, step=0.05, description=name)
            for name, value in (("r₁", 1.3), ("r₂", 0.6)))
        self.show = ui.Dropdown(options=[_NEAREST, _STEEPEST], description="show")
        self.picture, self.caption = ui.Image(format="png"), ui.HTML()
        self.picture.add_class("norm-ball")
        controls = ui.VBox([self.p, self.r1, self.r2, self.show, self.caption])
        self.box = ui.HBox([self.picture, controls], layout=ui.Layout(flex_flow="row wrap"))
        self.box.add_class("norm-ball-explorer")
        for control in (self.p, self.r1, self.r2, self.show):
            control.observe(self._changed, "value")
        self._changed()

    def _changed(self, _: object = None) -> None:
        p, point = self.p.value, (self.r1.value, self.r2.value)
        along = self.show.value == _STEEPEST
        reached = (plots.steepest if along else plots.nearest)(p, point)
        fig = plots.ball(p, point, reached, arrow=along)
        self.picture.value = figure_png(fig)
        size = lp_norm(torch.tensor([point]), p).item()
        what = "size of the arrow" if along else "size of the point"
        notes = [] if p >= 1 else ["For p below 1 the ball has dents, and l_p is no norm."]
        self.caption.value = captioned(
            f"{what} in l_p: {size:.2f}",
            f"{self.show.value}: ({reached[0]:.2f}, {reached[1]:.2f})", *notes)
