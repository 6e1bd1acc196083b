"""How a genome becomes an image: the direct encoding and the CPPN, with the same four methods.

A population is one tensor: it mutates and renders in batches. Taught in lesson 02.
Reference: Nguyen, Yosinski, Clune 2015, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from course_lib.kernels.cppn import ACTIVATIONS, INPUTS, render_cppn


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
