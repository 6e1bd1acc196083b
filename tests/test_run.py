"""make run and make store: pages, clocks, and outputs that stay when nothing changed."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from PIL import Image

from course_lib import outputs, run


def notebook(*sources: str) -> NotebookNode:
    cells = [nbformat.v4.new_code_cell(s) for s in sources]
    for cell in cells:
        cell.metadata = nbformat.from_dict({"slideshow": {"slide_type": "slide"}})
    return nbformat.v4.new_notebook(cells=cells)


def picture(*, dot: int = 255, size: tuple[int, int] = (64, 64), **options: int) -> NotebookNode:
    """A white picture with one block in another grey, as a cell's output."""
    image, buffer = Image.new("L", size, 255), io.BytesIO()
    image.paste(dot, (8, 8, 16, 16))
    image.save(buffer, "PNG", **options)
    png = base64.b64encode(buffer.getvalue()).decode()
    return nbformat.v4.new_output("display_data", {"image/png": png})


@pytest.fixture
def lesson(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(run, "BUILD", tmp_path / "build")
    path = tmp_path / "09_short.ipynb"
    draw = "from PIL import Image\ndisplay(Image.new('L', (20, 20)))"
    nbformat.write(notebook("print('hello')", draw), path)
    return path


def test_pages_and_clocks(lesson, capsys):
    before = lesson.read_bytes()
    assert run.main([str(lesson)]) == 0
    assert "hello" in (lesson.parent / "build" / "09_short.html").read_text()
    assert lesson.read_bytes() == before
    said = capsys.readouterr().out
    assert "09_short: 0 s, slowest cell" in said or "09_short: 1 s, slowest cell" in said
    assert "first picture after" in said
    if Path("/proc/self/status").exists():
        peak = float(re.search(r"peak memory (\d+\.\d) GiB", said)[1])
        assert 0.02 < peak < 2  # a kernel that imports next to nothing


def test_slides_keep_folded_answers_to_themselves(lesson):
    stored = nbformat.read(lesson, as_version=4)
    stored.cells[0].metadata["jupyter"] = {"source_hidden": True}
    nbformat.write(stored, lesson)
    assert run.main(["--slides", str(lesson)]) == 0
    page = (lesson.parent / "build" / "09_short.slides.html").read_text()
    assert "Image" in page and "hello" not in page
    assert "width: 1280" in page


def test_a_failing_lesson_is_reported_and_the_others_still_run(lesson, capsys):
    broken = lesson.with_name("08_broken.ipynb")
    nbformat.write(notebook("1 / 0"), broken)
    before = broken.read_bytes()
    assert run.main(["--store", str(broken), str(lesson)]) == 1
    said = capsys.readouterr().out
    assert "ZeroDivisionError" in said
    assert "failed: 08_broken" in said
    assert broken.read_bytes() == before
    assert nbformat.read(lesson, as_version=4).cells[0].outputs[0].text == "hello\n"


def test_storing_twice_writes_once(lesson):
    run.main(["--store", str(lesson)])
    stored = lesson.read_bytes()
    assert b"iopub" not in stored
    run.main(["--store", str(lesson)])
    assert lesson.read_bytes() == stored


def refreshed(old: NotebookNode, new: NotebookNode, *tags: str) -> bool:
    """Whether new output replaces the old one."""
    before, after = notebook(""), notebook("")
    before.cells[0].metadata["tags"] = list(tags)
    before.cells[0].outputs, after.cells[0].outputs = [old], [new]
    after.cells[0].metadata["execution"] = {"iopub.execute_input": "2026-01-01"}
    after.metadata["widgets"] = {}
    result = run.refresh(before, after)
    assert set(result.cells[0].metadata) == {"slideshow"}
    assert set(result.metadata) == {"kernelspec", "language_info"}
    return result.cells[0].outputs == [new] != [old]


def test_only_what_looks_different_is_replaced():
    assert not refreshed(picture(compress_level=0), picture(compress_level=9))
    assert not refreshed(picture(dot=255), picture(dot=254))
    assert refreshed(picture(dot=255), picture(dot=200))
    assert refreshed(picture(), picture(size=(64, 72)))
    assert refreshed(picture(), nbformat.v4.new_output("stream", text="a"))
    assert refreshed(nbformat.v4.new_output("stream", text="a"),
                     nbformat.v4.new_output("stream", text="b"))


def test_what_is_within_its_allowance_or_ignored_stays():
    said = [nbformat.v4.new_output("stream", text=text) for text in ("8 ms", "9 ms", "9 s")]
    for tag, kept in (("within-1-count", True), (outputs.IGNORE, True), ("exercise-1.1", False)):
        assert refreshed(said[0], said[1], tag) != kept
        assert refreshed(said[0], said[2], tag)


def test_where_one_output_is_replaced_all_come_from_one_run():
    def said(*texts):
        lesson = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("") for _ in texts])
        for cell, text in zip(lesson.cells, texts, strict=True):
            cell.metadata["tags"] = ["within-1-count"]
            cell.outputs = [nbformat.v4.new_output("stream", text=text)]
        return lesson

    def stored(*texts):
        return [cell.outputs[0].text for cell in run.refresh(said("8", "5"), said(*texts)).cells]

    assert stored("9", "5") == ["8", "5"]
    assert stored("9", "7") == ["9", "7"]


def test_pictures_are_stored_without_transparency_and_without_loss():
    before, after = notebook("draw()"), notebook("draw()")
    noise = Image.effect_noise((64, 64), 50).convert("RGBA")
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    png = base64.b64encode(buffer.getvalue()).decode()
    after.cells[0].outputs = [nbformat.v4.new_output("display_data", {"image/png": png})]
    (cell,) = run.refresh(before, after).cells
    assert outputs.pictures(cell.outputs)[0].tobytes() == noise.convert("RGB").tobytes()
    assert len(cell.outputs[0].data["image/png"]) < len(png)
