"""The lessons as files, solved, and with every cell run twice. nbval runs them as committed."""

from __future__ import annotations

import html
import os
import re
import symtable
import time
from pathlib import Path

import nbformat
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

from course_lib import covers, editions, everywhere, exercises, outputs, questions, run
from course_lib.questions import Question

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SLIDE_TYPES = {"slide", "subslide", "fragment", "skip", "notes", "-"}
WIDEST, TALLEST = 88, 40  # characters and lines of code that fit on a projected slide
MOST_IGNORED = 4  # cells whose output may differ between machines, in one lesson
MOST_PICTURES = 8  # whose content may differ, such as evolved images, in one lesson
LARGEST = 2_000_000  # bytes
LONG = 10  # seconds: a cell that takes longer is run once

each_lesson = pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def stdout(cell: NotebookNode) -> str:
    return outputs.texts(cell.outputs).get("stdout", "")


def checks(notebook: NotebookNode) -> list[NotebookNode]:
    return [c for c in code(notebook) if re.search(r"^check\(", c.source, re.MULTILINE)]


# --- the file ----------------------------------------------------------------------------------

def faults(notebook: NotebookNode) -> list[str]:
    """What is wrong with a notebook as a file, in words."""
    found = []
    counts = [c.execution_count for c in code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        found.append("not run from top to bottom in one go")
    for i, cell in enumerate(notebook.cells):
        if cell.metadata.get("slideshow", {}).get("slide_type") not in SLIDE_TYPES:
            found.append(f"cell {i} has no slide type")
        unknown = [t for t in tags(cell)
                   if t not in (outputs.IGNORE, covers.TAG) and not outputs.is_allowance(t)
                   and not editions.EXERCISE.fullmatch(t)]
        if unknown:
            found.append(f"cell {i} has the tags {unknown}")
        if cell.metadata.keys() - run.CELL_METADATA:
            found.append(f"cell {i} stores {sorted(cell.metadata.keys() - run.CELL_METADATA)}: "
                         "see make store")
    for i, cell in enumerate(code(notebook), 1):
        found += [f"code cell {i} {fault}" for fault in _code_faults(cell)]
    ignored = sum(outputs.IGNORE in tags(c) for c in notebook.cells)
    if ignored > MOST_IGNORED:
        found.append(f"{ignored} cells are not compared")
    if "widgets" in notebook.metadata:
        found.append("widget state is stored")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    if "language_info" not in notebook.metadata:
        found.append("the language is not named")
    return found


def _code_faults(cell: NotebookNode) -> list[str]:
    found = []
    lines = cell.source.split("\n")
    if not cell.source.strip():
        found.append("is empty")
    if len(lines) > TALLEST or max(map(len, lines)) > WIDEST:
        found.append("does not fit the screen")
    if re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source):
        found.append("steers nbval by a comment: use a tag")
    for output in cell.outputs:
        if output.output_type == "error" or output.get("name") == "stderr":
            found.append("stores an error or a warning")
        if any("widget" in kind or kind in ("image/svg+xml", "application/pdf")
               for kind in output.get("data", {})):
            found.append("stores a widget, an SVG or a PDF")
    return found


@each_lesson
def test_the_file_is_in_order(path):
    found = faults(read(path))
    assert not found, "\n".join(found)
    assert path.stat().st_size < LARGEST


@each_lesson
def test_stubs_and_checks_stand_as_the_exercises_say(path):
    notebook = read(path)
    stubs = {m[1]: c.source for c in notebook.cells for t in tags(c)
             if (m := editions.EXERCISE.fullmatch(t))}
    lesson = int(path.stem[:2])
    known = {e.id: e for e in exercises.of_lesson(lesson)}
    assert stubs.keys() == known.keys()
    assert len(known) >= (3 if lesson else 1), "three exercises"  # lesson 00 is short
    text = "\n".join(c.source for c in notebook.cells)
    given = "\n".join(c.source for c in code(notebook)
                      if not any(editions.EXERCISE.fullmatch(t) for t in tags(c)))
    for id, exercise in known.items():
        # Else the check, run again, would praise the course's own function.
        anew = rf"^(?:[\w, ]*\b{exercise.name}\b[\w, ]* = |def {exercise.name}\()"
        assert not re.search(anew, given, re.MULTILINE), f"{exercise.name} is assigned anew"
        assert exercises.same_code(stubs[id], exercise.stub), f"the stub of {id} differs"
        assert f"### Exercise {id} - {exercise.title}" in text
        for line in (f'check("{id}", {exercise.name})', f'# hint("{id}")', f'# solution("{id}")'):
            assert re.search(rf"^{re.escape(line)}", text, re.MULTILINE), line
    efforts = re.findall(r"Difficulty \d/5, importance \d/5, about \d+ minutes", text)
    assert len(efforts) == len(known), "below each heading: Difficulty 2/5, importance …"
    assert len(checks(notebook)) == len(known)


