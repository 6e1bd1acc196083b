"""Exercises of lesson 02, fooling images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_lib.exercises import Exercise
from course_lib.exercises.diagnoses import (
    Finding,
    close,
    finite,
    image_like,
    in_box,
    per_image,
    repeatable,
    run,
)


def mutate(parents: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Children: each gene is drawn anew from [0, 1], with probability `rate`."""
    fresh = torch.rand(parents.shape, generator=generator)
    chosen = torch.rand(parents.shape, generator=generator) < rate
    return torch.where(chosen, fresh, parents)


def _diagnose_mutate(fn) -> Finding:
    def call(seed: int = 1) -> Tensor:
        return fn(parents.clone(), rate, torch.Generator().manual_seed(seed))

    rate, draw = 0.1, torch.Generator().manual_seed(2)
    parents = torch.rand(6, 1, 60, 60, generator=draw)
    children, said = run(fn, parents, rate, torch.Generator().manual_seed(1))
    if said := said or image_like(children, parents, "generation") or in_box(children):
        return said
    changed = children != parents
    share, by_child = changed.float().mean().item(), changed.flatten(1).float().mean(1)
    if share == 0:
        return "the children are their parents: nothing has mutated."
    if said := repeatable(call):
        return said
    if torch.equal(call(1), call(2)):
        return ("two generators give the same children. Draw from the generator that is passed in: "
                "torch.rand(shape, generator=generator).")
    if share > 0.99:
        return "every gene has changed: a child that keeps nothing of its parent is a stranger."
    if bool(((by_child == 0) | (by_child > 0.9)).all()):
        return ("a child changes wholly or not at all. Each gene decides for itself: draw one "
                "random number for each entry, not for each image.")
    if abs(share - (1 - rate)) < 0.02:
        return f"about {share:.0%} of the genes mutate, not {rate:.0%}: is the test inverted?"
    if abs(share - rate) > 0.02:
        return f"about {share:.0%} of the genes mutate; with rate = {rate} it should be {rate:.0%}."
    if torch.equal(changed[0], changed[1]):
        return ("all children change at the same places. Draw a mask for each child: of the shape "
                "of parents, all of it.")
    values = children[changed]
    if values.max() <= rate + 1e-6:
        return ("the new values are all below the rate: the random numbers that chose the genes "
                "are used a second time as their values. Draw twice.")
    if bool(((values - parents[changed]).abs() < 0.2).all()):
        return "the new values stay close to the old ones; they should be drawn anew from [0, 1]."
    if torch.corrcoef(torch.stack([values, parents[changed]]))[0, 1] > 0.15:
        return ("the new values depend on the old ones: that jitters a gene. Here a gene that "
                "mutates is drawn anew from [0, 1], whatever it was.")
    uniform = "torch.rand gives numbers that are uniform in [0, 1]."
    return (close(values.mean(), 0.5, "the mean of the new values", uniform, atol=0.05)
            or close(values.std(), 12**-0.5, "the spread of the new values", uniform, atol=0.03))


def compete(
    champions: Tensor, scores: Tensor, children: Tensor, child_scores: Tensor
) -> tuple[Tensor, Tensor]:
    """The champions and scores after every child has competed in every class."""
    best, index = child_scores.max(0)
    better = best > scores
    champions = torch.where(better.view(-1, 1, 1, 1), children[index], champions)
    return champions, torch.where(better, best, scores)


def _diagnose_compete(fn) -> Finding:
    # Genomes are numbered, champions from 0 and children from 10, so that they can be told apart.
    champions = torch.arange(4.0).view(4, 1, 1, 1).repeat(1, 1, 2, 2)
    children = 10 + torch.arange(3.0).view(3, 1, 1, 1).repeat(1, 1, 2, 2)
    scores = torch.tensor([0.5, -1.0, 2.0, 0.0])
    # Child 0 is best at class 0 and 1; child 1 at class 3; class 2 keeps its champion.
    child_scores = torch.tensor([[3.0, 1.0, -4.0, -2.0],
                                 [0.7, 0.0, 1.0, 5.0],
                                 [0.6, -2.0, 1.5, 0.1]])
    result, said = run(fn, champions, scores, children, child_scores)
    if said:
        return said
    if not isinstance(result, tuple | list) or len(result) != 2:
        return "two results are expected, the champions and their scores: return a, b."
    mine, mine_scores = result
    if said := (image_like(mine, champions, "set of champions")
                or image_like(mine_scores, scores, "row of scores")):
        return said
    who = mine[:, 0, 0, 0].tolist()
    mistakes: dict[tuple[int, ...], str] = {
        (0, 1, 2, 3): "no champion has fallen, though children beat three of them.",
        (10, 10, 12, 11): "class 2 gets a child that is worse than its champion. A champion falls "
                          "only to a better one.",
        (10, 1, 2, 11): "each child competes only in the class that it is best at. Child 0 beats "
                        "the champion of class 1 as well: every child competes in every class.",
        (11, 11, 2, 11): "all classes ask the same child, the one with the highest score of all.",
        (0, 1, 12, 3): "the comparison is turned round: only the champion that is better falls.",
        (12, 11, 2, 12): "the last child that beats a champion takes its place, not the best one.",
    }
    if said := mistakes.get(tuple(int(value) for value in who)):
        return said
    if who != [10, 10, 2, 11]:
        return (f"for the four classes the champions should be child 0, child 0, the old one and "
                f"child 1 (numbers 10, 10, 2, 11), yours are {[int(value) for value in who]}.")
    if torch.equal(mine_scores, scores):
        return ("the scores are still those of the old champions: in the next generation weaker "
                "children would win.")
    return close(mine_scores, torch.tensor([3.0, 1.0, 2.0, 5.0]), "the row of scores",
                 "The larger of the champion's and the best child's, class by class.")


