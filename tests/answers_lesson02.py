"""What people answer to the exercises of lesson 02, beside the mistakes that the checks declare."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from course_lib.exercises.lesson02 import decided, strongest

WRONG, RIGHT = {}, {}


# --- 2.1 ----------------------------------------------------------------------------------------

def _mutant(chosen=lambda x, rate, g: torch.rand(x.shape, generator=g) < rate,
            fresh=lambda x, g: torch.rand(x.shape, generator=g)):
    return lambda x, rate, g: torch.where(chosen(x, rate, g), fresh(x, g), x)


def _drawn_once(x, rate, g):
    u = torch.rand(x.shape, generator=g)
    return torch.where(u < rate, u, x)


def _in_place(x, rate, g):
    chosen = torch.rand(x.shape, generator=g) < rate
    x[chosen] = torch.rand(x.shape, generator=g)[chosen]
    return x


def _few_places(x, rate, g):
    child, n = x.clone(), round(rate * x[0].numel())
    for one in child.flatten(1):
        one[torch.randperm(len(one), generator=g)[:n]] = torch.rand(n, generator=g)
    return child


def _jitter(draw):
    """Genes that mutate get draw(parents, generator), clamped to [0, 1]."""
    return _mutant(lambda x, rate, g: torch.rand(x.shape, generator=g) < rate,
                   lambda x, g: draw(x, g).clamp(0, 1))


WRONG["2.1"] = [
    (lambda x, rate, g: x.clone(), "nothing has mutated"),
    (lambda x, rate, g: torch.rand(x.shape, generator=g), "every gene has changed"),
    (_mutant(lambda x, rate, g: torch.rand(x.shape, generator=g) > rate), "inverted"),
    (_mutant(lambda x, rate, g: torch.rand(len(x), 1, 1, 1, generator=g) < 0.5), "wholly or not"),
    (_mutant(lambda x, rate, g: torch.rand(x.shape[1:], generator=g) < rate), "same places"),
    (_mutant(lambda x, rate, g: torch.rand(x.shape, generator=g) < 0.5), "about 50%"),
    (_mutant(lambda x, rate, g: torch.rand(x.shape) < rate), "two equal calls"),
    (_mutant(lambda x, rate, g: torch.rand(x.shape, generator=torch.Generator()) < rate,
             lambda x, g: torch.rand(x.shape, generator=torch.Generator().manual_seed(1))),
     "two generators"),
    (_drawn_once, "a second time"),
    (_jitter(lambda x, g: x + 0.5 * (torch.rand(x.shape, generator=g) - 0.5)), "jitters a gene"),
    (_jitter(lambda x, g: x + 0.5 * torch.randn(x.shape, generator=g)), "jitters a gene"),
    (_jitter(lambda x, g: torch.rand(x.shape, generator=g).round()), "spread of the new values"),
    (_in_place, "in place"),
    (_mutant(fresh=lambda x, g: x + 0.1 * torch.randn(x.shape, generator=g)), "leaves [0, 1]"),
    (_mutant(fresh=lambda x, g: (x + 0.1 * torch.rand(x.shape, generator=g)).clamp(0, 1)),
     "close to the old ones"),
    (_mutant(fresh=lambda x, g: torch.rand(x.shape, generator=g).square()), "should be 0.5"),
]
RIGHT["2.1"] = [
    lambda x, rate, g: _in_place(x.clone(), rate, g),
    _few_places,
]


# --- 2.2 ----------------------------------------------------------------------------------------

_right = decided(strongest)


def _overwritten(champions, scores, children, s):
    champions.copy_(_right(champions, scores, children, s)[0])
    return champions, scores.maximum(s.amax(0))


def _loop(champions, scores, children, s):
    champions, scores = champions.clone(), scores.clone()
    for child, row in zip(children, s, strict=True):
        for k in range(len(scores)):
            if row[k] > scores[k]:
                champions[k], scores[k] = child, row[k]
    return champions, scores


def _joined(champions, scores, children, s):
    everyone, all_scores = torch.cat([champions, children]), torch.cat([scores.diag(), s])
    all_scores[:len(scores)][~torch.eye(len(scores), dtype=torch.bool)] = -torch.inf
    best, index = all_scores.max(0)
    return everyone[index], best


WRONG["2.2"] = [
    (lambda c, s, x, t: (_right(c, s, x, t)[0], s), "those of the old champions"),
    (_overwritten, "in place"),
    (lambda c, s, x, t: _right(c, s, x, t)[0], "two results"),
    (lambda c, s, x, t: (_right(c, s, x, t)[0], t.amax(0)), "row of scores"),
    (decided(lambda t, s: strongest(-t, s)), "the champion (0 to 3"),
]
RIGHT["2.2"] = [_right, _loop, _joined]


# --- 2.3 ----------------------------------------------------------------------------------------

WRONG["2.3"] = [
    (lambda z: -(z.softmax(1) * z.log_softmax(1)).sum(), "one number for the batch"),
    (lambda z: -(z.softmax(1) * z.softmax(1).log()).sum(1), "0 * log 0"),
    (lambda z: -(z.softmax(1) * z.log_softmax(1)).amax(1), "should be"),
    (lambda z: -(z * z.log()).sum(1), "softmax(1) first"),
    (lambda z: -(z.sigmoid() * z.sigmoid().log()).sum(1), "softmax(1) first"),
    (lambda z: -(z / z.sum(1, keepdim=True) * (z / z.sum(1, keepdim=True)).log()).sum(1),
     "softmax(1) first"),
]
RIGHT["2.3"] = [
    lambda z: torch.distributions.Categorical(logits=z).entropy(),
    lambda z: torch.special.entr(z.softmax(1)).sum(1),
    lambda z: z.logsumexp(1) - (z.softmax(1) * z).sum(1),
]


# --- 2.4 ----------------------------------------------------------------------------------------

WRONG["2.4"] = [
    (lambda z, t: z.softmax(1)[:, :10].amax(1), "yes or no"),
    (lambda z, t: (z.softmax(1)[:, :10].amax(1) >= t).any(), "for each image"),
    (lambda z, t: z.softmax(1)[:, :10].sum(1) >= t, "the answer (1 is yes) at index [3]"),
]
RIGHT["2.4"] = [
    lambda z, t: (z.softmax(1)[:, :10] >= t).any(1),
    lambda z, t: F.log_softmax(z, 1)[:, :-1].max(1).values >= math.log(t),
]
