"""What people answer to the exercises of lesson 06, beside the mistakes that the checks declare."""

from __future__ import annotations

import torch

from course_lib.exercises.lesson06 import children, logit, mixed, probability, repainted, there
from course_lib.losses import log_odds, other_logits


def _masked(a, b):
    return a * b.abs() * (a >= 0) * (b <= 0)


def _per_batch(a, b):
    s = _masked(a, b)
    return s / s.max()


def _in_place(a, b):
    a[(a < 0) | (b > 0)] = 0
    return a * b.abs()


def _naive_log_odds(logits, y):
    p = logits.softmax(1).gather(1, y[:, None]).squeeze(1)
    return (p / (1 - p)).log()


def _clamped(columns, rows):
    """Paints within the image, if columns and rows are the dimensions that count them."""
    def fn(x, gene):
        def place(gene):
            row, column = there(gene)
            return min(row, x.shape[rows] - 1), min(column, x.shape[columns] - 1)
        return repainted(place)(x, gene)
    return fn


def _in_the_image(x, gene):
    x.copy_(_clamped(3, 2)(x, gene))
    return x


def _mask(x, gene):
    here = torch.zeros_like(x, dtype=torch.bool)
    here[0, :, min(int(gene[1]), x.shape[2] - 1), min(int(gene[0]), x.shape[3] - 1)] = True
    return torch.where(here, gene[2:].view(1, 3, 1, 1), x)


WRONG = {
    "6.1": [
        (_per_batch, "depends on the other images"),
        (_in_place, "in place"),
        (lambda a, b: None, "returns nothing"),
        (lambda a, b: 2 * _masked(a, b), "the saliency map"),
    ],
    "6.2": [
        (mixed(lambda a, b, c, f: a + 0.4 * (b - c)), "the generation at index"),
    ],
    "6.3": [
        (_naive_log_odds, "NaN or infinite"),
        (lambda logits, y: probability(logits, y) ** 2, "goes flat"),
        (lambda logits, y: torch.nn.functional.cross_entropy(logits, y), "has shape ()"),
        (lambda logits, y: -2 * log_odds(logits, y), "goes flat"),
        (lambda logits, y: 2 * logit(logits, y) - other_logits(logits, y).amax(1), "another way"),
        (lambda logits, y: log_odds(logits, y) - log_odds(logits, y).mean(), "other images"),
    ],
    "6.4": [
        (repainted(there), "IndexError"),
        (_clamped(3, 3), "IndexError"),
        (_clamped(2, 2), "shape[3] columns"),
        (_in_the_image, "in place"),
    ],
}
RIGHT = {
    "6.1": [_masked, lambda a, b: a.clamp_min(0) * (-b).clamp_min(0)],
    "6.2": [lambda *given: children(*given),
            lambda g, parents, f: torch.stack([g[i] + f * g[j] - f * g[k]
                                               for i, j, k in parents.tolist()])],
    "6.3": [lambda logits, y: logit(logits, y) - other_logits(logits, y).logsumexp(1),
            lambda logits, y: -(other_logits(logits, y) - logit(logits, y)[:, None]).logsumexp(1)],
    "6.4": [_mask, _clamped(3, 2)],
}
