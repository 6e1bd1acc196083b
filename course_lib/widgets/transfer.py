"""The transfer explorer of lesson 05."""

from __future__ import annotations

import functools
import html
from collections.abc import Mapping

import ipywidgets as ui
from matplotlib.figure import Figure
from torch import nn

from course_lib import evaluation, plots
from course_lib.attacks import mifgsm
from course_lib.datasets import Images
from course_lib.widgets.page import present


def transfer_explorer(models: Mapping[str, nn.Module], images: Images) -> None:
    """Momentum on a network of your choice, judged by all: sliders for mu, the steps and eps.

    Its still twin shows the first network attacked without momentum and with it.
    """
    present(lambda: TransferExplorer(models, images),
            lambda: transfer_bars(models, images))


def transfer_bars(models: Mapping[str, nn.Module], images: Images) -> Figure:
    """The first network attacked without momentum and with it, judged by all."""
    first = next(iter(models))
    rates = {f"mu = {mu}": transfer_rates(models, first, images, mu=mu) for mu in (0, 1)}
    before, after = (max(values[1:]) for values in rates.values())
    return plots.bars([*models], rates, xlabel=f"success in %, {first} attacked",
                      title=f"The other networks: at most {before:.0f} % fooled with mu = 0, "
                            f"{after:.0f} % with mu = 1")


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
