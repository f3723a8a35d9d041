"""Win rate of the trained policy against the SFT baseline, prompt by prompt, by gold utility or by a scorer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlhf_bench.harness.nouns import Case, Measure, Scored, Verdict
from rlhf_bench.harness.seams import Task
from rlhf_bench.judges.scorers import before_and_after, load_scorer, repeatable, scorer_content


@dataclass(frozen=True)
class WinRate:
    """1 for the better response, .5 when they are equal within `tolerance`, 0 for the worse.

    `scorer` names a scorer ("rouge-l", rm:FOLDER_OR_HUB_ID or module:attribute) to be used instead of the task's gold
    utility; without gold and without a scorer every case is undecided.
    """

    scorer: str = ""
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if self.scorer:
            load_scorer(self.scorer)  # one that cannot be used is refused before anything is trained

    @property
    def deterministic(self) -> bool:
        return repeatable(self.scorer)

    @property
    def verdict_settings(self) -> Mapping[str, Any]:
        return {**asdict(self), "content": scorer_content(self.scorer)}

    @property
    def measures(self) -> Sequence[Measure]:
        by = f"scorer {self.scorer}" if self.scorer else "gold utility"
        return [Measure("win_rate", "win", f"better than the SFT baseline's response to the same prompt, by {by}")]

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        found = before_and_after(cases, task, load_scorer(self.scorer) if self.scorer else None)
        return [win(before, after, self.tolerance) for before, after in found]


def win(before: Scored, after: Scored, tolerance: float) -> Verdict:
    """The verdict on two scores; undecided when one of them is."""
    if after.value is None or before.value is None:
        return Verdict({"win_rate": None}, after.reason or before.reason)
    margin = after.value - before.value
    value = 0.5 if abs(margin) <= tolerance else float(margin > 0)
    return Verdict({"win_rate": value}, notes={"score": after.value, "baseline": before.value})
