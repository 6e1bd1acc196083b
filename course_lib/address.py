"""Where the course is published: one address, from which badges and install cells are written.

    make address URL=https://github.com/OWNER/NAME

writes it to pyproject.toml, and from there to README.md and to the first code cell of each lesson.
Without an address there are no badges, and a lesson that misses the course installs the clone it
lies in. Run it once after a fork, and commit what it changes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat

from course_lib import files, run

_GITHUB = re.compile(r"https://github\.com/[\w-]+/[\w.-]+")
_URLS = re.compile(r'\[project\.urls\]\nRepository = "(.*)"\n')
BADGES = re.compile(r"<!-- badges: .* -->\n(?:.+\n)*")
CELL = "install-course"  # the id of the cell in each lesson


def of(root: Path) -> str | None:
    """The address in pyproject.toml, or None."""
    found = _URLS.search((root / "pyproject.toml").read_text(encoding="utf-8"))
    return found and found[1]


def publish(root: Path, url: str) -> None:
    """Write another address to pyproject.toml.

    Raises: ValueError for one that Colab and Binder cannot open.
    """
    if not _GITHUB.fullmatch(url):
        raise ValueError(f"{url!r} is no address of a repository: use https://github.com/OWNER/NAME")
    project = root / "pyproject.toml"
    text = _URLS.sub("", project.read_text(encoding="utf-8"))
    urls = f'[project.urls]\nRepository = "{url}"\n\n'
    where = "[project.optional-dependencies]"
    files.write(project, text.replace(where, urls + where, 1).encode())


def badges(url: str | None, lessons: list[str]) -> str:
    """The lines of README.md that open the course elsewhere, behind a comment that says whence."""
    made = "<!-- badges: written by `make address`, see CONTRIBUTING.md -->\n"
    if url is None:
        return made
    repository = url.removeprefix("https://github.com/")
    binder = "https://mybinder.org"
    colab = "https://colab.research.google.com/github"
    links = [f"[{name[:2]}]({colab}/{repository}/blob/main/notebooks/{name}.ipynb)"
             for name in lessons]
    return (f"{made}[![Binder]({binder}/badge_logo.svg)]({binder}/v2/gh/{repository}/HEAD)\n"
            f"[![Colab]({colab.removesuffix('/github')}/assets/colab-badge.svg)]"
            f"({colab}/{repository}) {' '.join(links)}\n")


def install_cell(url: str | None) -> str:
    """The source of a lesson's first code cell."""
    source = f"git+{url}" if url else ".."
    return ("# Installs the course where it is missing, as on a hosted machine.\n"
            "import importlib.util\n\n"
            'if importlib.util.find_spec("course_lib") is None:\n'
            f"    %pip install --quiet {source}")


def spread(root: Path) -> list[Path]:
    """Write the address of pyproject.toml wherever it is used; the files that were changed."""
    url, changed = of(root), []
    lessons = sorted((root / "notebooks").glob("*.ipynb"))
    for path in lessons:
        notebook = nbformat.read(path, as_version=4)
        (cell,) = [cell for cell in notebook.cells if cell.get("id") == CELL]
        if cell.source != install_cell(url):
            cell.source = install_cell(url)
            files.write(path, (nbformat.writes(notebook) + "\n").encode())
            changed.append(path)
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    new = BADGES.sub(badges(url, [path.stem for path in lessons]), text)
    if new != text:
        files.write(readme, new.encode())
        changed.append(readme)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Which address? make address URL=https://github.com/OWNER/NAME")
    publish(run.ROOT, sys.argv[1])
    print("Written:", *(path.relative_to(run.ROOT) for path in spread(run.ROOT)), sep="\n  ")
