"""Gradients with respect to the image, and a context that leaves no trace on the model.

Taught in lesson 03.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from course_lib.losses import Loss, cross_entropy, objective

Done = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (logits, y, target) -> bool [n]

# How many pixels pass a CPU at once: 408 digits, 104 CIFAR images, two photographs.
_PART = 320_000
# On a GPU: the memory that a pass is guessed to need, in sizes of its images, and what always fits.
_NEED, _SMALL = 500, 2**30


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Lend a model to an attack: eval mode, parameters frozen; everything restored on exit.

    Eval mode keeps batch-norm statistics and dropout still. Frozen parameters save the backward
    pass the work of weight gradients, which no attack needs. Each sub-module's own mode comes
    back, also when the attack raises.

    Lesson: 03.

    >>> model = nn.Dropout().train()
    >>> with frozen(model): print(model.training)
    False
    >>> model.training
    True
    """
    modes = {module: module.training for module in model.modules()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield model
    finally:
        # Straight to the attribute: module.train(mode) would overwrite the children's modes.
        for module, mode in modes.items():
            module.training = mode
        for parameter in trainable:
            parameter.requires_grad_(True)


def logits_and_gradient(
    model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None = None,
    loss: Loss = cross_entropy, *, check: bool = False, scale: Tensor | None = None,
    done: Done | None = None,
) -> tuple[Tensor, Tensor]:
    """One forward and one backward pass: the logits at x, and the gradient of the objective there.

    The objective is summed over the batch, not averaged, so an image's gradient is its own.
    Call it inside `frozen`, which freezes the parameters. Only an attack's first pass needs
    `check`: looking at the logits' values makes the program wait for the GPU.

    The loss sees the logits times `scale`, where that is given; the logits come back as they are.
    Images that are `done` need no gradient: where all that pass at once are, it stays zero.

    Shape: x [n, ...], y, target, scale [n] -> logits [n, classes], gradient [n, ...]; detached.
    """
    logits, gradient = in_parts(
        functools.partial(one_pass, model, loss, check, done), x, y, target, scale)
    return logits, gradient


def one_pass(
    model: nn.Module, loss: Loss, check: bool, done: Done | None, x: Tensor, y: Tensor,
    target: Tensor | None, scale: Tensor | None,
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        if check:
            check_logits(logits.detach(), y, target)
        if done is not None and bool(done(logits, y, target).all()):
            return logits.detach(), torch.zeros_like(x)
        seen = logits if scale is None else logits * scale[:, None]
        (gradient,) = torch.autograd.grad(objective(seen, y, target, loss).sum(), x)
    if check and not bool(gradient.isfinite().all()):
        raise ValueError("the gradient holds NaN or infinity: the model has an operation without a "
                         "derivative here, such as the square root of 0; add a small constant")
    return logits.detach(), finite_or_zero(gradient)


def finite_or_zero(gradient: Tensor) -> Tensor:
    """A pixel whose derivative is NaN or infinite waits: it would spread, or take a whole step."""
    return gradient.nan_to_num(0.0, posinf=0.0, neginf=0.0)


@torch.no_grad()
def forward(model: nn.Module, x: Tensor) -> Tensor:
    """The logits alone, in as many parts as memory asks for: x [n, ...] -> [n, classes]."""
    return in_parts(lambda part: (model(part),), x)[0]


def in_parts(
    work: Callable[..., tuple[Tensor, ...]], x: Tensor, *others: Tensor | None
) -> tuple[Tensor, ...]:
    """work(x, *others), a part of the batch at a time; what the parts return is joined again.

    A part that turns out to be too large for the GPU's memory is halved.
    """
    size = chunk_size(x)
    if len(x) <= size:
        try:
            return work(x, *others)
        except torch.OutOfMemoryError:
            if len(x) == 1:
                raise
        # Only here is the error gone, and with it its hold on the memory.
        size = (len(x) + 1) // 2
    parts = zip(*(itertools.repeat(None) if given is None else given.split(size)
                  for given in (x, *others)), strict=False)
    return tuple(map(torch.cat, zip(*(in_parts(work, *part) for part in parts), strict=True)))


def chunk_size(x: Tensor) -> int:
    """How many images of a batch should pass a model at once.

    On a GPU as many as its free memory seems to allow. On a CPU, activations above 32 MB make the
    memory allocator of Linux ask the kernel for fresh pages in every layer: 1,000 digits at once
    take 1.5 times as long as the same digits in parts.
    """
    if not x.is_cuda:
        return max(1, _PART // max(1, x[:1].numel()))
    need = _NEED * x[:1].numel() * x.element_size()
    if need * len(x) <= _SMALL:
        return len(x)
    kept = torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)
    free = torch.cuda.mem_get_info(x.device)[0] + kept
    return max(1, min(len(x), free // need))


def input_gradient(
    model: nn.Module, x: Tensor, y: Tensor, *, target: Tensor | None = None,
    loss: Loss = cross_entropy,
) -> Tensor:
    """Backpropagation to the image instead of the weights: the gradient of L(theta, x, y) in x.

    With a target, the gradient of -L(theta, x, target): climbing always means attacking.

    Shape: x [n, channels, rows, columns], y and target [n] -> like x, detached.
    Raises: ValueError for bad images, labels, logits or model (see `check_images`).
    Lesson: 03.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> input_gradient(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 2])).shape
    torch.Size([2, 1, 2, 2])
    """
    check_images(model, x, y, target)
    with frozen(model):
        return logits_and_gradient(model, x, y, target, loss, check=True)[1]


def check_images(
    model: nn.Module, x: Tensor, y: Tensor | None, target: Tensor | None = None
) -> None:
    """Raise a ValueError that says what is wrong with images, labels or model, and what to do.

    y is None for an attack on label maps, which looks at these itself.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = getattr(x, "dtype", type(x).__name__)
        raise ValueError(f"images must be a float tensor, not {kind}: use x.float() / 255")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"images must be float32 or float64, not {x.dtype}, whose rounding leaves "
                         "the ball: use x.float() and model.float()")
    if x.dim() != 4:
        raise ValueError(f"images must be [batch, channels, rows, columns], not {tuple(x.shape)}: "
                         "add a batch dimension with x[None]")
    if not len(x):
        raise ValueError("the batch is empty: give at least one image")
    low, high = torch.aminmax(x)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images must lie in [0, 1], these reach from {low:.4g} to {high:.4g}: "
                         "divide 0-255 images by 255, and leave normalisation to the model")
    _check_model(model, x)
    for name, labels in (("y", y), ("target", target)):
        if labels is not None:
            _check_labels(name, labels, x)
    if target is not None and y is not None and bool(target.eq(y).any()):
        raise ValueError("a target equals its image's label: choose another class as target")


def device_of(model: nn.Module) -> torch.device:
    """Where a model lives; the CPU for one that holds no tensors."""
    held = next(itertools.chain(model.parameters(), model.buffers()), torch.empty(0))
    return held.device


def check_step_size(step_size: float) -> None:
    """Raise a ValueError for a step that leads backwards or nowhere."""
    if not (math.isfinite(step_size) and step_size >= 0):
        raise ValueError(f"step_size = {step_size}: use a finite number >= 0")


def _check_model(model: nn.Module, x: Tensor) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model must be a nn.Module, not a {type(model).__name__}: write a "
                         "class whose forward does what your function does")
    parameter = next(model.parameters(), x)
    if parameter.device != x.device:
        raise ValueError(f"images are on {x.device}, the model on {parameter.device}: "
                         "move one with .to(device)")
    if parameter.dtype != x.dtype:
        raise ValueError(f"images are {x.dtype}, the model is {parameter.dtype}: "
                         "convert one with .float() or .double()")
    if torch.is_inference_mode_enabled() or x.is_inference() or parameter.is_inference():
        raise ValueError("torch.inference_mode leaves no way to a gradient, nor do tensors made "
                         "in it: leave it, or use torch.no_grad instead")
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError("a batch norm with track_running_stats=False makes the logits of an "
                             "image depend on the rest of its batch: use running statistics")


def _check_labels(name: str, labels: Tensor, x: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.dim() != 1:
        got = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else labels
        raise ValueError(f"{name} must be an int64 tensor of shape [batch], not {got!r}: "
                         "use torch.tensor([...])")
    if len(labels) != len(x):
        raise ValueError(f"{len(x)} images but {len(labels)} labels in {name}: give one per image")
    if labels.device != x.device:
        raise ValueError(f"{name} is on {labels.device}, the images on {x.device}: "
                         "move one with .to(device)")


def check_finite(finite: Tensor) -> None:
    """Raise a ValueError where one logit of an attack was not finite: it would pass for a success.

    Shape: finite [...] bool. An attack collects it on the device and asks once, at its end.
    """
    if not bool(finite.all()):
        raise ValueError("the model returned NaN or infinite logits: check its weights, and its "
                         "layers for an overflow, a division by 0 or the logarithm of 0")


def check_outputs(
    model: nn.Module, x: Tensor, y: Tensor, target: Tensor | None = None
) -> None:
    """`check_logits` of all images, for attacks whose first pass does not show them."""
    check_logits(forward(model, x), y, target)


def check_logits(logits: Tensor, y: Tensor, target: Tensor | None = None) -> None:
    """Raise a ValueError when what the model returned cannot be logits for these labels."""
    if logits.dim() != 2 or len(logits) != len(y):
        raise ValueError("the model must return logits [batch, classes], "
                         f"not {tuple(logits.shape)}")
    check_finite(logits.isfinite().all())
    check_classes(logits.shape[1], y=y, target=target)
    sums = logits.sum(1)
    if bool((logits >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        raise ValueError("the model returns probabilities (every row is >= 0 and sums to 1): "
                         "attack the logits, the layer before the softmax")


def check_classes(classes: int, **named: Tensor | None) -> None:
    """Raise a ValueError for labels, given by the name of their argument, that are no class."""
    for name, labels in named.items():
        if labels is not None and not bool(((labels >= 0) & (labels < classes)).all()):
            raise ValueError(f"{name} holds labels outside 0 … {classes - 1}, "
                             f"the model has {classes} classes")
