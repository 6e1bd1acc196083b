"""The helper library of the course on the adversarial robustness of convolutional networks."""

from __future__ import annotations

import random

import numpy as np
import torch

from course_lib.kernels import launch
from course_lib.runtime import device, generator, lecture, quick

__all__ = ["device", "generator", "setup"]


def setup(lesson: int) -> None:
    """Prepare a notebook: seeds, figure style; prints one line that says what it found.

    This is the only place of the library that touches the global random state. Safe to run twice.
    """
    from course_lib import plots  # matplotlib costs a second that a script may not need

    torch.manual_seed(lesson)
    np.random.seed(lesson)  # noqa: NPY002 - for what students write with it
    random.seed(lesson)
    plots.use_style()
    where = device()
    name = (f"{torch.cuda.get_device_name(where)}, {launch.path()}" if where.type == "cuda"
            else f"CPU, {torch.get_num_threads()} threads")
    budget = "quick" if quick() else "full"
    mode = ", lecture mode" if lecture() else ""
    print(f"Lesson {lesson:02d} runs on: {name} · {budget} budget{mode} "
          f"· PyTorch {torch.__version__}")
