"""Exercises of lesson 02, fooling images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

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
from course_lib.exercises.examiner import Examiner, first
from course_lib.exercises.exercise import Exercise


def mutate(parents: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Children: each gene is drawn anew from [0, 1], with probability `rate`."""
    fresh = torch.rand(parents.shape, generator=generator)
    chosen = torch.rand(parents.shape, generator=generator) < rate
    return torch.where(chosen, fresh, parents)


def _mutation(fn: Callable[..., Tensor]) -> Finding:
    def call(seed: int = 1) -> Tensor:
        return fn(parents.clone(), rate, torch.Generator().manual_seed(seed))

    rate, draw = 0.1, torch.Generator().manual_seed(2)
    parents = torch.rand(6, 1, 60, 60, generator=draw)
    children, finding = run(fn, parents, rate, torch.Generator().manual_seed(1))
    return (finding or image_like(children, parents, "generation") or in_box(children)
            or _chosen_genes(children, parents, rate)
            or repeatable(call)
            or first({"two generators give the same children. Draw from the generator that is "
                      "passed in: torch.rand(shape, generator=generator).":
                          torch.equal(call(1), call(2))})
            or _new_values(children, parents, rate))


def _chosen_genes(children: Tensor, parents: Tensor, rate: float) -> Finding:
    changed = children != parents
    share, by_child = changed.float().mean().item(), changed.flatten(1).float().mean(1)
    return first({
        "the children are their parents: nothing has mutated.": share == 0,
        "every gene has changed: a child that keeps nothing of its parent is a stranger.":
            share > 0.99,
        "a child changes wholly or not at all. Each gene decides for itself: draw one random "
        "number for each entry, not for each image.": ((by_child == 0) | (by_child > 0.9)).all(),
        f"about {share:.0%} of the genes mutate, not {rate:.0%}: is the test inverted?":
            abs(share - (1 - rate)) < 0.02,
        f"about {share:.0%} of the genes mutate; with rate = {rate} it should be {rate:.0%}.":
            abs(share - rate) > 0.02,
        "all children change at the same places. Draw a mask for each child: of the shape of "
        "parents, all of it.": torch.equal(changed[0], changed[1]),
    })


def _new_values(children: Tensor, parents: Tensor, rate: float) -> Finding:
    new, old = children[children != parents], parents[children != parents]
    uniform = "torch.rand gives numbers that are uniform in [0, 1]."
    return first({
        "the new values are all below the rate: the random numbers that chose the genes are used "
        "a second time as their values. Draw twice.": new.max() <= rate + 1e-6,
        "the new values stay close to the old ones; they should be drawn anew from [0, 1].":
            ((new - old).abs() < 0.2).all(),
        "the new values depend on the old ones: that jitters a gene. Here a gene that mutates is "
        "drawn anew from [0, 1], whatever it was.":
            torch.corrcoef(torch.stack([new, old]))[0, 1] > 0.15,
    }) or (close(new.mean(), 0.5, "the mean of the new values", uniform, atol=0.05)
           or close(new.std(), 12**-0.5, "the spread of the new values", uniform, atol=0.03))


def compete(
    champions: Tensor, scores: Tensor, children: Tensor, child_scores: Tensor
) -> tuple[Tensor, Tensor]:
    """The champions and scores after every child has competed in every class."""
    best, index = child_scores.max(0)
    better = best > scores
    champions = torch.where(better.view(-1, 1, 1, 1), children[index], champions)
    return champions, torch.where(better, best, scores)


def _generation() -> list[tuple[Tensor, ...]]:
    """Genomes are numbered, champions from 0 and children from 10: they can be told apart."""
    champions = torch.arange(4.0).view(4, 1, 1, 1).repeat(1, 1, 2, 2)
    children = 10 + torch.arange(3.0).view(3, 1, 1, 1).repeat(1, 1, 2, 2)
    scores = torch.tensor([0.5, -1.0, 2.0, 0.0])
    # Child 0 is best at class 0 and 1; child 1 at class 3; class 2 keeps its champion.
    child_scores = torch.tensor([[3.0, 1.0, -4.0, -2.0],
                                 [0.7, 0.0, 1.0, 5.0],
                                 [0.6, -2.0, 1.5, 0.1]])
    return [(champions, scores, children, child_scores)]


def _pair(result: object, champions: Tensor, scores: Tensor, *_: Tensor) -> Finding:
    if not isinstance(result, tuple | list) or len(result) != 2:
        return "two results are expected, the champions and their scores: return a, b."
    return (image_like(result[0], champions, "set of champions")
            or image_like(result[1], scores, "row of scores"))


