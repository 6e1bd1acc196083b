"""How `make test` runs: notebooks strictly compared, no widgets, and no network but loopback."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

# Before any test starts a kernel: kernels and other children inherit the environment.
os.environ["COURSE_WIDGETS"] = "0"
for variable in ("COURSE_MODE", "COURSE_BUDGET", "COURSE_RECORD"):
    os.environ.pop(variable, None)
# tests/offline holds a sitecustomize.py that refuses every socket but loopback.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT / "tests" / "offline"), os.environ.get("PYTHONPATH")]))


def pytest_configure(config: pytest.Config) -> None:
    exec((ROOT / "tests" / "offline" / "sitecustomize.py").read_text(), {"__name__": "offline"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if hasattr(item, "output_timeout"):  # a notebook cell of nbval
            item.output_timeout = 60  # 5 s is too short on a busy machine
            if "stderr" not in item.parent.skip_compare:
                # Warnings differ between versions; a test forbids stored ones.
                item.parent.skip_compare += ("stderr",)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # nbval would let the cells behind a timeout pass as expected failures.
    if getattr(item.parent, "timed_out", False):
        pytest.fail("a cell above timed out")
