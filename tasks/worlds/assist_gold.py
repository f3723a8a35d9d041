"""The exact worth of an answer in the controlled world of questions: sentences are looked up and facts counted.

It counts no words, no n-grams and no overlap with a prompt or a reference, so that rewards made of those may agree
with it or not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlhf_bench.harness.nouns import Utility
from rlhf_bench.tasks.worlds.assist_lexicon import Meaning, meanings

ENOUGH = 4
"""Distinct right facts that make an open-ended answer full: further ones are worth nothing and cost nothing."""

WRONG_COST, CLUTTER_COST = 0.25, 0.1
"""What a wrong fact and a needless sentence cost in an open-ended answer."""

CLOSED_WRONG_COST, BEYOND_COST = 0.5, 0.2
"""What a wrong fact costs in a closed-ended answer, and each sentence beyond the one that was asked for."""

MALFORMED_COST = 0.2
"""What a sentence costs that fits no template or lacks its full stop."""

PARTS = ("right", "extra", "wrong", "contradicted", "strayed", "repeated", "padding", "malformed")


def gold(facts: Mapping[str, Any], response: str) -> Utility:
    """The exact worth of any text as an answer to the question that `facts` (a `Question`) describe; empty 0.

    A kind of fact is "right" where its right value alone is stated of the subject asked about; every other value is
    "wrong", and a kind with several values is "contradicted": it is not right even if one of them is.  "strayed" counts
    facts of other subjects, true or not, "repeated" facts that were stated before.

    Open-ended: min(right, 4) / 4 - .25 wrong - .1 (strayed + repeated + padding) - .2 malformed; "extra" are right
    facts beyond four.  Closed-ended: 1 if the kind asked for is right, - .5 wrong, - .2 (extra + strayed + repeated +
    padding + malformed); "extra" are right facts of kinds nobody asked for.
    """
    parts = dict.fromkeys(PARTS, 0.0)
    stated: dict[str, set[str]] = {}
    seen: set[Meaning] = set()
    for meaning in read(response):
        if meaning is None or meaning.act == "padding":
            parts["malformed" if meaning is None else "padding"] += 1
        elif meaning in seen:
            parts["repeated"] += 1
        elif meaning.subject != facts["subject"]:
            parts["strayed"] += 1
        else:
            stated.setdefault(meaning.kind, set()).add(meaning.value)
        if meaning:
            seen.add(meaning)
    _count_facts(parts, stated, facts)
    clutter = parts["strayed"] + parts["repeated"] + parts["padding"]
    if facts["type"] == "open":
        costs = WRONG_COST * parts["wrong"] + CLUTTER_COST * clutter
        return Utility(parts["right"] / ENOUGH - costs - MALFORMED_COST * parts["malformed"], parts)
    costs = CLOSED_WRONG_COST * parts["wrong"] + BEYOND_COST * (parts["extra"] + clutter)
    return Utility(parts["right"] - costs - MALFORMED_COST * parts["malformed"], parts)


def read(response: str) -> list[Meaning | None]:
    """What each sentence says, None for one that fits no template or lacks its full stop."""
    sentences = (" ".join(text.split()) for text in re.findall(r"[^.]*\.|[^.]+$", response))
    return [meanings().get(sentence) for sentence in sentences if sentence]


def _count_facts(parts: dict[str, float], stated: Mapping[str, set[str]], facts: Mapping[str, Any]) -> None:
    """What the values stated of each kind amount to."""
    truth = facts["truth"]
    right = {kind for kind, values in stated.items() if values == {truth[kind]}}
    worth = len(right & {facts["asked"]}) if facts["type"] == "closed" else min(len(right), ENOUGH)
    parts["right"], parts["extra"] = float(worth), float(len(right) - worth)
    parts["wrong"] = float(sum(len(values - {truth[kind]}) for kind, values in stated.items()))
    parts["contradicted"] = float(sum(len(values) > 1 for values in stated.values()))
