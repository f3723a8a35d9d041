"""Win rate of the trained policy against the SFT baseline, prompt by prompt, by true utility or by a scorer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_bench.harness.nouns import Case, Measure, Scored, Verdict
from rlhf_bench.harness.seams import GoldScores, Judge, Task
from rlhf_bench.judges.scorers import ByScorer, before_and_after, described, load_scorer

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class WinRate(ByScorer):
    """Win rate against the SFT baseline by the task's true utility, or by a scorer.

    1 where the trained policy's response is better, 0.5 where both are equal within `tolerance`, 0 where it is worse.
    `scorer` ("rouge-l", rm: or embedding: with a folder or hub id, or module:attribute) is used instead of the true
    utility; with neither, every case is undecided.  Raises BenchError for a scorer that cannot be used.
    """

    tolerance: float = 1e-9

    def with_gold(self, gold: GoldScores) -> Judge:
        """The judge of wins by a gold model's score."""
        return WinRateByGold(gold, self.tolerance)

    @property
    def measures(self) -> Sequence[Measure]:
        return measures_by(described(self.scorer) if self.scorer else "true utility")

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        """One verdict per case, in order; the notes hold both scores."""
        found = before_and_after(cases, task, load_scorer(self.scorer) if self.scorer else None)
        return [win_verdict(before, after, self.tolerance) for before, after in found]


@dataclass(frozen=True)
class WinRateByGold:
    """Win rate against the SFT baseline by the score of a run's gold model; `tolerance` as for `WinRate`."""

    gold: GoldScores
    tolerance: float = 1e-9

    @property
    def measures(self) -> Sequence[Measure]:
        return measures_by(f"the gold model {self.gold.name}")

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        """One verdict per case, in order; the notes hold both scores."""
        found = before_and_after(cases, task, self.gold)
        return [win_verdict(before, after, self.tolerance) for before, after in found]


def measures_by(by: str) -> list[Measure]:
    """The win rate, by what it is measured."""
    what = f"better than the SFT baseline's response to the same prompt, by {by}"
    return [Measure("win_rate", "win", what, title="win rate")]


def win_verdict(before: Scored, after: Scored, tolerance: float) -> Verdict:
    """The verdict on the baseline's and the trained policy's score; undecided where one of them is.

    win_rate: 1, 0.5 or 0.  `tolerance` is in the unit of the scores: two that differ by no more are a tie.
    """
    if after.value is None or before.value is None:
        return Verdict({"win_rate": None}, after.reason or before.reason)
    margin = after.value - before.value
    # a tie is 0.5, so that a policy without any change has a win rate of 0.5
    value = 0.5 if abs(margin) <= tolerance else float(margin > 0)
    return Verdict({"win_rate": value}, notes={"score": after.value, "baseline": before.value})