def names(source: str) -> tuple[set[str], set[str]]:
    """What a cell reads and does not set, and what it sets."""
    scopes = [symtable.symtable(TransformerManager().transform_cell(source), "cell", "exec")]
    sets = {s.get_name() for s in scopes[0].get_symbols() if s.is_assigned() or s.is_imported()}
    reads = {s.get_name() for s in scopes[0].get_symbols() if s.is_referenced()}
    for scope in scopes:  # grows by the functions and comprehensions inside
        scopes += scope.get_children()
        reads |= {s.get_name() for s in scope.get_symbols() if s.is_global() and s.is_referenced()}
    return reads - sets, sets


@each_lesson
def test_every_cell_can_be_run_again_after_those_below(path):
    cells = [(c.id, *names(c.source)) for c in code(read(path))]
    for i, (id, reads, _) in enumerate(cells):
        above, below = ({name for *_, sets in part for name in sets}
                        for part in (cells[:i], cells[i + 1:]))
        assert reads & above & below == set(), f"what cell {id} reads is set anew further down"


@each_lesson
def test_the_first_cell_links_the_glossary_and_the_notation(path):
    first = read(path).cells[0].source
    for page in ("glossary", "notation"):
        assert f"[{page}](../docs/{page}.md)" in first
        assert (path.parent / f"../docs/{page}.md").exists()


@each_lesson
def test_the_cover_is_the_picture_that_the_lesson_shows(path):
    """Stored in docs/covers by `make store`; the README and the site show it."""
    cover = covers.cover(read(path))
    assert cover, "give the tag `cover` to the cell with the best picture"
    assert outputs.looks_the_same(Image.open(covers.place(path)).convert("RGB"), cover)
    assert f"](docs/covers/{path.stem[:2]}.png)" in (run.ROOT / "README.md").read_text()


@each_lesson
def test_unsolved_exercises_say_so(path):
    for cell in checks(read(path)):
        assert stdout(cell).startswith("○")


# --- what may differ, and what may not be told -------------------------------------------------

def too_generous(cell: NotebookNode) -> list[str]:
    """Allowances above 10 points or a fifth, for which the cell gives no reason in a comment."""
    allowed = outputs.Allowance.of(tags(cell))
    totals = [float(m[1].replace(",", "")) for text in outputs.texts(cell.outputs).values()
              for m in outputs.NUMBER.finditer(text)]
    found = []
    if allowed.points > 10:
        found.append(f"{allowed.points:g} points")
    if allowed.share > 0.2:
        found.append(f"{allowed.share:.0%} of a number")
    if allowed.counts > 0.2 * max(totals, default=0):
        found.append(f"{allowed.counts:g} counts of at most {max(totals, default=0):g}")
    return [] if "# may differ:" in cell.source else found


@each_lesson
def test_allowances_are_narrow(path):
    notebook = read(path)
    for i, cell in enumerate(code(notebook), 1):
        if allowing := [tag for tag in tags(cell) if outputs.is_allowance(tag)]:
            print(f"{path.stem}, code cell {i}: {', '.join(allowing)}")  # pytest -rP lists them all
        assert too_generous(cell) == [], f"code cell {i}"
    pictures = sum(outputs.PICTURE in tags(cell) for cell in notebook.cells)
    assert pictures <= MOST_PICTURES


def verdicts(notebook: NotebookNode) -> list[str]:
    """Printed lines that end in True or False where a student wants the number."""
    said = "\n".join(text for cell in code(notebook)
                     for text in outputs.texts(cell.outputs).values())
    return re.findall(r"^.*\b(?:True|False)[.,;]?$", said, re.MULTILINE)


def told(notebook: NotebookNode, predictions: dict, quiz: list) -> list[str]:
    """Answers of predictions and quiz that can be read in a source or a stored output."""
    text = _squeezed(" ".join(
        [cell.source for cell in notebook.cells]
        + [said for cell in code(notebook) for said in outputs.texts(cell.outputs).values()]))
    found = [f"{id}: the answer" for id, question in predictions.items()
             if _squeezed(f"Prediction {id}: {question.answer} is right") in text]
    found += [f"{id}: why {letter}" for id, question in [*predictions.items(), *enumerate(quiz, 1)]
              for letter, why in question.why.items() if _squeezed(why) in text]
    return found


