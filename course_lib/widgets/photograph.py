"""A photograph of your own, in lesson 03."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ipywidgets as ui
import matplotlib.pyplot as plt
from IPython.display import display
from torch import Tensor

from course_lib import runtime
from course_lib.datasets import own_photograph as own


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
