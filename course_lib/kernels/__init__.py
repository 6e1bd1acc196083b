"""What runs on a GPU in one pass over memory; each kernel beside its plain PyTorch twin.

A function here looks where its tensors are. On a GPU it launches a Triton kernel, everywhere else
it is the few lines of PyTorch that the kernel replaces. Triton is needed on a GPU alone.
Taught in lesson 04.
"""

from course_lib.kernels.cppn import render_cppn
from course_lib.kernels.pixels import paint
from course_lib.kernels.steps import l2_step, linf_step, momentum_step

__all__ = ["l2_step", "linf_step", "momentum_step", "paint", "render_cppn"]
