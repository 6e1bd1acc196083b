"""The FGSM explorer of lesson 03."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence

import ipywidgets as ui
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from course_lib import evaluation, plots
from course_lib.datasets import Images
from course_lib.gradients import input_gradient
from course_lib.norms import lp_norm, project_box, steepest_direction
from course_lib.widgets.page import WIDE, captioned, chooser, png, present

_AWAY = "away from the label"
_TOWARDS = "towards a class"


def fgsm_explorer(model: nn.Module, images: Images, *, largest: int = 16) -> None:
    """One FGSM step on an image of your choice, with a slider for eps in grey levels of 255.

    The slider ends at `largest`; digits bear far more than photographs. The still twin shows the
    first image at several eps.
    """
    present(lambda: FgsmExplorer(model, images, largest=largest),
            lambda: fgsm_strip(model, images, [0, *(largest / 2**k for k in range(4, -1, -1))]))


def fgsm_strip(model: nn.Module, images: Images, levels: Sequence[float]) -> Figure:
    """The first image after one FGSM step, for several eps in grey levels of 255."""
    x, y = images.x[:1], images.y[:1]
    gradient = input_gradient(model, x, y)
    x_adv = torch.cat([step(x, gradient, level / 255) for level in levels])
    said = evaluation.predict(model, x_adv)
    captions = plots.names(said, images.classes, y.expand(len(levels)))
    wrong = int((said.labels != y).sum())
    return plots.images(
        x_adv, [f"eps {level:g}/255\n{name}" for level, name in zip(levels, captions, strict=True)],
        title=f"One step away from \"{images.classes[int(y)]}\": "
              f"{wrong} of these {len(levels)} sizes give a wrong name")


def step(x: Tensor, gradient: Tensor, eps: float) -> Tensor:
    """The step of `fgsm` along a known gradient: moving eps then costs no backward pass."""
    return project_box(x + eps * steepest_direction(gradient, "linf"), x, eps, "linf")


class FgsmExplorer:
    """The controls and pictures of the FGSM explorer; `box` is what is displayed."""

    def __init__(self, model: nn.Module, images: Images, *, largest: int = 16) -> None:
        self.model, self.images = model, images
        self.classes = _distinct(images.classes)
        self.gradient = functools.lru_cache(maxsize=64)(self._gradient)

        self.image = chooser(images, "image")
        self.eps = ui.FloatSlider(
            value=largest / 8, min=0, max=largest, step=0.5, readout_format=".1f",
            description="eps", continuous_update=True, style=WIDE, layout=ui.Layout(width="28em"),
            tooltip="size of the step in grey levels of 255")
        self.direction = ui.Dropdown(options=[_AWAY, _TOWARDS], description="direction", style=WIDE)
        self.target = ui.Combobox(
            options=self.classes, placeholder="type a class name", ensure_option=True,
            description="class", disabled=True, style=WIDE)
        self.amplify = ui.Dropdown(
            options=[(f"× {k}", k) for k in (1, 5, 10, 20, 50)], value=20, description="amplify",
            style=WIDE, tooltip="how strongly the perturbation is shown")
        self.pictures = [ui.Image(format="png") for _ in range(3)]
        self.captions = [ui.HTML() for _ in range(3)]
        columns = []
        for name, picture, caption in zip(("clean", "perturbation", "adversarial"),
                                          self.pictures, self.captions, strict=True):
            picture.add_class(f"fgsm-{name}")
            columns.append(ui.VBox([picture, caption], layout=ui.Layout(margin="0 12px 0 0")))
        self.box = ui.VBox([
            ui.HBox([self.image, self.amplify]),
            ui.HBox([self.direction, self.target]),
            ui.HBox([self.eps, ui.Label("grey levels of 255")]),
            ui.HBox(columns, layout=ui.Layout(flex_flow="row wrap")),
        ])
        self.box.add_class("fgsm-explorer")

        for control in (self.image, self.direction, self.target):
            control.observe(self._changed_problem, "value")
        for control in (self.eps, self.amplify):
            control.observe(self._changed_step, "value")
        self._changed_problem()

    @property
    def chosen(self) -> int | None:
        """The target class, or None for a step away from the label."""
        if self.direction.value == _AWAY or self.target.value not in self.classes:
            return None
        return self.classes.index(self.target.value)

    def _gradient(self, image: int, target: int | None) -> Tensor:
        x, y = self.images.x[image:image + 1], self.images.y[image:image + 1]
        wanted = None if target is None else torch.full_like(y, target)
        return input_gradient(self.model, x, y, target=wanted)

    def _changed_problem(self, _: object = None) -> None:
        """Another image or direction: the clean picture changes too."""
        self.target.disabled = self.direction.value == _AWAY
        x = self.images.x[self.image.value:self.image.value + 1]
        self.pictures[0].value = png(x[0])
        self.captions[0].value = self._caption("original", x)
        self._changed_step()

    def _changed_step(self, _: object = None) -> None:
        """Another eps: with the gradient at hand, this costs one forward pass."""
        index, target = self.image.value, self.chosen
        label = int(self.images.y[index])
        if problem := self._problem(target, label):
            self.captions[1].value = captioned("towards a class", problem)
            return
        x = self.images.x[index:index + 1]
        x_adv = step(x, self.gradient(index, target), self.eps.value / 255)
        delta = x_adv - x
        self.pictures[1].value = png(plots.amplified(delta[0], self.amplify.value))
        self.pictures[2].value = png(x_adv[0])
        self.captions[1].value = captioned(
            f"perturbation × {self.amplify.value}",
            f"l_inf {lp_norm(delta, 'linf').item() * 255:.1f}/255",
            f"l_2 {lp_norm(delta, 2).item():.2f}")
        self.captions[2].value = self._caption("adversarial", x_adv, {label, target})

    def _problem(self, target: int | None, label: int) -> str:
        if target is None and self.direction.value == _TOWARDS:
            return "Type a class name above."
        return "This is the image's own label: choose another." if target == label else ""

    def _caption(self, kind: str, x: Tensor, watched: Collection[int | None] = ()) -> str:
        """Best class first; then label and target, whose confidence is worth watching too."""
        confidence = evaluation.logits(self.model, x)[0].softmax(0)
        best = int(confidence.argmax())
        others = {k for k in watched if k is not None} - {best}
        shown = [best, *sorted(others)]
        lines = [f"{self.classes[k]}  {plots.percent(confidence[k].item())}" for k in shown]
        return captioned(kind, *lines)


def _distinct(classes: Sequence[str]) -> list[str]:
    """Class names that tell classes apart: ImageNet has two cranes."""
    seen: dict[str, int] = {}
    names = []
    for name in classes:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names
