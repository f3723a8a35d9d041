"""Who writes the texts of a controlled world: the speakers or the author, and summarisers of chosen carelessness.

The words live in `lexicon.py` and `lexicon_prose.py`; nothing here knows what the facts are about.
Every draw goes through the `rng` given.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from rlhf_bench.harness.text.tokens import Span
from rlhf_bench.tasks.worlds.generated import Written
from rlhf_bench.tasks.worlds.lexicon import Exchange, Register

MAX_WORDS = 220
"""The longest prompt, in words, that there is enough chit-chat for."""

PASSING_RATE = 0.5
"""Share of the prompts that mention a reserved value in passing: each then occurs often enough to become a token."""


class Facts(NamedTuple):
    """What was agreed on, which values were taken back, and which values of absent kinds were only mentioned."""

    truth: dict[str, str]
    distractors: dict[str, str]
    mentioned: dict[str, str]


class Rates(NamedTuple):
    """How careless a writer is: probability to drop, alter each fact, to invent each absent one, to add one filler."""

    drop: float
    wrong: float
    invent: float
    filler: float


def draw_facts(rng: random.Random, register: Register, count: int, correction: float, mention: float) -> Facts:
    """`count` agreed kinds besides the core one; `correction` is per agreed, `mention` per absent kind."""
    others = [kind for kind in register.kinds if kind != register.core]
    chosen = set(rng.sample(others, count))
    present = [register.core, *(kind for kind in others if kind in chosen)]
    truth = {kind: rng.choice(register.kinds[kind].values) for kind in present}
    old = {kind: _other(rng, register, kind, value) for kind, value in truth.items() if rng.random() < correction}
    absent = [kind for kind in others if kind not in chosen and rng.random() < mention]
    return Facts(truth, old, {kind: rng.choice(register.kinds[kind].values) for kind in absent})


def _other(rng: random.Random, register: Register, kind: str, value: str) -> str:
    return rng.choice([other for other in register.kinds[kind].values if other != value])


def write_prompt(rng: random.Random, register: Register, facts: Facts, words: int) -> str:
    """A text of about `words` words in which every fact is settled, a correction after what it corrects.

    'Name: ...' lines in a dialogue; a head and then the text in prose.
    """
    opening, closing = rng.choice(register.openings), rng.choice(register.closings)
    room = words - _length(register, [opening, closing])
    talk = [opening, *_with_small_talk(rng, register, facts, room), closing]
    names = rng.sample(register.names, 2)
    return _prose(rng, register, names[1], talk) if register.heads else _dialogue(rng, names, talk)


def _with_small_talk(rng: random.Random, register: Register, facts: Facts, words: float) -> list[Exchange]:
    talk = _settlement(rng, register, facts)
    asides = [_mention(rng, register, kind, value) for kind, value in facts.mentioned.items()]
    asides += _passing(rng, register)
    room = words - _length(register, talk) - _length(register, asides)
    for exchange in rng.sample(register.chat, len(register.chat)):
        if room < _length(register, [exchange]) / 2:
            break
        asides.append(exchange)
        room -= _length(register, [exchange])
    for exchange in asides:
        talk.insert(rng.randint(0, len(talk)), exchange)
    return talk


def _mention(rng: random.Random, register: Register, kind: str, value: str) -> Exchange:
    return rng.choice(register.kinds[kind].mentions).format(value), rng.choice(register.replies)


def _passing(rng: random.Random, register: Register) -> list[Exchange]:
    """A reserved value, where there are any: of any kind, settled here or not."""
    reserved = [(name, value) for name, kind in register.kinds.items() for value in kind.reserved]
    if not reserved or rng.random() >= PASSING_RATE:
        return []
    return [_mention(rng, register, *rng.choice(reserved))]


def _settlement(rng: random.Random, register: Register, facts: Facts) -> list[Exchange]:
    """The exchanges that settle the facts: the core one first, the others in any order, corrections any time later."""
    order = list(facts.truth)[1:]
    rng.shuffle(order)
    moves = [(kind, "proposals", facts.distractors.get(kind, facts.truth[kind])) for kind in [register.core, *order]]
    for kind, old in facts.distractors.items():
        after = moves.index((kind, "proposals", old)) + 1
        moves.insert(rng.randint(after, len(moves)), (kind, "corrections", facts.truth[kind]))
    return [
        (
            rng.choice(getattr(register.kinds[kind], templates)).format(value),
            rng.choice(register.kinds[kind].accepts).format(value),
        )
        for kind, templates, value in moves
    ]


def _length(register: Register, talk: Sequence[Exchange]) -> float:
    """Words of the exchanges; in a dialogue with one and a half names each (about half of neighbouring turns merge).

    A head is not counted: it is the frame of the text.
    """
    names = 0.0 if register.heads else 1.5
    return sum(len(said.split()) + len(answer.split()) + names for said, answer in talk)


def _dialogue(rng: random.Random, names: Sequence[str], talk: Sequence[Exchange]) -> str:
    lines: list[tuple[int, str]] = []
    for at, exchange in enumerate(talk):
        first = rng.randrange(2) if at else 0
        for speaker, text in zip((first, 1 - first), exchange, strict=True):
            said = text.format(other=names[1 - speaker])
            if lines and lines[-1][0] == speaker:
                lines[-1] = speaker, f"{lines[-1][1]} {said}"
            else:
                lines.append((speaker, said))
    return "\n".join(f"{names[speaker]}: {said}" for speaker, said in lines)


def _prose(rng: random.Random, register: Register, name: str, talk: Sequence[Exchange]) -> str:
    lines = [rng.choice(register.heads), *(" ".join(exchange) for exchange in talk)]
    return " ".join(lines).format(other=name)


def perfect_summary(rng: random.Random, register: Register, facts: Facts) -> str:
    """Every fact once, nothing else: its gold is exactly 1."""
    return noisy_summary(rng, register, facts, Rates(0, 0, 0, 0)).text


def noisy_summary(rng: random.Random, register: Register, facts: Facts, rates: Rates) -> Written:
    """A careless writer's summary.  It always states something: when every fact would be dropped, one is kept.

    Its flaws are the altered values and whole unasked-for sentences.
    """
    kept = [kind for kind in facts.truth if rng.random() >= rates.drop] or [rng.choice(list(facts.truth))]
    stated = {kind: _value(rng, register, facts, kind, rates.wrong) for kind in kept}
    absent = [kind for kind in register.kinds if kind not in facts.truth and rng.random() < rates.invent]
    stated |= {kind: _invented(rng, register, facts, kind) for kind in absent}
    sentences = [
        _state(rng, register, facts, kind, stated[kind]) for kind in register.kinds if kind in stated
    ]  # always in the register's order: the order must not tell what is wrong
    if rng.random() < rates.filler:
        filler = rng.choice(register.fillers)
        sentences.insert(rng.randint(0, len(sentences)), Written(filler, ((0, len(filler)),)))
    return _join(sentences)


def _value(rng: random.Random, register: Register, facts: Facts, kind: str, wrong: float) -> str:
    """The true value, or with probability `wrong` another one: half the time the one that was taken back."""
    if rng.random() >= wrong:
        return facts.truth[kind]
    if kind in facts.distractors and rng.random() < 0.5:
        return facts.distractors[kind]
    return _other(rng, register, kind, facts.truth[kind])


def _invented(rng: random.Random, register: Register, facts: Facts, kind: str) -> str:
    if kind in facts.mentioned and rng.random() < 0.5:
        return facts.mentioned[kind]
    return rng.choice(register.kinds[kind].values)


def _state(rng: random.Random, register: Register, facts: Facts, kind: str, value: str) -> Written:
    template = rng.choice(register.kinds[kind].statements)
    text, start = template.format(value), template.index("{}")
    if kind not in facts.truth:
        return Written(text, ((0, len(text)),))
    return Written(text, () if facts.truth[kind] == value else ((start, start + len(value)),))


def _join(sentences: Sequence[Written]) -> Written:
    flaws: list[Span] = []
    offset = 0
    for text, spans in sentences:
        flaws += [(offset + start, offset + end) for start, end in spans]
        offset += len(text) + 1
    return Written(" ".join(sentence.text for sentence in sentences), tuple(flaws))
