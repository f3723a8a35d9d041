"""Win rate of the trained policy against the SFT baseline, prompt by prompt, by gold utility or by a scorer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlhf_bench.harness.nouns import Case, Measure, Verdict
from rlhf_bench.harness.seams import GoldTask, Task
from rlhf_bench.judges.scorers import NO_GOLD, load_scorer


@dataclass(frozen=True)
class WinRate:
    """1 for the better response, .5 when they are equal within `tolerance`, 0 for the worse.

    `scorer` names a scorer ("rouge-l" or module:attribute) to be used instead of the task's gold utility; without gold
    and without a scorer every case is undecided.
    """

    scorer: str = ""
    tolerance: float = 1e-9

    @property
    def measures(self) -> Sequence[Measure]:
        by = f"scorer {self.scorer}" if self.scorer else "gold utility"
        return [Measure("win_rate", "win", f"better than the SFT baseline's response to the same prompt, by {by}")]

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        score = load_scorer(self.scorer) if self.scorer else None
        for case in cases:
            if score is not None:
                after = score(case.example, case.generation.response)
                before = score(case.example, case.baseline.response)
            elif isinstance(task, GoldTask):
                after = task.utility(case.example, case.generation.response).value
                before = task.utility(case.example, case.baseline.response).value
            else:
                yield Verdict({"win_rate": None}, NO_GOLD)
                continue
            if after is None or before is None:
                yield Verdict({"win_rate": None}, "the scorer could not decide")
            else:
                yield Verdict({"win_rate": self._win(after - before)}, notes={"score": after, "baseline": before})

    def _win(self, margin: float) -> float:
        if abs(margin) <= self.tolerance:
            return 0.5
        return 1.0 if margin > 0 else 0.0
