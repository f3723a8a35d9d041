"""Slices that every task has: the shortest and the longest third of the held-out prompts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example

SHORTEST, LONGEST = "shortest third of prompts", "longest third of prompts"

ENOUGH = 30
"""Prompts below which a third is too few to say anything of."""


def length_slices(examples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Example id -> its slice, by words of the prompt; none for the middle third.

    {} for few prompts, and where the thirds do not differ in length.
    """
    if len(examples) < ENOUGH:
        return {}
    ordered = sorted((len(row["prompt"].split()), row["id"]) for row in examples)
    third = len(ordered) // 3
    short, long = ordered[:third], ordered[-third:]
    if short[-1][0] >= long[0][0]:
        return {}
    return {**{name: SHORTEST for _, name in short}, **{name: LONGEST for _, name in long}}


PromptType = Literal["open", "closed"]


TYPE_SLICES: dict[str, PromptType] = {
    "open": "open",
    "open-ended": "open",
    "closed": "closed",
    "closed-ended": "closed",
}
"""Slices of an example that state its prompt's type."""


OPEN_MARKS = re.compile(
    r"""
    \b(write|compose|create|generate|design|draft|invent|imagine|brainstorm|suggest|recommend|come\ up\ with|make\ up
    |propose|pretend|advi[sc]e|tips|ideas?|story|stories|essay|poem|haiku|song|slogan|tagline|title|creative
    |opinion|what\ do\ you\ think|should\ (i|we)|give\ (me\ )?(an\ example|some|examples)|ways\ to|argue
    |argument\ (for|in\ favor|against))\b
    |^\s*(describe|discuss|tell\ me|talk\ about)\b
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


CLOSED_MARKS = re.compile(r"\b(summar(y|ies|i[sz]e)|translat(e|ion))\b", re.IGNORECASE)
"""Writing that follows a given text, whatever verb asks for it ("write a summary")."""


def type_by_rule(prompt: str) -> PromptType:
    """The guess where nobody says: open-ended if an instruction line asks for something made up, opinions or ideas.

    Everything else is closed-ended, as in the paper: a question of fact, an explanation, a transformation of a text has
    an answer that a reference can hold; so is a summary or a translation even where it is to be "written".
    Instructions stand in the first or the last line that is not blank.  A rule of words, for English; `rule_accuracy`
    says how often it is right where types are known.
    """
    lines = [line for line in prompt.splitlines() if line.strip()]
    instructions = "\n".join((*lines[:1], *lines[-1:]))
    return "open" if OPEN_MARKS.search(instructions) and not CLOSED_MARKS.search(instructions) else "closed"


def declared_type(example: Example) -> PromptType | None:
    """The type that an example's slices state, None where they state none.  Raises BenchError for both at once."""
    found = {TYPE_SLICES[name] for name in example.slices if name in TYPE_SLICES}
    if len(found) > 1:
        raise BenchError(f"The example {example.id!r} is open-ended and closed-ended.", "Leave one of the slices.")
    return next(iter(found), None)


@dataclass(frozen=True, slots=True)
class RuleAccuracy:
    """How often `type_by_rule` agrees with the types that examples state: right of total, by stated type."""

    right_open: int
    total_open: int
    right_closed: int
    total_closed: int

    @property
    def accuracy(self) -> float | None:
        """None where no example states a type."""
        total = self.total_open + self.total_closed
        return (self.right_open + self.right_closed) / total if total else None


def rule_accuracy(examples: Iterable[Example]) -> RuleAccuracy:
    """The rule against the stated types; examples that state none are left out."""
    stated = [(kind, type_by_rule(e.prompt) == kind) for e in examples if (kind := declared_type(e)) is not None]
    by_type = {kind: [right for own, right in stated if own == kind] for kind in ("open", "closed")}
    return RuleAccuracy(sum(by_type["open"]), len(by_type["open"]), sum(by_type["closed"]), len(by_type["closed"]))
