"""Lessons as live slides: JupyterLab with RISE, opened on the first slide. `make lecture`

    python -m course_lib.slideshow [lesson.ipynb] [options of jupyter lab]

The lessons are copied to build/lecture first: a lecture starts from what is stored, and whatever is
typed in front of the hall stays out of the clone.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib import files, run

FOLDER = run.BUILD / "lecture"
# RISE lives in a folder of its own, see the Makefile: neither `make lab` nor pip meet it.
RISE = Path(sys.prefix) / "lecture"
STYLE = Path(__file__).parent / "templates" / "rise.css"
# What RISE reads in a notebook; it goes before what somebody has set in JupyterLab. Of its themes
# white, black and serif ask no other machine for fonts.
SLIDES = {"theme": "white", "transition": "none", "center": False, "width": 1280, "height": 720,
          "margin": 0, "minScale": 0.2, "slideNumber": "c/t", "controls": False,
          "start_slideshow_at": "beginning", "auto_select": "code"}
# One key runs all that a section needs: the cells above it.
KEYS = {"@jupyterlab/shortcuts-extension:shortcuts": {"shortcuts": [{
    "command": "notebook:run-all-above", "keys": ["Ctrl Shift Enter"],
    "selector": ".jp-Notebook.jp-mod-commandMode:not(.jp-mod-readWrite) :focus"}]}}


def prepare(notebook: NotebookNode) -> NotebookNode:
    """A lesson for RISE, in place: cells that no slide shows can be run where they stand.

    >>> cell = nbformat.v4.new_code_cell(metadata={"slideshow": {"slide_type": "skip"}})
    >>> prepare(nbformat.v4.new_notebook(cells=[cell])).cells[0].metadata
    {'jupyter': {'source_hidden': True}}
    """
    for cell in notebook.cells:
        if cell.metadata.get("slideshow", {}).get("slide_type") == "skip":
            del cell.metadata["slideshow"]
            cell.metadata["jupyter"] = {"source_hidden": True}
    notebook.metadata["rise"] = SLIDES
    return notebook


def copy(paths: Sequence[Path], folder: Path = FOLDER) -> None:
    """Write lessons for RISE to folder/notebooks, and beside them the pages they link to."""
    target = folder / "notebooks"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copytree(run.ROOT / "docs", folder / "docs", dirs_exist_ok=True)
    shutil.copyfile(STYLE, target / "rise.css")  # RISE looks for this name beside the notebook
    files.write_json(folder / "labconfig" / "default_setting_overrides.json", KEYS)
    for path in paths:
        nbformat.write(prepare(nbformat.read(path, as_version=4)), target / path.name)


def command(lesson: str, options: Sequence[str] = (), folder: Path = FOLDER) -> list[str]:
    """Starts JupyterLab, for this machine only, with the slides of a lesson in the browser."""
    as_root = ["--allow-root"] if os.geteuid() == 0 else []  # Jupyter wants to hear it is meant
    return [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--ServerApp.root_dir={folder}",
            f"--LabApp.default_url=/rise/notebooks/{lesson}", *as_root, *options]


def environment(folder: Path = FOLDER, rise: Path = RISE) -> dict[str, str]:
    """This process's, in lecture mode, with RISE in front of everything of the same name.

    Raises: RuntimeError that says how to install RISE, where it is not.
    """
    if not (rise / "jupyterlab_rise").is_dir():
        raise RuntimeError(f"RISE is not in {rise}: run `make lecture`, which installs it")
    first = {"PYTHONPATH": rise, "JUPYTER_PATH": rise / "share" / "jupyter",
             "JUPYTER_CONFIG_PATH": f"{folder}{os.pathsep}{rise / 'etc' / 'jupyter'}"}
    return {**os.environ, "COURSE_MODE": "lecture", **{
        name: os.pathsep.join(filter(None, [str(path), os.environ.get(name)]))
        for name, path in first.items()}}


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    lessons = sorted((run.ROOT / "notebooks").glob("*.ipynb"))
    chosen = [name for name in given if name.endswith(".ipynb")]
    if chosen and Path(chosen[0]).name not in [path.name for path in lessons]:
        print(f"no such lesson: {chosen[0]} (say notebooks/01_norms.ipynb)", file=sys.stderr)
        return 2
    copy(lessons)  # all of them: the map in lesson 00 is drawn from its neighbours
    options = [option for option in given if option not in chosen]
    lesson = Path(chosen[0]).name if chosen else lessons[0].name
    start = command(lesson, options)
    os.execve(start[0], start, environment())  # Ctrl-C then is JupyterLab's alone


if __name__ == "__main__":
    sys.exit(main())
