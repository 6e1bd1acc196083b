"""Two runs of a cell: equal words, and numbers within what the tags allow."""

from __future__ import annotations

import nbformat
import pytest
from nbformat import NotebookNode

from course_lib import outputs


def said(text: str, name: str = "stdout") -> list[NotebookNode]:
    return [nbformat.v4.new_output("stream", name=name, text=text)]


def shown(kind: str, text: str) -> list[NotebookNode]:
    return [nbformat.v4.new_output("display_data", {kind: text})]


@pytest.mark.parametrize(("old", "new", "tags", "same"), [
    ("81 % wrong", "81 % wrong", [], True),
    ("81 % wrong", "82 % wrong", [], False),
    ("81 % wrong", "82 % wrong", ["within-1-point"], True),
    ("81 % wrong", "83 % wrong", ["within-1-point"], False),
    ("81.2% wrong", "82.2% wrong", ["within-1-point"], True),
    ("81 % wrong", "82 % right", ["within-1-point"], False),
    ("81 % wrong", "81 wrong", ["within-1-point"], False),
    ("81 % wrong", "wrong", ["within-1-point"], False),
    ("81 % wrong", "81 % wrong 1", ["within-1-point"], False),
    ("17 of 20", "18 of 20", ["within-2-points"], False),  # points are for per cent
    ("17 of 20", "18 of 20", ["within-1-count"], True),
    ("17 of 20", "15 of 20", ["within-1-count"], False),
    ("17 %", "18 %", ["within-1-count"], False),  # and counts are not
    ("1.7 m", "1.8 m", ["within-1-count"], False),
    ("0.50 long", "0.54 long", ["within-10-percent-of-it"], True),
    ("0.50 long", "0.56 long", ["within-10-percent-of-it"], False),
    ("0.5 long", "0.6 long", ["within-10-percent-of-it"], True),  # the last printed digit
    ("-0.5 long", "0.5 long", ["within-10-percent-of-it"], False),
    ("2,300 in all", "2,410 in all", ["within-5-percent-of-it"], True),
    ("2,300 in all", "2,500 in all", ["within-5-percent-of-it"], False),
    ("lite0 at 8/255", "lite1 at 8/255", ["within-5-counts"], False),
    ("lite0 at 8/255", "lite0 at 8/250", ["within-5-counts"], False),
    ("lite0 at 8/255", "lite0 at 9/255", ["within-5-counts"], True),
    ("96 % of 17", "94 % of 18", ["within-2-points", "within-1-count"], True),
    ("a    9 b", "a   10 b", ["within-1-count"], True),  # columns that move
    ("nan", "1", ["within-1-count"], False),
    ("1", "nan", ["within-1-count"], False),
    ("at 0x7fab12", "at 0x7fcc34", [], True),
])
def test_words_are_equal_and_numbers_within_the_tags(old, new, tags, same):
    for make in (said, lambda text: shown("text/markdown", text),
                 lambda text: shown("text/html", text)):
        assert (outputs.differences(make(old), make(new), tags) == []) == same


def test_what_counts_and_what_does_not():
    assert outputs.differences(said("a"), shown("text/plain", "a"), [])
    assert outputs.differences([], said("a"), [])
    assert outputs.differences(said("1"), said("2"), [outputs.IGNORE]) == []
    assert outputs.differences(said("a"), said("a") + said("w", "stderr"), []) == []
    assert outputs.differences(said("a\n") + said("b"), said("a\nb"), []) == []
    error = [nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])]
    assert outputs.differences(said("a"), error, [])
    assert outputs.differences(said("○ 1\nb\n"), said("✓ 2\nb\n"), [], without="^[○✓].*\n") == []
    assert outputs.differences(said("○ 1\nb\n"), said("✓ 2\nc\n"), [], without="^[○✓].*\n")


def test_the_message_names_both_numbers():
    (words,) = outputs.differences(said("7 of 9"), said("8 of 9"), [])
    assert "stores 7" in words and "says 8" in words


@pytest.mark.parametrize("tag", ["within-2-points", "within-1-point", "within-0.5-points",
                                 "within-3-counts", "within-10-percent-of-it",
                                 "picture-may-differ"])
def test_tags_that_allow_something(tag):
    assert outputs.is_allowance(tag) and outputs.Allowance.of([tag]) != outputs.Allowance()


@pytest.mark.parametrize("tag", ["within-points", "within-2", "within-2-points-or-so",
                                 "exercise-1.1"])
def test_other_tags_allow_nothing(tag):
    assert not outputs.is_allowance(tag) and outputs.Allowance.of([tag]) == outputs.Allowance()
