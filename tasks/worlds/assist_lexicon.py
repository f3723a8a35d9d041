"""Words and sentences of the controlled world of questions, as data.

As in `lexicon.py`, every subject and every value is one lower-case word that follows a space wherever it occurs (a
byte-level BPE then gives it one token), means one thing only, and occurs in no fixed text.  Every fact can be said in
few words or in many, which are worth the same: length and worth are two things here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

Act = Literal["fact", "padding"]


@dataclass(frozen=True)
class FactKind:
    """A kind of fact: how it is asked for ({} is the subject) and said ({subject}, {value}; short form, then long)."""

    values: tuple[str, ...]
    question: str
    phrase: str
    statements: tuple[str, str]


class Meaning(NamedTuple):
    """What a sentence of an answer says: a "fact" has a subject, a kind and a value."""

    act: Act
    subject: str = ""
    kind: str = ""
    value: str = ""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SUBJECTS = _words(
    "kite lantern basket puppet quilt scarf drum flute ladder mirror pillow teapot whistle wreath stool sled"
)

KINDS: Mapping[str, FactKind] = {
    "colour": FactKind(
        _words("red blue green yellow purple white black brown"),
        "What colour is the {}?",
        "the colour of the {}",
        ("The {subject} is {value}.", "If you look at the {subject} it is {value}."),
    ),
    "material": FactKind(
        _words("wool clay paper copper straw cotton oak glass"),
        "What do they make the {} of?",
        "the material of the {}",
        ("They make the {subject} of {value}.", "Most people make their {subject} out of {value}."),
    ),
    "place": FactKind(
        _words("kitchen attic cellar shed garage porch barn studio"),
        "Where do I find the {}?",
        "the place of the {}",
        ("Look for the {subject} in the {value}.", "You can always find a {subject} in the {value}."),
    ),
    "parts": FactKind(
        _words("two three four five six seven eight nine"),
        "How many parts has the {}?",
        "the number of parts of the {}",
        ("A {subject} has {value} parts.", "When you take a {subject} apart it has {value} parts."),
    ),
    "time": FactKind(
        _words("noon dusk dawn midnight sunset breakfast lunch dinner"),
        "When do I bring the {}?",
        "the right time for the {}",
        ("Bring the {subject} at {value}.", "It is best to bring the {subject} at {value}."),
    ),
    "maker": FactKind(
        _words("potter weaver smith tailor carver baker tanner miller"),
        "Who can repair the {}?",
        "the right person for the {}",
        ("Ask a {value} for the {subject}.", "Only a {value} can repair such a {subject}."),
    ),
}

OPENERS = ("That is a very good question.", "I am happy to help with this.", "Let me think about it first.")
CLOSERS = ("I hope that this will help.",)
PADDING = OPENERS + CLOSERS
"""Sentences without content.  The one closer makes padding a habit that a policy learns: greedy text ends with it."""


OPEN_REQUESTS = (
    "Tell me about the {}.",
    "Describe the {}.",
    "Give me some ideas for the {}.",
    "Write a few lines about the {}.",
    "Suggest what I could say about the {}.",
    "What do you know about the {}?",
)
CLOSED_REQUESTS = ("{question}", "What is {phrase}?", "I have to know {phrase}.", "Tell me {phrase}.")

NAMES = _words("Anna Bella Carl Diana Emil Freya Gustav Hanna Igor Julia Karim Lena Marco Nadia Oscar Petra")
GREETINGS = ("Hello, I am {}.", "Hi, my name is {}.", "Good day, this is {}.", "Hey there, {} here.")
CHAT = (
    "It is cold outside today.",
    "My sister is away this week.",
    "I have a free day.",
    "We moved to a new house.",
    "The train was late again.",
    "It has rained all week.",
    "My neighbor is very loud.",
    "I am new to all this.",
)
MENTIONS = ("My sister has a {}.", "I lost my {} last week.", "My neighbor talks of a {}.", "We sold our {} today.")


@cache
def meanings() -> Mapping[str, Meaning]:
    """Every sentence an answer may hold, and what it says."""
    facts = {
        statement.format(subject=subject, value=value): Meaning("fact", subject, kind, value)
        for kind, how in KINDS.items()
        for statement in how.statements
        for subject in SUBJECTS
        for value in how.values
    }
    return {**facts, **dict.fromkeys(PADDING, Meaning("padding"))}
