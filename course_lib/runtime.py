"""Where and how the course runs: device, seeds, budget, front end, progress, clocks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TypeVar

import torch

from course_lib import files

T = TypeVar("T")

# What a lesson makes and downloads goes to a clone's own folders; of an installed course, which
# brings its data as a package of its own, to the folder one works in.
HOME = Path(__file__).resolve().parents[1]
if (HOME / "pyproject.toml").is_file():
    DATA = HOME / "data"
else:
    HOME, DATA = Path.cwd(), Path(next(iter(import_module("course_lib_data").__path__)))
RESULTS = DATA / "results"


def device() -> torch.device:
    """The GPU where there is one, else the CPU. `COURSE_DEVICE=cpu` hides the GPU."""
    wanted = os.environ.get("COURSE_DEVICE")
    if wanted:
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def multiplies_bfloat16(where: torch.device) -> bool:
    """Whether this hardware has instructions for bfloat16; emulating them is slow.

    On a CPU: AVX512_BF16 or AMX, unless ONEDNN_MAX_CPU_ISA hides both from PyTorch's layers.
    """
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if where.type != "cpu":
        return False
    # A PyTorch that cannot tell gets no bfloat16. The processor itself knows nothing of oneDNN's
    # limit, whose names are those of the instructions: AVX2, AVX512_CORE_BF16, AVX512_CORE_AMX.
    has: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    newer = ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")
    return (any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
            and any(name in limit.upper() for name in newer))


def generator(seed: int) -> torch.Generator:
    """A source of random numbers of its own, on the CPU, so that every machine draws the same.

    >>> bool(torch.rand(1, generator=generator(0)) == torch.rand(1, generator=generator(0)))
    True
    """
    return torch.Generator().manual_seed(seed)


def quick() -> bool:
    """True in the quick budget (the default); `COURSE_BUDGET=full` asks for the papers' sizes."""
    return _choice("COURSE_BUDGET", ("quick", "full")) == "quick"


def lecture() -> bool:
    """True when `COURSE_MODE=lecture`: larger figures, recorded results for anything slow."""
    return _choice("COURSE_MODE", ("student", "lecture")) == "lecture"


def live() -> bool:
    """True when a browser can show widgets; False under nbval, nbconvert and in scripts.

    A kernel cannot ask its front end, but Jupyter Server, VS Code and Colab each leave a mark in
    the environment. `COURSE_WIDGETS=1` or `0` overrides the guess.
    """
    override = os.environ.get("COURSE_WIDGETS")
    if override is not None:
        return override == "1"
    return any(os.environ.get(k) for k in ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG"))


def own_folder() -> Path:
    """Where what a student makes is kept, pictures and progress: my_work, or `COURSE_FOLDER`."""
    return Path(os.environ.get("COURSE_FOLDER", HOME / "my_work"))


def progress(items: Iterable[T], label: str, total: int | None = None) -> Iterable[T]:
    """Iterate with a progress bar that appears after two seconds, and only where somebody looks."""
    if not live():
        return items
    from tqdm.auto import tqdm

    return tqdm(items, desc=label, total=total, delay=2.0, leave=False)


def recorded(name: str) -> dict:
    """A recorded result, data/results/<name>.json; its "command" is what wrote it.

    Raises: FileNotFoundError that names the results there are.
    """
    path = RESULTS / f"{name}.json"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in RESULTS.glob("*.json"))) or "none"
        raise FileNotFoundError(f"no recorded result {name!r}; there are: {there}")
    return json.loads(path.read_text())


def record(name: str, command: str, **values: object) -> Path:
    """Write data/results/<name>.json as a whole or not at all."""
    return files.write_json(RESULTS / f"{name}.json", {"command": command, **values})


def replay(name: str, measure: Callable[[], T]) -> T:
    """What `measure()` returns, a value JSON can hold; in lecture mode, as recorded.

    For cells of more than five seconds: a full hall does not wait. `COURSE_RECORD=1` records what
    is measured, `make record` does so for all lessons.
    """
    if lecture() and (RESULTS / f"{name}.json").exists():
        print("Lecture mode: replayed from a recorded run.")
        return recorded(name)["value"]
    value = measure()
    if os.environ.get("COURSE_RECORD") == "1":
        record(name, "make record", value=value)
    return value


class Stopwatch:
    """Seconds since the block began; fixed once it has ended."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._end: float | None = None

    @property
    def seconds(self) -> float:
        return (self._end or time.perf_counter()) - self._start

    def stop(self) -> None:
        self._end = time.perf_counter()


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Time a block, waiting for the GPU at both ends.

    >>> with timed() as clock: _ = torch.ones(3).sum()
    >>> clock.seconds >= 0
    True
    """
    _wait_for_gpu()
    clock = Stopwatch()
    try:
        yield clock
    finally:
        _wait_for_gpu()
        clock.stop()


def _wait_for_gpu() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _choice(variable: str, allowed: tuple[str, ...]) -> str:
    value = os.environ.get(variable, allowed[0])
    if value not in allowed:
        raise ValueError(f"{variable}={value!r} is unknown; use one of {', '.join(allowed)}")
    return value
