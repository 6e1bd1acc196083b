"""The patch explorer of lesson 08."""

from __future__ import annotations

import math

import ipywidgets as ui
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from course_lib import evaluation, plots
from course_lib.attacks.patch import Places, paste
from course_lib.datasets import Images
from course_lib.widgets.page import WIDE, captioned, chooser, png, present


def patch_explorer(model: nn.Module, images: Images, patch: Tensor) -> None:
    """A patch that you move over a photograph, beside a grey one of the same size and place.

    patch [channels, rows, columns]. Its still twin shows the first image with the patch at five
    places. Taught in lesson 08.
    """
    present(lambda: PatchExplorer(model, images, patch),
            lambda: patch_strip(model, images, patch))


def _one_place(across: float, down: float, area: float, degrees: float) -> Places:
    values = (across, down, math.sqrt(area), math.radians(degrees))
    return Places(*(torch.tensor([value]) for value in values))


def patch_strip(model: nn.Module, images: Images, patch: Tensor) -> Figure:
    """The first image with the patch at five places, and what the network names each time."""
    shown = [(-0.6, -0.6, 0.1, 0), (0.6, -0.6, 0.1, 20), (-0.6, 0.6, 0.1, -20), (0.6, 0.6, 0.1, 0),
             (0.6, 0.6, 0.05, 0)]
    x = torch.cat([images.x[:1], *(paste(images.x[:1], patch, _one_place(*p)) for p in shown)])
    labels, confidences = evaluation.predict(model, x)
    moved = int((labels[1:] != labels[0]).sum())
    return plots.images(
        x, plots.names((labels, confidences), images.classes),
        title=f"The same patch at five places: {moved} of them change the name")


class PatchExplorer:
    """The sliders and the two pictures of the patch explorer; `box` is what is displayed."""

    def __init__(self, model: nn.Module, images: Images, patch: Tensor) -> None:
        self.model, self.images = model, images
        self.stickers = (patch, torch.full_like(patch, 0.5))
        self.image = chooser(images, "photograph")
        self.across = ui.FloatSlider(value=0.5, min=-1, max=1, step=0.05, description="across",
                                     style=WIDE)
        self.down = ui.FloatSlider(value=0.5, min=-1, max=1, step=0.05, description="down",
                                   style=WIDE)
        self.area = ui.FloatSlider(value=10, min=1, max=30, step=1, description="area in %",
                                   style=WIDE)
        self.turn = ui.FloatSlider(value=0, min=-180, max=180, step=5, description="degrees",
                                   style=WIDE)
        self.pictures = [ui.Image(format="png") for _ in self.stickers]
        self.captions = [ui.HTML() for _ in self.stickers]
        columns = [ui.VBox(pair, layout=ui.Layout(margin="0 12px 0 0"))
                   for pair in zip(self.pictures, self.captions, strict=True)]
        self.box = ui.VBox([
            self.image, ui.HBox([self.across, self.down], layout=ui.Layout(flex_flow="row wrap")),
            ui.HBox([self.area, self.turn], layout=ui.Layout(flex_flow="row wrap")),
            ui.HBox(columns, layout=ui.Layout(flex_flow="row wrap"))])
        self.box.add_class("patch-explorer")
        for control in (self.image, self.across, self.down, self.area, self.turn):
            control.observe(self._changed, "value")
        self._changed()

    def _changed(self, _: object = None) -> None:
        x = self.images.x[self.image.value:self.image.value + 1]
        place = _one_place(self.across.value, self.down.value, self.area.value / 100,
                           self.turn.value).to(x.device)
        both = torch.cat([paste(x, sticker, place) for sticker in self.stickers])
        names = plots.names(evaluation.predict(self.model, both), self.images.classes)
        for i, kind in enumerate(("the patch", "a grey patch")):
            self.pictures[i].value = png(both[i])
            self.captions[i].value = captioned(kind, *names[i].split("\n"))
