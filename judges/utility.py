"""The utility of responses and its change against the SFT baseline: the task's true utility, or a scorer's score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rlhf_bench.harness.nouns import Case, Measure, Scored, Verdict
from rlhf_bench.harness.seams import GoldScores, GoldTask, Judge, Task
from rlhf_bench.judges.scorers import NO_GOLD, ByScorer, before_and_after, described, load_scorer

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class UtilityChange(ByScorer):
    """Change of the true utility ("gold") against the SFT baseline, or of a scorer's score.

    Undecided for a task without a true utility.  `scorer` (as for `winrate`, such as rm:FOLDER_OR_HUB_ID) is used
    instead; its result is called a score, never gold.  The statistics of collapse compare the distribution after
    training with the one before (Measure.before names the baseline's values).  Raises BenchError for a scorer that
    cannot be used.
    """

    @property
    def judges_quality(self) -> bool:
        """True: under `eval.cut_off=lose` a response that is cut off counts as an empty one."""
        return True

    def with_gold(self, gold: GoldScores) -> Judge:
        """The judge of the change of a gold model's score, which is called gold."""
        return ChangeByGold(gold)

    @property
    def measures(self) -> Sequence[Measure]:
        if self.scorer:
            return measures_of("score", f"score by {described(self.scorer)}")
        return measures_of("gold", "true utility")

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        """One verdict per case, in order; by true utility the notes hold its parts."""
        if self.scorer:
            found = before_and_after(cases, task, load_scorer(self.scorer))
            return [change_verdict(before, after, "score") for before, after in found]
        verdicts: list[Verdict] = []
        values: dict[str, float | None]
        for case in cases:
            # in the loop, because every case needs its verdict, an undecided one too
            if not isinstance(task, GoldTask):
                verdicts.append(Verdict({"gold_change": None, "gold": None, "gold_baseline": None}, NO_GOLD))
                continue
            gold = task.utility(case.example, case.generation.response)
            baseline = task.utility(case.example, case.baseline.response).value
            values = {"gold_change": gold.value - baseline, "gold": gold.value, "gold_baseline": baseline}
            verdicts.append(Verdict(values, notes={"parts": dict(gold.parts)}))
        return verdicts


@dataclass(frozen=True)
class ChangeByGold:
    """Change of the score by a run's gold model against the SFT baseline; it is measured as a true utility is."""

    gold: GoldScores

    judges_quality = True  # without annotation, so that it is no field

    @property
    def measures(self) -> Sequence[Measure]:
        return measures_of("gold", f"score by the gold model {self.gold.name}")

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        """One verdict per case, in order."""
        return [change_verdict(before, after, "gold") for before, after in before_and_after(cases, task, self.gold)]


def measures_of(name: Literal["gold", "score"], what: str) -> list[Measure]:
    """The measures NAME_change, NAME and NAME_baseline; `what` names the value in their descriptions."""
    gold = name == "gold"
    # a scorer's opinion does not answer whether the policy got better
    better: Literal["higher", ""] = "higher" if gold else ""
    return [
        Measure(
            f"{name}_change",
            "change",
            f"{what} more than the SFT baseline's response to the same prompt",
            title=f"{name} change",
            better=better,
            shown=("headline", "slices", "pairs") if gold else None,
        ),
        Measure(
            name,
            "level",
            f"{what} of the response",
            before=f"{name}_baseline",
            title=name,
            better=better,
            shown=("headline", "curves", "figures", "pairs") if gold else (),
        ),
        Measure(
            f"{name}_baseline",
            "level",
            f"{what} of the SFT baseline's response",
            title=f"{name} of the SFT baseline",
            shown=(),
        ),
    ]


def change_verdict(before: Scored, after: Scored, name: str) -> Verdict:
    """The change between two scores, and both; undecided where one of them is."""
    change = None if after.value is None or before.value is None else after.value - before.value
    # the side that was scored keeps its number where the change is undecided
    values = {f"{name}_change": change, name: after.value, f"{name}_baseline": before.value}
    return Verdict(values, "" if change is not None else after.reason or before.reason)
