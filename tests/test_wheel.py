"""The course installed from a wheel, far from any clone: it has its weights, records, questions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USE = """
import course_lib, torch
from course_lib import datasets, evaluation, models, questions, runtime
from course_lib.attacks import fgsm
from course_lib.exercises import get

digits = datasets.mnist("test")[:10]
x_adv = fgsm(models.load("mnist_cnn", "cpu"), digits.x, digits.y, eps=0.1)
print(course_lib.__file__)
print(len(x_adv), runtime.recorded("transfer")["images"], len(datasets.imagenet().classes))
print(questions.prediction("3.a").answer in "ABCD", get("3.1").title != "", runtime.own_folder())
"""


@pytest.mark.slow
def test_what_a_wheel_installs_is_the_whole_course(tmp_path):
    source, installed, elsewhere = (tmp_path / name for name in ("source", "installed", "else"))
    elsewhere.mkdir()
    shutil.copytree(ROOT / "course_lib", source / "course_lib")
    shutil.copytree(ROOT / "data", source / "data", ignore=shutil.ignore_patterns("cache"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "pip", "wheel", ".", "--quiet", "--no-deps",
                    "--no-build-isolation", f"--wheel-dir={tmp_path}"], cwd=source, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 2e7
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COURSE_")}
    path = os.pathsep.join([str(installed), environment.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", USE], cwd=elsewhere, text=True, check=False,
                          capture_output=True, env=environment | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(installed / "course_lib" / "__init__.py"), "10 19 1000",
        f"True True {elsewhere / 'my_work'}"]
    assert not list(elsewhere.iterdir())  # using it leaves nothing behind
