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
POINTS = torch.tensor([[-1.0, 0.5], [-0.3, -0.5], [0.3, 0.7], [0.5, 0.2], [-0.4, 0.0], [1.0, -1.0]])
SIDES = torch.tensor([0, 0, 1, 1, 1, 1])  # the last but one lies on the wrong side of x_1 = 0


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
        "one attack": plots.compare_images(PHOTOS[:1], PHOTOS[:1], ["a"], ["b"], title=TITLE),
        "attacks": plots.compare_images(DIGITS, DIGITS, CAPTIONS, CAPTIONS, amplify=3, title=TITLE),
        "curves": plots.curves([1, 10], {"one": [1, 2], "two": [3, 1]}, title=TITLE, logx=True),
        "accuracy": plots.accuracy_curve(torch.arange(3), {"FGSM": [90, 9, 1.0]}, title=TITLE),
        "bars": plots.bars(["x", "y"], {"a": [1, 2], "b": [3, 4]}, title=TITLE, xlabel="in %"),
        "heatmap": plots.heatmap(torch.eye(3), list("abc"), list("def"), title=TITLE),
        "plane": plots.loss_plane(line, line, torch.rand(9, 9, generator=DRAW), title=TITLE,
                                  path=torch.tensor([[0.0, 0.0], [0.5, 0.5]])),
        "attack plane": plots.loss_landscape(
            plots.ImagePlane.through(DIGITS[0], DIGITS[1], DIGITS[2]),
            lambda images: images.flatten(1).mean(1) - 0.5, eps=0.5, title=TITLE,
            reach=torch.tensor([[0.0, 0.0], [4.0, 3.0]]), marks={"FGSM": torch.tensor([4.0, 0])},
            path=torch.tensor([[0.0, 0.0], [2.0, 3.0]])),
        "balls": plots.norm_balls([0.5, 1, 2, math.inf], title=TITLE),
        "panels": plots.ball_panels([1, 2, math.inf], (1.3, 0.6), title=TITLE),
        "squares": plots.squares(POINTS, SIDES, lambda points: points[:, 0], 0.4, title=TITLE),
        "tall squares": plots.squares(POINTS * torch.tensor([0.1, 9.0]), SIDES,
                                      lambda points: points[:, 0], 0.4, title=TITLE),
        "square panels": plots.square_panels(
            POINTS, SIDES, {"one": lambda points: points[:, 0], "two": lambda points: points[:, 1]},
            0.4, title=TITLE),
    }


def test_a_plane_goes_through_its_three_images():
    plane = plots.ImagePlane.through(*DIGITS[:3])
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
    assert plots.names(prediction, ["cat", "dog"]) == ["cat\n50 %", "dog\n> 99 %"]
    assert plots.names(prediction, ["cat", "dog"], torch.tensor([1, 1]))[0] == "✗ cat\n50 %"


def test_attack_rows_say_by_how_much_they_amplify():
    moved = (DIGITS + 0.02).clamp(0, 1)
    assert "× 20" in texts(plots.compare_images(DIGITS, moved, CAPTIONS, CAPTIONS))
    assert "× 7" in texts(plots.compare_images(DIGITS[:1], moved[:1], ["a"], ["b"], amplify=7))


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


# --- squares ------------------------------------------------------------------------------------

def linear(w: tuple[float, float], b: float = 0.0):
    return lambda points: points @ torch.tensor(w).to(points) + b


def hatched(fig: Figure) -> int:
    """How many squares of all panels have a part beyond the border, in vermillion."""
    colour = to_rgb(plots.VERMILLION)
    drawn = [patch for axis in fig.axes for patch in axis.patches]
    assert all((to_rgb(p.get_edgecolor()) == colour) == (p.get_hatch() is not None) for p in drawn)
    return sum(p.get_hatch() is not None for p in drawn)


