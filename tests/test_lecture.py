"""A lecturer's browser: `make lecture` shows the first slide, and asks no other machine for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import nbformat
import pytest
from browser import MINUTES, opened, serving
from nbformat import NotebookNode
from playwright.sync_api import Page

from course_lib import slideshow

SMALLEST = 18  # pixels of a letter on a slide of 1280 x 720
SLIDE = "section.present > section.present"
# Of the slide that is up: lower and right end of what stands on it, what is cut off or has to be
# scrolled, and the smallest letters outside formulas. A fragment yet to come takes its place, too.
MEASURE = """slide => {
    const seen = [...slide.querySelectorAll("*")].filter(
        e => !e.closest("aside, mjx-container, .lm-mod-hidden, .cm-announced, .cm-layer"));
    const box = slide.getBoundingClientRect(), scale = box.width / slide.offsetWidth;
    const there = seen.filter(e => e.getBoundingClientRect().width * e.clientHeight);
    const places = there.map(e => e.getBoundingClientRect());
    const cut = there.filter(e => !/visible/.test(getComputedStyle(e).overflow)
        && (e.scrollHeight > e.clientHeight + 3 || e.scrollWidth > e.clientWidth + 3));
    const letters = seen.filter(e => [...e.childNodes].some(
        n => n.nodeType === Node.TEXT_NODE && n.textContent.trim()) && e.offsetHeight);
    return {
        text: slide.innerText.slice(0, 60), cut: cut.map(e => e.className),
        bottom: Math.max(0, ...places.map(r => (r.bottom - box.top) / scale)),
        right: Math.max(0, ...places.map(r => (r.right - box.left) / scale)),
        letters: Math.min(...letters.map(e => parseFloat(getComputedStyle(e).fontSize) * scale)),
    };
}"""


def notebook() -> NotebookNode:
    """A short lesson: a title, a formula, and one slide each that is too tall and too small."""
    cell, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    cells = [cell("# A title\n\nSome words."), code("print('set up')"),
             cell("## A formula\n\nNo entry of $r$ is larger than $\\varepsilon$."),
             cell("tall\n\n" + "word\n\n" * 30), cell("<small style='font-size: 9px'>tiny</small>"),
             code("x = '" + "long" * 60 + "'")]
    kinds = ["slide", "skip", "slide", "subslide", "subslide", "subslide"]
    for part, kind in zip(cells, kinds, strict=True):
        part.metadata.slideshow = {"slide_type": kind}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server of `make lecture`, on copies of lesson 03 and of the short one."""
    if not (slideshow.RISE / "jupyterlab_rise").is_dir():
        message = f"RISE is not in {slideshow.RISE}: `make lecture` and `make test` install it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("lecture")
    nbformat.write(notebook(), folder / "short.ipynb")
    lesson = slideshow.run.ROOT / "notebooks" / "03_fgsm.ipynb"
    slideshow.copy([folder / "short.ipynb", lesson], folder)
    with serving(slideshow.command("03_fgsm.ipynb", folder=folder), slideshow.environment(folder),
                 folder / "lab.log") as address:
        yield address


def shown(page: Page, address: str) -> list[str]:
    """Open slides; a list that grows by the addresses of other machines that are asked."""
    foreign: list[str] = []
    page.on("request", lambda r: r.url.startswith(
        ("http://127.0.0.1:", "data:", "blob:")) or foreign.append(r.url))
    page.goto(f"{address}?token=reader", timeout=2 * MINUTES)
    page.locator(SLIDE).wait_for(timeout=2 * MINUTES)
    return foreign


def measured(page: Page) -> dict:
    return page.locator(SLIDE).evaluate(MEASURE)


def faults(slide: dict) -> set[str]:
    """What of a slide cannot be seen or read."""
    return {name for name, found in {
        "tall": slide["bottom"] > 720, "wide": slide["right"] > 1280, "cut": slide["cut"],
        "small": (slide["letters"] or SMALLEST) < SMALLEST}.items() if found}


def turn(page: Page, key: str = "Space") -> None:
    """One key, and the next slide is up."""
    before = page.locator(SLIDE).get_attribute("id")
    page.keyboard.press(key)
    page.wait_for_function("([now, old]) => document.querySelector(now).id !== old",
                           arg=[SLIDE, before], timeout=MINUTES)


@pytest.mark.slow
def test_make_lecture_shows_the_first_slide_of_a_lesson_and_needs_no_network(server):
    with opened(1280, 720) as page:
        foreign = shown(page, server + "/")  # the address that `make lecture` opens
        assert page.locator(SLIDE).get_by_role("heading", level=1).inner_text().startswith("03 ·")
        assert faults(measured(page)) == set()
        for _ in range(3):
            turn(page)
        formula = page.locator(f"{SLIDE} mjx-container").first
        formula.wait_for(timeout=MINUTES)
        assert formula.bounding_box()["width"] > 5
        slide = measured(page)
        assert faults(slide) == set(), slide
        assert page.locator("aside.notes").count() > 3
        assert not page.locator("aside.notes").first.is_visible()
        assert foreign == []


@pytest.mark.slow
def test_what_cannot_be_read_on_a_slide_is_found(server):
    with opened(1280, 720) as page:
        shown(page, f"{server}/rise/notebooks/short.ipynb")
        found = [faults(measured(page))]
        for _ in range(4):
            turn(page)
            found.append(faults(measured(page)))
    assert found == [set(), set(), {"tall"}, {"small"}, {"wide", "cut"}]


@pytest.mark.slow
def test_the_set_up_runs_from_the_first_slide(server):
    with opened(1280, 720) as page:
        shown(page, server + "/")
        line = page.locator(SLIDE).get_by_text("Lesson 03 runs on")
        line.click()
        page.keyboard.press("Control+Enter")
        line.filter(has_text="lecture mode").wait_for(timeout=2 * MINUTES)


@pytest.mark.slow
def test_one_key_runs_all_that_stands_above(server):
    with opened(1280, 720) as page:
        shown(page, f"{server}/rise/notebooks/short.ipynb")
        for _ in range(4):
            turn(page)
        page.locator(f"{SLIDE} .jp-CodeCell").click(position={"x": 3, "y": 3})
        page.keyboard.press("Control+Shift+Enter")
        page.get_by_text("set up", exact=True).wait_for(state="attached", timeout=2 * MINUTES)


def test_rise_is_installed_apart_from_everything_else():
    def would_run(*arguments: str) -> str:
        return subprocess.run(
            ["make", "--no-print-directory", "--dry-run", "--what-if=pyproject.toml", *arguments],
            cwd=slideshow.run.ROOT, capture_output=True, text=True, check=True).stdout

    commands = would_run("lecture", "LESSON=03")
    assert "--no-deps --target .venv/lecture jupyterlab-rise==" in commands
    assert commands.rstrip().endswith("-m course_lib.slideshow notebooks/03_fgsm.ipynb")
    assert "rise" not in would_run("lab")


def test_a_lecture_needs_rise(tmp_path):
    with pytest.raises(RuntimeError, match="run `make lecture`, which installs it"):
        slideshow.environment(rise=tmp_path)


def test_a_lecture_listens_on_this_machine_only_and_asks_for_its_token():
    command = " ".join(slideshow.command("short.ipynb"))
    assert "--ip=127.0.0.1 " in command and "token" not in command
    assert "--LabApp.default_url=/rise/notebooks/short.ipynb" in command


def test_a_lesson_that_is_not_there_is_named(capsys):
    assert slideshow.main(["notebooks/99_nothing.ipynb"]) == 2
    assert "no such lesson: notebooks/99_nothing.ipynb" in capsys.readouterr().err
