"""The house: who imports whom, what an import costs, and what gets installed."""

from __future__ import annotations

import ast
import itertools
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "course_lib"
# Who may import whom: each module only what stands above it.
ORDER = [
    "files", "runtime", "norms", "losses", "kernels", "gradients", "windows", "iterate",
    "evolution", "attacks", "changes", "models", "datasets", "scenes", "passages", "evaluation",
    "sanity", "scoreboard", "smoothing", "encodings", "fooling", "cards", "distributed",
    "training", "segmentation", "detection", "reading", "plots", "widgets", "questions",
    "exercises", "outputs", "covers", "pages", "run", "editions", "slideshow", "address",
    "site", "everywhere",
]
# plots draws tensors: it knows norms and data, but no attack and no judge.
FORBIDDEN = {"plots": {"attacks", "evaluation", "sanity", "scoreboard", "smoothing", "training",
                       "widgets", "iterate"},
             "norms": {"runtime"}, "losses": {"runtime", "norms"}, "gradients": {"norms"}}


def imported(source: str) -> set[str]:
    """The modules of the course that a source imports, by their first name below course_lib."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            parts = node.module.split(".")
            if parts[0] == "course_lib":
                names |= {parts[1]} if parts[1:] else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("course_lib.")}
    return names


def misplaced(module: str, source: str) -> set[str]:
    """What a module imports though it stands below it, or may not know."""
    allowed = set(ORDER[:ORDER.index(module) + 1]) - FORBIDDEN.get(module, set())
    return imported(source) & set(ORDER) - allowed


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_imports_point_one_way(path):
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if module == "__init__":
        return
    assert not misplaced(module, path.read_text())


def test_a_wrong_import_is_found():
    assert misplaced("norms", "from course_lib.attacks import pgd") == {"attacks"}
    assert misplaced("iterate", "from course_lib import plots, norms") == {"plots"}


@pytest.mark.slow
def test_importing_the_library_is_cheap():
    """Over the cost of torch itself, in fresh interpreters, the median of five, side by side."""
    program = ("import time; import torch; t = time.perf_counter(); import course_lib; "
               "print(time.perf_counter() - t)")
    extra = [float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                                  check=True, cwd=ROOT).stdout) for _ in range(5)]
    assert statistics.median(extra) < 0.5


def _name(requirement: str) -> str:
    return re.split(r"[<>=\[ ]", requirement)[0].lower()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_and_pip_install_the_same():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = {"pip": ["-c constraints.txt", "-e ."]}
    assert conda == [f"python{PROJECT['requires-python']}", "pip", pip]


def test_the_tested_versions_are_names_and_versions_of_all_that_is_needed():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line), line
    held = {_name(line).replace("_", "-") for line in lines}
    needed = itertools.chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    wanted = {_name(requirement).replace("_", "-") for requirement in needed} - {PROJECT["name"]}
    assert wanted <= held, wanted - held
    assert not held & {"pip", "setuptools", PROJECT["name"]}


def would_run(*arguments: str) -> list[str]:
    """What make would do if the project had just changed."""
    return subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--what-if=pyproject.toml", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("target", ["lab", "test", "bench"])
def test_make_installs_the_tested_versions_or_with_newest_the_newest(target):
    def installs(*options: str) -> list[str]:
        found = [line for line in would_run(target, *options) if " pip install " in line]
        assert found
        return [line for line in found if "--no-deps" not in line]

    assert all("--constraint constraints.txt" in line for line in installs())
    for line in installs("NEWEST=1"):
        assert "--upgrade" in line and "constraint" not in line


def test_only_make_bench_installs_the_torchattacks_that_jupyterlab_cannot_live_with():
    assert any("--no-deps torchattacks==3.5.1" in line for line in would_run("bench"))
    assert not any("torchattacks" in line for line in would_run("test"))


def test_make_constraints_checks_that_the_versions_fit_together_first():
    *_, check, freeze, _ = would_run("constraints")
    assert check.endswith("pip check") and " freeze --exclude-editable " in freeze


def test_every_import_is_a_declared_dependency():
    declared = {_name(r) for r in PROJECT["dependencies"]}
    # Imported when they are called: of the extra of this name, and what only some users have.
    extra = {"site.py": {"sphinx"}, "reading.py": {"transformers"}}
    # Modules whose package has another name, and what comes with the packages named.
    known = {"pil": "pillow", "ipython": "jupyterlab", "nbformat": "nbconvert",
             "nbclient": "nbconvert", "cycler": "matplotlib", "skimage": "scikit-image",
             "triton": "torch", "jinja2": "nbconvert"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.split(".")[0].lower() for name in names} - {"course_lib"}:
                if top not in {m.lower() for m in sys.stdlib_module_names}:
                    assert known.get(top, top) in declared | extra.get(path.name, set()), \
                        f"{path.name} imports {top}"


def test_the_code_is_clean():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_types_agree(tmp_path):
    check = [sys.executable, "-m", "mypy", f"--cache-dir={tmp_path / 'cache'}"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from course_lib import norms\nnorms.project('an image', 1.0, 'linf')\n")
    done = subprocess.run([*check, str(wrong)], cwd=ROOT, capture_output=True, text=True)
    assert "arg-type" in done.stdout


def test_the_tests_reach_no_network():
    import socket

    with pytest.raises(OSError, match="allow no connection"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    child = subprocess.run(
        [sys.executable, "-c", "import socket; socket.create_connection(('192.0.2.1', 80), 1)"],
        capture_output=True, text=True)
    assert "allow no connection" in child.stderr


README = (ROOT / "README.md").read_text()


def test_the_readme_names_every_lesson_and_links_what_exists():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"(notebooks/{path.name})" in README
    for link in re.findall(r"\]\((?!https://|#)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert f"## {anchor}" in README.lower()


def test_the_readme_names_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"\bmake ([a-z]+)", " ".join(re.findall(r"`[^`]*`|```.*?```", README,
                                                                   re.DOTALL))))
    assert {"lab", "test", "run", "store"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    sources = "".join(p.read_text() for p in PACKAGE.rglob("*.py"))
    for variable in re.findall(r"`(COURSE_[A-Z]+)`", README):
        assert variable in sources, variable


def test_the_readme_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(example, {})


def test_make_lab_opens_the_first_lesson_for_this_machine_only():
    """Loopback only; Jupyter's own token and browser, which it has unless told otherwise."""
    dry = subprocess.run(["make", "--no-print-directory", "--dry-run", "lab"], cwd=ROOT,
                         capture_output=True, text=True, check=True).stdout
    command = dry.strip().split("\n")[-1]
    first = sorted((ROOT / "notebooks").glob("0[01]_*.ipynb"))[0]
    assert command.startswith(".venv/bin/jupyter lab --ip=127.0.0.1 ")
    # The page itself, so that the address that is printed leads to the lesson, too.
    assert command.endswith(f" --LabApp.default_url=/lab/tree/notebooks/{first.name}")
    assert "token" not in command and "no-browser" not in command


def test_make_check_leaves_out_what_takes_long_and_nothing_that_is_not_there():
    commands = "\n".join(would_run("check"))
    assert "ruff check ." in commands and '-m "not slow"' in commands
    ignored = re.findall(r"--ignore=(\S+)", commands)
    assert ignored and all((ROOT / path).exists() for path in ignored)


def test_make_refuses_an_old_python(tmp_path):
    old = tmp_path / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    done = subprocess.run(["make", "-f", ROOT / "Makefile", "lab", f"PYTHON={old}"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_no_registry_is_written_down():
    """Which index pip asks is the user's choice; the project only names packages."""
    for name in ("pyproject.toml", "constraints.txt", "environment.yml", "Makefile", ".ci/run"):
        text = re.sub('^Repository = ".*"$', "", (ROOT / name).read_text(), flags=re.MULTILINE)
        assert not re.search("https?:|index-url", text), name
