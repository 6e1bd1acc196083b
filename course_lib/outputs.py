"""When two runs of a cell show the same: equal words, numbers within what the cell's tags allow.

Processors round differently, and so do versions of PyTorch. A cell whose numbers depend on that
says by how much they may move, in tags that read as they are meant:

    within-2-points           what is printed in %, by up to 2 points
    within-3-counts           whole numbers without a %, by up to 3
    within-10-percent-of-it   every number, by a tenth of itself, or by 1 in its last printed digit
    picture-may-differ        the picture's content, such as images that were evolved

Without a tag every number must be equal. Of several tags, one that fits a number is enough. nbval
has no such thing, and pytest's NUMBER and doctestplus' FLOAT_CMP know one precision for all; from
NUMBER comes the rule of the last printed digit.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nbformat import NotebookNode
from PIL import Image

IGNORE = "nbval-ignore-output"  # nbval's own tag: nothing is compared
PICTURE = "picture-may-differ"
_TAG = re.compile(r"within-(\d+(?:\.\d+)?)-(points?|counts?|percent-of-it)")
# A number, unless it is part of a name (lite0, l_2) or the denominator of a fraction (8/255).
NUMBER = re.compile(r"(?<![\w/.])([-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?)(?!\w)(\s?%)?")
# What differs between any two runs and says nothing.
_NOISE = ((re.compile(r"<Figure size \S+ with \d+ Axes>"), "FIGURE"),
          (re.compile(r"0x[0-9a-f]+"), "ADDRESS"))


@dataclass(frozen=True)
class Allowance:
    """By how much the numbers of a cell may differ from the stored ones, and its pictures.

    >>> Allowance.of(["within-2-points", "exercise-3.1"])
    Allowance(points=2.0, counts=0.0, share=0.0, picture=False)
    """

    points: float = 0.0
    counts: float = 0.0
    share: float = 0.0
    picture: bool = False

    @classmethod
    def of(cls, tags: Sequence[str]) -> Allowance:
        """What a cell's tags allow; tags that are none of the above do not matter here."""
        sizes = {m[2][:5]: float(m[1]) for tag in tags if (m := _TAG.fullmatch(tag))}
        return cls(sizes.get("point", 0.0), sizes.get("count", 0.0), sizes.get("perce", 0.0) / 100,
                   PICTURE in tags)

    def covers(self, old: str, new: str, in_percent: bool) -> bool:
        """Whether one printed number may stand for another."""
        a, b = (float(number.replace(",", "")) for number in (old, new))
        last_digit = 10.0 ** -len(old.partition("e")[0].partition(".")[2])
        sizes = [max(self.share * abs(a), last_digit) if self.share else 0.0]
        if in_percent:
            sizes.append(self.points)
        elif old.lstrip("+-").replace(",", "").isdigit():
            sizes.append(self.counts)
        return abs(a - b) <= max(sizes) * (1 + 1e-9)


def is_allowance(tag: str) -> bool:
    """Whether a tag is one of those that allow something here."""
    return tag == PICTURE or _TAG.fullmatch(tag) is not None


def differences(
    old: Sequence[NotebookNode], new: Sequence[NotebookNode], tags: Sequence[str],
    *, without: str = "$^",
) -> list[str]:
    """Where a cell's new outputs differ from the stored ones by more than its tags allow.

    without: a pattern of lines that do not count. stderr never counts.
    """
    if IGNORE in tags:
        return []
    allowance = Allowance.of(tags)
    before, after = texts(old), texts(new)
    if before.keys() != after.keys():
        return [f"it stores {sorted(before)}, and now shows {sorted(after)}"]
    found = []
    for kind, text in before.items():
        was, now = (re.sub(without, "", t, flags=re.MULTILINE) for t in (text, after[kind]))
        found += _text_differences(was, now, allowance)
    pairs = pictures(old), pictures(new)
    if len(pairs[0]) != len(pairs[1]):
        found.append(f"it stores {len(pairs[0])} pictures, and now shows {len(pairs[1])}")
    elif not allowance.picture and not all(map(looks_alike, *pairs)):
        found.append("it draws another picture than the stored one")
    return found


def texts(outputs: Sequence[NotebookNode]) -> dict[str, str]:
    """What a cell says, by kind of output: stdout, text/plain, text/markdown, text/html, error."""
    said: dict[str, str] = {}
    for output in outputs:
        if output.output_type == "stream":
            parts = {output.name: output.text}
        elif output.output_type == "error":
            parts = {"error": f"{output.ename}: {output.evalue}"}
        else:
            parts = {k: v for k, v in output.data.items() if k.startswith("text/")}
        for kind, text in parts.items():
            said[kind] = said.get(kind, "") + text
    said.pop("stderr", None)
    return said


def _text_differences(old: str, new: str, allowance: Allowance) -> list[str]:
    old, new = _clean(old), _clean(new)
    # Columns move when a number gets another digit: runs of blanks do not count.
    if words(old) != words(new):
        return [f"it stores {old!r}, and now says {new!r}"]
    return [f"it stores {a[0]}, and now says {b[0]}, in {new!r}"
            for a, b in zip(NUMBER.finditer(old), NUMBER.finditer(new), strict=True)
            if a[1] != b[1] and not allowance.covers(a[1], b[1], in_percent=bool(a[2]))]


def _clean(text: str) -> str:
    for pattern, name in _NOISE:
        text = pattern.sub(name, text)
    return text


def words(text: str) -> list[str]:
    """A text without its numbers."""
    return NUMBER.sub(r"0\2", text).split()


# --- pictures -----------------------------------------------------------------------------------

def pictures(outputs: Sequence[NotebookNode]) -> list[Image.Image]:
    """The PNG pictures among a cell's outputs."""
    found = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    return [Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB") for png in found]


def picture_difference(old: Image.Image, new: Image.Image) -> np.ndarray:
    """Grey levels between two pictures, block of 8 x 8 pixels by block: the eye's view, not bytes.

    >>> white, black = (Image.new("RGB", (16, 8), name) for name in ("white", "black"))
    >>> float(picture_difference(white, black).mean())
    255.0
    """
    size = (max(old.width // 8, 1), max(old.height // 8, 1))
    a, b = (np.asarray(p.resize(size, Image.Resampling.BOX), dtype=float) for p in (old, new))
    return np.abs(a - b)


def looks_alike(old: Image.Image, new: Image.Image) -> bool:
    """Whether an eye sees the same; single letters of captions may differ between machines."""
    return bool(picture_difference(old, new).mean() <= 3)


def looks_the_same(old: Image.Image, new: Image.Image) -> bool:
    """Whether not even a letter differs: last digits move a block by less than a grey level."""
    return old.size == new.size and bool(picture_difference(old, new).max() < 2)
