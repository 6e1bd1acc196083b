"""Slides and pages in a browser: nothing cut off, formulas set, no request leaves the machine."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from browser import MINUTES, opened
from nbformat import NotebookNode

from course_lib import pages

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SMALLEST = 18  # pixels of a letter on a slide of 1280 x 720
READY = """() => (!window.Reveal || Reveal.isReady())
    && MathJax.Hub.queue.pending === 0 && !MathJax.Hub.queue.running"""
# Of every slide, with all its fragments: lower and right end, and the smallest letters.
MEASURE = """() => {
    const hidden = "aside, .MJX_Assistive_MathML", found = [];
    const slides = [...document.querySelectorAll(".slides section")]
        .filter(s => !s.querySelector("section"));
    for (const slide of slides) {
        Reveal.slide(...Object.values(Reveal.getIndices(slide)).slice(0, 2), 99);
        const scale = Reveal.getScale(), box = slide.getBoundingClientRect();
        const seen = [...slide.querySelectorAll("*")].filter(e => !e.closest(hidden));
        const places = seen.map(e => e.getBoundingClientRect()).filter(r => r.width && r.height);
        const letters = seen.filter(e => !e.closest(".MathJax") && [...e.childNodes].some(
            n => n.nodeType === Node.TEXT_NODE && n.textContent.trim()));
        found.push({
            text: slide.innerText.slice(0, 60),
            bottom: Math.max(0, ...places.map(r => (r.bottom - box.top) / scale)),
            right: Math.max(0, ...places.map(r => (r.right - box.left) / scale)),
            letters: Math.min(...letters.map(e => parseFloat(getComputedStyle(e).fontSize))),
        });
    }
    return found;
}"""
RAW = r"""() => [...document.querySelectorAll("p, li, td")]
    .filter(e => /\$[^$]+\$/.test(e.innerText)).map(e => e.innerText.slice(0, 80))"""


def shown(page, path: Path) -> list[str]:
    """Open a page made from a lesson; a list that grows by what it asks of other machines, or asks
    for in vain: read it at the end."""
    failed = []
    page.on("requestfailed", lambda r: r.url == "about:blank" or failed.append(r.url))
    page.on("request", lambda r: r.url.startswith(("file:", "data:", "about:"))
            or failed.append(r.url))
    page.goto(path.as_uri())
    page.wait_for_function("window.MathJax && window.MathJax.Hub")
    page.wait_for_function(READY, timeout=MINUTES)
    return failed


def too_large(slides: list[dict]) -> list[str]:
    """The slides of which a part cannot be seen or read."""
    return [f"{s['text']!r} ends at {s['right']:.0f}, {s['bottom']:.0f}, letters {s['letters']}"
            for s in slides
            if s["bottom"] > 720 or s["right"] > 1280 or (s["letters"] or SMALLEST) < SMALLEST]


def written(folder: Path, notebook: NotebookNode) -> Path:
    pages.copy_assets(folder)
    pages.write(pages.slides(), notebook, folder / "lesson.html")
    return folder / "lesson.html"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("lesson", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])
def test_every_slide_fits_the_screen_and_needs_no_network(lesson, tmp_path):
    path = written(tmp_path, nbformat.read(lesson, as_version=4))
    with opened(1280, 720) as page:
        in_vain = shown(page, path)
        slides = page.evaluate(MEASURE)
        assert len(slides) > 20
        assert too_large(slides) == []
        assert page.evaluate(RAW) == []
        assert page.locator(".MathJax").count() > 10
        assert page.locator("aside.notes").count() > 0
        assert in_vain == []


@pytest.mark.slow
def test_a_slide_that_does_not_fit_is_found(tmp_path):
    cell = nbformat.v4.new_markdown_cell
    notebook = nbformat.v4.new_notebook(cells=[
        cell("# fits\n\n$x$"), cell("# tall\n\n" + "word\n\n" * 30), cell("`" + "x" * 200 + "`"),
        cell("<small style='font-size: 12px'>small</small>")])
    for part in notebook.cells:
        part.metadata.slideshow = {"slide_type": "slide"}
    with opened(1280, 720) as page:
        shown(page, written(tmp_path, notebook))
        found = too_large(page.evaluate(MEASURE))
    assert [line[1:5] for line in found] == ["tall", "xxxx", "smal"]


@pytest.mark.slow
def test_a_page_to_read_needs_no_network(tmp_path):
    pages.copy_assets(tmp_path)
    pages.write(pages.reading(), nbformat.read(NOTEBOOKS[3], as_version=4), tmp_path / "page.html")
    with opened(1280, 720) as page:
        in_vain = shown(page, tmp_path / "page.html")
        assert page.evaluate(RAW) == []
        assert in_vain == []


@pytest.mark.slow
def test_what_comes_from_elsewhere_or_is_missing_is_found(tmp_path):
    lines = [f'<img src="{url}">' for url in ("http://127.0.0.1:9/there.png", "missing.png")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("\n".join(lines))])
    with opened(1280, 720) as page:
        in_vain = shown(page, written(tmp_path, notebook))
        assert any("there.png" in url for url in in_vain)
        assert any("missing.png" in url for url in in_vain)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(pages.ASSETS, "reveal", ("no_such_package", "static"))
    with pytest.raises(RuntimeError, match="no_such_package is missing: pip install"):
        pages.copy_assets(tmp_path)
