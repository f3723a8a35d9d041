"""Win rate by a scalar reward model, for tasks without gold: another model's opinion, and reported as that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Case, Measure, Verdict
from rlhf_bench.harness.seams import Task
from rlhf_bench.judges.scorers import before_and_after
from rlhf_bench.judges.winrate import win
from rlhf_bench.reward_models.classifier import ClassifierScorer
from rlhf_bench.reward_models.input_forms import FORMS
from rlhf_bench.reward_models.sources import check_classifier, folder_digest


@dataclass(frozen=True)
class WinRateRM:
    """1 for the response with the higher score by `model`, .5 within `tolerance` (float32 rounding), 0 for the lower.

    `model` is a sequence classifier with one label: a folder (a run's reward/... among them) or a hub id.  `form` is
    chat, question or pair, see `ClassifierScorer`.  `threshold` is the share of undecided cases above which a command
    exits with 3.
    """

    model: str
    form: str = ""
    batch: int = 16
    device: str = ""
    tolerance: float = 1e-5
    threshold: float = 0.05
    _last: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    deterministic = True

    def __post_init__(self) -> None:
        if self.form and self.form not in FORMS:
            raise BenchError(f"winrate-rm.form is {self.form!r}.", did_you_mean(self.form, FORMS))
        if self.batch < 1 or self.tolerance < 0:
            raise BenchError("winrate-rm.batch must be above 0 and winrate-rm.tolerance not negative.")
        if not 0 <= self.threshold <= 1:
            raise BenchError(f"winrate-rm.threshold is {self.threshold}.", "It is a share between 0 and 1.")
        check_classifier(self.model)  # before hours of training

    @property
    def verdict_settings(self) -> Mapping[str, Any]:
        """The model by its content where that is known; how it is computed changes nothing."""
        return {"model": folder_digest(self.model) or self.model, "form": self.form, "tolerance": self.tolerance}

    @property
    def measures(self) -> Sequence[Measure]:
        by = f"better than the SFT baseline's response to the same prompt, by the reward model {self.model}"
        return [Measure("win_rate", "win", by)]

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        scorer = ClassifierScorer(self.model, self.form, self.batch, self.device)
        found = before_and_after(cases, task, scorer)
        if cases:
            self._last.update(scorer.account)
        return [win(before, after, self.tolerance) for before, after in found]

    @property
    def account(self) -> Mapping[str, Any]:
        """The model that scored, where and how: JSON for a report."""
        return dict(self._last)