def _squeezed(text: str) -> str:
    """Letters and digits only: a broken line, a quote or an HTML entity hides nothing."""
    return re.sub(r"[\W_]+", "", html.unescape(text).replace("\\n", " ")).lower()


@each_lesson
def test_answers_stand_in_no_notebook(path):
    predictions, quiz = questions.of_lesson(int(path.stem[:2]))
    notebook = read(path)
    assert told(notebook, predictions, quiz) == []
    assert verdicts(notebook) == []
    sources = "\n".join(cell.source for cell in code(notebook))
    for id in predictions:
        asked, told_at = (sources.find(f'{word}("{id}"') for word in ("predict", "reveal"))
        assert 0 <= asked < told_at, f'predict("{id}") and, below it, reveal("{id}", ...)'
    assert f"\nquiz({int(path.stem[:2])})" in sources, "a cell with the quiz is missing"
    assert len(re.findall(r"^(?:predict|reveal)\(", sources, re.MULTILINE)) >= 2 * len(predictions)


# --- solved, and every cell twice ----------------------------------------------------------------

def other_arithmetic(path: Path) -> dict[str, str]:
    """How the solved lessons compute: not as the stored ones do, which have one thread and all
    that the processor can. Without AVX-512 two lessons must do: SSE4.1 takes twice as long. Two
    threads are left to `make everywhere`: where both cores are busy, they wait for each other."""
    lesson, can = path.stem[:2], torch.backends.cpu.get_cpu_capability()
    isa = "AVX2" if can == "AVX512" else "SSE4.1" if lesson in ("01", "05") else "native"
    return everywhere.arithmetic(isa, threads=1)


def run_twice(
    notebook: NotebookNode, folder: Path, environment: dict[str, str] | None = None
) -> list[str]:
    """Run each cell twice in a row, long ones once; say which show something else then."""
    client = NotebookClient(notebook, timeout=300, kernel_name="python3",
                            resources={"metadata": {"path": str(folder)}})
    changed = []
    with client.setup_kernel(env=environment or os.environ.copy()):
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            start = time.monotonic()
            first = outputs.texts(client.execute_cell(cell, index).outputs)
            if time.monotonic() - start > LONG:
                continue
            second = outputs.texts(client.execute_cell(cell, index).outputs)
            if outputs.IGNORE not in tags(cell) and first != second:
                changed.append(f"cell {index} said {first}, then {second}")
    return changed


def departures(stored: NotebookNode, again: NotebookNode) -> list[str]:
    """Where another run shows something else than the stored one, lines on exercises aside."""
    return [f"cell {i}: {words}"
            for i, (old, new) in enumerate(zip(stored.cells, again.cells, strict=True))
            if old.cell_type == "code"
            for words in outputs.differences(old.outputs, new.outputs, tags(old),
                                             without=r"^([○✓✗] )?Exercise \d+\.\d+: .*\n")]


@pytest.mark.alone
@each_lesson
def test_solved_and_every_cell_run_twice(path):
    notebook = editions.solve(read(path))
    assert run_twice(notebook, path.parent, other_arithmetic(path)) == []
    for cell in checks(notebook):
        assert stdout(cell).startswith("✓"), stdout(cell)
    # Solved or not, once or twice: what the lesson shows stays as it is stored.
    assert departures(read(path), notebook) == []


# --- the tests above can fail: each is shown the fault it is for ---------------------------------

def planted(*sources: str) -> NotebookNode:
    cells = []
    for i, source in enumerate(sources, 1):
        cell = nbformat.v4.new_code_cell(source, execution_count=i)
        cell.metadata.slideshow = {"slide_type": "slide"}
        cells.append(cell)
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"},
                "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def disorder(n): n.cells[0].execution_count = 3
def cleared(n): n.cells[1].execution_count = None
def no_slide(n): n.cells[1].metadata.pop("slideshow")
def raises(n): n.cells[0].metadata.tags = ["raises-exception"]
def comment(n): n.cells[0].source = "1  # NBVAL_SKIP"
def wide(n): n.cells[0].source = "x" * 100
def tall(n): n.cells[0].source = "1\n" * 60
def empty(n): n.cells[0].source = ""
def stamps(n): n.cells[0].metadata.execution = {"iopub.execute_input": "2026-01-01"}
def state(n): n.metadata.widgets = {}
def kernel(n): n.metadata.kernelspec.name = "mine"


