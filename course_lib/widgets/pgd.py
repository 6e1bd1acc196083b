"""The PGD explorer of lesson 04."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import ipywidgets as ui
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor, nn

from course_lib import evaluation, plots, runtime
from course_lib.attacks import fgsm, pgd
from course_lib.datasets import Images
from course_lib.losses import margin
from course_lib.widgets.page import WIDE, captioned, chooser, png, png_bytes, present

Point = tuple[float, float]
_SLOWER = (80, 40, 20, 8, 4, 2, 1)  # step sizes alpha = eps / k


def pgd_explorer(model: nn.Module, images: Images, *, eps: float, steps: int = 20) -> None:
    """The path of PGD over the margin of one image, step by step: size of the steps, and the start.

    Its still twin shows the first image after several steps.
    """
    present(lambda: PgdExplorer(model, images, eps=eps, steps=steps),
            lambda: pgd_strip(model, images, eps=eps, steps=steps))


def pgd_path(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, steps: int, step_size: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Every iterate of PGD on one image, x_0 first: [steps + 1, ...]. A generator: random start."""
    path: list[Tensor] = []
    pgd(model, x, y, eps=eps, steps=steps, step_size=step_size, generator=generator,
        random_start=generator is not None, callback=lambda t, x_t: path.append(x_t))
    return torch.cat(path)


def pgd_strip(model: nn.Module, images: Images, *, eps: float, steps: int) -> Figure:
    """The first image on the way: after no step, one, two, and so on up to `steps`."""
    x, y = images.x[:1], images.y[:1]
    shown = sorted({0, 1, 2, steps // 4, steps // 2, steps})
    path = pgd_path(model, x, y, eps=eps, steps=steps, step_size=eps / 8)[shown]
    captions = plots.names(evaluation.predict(model, path), images.classes, y.expand(len(path)))
    return plots.images(
        path, [f"step {t}\n{name}" for t, name in zip(shown, captions, strict=True)],
        title=f"Small steps of alpha = eps/8 carry this \"{images.classes[int(y)]}\" "
              "across the border")


class PgdExplorer:
    """The controls and pictures of the PGD explorer; `box` is what is displayed."""

    def __init__(self, model: nn.Module, images: Images, *, eps: float, steps: int = 20) -> None:
        self.model, self.images, self.eps, self.steps = model, images, eps, steps
        self.background = functools.lru_cache(maxsize=32)(self._background)
        self.image = chooser(images, "image")
        self.alpha = ui.SelectionSlider(
            options=[("eps" if k == 1 else f"eps/{k}", eps / k) for k in _SLOWER], value=eps / 8,
            description="alpha", continuous_update=True, style=WIDE)
        self.random = ui.Checkbox(value=False, description="random start", style=WIDE)
        self.t = ui.IntSlider(value=0, min=0, max=steps, description="step t", style=WIDE,
                              continuous_update=True)
        self.plane, self.adversarial = ui.Image(format="png"), ui.Image(format="png")
        self.plane.add_class("pgd-plane")
        self.adversarial.add_class("pgd-adversarial")
        self.caption = ui.HTML()
        self.box = ui.VBox([
            ui.HBox([self.image, self.random]), ui.HBox([self.alpha, self.t]),
            ui.HBox([self.plane, ui.VBox([self.adversarial, self.caption])],
                    layout=ui.Layout(flex_flow="row wrap")),
        ])
        self.box.add_class("pgd-explorer")
        for control in (self.image, self.alpha, self.random):
            control.observe(self._changed_path, "value")
        self.t.observe(self._changed_t, "value")
        self._changed_path()

    def _background(self, index: int) -> tuple[Image.Image, Callable[[Tensor], list[Point]]]:
        """The margin around an image as a picture, and where images lie on it, in its pixels."""
        x, y = self.images.x[index:index + 1], self.images.y[index:index + 1]
        end = pgd_path(self.model, x, y, eps=self.eps, steps=self.steps, step_size=self.eps / 8)
        one = fgsm(self.model, x, y, eps=self.eps)
        plane = plots.ImagePlane.through(x[0], one[0], end[-1])
        reach = plane.coordinates(torch.cat([one, end])).cpu()
        fig = plots.loss_landscape(
            plane, lambda points: margin(evaluation.logits(self.model, points),
                                         y.expand(len(points))),
            eps=self.eps, reach=reach, marks={"FGSM": reach[0]})
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        picture = Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")
        to_pixels: Any = fig.axes[0].transData.frozen()
        plt.close(fig)

        def place(images: Tensor) -> list[Point]:
            points = to_pixels.transform(plane.coordinates(images).cpu().numpy())
            return [(a, picture.height - b) for a, b in points.tolist()]

        return picture, place

    def _changed_path(self, _: object = None) -> None:
        """Another image, step size or start: the path anew, one batch of predictions for it."""
        index = self.image.value
        x, y = self.images.x[index:index + 1], self.images.y[index:index + 1]
        self.path = pgd_path(self.model, x, y, eps=self.eps, steps=self.steps,
                             step_size=self.alpha.value,
                             generator=runtime.generator(0) if self.random.value else None)
        self.logits = evaluation.logits(self.model, self.path)
        self.margins = margin(self.logits, y.expand(len(self.path)))
        self.points = self.background(index)[1](self.path)
        self._changed_t()

    def _changed_t(self, _: object = None) -> None:
        """Another step of the path that is at hand: nothing is computed, only drawn."""
        t = self.t.value
        picture = self.background(self.image.value)[0].copy()
        draw, points = ImageDraw.Draw(picture), self.points[:t + 1]
        draw.line(points, fill="white", width=4)
        for a, b in points:
            draw.ellipse((a - 4, b - 4, a + 4, b + 4), fill="white", outline="black")
        a, b = points[-1]
        draw.ellipse((a - 8, b - 8, a + 8, b + 8), fill=plots.ORANGE, outline="black", width=2)
        self.plane.value = png_bytes(picture)
        self.adversarial.value = png(self.path[t])
        confidence, best = self.logits[t].softmax(0).max(0)
        label = self.images.y[self.image.value].item()
        self.caption.value = captioned(
            f"after step {t} of {self.steps}",
            f"{self.images.classes[best]}  {plots.percent(confidence.item())}",
            f"margin {self.margins[t]:+.1f}", "fooled" if best != label else "not fooled")
