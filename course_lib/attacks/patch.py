"""An adversarial patch: a sticker that works wherever it lies. Taught in lesson 08."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from course_lib import runtime
from course_lib.gradients import check_classes, check_images, check_step_size, frozen

AREA = 0.1  # of the image
SIZES = (0.85, 1.15)  # a random side is the side of that area times a factor between these
TURN = 30  # degrees, to either side
SIDE = 64  # rows and columns of a patch


@dataclass(frozen=True, eq=False)
class Places:
    """Where patches lie, one for each image: across, down, side and angle, each [n].

    across, down: the centre, from -1 (left, top) to 1 (right, bottom). side: the share of the
    image's side. angle: in radians, clockwise.
    """

    across: Tensor
    down: Tensor
    side: Tensor
    angle: Tensor

    def __len__(self) -> int:
        return len(self.side)

    def to(self, device: torch.device | str) -> Places:
        """The same places on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


def random_places(
    n: int, *, area: float = AREA, sizes: tuple[float, float] = SIZES, turn: float = TURN,
    generator: Generator | None = None,
) -> Places:
    """A place for each of n patches: size, turn and centre at random, no corner outside the image.

        side = sqrt(area) * a factor from `sizes`,   |angle| <= `turn` degrees

    Raises: ValueError for an area outside (0, 0.3], where no turned patch would fit.
    Lesson: 08.

    >>> len(random_places(5))
    5
    """
    if not 0 < area <= 0.3:
        raise ValueError(f"area = {area}: use a share of the image above 0 and up to 0.3")
    draw = runtime.generator(0) if generator is None else generator
    u = torch.rand(4, n, generator=draw)
    side = math.sqrt(area) * (sizes[0] + (sizes[1] - sizes[0]) * u[0])
    angle = math.radians(turn) * (2 * u[1] - 1)
    room = 1 - side * (angle.cos().abs() + angle.sin().abs())
    across, down = room * (2 * u[2:] - 1)
    return Places(across, down, side, angle)


def paste(x: Tensor, patch: Tensor, places: Places) -> Tensor:
    """The images with the patch on them, each at its own place: A(x, p, t) of the formula.

    Differentiable with respect to the patch.
    Shape: x [n, channels, rows, columns], patch [channels, side, side], n places, or one for all
    -> like x.
    Lesson: 08.

    >>> x = torch.zeros(1, 1, 8, 8)
    >>> middle = Places(*(torch.tensor([value]) for value in (0.0, 0.0, 0.5, 0.0)))
    >>> paste(x, torch.ones(1, 4, 4), middle).sum()
    tensor(16.)
    """
    cos, sin = places.angle.cos() / places.side, places.angle.sin() / places.side
    a, b = places.across, places.down
    # From a pixel of the image to the coordinates of the patch, which end at -1 and 1.
    affine = torch.stack([torch.stack([cos, sin, -cos * a - sin * b], 1),
                          torch.stack([-sin, cos, sin * a - cos * b], 1)], 1).to(x)
    grid = F.affine_grid(affine.expand(len(x), -1, -1), list(x.shape), align_corners=False)
    on_it = (grid.abs().amax(3) <= 1)[:, None]
    moved = F.grid_sample(patch.expand(len(x), -1, -1, -1), grid, padding_mode="border",
                          align_corners=False)
    return torch.where(on_it, moved, x)


def patch_gradient(
    model: nn.Module, x: Tensor, patch: Tensor, places: Places, target: int
) -> tuple[Tensor, Tensor]:
    """The gradient of the mean loss over images and places, with respect to the patch; the loss.

    Shape: x, places as `paste` -> gradient like patch, loss [].
    """
    patch = patch.detach().requires_grad_()
    logits = model(paste(x, patch, places))
    labels = torch.full((len(x),), target, device=x.device)
    check_classes(logits.shape[1], target=labels)
    loss = F.cross_entropy(logits, labels)
    (gradient,) = torch.autograd.grad(loss, patch)
    return gradient, loss.detach()


def adversarial_patch(
    model: nn.Module, x: Tensor, target: int, *, steps: int, step_size: float = 8 / 255,
    batch_size: int = 8, mu: float = 0.9, start: Tensor | None = None,
    generator: Generator | None = None,
    callback: Callable[[int, float, Tensor], None] | None = None,
) -> Tensor:
    """Train a patch that makes the network see `target` on any image, at any place.

        min over p of  the mean over images x and places t of  L(theta, A(x, p, t), y_t)

        g_(s+1) = mu * g_s + grad / ||grad||_1,   p_(s+1) = clamp(p_s - alpha_s * sign(g_(s+1)))

    Each step draws `batch_size` images and places anew: expectation over transformations. alpha_s
    falls from `step_size` to a tenth of it. The patch starts as `start`, by default mid-grey. No
    ball holds it, only the box: a patch may be seen.

    Shape: x [n, channels, rows, columns] in [0, 1] -> patch [channels, 64, 64].
    callback(s, loss, patch) hears the loss before each step.
    Raises: ValueError for bad images, steps or step size.
    Reference: Athalye, Engstrom, Ilyas, Kwok 2018, section 2; Brown, Mané, Roy, Abadi, Gilmer 2017.
    Lesson: 08.

    >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    >>> adversarial_patch(model, torch.rand(2, 3, 32, 32), target=1, steps=2).shape
    torch.Size([3, 64, 64])
    """
    check_images(model, x, None)
    check_step_size(step_size)
    if steps < 1:
        raise ValueError("steps < 1: an attack needs at least one step")
    draw = runtime.generator(0) if generator is None else generator
    patch = torch.full((x.shape[1], SIDE, SIDE), 0.5).to(x) if start is None else start.to(x)
    g = torch.zeros_like(patch)
    with frozen(model), torch.enable_grad():
        for s in range(steps):
            chosen = torch.randint(len(x), (batch_size,), generator=draw).to(x.device)
            places = random_places(batch_size, generator=draw).to(x.device)
            gradient, loss = patch_gradient(model, x[chosen], patch, places, target)
            if callback:
                callback(s, float(loss), patch)
            g = mu * g + gradient / gradient.abs().sum().clamp_min(1e-12)
            alpha = step_size * (1 - 0.9 * s / steps)
            patch = (patch - alpha * g.sign()).clamp(0, 1)
    return patch
