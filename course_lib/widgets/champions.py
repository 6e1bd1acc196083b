"""The explorer of MAP-Elites, in lesson 02."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as ui
import torch
from matplotlib.figure import Figure

from course_lib import plots
from course_lib.encodings import Encoding
from course_lib.evolution import Archive
from course_lib.fooling import confidence
from course_lib.widgets.page import captioned, png, present


def champions_explorer(
    encoding: Encoding, history: Sequence[Archive], classes: Sequence[str]
) -> None:
    """The champion of each class, generation by generation, with the network's confidence in it.

    history: the archive of each generation, as the callback of `fooling.evolve` hears them. Its
    still twin shows four generations. Taught in lesson 02.
    """
    present(lambda: ChampionsExplorer(encoding, history, classes),
            lambda: champions_strip(encoding, history, classes))


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
            self.captions[k].value = captioned("named", self.classes[k], plots.percent(shares[k]))