@pytest.mark.parametrize("w, b", [((1.0, 0.0), 0.0), ((0.7, -1.3), 0.1), ((-2.0, -0.5), -0.3)])
@pytest.mark.parametrize("eps", [0.0, 0.05, 0.3])
def test_squares_cross_a_line_where_its_l1_margin_is_too_small(w, b, eps):
    """The smallest margin in a square is y (w.x + b) - eps ||w||_1."""
    draw = torch.Generator().manual_seed(3)
    points, labels = torch.randn(300, 2, generator=draw), torch.arange(300) % 2
    smallest = (2 * labels - 1) * linear(w, b)(points) - eps * torch.tensor(w).abs().sum()
    assert torch.equal(plots.crossing(points, labels, linear(w, b), eps), smallest < 0)


def test_squares_cross_a_bent_border_at_an_edge_and_count_on_the_wrong_side():
    def parabola(points):  # label 1 outside, its tip at (0.5, 0) between the corners of a square
        return 0.5 - points[:, 0] + 9 * points[:, 1].square()

    at_corners = torch.tensor([[0.2, 0.4], [1.0, 0.4], [0.2, -0.4], [1.0, -0.4]])
    assert bool((parabola(at_corners) > 0).all())
    point = torch.tensor([[0.0, 0.0]])
    assert plots.crossing(point, torch.tensor([1]), parabola, 0.6).tolist() == [True]
    assert plots.crossing(point, torch.tensor([1]), parabola, 0.4).tolist() == [False]
    assert plots.crossing(point, torch.tensor([0]), parabola, 0.4).tolist() == [True]


def test_squares_have_their_size_and_mark_those_that_cross():
    fig = plots.squares(POINTS, SIDES, linear((1.0, 0.0)), 0.4, title=TITLE)
    (axis,) = fig.axes
    assert {(p.get_width(), p.get_height()) for p in axis.patches} == {(0.8, 0.8)}
    outlines, beyond = ([p for p in axis.patches if (p.get_hatch() is not None) == filled]
                        for filled in (False, True))
    torch.testing.assert_close(torch.tensor([p.get_xy() for p in outlines]), POINTS - 0.4)
    bad = POINTS[torch.tensor([1, 2, 4])]
    torch.testing.assert_close(torch.tensor([p.get_xy() for p in beyond]), bad - 0.4)
    dark = [p.get_edgecolor()[0] < 0.3 for p in outlines]
    assert dark == [False, True, True, False, True, False]
    fig.canvas.draw()
    low, high = axis.transData.transform([(0, 0), (1, 1)])
    assert (high - low)[0] == pytest.approx((high - low)[1])  # a square looks like one
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    assert left < -1.4 and right > 1.4 and bottom < -1.4 and top > 1.1


def test_squares_are_filled_beyond_the_border_only():
    fig = plots.squares(POINTS, SIDES, linear((1.0, 0.0)), 0.4)
    beyond = [p for p in fig.axes[0].patches if p.get_hatch() is not None]
    for patch, label in zip(beyond, SIDES[[1, 2, 4]].tolist(), strict=True):
        path, transform = patch.get_clip_path().get_transformed_path_and_affine()
        x1 = fig.axes[0].transData.inverted().transform(transform.transform(path.vertices))[:, 0]
        assert x1.max() == pytest.approx(0, abs=1e-6) if label else \
            x1.min() == pytest.approx(0, abs=1e-6)


def test_squares_tell_labels_apart_by_marker_and_lightness():
    (axis,) = plots.squares(POINTS, SIDES, linear((1.0, 0.0)), 0.4).axes
    zero, one = axis.lines
    assert torch.equal(torch.from_numpy(zero.get_xydata()).float(), POINTS[SIDES == 0])
    assert torch.equal(torch.from_numpy(one.get_xydata()).float(), POINTS[SIDES == 1])
    assert zero.get_marker() != one.get_marker()
    (r0, g0, b0), (r1, g1, b1) = (to_rgb(line.get_color()) for line in (zero, one))
    assert abs(0.2126 * (r0 - r1) + 0.7152 * (g0 - g1) + 0.0722 * (b0 - b1)) > 0.2


