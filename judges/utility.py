"""Utility before and after, whose distribution tells a collapse: the task's gold, or a scorer's opinion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlhf_bench.harness.nouns import Case, Measure, Verdict
from rlhf_bench.harness.seams import GoldTask, Task
from rlhf_bench.judges.scorers import NO_GOLD, before_and_after, load_scorer, repeatable, scorer_content


@dataclass(frozen=True)
class UtilityChange:
    """The task's exact utility of the response and of the baseline's; undecided for a task without gold.

    `scorer` names a scorer (as for `winrate`, such as rm:FOLDER_OR_HUB_ID) to be used instead.  What it says is called
    a score, never gold.  The statistics of collapse compare the two distributions (`before` names the baseline's).
    """

    scorer: str = ""

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
        name, what = ("score", f"score by {self.scorer}") if self.scorer else ("gold", "gold utility")
        return [
            Measure(f"{name}_change", "change", f"{what} more than the SFT baseline's response to the same prompt"),
            Measure(name, "level", f"{what} of the response", before=f"{name}_baseline"),
            Measure(f"{name}_baseline", "level", f"{what} of the SFT baseline's response"),
        ]

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        return self._by_scorer(cases, task) if self.scorer else [self._by_gold(case, task) for case in cases]

    def _by_scorer(self, cases: Sequence[Case], task: Task) -> list[Verdict]:
        verdicts = []
        for before, after in before_and_after(cases, task, load_scorer(self.scorer)):
            known = after.value is not None and before.value is not None
            change = after.value - before.value if after.value is not None and before.value is not None else None
            values = {"score_change": change, "score": after.value, "score_baseline": before.value}
            verdicts.append(Verdict(values, "" if known else after.reason or before.reason))
        return verdicts

    def _by_gold(self, case: Case, task: Task) -> Verdict:
        if not isinstance(task, GoldTask):
            return Verdict({"gold_change": None, "gold": None, "gold_baseline": None}, NO_GOLD)
        after = task.utility(case.example, case.generation.response)
        before = task.utility(case.example, case.baseline.response)
        values = {"gold_change": after.value - before.value, "gold": after.value, "gold_baseline": before.value}
        return Verdict(values, notes={"parts": dict(after.parts)})
