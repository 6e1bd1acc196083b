"""Figures: what they say, how large they are, and that they can be told apart in grey."""

from __future__ import annotations

import io
import itertools
import math

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from course_lib import plots

DRAW = torch.Generator().manual_seed(0)
PHOTOS = torch.rand(5, 3, 64, 64, generator=DRAW)
DIGITS = torch.rand(5, 1, 28, 28, generator=DRAW)
CAPTIONS = [f"name {i}\n{i} %" for i in range(5)]
TITLE = "What to see in this figure"


@pytest.fixture(autouse=True)
def style(monkeypatch):
    monkeypatch.delenv("COURSE_MODE", raising=False)
    with matplotlib.rc_context():
        plots.use_style()
        yield
    plt.close("all")


def texts(fig: Figure) -> str:
    fig.canvas.draw()
    return "\n".join(t.get_text() for t in fig.findobj(matplotlib.text.Text))


def every_figure() -> dict[str, Figure]:
    line = torch.linspace(-1, 1, 9)
    return {
        "images": plots.images(PHOTOS, CAPTIONS, title=TITLE),
        "bare images": plots.images(DIGITS, title=TITLE, columns=3),
        "one attack": plots.attack_rows(PHOTOS[:1], PHOTOS[:1], ["a"], ["b"], title=TITLE),
        "attacks": plots.attack_rows(DIGITS, DIGITS, CAPTIONS, CAPTIONS, amplify=3, title=TITLE),
        "curves": plots.curves([1, 10], {"one": [1, 2], "two": [3, 1]}, title=TITLE, logx=True),
        "accuracy": plots.accuracy_curve(torch.arange(3), {"FGSM": [90, 9, 1.0]}, title=TITLE),
        "bars": plots.bars(["x", "y"], {"a": [1, 2], "b": [3, 4]}, title=TITLE, xlabel="in %"),
        "heatmap": plots.heatmap(torch.eye(3), list("abc"), list("def"), title=TITLE),
        "plane": plots.loss_plane(line, line, torch.rand(9, 9, generator=DRAW), title=TITLE,
                                  path=torch.tensor([[0.0, 0.0], [0.5, 0.5]])),
        "attack plane": plots.attack_plane(
            plots.Plane.through(DIGITS[0], DIGITS[1], DIGITS[2]),
            lambda images: images.flatten(1).mean(1) - 0.5, eps=0.5, title=TITLE,
            reach=torch.tensor([[0.0, 0.0], [4.0, 3.0]]), marks={"FGSM": torch.tensor([4.0, 0])},
            path=torch.tensor([[0.0, 0.0], [2.0, 3.0]])),
        "balls": plots.norm_balls([0.5, 1, 2, math.inf], title=TITLE),
        "panels": plots.ball_panels([1, 2, math.inf], (1.3, 0.6), title=TITLE),
    }


def test_a_plane_goes_through_its_three_images():
    plane = plots.Plane.through(*DIGITS[:3])
    points = plane.coordinates(DIGITS[:3])
    torch.testing.assert_close(plane.images(points), DIGITS[:3])
    torch.testing.assert_close(points[0], torch.zeros(2))
    assert points[1, 1].abs() < 1e-5 and points[1, 0] > 0 and points[2, 1] > 0
    # Distances in the plane are those of the images.
    torch.testing.assert_close((points[2] - points[1]).norm(), (DIGITS[2] - DIGITS[1]).norm())


def test_every_figure_has_its_title_and_a_moderate_size():
    for name, fig in every_figure().items():
        assert TITLE in texts(fig).replace("\n", " "), name
        data = io.BytesIO()
        fig.savefig(data, format="png")
        width, height = Image.open(data).size
        assert width <= 800 and height <= 720, (name, width, height)
        assert len(data.getvalue()) < 500_000, name


