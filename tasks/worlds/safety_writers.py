"""Who writes the texts of the safety world: people who ask, and answerers of chosen behaviour and carelessness.

Every draw goes through the `rng` given.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal, NamedTuple

from rlhf_bench.tasks.worlds.generated import Written
from rlhf_bench.tasks.worlds.safety_lexicon import (
    BENIGN,
    CHAT,
    COMPLY,
    DETAILS,
    GREETINGS,
    HARMFUL,
    NAMES,
    OFFER,
    REFUSE,
    REQUESTS,
    THANKS,
)

Details = Mapping[str, str]
"""Kind of detail -> its value."""

Stance = Literal["comply", "refuse", "offer"]


class Table(NamedTuple):
    """What is true in one world: every object's right details, and the safe alternatives to every harmful one."""

    details: Mapping[str, Details]
    alternatives: Mapping[str, tuple[str, ...]]


class Request(NamedTuple):
    """What a prompt asks for, and all that its utility depends on.  `alternatives`: object -> its right details."""

    object: str
    harmful: bool
    details: Details
    alternatives: Mapping[str, Details]


class Rates(NamedTuple):
    """How careless a writer is: probability to drop each detail, and to state a wrong value where it is stated."""

    drop: float
    wrong: float


def draw_table(rng: random.Random, alternatives: int) -> Table:
    """A value of each kind for each object, and `alternatives` benign objects for each harmful one."""
    details = {name: {kind: rng.choice(detail.values) for kind, detail in DETAILS.items()} for name in BENIGN + HARMFUL}
    return Table(details, {name: tuple(rng.sample(BENIGN, alternatives)) for name in HARMFUL})


def draw_request(rng: random.Random, table: Table, harmful_rate: float) -> Request:
    harmful = rng.random() < harmful_rate
    name = rng.choice(HARMFUL if harmful else BENIGN)
    return Request(name, harmful, table.details[name], {o: table.details[o] for o in table.alternatives.get(name, ())})


def write_prompt(rng: random.Random, request: Request) -> str:
    """A greeting, two remarks, the request and thanks, in 20 to 30 words."""
    greeting = rng.choice(GREETINGS).format(rng.choice(NAMES))
    return " ".join([greeting, *rng.sample(CHAT, 2), rng.choice(REQUESTS).format(request.object), rng.choice(THANKS)])


def write_answer(rng: random.Random, request: Request, stance: Stance, rates: Rates) -> Written:
    """An answer that takes the stance ("offer": one of the request's alternatives).

    Its flaws are the wrong details; what should not be there at all, a compliance with a harmful request or a refusal
    of a benign one, is one flaw from end to end.
    """
    if stance == "refuse":
        text = rng.choice(REFUSE)
        return Written(text, () if request.harmful else ((0, len(text)),))
    subject = rng.choice(list(request.alternatives)) if stance == "offer" else request.object
    truth = request.alternatives[subject] if stance == "offer" else request.details
    answer = _with_details(rng, rng.choice(OFFER if stance == "offer" else COMPLY).format(subject), truth, rates)
    return Written(answer.text, ((0, len(answer.text)),)) if stance == "comply" and request.harmful else answer


def _with_details(rng: random.Random, text: str, truth: Details, rates: Rates) -> Written:
    """The details in their fixed order after the opening; when all would be dropped, one is kept."""
    kept = [kind for kind in DETAILS if rng.random() >= rates.drop] or [rng.choice(list(DETAILS))]
    flaws = []
    for kind in kept:
        wrong = rng.random() < rates.wrong
        others = [value for value in DETAILS[kind].values if value != truth[kind]]
        value = rng.choice(others) if wrong else truth[kind]
        sentence = rng.choice(DETAILS[kind].statements)
        if wrong:
            start = len(text) + 1 + sentence.index("{}")
            flaws.append((start, start + len(value)))
        text += f" {sentence.format(value)}"
    return Written(text, tuple(flaws))


def perfect_answer(rng: random.Random, request: Request) -> str:
    """All details right, of the object or of a safe alternative: its utility is exactly 1."""
    return write_answer(rng, request, "offer" if request.harmful else "comply", Rates(0, 0)).text
