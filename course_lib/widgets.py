"""Explorers: ipywidgets around the functions that the lessons teach.

Nothing is computed in a callback that a plain function could not compute. Without a browser
(`runtime.live()` is False) each of them draws a still twin instead.

A slider that is dragged does not queue up work: the front end holds back a widget's changes while
the kernel still works on its last one, and then sends the newest value only.
"""

from __future__ import annotations

import functools
import html
import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as ui
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor, nn

from course_lib import evaluation, plots, runtime
from course_lib.attacks import fgsm, mifgsm, pgd
from course_lib.attacks.one_pixel import paint
from course_lib.attacks.patch import Places, paste
from course_lib.datasets import Images
from course_lib.datasets import own_photograph as own
from course_lib.evolution import Archive
from course_lib.fooling import Encoding, confidence
from course_lib.gradients import input_gradient
from course_lib.losses import margin
from course_lib.norms import lp_norm, project_box, steepest_direction
from course_lib.segmentation import label_map

# --- the FGSM explorer --------------------------------------------------------------------------

_AWAY = "away from the label"
_TOWARDS = "towards a class"


def fgsm_explorer(model: nn.Module, images: Images, *, largest: int = 16) -> None:
    """One FGSM step on an image of your choice, with a slider for eps in grey levels of 255.

    The slider ends at `largest`; digits bear far more than photographs. The still twin shows the
    first image at several eps.
    """
    if runtime.live():
        display(FgsmExplorer(model, images, largest=largest).box)
    else:
        fgsm_strip(model, images, [0, *(largest / 2**k for k in range(4, -1, -1))])
        plt.show()


def fgsm_strip(model: nn.Module, images: Images, levels: Sequence[float]) -> Figure:
    """The first image after one FGSM step, for several eps in grey levels of 255."""
    x, y = images.x[:1], images.y[:1]
    gradient = input_gradient(model, x, y)
    x_adv = torch.cat([step(x, gradient, level / 255) for level in levels])
    captions = plots.names(evaluation.predict(model, x_adv), images.classes,
                           y.expand(len(levels)))
    return plots.images(
        x_adv, [f"eps {level:g}/255\n{name}" for level, name in zip(levels, captions, strict=True)],
        title=f"One step away from \"{images.classes[int(y)]}\": "
              "what the network names as eps grows")


def step(x: Tensor, gradient: Tensor, eps: float) -> Tensor:
    """The step of `fgsm` along a known gradient: moving eps then costs no backward pass."""
    return project_box(x + eps * steepest_direction(gradient, "linf"), x, eps, "linf")


