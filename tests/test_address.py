"""One address of the course, and the badges and install cells that are written from it."""

from __future__ import annotations

import shutil
import tomllib
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from course_lib import address

ROOT = Path(__file__).parents[1]
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def copy(tmp_path):
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks",
                    ignore=lambda folder, names: [n for n in names if not n.endswith(".ipynb")])
    return tmp_path


def install_cells(root):
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        (cell,) = [cell for cell in cells if cell.get("id") == address.CELL]
        assert cell is next(cell for cell in cells if cell.cell_type == "code")
        yield cell.source


def test_what_is_stored_fits_the_address_in_pyproject(copy):
    assert address.spread(copy) == []


def test_an_address_reaches_every_badge_and_lesson_and_a_later_one_replaces_it(copy):
    address.publish(copy, "https://github.com/first/one")
    assert len(address.spread(copy)) == len(LESSONS) + 1
    address.publish(copy, "https://github.com/somebody/course")
    address.spread(copy)
    project = tomllib.loads((copy / "pyproject.toml").read_text())["project"]
    assert project["urls"] == {"Repository": "https://github.com/somebody/course"}
    assert "optional-dependencies" in project
    readme = (copy / "README.md").read_text()
    assert "https://mybinder.org/v2/gh/somebody/course/HEAD" in readme and "first/one" not in readme
    for name in LESSONS:
        assert f"/github/somebody/course/blob/main/notebooks/{name}.ipynb" in readme
    for source in install_cells(copy):
        assert source.endswith("%pip install --quiet git+https://github.com/somebody/course")
    assert address.spread(copy) == []


@pytest.mark.parametrize("url", ["github.com/a/b", "https://example.org/a", "https://github.com/a"])
def test_an_address_that_no_badge_could_open_is_refused(copy, url):
    before = (copy / "pyproject.toml").read_text()
    with pytest.raises(ValueError, match="OWNER/NAME"):
        address.publish(copy, url)
    assert (copy / "pyproject.toml").read_text() == before


@pytest.mark.parametrize("there", [True, False])
def test_the_cell_installs_the_course_only_where_it_is_missing(monkeypatch, there):
    asked = []

    class Shell:
        def run_line_magic(self, *words):
            asked.append(words)

    monkeypatch.setattr("importlib.util.find_spec",
                        lambda name: find_spec("json") if there else None)
    source = address.install_cell("https://github.com/somebody/course")
    exec(TransformerManager().transform_cell(source), {"get_ipython": Shell})
    expected = [("pip", "install --quiet git+https://github.com/somebody/course")]
    assert asked == ([] if there else expected)
