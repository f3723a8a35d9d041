"""Slices of held-out prompts, for which a report repeats its numbers: by length, and open-ended against closed-ended.

Every task has the length slices.  The prompt's type is stated by the examples or guessed by a rule of words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example
from rlhf_bench.harness.text.types import Row
from rlhf_bench.harness.text.words import mostly_latin, spaced_words

SHORTEST, LONGEST = "shortest third of prompts", "longest third of prompts"

MIN_PROMPTS = 30
"""Fewest prompts for length slices: a third of fewer is too small for an interval."""


def length_slices(examples: Sequence[Row]) -> dict[str, str]:
    """Slice by example id, by the number of words of the prompt (text/words.py); the middle third has none.

    `examples` are stored rows with `id` and `prompt`; their order does not matter.  Returns {} for fewer than
    MIN_PROMPTS, and where the longest of the shortest third is as long as the shortest of the longest third.
    """
    if len(examples) < MIN_PROMPTS:
        return {}
    ordered = sorted((len(spaced_words(row["prompt"])), row["id"]) for row in examples)  # ids break ties
    third = len(ordered) // 3  # rounded down: the two outer slices are equally large
    short, long = ordered[:third], ordered[-third:]
    if short[-1][0] >= long[0][0]:
        return {}
    return {**{name: SHORTEST for _, name in short}, **{name: LONGEST for _, name in long}}


PromptType = Literal["open", "closed"]
"""Open-ended: many different responses are right.  Closed-ended: a reference can hold the answer."""

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
"""Words of an instruction that asks for something made up, for opinions or for ideas."""

CLOSED_MARKS = re.compile(r"\b(summar(y|ies|i[sz]e)|translat(e|ion))\b", re.IGNORECASE)
"""Words of an instruction whose response follows a given text, with any verb ("write a summary")."""


def type_by_rule(prompt: str) -> PromptType:
    """The type of a prompt that states none, guessed from English words.

    Open-ended if an instruction asks for something made up, for opinions or for ideas.  Everything else is
    closed-ended, as in arXiv 2402.03469: a question of fact, an explanation and a transformation of a text have an
    answer that a reference can hold, and so have a summary and a translation that are to be "written".
    `rule_accuracy` measures the rule where types are stated.  It says nothing of a text that is `beyond_rule`.
    """
    lines = [line for line in prompt.splitlines() if line.strip()]
    # Instructions stand before or after the text that they are about; words of that text must not decide.
    instructions = "\n".join((*lines[:1], *lines[-1:]))
    return "open" if OPEN_MARKS.search(instructions) and not CLOSED_MARKS.search(instructions) else "closed"


def beyond_rule(prompt: str) -> bool:
    """Whether most of a prompt's letters are of another script: the rule would call everything closed-ended."""
    return not mostly_latin(prompt)


def declared_type(example: Example) -> PromptType | None:
    """The type that an example's slices state, None where they state none.

    Raises BenchError for an example in both kinds of slices.
    """
    found = {TYPE_SLICES[name] for name in example.slices if name in TYPE_SLICES}
    if len(found) > 1:  # a set: two slices that state the same type agree
        raise BenchError(f"The example {example.id!r} is open-ended and closed-ended.", "Leave one of the slices.")
    return next(iter(found), None)


@dataclass(frozen=True, slots=True)
class RuleAccuracy:
    """How often `type_by_rule` agrees with the types that examples state: correct guesses of all, by stated type."""

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
    """Compare the rule with the stated types; examples that state none are left out."""
    guesses: dict[PromptType, list[bool]] = {"open": [], "closed": []}
    for example in examples:
        if (stated := declared_type(example)) is not None:
            guesses[stated].append(type_by_rule(example.prompt) == stated)
    right_open, right_closed = guesses["open"], guesses["closed"]
    return RuleAccuracy(sum(right_open), len(right_open), sum(right_closed), len(right_closed))
