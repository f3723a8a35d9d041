"""Who writes the texts of the controlled world of questions: people who ask, and answerers with habits.

Every draw goes through the `rng` given.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import accumulate
from typing import Literal, NamedTuple

from rlhf_bench.harness.text.tokens import Span
from rlhf_bench.tasks.worlds.assist_gold import ENOUGH
from rlhf_bench.tasks.worlds.assist_lexicon import (
    CHAT,
    CLOSED_REQUESTS,
    CLOSERS,
    GREETINGS,
    KINDS,
    MENTIONS,
    NAMES,
    OPEN_REQUESTS,
    OPENERS,
    SUBJECTS,
)
from rlhf_bench.tasks.worlds.generated import Written

MOST = 3
"""Needless sentences of one kind in one answer, at most."""

LONGEST = 47
"""Words and stops of the longest answer: with its end it fits the default limit, so that none is cut off."""

OPENING = 1 / 3
"""Share of the sentences without content that open an answer; the others close it."""

Table = Mapping[str, Mapping[str, str]]
"""Subject -> kind -> the value that is right in one world."""


class Question(NamedTuple):
    """What a prompt asks, and all that its utility depends on.

    `asked` is the kind of fact that a closed-ended prompt wants ("" where it is open-ended); `mentioned` is another
    subject that the prompt names in passing ("" for none); `truth` holds the right value of every kind.
    """

    type: Literal["open", "closed"]
    subject: str
    asked: str
    mentioned: str
    truth: Mapping[str, str]


class Habits(NamedTuple):
    """How a writer answers; all are probabilities.

    `keep`: to state each further fact after a first one where the question is open-ended.  `miss`: to leave out the
    fact that a closed-ended question asks for.  `more`: to add each other kind there.  `wrong`: to state a wrong value,
    per fact.  `repeat`, `stray`: to say a fact again, to speak of another subject, and after each time once more, up
    to MOST times.  `pad`: once per answer, to add a sentence without content.
    """

    keep: float
    miss: float
    more: float
    wrong: float
    repeat: float
    stray: float
    pad: float


CAREFUL = Habits(keep=0.6, miss=0.02, more=0.02, wrong=0.06, repeat=0.03, stray=0.03, pad=0.1)
"""Of whom the others are what they are but for one thing."""

FLAWED: Mapping[str, Habits] = {
    "terse": CAREFUL._replace(keep=0.1, miss=0.1),
    "guessing": CAREFUL._replace(wrong=0.5),
    "padding": CAREFUL._replace(pad=0.9, more=0.2),
    "repeating": CAREFUL._replace(repeat=0.8),
    "straying": CAREFUL._replace(stray=0.8, miss=0.2, more=0.1),
}

PERFECT = Habits(0, 0, 0, 0, 0, 0, 0)


class Sentence(NamedTuple):
    """A sentence and the spans in it that are flaws."""

    text: str
    flaws: tuple[Span, ...] = ()


def draw_table(rng: random.Random) -> Table:
    """A value of each kind for each subject."""
    return {subject: {kind: rng.choice(how.values) for kind, how in KINDS.items()} for subject in SUBJECTS}


def draw_question(rng: random.Random, table: Table, open_rate: float, mention_rate: float) -> Question:
    open_ended = rng.random() < open_rate
    subject, other = rng.sample(SUBJECTS, 2)
    asked = "" if open_ended else rng.choice(list(KINDS))
    mentioned = other if rng.random() < mention_rate else ""
    return Question("open" if open_ended else "closed", subject, asked, mentioned, table[subject])


def write_prompt(rng: random.Random, question: Question) -> str:
    """A greeting and a remark on the first line, the question on the last, in 10 to 20 words."""
    greeting = rng.choice(GREETINGS).format(rng.choice(NAMES))
    remark = rng.choice(MENTIONS).format(question.mentioned) if question.mentioned else rng.choice(CHAT)
    return f"{greeting} {remark}\n{_request(rng, question)}"


def _request(rng: random.Random, question: Question) -> str:
    if question.type == "open":
        return rng.choice(OPEN_REQUESTS).format(question.subject)
    how = KINDS[question.asked]
    request = rng.choice(CLOSED_REQUESTS)
    return request.format(question=how.question.format(question.subject), phrase=how.phrase.format(question.subject))


def write_answer(rng: random.Random, question: Question, habits: Habits, long: float) -> Written:
    """An answer by a writer of these habits; `long` is the probability of a fact's long form.

    Its flaws are what should not be there: wrong values, and whole needless sentences.

    The fact asked for comes first, others in the order of KINDS, and what nobody needs after them; but one of three
    sentences without content opens the answer.  The last ones are left out where the answer would pass LONGEST.
    """
    kinds = _chosen_kinds(rng, question, habits)
    sentences = [_say(rng, question, kind, habits.wrong, long) for kind in kinds]
    for _ in range(_times(rng, habits.repeat)):
        sentences.append(_whole(rng.choice(sentences).text))
    for _ in range(_times(rng, habits.stray)):
        other = question.mentioned or rng.choice([name for name in SUBJECTS if name != question.subject])
        sentences.append(_whole(_statement(rng, rng.choice(list(KINDS)), other, long)))
    if rng.random() < habits.pad:
        opens = rng.random() < OPENING
        sentences.insert(0 if opens else len(sentences), _whole(rng.choice(OPENERS if opens else CLOSERS)))
    return _joined(_fitting(sentences))


def _times(rng: random.Random, rate: float) -> int:
    """How often in a row something of probability `rate` happens, MOST times at most."""
    return next((count for count in range(MOST) if rng.random() >= rate), MOST)


def _chosen_kinds(rng: random.Random, question: Question, habits: Habits) -> list[str]:
    """The kinds of fact that are stated, one at least."""
    if question.type == "open":
        count = 1 + sum(rng.random() < habits.keep for _ in range(len(KINDS) - 1))
        return sorted(rng.sample(list(KINDS), count), key=list(KINDS).index)
    others = [kind for kind in KINDS if kind != question.asked]
    more = [kind for kind in others if rng.random() < habits.more]
    missed = rng.random() < habits.miss
    return more or [rng.choice(others)] if missed else [question.asked, *more]


def _say(rng: random.Random, question: Question, kind: str, wrong: float, long: float) -> Sentence:
    """A fact of the subject asked about; a wrong value is a flaw, and so is a whole fact that nobody asked for."""
    value, statement = question.truth[kind], KINDS[kind].statements[rng.random() < long]
    mistaken = rng.random() < wrong
    if mistaken:
        value = rng.choice([other for other in KINDS[kind].values if other != value])
    text = statement.format(subject=question.subject, value=value)
    if question.asked not in ("", kind):
        return _whole(text)
    start = text.index(f" {value}") + 1
    return Sentence(text, ((start, start + len(value)),) if mistaken else ())


def _statement(rng: random.Random, kind: str, subject: str, long: float) -> str:
    statement = KINDS[kind].statements[rng.random() < long]
    return statement.format(subject=subject, value=rng.choice(KINDS[kind].values))


def _whole(text: str) -> Sentence:
    return Sentence(text, ((0, len(text)),))


def _fitting(sentences: list[Sentence]) -> list[Sentence]:
    """The first sentences that LONGEST has room for, one at least."""
    sizes = accumulate(len(sentence.text.split()) + 1 for sentence in sentences)  # a stop each
    return [sentence for sentence, size in zip(sentences, sizes, strict=True) if size <= LONGEST]


def _joined(sentences: list[Sentence]) -> Written:
    flaws: list[Span] = []
    text = ""
    for sentence in sentences:
        text += " " if text else ""
        flaws += [(len(text) + start, len(text) + end) for start, end in sentence.flaws]
        text += sentence.text
    return Written(text, tuple(flaws))


def perfect_answer(rng: random.Random, question: Question, long: float) -> str:
    """Four right facts, or the one that was asked for: its utility is exactly 1."""
    kinds = [question.asked] if question.asked else rng.sample(list(KINDS), ENOUGH)
    return " ".join(_say(rng, question, kind, 0.0, long).text for kind in KINDS if kind in kinds)
