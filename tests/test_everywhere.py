"""make everywhere: kernels that compute like other processors, and what is done stays done."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest

from course_lib import everywhere, run

CAPABILITY = "import torch; print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())"


@pytest.fixture
def lesson(tmp_path, monkeypatch) -> Path:
    """A lesson that shows what its kernel computes with, stored as of SSE4.1 and one thread."""
    monkeypatch.setattr(everywhere, "DONE", tmp_path / "build" / "everywhere.json")
    monkeypatch.setattr(everywhere, "settings", lambda: [("SSE4.1", 1), ("SSE4.1", 2)])
    path = tmp_path / "09_short.ipynb"
    said = nbformat.v4.new_output("stream", text="DEFAULT 1\n")
    cell = nbformat.v4.new_code_cell(CAPABILITY, outputs=[said])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_a_kernel_computes_as_it_is_told(lesson):
    assert everywhere.departures(lesson, "SSE4.1", 1) == []
    (words,) = everywhere.departures(lesson, "SSE4.1", 2)
    assert "cell 0: it stores 1, and now says 2" in words


def test_what_is_done_is_not_done_again(lesson, monkeypatch, capsys):
    assert everywhere.main([str(lesson)]) == 1
    assert "09_short, SSE4.1, 2 threads: cell 0" in capsys.readouterr().out
    ran = []
    monkeypatch.setattr(run, "execute", lambda *inputs, **options: ran.append(inputs))
    assert everywhere.main([str(lesson)]) == 1 and ran == []
    lesson.write_text(lesson.read_text().replace("DEFAULT 1", "DEFAULT 2"))
    everywhere.main([str(lesson)])
    assert len(ran) == 2


def test_an_interrupted_run_keeps_what_it_has(lesson, monkeypatch):
    def stop(path, isa, threads):
        if threads == 2:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(everywhere, "departures", stop)
    with pytest.raises(KeyboardInterrupt):
        everywhere.main([str(lesson)])
    assert list(json.loads(everywhere.DONE.read_text()).values()) == [[]]


def test_every_setting_is_another_one():
    environments = [tuple(sorted(everywhere.arithmetic(*s).items())) for s in everywhere.settings()]
    assert len(set(environments)) == len(environments) >= 2
