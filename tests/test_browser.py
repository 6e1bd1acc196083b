"""A reader's browser: JupyterLab opens lesson 03, runs it, answers wait, the explorer does not."""

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

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a copy of the lessons: running one rewrites its outputs."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
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
    url = f"http://127.0.0.1:{port}/lab/tree/notebooks/03_fgsm.ipynb?token=reader"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token=reader", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(20)


PREDICTIONS, QUIZ = questions.of_lesson(3)


def told(page) -> list[str]:
    """The reasons of answers that can be read on the page."""
    text = page.locator("body").inner_text()
    return [why for question in [*PREDICTIONS.values(), *QUIZ]
            for why in question.why.values() if why in text]


def lock_a_guess(page) -> None:
    """Predictions and reveals wait; then 3.a is guessed wrong, and its reveal tells all."""
    reveals = page.locator(".course-reveal").filter(has_text="Lock your guess")
    assert reveals.count() == len(PREDICTIONS) and told(page) == []
    box = page.locator(".course-prediction").first
    box.get_by_role("radio").nth(1).check()
    box.get_by_role("button", name="Lock my guess").click()
    answer = page.locator(".course-reveal").filter(has_text="A is right, none. You guessed B.")
    answer.wait_for(timeout=MINUTES)
    text = answer.inner_text()
    assert "Measured: 0 by random signs, 18 by FGSM." in text
    assert all(why in text for why in PREDICTIONS["3.a"].why.values())
    assert len(told(page)) == len(PREDICTIONS["3.a"].why)


@pytest.mark.alone
def test_lesson_03_as_a_student_meets_it(lab):
    with opened(1400, 1000) as page:
        page.goto(lab, timeout=2 * MINUTES)
        # Earlier, "Run" would meet a notebook without a kernel and ask for one.
        page.get_by_text("| Idle").wait_for(timeout=2 * MINUTES)
        assert page.locator(".jp-toast, .Toastify__toast").filter(has_text="news").count() == 0
        page.locator("details").first.wait_for(state="attached", timeout=MINUTES)
        # JupyterLab may show an output twice for a moment while it opens a notebook.
        expect(page.get_by_text("lock your guess, then run this cell")).to_have_count(
            len(PREDICTIONS), timeout=MINUTES)
        assert told(page) == []
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()

        explorer = page.locator(".fgsm-explorer").first
        explorer.wait_for(state="attached", timeout=5 * MINUTES)
        page.locator(".course-quiz").last.wait_for(state="attached", timeout=5 * MINUTES)
        lock_a_guess(page)

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
