"""Lessons as a whole: `make run` and `make slides` write pages, `make store` stored outputs.

    python -m course_lib.run [--store | --slides] [lesson.ipynb ...]
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

from course_lib import covers, outputs, pages

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
TIMEOUT = 600  # seconds a cell may take
CELL_METADATA = {"slideshow", "tags", "jupyter"}  # worth storing; time stamps and such are not


@dataclass
class Clock:
    """Seconds of each code cell of a lesson, and from its start to its first picture.

    peak: GiB that the kernel held at most, where the system tells (Linux).
    """

    cells: list[float] = field(default_factory=list)
    first_picture: float | None = None
    peak: float | None = None

    def __str__(self) -> str:
        words = f"{sum(self.cells):.0f} s, slowest cell {max(self.cells, default=0.0):.1f} s"
        if self.first_picture is not None:
            words += f", first picture after {self.first_picture:.1f} s"
        if self.peak is not None:
            words += f", peak memory {self.peak:.1f} GiB"
        return words


def peak_memory(process: int) -> float | None:
    """GiB that a running process has held at most; None where there is no /proc to ask."""
    status = Path(f"/proc/{process}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 2**20 if found else None


def execute(
    notebook: NotebookNode, folder: Path, *, label: str = "",
    environment: dict[str, str] | None = None,
) -> Clock:
    """Run all cells in order, in a fresh kernel that works in `folder`; fills in the outputs.

    environment: the kernel's, instead of this process's own.

    Raises: nbclient's errors, when a cell fails, hangs, or takes the kernel down.
    """
    clock, start = Clock(), time.perf_counter()
    client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", record_timing=False,
                            resources={"metadata": {"path": str(folder)}},
                            extra_arguments=["--log-level=ERROR"])
    bar = tqdm(notebook.cells, desc=label, unit="cell", disable=not label)
    with client.setup_kernel(env=environment or os.environ.copy()), bar:
        for index, cell in enumerate(bar):
            begin = time.perf_counter()
            client.execute_cell(cell, index)
            if cell.cell_type != "code":
                continue
            clock.cells.append(time.perf_counter() - begin)
            if clock.first_picture is None and outputs.pictures(cell.outputs):
                clock.first_picture = time.perf_counter() - start
        manager: Any = client.km
        clock.peak = peak_memory(manager.provisioner.pid)
    return clock


def refresh(before: NotebookNode, after: NotebookNode) -> NotebookNode:
    """The executed notebook as it is to be stored: outputs that say the same stay as they were.

    Where one is replaced, so is every other that is not quite the same, allowed or not: what stands
    in a text and in the picture below it comes from one run.
    """
    pairs = [*zip(before.cells, after.cells, strict=True)]
    changed = not all(_same_outputs(old, new, old.metadata.get("tags", []))
                      for old, new in pairs if new.cell_type == "code")
    for old, new in pairs:
        new.metadata = {k: v for k, v in new.metadata.items() if k in CELL_METADATA}
        if new.cell_type == "code":
            tags = [tag for tag in old.metadata.get("tags", [])
                    if not changed or tag == outputs.IGNORE]
            new.outputs = old.outputs if _same_outputs(old, new, tags) else [
                *map(_packed, new.outputs)]
    after.metadata = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python",
                                     "name": "python3"},
                      "language_info": {"name": "python"}}
    return nbformat.from_dict(after)


def _packed(output: NotebookNode) -> NotebookNode:
    """The same picture in fewer bytes: no figure uses the transparency that matplotlib writes."""
    for picture in outputs.pictures([output]):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        output.data["image/png"] = base64.b64encode(buffer.getvalue()).decode()
    return output


def _same_outputs(old: NotebookNode, new: NotebookNode, tags: Sequence[str]) -> bool:
    if outputs.IGNORE in tags:  # seconds differ in every run; other words are worth storing
        said = [outputs.words(str(outputs.texts(cell.outputs))) for cell in (old, new)]
        return said[0] == said[1]
    return not outputs.differences(old.outputs, new.outputs, tags) and all(
        map(outputs.looks_the_same, outputs.pictures(old.outputs), outputs.pictures(new.outputs)))


def run_lesson(path: Path, *, store: bool) -> Clock:
    """Run one lesson; write its page under build/, or its outputs back into the file."""
    before = nbformat.read(path, as_version=4)
    after = nbformat.read(path, as_version=4)
    clock = execute(after, path.parent, label=path.stem)
    if store:
        after = refresh(before, after)
        if after != before:
            nbformat.write(after, path)
        covers.write(path, after)
    else:
        pages.write(pages.reading(), after, BUILD / f"{path.stem}.html")
    return clock


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lessons", nargs="*", type=Path,
                        default=sorted((ROOT / "notebooks").glob("*.ipynb")))
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--store", action="store_true", help="write outputs into the notebooks")
    kind.add_argument("--slides", action="store_true", help="slides of what is stored, not run")
    chosen = parser.parse_args(arguments)
    if missing := [str(path) for path in chosen.lessons if not path.is_file()]:
        parser.error(f"no such notebook: {', '.join(missing)} (say notebooks/01_norms.ipynb)")
    if not chosen.store:
        pages.copy_assets(BUILD)
    if chosen.slides:
        for path in chosen.lessons:
            pages.write(pages.slides(), nbformat.read(path, as_version=4),
                        BUILD / f"{path.stem}.slides.html")
        print(f"The slides are in {BUILD}")
        return 0
    os.environ["COURSE_WIDGETS"] = "0"  # kernels inherit it: no front end will draw widgets
    os.environ["COURSE_ANSWERS"] = "0" if chosen.store else "1"  # of predictions, folded on a page
    failed = []
    for path in chosen.lessons:
        try:
            clock = run_lesson(path, store=chosen.store)
        except (CellControlSignal, DeadKernelError) as error:
            failed.append(path.stem)
            print(f"{path.stem}: stopped\n{error}")
        else:
            print(f"{path.stem}: {clock}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    elif not chosen.store:
        print(f"The pages are in {BUILD}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
