"""What all explorers share: one rule for live and still, and pictures and captions for a page."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from typing import Protocol

import ipywidgets as ui
import matplotlib.pyplot as plt
from IPython.display import Javascript, display
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from course_lib import plots, runtime
from course_lib.datasets import Images

WIDE = {"description_width": "6em"}  # room for the name of a control
# ipywidgets gives the handle of a slider no name: a screen reader would read its value alone. One
# watcher a page names every handle that appears by the text before its slider.
_NAME_HANDLES = Javascript("""
window.courseHandles ??= new MutationObserver(() => {
  for (const handle of document.querySelectorAll('.noUi-handle:not([aria-label])')) {
    const label = handle.closest('.widget-slider')?.querySelector('.widget-label');
    if (label?.textContent) handle.ariaLabel = label.textContent;
  }
});
window.courseHandles.observe(document.body, {childList: true, subtree: true});
""")


class Explorer(Protocol):
    """Controls and pictures; `box` is what is displayed."""

    box: ui.Box


def present(live: Callable[[], Explorer], still: Callable[[], Figure]) -> None:
    """Show the explorer where there is a front end, else its still twin."""
    if runtime.live():
        display(live().box, _NAME_HANDLES)
    else:
        still()
        plt.show()


def chooser(images: Images, description: str) -> ui.Dropdown:
    """A list of all images by number and name; its value is the number."""
    return ui.Dropdown(
        options=[(f"{i + 1}  {name}", i) for i, name in enumerate(images.names)], value=0,
        description=description, style=WIDE)


def figure_png(fig: Figure) -> bytes:
    """A figure as PNG; it is closed, so that the notebook does not show it a second time."""
    data = io.BytesIO()
    fig.savefig(data, format="png")
    plt.close(fig)
    return data.getvalue()


def captioned(kind: str, first: str, *rest: str) -> str:
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
    return png_bytes(picture)


def png_bytes(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, format="PNG", compress_level=1)
    return data.getvalue()
