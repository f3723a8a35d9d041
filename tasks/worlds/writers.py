"""Writers of the synthetic summarisation tasks: of prompts, and of summaries with chosen rates of errors.

The words are in `lexicon.py` and `lexicon_prose.py`; nothing here depends on what the facts are about.  Every random
draw uses the `rng` that is passed in, so the order of draws decides the texts: changing it changes every result.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from rlhf_bench.tasks.worlds.generated import Written, flawed, joined
from rlhf_bench.tasks.worlds.lexicon import Exchange, Register

# The longest prompt, in words, that there is enough small talk for.
MAX_WORDS = 220

# Share of the prompts that mention a reserved value in passing: each then occurs often enough to become a token.
PASSING_RATE = 0.5


class Facts(NamedTuple):
    """What was agreed on, which values were taken back, and which values of absent kinds were only mentioned.

    Each is kind -> value; `truth` begins with the register's core kind.
    """

    truth: dict[str, str]
    distractors: dict[str, str]
    mentioned: dict[str, str]


class Rates(NamedTuple):
    """A writer's error rates: to drop or alter each fact, to invent each absent one, to add one filler.

    `stale` is the rate of stating, of a fact that was corrected, the value that was taken back; `opens` the share of
    fillers that open the summary, where the others stand anywhere.
    """

    drop: float
    wrong: float
    invent: float
    filler: float
    stale: float = 0.0
    opens: float = 0.0


def draw_facts(rng: random.Random, register: Register, count: int, correction: float, mention: float) -> Facts:
    """`count` agreed kinds besides the core one; `correction` is per agreed kind, `mention` per absent kind."""
    others = [kind for kind in register.kinds if kind != register.core]
    chosen = set(rng.sample(others, count))
    # In the register's order, not in that of the sample.
    present = [register.core, *(kind for kind in others if kind in chosen)]
    truth = {kind: rng.choice(register.kinds[kind].values) for kind in present}
    # what was proposed first and then taken back
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
    talk = _settlement(rng, register, facts)
    asides = [_mention(rng, register, kind, value) for kind, value in facts.mentioned.items()]
    # A reserved value may be of any kind, also of one that is settled here.
    reserved = [(name, value) for name, kind in register.kinds.items() for value in kind.reserved]
    if reserved and rng.random() < PASSING_RATE:
        asides.append(_mention(rng, register, *rng.choice(reserved)))
    # Small talk fills the text up; the last exchange goes in where at least half of it fits.
    room = words - _length(register, [opening, closing, *talk, *asides])
    for exchange in rng.sample(register.chat, len(register.chat)):
        if room < _length(register, [exchange]) / 2:
            break
        asides.append(exchange)
        room -= _length(register, [exchange])
    for exchange in asides:
        talk.insert(rng.randint(0, len(talk)), exchange)
    names = rng.sample(register.names, 2)
    talk = [opening, *talk, closing]
    if register.heads:
        lines = [rng.choice(register.heads), *(" ".join(exchange) for exchange in talk)]
        return " ".join(lines).format(other=names[1])
    turns: list[tuple[int, str]] = []
    for at, exchange in enumerate(talk):
        first = rng.randrange(2) if at else 0
        for speaker, text in zip((first, 1 - first), exchange, strict=True):
            said = text.format(other=names[1 - speaker])
            if turns and turns[-1][0] == speaker:  # neighbouring turns of one speaker become one line
                turns[-1] = speaker, f"{turns[-1][1]} {said}"
            else:
                turns.append((speaker, said))
    return "\n".join(f"{names[speaker]}: {said}" for speaker, said in turns)


def _settlement(rng: random.Random, register: Register, facts: Facts) -> list[Exchange]:
    """The exchanges that settle the facts: the core one first, the others in any order, corrections any time later."""
    order = list(facts.truth)[1:]  # without the core kind
    rng.shuffle(order)
    moves = [(kind, "proposals", facts.distractors.get(kind, facts.truth[kind])) for kind in [register.core, *order]]
    for kind, old in facts.distractors.items():
        # At any later place, not only right after the proposal.
        after = moves.index((kind, "proposals", old)) + 1
        moves.insert(rng.randint(after, len(moves)), (kind, "corrections", facts.truth[kind]))
    return [
        (
            rng.choice(getattr(register.kinds[kind], templates)).format(value),
            rng.choice(register.kinds[kind].accepts).format(value),
        )
        for kind, templates, value in moves
    ]


def _mention(rng: random.Random, register: Register, kind: str, value: str) -> Exchange:
    return rng.choice(register.kinds[kind].mentions).format(value), rng.choice(register.replies)


def _length(register: Register, talk: Sequence[Exchange]) -> float:
    """Words of the exchanges, speakers' names included.

    A head is not counted: it is the frame of the text.
    """
    # About half of neighbouring turns merge, which leaves one and a half names for each exchange of a dialogue.
    names = 0.0 if register.heads else 1.5
    return sum(len(said.split()) + len(answer.split()) + names for said, answer in talk)


def perfect_summary(rng: random.Random, register: Register, facts: Facts) -> str:
    """Every fact once, nothing else: its gold is exactly 1."""
    return noisy_summary(rng, register, facts, Rates(0, 0, 0, 0)).text


def noisy_summary(rng: random.Random, register: Register, facts: Facts, rates: Rates) -> Written:
    """A summary with errors.  It always states something: when every fact would be dropped, one is kept.

    Its flaws are the altered values, and whole sentences that state an invented fact or are fillers.
    """
    kept = [kind for kind in facts.truth if rng.random() >= rates.drop] or [rng.choice(list(facts.truth))]
    stated = {}
    for kind in kept:
        value, old = facts.truth[kind], facts.distractors.get(kind)
        # No draw at rate 0: a world without this flaw keeps its texts.
        if old and rates.stale and rng.random() < rates.stale:
            value = old
        elif rng.random() < rates.wrong:
            # Half of the wrong values are those that were taken back, where there is one.
            value = old if old and rng.random() < 0.5 else _other(rng, register, kind, value)
        stated[kind] = value
    for kind in [kind for kind in register.kinds if kind not in facts.truth and rng.random() < rates.invent]:
        mentioned = facts.mentioned.get(kind)
        stated[kind] = mentioned if mentioned and rng.random() < 0.5 else rng.choice(register.kinds[kind].values)

    sentences = []
    for kind in [kind for kind in register.kinds if kind in stated]:  # a fixed order: it must not tell what is wrong
        template, value = rng.choice(register.kinds[kind].statements), stated[kind]
        text, start = template.format(value), template.index("{}")
        if kind not in facts.truth:
            sentences.append(flawed(text))
        else:
            sentences.append(Written(text, () if facts.truth[kind] == value else ((start, start + len(value)),)))
    if rng.random() < rates.filler:
        # The filler is drawn before its place.
        filler = flawed(rng.choice(register.fillers))
        opens = rates.opens and rng.random() < rates.opens  # no draw at rate 0, as above
        sentences.insert(0 if opens else rng.randint(0, len(sentences)), filler)
    return joined(sentences)
