"""Explorers: ipywidgets around the functions that the lessons teach.

Nothing is computed in a callback that a plain function could not compute. Without a browser
(`runtime.live()` is False) each of them draws a still twin instead.

A slider that is dragged does not queue up work: the front end holds back a widget's changes while
the kernel still works on its last one, and then sends the newest value only.
"""

from course_lib.widgets.champions import champions_explorer
from course_lib.widgets.dag import dag_explorer
from course_lib.widgets.evolution import evolution_explorer
from course_lib.widgets.fgsm import fgsm_explorer
from course_lib.widgets.norm_balls import norm_ball_explorer
from course_lib.widgets.patch import patch_explorer
from course_lib.widgets.pgd import pgd_explorer, pgd_path
from course_lib.widgets.photograph import own_photograph
from course_lib.widgets.squares import squares_explorer
from course_lib.widgets.transfer import transfer_explorer

__all__ = ["champions_explorer", "dag_explorer", "evolution_explorer", "fgsm_explorer",
           "norm_ball_explorer", "own_photograph", "patch_explorer", "pgd_explorer", "pgd_path",
           "squares_explorer", "transfer_explorer"]
