"""nbval as this project sets it up: notebooks with planted faults fail, sound ones pass."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import xml.etree.ElementTree as Xml
from pathlib import Path

import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def stdout(text: str) -> list:
    return [nbformat.v4.new_output("stream", name="stdout", text=text)]


def value(text: str) -> list:
    return [nbformat.v4.new_output("execute_result", {"text/plain": text})]


FAR = """import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except OSError as error:
    print(error)"""


def picture(shade: int) -> list:
    """What `display` shows of a grey square."""
    buffer = io.BytesIO()
    Image.new("L", (32, 32), shade).save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    return [nbformat.v4.new_output("display_data", {"image/png": png})]


DRAW = """import io
from IPython.display import Image as Shown
from PIL import Image
buffer = io.BytesIO()
Image.new("L", (32, 32), 100).save(buffer, "PNG")
display({"image/png": Shown(buffer.getvalue())._repr_mimebundle_()[0]["image/png"]}, raw=True)"""
# Source, stored outputs, and what must become of the cell; a fourth entry are the cell's tags.
CELLS = [
    ("print(1)", stdout("1\n"), "passed"),
    ("print(2)", stdout("3\n"), "failed"),
    ("print(2)", [], "failed"),
    ("", [], "passed"),
    ("1 / 0", [], "failed"),
    ("import sys; print('a warning', file=sys.stderr)", [], "passed"),
    ("object()", value("<object at 0x7f0000000000>"), "passed"),
    ("object();", [], "passed"),
    ("print('98 %')", stdout("97 %\n"), "failed"),
    ("print('98 %')", stdout("97 %\n"), "passed", "within-1-point"),
    ("print('98 %')", stdout("96 %\n"), "failed", "within-1-point"),
    ("print('98 per cent')", stdout("98 %\n"), "failed", "within-1-point"),
    ("print('98 % of 7')", stdout("98 %\n"), "failed", "within-1-point"),
    (DRAW, picture(100), "passed"),
    (DRAW, picture(200), "failed"),
    (DRAW, picture(200), "passed", "picture-may-differ"),
    (FAR, stdout("the tests allow no connection to 192.0.2.1\n"), "passed"),
    ("import os; print(os.getcwd() == os.path.realpath('.'))", stdout("True\n"), "passed"),
    ("import time; time.sleep(60)", [], "failed"),
    ("print(1)", stdout("1\n"), "error"),  # after a timeout nothing counts as expected
]


@pytest.mark.alone
def test_planted_faults_are_found(tmp_path):
    cells = [nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=i,
                                       metadata={"tags": tags})
             for i, (source, outputs, _, *tags) in enumerate(CELLS, 1)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "planted.ipynb")
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "conftest", "-n0",
         "--nbval-cell-timeout=4", f"--junitxml={report}", tmp_path / "planted.ipynb"],
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    outcomes = []
    for case in Xml.parse(report).iter("testcase"):
        bad = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes.append({"failure": "failed"}.get(bad[0], bad[0]) if bad else "passed")
    assert outcomes == [outcome for _, _, outcome, *_ in CELLS], done.stdout
