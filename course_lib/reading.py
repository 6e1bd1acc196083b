"""Reading: a network that answers a question with words of a passage.

    python -m course_lib.reading              trains the network that ships: data/weights/reader.*
    python -m course_lib.reading --defence    trains another on added sentences as well, and writes
                                              data/results/reader_defence.json

Taught in lesson 08.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_lib import cards, files, models, passages, runtime
from course_lib.passages import Item, number, words
from course_lib.training import initialise, save

NAME = "reader"
TESTED = 1000  # passages of the card
LONGEST = 3  # words of an answer
LARGE = "distilbert/distilbert-base-cased-distilled-squad"
_BLIND = 0.5  # the share of training passages in which no word is marked as one of the question
_LR = 3e-3

# How a test passage is changed: not at all, or by a sentence that looks like an answer.
CHANGES: dict[str, Callable[[Item], Item]] = {
    "no sentence": lambda item: item,
    "at the end": lambda item: item.with_sentence(item.added[0]),
    "in front": lambda item: item.with_sentence(item.added[0], first=True),
    "at the end, other wording": lambda item: item.with_sentence(item.added[1]),
}


@dataclass(frozen=True, eq=False)
class Reading:
    """What a network reads: the words of the passage, a weight for each, and its answer.

    weights [words]: the attention, as the probability that the answer starts at that word.
    """

    words: list[str]
    weights: Tensor
    answer: str


def encode(items: Sequence[Item]) -> tuple[Tensor, Tensor, Tensor]:
    """Passages and questions as numbers of words, padded with 0, as `models.Reader` takes them.

    Shape: n items -> passage [n, words], same [n, words] (1 where the word is in the question),
    question [n, words of the longest], all int64.
    """
    texts = [words(item.passage) for item in items]
    asked = [words(item.question) for item in items]
    same = [[int(word in question) for word in text]
            for text, question in zip(texts, asked, strict=True)]
    return (_padded([[number(word) for word in text] for text in texts]), _padded(same),
            _padded([[number(word) for word in text] for text in asked]))


def _padded(rows: list[list[int]]) -> Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def ends(items: Sequence[Item]) -> Tensor:
    """Where the answers start and end: each place at which a passage holds its answer is right.

    Shape: n items -> [n, 2, words] bool.
    Raises: ValueError for an answer that is not in its passage.
    """
    texts = [words(item.passage) for item in items]
    right = torch.zeros(len(items), 2, max(map(len, texts)), dtype=torch.bool)
    for row, text, item in zip(right, texts, items, strict=True):
        answer = words(item.answer)
        for i in range(len(text)):
            if text[i:i + len(answer)] == answer:
                row[0, i] = row[1, i + len(answer) - 1] = True
    if not bool(right.any(2).all()):
        raise ValueError("an answer is not in its passage: give it in the words of the passage")
    return right


def read(model: nn.Module, items: Sequence[Item]) -> list[Reading]:
    """The answer to each question: from the most probable start to the best end close behind it.

    Lesson: 08.
    """
    where = next(model.parameters()).device
    with torch.no_grad():
        logits = model(*(part.to(where) for part in encode(items))).cpu()
    found = []
    for (start, end), item in zip(logits, items, strict=True):
        text = words(item.passage)
        first = int(start.argmax())
        last = first + int(end[first:first + LONGEST].argmax())
        found.append(Reading(text, start.softmax(0)[:len(text)], " ".join(text[first:last + 1])))
    return found


def answers_of_transformers(items: Sequence[Item], name: str = LARGE) -> list[str]:
    """The answers of a large reader, for whoever has the package transformers.

    name: a network for question answering, from the Hugging Face Hub or a folder; the default was
    trained on SQuAD (Rajpurkar et al. 2016). It is fetched once, about 260 MB, as safetensors.

    Raises: ImportError that says what to install; OSError where the network cannot be fetched.
    Lesson: 08.
    """
    try:
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer
    except ImportError as error:
        raise ImportError("a large reader needs a package: pip install transformers") from error
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForQuestionAnswering.from_pretrained(name, use_safetensors=True).eval()
    answers = []
    for item in items:
        tokens = tokenizer(item.question, item.passage, return_tensors="pt")
        with torch.no_grad():
            out = model(**tokens)
        first = int(out.start_logits[0].argmax())
        last = first + int(out.end_logits[0, first:].argmax())
        answers.append(tokenizer.decode(tokens["input_ids"][0, first:last + 1],
                                        skip_special_tokens=True))
    return answers


def share_right(model: nn.Module, items: Sequence[Item]) -> float:
    """The share of questions whose answer is word for word the right one."""
    return sum(reading.answer == " ".join(words(item.answer))
               for reading, item in zip(read(model, items), items, strict=True)) / len(items)


def fit(
    model: nn.Module, *, rounds: int, passages_per_round: int = 3000, batch_size: int = 64,
    change: Callable[[Item], Item] = CHANGES["no sentence"],
    on_round: Callable[[int, float], None] | None = None,
) -> None:
    """Train a reader in place on fresh passages in each round; it is left in eval mode.

        min over theta of  -log P(a right start) - log P(a right end), the mean over passages

    Every second passage goes through `change` before. In half of the passages the network does not
    learn which words also stand in the question. Adam with one learning-rate cycle.
    Lesson: 08.
    """
    batches = -(-passages_per_round // batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=_LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LR,
                                                   total_steps=rounds * batches)
    where, draw = next(model.parameters()).device, runtime.generator(0)
    model.train()
    for round_ in runtime.progress(range(rounds), "training"):
        fresh = passages.compose(passages_per_round, "train", seed=round_)
        fresh[::2] = map(change, fresh[::2])
        total = 0.0
        for chosen in torch.randperm(len(fresh), generator=draw).split(batch_size):
            items = [fresh[i] for i in chosen.tolist()]
            passage, same, question = encode(items)
            same = same * (torch.rand(len(items), 1, generator=draw) >= _BLIND)
            logits = model(passage.to(where), same.to(where), question.to(where))
            loss = _loss(logits, ends(items).to(where))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if on_round:
            on_round(round_, total / batches)
    model.eval()


def _loss(logits: Tensor, right: Tensor) -> Tensor:
    log_p = logits.log_softmax(2)
    return -log_p.masked_fill(~right, -torch.inf).logsumexp(2).sum(1).mean()


def measure(model: nn.Module) -> dict[str, float]:
    """How many of the test questions are answered rightly under each of CHANGES, in %."""
    test = passages.compose(TESTED, "test")
    return {name: 100 * share_right(model, [change(item) for item in test])
            for name, change in CHANGES.items()}


def main(arguments: list[str] | None = None) -> None:
    """The commands behind data/weights/reader.* and data/results/reader_defence.json."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.reading", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of 3,000 fresh passages each")
    parser.add_argument("--defence", action="store_true",
                        help="train with added sentences at the end, and record what it helps")
    args = parser.parse_args(arguments)
    model = models.build(NAME)
    initialise(model, runtime.generator(0))
    model.to(runtime.device())
    change = CHANGES["at the end" if args.defence else "no sentence"]
    with runtime.timed() as clock:
        fit(model, rounds=args.rounds, change=change, on_round=_report)
    if args.defence:
        runtime.record("reader_defence", f"python -m course_lib.reading --defence --rounds "
                       f"{args.rounds}", tested=TESTED, standard=measure(models.load(NAME)),
                       defended=measure(model))
        return
    save(NAME, model)
    card = _card(models.load(NAME), args.rounds, clock.seconds)
    files.write(models.WEIGHTS / f"{NAME}.md", card.encode())
    print(card)


def _report(round_: int, loss: float) -> None:
    print(f"round {round_ + 1}: loss {loss:.4f}", flush=True)


def _card(model: nn.Module, rounds: int, seconds: float) -> str:
    rows = "".join(f"| {name} | {TESTED:,} | {right:.1f} % |\n"
                   for name, right in measure(model).items())
    return f"""# {NAME}

Reader, {sum(p.numel() for p in model.parameters()):,} parameters. \
{cards.summary(model)}

- Data: `passages.compose`, {rounds} times 3,000 fresh passages of the split "train"
- Command: `python -m course_lib.reading --rounds {rounds}`
- Seed: 0
- Time: {seconds:.0f} s on {torch.get_num_threads()} CPU thread(s), {platform.machine()}, \
PyTorch {torch.__version__}

| sentence added to the test passages | questions | right answers |
| --- | --- | --- |
{rows}"""


if __name__ == "__main__":
    main()
