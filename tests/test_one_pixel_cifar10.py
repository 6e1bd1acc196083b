"""The record of the one-pixel attack: it goes on after an interruption, and its rates are right."""

from __future__ import annotations

import json

import numpy as np
import one_pixel_cifar10 as bench
import pytest
import torch
from torch import nn

from course_lib import runtime

SHORT = ["--images", "3", "--population", "8", "--generations", "1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twelve noise images whose label is what a linear network says of them."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    labels = net(x).argmax(1).numpy().astype(np.uint8)
    np.savez(tmp_path / "cifar10_test.npz", images=pixels, labels=labels)
    monkeypatch.setattr(bench.models, "load", lambda name: net)
    monkeypatch.setattr(bench, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(runtime, "RESULTS", tmp_path)
    return tmp_path


def recorded(folder, name: str = "one_pixel_cifar10") -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def test_an_interrupted_run_goes_on_and_ends_as_an_uninterrupted_one(folder, monkeypatch):
    bench.main([str(folder), *SHORT])
    whole = recorded(folder)
    cut = whole | {"outcomes": whole["outcomes"][:1]}
    (folder / "one_pixel_cifar10.json").write_text(json.dumps(cut))
    attacked = []
    once = bench.outcome
    monkeypatch.setattr(bench, "outcome", lambda model, image, index, **options: (
        attacked.append(index) or once(model, image, index, **options)))
    bench.main([str(folder), *SHORT])
    assert attacked == [o["index"] for o in whole["outcomes"][1:]]
    assert recorded(folder) == whole
    assert {"corners", "queries", "class", "pixel"} <= whole["outcomes"][0].keys()


def test_another_setting_starts_afresh(folder):
    bench.main([str(folder), *SHORT])
    bench.main([str(folder), *SHORT[:-1], "0"])
    assert {o["queries"] for o in recorded(folder)["outcomes"]} == {8}


def test_all_nine_targets_have_a_record_of_their_own(folder):
    bench.main([str(folder), "--images", "1", *SHORT[2:], "--pixels", "3", "--targets"])
    record = recorded(folder, "one_pixel_cifar10_3_pixels_targets")
    label = record["outcomes"][0]["label"]
    assert [o["target"] for o in record["outcomes"]] == [k for k in range(10) if k != label]
    assert record["images"] == 1 and record["attacks"] == 9
    assert "success_of_corners" not in record
    assert record["command"].endswith("--pixels 3 --population 8 --generations 1 --targets")
