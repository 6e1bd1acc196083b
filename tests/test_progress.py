"""What a student has solved survives a restart, and never stops a lesson."""

from __future__ import annotations

import json
import os

import pytest

from course_lib import exercises, files
from course_lib.exercises import check, get, progress, record


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A student's folder, in front of a browser."""
    monkeypatch.setenv("COURSE_WIDGETS", "1")
    monkeypatch.setenv("COURSE_FOLDER", str(tmp_path / "mine"))
    monkeypatch.setattr(exercises, "_passed", {})
    return tmp_path / "mine" / "progress.json"


def wrong(model, x, y, eps):
    return x + 1


def row(id: str, capsys) -> list[str]:
    """State and number of checks of an exercise in the table."""
    capsys.readouterr()
    progress()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if f"| {id} |" in line)
    return [cell.strip() for cell in line.split("|")[3:5]]


def test_a_check_is_kept_and_what_was_correct_stays_so(kept, capsys):
    assert row("3.1", capsys) == ["○", "0"]
    check("3.1", wrong)
    assert row("3.1", capsys) == ["✗ not yet", "1"]
    check("3.1", get("3.1").solution)
    exercises._passed.clear()  # the kernel restarts
    assert row("3.1", capsys) == ["✓ correct", "2"]
    check("3.1", wrong)
    assert json.loads(kept.read_text()) == {"3.1": {"tries": 3, "correct": True}}
    assert row("3.2", capsys) == ["○", "0"]


def test_the_table_counts_what_is_solved(kept, capsys):
    check("3.1", get("3.1").solution)
    capsys.readouterr()
    progress()
    out = capsys.readouterr().out
    all_of_them = sum(len(exercises.of_lesson(n)) for n in range(10))
    assert f"1 of {all_of_them} exercises solved" in out
    assert out.count("\n| ") == all_of_them + 2


def test_without_a_browser_nothing_is_written(kept, monkeypatch):
    monkeypatch.setenv("COURSE_WIDGETS", "0")
    check("3.1", get("3.1").solution)
    assert not kept.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"3.1": 7}', b"\xff\xfe",
                                     b'{"3.1": {"tries": "many", "correct": true}}'])
def test_a_broken_file_counts_as_empty_and_is_written_anew(kept, content, capsys):
    files.write(kept, content)
    assert row("3.1", capsys) == ["○", "0"]
    check("3.1", get("3.1").solution)
    assert row("3.1", capsys) == ["✓ correct", "1"]


def test_a_folder_that_cannot_be_written_stops_nothing(kept, capsys):
    kept.parent.write_text("a file where the folder should be")
    check("3.1", get("3.1").solution)
    assert capsys.readouterr().out.startswith("✓ Exercise 3.1: correct.")
    assert record.load() == {}


def test_a_write_that_breaks_off_leaves_the_old_file(kept, monkeypatch):
    check("3.1", wrong)
    before = kept.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    check("3.1", get("3.1").solution)
    assert kept.read_bytes() == before and list(kept.parent.iterdir()) == [kept]
