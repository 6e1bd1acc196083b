"""A reader's browser: JupyterLab opens every lesson, answers wait, explorers do not."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from browser import MINUTES, opened, serving
from playwright.sync_api import TimeoutError as Late
from playwright.sync_api import expect

from course_lib import exercises, questions
from course_lib.questions import Question

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Every explorer on toys, and one whose callback has a mistake.
EXPLORERS = ["""
import torch
from torch import nn
import course_lib
from course_lib import widgets
from course_lib.datasets import Images
from course_lib.encodings import Direct
from course_lib.evolution import Archive
from course_lib.widgets.champions import ChampionsExplorer
course_lib.setup(lesson=0)
generator = course_lib.generator(0)
images = Images(torch.rand(4, 3, 8, 8, generator=generator), torch.arange(4), list("abcd"))
net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
history = [Archive(torch.rand(4, 3, 8, 8, generator=generator), torch.randn(4)) for _ in range(9)]
genes = [(torch.rand(20, 5, generator=generator) * 8, torch.rand(20)) for _ in range(9)]
path = [torch.rand(1, 3, 8, 8, generator=generator) for _ in range(9)]
points = torch.randn(20, 2, generator=generator)
dense, mask = nn.Conv2d(3, 4, 1), torch.zeros(1, 8, 8, dtype=torch.int64)
""", "widgets.fgsm_explorer(net, images)",
    "widgets.norm_ball_explorer()",
    "widgets.champions_explorer(Direct((3, 8, 8)), history, images.classes)",
    "widgets.pgd_explorer(net, images, eps=0.2)",
    "widgets.transfer_explorer({'one': net, 'two': nn.Sequential(nn.Flatten(), nn.Linear(192, 4))},"
    " images)",
    "widgets.evolution_explorer(net, images.x[:1], genes, images.classes)",
    "widgets.squares_explorer(points, (points[:, 0] > 0).long(),"
    " lambda eps: lambda p: p[:, 0] - eps, [0, 0.1, 0.2], eps=0.3)",
    "widgets.dag_explorer(dense, path, mask)",
    "widgets.patch_explorer(net, images, torch.rand(3, 4, 4))",
    """
class Broken(ChampionsExplorer):
    def _changed(self, change=None):
        assert change is None, "a mistake"
