"""What people answer to the exercises of lesson 02."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

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

def _column(better):
    return better.view(-1, 1, 1, 1)


def _always(champions, scores, children, s):
    best, index = s.max(0)
    return children[index], best


def _own_class_only(champions, scores, children, s):
    champions, scores = champions.clone(), scores.clone()
    for child, row in zip(children, s, strict=True):
        k = row.argmax()
        if row[k] > scores[k]:
            champions[k], scores[k] = child, row[k]
    return champions, scores


def _one_for_all(champions, scores, children, s):
    child = s.amax(1).argmax()
    better = s[child] > scores
    return torch.where(_column(better), children[child], champions), scores.maximum(s[child])


def _turned(champions, scores, children, s):
    best, index = s.max(0)
    return torch.where(_column(best < scores), children[index], champions), scores.minimum(best)


def _last(champions, scores, children, s):
    champions = champions.clone()
    for child, row in zip(children, s, strict=True):
        champions[row > scores] = child
    return champions, scores.maximum(s.amax(0))


def _old_scores(champions, scores, children, s):
    best, index = s.max(0)
    return torch.where(_column(best > scores), children[index], champions), scores


def _overwritten(champions, scores, children, s):
    best, index = s.max(0)
    champions[best > scores] = children[index][best > scores]
    return champions, scores.maximum(best)


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
    (lambda c, s, x, t: (c, s), "no champion has fallen"),
    (_always, "worse than its champion"),
    (_own_class_only, "every child competes in every class"),
    (_one_for_all, "the same child"),
    (_turned, "turned round"),
    (_last, "not the best one"),
    (_old_scores, "those of the old champions"),
    (_overwritten, "in place"),
    (lambda c, s, x, t: _loop(c, s, x, t)[0], "two results"),
    (lambda c, s, x, t: (_loop(c, s, x, t)[0], t.amax(0)), "row of scores"),
]
RIGHT["2.2"] = [_loop, _joined]


# --- 2.3 ----------------------------------------------------------------------------------------

WRONG["2.3"] = [
    (lambda z: (z.softmax(1) * z.log_softmax(1)).sum(1), "sign is missing"),
    (lambda z: -(z.softmax(1) * z.softmax(1).log2()).sum(1), "base 2"),
    (lambda z: -(z.softmax(1) * z.log_softmax(1)).mean(1), "mean over the classes"),
    (lambda z: -z.log_softmax(1).sum(1), "do not weigh"),
    (lambda z: -(z.softmax(0) * z.log_softmax(0)).sum(1), "over the images"),
    (lambda z: -(z.softmax(1) * z).sum(1), "the logits themselves"),
    (lambda z: z.softmax(1).amax(1), "largest probability"),
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
    (lambda z, t: z[:, :10].softmax(1).amax(1) > t, "cut off before"),
    (lambda z, t: z.softmax(1).amax(1) >= t, "counts as a digit"),
    (lambda z, t: z.softmax(1)[:, 10] >= t, "rejected"),
    (lambda z, t: z.argmax(1) < 10, "how certain it is"),
    (lambda z, t: z[:, :10].amax(1) >= t, "logits are compared"),
    (lambda z, t: z.softmax(1)[:, :10].amax(1) < t, "turned round"),
    (lambda z, t: z.softmax(1)[:, :10].amax(1), "yes or no"),
    (lambda z, t: (z.softmax(1)[:, :10].amax(1) >= t).any(), "for each image"),
    (lambda z, t: z.softmax(1)[:, :10].amax(1) >= 0.9, "is the threshold used"),
    (lambda z, t: z.softmax(0)[:, :10].amax(1) >= t, "dimension 1"),
]
RIGHT["2.4"] = [
    lambda z, t: (z.softmax(1)[:, :10] >= t).any(1),
    lambda z, t: F.log_softmax(z, 1)[:, :-1].max(1).values >= math.log(t),
]
