"""The scoreboard: a row counts what an attack asks for and what it reaches."""

from __future__ import annotations

import functools

import pytest
import torch
from strategies import (
    EPS,
    convolutional,
    images,
    labels,
    strong,
    unusual,
)

from course_lib import plots, scoreboard
from course_lib.attacks import fgsm, square
from course_lib.scoreboard import measure


def test_a_measurement_leaves_each_modules_mode_alone(small):
    model = unusual(convolutional())
    x, before = images(), [m.training for m in model.modules()]
    measure("FGSM", functools.partial(fgsm, eps=0.1), model, x, labels(convolutional(), x))
    assert [m.training for m in model.modules()] == before


def test_a_row_counts_what_an_attack_asks(small):
    x, y = small.x[:10], small.y[:10]
    row = measure("PGD", strong(), small.model, x, y)
    assert (row.queries, row.gradients) == (21, 20)  # the last step is judged too
    assert row.success > 0 and row.size == pytest.approx(EPS, abs=1e-6) and row.images == 10
    search = measure("search", functools.partial(square, eps=EPS, queries=30),
                     small.model, x, y, knowledge="black box")
    assert search.gradients == 0 and 1 <= search.queries <= 30
    # Only images that were right before can be won.
    mixed = torch.cat([y[:5], (y[5:] + 1) % 4])
    assert measure("PGD", strong(), small.model, x, mixed).images == 5


def test_no_success_has_no_size(small):
    row = measure("nothing", lambda m, x, y: x, small.model, small.x, small.y)
    assert row.success == 0 and row.size is None and row.queries == 0


def test_scoreboard_is_a_table(small):
    rows = [measure(name, functools.partial(fgsm, eps=0.1, norm=p), small.model, small.x, small.y,
                    norm=p) for name, p in (("FGSM", "linf"), ("FGSM l_2", "l2"))]
    text = plots.table(*scoreboard.lines(rows)).data.splitlines()
    assert len(text) == 4 and "l_inf" in text[2] and "l_2" in text[3]
