"""Passages, and the network that answers questions on them."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import pytest
import torch

from course_lib import models, passages, reading, runtime
from course_lib.passages import Item
from course_lib.training import initialise


def test_a_passage_holds_its_answer_and_an_added_sentence_holds_another():
    for item in passages.compose(200, "test"):
        assert item.answer in item.passage and item.question.endswith("?")
        event = re.search(r"\w+ \w+ [IVXL]+", item.question)[0]
        for sentence in item.added:
            assert event not in sentence
            assert not set(passages.words(item.answer)) <= set(passages.words(sentence))


def test_names_to_test_are_none_of_those_to_train():
    name = passages.vocabulary()["<name>"]
    train, test = ({word for item in passages.compose(300, split)
                    for word in passages.words(item.passage) if passages.number(word) == name}
                   for split in ("train", "test"))
    assert min(len(train), len(test)) > 50 and not train & test


def test_equal_arguments_give_equal_passages_and_others_others():
    first, again, other = (passages.compose(5, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(("arguments", "words"), [((0,), "at least one"), ((1, "valid"), "split")])
def test_what_cannot_be_composed(arguments, words):
    with pytest.raises(ValueError, match=words):
        passages.compose(*arguments)


def test_roman_numerals_there_and_back():
    assert [passages.roman(n) for n in (4, 9, 34, 49, 89)] == ["IV", "IX", "XXXIV", "XLIX",
                                                               "LXXXIX"]
    assert [passages._value(passages.roman(n)) for n in range(1, 90)] == list(range(1, 90))


def test_a_sentence_is_added_at_the_end_or_in_front():
    item = Item(("One.", "Two."), "What?", "One")
    assert item.with_sentence("Three.").passage == "One. Two. Three."
    assert item.with_sentence("Three.", first=True).passage == "Three. One. Two."


def test_words_become_numbers_and_know_the_question():
    item = Item(("Elway won in 1998, at 38.",), "Who won at 38?", "Elway")
    passage, same, question = reading.encode([item, Item(("A short one.",), "Why?", "short")])
    assert passage.shape == same.shape == (2, 8) and question.shape == (2, 5)
    known = [passages.vocabulary()[word] for word in ("<name>", "won", "in", "<year>")]
    assert passage[0, :4].tolist() == known and passage[1, 4:].tolist() == [0] * 4
    assert same[0].tolist() == [0, 1, 0, 0, 0, 1, 1, 0]


def test_every_place_of_an_answer_is_right_and_one_without_is_named():
    right = reading.ends([Item(("Ann Lee won.", "Ann Lee sang."), "Who won?", "Ann Lee")])
    assert right[0].nonzero().tolist() == [[0, 0], [0, 4], [1, 1], [1, 5]]
    with pytest.raises(ValueError, match="not in its passage"):
        reading.ends([Item(("Ann won.",), "Who?", "Bob")])


def test_a_shorter_passage_is_read_alike_in_any_batch():
    model, items = models.load("reader", "cpu"), passages.compose(6, "test")
    for item, together in zip(items, reading.read(model, items), strict=True):
        (alone,) = reading.read(model, [item])
        assert alone.answer == together.answer
        assert torch.allclose(alone.weights, together.weights, atol=1e-5)
        assert float(together.weights.sum()) == pytest.approx(1, abs=1e-4)


def test_the_network_is_made_for_the_vocabulary():
    assert models.build("reader").word.num_embeddings == len(passages.vocabulary())


def test_training_lowers_the_loss_and_repeats_exactly():
    losses = []
    for _ in range(2):
        model = models.build("reader")
        initialise(model, runtime.generator(0))
        reading.fit(model, rounds=3, passages_per_round=32, batch_size=16,
                    on_round=lambda number, loss: losses.append(loss))
        assert not model.training
    assert losses[2] < losses[0] and losses[:3] == losses[3:]


def test_the_change_of_a_defence_reaches_every_second_passage():
    seen = []
    reading.fit(models.build("reader"), rounds=1, passages_per_round=8, batch_size=8,
                change=lambda item: seen.append(item) or item)
    assert seen == passages.compose(8, "train")[::2]


def test_the_reader_that_ships_answers_as_its_card_says_and_falls_for_an_added_sentence():
    card = (models.WEIGHTS / "reader.md").read_text()
    said = {name: float(right) for name, right in re.findall(r"\| ([^|]+) \| 1,000 \| ([\d.]+) %",
                                                             card)}
    found = reading.measure(models.load("reader", "cpu"))
    assert found == pytest.approx(said, abs=0.5)
    assert said["no sentence"] >= 70 and said["at the end"] <= said["no sentence"] / 2
    assert (models.WEIGHTS / "reader.safetensors").stat().st_size < 1e6


class Words:
    """A tokenizer of transformers: its tokens are the words of question and passage."""

    def __call__(self, question, passage, return_tensors):
        self.words = [*question.split(), *passage.split()]
        return {"input_ids": torch.arange(len(self.words))[None]}

    def decode(self, ids, skip_special_tokens):
        return " ".join(self.words[i] for i in ids)


def test_a_large_reader_answers_from_the_best_start_to_the_best_end_behind_it(monkeypatch):
    class Network:
        def eval(self):
            return self

        def __call__(self, input_ids):
            start, end = torch.zeros(2, 1, input_ids.shape[1])
            start[0, 3], end[0, 0], end[0, 4] = 1, 9, 1  # an end before the start does not count
            return SimpleNamespace(start_logits=start, end_logits=end)

    asked = []
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(
        AutoTokenizer=SimpleNamespace(from_pretrained=lambda name: Words()),
        AutoModelForQuestionAnswering=SimpleNamespace(
            from_pretrained=lambda name, **options: asked.append((name, options)) or Network())))
    item = Item(("Then Ann Lee won.",), "Who won?", "Ann Lee")
    assert reading.answers_of_transformers([item, item], "large") == ["Ann Lee"] * 2
    assert asked == [("large", {"use_safetensors": True})]  # no pickle


def test_without_transformers_a_large_reader_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        reading.answers_of_transformers([])
