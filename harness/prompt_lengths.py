"""Slices that every task has: the shortest and the longest third of the held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