def test_square_panels_have_names_and_one_scale():
    fig = plots.square_panels(POINTS, SIDES, {"standard": linear((1.0, 0.0)),
                                              "robust": linear((1.0, 0.0), 0.5)}, 0.4, title=TITLE)
    first, second = fig.axes
    assert [first.get_title(), second.get_title()] == ["standard", "robust"]
    assert first.get_xlim() == second.get_xlim() and first.get_ylim() == second.get_ylim()
    assert hatched(fig) == 5
    assert {"label 0", "label 1", "border", "part beyond it"} <= set(texts(fig).split("\n"))


def test_square_panels_keep_titles_and_legend_apart():
    points = POINTS * torch.tensor([1.7, 1.6])
    names = {"training with eps = 0": linear((1.0, 0.0)), "training": linear((0.0, 1.0))}
    fig = plots.square_panels(points, SIDES, names, 0.25, title=TITLE)
    fig.canvas.draw()  # once, as a notebook does
    headline, legend = (part.get_window_extent() for part in (fig._suptitle, fig.legends[0]))
    for axis in fig.axes:
        panel = axis.get_tightbbox()
        assert panel.y1 < headline.y0 and legend.y1 < panel.y0


@pytest.mark.filterwarnings("error")
def test_squares_without_a_border_in_view_and_with_gradients():
    weight = torch.tensor([1.0, 0.0], requires_grad=True)
    fig = plots.squares(POINTS, SIDES, lambda points: points @ weight + 9, 0.4)
    assert hatched(fig) == 2  # those of label 0
    assert hatched(plots.squares(POINTS.double(), SIDES, linear((1.0, 0.0)), 0.4)) == 3
    assert hatched(plots.squares(POINTS[2:3], SIDES[2:3], linear((1.0, 0.0)), 0.0)) == 0


@pytest.mark.parametrize("points, labels, eps, message", [
    (POINTS[:, :1], SIDES, 0.4, r"points must be \[n, 2\], not \(6, 1\)"),
    (POINTS[:0], SIDES[:0], 0.4, r"points must be \[n, 2\], not \(0, 2\)"),
    (POINTS, SIDES[:5], 0.4, "each of the 6 points a label, 0 or 1"),
    (POINTS, 2 * SIDES - 1, 0.4, "a label, 0 or 1"),
    (POINTS, SIDES, -0.1, "is no radius"),
    (POINTS, SIDES, math.nan, "is no radius"),
])
def test_squares_refuse_what_they_cannot_draw(points, labels, eps, message):
    for draw in (plots.squares, plots.crossing):
        with pytest.raises(ValueError, match=message):
            draw(points, labels, linear((1.0, 0.0)), eps)
    with pytest.raises(ValueError, match=message):
        plots.square_panels(points, labels, {"one": linear((1.0, 0.0))}, eps)
    with pytest.raises(ValueError, match="no margins"):
        plots.square_panels(POINTS, SIDES, {}, 0.4)


def test_table_is_text_and_refuses_a_crooked_row():
    text = plots.table(["what", "value"], [["|x|", 3]]).data
    assert text.splitlines()[2] == "| \\|x\\| | 3 |"
    with pytest.raises(ValueError, match="2 columns"):
        plots.table(["what", "value"], [["x"]])


def test_words_are_shaded_by_their_weight_and_broken_to_the_page():
    words = ["long"] * 60 + ["here"]
    fig = plots.shaded_words({"Answer": (words, [0.0] * 60 + [0.9])}, title="A title")
    texts = fig.axes[0].texts
    assert [t.get_text() for t in texts] == ["Answer", *words]
    grounds = [t.get_bbox_patch().get_facecolor()[:3] for t in texts[1:]]
    assert grounds[0] == (1, 1, 1) and grounds[-1][2] < 0.2
    fig.canvas.draw()
    inside = fig.get_window_extent()
    for text in texts:
        assert text.get_window_extent().x1 <= inside.x1


def test_a_key_has_a_colour_for_each_class():
    fig = plots.key(["background", "0", "1"])
    colours = [tuple(axis.images[0].get_array()[0, 0]) for axis in fig.axes]
    assert len(set(colours)) == 3 and fig.axes[1].get_xlabel() == "0"
