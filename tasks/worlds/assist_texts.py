"""Texts of the synthetic task of questions: words and sentences as data, questions, and answers with chosen errors.

As in `lexicon.py`, every subject and every value is one lower-case word that follows a space wherever it occurs (a
byte-level BPE then gives it one token), means one thing only, and occurs in no fixed text.  Every fact has a short and
a long form of equal worth, so length and worth are two things here.  Every random draw uses the `rng` that is passed
in, so the order of draws decides the texts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Literal, NamedTuple

from rlhf_bench.tasks.worlds.generated import Written, flawed, joined
from rlhf_bench.tasks.worlds.lexicon import words_of

# Distinct right facts that make an open-ended answer full: further ones are worth nothing and cost nothing.
ENOUGH = 4

# The most needless sentences of one kind in one answer.
MOST = 3

# Words and full stops of the longest answer: with the end-of-sequence token it fits the default `response_tokens`.
LONGEST = 47

# Share of the sentences without content that open an answer; the others close it.
OPENING = 1 / 3

Act = Literal["fact", "padding"]

# Subject -> kind -> the value that is right in one world.
Table = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class FactKind:
    """A kind of fact: the question for it ({} is the subject), its name in a request, and its statements.

    `statements` is the short form and the long one, with {subject} and {value}.
    """

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


# All begin with a consonant, so that "a" fits before each.
SUBJECTS = words_of(
    "kite lantern basket puppet quilt scarf drum flute ladder mirror pillow teapot whistle wreath stool sled"
)

KINDS: Mapping[str, FactKind] = {
    "colour": FactKind(
        words_of("red blue green yellow purple white black brown"),
        "What colour is the {}?",
        "the colour of the {}",
        ("The {subject} is {value}.", "If you look at the {subject} it is {value}."),
    ),
    "material": FactKind(
        words_of("wool clay paper copper straw cotton oak glass"),
        "What do they make the {} of?",
        "the material of the {}",
        ("They make the {subject} of {value}.", "Most people make their {subject} out of {value}."),
    ),
    "place": FactKind(
        words_of("kitchen attic cellar shed garage porch barn studio"),
        "Where do I find the {}?",
        "the place of the {}",
        ("Look for the {subject} in the {value}.", "You can always find a {subject} in the {value}."),
    ),
    "parts": FactKind(
        words_of("two three four five six seven eight nine"),
        "How many parts has the {}?",
        "the number of parts of the {}",
        ("A {subject} has {value} parts.", "When you take a {subject} apart it has {value} parts."),
    ),
    "time": FactKind(
        words_of("noon dusk dawn midnight sunset breakfast lunch dinner"),
        "When do I bring the {}?",
        "the right time for the {}",
        ("Bring the {subject} at {value}.", "It is best to bring the {subject} at {value}."),
    ),
    "maker": FactKind(
        words_of("potter weaver smith tailor carver baker tanner miller"),
        "Who can repair the {}?",
        "the right person for the {}",
        ("Ask a {value} for the {subject}.", "Only a {value} can repair such a {subject}."),
    ),
}

OPENERS = ("That is a very good question.", "I am happy to help with this.", "Let me think about it first.")
CLOSERS = ("I hope that this will help.",)
# Sentences without content. There is one closer only, so that greedy decoding shows a learned habit of padding.
PADDING = OPENERS + CLOSERS

# slices.type_by_rule misreads some of these and of CLOSED_REQUESTS: types of real prompts are no easier to guess.
OPEN_REQUESTS = (
    "Tell me about the {}.",
    "Describe the {}.",
    "Give me some ideas for the {}.",
    "Write a few lines about the {}.",
    "Suggest what I could say about the {}.",
    "What do you know about the {}?",
)
CLOSED_REQUESTS = ("{question}", "What is {phrase}?", "I have to know {phrase}.", "Tell me {phrase}.")

NAMES = words_of("Anna Bella Carl Diana Emil Freya Gustav Hanna Igor Julia Karim Lena Marco Nadia Oscar Petra")
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
    """Every sentence that an answer may contain -> what it says."""
    facts = {  # 16 subjects x 48 values x 2 forms
        statement.format(subject=subject, value=value): Meaning("fact", subject, kind, value)
        for kind, how in KINDS.items()
        for statement in how.statements
        for subject in SUBJECTS
        for value in how.values
    }
    return {**facts, **dict.fromkeys(PADDING, Meaning("padding"))}


class Question(NamedTuple):
    """What a prompt asks, and all that its utility depends on.

    `asked` is the kind of fact that a closed-ended prompt asks for ("" for an open-ended prompt); `mentioned` is
    another subject that the prompt names in passing ("" for none); `truth` maps every kind to its right value.
    """

    type: Literal["open", "closed"]
    subject: str
    asked: str
    mentioned: str
    truth: Mapping[str, str]


class Habits(NamedTuple):
    """How a writer answers; all are probabilities.

    `keep`: to state each further fact after a first one, of an open-ended question.  `miss`: to leave out the fact
    that a closed-ended question asks for.  `more`: to add each other kind there.  `wrong`: to state a wrong value, per
    fact.  `repeat`, `stray`: to repeat a fact, to state a fact of another subject; after each time once more, up to
    MOST times.  `pad`: once per answer, to add a sentence without content.
    """

    keep: float
    miss: float
    more: float
    wrong: float
    repeat: float
    stray: float
    pad: float


CAREFUL = Habits(keep=0.6, miss=0.02, more=0.02, wrong=0.06, repeat=0.03, stray=0.03, pad=0.1)

# Writers that differ from the careful one in a single flaw.
FLAWED: Mapping[str, Habits] = {
    "terse": CAREFUL._replace(keep=0.1, miss=0.1),
    "guessing": CAREFUL._replace(wrong=0.5),
    "padding": CAREFUL._replace(pad=0.9, more=0.2),
    "repeating": CAREFUL._replace(repeat=0.8),
    "straying": CAREFUL._replace(stray=0.8, miss=0.2, more=0.1),
}

PERFECT = Habits(0, 0, 0, 0, 0, 0, 0)


def draw_table(rng: random.Random) -> Table:
    """A value of each kind for each subject."""
    return {subject: {kind: rng.choice(how.values) for kind, how in KINDS.items()} for subject in SUBJECTS}


def draw_question(rng: random.Random, table: Table, open_rate: float, mention_rate: float) -> Question:
    """Open-ended with probability `open_rate`; names another subject with probability `mention_rate`."""
    open_ended = rng.random() < open_rate
    subject, other = rng.sample(SUBJECTS, 2)
    asked = "" if open_ended else rng.choice(list(KINDS))
    mentioned = other if rng.random() < mention_rate else ""
    return Question("open" if open_ended else "closed", subject, asked, mentioned, table[subject])


def write_prompt(rng: random.Random, question: Question) -> str:
    """A greeting and a remark on the first line, the question on the last, in 10 to 20 words."""
    # A straying writer takes up the subject that is mentioned here.
    greeting = rng.choice(GREETINGS).format(rng.choice(NAMES))
    remark = rng.choice(MENTIONS).format(question.mentioned) if question.mentioned else rng.choice(CHAT)
    if question.type == "open":
        request = rng.choice(OPEN_REQUESTS).format(question.subject)
    else:
        how, subject = KINDS[question.asked], question.subject
        texts = {"question": how.question.format(subject), "phrase": how.phrase.format(subject)}
        request = rng.choice(CLOSED_REQUESTS).format(**texts)
    return f"{greeting} {remark}\n{request}"


def write_answer(rng: random.Random, question: Question, habits: Habits, long: float) -> Written:
    """An answer by a writer of these habits; `long` is the probability of a fact's long form.

    Its flaws are wrong values and whole needless sentences.  The fact asked for comes first, others in the order of
    KINDS, and needless sentences after them, except that one of three sentences without content opens the answer.  The
    last sentences are left out where the answer would be longer than LONGEST.
    """
    if question.type == "open":
        # How many facts, then which ones: every kind is equally likely.
        count = 1 + sum(rng.random() < habits.keep for _ in range(len(KINDS) - 1))
        stated = sorted(rng.sample(list(KINDS), count), key=list(KINDS).index)
    else:
        # The fact asked for is first; where it is left out, another one is stated, so that no answer is empty.
        others = [kind for kind in KINDS if kind != question.asked]
        more = [kind for kind in others if rng.random() < habits.more]
        missed = rng.random() < habits.miss
        stated = (more or [rng.choice(others)]) if missed else [question.asked, *more]
    sentences = [_statement(rng, question, kind, habits.wrong, long) for kind in stated]
    for _ in range(_repetitions(rng, habits.repeat)):
        sentences.append(flawed(rng.choice(sentences).text))
    for _ in range(_repetitions(rng, habits.stray)):
        other = question.mentioned or rng.choice([name for name in SUBJECTS if name != question.subject])
        kind = KINDS[rng.choice(list(KINDS))]
        statement = kind.statements[rng.random() < long]
        sentences.append(flawed(statement.format(subject=other, value=rng.choice(kind.values))))
    if rng.random() < habits.pad:
        opens = rng.random() < OPENING
        sentences.insert(0 if opens else len(sentences), flawed(rng.choice(OPENERS if opens else CLOSERS)))
    # Each sentence counts its words and its full stop.  The first one always fits, so no answer is empty.
    sizes = accumulate(len(sentence.text.split()) + 1 for sentence in sentences)
    return joined(sentence for sentence, size in zip(sentences, sizes, strict=True) if size <= LONGEST)


def _repetitions(rng: random.Random, rate: float) -> int:
    """How often in a row something of probability `rate` happens, MOST times at most."""
    return next((count for count in range(MOST) if rng.random() >= rate), MOST)


def _statement(rng: random.Random, question: Question, kind: str, wrong: float, long: float) -> Written:
    """A fact of the subject asked about.  A wrong value is a flaw, and so is a whole fact that was not asked for."""
    value, statement = question.truth[kind], KINDS[kind].statements[rng.random() < long]
    mistaken = rng.random() < wrong
    if mistaken:
        value = rng.choice([other for other in KINDS[kind].values if other != value])
    text = statement.format(subject=question.subject, value=value)
    if question.asked not in ("", kind):
        return flawed(text)
    start = text.index(f" {value}") + 1  # a value always follows a space (see the module's rules)
    return Written(text, ((start, start + len(value)),) if mistaken else ())


def perfect_answer(rng: random.Random, question: Question, long: float) -> str:
    """Four right facts, or the one that was asked for: its utility is exactly 1."""
    kinds = [question.asked] if question.asked else rng.sample(list(KINDS), ENOUGH)  # stated in the order of KINDS
    return " ".join(_statement(rng, question, kind, 0.0, long).text for kind in KINDS if kind in kinds)
