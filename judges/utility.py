"""Gold utility before and after, whose distribution tells a collapse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlhf_bench.harness.nouns import Case, Measure, Verdict
from rlhf_bench.harness.seams import GoldTask, Task
from rlhf_bench.judges.scorers import NO_GOLD


@dataclass(frozen=True)
class UtilityChange:
    """The task's exact utility of the response and of the baseline's; undecided for a task without gold.

    The statistics of collapse compare the two distributions (`before` names the baseline's measure).
    """

    @property
    def measures(self) -> Sequence[Measure]:
        return [
            Measure("gold_change", "change", "gold utility more than the SFT baseline's response to the same prompt"),
            Measure("gold", "level", "gold utility of the response", before="gold_baseline"),
            Measure("gold_baseline", "level", "gold utility of the SFT baseline's response"),
        ]

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        for case in cases:
            if not isinstance(task, GoldTask):
                yield Verdict({"gold_change": None, "gold": None, "gold_baseline": None}, NO_GOLD)
                continue
            after = task.utility(case.example, case.generation.response)
            before = task.utility(case.example, case.baseline.response)
            values = {
                "gold_change": after.value - before.value,
                "gold": after.value,
                "gold_baseline": before.value,
            }
            yield Verdict(values, notes={"parts": dict(after.parts)})
