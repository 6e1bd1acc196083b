"""The explorer of differential evolution, in lesson 06."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as ui
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor, nn

from course_lib import evaluation, plots
from course_lib.attacks.one_pixel import paint
from course_lib.widgets.page import captioned, png, png_bytes, present


def evolution_explorer(
    model: nn.Module, x: Tensor, history: Sequence[tuple[Tensor, Tensor]], classes: Sequence[str]
) -> None:
    """The candidates of a one-pixel attack, generation by generation, on the image they repaint.

    history: genes [P, 5] and costs [P] of each generation, as the callback of
    `one_pixel.search` hears them. Its still twin shows five generations.
    """
    present(lambda: EvolutionExplorer(model, x, history, classes),
            lambda: evolution_strip(model, x, history, classes))


def evolution_strip(
    model: nn.Module, x: Tensor, history: Sequence[tuple[Tensor, Tensor]], classes: Sequence[str]
) -> Figure:
    """Five generations side by side: all candidates, and what the best makes the network name."""
    last = len(history) - 1
    shown = sorted({0, last // 8, last // 4, last // 2, last})
    pictures = [np.asarray(_population(x, *history[t])) for t in shown]
    names = [_best_named(model, x, *history[t], classes) for t in shown]
    return plots.images(
        torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255,
        [f"generation {t}\n{name}" for t, name in zip(shown, names, strict=True)],
        title=f"The candidates gather; the best pixel leaves {names[0]}, then {names[-1]}")


class EvolutionExplorer:
    """The slider and the pictures of the evolution explorer; `box` is what is displayed."""

    def __init__(
        self, model: nn.Module, x: Tensor, history: Sequence[tuple[Tensor, Tensor]],
        classes: Sequence[str],
    ) -> None:
        self.x, self.history = x, history
        # Judged beforehand, so that the slider only draws.
        self.names = [_best_named(model, x, genes, costs, classes) for genes, costs in history]
        self.t = ui.IntSlider(value=0, min=0, max=len(history) - 1, description="generation",
                              continuous_update=True, style={"description_width": "6em"})
        self.candidates, self.adversarial = ui.Image(format="png"), ui.Image(format="png")
        self.candidates.add_class("evolution-candidates")
        self.adversarial.add_class("evolution-best")
        self.caption = ui.HTML()
        self.box = ui.VBox([self.t, ui.HBox(
            [self.candidates, ui.VBox([self.adversarial, self.caption])],
            layout=ui.Layout(flex_flow="row wrap"))])
        self.box.add_class("evolution-explorer")
        self.t.observe(self._changed, "value")
        self._changed()

    def _changed(self, _: object = None) -> None:
        genes, costs = self.history[self.t.value]
        self.candidates.value = png_bytes(_population(self.x, genes, costs))
        best = genes[costs.argmin()]
        self.adversarial.value = png(paint(self.x, best[None])[0])
        self.caption.value = captioned("the best candidate", *self.names[self.t.value].split("\n"))


def _population(x: Tensor, genes: Tensor, costs: Tensor) -> Image.Image:
    """The image, paled, with a dot for each candidate: its place, in the colour it would paint."""
    scale = 336 // x.shape[-1]
    picture = Image.fromarray(plots.array(0.5 + 0.5 * x[0]))
    picture = picture.resize((x.shape[3] * scale, x.shape[2] * scale), Image.Resampling.NEAREST)
    draw, best = ImageDraw.Draw(picture), int(costs.argmin())
    for i in [*range(len(genes)), best]:
        column, row, *colour = genes[i].tolist()
        a, b, size = column * scale, row * scale, 11 if i == best else 5
        fill = tuple(round(255 * value) for value in colour) * (3 // len(colour))
        draw.ellipse((a - size, b - size, a + size, b + size), fill=fill, outline="black",
                     width=3 if i == best else 1)
    return picture


def _best_named(
    model: nn.Module, x: Tensor, genes: Tensor, costs: Tensor, classes: Sequence[str]
) -> str:
    best = paint(x, genes[costs.argmin()][None])
    return plots.names(evaluation.predict(model, best), classes)[0]
