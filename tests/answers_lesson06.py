"""What people answer to the exercises of lesson 06."""

from __future__ import annotations

import torch

from course_lib.losses import log_odds


def _masked(a, b):
    return a * b.abs() * (a >= 0) * (b <= 0)


def _per_batch(a, b):
    s = _masked(a, b)
    return s / s.max()


def _in_place(a, b):
    a[(a < 0) | (b > 0)] = 0
    return a * b.abs()


def _mixed(formula):
    return lambda genes, parents, factor: formula(
        *(genes[parents[:, k]] for k in range(3)), factor)


_CHILD = _mixed(lambda a, b, c, f: a + f * (b - c))


def _rounded(genes, parents, factor):
    child = _CHILD(genes, parents, factor)
    return torch.cat([child[:, :2].floor(), child[:, 2:]], 1)


def _p(logits, y):
    return logits.softmax(1).gather(1, y[:, None]).squeeze(1)


def _z(logits, y):
    return logits.gather(1, y[:, None]).squeeze(1)


def _rest(logits, y):
    return logits.scatter(1, y[:, None], -torch.inf)


def _naive_log_odds(logits, y):
    p = _p(logits, y)
    return (p / (1 - p)).log()


def _painted(place, colour=lambda old, new: new):
    """Sets one pixel; place(x, gene) gives row and column."""
    def fn(x, gene):
        x_adv = x.clone()
        row, column = place(x, gene)
        x_adv[0, :, row, column] = colour(x_adv[0, :, row, column], gene[2:])
        return x_adv
    return fn


def _ends(x, gene):
    return min(int(gene[1]), x.shape[2] - 1), min(int(gene[0]), x.shape[3] - 1)


def _square_ends(x, gene):
    return min(int(gene[1]), x.shape[3] - 1), min(int(gene[0]), x.shape[3] - 1)


def _ends_swapped_sizes(x, gene):
    return min(int(gene[1]), x.shape[2] - 1), min(int(gene[0]), x.shape[2] - 1)


def _first_channel(x, gene):
    x_adv = x.clone()
    x_adv[0, 0, int(gene[1]), int(gene[0])] = gene[2]
    return x_adv


def _in_the_image(x, gene):
    row, column = _ends(x, gene)
    x[0, :, row, column] = gene[2:]
    return x


def _mask(x, gene):
    row, column = _ends(x, gene)
    here = torch.zeros_like(x, dtype=torch.bool)
    here[0, :, row, column] = True
    return torch.where(here, gene[2:].view(1, 3, 1, 1), x)


WRONG = {
    "6.1": [
        (lambda a, b: a * (a >= 0), "second term is missing"),
        (lambda a, b: b.abs() * (b <= 0), "first term is missing"),
        (lambda a, b: a * b.abs(), "no entry is ruled out"),
        (lambda a, b: a * b.abs() * (b <= 0), "hurt the target are not ruled out"),
        (lambda a, b: a * b.abs() * (a >= 0), "help the other classes are not ruled out"),
        (lambda a, b: (-a * b).clamp_min(0), "two wrongs make a right"),
        (lambda a, b: -_masked(a, b), "the map is negative"),
        (lambda a, b: _masked(-a, -b), "turned round"),
        (lambda a, b: (a - b) * (a >= 0) * (b <= 0), "are added"),
        (_per_batch, "depends on the other images"),
        (_in_place, "in place"),
        (lambda a, b: None, "returns nothing"),
        (lambda a, b: 2 * _masked(a, b), "the saliency map"),
    ],
    "6.2": [
        (lambda genes, parents, factor: genes.clone(), "nothing is mixed"),
        (_mixed(lambda a, b, c, f: a + f * (c - b)), "difference is turned round"),
        (lambda g, parents, factor: g + factor * (g[parents[:, 1]] - g[parents[:, 2]]),
         "a stranger"),
        (_mixed(lambda a, b, c, f: a + b - c), "not used"),
        (_mixed(lambda a, b, c, f: f * (a + b - c)), "the difference alone"),
        (_mixed(lambda a, b, c, f: a + f * (b + c)), "are added"),
        (lambda *inputs: _CHILD(*inputs).clamp(0, 1), "one corner"),
        (_rounded, "rounded"),
        (lambda *inputs: _CHILD(*inputs)[:1].repeat(6, 1), "same three parents"),
        (_mixed(lambda a, b, c, f: a), "nothing new"),
        (_mixed(lambda a, b, c, f: f * (b - c)), "whole child"),
        (_mixed(lambda a, b, c, f: a + 0.5 * (b - c)), "for F = 0"),
        (_mixed(lambda a, b, c, f: a + 0.4 * (b - c)), "the generation at index"),
    ],
    "6.3": [
        (lambda logits, y: _p(logits, y) + 0.0, "p_y itself"),
        (lambda logits, y: 1 - _p(logits, y), "1 - p_y grows"),
        (lambda logits, y: _p(logits, y).log(), "the logarithm of p_y"),
        (lambda logits, y: _z(logits, y) - _rest(logits, y).amax(1), "margin"),
        (_z, "logit of y alone"),
        (lambda logits, y: -log_odds(logits, y), "sign is turned round"),
        (_naive_log_odds, "NaN or infinite"),
        (lambda logits, y: _p(logits, y) ** 2, "goes flat"),
        (lambda logits, y: torch.nn.functional.cross_entropy(logits, y), "has shape ()"),
        (lambda logits, y: -2 * log_odds(logits, y), "goes flat"),
        (lambda logits, y: 2 * _z(logits, y) - _rest(logits, y).amax(1), "another way"),
        (lambda logits, y: log_odds(logits, y) - log_odds(logits, y).mean(), "other images"),
    ],
    "6.4": [
        (_painted(lambda x, g: (int(g[0]), int(g[1]))), "column and row are swapped"),
        (_painted(lambda x, g: (int(g[1]), int(g[0]))), "IndexError"),
        (_painted(_square_ends), "IndexError"),
        (_painted(_ends_swapped_sizes), "shape[3] columns"),
        (_painted(lambda x, g: (round(g[1].item()), round(g[0].item()))), "rounded"),
        (_painted(_ends, lambda old, new: old + new), "added"),
        (_painted(_ends, lambda old, new: new / 255), "divided by 255"),
        (_painted(_ends, lambda old, new: new[0]), "same value"),
        (_first_channel, "first channel"),
        (_painted(lambda x, g: (int(g[1]), slice(None)), lambda old, new: new[:, None]),
         "whole row"),
        (_in_the_image, "in place"),
        (lambda x, gene: x.clone(), "nothing is painted"),
    ],
}
RIGHT = {
    "6.1": [_masked, lambda a, b: a.clamp_min(0) * (-b).clamp_min(0)],
    "6.2": [_CHILD,
            lambda g, parents, f: torch.stack([g[i] + f * g[j] - f * g[k]
                                               for i, j, k in parents.tolist()])],
    "6.3": [lambda logits, y: _z(logits, y) - _rest(logits, y).logsumexp(1),
            lambda logits, y: -(_rest(logits, y) - _z(logits, y)[:, None]).logsumexp(1)],
    "6.4": [_mask, _painted(_ends)],
}
