"""The share of empty responses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlhf_bench.harness.nouns import Case, Measure, Verdict
from rlhf_bench.harness.seams import Task


@dataclass(frozen=True)
class Empty:
    """Share of empty responses: those of white space alone."""

    @property
    def measures(self) -> Sequence[Measure]:
        what = "responses without a visible character"
        return [Measure("empty_rate", "rate", what, title="empty", format="share", better="lower")]

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:  # noqa: ARG002
        """One verdict per case, always decided: 1 for an empty response, else 0; the baseline's is not read."""
        for case in cases:
            yield Verdict({"empty_rate": 0.0 if case.generation.response.strip() else 1.0})
