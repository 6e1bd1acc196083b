"""Each kernel beside its plain twin: compiled where there is a GPU, else in Triton's interpreter.

The interpreter is chosen for a whole process, so without a GPU one test starts another pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from course_lib import datasets, iterate, kernels, models
from course_lib.attacks import ifgsm, mifgsm, pgd
from course_lib.encodings import CPPN
from course_lib.evaluation import fooled
from course_lib.kernels import launch

KERNELS = launch.INTERPRETED or torch.cuda.is_available()
WHERE = "cpu" if launch.INTERPRETED or not KERNELS else "cuda"
SHAPES = [(1, 1, 1, 1), (3, 3, 7, 5), (2, 1, 28, 28), (2, 3, 33, 47), (1, 3, 1, 1025)]
TWINS = {"linf": kernels.linf_step, "l2": kernels.l2_step}
needs_kernels = pytest.mark.skipif(not KERNELS, reason="no GPU, and Triton's interpreter is off")


@pytest.mark.slow
@pytest.mark.skipif(KERNELS, reason="the tests below run in this process")
def test_under_the_interpreter():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-q", __file__], capture_output=True, text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stdout[-4000:]


def plain(function, *arguments):
    """The twin's result, whatever kernels there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "AVAILABLE", False)
        return function(*arguments)


def drawn(shape: tuple[int, ...], layout: str, dtype: torch.dtype, seed: int) -> Tensor:
    """Uniform numbers whose memory is plain, channels_last, or not contiguous at all."""
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x.to(WHERE, dtype)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    return x if layout == "plain" else torch.stack([x, x], -1)[..., 0]


def attacked(shape, layout, dtype, eps):
    """Clean images, a point of the linf-ball around them, a gradient with zeros in it."""
    x, noise, gradient = (drawn(shape, layout, dtype, seed) for seed in range(3))
    gradient = torch.where(gradient < 0.1, 0, gradient - 0.5)
    return (x + eps * (2 * noise - 1)).clamp(0, 1), gradient, x


