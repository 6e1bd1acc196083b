"""Tables, and words on shaded ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from course_lib.plots.style import ORANGE, WIDTH, Numbers, broken, headline, numbers

if TYPE_CHECKING:
    from IPython.display import Markdown


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Markdown:
    """A table as Markdown text, so that tests can compare it; round the numbers before.

    >>> print(table(["attack", "paper", "here"], [["FGSM", "99.9 %", "97 %"]]).data)
    | attack | paper | here |
    | :--- | :--- | :--- |
    | FGSM | 99.9 % | 97 % |
    """
    from IPython.display import Markdown

    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{len(columns)} columns, but the row {row!r} has {len(row)} entries")
    lines = [columns, [":---"] * len(columns), *rows]
    return Markdown("\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |"
        for line in lines))


def shaded_words(
    texts: Mapping[str, tuple[Sequence[str], Numbers]], *, title: str = ""
) -> Figure:
    """Texts word by word, each word on a ground as dark as its weight, from 0 to 1.

    texts: a heading for each text, its words and their weights. A word above one half is bold.
    """
    size = 0.95 * plt.rcParams["font.size"]
    letter, line = 0.605 * size / 72, 1.9 * size / 72  # inches, of the monospaced font
    room = int((WIDTH - 0.2) / letter)
    placed, row = [], 0  # (row, column, word, weight, is a heading)
    for heading, (words, weights) in texts.items():
        placed.append((row, 0, heading, 0.0, True))
        row, column = row + 1, 0
        for word, weight in zip(words, numbers(weights), strict=True):
            if column + len(word) > room:
                row, column = row + 1, 0
            placed.append((row, column, word, float(weight), False))
            column += len(word) + 1
        row += 2
    heading_lines = broken(title, WIDTH).count("\n") + 1
    height = (row - 1) * line + (1.6 * heading_lines * size * 1.2 / 72 if title else 0) + 0.1
    fig, axis = plt.subplots(figsize=(WIDTH, height))
    axis.set(xlim=(0, WIDTH), ylim=((row - 1) * line, 0))
    axis.axis("off")
    for row, column, word, weight, is_heading in placed:
        ground = tuple(1 - weight * (1 - channel) for channel in to_rgb(ORANGE))
        axis.text(column * letter, (row + 0.5) * line, word, va="center", fontsize=size,
                  family="sans-serif" if is_heading else "monospace",
                  fontweight="bold" if is_heading or weight > 0.5 else "normal",
                  bbox=None if is_heading else {"facecolor": ground, "edgecolor": "none",
                                                "pad": 1.5})
    headline(fig, title)
    return fig