def entropy(logits: Tensor) -> Tensor:
    """-sum over k of p_k log p_k, for each image; log is the natural logarithm. [n]"""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def _diagnose_entropy(fn) -> Finding:
    logits = 2 * torch.randn(6, 10, generator=torch.Generator().manual_seed(3))
    mine, said = run(fn, logits)
    if isinstance(mine, Tensor) and mine.dim() == 0:
        return "you return one number for the batch; one for each image is expected, [n]."
    if said := said or image_like(mine, logits[:, 0], "entropy"):
        return said
    p, right = logits.softmax(1), entropy(logits)
    mistakes = {
        "the sign is missing: log p is negative, and entropy is not.": -right,
        "the logarithm has base 2: that is the entropy in bits. Take the natural one, torch.log.":
            right / math.log(2),
        "the mean over the classes is taken; the formula has the sum.": right / 10,
        "the probabilities do not weigh the logarithms: p_k log p_k, then the sum.":
            -p.log().sum(1),
        "only the most probable class counts. Sum over all classes.":
            -(p * p.log()).gather(1, p.argmax(1, keepdim=True)).squeeze(1),
        "the softmax runs over the images of the batch. Take dimension 1, the classes.":
            -(logits.softmax(0) * logits.log_softmax(0)).sum(1),
        "p multiplies the logits themselves. Take the logarithm of p.": -(p * logits).sum(1),
        "this is the largest probability. It tells who wins, not how the rest is spread.":
            p.amax(1),
    }
    for mistake, result in mistakes.items():
        if torch.allclose(mine, result, atol=1e-5):
            return mistake
    if not torch.allclose(fn(logits + 20), fn(logits.clone()), atol=1e-3):
        return ("your result changes when 20 is added to all logits, the probabilities do not: "
                "logits are no probabilities. Take p = logits.softmax(1) first.")
    certain = torch.zeros(2, 10)
    certain[:, 4] = 200.0
    if not bool(fn(certain.clone()).isfinite().all()):
        return ("where the network is certain your entropy is NaN: some p_k is exactly 0 there, "
                "and 0 * log 0 is not a number. logits.log_softmax(1) never says minus infinity.")
    return (finite(mine, "entropy")
            or close(fn(torch.zeros(2, 10)), torch.full((2,), math.log(10)),
                     "the entropy of ten equal logits", "It is log 10, the largest there is.")
            or per_image(fn, logits, what="entropy")
            or close(mine, right, "the entropy", "Compare term by term with the formula."))


def takes_for_a_digit(logits: Tensor, threshold: float) -> Tensor:
    """Which images get one of the first ten classes with p >= threshold: bool [n]."""
    return logits.softmax(1)[:, :10].amax(1) >= threshold


