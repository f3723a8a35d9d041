"""The length of responses, and its change against the SFT baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlhf_bench.harness.nouns import Case, Measure, ReportPlace, Verdict
from rlhf_bench.harness.seams import Task

PLACES: tuple[ReportPlace, ...] = ("headline",)
"""Where reports show the share that is cut off."""


@dataclass(frozen=True)
class Length:
    """Length of responses in tokens, its change against the SFT baseline, and the share of truncated ones.

    Tokens are the policy's, without end-of-sequence; a truncated response counts with the tokens that it has.
    """

    @property
    def measures(self) -> Sequence[Measure]:
        more = "response tokens more than the SFT baseline's to the same prompt"
        cut = "responses cut off at the longest length"
        return [
            Measure("length_change", "change", more, title="length change", format="tokens"),
            Measure("length", "level", "response tokens", title="length", format="tokens", shown=()),
            Measure("truncated_rate", "rate", cut, title="cut off", format="share", better="lower", shown=PLACES),
        ]

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:  # noqa: ARG002
        """One verdict per case, always decided.

        length_change: tokens more than the baseline's response.   length: tokens.   truncated_rate: 1 where the limit
        of tokens cut the response off, else 0.
        """
        for case in cases:
            # stored when the response was sampled: texts do not tell the number of tokens
            tokens = case.generation.tokens
            yield Verdict(
                {
                    "length_change": tokens - case.baseline.tokens,
                    "length": tokens,
                    "truncated_rate": 0.0 if case.generation.finished else 1.0,
                }
            )
