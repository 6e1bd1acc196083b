"""Fooling images: pictures outside every class that a network is certain about.

Two encodings of an image as a genome, each a small class with the same four methods; the evolution
and the gradient ascent that drive either. A population is one tensor: it mutates, renders and is
judged in batches. Taught in lesson 02. Reference: Nguyen, Yosinski, Clune 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from course_lib import runtime
from course_lib.evolution import Archive
from course_lib.gradients import check_logits, check_step_size, device_of, frozen
from course_lib.kernels.cppn import ACTIVATIONS, INPUTS, render_cppn
from course_lib.losses import log_odds


class Encoding(Protocol):
    """How a genome becomes an image, how genomes begin and mutate, which steps they can take."""

    def start(self, n: int, generator: torch.Generator) -> Tensor: ...

    def mutate(self, genomes: Tensor, generator: torch.Generator) -> Tensor: ...

    def render(self, genomes: Tensor) -> Tensor: ...

    def valid(self, genomes: Tensor, before: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Direct:
    """Each entry of the image is a gene; children differ by polynomial mutation.

    shape: (channels, rows, columns). rate: the share of genes that mutate. eta: how closely a
    child resembles its parent (larger is closer). Nguyen et al. 2015 use rate 0.1, halved as the
    evolution goes on, and eta 15; few large changes need fewer generations.
    Reference: Deb 2001, polynomial mutation.
    """

    shape: tuple[int, int, int]
    rate: float = 0.01
    eta: float = 0.5

    def start(self, n: int, generator: torch.Generator) -> Tensor:
        """n genomes: uniform noise on black, sparse in some and dense in others. [n, *shape]"""
        noise = torch.rand(n, *self.shape, generator=generator)
        density = torch.rand(n, 1, 1, 1, generator=generator)
        return noise * (torch.rand(noise.shape, generator=generator) < density)

    def mutate(self, genomes: Tensor, generator: torch.Generator) -> Tensor:
        """Children of the same shape; the box is kept by the mutation itself."""
        u = torch.rand(genomes.shape, generator=generator).to(genomes.device)
        chosen = torch.rand(genomes.shape, generator=generator).to(genomes.device) < self.rate
        power = 1 / (self.eta + 1)
        # The mutation reaches exactly to the nearer border, 0 below and 1 above.
        down = (2 * u + (1 - 2 * u) * (1 - genomes).pow(self.eta + 1)).pow(power) - 1
        up = 1 - (2 * (1 - u) + (2 * u - 1) * genomes.pow(self.eta + 1)).pow(power)
        delta = torch.where(u < 0.5, down, up)
        return torch.where(chosen, (genomes + delta).clamp(0, 1), genomes)

    def render(self, genomes: Tensor) -> Tensor:
        """The genome is the image."""
        return genomes

    def valid(self, genomes: Tensor, before: Tensor) -> Tensor:
        """Genomes after a step, back in the box."""
        return genomes.clamp(0, 1)


@dataclass(frozen=True)
class CPPN:
    """A compositional pattern-producing network: a small graph from a pixel's place to its colour.

        h_k = act_k(sum over j < k of w_kj * h_j),   h_0..3 = x, y, distance, 1

    Slots in a fixed order: four inputs, `hidden` places for neurons, one output a channel. A
    genome is [slots, 1 + slots]: the slot's activation (an index into sine, sigmoid, gaussian,
    linear), then its incoming weights; a weight of zero is no connection. The padding lets whole
    populations of different graphs render as one batched program, at any size.

    shape: (channels, rows, columns) of the rendered image.
    Reference: Stanley 2007; Nguyen et al. 2015, section 2.3.
    """

    shape: tuple[int, int, int]
    hidden: int = 12

    @property
    def slots(self) -> int:
        return INPUTS + self.hidden + self.shape[0]

    def start(self, n: int, generator: torch.Generator) -> Tensor:
        """n smallest graphs: every output reads the four inputs. [n, slots, 1 + slots]."""
        genomes = torch.zeros(n, self.slots, 1 + self.slots)
        outputs = genomes[:, -self.shape[0]:]
        outputs[:, :, 1:1 + INPUTS] = 2 * torch.randn(n, self.shape[0], INPUTS,
                                                       generator=generator)
        genomes[:, :, 0] = _random_activations((n, self.slots), generator)
        return genomes

    def mutate(self, genomes: Tensor, generator: torch.Generator) -> Tensor:
        """Children: jittered weights and, each with its own chance, one change of the graph."""
        g = genomes.clone()
        weights = g[:, :, 1:]
        for change, chance in ((self._add_neuron, 0.25), (self._delete_neuron, 0.08),
                               (self._add_connection, 0.3), (self._delete_connection, 0.1)):
            happens = _uniform((len(g),), generator, g) < chance
            weights[happens] = change(weights, generator)[happens]
        changed = _uniform(g.shape[:2], generator, g) < 0.03
        fresh = _random_activations(g.shape[:2], generator).to(g)
        g[:, :, 0] = torch.where(changed, fresh, g[:, :, 0])
        step = torch.randn(weights.shape, generator=generator).to(g)
        # Small steps refine a picture, rare large ones leave a dead end.
        size = 0.15 * (6 * _uniform((len(g), 1, 1), generator, g) - 3).exp()
        jitter = (_uniform(weights.shape, generator, g) < 0.4) & (weights != 0)
        g[:, :, 1:] = torch.where(jitter, weights + size * step, weights)
        return g

    def render(
        self, genomes: Tensor, rows: int | None = None, columns: int | None = None
    ) -> Tensor:
        """Images [n, channels, rows, columns] in [0, 1]; any size, not only the encoding's own."""
        return render_cppn(genomes, self.shape[0], rows or self.shape[1], columns or self.shape[2])

    def valid(self, genomes: Tensor, before: Tensor) -> Tensor:
        """Genomes after a step of the weights: the graph and the activations stay as before."""
        weights = torch.where(before[:, :, 1:] != 0, genomes[:, :, 1:], 0)
        return torch.cat([before[:, :, :1], weights], 2)

    def _exists(self, weights: Tensor) -> Tensor:
        """Which slots are inputs, outputs or connected neurons. bool [n, slots]"""
        exists = (weights != 0).any(2)
        exists[:, :INPUTS] = True
        exists[:, -self.shape[0]:] = True
        return exists

    def _neurons(self, weights: Tensor) -> Tensor:
        """Which slots are hidden neurons in use. bool [n, slots]"""
        exists = self._exists(weights)
        exists[:, :INPUTS] = False
        exists[:, -self.shape[0]:] = False
        return exists

    def _add_connection(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        exists, slot = self._exists(weights), torch.arange(self.slots, device=weights.device)
        source = exists & (slot < self.slots - self.shape[0])
        sink = exists & (slot >= INPUTS)
        free = source[:, None] & sink[:, :, None] & (slot < slot[:, None]) & (weights == 0)
        place, found = _pick(free.flatten(1), generator)
        value = torch.randn(len(weights), 1, generator=generator).to(weights)
        flat = weights.flatten(1)
        return torch.where(found[:, None], flat.scatter(1, place, value), flat).view_as(weights)

    def _delete_connection(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        place, _ = _pick((weights != 0).flatten(1), generator)
        return weights.flatten(1).scatter(1, place, 0.0).view_as(weights)

    def _add_neuron(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Split a connection j -> k: a free slot s between them takes it over as j -> s -> k."""
        place, connected = _pick((weights != 0).flatten(1), generator)
        k, j = place // self.slots, place % self.slots
        slot = torch.arange(self.slots, device=weights.device)
        free = ~self._exists(weights) & (slot > j) & (slot < k)
        s, found = _pick(free, generator)
        n = torch.arange(len(weights), device=weights.device)[:, None]
        split = weights.clone()
        split[n, s, j], split[n, k, s], split[n, k, j] = weights[n, k, j], 1.0, 0.0
        return torch.where((connected & found)[:, None, None], split, weights)

    def _delete_neuron(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        s, found = _pick(self._neurons(weights), generator)
        n = torch.arange(len(weights), device=weights.device)[:, None]
        cut = weights.clone()
        cut[n, s], cut[n, :, s] = 0.0, 0.0
        return torch.where(found[:, None, None], cut, weights)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(tuple(shape), generator=generator).to(like)


def _random_activations(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(len(ACTIVATIONS), tuple(shape), generator=generator).float()


def _pick(allowed: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of the allowed places of each row, uniformly: index [n, 1] and whether there is any."""
    chance = _uniform(allowed.shape, generator, allowed.float()).masked_fill(~allowed, -1)
    best, index = chance.max(1, keepdim=True)
    return index, best[:, 0] >= 0


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
        for generation in range(generations):
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
    Reference: Nguyen, Yosinski, Clune 2015, section 3.4 (there with weight decay on the image).
    Lesson: 02.

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