class FgsmExplorer:
    """The controls and pictures of the FGSM explorer; `box` is what is displayed."""

    def __init__(self, model: nn.Module, images: Images, *, largest: int = 16) -> None:
        self.model, self.images = model, images
        self.classes = _distinct(images.classes)
        self.gradient = functools.lru_cache(maxsize=64)(self._gradient)

        wide = {"description_width": "5em"}
        self.image = ui.Dropdown(
            options=[(f"{i + 1}  {name}", i) for i, name in enumerate(images.names)], value=0,
            description="image", style=wide)
        self.eps = ui.FloatSlider(
            value=largest / 8, min=0, max=largest, step=0.5, readout_format=".1f",
            description="eps", continuous_update=True, style=wide, layout=ui.Layout(width="28em"),
            tooltip="size of the step in grey levels of 255")
        self.direction = ui.Dropdown(options=[_AWAY, _TOWARDS], description="direction", style=wide)
        self.target = ui.Combobox(
            options=self.classes, placeholder="type a class name", ensure_option=True,
            description="class", disabled=True, style=wide)
        self.amplify = ui.Dropdown(
            options=[(f"× {k}", k) for k in (1, 5, 10, 20, 50)], value=20, description="amplify",
            style=wide, tooltip="how strongly the perturbation is shown")
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
            self.captions[1].value = _lines("towards a class", problem)
            return
        x = self.images.x[index:index + 1]
        x_adv = step(x, self.gradient(index, target), self.eps.value / 255)
        delta = x_adv - x
        self.pictures[1].value = png(plots.amplified(delta[0], self.amplify.value))
        self.pictures[2].value = png(x_adv[0])
        self.captions[1].value = _lines(
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
        return _lines(kind, *lines)


def _distinct(classes: Sequence[str]) -> list[str]:
    """Class names that tell classes apart: ImageNet has two cranes."""
    seen: dict[str, int] = {}
    names = []
    for name in classes:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _lines(kind: str, first: str, *rest: str) -> str:
    parts = [html.escape(kind), f"<b>{html.escape(first)}</b>", *map(html.escape, rest)]
    return f'<div aria-live="polite" style="line-height:1.5">{"<br>".join(parts)}</div>'


def png(image: Tensor) -> bytes:
    """An image as PNG, lossless so that a perturbation survives, enlarged to a readable size.

    The lowest compression is the fastest, and noise does not compress anyway.
    """
    picture = Image.fromarray(plots.array(image))
    side = 336 if runtime.lecture() else 224
    scale = max(1, side // max(picture.size))
    if scale > 1:
        size = picture.width * scale, picture.height * scale
        picture = picture.resize(size, Image.Resampling.NEAREST)
    return _png_bytes(picture)


def _png_bytes(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, format="PNG", compress_level=1)
    return data.getvalue()


# --- a photograph of your own -------------------------------------------------------------------


def own_photograph(show: Callable[[Tensor], object], file: str | Path | None = None) -> None:
    """Call show(x) with the picture in `file`; in a browser also with each one that is uploaded.

    show: draws what it finds about x [1, 3, 224, 224]. file: left out, a picture that is there.
    """
    if not runtime.live():
        show(own(file))
        return
    upload = ui.FileUpload(accept="image/*", multiple=False, description="your photograph")
    page = ui.Output()
    upload.add_class("own-photograph")

    def uploaded(_: object) -> None:
        for entry in upload.value:
            _on_page(page, show, bytes(entry["content"]))

    upload.observe(uploaded, "value")
    display(ui.VBox([upload, page]))
    _on_page(page, show, file)


def _on_page(
    page: ui.Output, show: Callable[[Tensor], object], file: str | Path | bytes | None
) -> None:
    page.clear_output(wait=True)
    with page:
        try:
            show(own(file))
            plt.show()
        except (OSError, ValueError) as error:
            print(f"✗ {error}")


# --- the norm-ball explorer ---------------------------------------------------------------------

_EXPONENTS = (0.3, 0.4, 0.5, 0.7, 0.85, 1, 1.2, 1.5, 2, 3, 4, 6, 10, 20, 50, math.inf)
_NEAREST, _STEEPEST = "nearest point", "steepest step"


def norm_ball_explorer() -> None:
    """The unit ball of l_p in the plane while p moves, and where it sends a point or a gradient.

    Its still twin shows four balls side by side.
    """
    if runtime.live():
        display(NormBallExplorer().box)
    else:
        plots.ball_panels([0.5, 1, 2, math.inf], (1.3, 0.6),
                          title="The nearest point of the ball depends on p")
        plt.show()


class NormBallExplorer:
    """The controls and the picture of the norm-ball explorer; `box` is what is displayed."""

    def __init__(self) -> None:
        self.p = ui.SelectionSlider(
            options=[("∞" if p == math.inf else f"{p:g}", p) for p in _EXPONENTS], value=2,
            description="p", continuous_update=True)
        self.x1, self.x2 = (
            ui.FloatSlider(value=value, min=-1.5, max=1.5, step=0.05, description=name)
            for name, value in (("x₁", 1.3), ("x₂", 0.6)))
        self.show = ui.Dropdown(options=[_NEAREST, _STEEPEST], description="show")
        self.picture, self.caption = ui.Image(format="png"), ui.HTML()
        self.picture.add_class("norm-ball")
        controls = ui.VBox([self.p, self.x1, self.x2, self.show, self.caption])
        self.box = ui.HBox([self.picture, controls], layout=ui.Layout(flex_flow="row wrap"))
        self.box.add_class("norm-ball-explorer")
        for control in (self.p, self.x1, self.x2, self.show):
            control.observe(self._changed, "value")
        self._changed()

    def _changed(self, _: object = None) -> None:
        p, point = self.p.value, (self.x1.value, self.x2.value)
        along = self.show.value == _STEEPEST
        reached = (plots.steepest if along else plots.nearest)(p, point)
        fig = plots.ball(p, point, reached, arrow=along)
        data = io.BytesIO()
        fig.savefig(data, format="png")
        plt.close(fig)
        self.picture.value = data.getvalue()
        size = lp_norm(torch.tensor([point]), p).item()
        what = "size of the arrow" if along else "size of the point"
        notes = [] if p >= 1 else ["For p below 1 the ball has dents, and l_p is no norm."]
        self.caption.value = _lines(
            f"{what} in l_p: {size:.2f}",
            f"{self.show.value}: ({reached[0]:.2f}, {reached[1]:.2f})", *notes)


# --- the transfer explorer ----------------------------------------------------------------------


def transfer_explorer(models: Mapping[str, nn.Module], images: Images) -> None:
    """Momentum on a network of your choice, judged by all: sliders for mu, the steps and eps.

    Its still twin shows the first network attacked without momentum and with it.
    """
    if runtime.live():
        display(TransferExplorer(models, images).box)
        return
    first = next(iter(models))
    plots.bars([*models], {f"mu = {mu}": transfer_rates(models, first, images, mu=mu)
                           for mu in (0, 1)},
               xlabel=f"success in %, {first} attacked", title="What mu = 1 changes at eps = 0.25")
    plt.show()


def transfer_rates(
    models: Mapping[str, nn.Module], source: str, images: Images, *, mu: float, steps: int = 10,
    eps: float = 0.25,
) -> list[float]:
    """Success in % of MI-FGSM on the source, judged by each of the models."""
    attack = functools.partial(mifgsm, eps=eps, steps=steps, mu=mu)
    return evaluation.transfer_matrix({source: models[source]}, models, images.x, images.y,
                                      attack=attack).success[0].tolist()


class TransferExplorer:
    """The controls and bars of the transfer explorer; `box` is what is displayed."""

    def __init__(self, models: Mapping[str, nn.Module], images: Images) -> None:
        self.models, self.images = models, images
        self.source = ui.Dropdown(options=[*models], description="attacked")
        self.mu = ui.FloatSlider(value=0, min=0, max=2, step=0.1, description="mu",
                                 readout_format=".1f")
        self.steps = ui.IntSlider(value=10, min=1, max=20, description="steps")
        self.eps = ui.FloatSlider(value=0.25, min=0.05, max=0.35, step=0.01, description="eps")
        self.chart = ui.HTML()
        controls = (self.source, self.mu, self.steps, self.eps)
        self.box = ui.HBox([ui.VBox(controls), self.chart])
        self.box.add_class("transfer-explorer")
        for control in controls:
            control.observe(self._changed, "value")
        self._changed()

    def _changed(self, _: object = None) -> None:
        rates = transfer_rates(self.models, self.source.value, self.images, mu=self.mu.value,
                               steps=self.steps.value, eps=self.eps.value)
        rows = [self._bar(name, rate) for name, rate in zip(self.models, rates, strict=True)]
        self.chart.value = f'<div aria-live="polite">{"".join(rows)}</div>'

    def _bar(self, name: str, rate: float) -> str:
        white = name == self.source.value
        colour = plots.BLUE if white else plots.VERMILLION
        box = "white box" if white else "black box"
        return (f'<div style="margin:6px"><b>{html.escape(name)}</b>, {box}: {rate:.0f} %'
                f'<div style="width:18em;background:#eee"><div style="width:{rate:.0f}%;'
                f'height:1.1em;background:{colour}"></div></div></div>')


# --- the PGD explorer ---------------------------------------------------------------------------

Point = tuple[float, float]

_SLOWER = (80, 40, 20, 8, 4, 2, 1)  # step sizes alpha = eps / k


def pgd_explorer(model: nn.Module, images: Images, *, eps: float, steps: int = 20) -> None:
    """The path of PGD over the margin of one image, step by step: size of the steps, and the start.

    Its still twin shows the first image after several steps.
    """
    if runtime.live():
        display(PgdExplorer(model, images, eps=eps, steps=steps).box)
    else:
        pgd_strip(model, images, eps=eps, steps=steps)
        plt.show()


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
        wide = {"description_width": "6em"}
        self.image = ui.Dropdown(
            options=[(f"{i + 1}  {name}", i) for i, name in enumerate(images.names)], value=0,
            description="image", style=wide)
        self.alpha = ui.SelectionSlider(
            options=[("eps" if k == 1 else f"eps/{k}", eps / k) for k in _SLOWER], value=eps / 8,
            description="alpha", continuous_update=True, style=wide)
        self.random = ui.Checkbox(value=False, description="start at a random point of the ball",
                                  style=wide)
        self.t = ui.IntSlider(value=0, min=0, max=steps, description="step t", style=wide,
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
        self.plane.value = _png_bytes(picture)
        self.adversarial.value = png(self.path[t])
        confidence, best = self.logits[t].softmax(0).max(0)
        label = self.images.y[self.image.value].item()
        self.caption.value = _lines(
            f"after step {t} of {self.steps}",
            f"{self.images.classes[best]}  {plots.percent(confidence.item())}",
            f"margin {self.margins[t]:+.1f}", "fooled" if best != label else "not fooled")


# --- the champions explorer ---------------------------------------------------------------------

def champions_explorer(
    encoding: Encoding, history: Sequence[Archive], classes: Sequence[str]
) -> None:
    """The champion of each class, generation by generation, with the network's confidence in it.

    history: the archive of each generation, as the callback of `fooling.evolve` hears them. Its
    still twin shows four generations. Taught in lesson 02.
    """
    if runtime.live():
        display(ChampionsExplorer(encoding, history, classes).box)
    else:
        champions_strip(encoding, history, classes)
        plt.show()


def champions_strip(
    encoding: Encoding, history: Sequence[Archive], classes: Sequence[str]
) -> Figure:
    """Four generations below each other: the champion of each class and how sure the network is."""
    last = len(history) - 1
    times = sorted({0, last // 20, last // 5, last})
    shown = [history[t] for t in times]
    captions = [f"{name}: {plots.percent(p)}" for archive in shown
                for name, p in zip(classes, confidence(archive.scores).tolist(), strict=True)]
    return plots.images(
        torch.cat([encoding.render(archive.genomes) for archive in shown]), captions,
        columns=len(classes), title=f"Generations {', '.join(map(str, times))}, row by row: "
                                    "the network grows sure of each class")


class ChampionsExplorer:
    """The slider and the pictures of the champions explorer; `box` is what is displayed."""

    def __init__(
        self, encoding: Encoding, history: Sequence[Archive], classes: Sequence[str]
    ) -> None:
        self.encoding, self.history, self.classes = encoding, history, classes
        self.t = ui.IntSlider(value=0, min=0, max=len(history) - 1, description="generation",
                              continuous_update=True, style={"description_width": "6em"})
        self.pictures = [ui.Image(format="png", width="112") for _ in classes]
        self.captions = [ui.HTML() for _ in classes]
        cells = [ui.VBox(pair) for pair in zip(self.pictures, self.captions, strict=True)]
        self.box = ui.VBox([self.t, ui.HBox(cells, layout=ui.Layout(flex_flow="row wrap"))])
        self.box.add_class("champions-explorer")
        self.t.observe(self._changed, "value")
        self._changed()

    def _changed(self, _: object = None) -> None:
        archive = self.history[self.t.value]
        shares = confidence(archive.scores).tolist()
        for k, image in enumerate(self.encoding.render(archive.genomes)):
            self.pictures[k].value = png(image)
            self.captions[k].value = _lines("named", self.classes[k], plots.percent(shares[k]))


# --- the evolution explorer ---------------------------------------------------------------------

def evolution_explorer(
    model: nn.Module, x: Tensor, history: Sequence[tuple[Tensor, Tensor]], classes: Sequence[str]
) -> None:
    """The candidates of a one-pixel attack, generation by generation, on the image they repaint.

    history: genes [P, 5] and costs [P] of each generation, as the callback of
    `one_pixel.search` hears them. Its still twin shows five generations.
    """
    if runtime.live():
        display(EvolutionExplorer(model, x, history, classes).box)
    else:
        evolution_strip(model, x, history, classes)
        plt.show()


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
        self.candidates.value = _png_bytes(_population(self.x, genes, costs))
        best = genes[costs.argmin()]
        self.adversarial.value = png(paint(self.x, best[None])[0])
        self.caption.value = _lines("the best candidate", *self.names[self.t.value].split("\n"))


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


# --- the DAG explorer ---------------------------------------------------------------------------

def dag_explorer(model: nn.Module, path: Sequence[Tensor], mask: Tensor) -> None:
    """One scene under DAG, step by step: the image, its label map, and the pixels that are left.

    path: the iterates [1, 3, rows, columns], as the callback of `dag` hears them. Its still twin
    shows six steps. Taught in lesson 08.
    """
    if runtime.live():
        display(DagExplorer(model, path, mask).box)
    else:
        dag_strip(model, path, mask)
        plt.show()


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
        self.caption.value = _lines(
            "the image, its label map, and in black the pixels that are left",
            f"{int(self.left[t].sum()):,} pixels left after step {t}")


# --- the patch explorer -------------------------------------------------------------------------

def patch_explorer(model: nn.Module, images: Images, patch: Tensor) -> None:
    """A patch that you move over a photograph, beside a grey one of the same size and place.

    patch [channels, rows, columns]. Its still twin shows the first image with the patch at five
    places. Taught in lesson 08.
    """
    if runtime.live():
        display(PatchExplorer(model, images, patch).box)
    else:
        patch_strip(model, images, patch)
        plt.show()


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
        wide = {"description_width": "6em"}
        self.image = ui.Dropdown(
            options=[(f"{i + 1}  {name}", i) for i, name in enumerate(images.names)], value=0,
            description="photograph", style=wide)
        self.across = ui.FloatSlider(value=0.5, min=-1, max=1, step=0.05, description="across",
                                     style=wide)
        self.down = ui.FloatSlider(value=0.5, min=-1, max=1, step=0.05, description="down",
                                   style=wide)
        self.area = ui.FloatSlider(value=10, min=1, max=30, step=1, description="area in %",
                                   style=wide)
        self.turn = ui.FloatSlider(value=0, min=-180, max=180, step=5, description="degrees",
                                   style=wide)
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
            self.captions[i].value = _lines(kind, *names[i].split("\n"))


# --- the squares explorer -----------------------------------------------------------------------

def squares_explorer(
    points: Tensor, labels: Tensor, train: Callable[[float], plots.Margin],
    levels: Sequence[float], *, eps: float,
) -> None:
    """The border that training with a radius of your choice draws between squares of half side eps.

    train: from the radius of the training to a margin, as `plots.squares` takes it. levels: the
    radii of the slider. Its still twin shows the first and the last level. Taught in lesson 07.
    """
    if runtime.live():
        display(SquaresExplorer(points, labels, train, levels, eps=eps).box)
    else:
        squares_strip(points, labels, train, levels, eps=eps)
        plt.show()


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
        data = io.BytesIO()
        fig.savefig(data, format="png")
        plt.close(fig)
        return data.getvalue(), plots.crossings(self.points, self.labels, margin, self.eps)

    def _changed(self, _: object = None) -> None:
        self.picture.value, count = self.drawn(self.level.value)
        self.caption.value = (f'<div aria-live="polite"><b>{count}</b>, '
                              f"training with eps = {self.level.value:g}</div>")