broken = Broken(Direct((3, 8, 8)), history, images.classes).box
broken.remove_class("champions-explorer")
broken.add_class("broken-explorer")
broken
"""]
NAMES = ["fgsm", "norm-ball", "champions", "pgd", "transfer", "evolution", "squares", "dag",
         "patch"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of lessons and pages: running a lesson rewrites its outputs."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def lab(folder):
    """The address of a JupyterLab in that folder."""
    # Every cell in the page at once, so that nobody has to scroll for the explorer.
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    environment = {k: v for k, v in os.environ.items() if k != "COURSE_WIDGETS"}
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(folder / "settings")
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--notebook-dir={folder}"]
    if os.geteuid() == 0:
        command.append("--allow-root")
    with serving(command, environment, folder / "lab.log") as address:
        yield address


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


# Controls that a screen reader could not name.
NAMELESS = """() => [...document.querySelectorAll(
    '[class*=-explorer] :is(input, select, button, .noUi-handle)')]
  .filter(e => !(e.ariaLabel || e.title || e.getAttribute('aria-labelledby') || e.labels?.length
                 || e.innerText))
  .map(e => e.outerHTML)"""
# The pictures of an explorer, and the one chart that is made of HTML.
SHOWN = "e => [...e.querySelectorAll('img')].map(i => i.src).join() || e.innerHTML"


def move(page, name: str, timeout: float = MINUTES) -> None:
    """The last slider of an explorer moves by keys, and its pictures follow."""
    explorer = page.locator(f".{name}-explorer").first
    explorer.scroll_into_view_if_needed()
    before = explorer.evaluate(SHOWN)
    handle = explorer.locator(".noUi-handle, [role=slider]").last
    handle.focus()
    for _ in range(8):
        handle.press("ArrowRight")
    page.wait_for_function(f"([e, old]) => ({SHOWN})(e) !== old",
                           arg=[explorer.element_handle(), before], timeout=timeout)


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
        move(page, "fgsm")


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
        box.get_by_role("radio").nth(0).check()
        box.get_by_role("button", name="Lock my guess").click()
        answer = page.locator(".course-reveal").filter(
            has_text="B is right, about half of them (5 to 15). You guessed A.")
        answer.wait_for(timeout=MINUTES)
        text = answer.inner_text()
        assert ("Measured: 12 by random signs of 64/255, 0 by those of 2/255, and 18 by FGSM at "
                "2/255.") in text
        assert all(why in text for why in predictions["3.a"].why.values())
        assert len(told(page, predictions, quiz)) == len(predictions["3.a"].why)
        move(page, "fgsm")


@pytest.fixture
def written(lab, folder):
    """Opens a notebook of these cells in the browser."""
    def write(page, name: str, cells: list[str]) -> None:
        notebook = nbformat.v4.new_notebook(
            cells=[*map(nbformat.v4.new_code_cell, cells)],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
        page.goto(f"{lab}/lab/workspaces/{name}/tree/notebooks/{name}.ipynb?token=reader",
                  timeout=2 * MINUTES)
        page.get_by_text("| Idle").wait_for(timeout=2 * MINUTES)
    return write


@pytest.mark.alone
def test_every_explorer_answers_its_slider(written):
    with opened(1400, 1000) as page:
        written(page, "explorers", EXPLORERS)
        page.keyboard.press("Escape")
        page.keyboard.press("Control+a")
        page.keyboard.press("Control+Enter")
        page.locator(".broken-explorer").wait_for(state="attached", timeout=2 * MINUTES)
        assert page.evaluate(NAMELESS) == []
        expect(page.get_by_role("slider", name="generation").first).to_be_attached()
        for name in NAMES:
            move(page, name)
        with pytest.raises(Late):
            move(page, "broken", timeout=3000)


def tab_to(page, selector: str) -> None:
    """Press Tab until the focus is on such an element."""
    for _ in range(150):
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} cannot be reached by Tab")


def rewrite(page, source: str) -> None:
    """In command mode: replace the code of the selected cell, and run it."""
    page.keyboard.press("Enter")
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(source)
    page.keyboard.press("Control+Enter")


@pytest.mark.alone
def test_an_exercise_and_a_prediction_by_keyboard_alone(written):
    exercise = exercises.get("0.1")
    setup = """
from course_lib.exercises import check
from course_lib.questions import predict, reveal
"""
    with opened(1400, 1000) as page:
        written(page, "keyboard", [setup, 'predict("0.a")', 'reveal("0.a", "Measured: 7.")',
                                   exercise.stub.strip(), f'check("0.1", {exercise.name})'])
        page.keyboard.press("Escape")
        page.keyboard.press("Control+a")
        page.keyboard.press("Control+Enter")
        page.get_by_text("○ Exercise 0.1: not attempted yet").wait_for(timeout=MINUTES)
        # The last cell is selected; the stub stands above it.
        for answer, verdict in (("def is_attack(f, x, y, r, eps): return True", "✗ Exercise 0.1"),
                                (exercises.solved_source("0.1"), "✓ Exercise 0.1: correct")):
            page.keyboard.press("ArrowUp")
            rewrite(page, answer)
            page.keyboard.press("ArrowDown")
            page.keyboard.press("Control+Enter")
            page.get_by_text(verdict).wait_for(timeout=MINUTES)
        tab_to(page, ".course-prediction input[type=radio]")
        page.keyboard.press("Space")
        tab_to(page, ".course-prediction button")
        page.keyboard.press("Enter")
        # In the output: the source of the cell says it too.
        page.locator(".course-reveal", has_text="Measured: 7.").wait_for(timeout=MINUTES)
