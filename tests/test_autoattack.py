"""The strong evaluation is not behind AutoAttack: a small version of benchmarks/autoattack.py."""

from __future__ import annotations

import json

import autoattack
import pytest

from course_lib import datasets, evaluation, models, runtime


@pytest.mark.slow
@pytest.mark.parametrize(("name", "radius", "surer"), [
    ("mnist_cnn", 0.1, 500), ("mnist_cnn_robust", 0.3, 0)])
def test_not_behind_autoattack(name, radius, surer):
    """On forty digits of which the network is as sure as it takes for some to fall, some not."""
    model, test = models.load(name, "cpu"), datasets.mnist("test")
    test = test[evaluation.predict(model, test.x).confidence.argsort()[surer:surer + 40]]
    found = autoattack.contest(model, test.x, test.y, radius, steps=10, queries=100)
    ours, theirs = (found[who]["standing"] for who in ("course_lib", "torchattacks"))
    assert ours <= theirs + 1
    assert 0 < ours < 40 - int(evaluation.fooled(model, test.x, test.y).sum())


def test_the_contest_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "RESULTS", tmp_path)
    monkeypatch.setattr(autoattack, "CONTESTS", [("mnist_cnn", "0.1", 30)])
    asked = []

    def contest(model, x, y, eps):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(eps)
        return {"course_lib": {"standing": 3, "seconds": 1},
                "torchattacks": {"standing": 4, "seconds": 2}}

    monkeypatch.setattr(autoattack, "contest", contest)
    with pytest.raises(KeyboardInterrupt):
        autoattack.main(["--at-once", "10"])
    asked.pop()
    autoattack.main(["--at-once", "10"])
    record = json.loads((tmp_path / "autoattack.json").read_text())
    assert record["mnist_cnn, 0.1"] == {
        "images": 30, "course_lib": 30, "torchattacks": 40, "times as long": 2}
