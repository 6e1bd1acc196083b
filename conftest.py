"""How `make test` runs: notebooks strictly compared, no widgets, and no network but loopback.

This file stands above tests/ because it also serves the notebooks and the library's doctests.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

ROOT = Path(__file__).parent
OFFLINE = ROOT / "tests" / "offline"  # holds a sitecustomize.py that refuses connections

# Before any test starts a kernel: kernels and other children inherit the environment.
os.environ["COURSE_WIDGETS"] = "0"
os.environ["COURSE_FOLDER"] = f"{tempfile.gettempdir()}/course_{os.getpid()}/my_work"
for variable in ("COURSE_MODE", "COURSE_BUDGET", "COURSE_RECORD", "COURSE_ANSWERS"):
    os.environ.pop(variable, None)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
# Two test processes share the cores; PyTorch would let each use all of them.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))


def pytest_configure(config: pytest.Config) -> None:
    exec((OFFLINE / "sitecustomize.py").read_text(), {"__name__": "offline"})
    RunningKernel.execute_cell_input = _execute_cell_input
    IPyNbCell.compare_outputs = _compare_outputs


def _execute_cell_input(kernel: RunningKernel, source: str, allow_stdin: bool | None = None) -> str:
    """nbval's own, but with a history: there IPython looks for the ";" that hides a value."""
    return kernel.kc.execute(source, allow_stdin=allow_stdin, stop_on_error=False)


def _compare_outputs(cell: IPyNbCell, new: list, stored: list) -> bool:
    """Instead of nbval's own: with the allowances of the cell's tags, and with pictures."""
    from course_lib import outputs  # not above: PyTorch reads the number of threads on import

    tags = cell.cell.metadata.get("tags", [])
    cell.comparison_traceback = outputs.differences(stored, new, tags)
    return not cell.comparison_traceback


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in this hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_notebook_cell(item):
            item.output_timeout = 60  # 5 s is too short on a busy machine
            group = item.path.stem
        elif item.get_closest_marker("alone"):
            group = item.name
        else:
            group = f"{item.path.parent.name}/{item.path.stem}"
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_when)


def _is_notebook_cell(item: pytest.Item) -> bool:
    return item.path.suffix == ".ipynb"


def _when(item: pytest.Item) -> int:
    """What takes longest starts first, so that both processes end together."""
    return 0 if item.get_closest_marker("alone") else 1 if _is_notebook_cell(item) else 2


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # nbval would let the cells behind a timeout pass as expected failures.
    if getattr(item.parent, "timed_out", False):
        pytest.fail("a cell above timed out")
