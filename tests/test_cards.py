"""Model cards: what they say, and that a measurement goes on where it stopped."""

from __future__ import annotations

import shutil

import pytest
import torch

from course_lib import cards, datasets, models, training
from course_lib.evaluation import robust_accuracy
from course_lib.training.__main__ import main


def prepare(monkeypatch, folder):
    """Weights and notes in a folder of the test's; forty digits, of which few are attacked."""
    monkeypatch.setattr(models, "WEIGHTS", folder / "weights")
    monkeypatch.setattr(cards, "MEASURED", folder / "cards")
    monkeypatch.setattr(cards, "RADII", {"mnist": {"0.05": 20, "0.3": 10}})
    monkeypatch.setattr(cards, "SLICE", 10)
    few, load = {"train": 400, "test": 40}, datasets.mnist
    monkeypatch.setattr(datasets, "mnist", lambda split: load(split)[:few[split]])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one network, trained and measured by the command."""
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch, tmp_path_factory.getbasetemp() / "made")
        main(["--model", "mnist_mlp", "--epochs", "4", "--seed", "3"])
    return tmp_path_factory.getbasetemp() / "made"


@pytest.fixture(autouse=True)
def copied(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    prepare(monkeypatch, tmp_path)


def card() -> str:
    return (models.WEIGHTS / "mnist_mlp.md").read_text()


def rows() -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in card().splitlines() if line.startswith("| ")]
    return {f"{radius} {attack}": rest for radius, attack, *rest in lines[2:]}


def test_a_card_says_how_the_weights_were_made_and_what_they_withstand():
    assert "`python -m course_lib.training --model mnist_mlp --epochs 4 --seed 3`" in card()
    assert "400 images to train" in card() and "Seed: 3" in card()
    model, test = models.load("mnist_mlp", "cpu"), datasets.mnist("test")
    strong = robust_accuracy(model, test.x[:20], test.y[:20], "strong", eps=0.05)
    n, found, interval = rows()["0.05 then Square, 1,000 queries: **strong**"]
    low, high = map(float, interval.split(" to "))
    assert n == "20" and 0 < strong.robust < 1
    assert abs(float(found.rstrip("%")) - 100 * strong.robust) <= 5  # each slice draws afresh
    assert low < float(found.rstrip("%")) < high
    assert cards.read("mnist_mlp")["0.05", "strong"] == (
        20, float(found.rstrip("%")), low, high)
    assert set(cards.read("mnist_mlp")) == {("0", "none"), *(
        (radius, attack) for radius in ("0.05", "0.3") for attack in cards._ATTACKS)}
    assert rows()["0 none"][0] == "40" and len(rows()) == 1 + 2 * 6


def test_measured_again_a_card_keeps_how_the_weights_were_made():
    before = card()
    main(["--card", "mnist_mlp"])
    assert card() == before
    # A card that knows no other line but its table, as cards were until lately.
    old = before.split("- Measured")[0] + "\n| attack | accuracy |\n| --- | --- |\n| none | 0% |\n"
    (models.WEIGHTS / "mnist_mlp.md").write_text(old)
    main(["--card", "mnist_mlp"])
    assert card() == before


def test_an_interrupted_measurement_goes_on(monkeypatch):
    whole, asked = card(), []
    (file,) = cards.MEASURED.glob("*.json")
    file.unlink()

    def killed(model, images, eps, once=cards._survivors):
        asked.append(eps)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return once(model, images, eps)

    monkeypatch.setattr(cards, "_survivors", killed)
    with pytest.raises(KeyboardInterrupt):
        main(["--card", "mnist_mlp"])
    assert card() == whole  # the old one stands until the new one is complete
    main(["--card", "mnist_mlp"])
    assert asked == [0.05, 0.05, 0.05, 0.3] and card() == whole


def test_other_weights_are_measured_anew():
    model = models.load("mnist_mlp", "cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()  # names every image 0
    training.save("mnist_mlp", model)
    main(["--card", "mnist_mlp"])
    assert rows()["0 none"][1] == rows()["0.3 PGD-50, 10 starts, step eps/4"][1] == "10.0%"


def test_the_command_says_what_it_needs(capsys):
    for wrong in ([], ["--card", "mnist_mlp", "--model", "mnist_mlp"], ["--card", "cifar_allconv"]):
        with pytest.raises(SystemExit):
            main(wrong)
    assert "--data FOLDER is for the cifar networks" in capsys.readouterr().err
