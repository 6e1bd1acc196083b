"""Explorers: live with their traits driven by hand, and as still twins."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import ipywidgets as ui
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from course_lib import plots, runtime, widgets
from course_lib.attacks import fgsm, pgd
from course_lib.attacks.one_pixel import paint
from course_lib.datasets import Images
from course_lib.encodings import Direct
from course_lib.evolution import Archive


@pytest.fixture(autouse=True)
def fresh():
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """What the live front end was given."""
    monkeypatch.setenv("COURSE_WIDGETS", "1")
    displayed: list[ui.Widget] = []
    for module in (widgets.page, widgets.photograph):
        monkeypatch.setattr(module, "display", lambda *things: displayed.extend(things))
    return displayed


@pytest.fixture
def still(monkeypatch):
    """No front end: nothing may be displayed as a widget."""
    monkeypatch.setenv("COURSE_WIDGETS", "0")

    def refuse(*things):
        raise AssertionError(f"displayed {things}")

    monkeypatch.setattr(widgets.page, "display", refuse)


def parts(box: ui.Widget, kind: type) -> list:
    found = [box] if isinstance(box, kind) else []
    return found + [p for child in getattr(box, "children", ()) for p in parts(child, kind)]


# --- FGSM explorer ------------------------------------------------------------------------------

@pytest.fixture
def problem():
    draw = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(5, 3 * 32 * 32, generator=draw) * 0.05)
    x = torch.rand(3, 3, 32, 32, generator=draw)
    return model, Images(x, torch.tensor([0, 1, 2]), ["cat", "dog", "crane", "crane", "ship"])


def pixels(picture: ui.Image) -> np.ndarray:
    image = np.asarray(Image.open(io.BytesIO(picture.value)))
    scale = image.shape[0] // 32
    return image[::scale, ::scale]


def test_explorer_shows_what_fgsm_makes(problem):
    model, images = problem
    explorer = widgets.fgsm.FgsmExplorer(model, images)
    moves = (0, 2, None), (2, 7.5, None), (2, 16, "ship"), (1, 0, "crane (2)")
    for index, levels, target in moves:
        explorer.image.value = index
        explorer.direction.value = "away from the label" if target is None else "towards a class"
        explorer.target.value = target or ""
        explorer.eps.value = levels
        wanted = None if target is None else torch.tensor([explorer.classes.index(target)])
        x, y = images.x[index:index + 1], images.y[index:index + 1]
        x_adv = fgsm(model, x, y, eps=levels / 255, target=wanted)
        clean, perturbation, adversarial = map(pixels, explorer.pictures)
        assert (clean == plots.array(x[0])).all()
        assert (adversarial == plots.array(x_adv[0])).all()
        assert (perturbation == plots.array(plots.amplified((x_adv - x)[0], 20))).all()


def test_explorer_names_classes_with_confidence(problem):
    model, images = problem
    explorer = widgets.fgsm.FgsmExplorer(model, images)
    explorer.direction.value = "towards a class"
    assert "Type a class name" in explorer.captions[1].value
    explorer.target.value = "cat"
    assert "own label" in explorer.captions[1].value
    explorer.target.value = "ship"
    assert "× 20" in explorer.captions[1].value and "l_inf 2.0/255" in explorer.captions[1].value
    assert "ship" in explorer.captions[2].value and "%" in explorer.captions[2].value
    assert not explorer.target.disabled
    explorer.direction.value = "away from the label"
    assert explorer.target.disabled


def test_moving_eps_needs_no_new_gradient(problem):
    model, images = problem
    explorer = widgets.fgsm.FgsmExplorer(model, images)
    before = explorer.gradient.cache_info().misses
    pictures = set()
    for levels in (1, 1.5, 3, 9):
        explorer.eps.value = levels
        pictures.add(explorer.pictures[2].value)
        explorer.amplify.value = 10 if levels == 3 else 20
    assert explorer.gradient.cache_info().misses == before == 1
    assert len(pictures) == 4


def test_explorer_in_the_browser_can_be_found(shown, problem):
    assert widgets.fgsm_explorer(*problem) is None
    box, _ = shown
    assert "fgsm-explorer" in box._dom_classes
    (slider,) = parts(box, ui.FloatSlider)
    assert slider.description == "eps" and slider.continuous_update
    assert len(parts(box, ui.Image)) == 3
    assert all(c.description for c in parts(box, (ui.Dropdown, ui.Combobox, ui.FloatSlider)))


def test_explorer_has_a_still_twin(still, problem, monkeypatch):
    figures = []
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    assert widgets.fgsm_explorer(*problem) is None
    text = "\n".join(t.get_text() for t in figures[0].findobj(matplotlib.text.Text))
    assert "eps 16/255" in text and "%" in text


def test_png_is_exact_and_enlarges_small_images():
    digit = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    image = np.asarray(Image.open(io.BytesIO(widgets.page.png(digit))))
    assert image.shape == (224, 224, 3)
    assert (image[::8, ::8] == plots.array(digit)).all()


# --- PGD explorer -------------------------------------------------------------------------------

@pytest.fixture
def pgd_explorer(problem):
    return widgets.pgd.PgdExplorer(*problem, eps=0.05, steps=8)


def test_pgd_explorer_shows_where_pgd_is(problem, pgd_explorer):
    model, images = problem
    assert pgd_explorer.alpha.value == 0.05 / 8 and pgd_explorer.t.max == 8
    pgd_explorer.image.value, pgd_explorer.alpha.value = 2, 0.05 / 4
    assert (pixels(pgd_explorer.adversarial) == plots.array(images.x[2])).all()
    for t in (1, 3, 8):
        pgd_explorer.t.value = t
        x_t = pgd(model, images.x[2:], images.y[2:], eps=0.05, steps=t, step_size=0.05 / 4,
                  random_start=False)
        assert (pixels(pgd_explorer.adversarial) == plots.array(x_t[0])).all()
        assert f"after step {t} of 8" in pgd_explorer.caption.value
    assert images.classes[model(x_t).argmax()] in pgd_explorer.caption.value


def test_pgd_explorer_says_when_the_network_is_fooled(problem, pgd_explorer):
    model, images = problem
    pgd_explorer.alpha.value = 0.05
    said = []
    for t in range(9):
        pgd_explorer.t.value = t
        right = bool(model(pgd_explorer.path[t:t + 1]).argmax() == images.y[0])
        said.append("not fooled" in pgd_explorer.caption.value)
        assert said[-1] == right == ("margin -" in pgd_explorer.caption.value)
    assert len(set(said)) == 2  # the path crosses the border


def test_pgd_explorer_computes_only_when_the_path_changes(pgd_explorer, monkeypatch):
    pictures, path = {pgd_explorer.plane.value}, pgd_explorer.path
    with monkeypatch.context() as patch:
        patch.setattr(widgets, "pgd_path", None)
        for t in (1, 4, 8):
            pgd_explorer.t.value = t
            pictures.add(pgd_explorer.plane.value)
    assert len(pictures) == 4 and pgd_explorer.path is path
    pgd_explorer.random.value = True
    assert not torch.equal(pgd_explorer.path[0], path[0])
    pgd_explorer.random.value = False
    assert torch.equal(pgd_explorer.path, path)
    assert pgd_explorer.background.cache_info().misses == 1 and not plt.get_fignums()


def test_pgd_explorer_in_the_browser_can_be_found(shown, problem):
    assert widgets.pgd_explorer(*problem, eps=0.05) is None
    box, _ = shown
    assert "pgd-explorer" in box._dom_classes
    (slider,) = parts(box, ui.IntSlider)
    assert slider.description == "step t" and slider.max == 20
    assert all(c.description for c in parts(box, (ui.Dropdown, ui.Checkbox, ui.SelectionSlider)))


def test_pgd_explorer_has_a_still_twin(still, problem, monkeypatch):
    figures = []
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    assert widgets.pgd_explorer(*problem, eps=0.05) is None
    text = "\n".join(t.get_text() for t in figures[0].findobj(matplotlib.text.Text))
    assert "step 0" in text and "step 20" in text and "%" in text


# --- norm-ball explorer -------------------------------------------------------------------------

def test_norm_ball_explorer_moves(shown):
    widgets.norm_ball_explorer()
    explorer = widgets.norm_balls.NormBallExplorer()
    assert "norm-ball-explorer" in shown[0]._dom_classes
    assert "(0.91, 0.42)" in explorer.caption.value
    seen = {explorer.picture.value}
    explorer.p.value = 1
    assert "size of the point in l_p: 1.90" in explorer.caption.value
    assert "(0.85, 0.15)" in explorer.caption.value
    seen.add(explorer.picture.value)
    explorer.show.value = "steepest step"
    assert "(1.00, 0.00)" in explorer.caption.value
    seen.add(explorer.picture.value)
    explorer.p.value = 0.5
    assert "no norm" in explorer.caption.value
    assert len(seen) == 3 and not plt.get_fignums()


def test_norm_ball_explorer_has_a_still_twin(still, monkeypatch):
    figures = []
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    widgets.norm_ball_explorer()
    assert len(figures[0].axes) == 4


# --- the evolution explorer ---------------------------------------------------------------------

@pytest.fixture
def history(problem):
    """Two generations of four candidates; number 2 is the best of the second."""
    _, channels, _, columns = problem[1].x.shape
    genes = torch.rand(2, 4, 2 + channels, generator=torch.Generator().manual_seed(5))
    genes[..., :2] *= columns
    costs = torch.tensor([[1.0, 2.0, 3.0, 4.0], [3.0, 2.0, 1.0, 2.0]])
    return list(zip(genes, costs, strict=True))


def test_evolution_explorer_paints_the_best_candidate(problem, history):
    model, images = problem
    explorer = widgets.evolution.EvolutionExplorer(model, images.x[:1], history, images.classes)
    first = explorer.candidates.value
    for t, best in ((0, 0), (1, 2)):
        explorer.t.value = t
        painted = paint(images.x[:1], history[t][0][best][None])
        assert (pixels(explorer.adversarial) == plots.array(painted[0])).all()
        assert images.classes[model(painted).argmax()] in explorer.caption.value
    assert explorer.candidates.value != first


def test_evolution_explorer_has_a_still_twin(problem, history, still):
    model, images = problem
    widgets.evolution_explorer(model, images.x[:1], history, images.classes)
    captions = [axis.get_xlabel() for axis in plt.gcf().axes]
    assert [caption.split("\n")[0] for caption in captions] == ["generation 0", "generation 1"]


# --- the DAG explorer ---------------------------------------------------------------------------

@pytest.fixture
def dense():
    """A model that names each pixel by its brightness, a mask, and a path of three images."""
    model = torch.nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0] * 3, [1.0] * 3]).view(2, 3, 1, 1))
        model.bias.copy_(torch.tensor([0.0, -1.5]))
    path = [torch.full((1, 3, 8, 8), 0.4) for _ in range(3)]
    path[1][:, :, :4] = path[2][:] = 0.6
    return model, path, torch.zeros(1, 8, 8, dtype=torch.int64)


def test_dag_explorer_counts_the_pixels_that_are_left(dense):
    explorer = widgets.dag.DagExplorer(*dense)
    for t, left in ((0, 64), (1, 32), (2, 0)):
        explorer.t.value = t
        assert f"{left} pixels left after step {t}" in explorer.caption.value
    assert (pixels(explorer.pictures[2]) == 255).all()


def test_dag_explorer_has_a_still_twin(dense, still):
    widgets.dag_explorer(*dense)
    captions = [axis.get_xlabel() for axis in plt.gcf().axes]
    assert captions == ["step 0", "step 1", "step 2", "64 left", "32 left", "0 left"]


# --- the patch explorer -------------------------------------------------------------------------

@pytest.fixture
def stickered():
    """A network that looks at the brightness only: "light" above one half, dark images, white."""
    images = Images(torch.full((2, 3, 16, 16), 0.4), torch.tensor([0, 0]), ["dark", "light"])
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[-50.0] * 3, [50.0] * 3]))
        model[2].bias.copy_(torch.tensor([75.0, -75.0]))
    return model, images, torch.ones(3, 4, 4)


def test_patch_explorer_names_what_the_patch_and_a_grey_one_make(stickered):
    explorer = widgets.patch.PatchExplorer(*stickered)
    assert "dark" in explorer.captions[0].value  # a tenth of the area is not enough
    explorer.across.value, explorer.down.value, explorer.area.value = 0.0, 0.0, 25
    assert "light" in explorer.captions[0].value and "dark" in explorer.captions[1].value
    white = pixels(explorer.pictures[0])[..., 0] == 255
    assert white.mean() == pytest.approx(0.25, abs=0.02)
    explorer.across.value = explorer.down.value = 1.0
    assert (pixels(explorer.pictures[0])[..., 0] == 255).mean() < 0.1  # it leaves the image


def test_patch_explorer_has_a_still_twin(stickered, still):
    widgets.patch_explorer(*stickered)
    assert len(plt.gcf().axes) == 6
    assert "0 of them change the name" in plt.gcf().get_suptitle()


# --- the champions explorer ---------------------------------------------------------------------

@pytest.fixture
def archives():
    """Three generations of two champions, small images; the scores are log odds."""
    draw = torch.Generator().manual_seed(6)
    return [Archive(torch.rand(2, 1, 6, 6, generator=draw), torch.tensor([score, 0.0]))
            for score in (-2.0, 1.0, 9.0)]


def test_champions_explorer_shows_the_champions_of_its_generation(archives):
    explorer = widgets.champions.ChampionsExplorer(Direct((1, 6, 6)), archives, ["cat", "dog"])
    for t in (2, 0, 1):
        explorer.t.value = t
        for k, name in enumerate(["cat", "dog"]):
            assert explorer.pictures[k].value == widgets.page.png(archives[t].genomes[k])
            assert name in explorer.captions[k].value
    assert "73 %" in explorer.captions[0].value and "50 %" in explorer.captions[1].value


def test_champions_explorer_has_a_still_twin(archives, still):
    widgets.champions_explorer(Direct((1, 6, 6)), archives, ["cat", "dog"])
    captions = [axis.get_xlabel() for axis in plt.gcf().axes]
    assert captions == ["cat: 12 %", "dog: 50 %", "cat: > 99 %", "dog: 50 %"]


# --- the squares explorer -----------------------------------------------------------------------

LEVELS = (0.0, 0.1, 0.4)


@pytest.fixture
def plane():
    """Four points, and a training that turns the border from x_2 = 0 to x_1 = 0; it is counted."""
    points = torch.tensor([[-0.6, -0.2], [-0.9, -0.3], [0.6, 0.2], [0.9, 0.5]])
    trained = []

    def train(eps):
        trained.append(eps)
        return lambda points: points @ torch.tensor([eps, 0.5 - eps])

    return (points, torch.tensor([0, 0, 1, 1]), train), trained


def test_squares_explorer_draws_the_border_of_its_level(plane):
    (points, labels, train), _ = plane
    explorer = widgets.squares.SquaresExplorer(points, labels, train, LEVELS, eps=0.4)
    seen = set()
    for level, count in ((0.0, 3), (0.4, 0), (0.1, 2), (0.0, 3)):
        explorer.level.value = level
        expected = plots.crossing(points, labels, train(level), 0.4).sum()
        assert expected == count
        assert f"{count} of 4 squares cross the border" in explorer.caption.value
        assert f"training with eps = {level:g}" in explorer.caption.value
        seen.add(explorer.picture.value)
        plots.squares(points, labels, train(level), 0.4).savefig(data := io.BytesIO(), format="png")
        drawn, wanted = (np.asarray(Image.open(io.BytesIO(png)))
                         for png in (explorer.picture.value, data.getvalue()))
        assert (drawn == wanted).all()
    assert len(seen) == 3


def test_squares_explorer_trains_once_a_level_and_then_answers_at_once(plane):
    problem, trained = plane
    explorer = widgets.squares.SquaresExplorer(*problem, LEVELS, eps=0.4)
    assert trained == [0.0]
    for level in LEVELS:
        explorer.level.value = level
    assert trained == [*LEVELS] and not plt.get_fignums()
    with runtime.timed() as clock:
        for level in (0.0, 0.4, 0.1):
            explorer.level.value = level
    assert clock.seconds < 3 * 0.15
    assert trained == [*LEVELS]


def test_squares_explorer_in_the_browser_can_be_found(shown, plane):
    assert widgets.squares_explorer(*plane[0], LEVELS, eps=0.4) is None
    box, _ = shown
    assert "squares-explorer" in box._dom_classes
    (slider,) = parts(box, ui.SelectionSlider)
    assert slider.description and slider.continuous_update
    assert [label for label, _ in slider.options] == ["0", "0.1", "0.4"]
    (picture,) = parts(box, ui.Image)
    assert "squares-picture" in picture._dom_classes


def test_squares_explorer_has_a_still_twin(plane, still):
    widgets.squares_explorer(*plane[0], LEVELS, eps=0.4)
    fig = plt.gcf()
    assert [axis.get_title().split(":")[0] for axis in fig.axes] == [
        "training with eps = 0", "training with eps = 0.4"]
    assert fig.get_suptitle() == "3 of 4 squares cross the first border, 0 cross the second"


# --- a photograph of your own -------------------------------------------------------------------


def test_own_photograph_without_a_browser_is_shown_at_once(still, tmp_path):
    seen = []
    widgets.own_photograph(seen.append)
    file = plots.save_png(torch.zeros(3, 224, 224), tmp_path / "black.png")
    widgets.own_photograph(seen.append, file)
    assert [x.shape for x in seen] == [(1, 3, 224, 224)] * 2
    assert seen[0].std() > 0.1 and seen[1].max() == 0


def test_own_photograph_that_is_uploaded(shown, tmp_path):
    seen = []
    widgets.own_photograph(seen.append)
    (upload,) = parts(shown[0], ui.FileUpload)
    content = plots.save_png(torch.ones(3, 300, 200), tmp_path / "white.png").read_bytes()
    upload.value = ({"name": "white.png", "type": "image/png", "size": len(content),
                     "content": memoryview(content), "last_modified": datetime.now(UTC)},)
    assert len(seen) == 2 and seen[1].min() == 1


def test_own_photograph_that_is_none_is_one_line(shown, tmp_path, capsys):
    widgets.own_photograph(lambda x: None, tmp_path / "missing.jpg")
    assert "missing.jpg" in capsys.readouterr().out
