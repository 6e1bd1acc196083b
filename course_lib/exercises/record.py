"""What a student has solved, kept between restarts of the kernel: my_work/progress.json.

Kept only where somebody looks (`runtime.live()`): tests and stored runs write nothing. A file that
cannot be read counts as empty, one that cannot be written is let be: no lesson stops for it.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from course_lib import files, runtime


def path() -> Path:
    return runtime.own_folder() / "progress.json"


def load() -> dict[str, dict]:
    """Of each exercise that was checked: how often, and whether it has been correct. {"3.1": ...}

    Entries that nobody here would have written are passed over.
    """
    try:
        kept = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    good = {"tries": int, "correct": bool}
    return {id: entry for id, entry in (kept.items() if isinstance(kept, dict) else ())
            if isinstance(entry, dict) and {k: type(v) for k, v in entry.items()} == good}


def note(id: str, correct: bool) -> None:
    """Count one check of an exercise. Once correct, it stays so."""
    if not runtime.live():
        return
    kept = load()
    before = kept.get(id, {"tries": 0, "correct": False})
    kept[id] = {"tries": before["tries"] + 1, "correct": before["correct"] or correct}
    with contextlib.suppress(OSError):
        files.write_json(path(), kept)
