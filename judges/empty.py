"""The share of empty responses."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlhf_bench.harness.nouns import Case, Measure, Verdict
from rlhf_bench.harness.seams import Task


@dataclass(frozen=True)
class Empty:
    """Share of empty responses: those of white space, control and formatting characters alone.

    A zero-width space or a direction mark is no answer either.  Private characters are visible: fonts may show them.
    """

    @property
    def measures(self) -> Sequence[Measure]:
        what = "responses without a visible character"
        return [Measure("empty_rate", "rate", what, title="empty", format="share", better="lower")]

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:  # noqa: ARG002
        """One verdict per case, always decided: 1 for an empty response, else 0; the baseline's is not read."""
        for case in cases:
            yield Verdict({"empty_rate": float(not any(map(is_visible, case.generation.response)))})


def is_visible(character: str) -> bool:
    """Whether Unicode gives the character a shape: none of its separators, controls, formats and unassigned ones."""
    kind = unicodedata.category(character)
    return kind == "Co" or kind[0] not in "ZC"