def strongest(child_scores: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """For each class: whether the best child beats the champion, and which child is the best."""
    return child_scores.amax(0) > scores, child_scores.argmax(0)


def decided(rule: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[..., object]:
    """A competition in which rule(child_scores, scores) names the winners, as `strongest` does."""
    def compete(champions: Tensor, scores: Tensor, children: Tensor, s: Tensor) -> object:
        better, index = rule(s, scores)
        return (torch.where(better.view(-1, 1, 1, 1), children[index], champions),
                torch.where(better, s.gather(0, index[None])[0], scores))
    return compete


def _scores(fn: Callable[..., tuple[Tensor, Tensor]]) -> Finding:
    ((champions, scores, *challengers),) = _generation()
    _, mine = fn(champions, scores.clone(), *challengers)
    if torch.equal(mine, scores):
        return ("the scores are still those of the old champions: in the next generation weaker "
                "children would win.")
    return close(mine, compete(champions, scores, *challengers)[1], "the row of scores",
                 "The larger of the champion's and the best child's, class by class.")


_COMPETE = Examiner(
    compete, _generation, properties=(_pair,), part=lambda result: result[0][:, 0, 0, 0],
    name="the champion (0 to 3 are the old ones, 10 to 12 the children)", further=_scores,
    idea="In each class the best child takes over, if it is better than the champion.",
    mistakes={
        "no champion has fallen, though children beat three of them.":
            lambda champions, scores, *_: (champions, scores),
        "class 2 gets a child that is worse than its champion. A champion falls only to a better "
        "one.": decided(lambda s, scores: (s.amax(0) > -torch.inf, s.argmax(0))),
        "each child competes only in the class that it is best at. Child 0 beats the champion of "
        "class 1 as well: every child competes in every class.":
            decided(lambda s, scores: strongest(s.masked_fill(s < s.amax(1)[:, None], -9), scores)),
        "all classes ask the same child, the one with the highest score of all.":
            decided(lambda s, scores: (s[s.amax(1).argmax()] > scores,
                                       s.amax(1).argmax().expand(4))),
        "the comparison is turned round: only the champion that is better falls.":
            decided(lambda s, scores: (s.amax(0) < scores, s.argmax(0))),
        "the last child that beats a champion takes its place, not the best one.":
            decided(lambda s, scores: strongest((s > scores) * torch.arange(1, 4)[:, None],
                                                torch.zeros(4))),
    })


def entropy(logits: Tensor) -> Tensor:
    """-sum over k of p_k log p_k, for each image; log is the natural logarithm. [n]"""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def _logits() -> list[tuple[Tensor]]:
    return [(2 * torch.randn(6, 10, generator=torch.Generator().manual_seed(3)),)]


def _one_per_image(mine: object, logits: Tensor) -> Finding:
    if isinstance(mine, Tensor) and mine.dim() == 0:
        return "you return one number for the batch; one for each image is expected, [n]."
    return image_like(mine, logits[:, 0], "entropy")


def _of_probabilities(fn: Callable[[Tensor], Tensor]) -> Finding:
    """What other logits show: shifted, certain, undecided ones."""
    ((logits,),) = _logits()
    mine = fn(logits.clone())
    if not torch.allclose(fn(logits + 20), mine, atol=1e-3):
        return ("your result changes when 20 is added to all logits, the probabilities do not: "
                "logits are no probabilities. Take p = logits.softmax(1) first.")
    if not bool(fn(200 * torch.eye(2, 10)).isfinite().all()):
        return ("where the network is certain your entropy is NaN: some p_k is exactly 0 there, "
                "and 0 * log 0 is not a number. logits.log_softmax(1) never says minus infinity.")
    return (finite(mine, "entropy")
            or close(fn(torch.zeros(2, 10)), torch.full((2,), math.log(10)),
                     "the entropy of ten equal logits", "It is log 10, the largest there is.")
            or per_image(fn, logits, what="entropy")
            or close(mine, entropy(logits), "the entropy", "Compare term by term with the "
                                                           "formula."))


_ENTROPY = Examiner(
    entropy, _logits, exact=False, further=_of_probabilities, properties=(_one_per_image,),
    mistakes={
        "the sign is missing: log p is negative, and entropy is not.": lambda z: -entropy(z),
        "the logarithm has base 2: that is the entropy in bits. Take the natural one, torch.log.":
            lambda z: entropy(z) / math.log(2),
        "the mean over the classes is taken; the formula has the sum.":
            lambda z: entropy(z) / z.shape[1],
        "the probabilities do not weigh the logarithms: p_k log p_k, then the sum.":
            lambda z: -z.log_softmax(1).sum(1),
        "only the most probable class counts. Sum over all classes.":
            lambda z: -z.softmax(1).amax(1) * z.log_softmax(1).amax(1),
        "the softmax runs over the images of the batch. Take dimension 1, the classes.":
            lambda z: -(z.softmax(0) * z.log_softmax(0)).sum(1),
        "p multiplies the logits themselves. Take the logarithm of p.":
            lambda z: -(z.softmax(1) * z).sum(1),
        "this is the largest probability. It tells who wins, not how the rest is spread.":
            lambda z: z.softmax(1).amax(1),
    })


def takes_for_a_digit(logits: Tensor, threshold: float) -> Tensor:
    """Which images get one of the first ten classes with p >= threshold: bool [n]."""
    return logits.softmax(1)[:, :10].amax(1) >= threshold


def _answers() -> list[tuple[Tensor, float]]:
    """Class 10 is "none of these".

    Row by row: sure of 3; sure of none; half and half; torn between two digits; none against a
    digit that leads the others by far; half and half again.
    """
    logits = torch.zeros(6, 11)
    logits[0, 3], logits[1, 10] = 12.0, 12.0
    logits[2::3, 5] = logits[2::3, 10] = 9.0
    logits[3, 1] = logits[3, 2] = 9.0
    logits[4, 7], logits[4, 10] = 20.0, 26.0
    return [(logits, 0.9), (logits, 0.45)]


def _yes_or_no(mine: object, logits: Tensor, threshold: float) -> Finding:
    if not isinstance(mine, Tensor) or mine.shape != (6,):
        shape = tuple(mine.shape) if isinstance(mine, Tensor) else type(mine).__name__
        return f"one answer for each image is expected, [6] here; your function returns {shape}."
    if mine.dtype != torch.bool:
        return f"yes or no is expected, a tensor of dtype bool; yours has {mine.dtype}."
    return None


_DIGIT = Examiner(
    takes_for_a_digit, _answers, in_order=True, properties=(_yes_or_no,),
    further=lambda fn: per_image(lambda z: fn(z, 0.9).float(), _answers()[0][0], what="answer"),
    name="with threshold = {1}, the answer (1 is yes)",
    idea="Is the softmax taken over the classes, dimension 1?",
    mistakes={
        "the eleventh class is cut off before the softmax, which shares its part out among the "
        "digits: images that the network calls \"none of these\" look certain. Softmax first.":
            lambda z, threshold: z[:, :10].softmax(1).amax(1) >= threshold,
        "\"none of these\" counts as a digit: an image that the network rejects is not fooling it. "
        "Look at the first ten probabilities.":
            lambda z, threshold: z.softmax(1).amax(1) >= threshold,
        "these are the images that are rejected. The question is which ones are taken for a digit.":
            lambda z, threshold: z.softmax(1)[:, 10] >= threshold,
        "the winner is a digit, but how certain it is does not count. Compare with threshold.":
            lambda z, threshold: z.argmax(1) < 10,
        "logits are compared with the threshold. It is a probability: softmax first.":
            lambda z, threshold: z[:, :10].amax(1) >= threshold,
        "the softmax runs over the images of the batch. Take dimension 1, the classes.":
            lambda z, threshold: z.softmax(0)[:, :10].amax(1) >= threshold,
        "the comparison is turned round: p >= threshold.":
            lambda z, threshold: z.softmax(1)[:, :10].amax(1) < threshold,
        "every image is taken for a digit.": lambda z, threshold: z[:, 0] > -torch.inf,
        "no image is taken for a digit.": lambda z, threshold: z[:, 0] == torch.inf,
        "with threshold = 0.45 images 0, 2, 3 and 5 get a digit: is the threshold used?":
            lambda z, threshold: takes_for_a_digit(z, 0.9),
    })


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
        diagnose=_mutation,
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
            "torch.where keeps the champion where no child is better. For images its condition "
            "needs the shape [classes, 1, 1, 1].",
        ),
        diagnose=_COMPETE,
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
        diagnose=_ENTROPY,
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
            "The line with the softmax does two things. Which of them has to come first?",
        ),
        diagnose=_DIGIT,
        praise="Cut off before the softmax, the answer \"none of these\" cannot be heard.",
    ),
]
