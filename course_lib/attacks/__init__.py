"""The attacks of the course, one file each, named as the lesson names it."""

from course_lib.attacks.apgd import apgd, apgd_targeted
from course_lib.attacks.dag import dag
from course_lib.attacks.ddn import ddn
from course_lib.attacks.fgsm import fgsm
from course_lib.attacks.jsma import jsma
from course_lib.attacks.lbfgs import lbfgs
from course_lib.attacks.momentum import mifgsm
from course_lib.attacks.one_pixel import one_pixel
from course_lib.attacks.patch import adversarial_patch
from course_lib.attacks.pgd import ifgsm, pgd
from course_lib.attacks.square import square

__all__ = ["adversarial_patch", "apgd", "apgd_targeted", "dag", "ddn", "fgsm", "ifgsm", "jsma",
           "lbfgs", "mifgsm", "one_pixel", "pgd", "square"]
