"""Training a network, on clean images or on the attacks made against it. Taught in lesson 07.

`python -m course_lib.training --help` says what the command line can do.
"""

from course_lib.training.augment import crop_and_flip, jitter
from course_lib.training.checkpoint import History
from course_lib.training.loop import METHODS, fit, in_bfloat16
from course_lib.training.weights import initialise, save

__all__ = ["METHODS", "History", "crop_and_flip", "fit", "in_bfloat16", "initialise",
           "jitter", "save"]
