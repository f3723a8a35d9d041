"""Win rate of the trained policy against the SFT baseline, prompt by prompt, by true utility or by a scorer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rlhf_bench.harness.nouns import Case, Measure, Scored, Verdict
from rlhf_bench.harness.seams import GoldScores, Judge, Task
from rlhf_bench.judges.scorers import (
    before_and_after,
    described,
    is_deterministic,
    load_scorer,
    needs_references,
    scorer_account,
    scorer_content,
)

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row


@dataclass(frozen=True)
class WinRate:
    """Win rate against the SFT baseline by the task's true utility, or by a scorer.

    1 where the trained policy's response is better, 0.5 where both are equal within `tolerance`, 0 where it is worse.
    `scorer` ("rouge-l", rm: or embedding: with a folder or hub id, or module:attribute) is used instead of the true
    utility; with neither, every case is undecided.  Raises BenchError for a scorer that cannot be used.
    """

    scorer: str = ""
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if self.scorer:
            load_scorer(self.scorer)  # an unusable scorer must be refused before training

    @property
    def deterministic(self) -> bool:
        """Whether undecided cases stay undecided, so that they need not be judged again."""
        return is_deterministic(self.scorer)

    @property
    def verdict_settings(self) -> Row:
        """What a verdict depends on: the settings, and the scorer by its content."""
        return {**asdict(self), "content": scorer_content(self.scorer)}

    @property
    def account(self) -> Row:
        """What the scorer was trained with, where it is a reward model of a run; else {}."""
        return scorer_account(self.scorer)

    @property
    def needs_references(self) -> bool:
        """Whether it decides nothing on a task whose held-out examples have no reference."""
        return needs_references(self.scorer)

    @property
    def takes_gold(self) -> bool:
        """Whether a run's gold model takes the place of the true utility: not beside a scorer."""
        return not self.scorer

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
