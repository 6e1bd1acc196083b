"""A reader's browser: JupyterLab opens every lesson, answers wait, explorers do not."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from browser import MINUTES, opened
from playwright.sync_api import expect

from course_lib import questions
from course_lib.questions import Question

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of lessons and pages: running a lesson rewrites its outputs."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Every cell in the page at once, so that nobody has to scroll for the explorer.
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    environment = {k: v for k, v in os.environ.items() if k != "COURSE_WIDGETS"}
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(folder / "settings")
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}",
               "--no-browser", "--IdentityProvider.token=reader", f"--notebook-dir={folder}"]
    if os.geteuid() == 0:
        command.append("--allow-root")
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token=reader", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def told(page, predictions: dict[str, Question], quiz: list[Question]) -> list[str]:
    """The reasons of answers that can be read on the page."""
    text = page.locator("body").inner_text()
    return [why for question in [*predictions.values(), *quiz]
            for why in question.why.values() if why in text]


def read_as_stored(page, lab: str, lesson: Path) -> None:
    """Open a lesson: every prediction waits, and nothing tells an answer."""
    # A workspace of its own: nothing of what was open before comes back.
    page.goto(f"{lab}/lab/workspaces/{lesson.stem}/tree/notebooks/{lesson.name}?token=reader",
              timeout=2 * MINUTES)
    # Earlier, "Run" would meet a notebook without a kernel and ask for one.
    page.get_by_text("| Idle").wait_for(timeout=2 * MINUTES)
    assert page.locator(".jp-toast, .Toastify__toast").filter(has_text="news").count() == 0
    predictions, quiz = questions.of_lesson(int(lesson.stem[:2]))
    # JupyterLab may show an output twice for a moment while it opens a notebook.
    expect(page.get_by_text("lock your guess, then run this cell")).to_have_count(
        len(predictions), timeout=MINUTES)
    assert told(page, predictions, quiz) == []


def run_all(page) -> None:
    """Run all cells, up to the quiz at the end, without an error."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()
    page.locator(".course-quiz").last.wait_for(state="attached", timeout=10 * MINUTES)
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


def move(page, explorer) -> None:
    """The first slider of an explorer moves, and the picture follows."""
    explorer.scroll_into_view_if_needed()
    picture = explorer.locator("img.fgsm-adversarial, .fgsm-adversarial img").first
    before = picture.get_attribute("src")
    handle = explorer.locator(".noUi-handle, [role=slider]").first
    handle.focus()
    for _ in range(8):
        handle.press("ArrowRight")
    page.wait_for_function(
        "([e, old]) => e.getAttribute('src') !== old",
        arg=[picture.element_handle(), before], timeout=MINUTES)


@pytest.mark.alone
def test_every_lesson_opens_and_tells_no_answer(lab):
    with opened(1400, 1000) as page:
        for lesson in LESSONS:
            read_as_stored(page, lab, lesson)
        page.get_by_role("link", name="glossary", exact=True).click()
        page.get_by_role("tab", name="glossary.md").wait_for(timeout=MINUTES)


@pytest.mark.alone
def test_lesson_00_as_a_student_meets_it(lab):
    with opened(1400, 1000) as page:
        read_as_stored(page, lab, LESSONS[0])
        run_all(page)
        move(page, page.locator(".fgsm-explorer").first)


@pytest.mark.alone
def test_lesson_03_as_a_student_meets_it(lab):
    predictions, quiz = questions.of_lesson(3)
    with opened(1400, 1000) as page:
        read_as_stored(page, lab, LESSONS[3])
        run_all(page)
        reveals = page.locator(".course-reveal").filter(has_text="Lock your guess")
        assert reveals.count() == len(predictions) and told(page, predictions, quiz) == []
        # 3.a is guessed wrong, and its reveal tells all.
        box = page.locator(".course-prediction").first
        box.get_by_role("radio").nth(1).check()
        box.get_by_role("button", name="Lock my guess").click()
        answer = page.locator(".course-reveal").filter(has_text="A is right, none. You guessed B.")
        answer.wait_for(timeout=MINUTES)
        text = answer.inner_text()
        assert "Measured: 0 by random signs, 18 by FGSM." in text
        assert all(why in text for why in predictions["3.a"].why.values())
        assert len(told(page, predictions, quiz)) == len(predictions["3.a"].why)
        move(page, page.locator(".fgsm-explorer").first)