def close(found, expected, dtype):
    tolerance = 1e-13 if dtype == torch.float64 else 3e-7
    assert found.shape == expected.shape and found.dtype == dtype
    assert (found - expected).abs().max() <= tolerance


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("layout", ["plain", "channels_last", "strided"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", TWINS)
def test_a_step_is_that_of_its_twin(norm, shape, layout, dtype):
    eps = 0.3
    given = attacked(shape, layout, dtype, eps)
    for size in (0.05, 5.0, torch.full((), 0.05, dtype=dtype, device=WHERE)):
        expected = plain(TWINS[norm], *given, size, eps)
        found = TWINS[norm](*given, size, eps)
        if norm == "linf":
            assert torch.equal(found, expected)
        close(found, expected, dtype)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("layout", ["plain", "channels_last", "strided"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_with_momentum_is_that_of_its_twin(shape, layout, dtype):
    x_t, gradient, x = attacked(shape, layout, dtype, 0.3)
    g = drawn(shape, layout, dtype, 3) - 0.5
    for part, expected in zip(kernels.momentum_step(x_t, gradient, x, g, 0.05, 0.3, 0.9),
                              plain(kernels.momentum_step, x_t, gradient, x, g, 0.05, 0.3, 0.9),
                              strict=True):
        close(part, expected, dtype)


@needs_kernels
@pytest.mark.parametrize("norm", TWINS)
def test_a_gradient_of_zero_moves_nothing(norm):
    x_t, gradient, x = attacked((2, 3, 4, 4), "plain", torch.float32, 0.3)
    gradient[0] = 0
    assert torch.equal(kernels.linf_step(x_t, gradient, x, 0.1, 0.3)[0], x_t[0])
    found, memory = kernels.momentum_step(x_t, gradient, x, torch.zeros_like(x), 0.1, 0.3, 1.0)
    assert torch.equal(found[0], x_t[0]) and not memory[0].any() and memory.isfinite().all()
    close(kernels.l2_step(x_t, gradient, x, 0.1, 9.0)[0], x_t[0], torch.float32)


@needs_kernels
def test_an_l2_step_stays_inside_its_ball():
    x_t, gradient, x = attacked((4, 3, 33, 47), "plain", torch.float32, 0.5)
    r = kernels.l2_step(x_t, gradient, x, 3.0, 0.7) - x
    assert (r.flatten(1).norm(dim=1) <= 0.7 + 1e-6).all()


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_candidates_are_painted_as_by_the_twin(shape, count, dtype):
    _, channels, rows, columns = shape
    draw = torch.Generator().manual_seed(0)
    colours = 2 * torch.rand(12, count, channels, generator=draw) - 0.5  # outside the box too
    levels = torch.arange(12)[:, None, None] / 255 + 0.5 / 255  # half-way between grey levels
    colours[:, :1] = torch.where(torch.rand(12, 1, channels, generator=draw) < 0.5,
                                 levels, colours[:, :1])
    places = torch.rand(12, count, 2, generator=draw) * torch.tensor([columns, rows])
    genes = torch.cat([places, colours], 2).flatten(1).to(WHERE, dtype)
    several = drawn((12, channels, rows, columns), "plain", dtype, 0)
    for x in (several[:1].expand(12, -1, -1, -1), several):
        # The twin on the CPU: on a GPU PyTorch multiplies by 1 / 255, the last digit may differ.
        expected = plain(kernels.paint, x.cpu(), genes.cpu())
        assert torch.equal(kernels.paint(x, genes).cpu(), expected)


@needs_kernels
@pytest.mark.parametrize("size", [(1, 5, 7), (3, 28, 28)], ids=str)
def test_pictures_are_those_of_the_twin(size):
    encoding, draw = CPPN(size), torch.Generator().manual_seed(0)
    genomes = encoding.start(6, draw)
    for _ in range(20):
        genomes = encoding.mutate(genomes, draw)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        given = genomes.to(WHERE, dtype)
        found, expected = encoding.render(given), plain(encoding.render, given)
        assert found.shape == expected.shape and (found - expected).abs().max() <= tolerance


@needs_kernels
def test_the_twin_renders_where_a_gradient_is_asked_for():
    genomes = CPPN((1, 8, 8)).start(2, torch.Generator().manual_seed(0)).to(WHERE)
    genomes.requires_grad_()
    CPPN((1, 8, 8)).render(genomes).sum().backward()
    assert genomes.grad.abs().sum() > 0


# --- steps replayed as a CUDA graph, on a GPU alone; test_iterate.py tests the loop around them ---

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def digits(n: int) -> tuple[torch.nn.Module, Tensor, Tensor]:
    images = datasets.mnist("test")[:n].to("cuda")
    return models.load("mnist_cnn").to("cuda"), images.x, images.y


@on_gpu
@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("name", ["linf", "l2", "l1"])
@pytest.mark.parametrize("attack", [ifgsm, pgd, mifgsm])
def test_replayed_steps_fool_the_same_images(attack, name, early_stop, monkeypatch, recwarn):
    model, x, y = digits(200)
    options = {"eps": {"linf": 0.1, "l2": 1.5, "l1": 8}[name], "norm": name, "steps": 20,
               "early_stop": early_stop}
    flags = fooled(model, attack(model, x, y, **options), y)
    assert not recwarn.list, "captured, or this tests nothing"
    monkeypatch.setattr(launch, "AVAILABLE", False)
    monkeypatch.setattr(iterate, "_replayed",
                        lambda *given: iterate._stepwise(*given, callback=None))
    expected = fooled(model, attack(model, x, y, **options), y)
    assert 0.05 < expected.float().mean() < 1 and (flags != expected).sum() <= 1


@on_gpu
def test_a_model_that_waits_for_the_gpu_is_attacked_step_by_step():
    class Waits(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x) * (1 if x.max().item() > 0 else 2)

    model, x, y = digits(50)
    expected = fooled(model, pgd(model, x, y, eps=0.1, steps=20), y)
    with pytest.warns(UserWarning, match="no CUDA graph"):
        found = pgd(Waits(model), x, y, eps=0.1, steps=20)
    assert torch.equal(fooled(model, found, y), expected)


def test_without_triton_the_twins_do_everything():
    program = ("import sys; sys.modules['triton'] = None\n"
               "import torch\n"
               "from course_lib.kernels import launch, linf_step\n"
               "one = torch.ones(1, 1)\n"
               "print(launch.AVAILABLE, linf_step(one / 2, one, one / 2, 0.25, 0.5).item())")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          env=os.environ | {"TRITON_INTERPRET": "1"})
    assert done.stdout.split() == ["False", "0.75"], done.stderr
