"""`make everywhere`: every stored lesson, under the arithmetic of other processors.

Convolutions are computed by other code with and without AVX-512, AVX2 and with another number of
threads; sums come out in another order, and the last digit differs. Environment variables make one
machine compute like others. What is done is kept in build/everywhere.json: an interrupted run goes
on where it stopped, and only lessons that changed run again.

    python -m course_lib.everywhere [lesson.ipynb ...]
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import nbformat
import torch
from nbclient.exceptions import CellControlSignal, DeadKernelError

from course_lib import outputs, run
from course_lib.files import write_json

# PyTorch's own kernels, oneDNN's, and MKL's, in this order.
ISAS = {
    "SSE4.1": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "native": {},
}
DONE = run.ROOT / "build" / "everywhere.json"


def arithmetic(isa: str, threads: int) -> dict[str, str]:
    """The environment in which a kernel computes like a processor with that instruction set.

    >>> arithmetic("AVX2", 2)["OMP_NUM_THREADS"]
    '2'
    """
    kept = {k: v for k, v in os.environ.items() if k not in ISAS["AVX2"]}
    return kept | ISAS[isa] | {"OMP_NUM_THREADS": str(threads), "COURSE_WIDGETS": "0"}


def settings() -> list[tuple[str, int]]:
    """Instruction sets and threads to try here: all that this processor can, each of them once."""
    can = torch.backends.cpu.get_cpu_capability()  # DEFAULT, AVX2, AVX512, or another family's
    isas = ["SSE4.1"] + ["AVX2"] * can.startswith("AVX") + ["native"] * (can != "AVX2")
    return [(isa, threads) for isa in isas for threads in (1, 2)]


def departures(path: Path, isa: str, threads: int) -> list[str]:
    """What a lesson shows under that arithmetic otherwise than it is stored, cell by cell."""
    stored, again = (nbformat.read(path, as_version=4) for _ in range(2))
    try:
        run.execute(again, path.parent, label=f"{path.stem}, {isa}, {threads}",
                    environment=arithmetic(isa, threads))
    except (CellControlSignal, DeadKernelError) as error:
        return [f"stopped: {error}"]
    return [f"cell {i}: {words}"
            for i, (old, new) in enumerate(zip(stored.cells, again.cells, strict=True))
            if old.cell_type == "code"
            for words in outputs.differences(old.outputs, new.outputs,
                                             old.metadata.get("tags", []))]


def fingerprint(path: Path) -> str:
    """Of all that decides what a lesson shows: itself, library, data, PyTorch, processor."""
    files = [path, *sorted((run.ROOT / "course_lib").rglob("*.*")),
             *sorted((run.ROOT / "data").rglob("*.*"))]
    digest = hashlib.sha256(f"{torch.__version__} {torch.__config__.show()}".encode())
    for file in files:
        if file.is_file() and file.suffix != ".pyc":
            digest.update(file.read_bytes())
    return digest.hexdigest()


def main(lessons: list[str]) -> int:
    paths = [Path(p) for p in lessons] or sorted((run.ROOT / "notebooks").glob("*.ipynb"))
    done = json.loads(DONE.read_text()) if DONE.exists() else {}
    table: dict[str, list] = {path.stem: [] for path in paths}
    for isa, threads in settings():
        for path in paths:
            key = f"{path.stem} {isa} {threads} {fingerprint(path)}"
            if key not in done:
                done[key] = departures(path, isa, threads)
                write_json(DONE, done)
            for words in done[key]:
                print(f"{path.stem}, {isa}, {threads} threads: {words}")
            table[path.stem].append(len(done[key]))
    names = [f"{isa}, {threads}" for isa, threads in settings()]
    print(f"\n{'cells that differ':20}", *(f"{name:>10}" for name in names))
    for stem, counts in table.items():
        print(f"{stem:20}", *(f"{count:10}" for count in counts))
    return sum(map(sum, table.values()))


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
