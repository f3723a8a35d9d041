"""The exact worth of a summary in a controlled world: every sentence is looked up, none is guessed at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

from rlhf_bench.harness.nouns import Utility
from rlhf_bench.tasks.worlds.lexicon import Register

CLUTTER_COST, MALFORMED_COST = 0.1, 0.2
"""What one filler or duplicate sentence costs, and one sentence that fits no template."""


@cache
def _meanings(register: Register) -> dict[str, tuple[str, str]]:
    """Every sentence a summary may hold -> (kind, value); a filler has neither."""
    filler = dict.fromkeys(register.fillers, ("", ""))
    return filler | {
        template.format(value): (name, value)
        for name, kind in register.kinds.items()
        for template in kind.statements
        for value in (*kind.values, *kind.reserved)
    }


def gold(register: Register, truth: Mapping[str, str], response: str) -> Utility:
    """(correct - wrong - unsupported) / facts - .1 (filler + duplicates) - .2 malformed; perfect 1, empty 0.

    Any text is read, sentence by sentence; one that fits no template, or lacks its full stop, is malformed.  A fact
    stated twice with one value counts once and as a duplicate; two values of one kind are two statements.
    """
    parts = dict.fromkeys(("correct", "wrong", "unsupported", "filler", "duplicates", "malformed"), 0.0)
    seen: set[tuple[str, str]] = set()
    for sentence in _sentences(response):
        meaning = _meanings(register).get(sentence)
        parts[_judge(truth, seen, meaning)] += 1
        if meaning:
            seen.add(meaning)
    facts = parts["correct"] - parts["wrong"] - parts["unsupported"]
    clutter = parts["filler"] + parts["duplicates"]
    return Utility(facts / len(truth) - CLUTTER_COST * clutter - MALFORMED_COST * parts["malformed"], parts)


def _sentences(text: str) -> Iterator[str]:
    for sentence in re.findall(r"[^.]*\.|[^.]+$", text):
        if words := sentence.split():
            yield " ".join(words)


def _judge(truth: Mapping[str, str], seen: set[tuple[str, str]], meaning: tuple[str, str] | None) -> str:
    if meaning is None:
        return "malformed"
    kind, value = meaning
    if not kind:
        return "filler"
    if meaning in seen:
        return "duplicates"
    if kind not in truth:
        return "unsupported"
    return "correct" if truth[kind] == value else "wrong"
