"""Fooling images: pictures outside every class that a network is certain about.

The evolution and the gradient ascent that drive either encoding; a population is judged in batches.
Taught in lesson 02. Reference: Nguyen, Yosinski, Clune 2015.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_lib import runtime
from course_lib.encodings import Encoding
from course_lib.evolution import Archive
from course_lib.gradients import check_logits, check_step_size, device_of, frozen
from course_lib.losses import log_odds


def evolve(
    model: nn.Module, encoding: Encoding, *, classes: int, generations: int, children: int = 200,
    generator: torch.Generator | None = None, archive: Archive | None = None,
    batch_size: int = 200, callback: Callable[[int, Archive], None] | None = None,
) -> Archive:
    """MAP-Elites: one champion a class; every child competes in every class.

    Children mutate from champions drawn at random; the first generation begins afresh unless an
    `archive` is given. Scores are log odds, log(p / (1 - p)), which order as the confidence p
    does but do not saturate; `confidence` turns them back.

    generator: by default a fresh one with seed 0. To go on from an archive, give one with another
    seed: the same seed draws the same numbers again.
    callback(generation, archive) sees the archive after each generation; archives never change,
    so it may keep them.
    Raises: ValueError when children or generations are below 1, when `classes` is not the number
    of logits, or when the model returns no logits.
    Reference: Nguyen, Yosinski, Clune 2015, section 2.3.
    Lesson: 02.

    >>> from course_lib.encodings import Direct
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> archive = evolve(model, Direct((1, 4, 4)), classes=3, generations=2, children=8)
    >>> archive.genomes.shape
    torch.Size([3, 1, 4, 4])
    """
    if children < 1 or generations < 1:
        raise ValueError("evolution needs at least one child and one generation")
    generator = generator or runtime.generator(0)
    device = device_of(model)
    with frozen(model), torch.no_grad():
        for generation in runtime.progress(range(generations), "generations"):
            if archive is None:
                genomes = encoding.start(children, generator).to(device)
                _check_classes(model, encoding, genomes, torch.tensor([classes - 1]), classes)
                archive = Archive.empty(classes, genomes)
            else:
                parents = torch.randint(classes, (children,), generator=generator).to(device)
                genomes = encoding.mutate(archive.genomes[parents], generator)
            scores = class_scores(model, encoding, genomes, batch_size)
            archive = archive.add(genomes, scores)
            if callback:
                callback(generation, archive)
    assert archive is not None  # there was at least one generation
    return archive


def gradient_ascent(
    model: nn.Module, encoding: Encoding, genomes: Tensor, target: Tensor, *, steps: int = 100,
    step_size: float = 0.05, callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """The third way: climb the gradient of each target's log odds through the rendering.

        g_(t+1) = g_t + Adam(grad_g log(p / (1 - p))),   p the confidence of the target in render(g)

    In the direct encoding the pixels move, in a CPPN the weights of the connections it has.

    Shape: genomes [n, ...], target [n] -> the best genomes on the way and their scores [n].
    callback(t, genomes, scores) sees every iterate.
    Raises: ValueError for targets that are no classes, or not one for each genome; steps < 1;
    a step_size that is negative or not finite.
    Reference: Nguyen, Yosinski, Clune 2015, section 3.7 (there with weight decay on the image).
    Lesson: 02.

    >>> from course_lib.encodings import Direct
    >>> model, encoding = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), Direct((1, 4, 4))
    >>> grey = torch.full((2, 1, 4, 4), 0.5)
    >>> genomes, scores = gradient_ascent(model, encoding, grey, torch.tensor([0, 2]), steps=3)
    >>> bool((scores > class_scores(model, encoding, grey)[[0, 1], [0, 2]]).all())
    True
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: the ascent needs at least one")
    check_step_size(step_size)
    if target.shape != genomes.shape[:1]:
        raise ValueError(f"{len(genomes)} genomes but targets of shape {tuple(target.shape)}: "
                         "give one for each")
    start, g = genomes.detach(), genomes.detach().clone().requires_grad_()
    adam = torch.optim.Adam([g], lr=step_size)
    best, best_scores = start.clone(), torch.full((len(start),), -torch.inf, device=start.device)
    with frozen(model):
        _check_classes(model, encoding, start, target)
        for t in range(steps + 1):
            scores = log_odds(model(encoding.render(g)).float(), target)
            better = scores.detach() > best_scores
            best[better], best_scores[better] = g.detach()[better], scores.detach()[better]
            if callback:
                callback(t, g.detach().clone(), scores.detach())
            (g.grad,) = torch.autograd.grad(-scores.sum(), g)
            adam.step()
            with torch.no_grad():
                g.copy_(encoding.valid(g, start))
    return best, best_scores


@torch.no_grad()
def _check_classes(
    model: nn.Module, encoding: Encoding, genomes: Tensor, target: Tensor,
    classes: int | None = None,
) -> None:
    logits = model(encoding.render(genomes[:1])).float()
    check_logits(logits.repeat_interleave(len(target), 0), target)
    if classes is not None and logits.shape[1] != classes:
        raise ValueError(f"classes = {classes}, but the model has {logits.shape[1]}")


@torch.no_grad()
def class_scores(
    model: nn.Module, encoding: Encoding, genomes: Tensor, batch_size: int = 200
) -> Tensor:
    """Log odds [n, classes] of every class for every rendered genome."""
    logits = torch.cat([model(encoding.render(part)).float() for part in genomes.split(batch_size)])
    log_p = logits.log_softmax(1)
    # log(1 - p) without cancellation: for the top class, from the sum of the others.
    top = logits.argmax(1)
    odds = log_p - torch.log1p(-log_p.exp().clamp_max(1 - 1e-6))
    return odds.scatter(1, top[:, None], log_odds(logits, top)[:, None])


def confidence(scores: Tensor) -> Tensor:
    """The probability p that a score log(p / (1 - p)) stands for."""
    return scores.sigmoid()
