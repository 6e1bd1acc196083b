"""The DAG explorer of lesson 08."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as ui
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from course_lib import plots
from course_lib.segmentation import label_map
from course_lib.widgets.page import captioned, png, present


def dag_explorer(model: nn.Module, path: Sequence[Tensor], mask: Tensor) -> None:
    """One scene under DAG, step by step: the image, its label map, and the pixels that are left.

    path: the iterates [1, 3, rows, columns], as the callback of `dag` hears them. Its still twin
    shows six steps. Taught in lesson 08.
    """
    present(lambda: DagExplorer(model, path, mask),
            lambda: dag_strip(model, path, mask))


def dag_strip(model: nn.Module, path: Sequence[Tensor], mask: Tensor) -> Figure:
    """Six steps side by side: above the label map, below, in black, the pixels that are left."""
    last = len(path) - 1
    shown = sorted({0, 1, 2, last // 8, last // 4, last})
    maps = label_map(model, torch.cat([path[t] for t in shown]))
    left = maps == mask
    counts = left.flatten(1).sum(1).tolist()
    white = (~left).float()[:, None].expand(-1, 3, -1, -1).cpu()
    captions = [f"step {t}" for t in shown] + [f"{count:,} left" for count in counts]
    return plots.images(
        torch.cat([plots.painted(maps), white]), captions, columns=len(shown),
        title=f"Of {counts[0]:,} pixels with the right name, {counts[-1]:,} are left")


class DagExplorer:
    """The slider and the pictures of the DAG explorer; `box` is what is displayed."""

    def __init__(self, model: nn.Module, path: Sequence[Tensor], mask: Tensor) -> None:
        self.path = path
        # Judged beforehand, so that the slider only draws.
        self.maps = label_map(model, torch.cat([*path]))
        self.left = self.maps == mask
        self.t = ui.IntSlider(value=0, min=0, max=len(path) - 1, description="step",
                              continuous_update=True, style={"description_width": "4em"})
        self.pictures = [ui.Image(format="png") for _ in range(3)]
        self.caption = ui.HTML()
        self.box = ui.VBox([self.t, self.caption, ui.HBox(
            self.pictures, layout=ui.Layout(flex_flow="row wrap"))])
        self.box.add_class("dag-explorer")
        self.t.observe(self._changed, "value")
        self._changed()

    def _changed(self, _: object = None) -> None:
        t = self.t.value
        white = (~self.left[t]).float().expand(3, -1, -1)
        pictures = (self.path[t][0], plots.painted(self.maps[t:t + 1])[0], white)
        for widget, picture in zip(self.pictures, pictures, strict=True):
            widget.value = png(picture)
        self.caption.value = captioned(
            "the image, its label map, and in black the pixels that are left",
            f"{int(self.left[t].sum()):,} pixels left after step {t}")
