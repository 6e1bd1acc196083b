"""Passages for lesson 08: a few sentences about contests, a question, and the answer in the text.

All are composed from the templates below when they are asked for. The names that fill the templates
are others in "train" than in "test", and no network knows any of them as a word.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

# Who takes part, and the last word of the contest's name.
THEMES = {
    "quarterback": "Bowl", "goalkeeper": "Cup", "sailor": "Regatta", "violinist": "Prize",
    "cook": "Trophy", "rider": "Derby", "painter": "Award", "skater": "Games",
    "runner": "Marathon", "pianist": "Festival", "chemist": "Medal", "player": "Open",
}



class Relation(NamedTuple):
    """What a passage can tell about a contest: sentences that tell it, and questions for it.

    answer: the field that the questions ask for. Each question comes with two statements that
    answer it in nearly its own words.
    """

    answer: str
    facts: tuple[str, ...]
    questions: tuple[tuple[str, str, str], ...]


_WINNER = (
    "{person} won {event} at the age of {age} .",
    "At {age} , {person} led the {club} to victory in {event} .",
    "{event} went to the {role} {person} , who was {age} years old .",
    "The best {role} in {event} was {person} of the {club} , at the age of {age} .",
    "The record before was held by {person} , who won {event} with the {club} at the age of "
    "{age} .",
    "The {role} {person} was {age} when the {club} won {event} .",
)
RELATIONS = (
    Relation("person", _WINNER, (
        ("What is the name of the {role} who was {age} in {event} ?",
         "The name of the {role} who was {age} in {event} is {person} .",
         "{person} is the name of the {role} who had the number {age} in {event} ."),
        ("Who won {event} ?", "{person} won {event} .", "{event} went to {person} ."),
        ("Which {role} won {event} at the age of {age} ?",
         "The {role} {person} won {event} at the age of {age} .",
         "At {age} , the {role} {person} won {event} ."))),
    Relation("age", _WINNER, (
        ("How old was the {role} when {person} won {event} ?",
         "{person} was {age} years old in {event} .",
         "At the age of {age} , {person} won {event} ."),)),
    Relation("club", (
        "With {person} the {club} won {event} .",
        "{event} was a victory for the {club} , led by {person} .",
        "The {club} , the club of {person} , were the best in {event} .",
    ), (
        ("For which club did {person} win {event} ?", "{person} did win {event} for the {club} .",
         "With {person} the {club} won {event} ."),
        ("Which club won {event} ?", "The {club} won {event} .",
         "{event} was won by the club {club} ."))),
    Relation("city", (
        "{event} was held in {city} .",
        "The {role} and all the others came to {city} for {event} .",
        "The city of {event} was {city} .", "{event} took place in the old town of {city} .",
    ), (
        ("In which city was {event} held ?", "{event} was held in the city of {city} .",
         "In {city} , {event} took place ."),
        ("Where did {event} take place ?", "{event} did take place in {city} .",
         "The city of {event} was {city} ."))),
    Relation("year", (
        "{event} was held in {year} .", "It was the year {year} when {event} began .",
        "{event} took place in the summer of {year} .",
    ), (
        ("In which year was {event} held ?", "{event} was held in the year {year} .",
         "In {year} , {event} took place ."),)),
    Relation("singer", (
        "{singer} sang a song before {event} began .", "The song of {event} was sung by {singer} .",
        "Before {event} people heard the voice of {singer} .",
    ), (
        ("Who sang before {event} ?", "{singer} sang before {event} .",
         "The song before {event} was sung by {singer} ."),)),
    Relation("judge", (
        "The judge of {event} was {judge} .", "{judge} was asked to be the judge .",
        "{event} had a new judge , {judge} , who was {number} years old .",
    ), (
        ("Who was the judge of {event} ?", "{judge} was the judge of {event} .",
         "The judge of {event} was {judge} ."),)),
    Relation("second", (
        "{second} came second in {event} , at the age of {number} .",
        "The second place in {event} went to {second} .",
        "{person} won , and {second} , {number} years old , came second .",
    ), (
        ("Who came second in {event} ?", "{second} came second in {event} .",
         "The second place in {event} went to {second} ."),)),
    Relation("number", (
        "{event} was seen by {number} million people .", "{number} million people saw {event} .",
    ), (
        ("How many million people saw {event} ?", "{number} million people saw {event} .",
         "{event} was seen by {number} million people ."),)),
)

_IN_ITS_WORDS = 0.5  # the share of facts told in nearly the words of a question
_NAMED = 0.25  # the share of sentences that give the contest's whole name; the rest say "the Bowl"

_FIRST = {
    "train": "Anna Boris Clara Daniel Edith Felix Greta Hugo Irene Jonas Karin Leon Maria Nils "
             "Olga Pavel Rita Simon Tanja Viktor Wanda Yusuf Zoe Martin Laura Oscar Paula Robert",
    "test": "Alma Bruno Cecil Dora Emil Flora Georg Hanna Ivan Julia Konrad Lydia Moritz Nora "
            "Otto Petra Ralf Sofia Theo Ursula"}
_FAMILY = {
    "train": "Abel Brandt Costa Dorn Ebner Fuchs Garcia Hansen Ivanov Jansen Keller Lopez Meyer "
             "Novak Olsen Peters Quint Rossi Schmidt Tanaka Ulrich Vogel Wagner Xu Young Ziegler",
    "test": "Adler Bauer Conrad Dietz Engel Fischer Gruber Haas Iversen Jung Kraus Lang Moser "
            "Nagel Okafor Pohl Reuter Sato Thoma Unger"}
_PLACES = {
    "train": "Aarhus Bergen Cadiz Dresden Essen Florence Geneva Hamburg Izmir Jena Krakow Lyon "
             "Malmo Nantes Oslo Porto Quito Riga Seville Turin Utrecht Verona Warsaw Zagreb",
    "test": "Athens Basel Cork Delft Exeter Fulda Ghent Haifa Innsbruck Kiel Leeds Minsk Nancy "
            "Odessa Parma Rouen Siena Trier"}
_CLUBS = {
    "train": "Lions Tigers Comets Rockets Eagles Bears Falcons Wolves Giants Sharks Hornets Ravens",
    "test": "Panthers Dolphins Badgers Storks Otters Foxes Cobras Herons"}
_EVENTS = {
    "train": "Royal Golden Summer Northern Grand Silver Winter Spring Baltic Crystal Imperial "
             "Alpine",
    "test": "Super Champ Harbour Diamond Eastern Emerald Coastal Island"}


@dataclass(frozen=True)
class Item:
    """A passage, sentence by sentence, a question, its answer, and two sentences to add.

    added: two statements in the manner of ADDSENT (Jia and Liang 2017). Each looks like an answer
    to the question and speaks of another contest and somebody else. another: the fields of that
    other contest, such as "event" and "person".
    """

    sentences: tuple[str, ...]
    question: str
    answer: str
    added: tuple[str, str] = ("", "")
    another: Mapping[str, str] = field(default_factory=dict)

    @property
    def passage(self) -> str:
        """The sentences as one text."""
        return " ".join(self.sentences)

    def with_sentence(self, sentence: str, *, first: bool = False) -> Item:
        """The same item with one more sentence, at the end or in front. The answer stays right."""
        more = (sentence, *self.sentences) if first else (*self.sentences, sentence)
        return replace(self, sentences=more)


def compose(n: int, split: str = "train", seed: int = 0) -> list[Item]:
    """n passages of four to six sentences, each about one contest, each with one question.

    A passage tells the winner, the city, the judge and so on, each in a sentence of its own. So the
    wording of the question is enough to find the sentence that answers it: in half of them it is
    the question's own wording. The name and the number of the contest never decide.

    Equal arguments give equal passages.
    Raises: ValueError for an unknown split, or fewer than one passage.
    Lesson: 08.

    >>> item = compose(1)[0]
    >>> item.answer in item.passage
    True
    """
    if split not in _FIRST:
        raise ValueError(f"unknown split {split!r}: use 'train' or 'test'")
    if n < 1:
        raise ValueError(f"n = {n}: compose at least one passage")
    draw = random.Random(f"{split} {seed}")
    return [_item(split, draw) for _ in range(n)]


def _item(split: str, draw: random.Random) -> Item:
    fact = _fact(draw.choice(sorted(THEMES)), split, draw)
    told = draw.sample(RELATIONS, draw.randint(4, 6))
    sentences = []
    for relation in told:
        near = draw.choice(relation.questions)[1]
        wording = near if draw.random() < _IN_ITS_WORDS else draw.choice(relation.facts)
        name = fact["event"] if draw.random() < _NAMED else f"the {THEMES[fact['role']]}"
        sentences.append(_sentence(wording.format(**fact | {"event": name})))
    draw.shuffle(sentences)
    question, *statements = draw.choice(told[0].questions)
    another = _another(fact, split, draw)
    first, second = (_sentence(statement.format(**another)) for statement in statements)
    return Item(tuple(sentences), question.format(**fact), fact[told[0].answer], (first, second),
                another)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _fact(role: str, split: str, draw: random.Random) -> dict[str, str]:
    """Everything about one contest, each value as text."""
    event = f"{_pick(_EVENTS, split, draw)} {THEMES[role]} {roman(draw.randint(5, 60))}"
    return {
        "role": role, "event": event, "age": str(draw.randint(17, 49)),
        "year": str(draw.randint(1921, 2024)), "number": str(draw.randint(2, 60)),
        "city": _pick(_PLACES, split, draw),
        "club": f"{_pick(_PLACES, split, draw)} {_pick(_CLUBS, split, draw)}",
        **{who: _person(split, draw) for who in ("person", "singer", "judge", "second")},
    }


def _another(fact: dict[str, str], split: str, draw: random.Random) -> dict[str, str]:
    """The same kind of contest under another name, with another number and other people."""
    other = _fact(fact["role"], split, draw)
    while any(other[key] == value for key, value in fact.items() if key != "role"):
        other = _fact(fact["role"], split, draw)
    first, noun, number = fact["event"].split()
    word = draw.choice([w for w in _EVENTS[split].split() if w != first])
    other["event"] = f"{word} {noun} {roman(_value(number) + 1)}"
    other["age"] = str(int(fact["age"]) - 1)
    other["year"] = str(int(fact["year"]) + 1)
    return other


def _person(split: str, draw: random.Random) -> str:
    return f"{_pick(_FIRST, split, draw)} {_pick(_FAMILY, split, draw)}"


def _pick(words: dict[str, str], split: str, draw: random.Random) -> str:
    return draw.choice(_split(words[split]))


@cache
def _split(text: str) -> list[str]:
    return text.split()


_ROMAN = {"L": 50, "X": 10, "V": 5, "I": 1}
_ROMAN_PARTS = (("L", 50), ("XL", 40), ("X", 10), ("IX", 9), ("V", 5), ("IV", 4), ("I", 1))


def roman(number: int) -> str:
    """A number from 1 to 89 in Roman numerals.

    >>> roman(33), roman(49)
    ('XXXIII', 'XLIX')
    """
    text = ""
    for letters, value in _ROMAN_PARTS:
        while number >= value:
            text, number = text + letters, number - value
    return text


def _value(numeral: str) -> int:
    values = [_ROMAN[letter] for letter in numeral]
    return sum(-a if a < b else a for a, b in pairwise([*values, 0]))


# --- words as numbers ---------------------------------------------------------------------------

def words(text: str) -> list[str]:
    """A text as words, numbers and punctuation marks.

    >>> words("John Elway, 38, won.")
    ['John', 'Elway', ',', '38', ',', 'won', '.']
    """
    return re.findall(r"\w+|[^\w\s]", text)


# What takes the place of a word that the network does not know: its shape.
SHAPES = ("", "<name>", "<number>", "<year>", "<roman>", "<word>")


@cache
def vocabulary() -> dict[str, int]:
    """The number of each shape and of each word of the templates; 0 stands for no word."""
    templates = [t for r in RELATIONS for t in (*r.facts, *(t for q in r.questions for t in q))]
    known = {w.lower() for text in templates for w in words(re.sub(r"{\w+}", " ", text))}
    known |= {*THEMES, *(noun.lower() for noun in THEMES.values())}
    return {word: i for i, word in enumerate([*SHAPES, *sorted(known)])}


def shape(word: str) -> str:
    """The shape of a word.

    >>> [shape(word) for word in ("Elway", "XXXIII", "38", "1998", "and")]
    ['<name>', '<roman>', '<number>', '<year>', '<word>']
    """
    if word.isdigit():
        return "<year>" if len(word) == 4 else "<number>"
    if re.fullmatch("[IVXL]+", word):
        return "<roman>"
    return "<name>" if word[0].isupper() else "<word>"


def number(word: str) -> int:
    """The number of a word in the vocabulary, or that of its shape."""
    known = vocabulary()
    return known.get(word.lower(), known[shape(word)])