def _diagnose_digit(fn) -> Finding:
    # Class 10 is "none of these". Row by row: sure of 3; sure of none; half and half; torn between
    # two digits; none against a digit that leads the others by far; half and half again.
    logits = torch.zeros(6, 11)
    logits[0, 3], logits[1, 10] = 12.0, 12.0
    logits[2::3, 5] = logits[2::3, 10] = 9.0
    logits[3, 1] = logits[3, 2] = 9.0
    logits[4, 7], logits[4, 10] = 20.0, 26.0
    mine, said = run(fn, logits, 0.9)
    if said:
        return said
    if not isinstance(mine, Tensor) or mine.shape != (6,):
        shape = tuple(mine.shape) if isinstance(mine, Tensor) else type(mine).__name__
        return f"one answer for each image is expected, [6] here; your function returns {shape}."
    if mine.dtype != torch.bool:
        return f"yes or no is expected, a tensor of dtype bool; yours has {mine.dtype}."
    mistakes = {
        (True, False, True, False, True, True):
            "the eleventh class is cut off before the softmax, which shares its part out among the "
            "digits: images that the network calls \"none of these\" look certain. Softmax first.",
        (True, True, False, False, True, False):
            "\"none of these\" counts as a digit: an image that the network rejects is not fooling "
            "it. Look at the first ten probabilities.",
        (False, True, False, False, True, False):
            "these are the images that are rejected. The question is which ones are taken for a "
            "digit.",
        (True, False, True, True, False, True):
            "the winner is a digit, but how certain it is does not count. Compare with threshold.",
        (True, False, True, True, True, True):
            "logits are compared with the threshold. It is a probability: softmax first.",
        (True, False, False, True, True, False):
            "the softmax runs over the images of the batch. Take dimension 1, the classes.",
        (False, True, True, True, True, True): "the comparison is turned round: p >= threshold.",
        (True, True, True, True, True, True): "every image is taken for a digit.",
        (False, False, False, False, False, False): "no image is taken for a digit.",
    }
    if said := mistakes.get(tuple(mine.tolist())):
        return said
    if mine.tolist() != [True, False, False, False, False, False]:
        return (f"of six images the first alone is a certain digit; yours are {mine.tolist()}. "
                "Is the softmax taken over the classes, dimension 1?")
    if not bool(fn(logits.clone(), 0.45)[[0, 2, 3, 5]].all()):
        return "with threshold = 0.45 images 0, 2, 3 and 5 get a digit: is the threshold used?"
    return per_image(lambda z: fn(z, 0.9).float(), logits, what="answer")


EXERCISES = [
    Exercise(
        id="2.1",
        title="mutation",
        stub='''
def mutate(parents, rate, generator):
    """Children: each gene is drawn anew from [0, 1], with probability `rate`."""
    # your lines here
    return parents
''',
        solution=mutate,
        hints=(
            "Two random draws, both of the shape of parents: which genes change, and to what.",
            "`torch.rand(parents.shape, generator=generator) < rate` is True with probability "
            "rate, gene by gene.",
            "`torch.where(chosen, fresh, parents)` takes the fresh value where chosen is True.",
        ),
        diagnose=_diagnose_mutate,
        praise="Most of the parent survives, and that is what lets evolution keep what it found.",
    ),
    Exercise(
        id="2.2",
        title="every child competes in every class",
        stub='''
def compete(champions, scores, children, child_scores):
    """The champions and scores after every child has competed in every class."""
    # champions [classes, 1, 28, 28], scores [classes]: their log odds
    # children [n, 1, 28, 28], child_scores [n, classes]
    return champions, scores
''',
        solution=compete,
        hints=(
            "For each class: which child is best at it, and is that child better than the "
            "champion?",
            "`best, index = child_scores.max(0)` answers the first question for all classes.",
            "`better = best > scores`. Then torch.where twice: `better.view(-1, 1, 1, 1)` fits "
            "images, `better` fits scores.",
        ),
        diagnose=_diagnose_compete,
        praise="A child of the champion for 3 may become the champion for 8: that is the trick.",
    ),
    Exercise(
        id="2.3",
        title="how undecided?",
        stub='''
def entropy(logits):
    """-sum over k of p_k log p_k, for each image; log is the natural logarithm. [n]"""
    return logits[:, 0]
''',
        solution=entropy,
        hints=(
            "The softmax over dimension 1 turns logits into the probabilities p of each image.",
            "Multiply p by its logarithm, sum over the classes, change the sign.",
            "A probability can be exactly 0 in float32. `logits.log_softmax(1)` is its logarithm, "
            "computed without ever taking log 0.",
        ),
        diagnose=_diagnose_entropy,
        praise="Zero for a network that is certain, log 10 for one that has no idea.",
    ),
    Exercise(
        id="2.4",
        title="find the mistake",
        stub='''
def takes_for_a_digit(logits, threshold):
    """Which images get one of the first ten classes with p >= threshold: bool [n]."""
    p = logits[:, :10].softmax(1)
    return p.amax(1) >= threshold
''',
        solution=takes_for_a_digit,
        hints=(
            "Think of an image that the network calls \"none of these\" with 99 %. What does the "
            "function say about it?",
            "The ten numbers p add up to one. Should they, when there are eleven classes?",
            "Take the softmax of all eleven logits, then look at the first ten probabilities.",
        ),
        diagnose=_diagnose_digit,
        praise="Cut off before the softmax, the answer \"none of these\" cannot be heard.",
    ),
]
