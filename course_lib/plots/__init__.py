"""Figures of the course: plain functions from tensors to a matplotlib Figure, in one style.

Titles are sentences that say what to see; the caller writes them. Colours are those of Okabe and
Ito, told apart by the colour-blind; markers and line styles repeat the difference in grey.
"""

from course_lib.plots.balls import (
    ball,
    ball_panels,
    draw_ball,
    nearest,
    norm_balls,
    outline,
    steepest,
)
from course_lib.plots.charts import accuracy_curve, bars, curves, heatmap
from course_lib.plots.landscape import ImagePlane, loss_landscape, loss_plane, surface
from course_lib.plots.pictures import (
    amplification,
    amplified,
    array,
    boxes,
    compare_images,
    images,
    key,
    names,
    painted,
    percent,
    save_png,
)
from course_lib.plots.separators import (
    Margin,
    crossing,
    crossings,
    draw_squares,
    square_panels,
    squares,
)
from course_lib.plots.style import (
    BLACK,
    BLUE,
    COLOURS,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILLION,
    Numbers,
    use_style,
)
from course_lib.plots.text import shaded_words, table

__all__ = [
    "BLACK",
    "BLUE",
    "COLOURS",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "VERMILLION",
    "ImagePlane",
    "Margin",
    "Numbers",
    "accuracy_curve",
    "amplification",
    "amplified",
    "array",
    "ball",
    "ball_panels",
    "bars",
    "boxes",
    "compare_images",
    "crossing",
    "crossings",
    "curves",
    "draw_ball",
    "draw_squares",
    "heatmap",
    "images",
    "key",
    "loss_landscape",
    "loss_plane",
    "names",
    "nearest",
    "norm_balls",
    "outline",
    "painted",
    "percent",
    "save_png",
    "shaded_words",
    "square_panels",
    "squares",
    "steepest",
    "surface",
    "table",
    "use_style",
]