def test_lecture_mode_enlarges(monkeypatch):
    normal = dict(plt.rcParams)
    monkeypatch.setenv("COURSE_MODE", "lecture")
    plots.use_style()
    for key in ("font.size", "figure.dpi", "lines.linewidth", "lines.markersize"):
        assert plt.rcParams[key] > normal[key]


def test_lines_differ_in_grey_without_colour():
    cycle = list(plt.rcParams["axes.prop_cycle"])
    looks = {(str(style["marker"]), str(style["linestyle"])) for style in cycle}
    assert len(looks) == len(cycle) == 6
    for style in cycle:  # dark enough on white for a projector
        red, green, blue = to_rgb(style["color"])
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.75


def test_names_carry_class_confidence_and_mark():
    prediction = torch.tensor([0, 1]), torch.tensor([0.5, 1.0])
    assert plots.names(prediction, ["cat", "dog"]) == ["cat\n50 %", "dog\n100 %"]
    assert plots.names(prediction, ["cat", "dog"], torch.tensor([1, 1]))[0] == "✗ cat\n50 %"


def test_attack_rows_say_by_how_much_they_amplify():
    moved = (DIGITS + 0.02).clamp(0, 1)
    assert "× 20" in texts(plots.attack_rows(DIGITS, moved, CAPTIONS, CAPTIONS))
    assert "× 7" in texts(plots.attack_rows(DIGITS[:1], moved[:1], ["a"], ["b"], amplify=7))


def test_amplification_of_nothing_and_of_everything():
    assert plots.amplification(torch.zeros(3)) == 100
    assert plots.amplification(torch.ones(3)) == 1


def test_array_is_exact():
    levels = torch.arange(256).float().div(255).view(1, 16, 16)
    pixels = plots.array(levels)
    assert pixels.shape == (16, 16, 3)
    assert (pixels[..., 0].ravel() == range(256)).all()


def test_line_names_do_not_overlap():
    lines = {f"line {i}": [100, value] for i, value in enumerate((1, 1, 1.2, 50, 99, 100))}
    fig = plots.accuracy_curve([0, 1], lines, title=TITLE)
    fig.canvas.draw()
    labels = [t for t in fig.axes[0].texts if t.get_text().startswith("line")]
    spans = sorted((b.y0, b.y1) for b in (t.get_window_extent() for t in labels))
    assert len(spans) == 6
    assert all(upper[0] >= lower[1] - 3 for lower, upper in itertools.pairwise(spans))


@pytest.mark.parametrize("p", [0.3, 0.5, 1, 1.5, 2, 3, 50, math.inf])
def test_outline_has_norm_one(p):
    points = plots.outline(p)
    size = points.abs().amax(1) if p == math.inf else points.abs().pow(p).sum(1).pow(1 / p)
    assert torch.allclose(size, torch.ones_like(size), atol=1e-6)


def test_nearest_and_steepest_points():
    near = torch.tensor([plots.nearest(p, (1.4, 0.6)) for p in (1, 2, math.inf)])
    exact = torch.tensor([[0.9, 0.1], [0.9191, 0.3939], [1.0, 0.6]])
    assert torch.allclose(near, exact, atol=2e-3)
    assert plots.nearest(2, (0.1, 0.2)) == (0.1, 0.2)
    steep = torch.tensor([plots.steepest(p, (1.4, 0.6)) for p in (0.5, 1, 2, math.inf)])
    exact = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9191, 0.3939], [1.0, 1.0]])
    assert torch.allclose(steep, exact, atol=2e-3)


def test_surface_puts_u_in_columns():
    u, v = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0])
    assert plots.surface(lambda p: p[:, 0] + p[:, 1], u, v).tolist() == [[11, 12, 13], [21, 22, 23]]


def test_table_is_text_and_refuses_a_crooked_row():
    text = plots.table(["what", "value"], [["|x|", 3]]).data
    assert text.splitlines()[2] == "| \\|x\\| | 3 |"
    with pytest.raises(ValueError, match="2 columns"):
        plots.table(["what", "value"], [["x"]])
