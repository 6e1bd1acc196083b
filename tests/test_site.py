"""The site: complete, no broken link, no request leaves the machine, answers folded, a search."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import MINUTES, opened
from bs4 import BeautifulSoup
from test_pages import RAW, READY

from course_lib import address, site

SMALL = "# Start\n\n```{toctree}\nother\n```\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build") / "site"
    assert site.build(folder)
    return folder


def addresses(page: Path) -> list[tuple[str, bool]]:
    """What a page links to or loads, and whether it loads it."""
    tree = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    loaded = [tag["src"] for tag in tree.select("[src]")]
    loaded += [tag["href"] for tag in tree.select("link[rel~=stylesheet], link[rel~=preload]")]
    return ([(address, True) for address in loaded]
            + [(tag["href"], False) for tag in tree.select("a[href]")])


def broken(folder: Path) -> list[str]:
    """Links to nowhere, and what a page loads from elsewhere."""
    names = {page: {tag["id"] for tag in BeautifulSoup(
        page.read_text(encoding="utf-8"), "html.parser").select("[id]")}
        for page in folder.rglob("*.html") if "_static" not in page.parts}
    found = []
    for page in names:
        for link, loads in addresses(page):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if loads and parts.scheme != "data":
                    found.append(f"{page.name} loads {link}")
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchor = unquote(parts.fragment)
            if not target.is_file() or (
                    anchor and target in names and anchor not in names[target]):
                found.append(f"{page.name} links to {link}")
    return found


def render(folder: Path, other: str) -> bool:
    source = folder / "source"
    source.mkdir(parents=True)
    site.copy_assets(source)
    (source / "index.md").write_text(SMALL)
    (source / "other.md").write_text(other)
    return site.render(source, folder / "site")


@pytest.mark.slow
def test_every_lesson_and_module_has_its_page_and_no_link_is_broken(built):
    assert {p.stem for p in (built / "lessons").glob("*.html")} == {p.stem for p in site.LESSONS}
    assert {p.stem for p in (built / "api").glob("*.html")} == set(site.API)
    assert broken(built) == []


def test_the_front_page_loads_no_badge_from_elsewhere():
    readme = (site.run.ROOT / "README.md").read_text()
    badges = address.badges("https://github.com/somebody/course", ["00_why_cnns_break"])
    published = address.BADGES.sub(badges, readme)
    assert "mybinder" in published and "mybinder" not in site._front(published)


def test_every_module_that_a_lesson_teaches_is_in_the_reference():
    package = Path(site.__file__).parent
    taught = {".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
              for path in package.rglob("*.py") if re.search(
                  r"[Ll]essons? \d\d", ast.get_docstring(ast.parse(path.read_text())) or "")}
    # A package's page shows what the package itself offers.
    missing = {name for name in taught if not {name, name.rpartition(".")[0]} & set(site.API)}
    assert {name for name in missing if not name.startswith("exercises.")} == set()


@pytest.mark.slow
def test_a_name_says_where_it_is_taught(built):
    page = (built / "api" / "attacks.pgd.html").read_text(encoding="utf-8")
    assert 'href="../lessons/04_pgd.html"' in page


@pytest.mark.slow
def test_lessons_are_read_without_a_network_and_answers_stay_folded(built):
    with opened(1280, 900) as page:
        failed = []
        page.on("requestfailed", lambda r: r.url == "about:blank" or failed.append(r.url))
        page.on("request", lambda r: r.url.startswith(("file:", "data:", "about:"))
                or failed.append(r.url))
        page.goto((built / "lessons" / "03_fgsm.html").as_uri())
        page.wait_for_function("window.MathJax && window.MathJax.Hub")
        page.wait_for_function(READY, timeout=MINUTES)
        assert page.locator(".MathJax").count() > 10 and page.evaluate(RAW) == []
        answers = page.locator("details.sd-dropdown")
        assert answers.count() >= 8
        assert page.locator("details.sd-dropdown[open]").count() == 0
        solution = page.get_by_text("def fgsm_step").last
        assert not solution.is_visible()
        page.get_by_text("Solution of exercise 3.1").click()
        assert solution.is_visible()
        assert failed == []
        page.goto((built / "search.html").as_uri() + "?q=transferability")
        page.locator("#search-results li a").first.wait_for(timeout=MINUTES)


@pytest.mark.slow
def test_a_broken_link_is_found(tmp_path):
    assert render(tmp_path / "a", "# Other\n\nback to [start](index.md)\n")
    assert broken(tmp_path / "a" / "site") == []
    assert not render(tmp_path / "b", "# Other\n\nto [nowhere](nowhere.md)\n")
    assert render(tmp_path / "c", '# Other\n\n<a href="no.html"></a><img src="http://a.b/c.png">\n')
    assert broken(tmp_path / "c" / "site") == ["other.html loads http://a.b/c.png",
                                               "other.html links to no.html"]