def warning(n):
    n.cells[0].outputs = [nbformat.v4.new_output("stream", name="stderr", text="oh")]


def widget(n):
    kind = "application/vnd.jupyter.widget-view+json"
    n.cells[0].outputs = [nbformat.v4.new_output("display_data", {kind: {}})]


def many_ignored(n):
    n.cells = [n.cells[0].copy() for _ in range(6)]
    for i, cell in enumerate(n.cells, 1):
        cell.execution_count = i
        cell.metadata = {"slideshow": {"slide_type": "-"}, "tags": [outputs.IGNORE]}
    n.cells = [nbformat.from_dict(c) for c in n.cells]


@pytest.mark.parametrize(("plant", "words"), [
    (disorder, "top to bottom"), (cleared, "top to bottom"), (no_slide, "no slide type"),
    (raises, "raises-exception"), (comment, "by a comment"), (wide, "fit the screen"),
    (tall, "fit the screen"), (empty, "is empty"), (stamps, "make store"), (state, "widget state"),
    (kernel, "not python3"), (warning, "a warning"), (widget, "a widget"),
    (many_ignored, "6 cells are not compared"),
], ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found(plant, words):
    notebook = planted("1 + 1", "2")
    assert faults(notebook) == []
    plant(notebook)
    (fault,) = faults(notebook)
    assert words in fault


def test_generous_allowances_are_found():
    cell = planted("print('18 of 20, 90 %')").cells[0]
    cell.outputs = [nbformat.v4.new_output("stream", text="18 of 20, 90 %\n")]
    for tag, words in (("within-11-points", "11 points"), ("within-21-percent-of-it", "21%"),
                       ("within-19-counts", "19 counts of at most 90")):
        cell.metadata.tags = [tag]
        assert words in too_generous(cell)[0]
    cell.source += "  # may differ: a search that is chaotic"
    assert too_generous(cell) == []
    cell.metadata.tags = ["within-10-points", "within-20-percent-of-it", "within-2-counts"]
    cell.source = cell.source.partition("#")[0]
    assert too_generous(cell) == []


@pytest.mark.parametrize("plant", ["source", "output"])
def test_answers_that_are_told_are_found(plant):
    asked = Question.read({"question": "?", "answer": "A", "A": ["all", "Since it's so."],
                           "B": ["none", "Because not."], "C": ["some", "Hardly ever."]})
    for words, found in (("since it&#x27;s\n  so", "3.a: why A"), ("Because not", "3.a: why B"),
                         ("Prediction 3.a: A is right, all", "3.a: the answer")):
        notebook = planted('predict("3.a")', "1")
        assert told(notebook, {"3.a": asked}, []) == []
        if plant == "source":
            notebook.cells[1].source = f"# {words}"
        else:
            notebook.cells[1].outputs = [nbformat.v4.new_output(
                "display_data", {"text/html": f"<details>{words}</details>"})]
        assert told(notebook, {"3.a": asked}, []) == [found]


def test_verdicts_are_found():
    notebook = planted("1")
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text="90 %: True\nTrue or\n")]
    assert verdicts(notebook) == ["90 %: True"]


def test_a_cell_that_changes_what_it_finds_is_found(tmp_path):
    notebook = planted("n = 0", "n += 1\nprint(n)", "print('steady')", "m = []", "m += [1]",
                       "print(len(m))")
    stored = planted(*(c.source for c in notebook.cells))
    run.execute(stored, tmp_path)
    assert [line[:6] for line in run_twice(notebook, tmp_path)] == ["cell 1"]
    assert [line[:6] for line in departures(stored, notebook)] == ["cell 1", "cell 5"]


def test_a_check_that_is_not_correct_is_found(tmp_path):
    stub, check = 'def fgsm_step(x): return x', 'check("1.1", fgsm_step)'
    notebook = planted(f"from course_lib.exercises import check\n{stub}", check)
    run_twice(notebook, tmp_path)
    (cell,) = checks(notebook)
    assert stdout(cell).startswith("✗")


def test_another_picture_is_found(tmp_path):
    draw = ("import matplotlib.pyplot as plt\nplt.figure(figsize=(2, 2))\n"
            "plt.bar([0, 1], [{}, 1])\nplt.show()")
    first, second = planted(draw.format(1)), planted(draw.format(0))
    for notebook in (first, second):
        run.execute(notebook, tmp_path)
    assert departures(first, first) == []
    assert departures(first, second) == [
        "cell 0: it draws another picture than the stored one"]


def test_a_cell_that_fails_is_found(tmp_path):
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run_twice(planted("1 / 0"), tmp_path)
