"""Win rate by a scalar reward model, for tasks without a true utility: another model's opinion, reported as such."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Case, Measure, Verdict
from rlhf_bench.harness.seams import Task
from rlhf_bench.judges.scorers import REWARD_MODEL, before_and_after, scorer_account
from rlhf_bench.judges.winrate import win_verdict
from rlhf_bench.reward_models.classifier import ClassifierScorer
from rlhf_bench.reward_models.input_forms import FORMS
from rlhf_bench.reward_models.sources import check_classifier, folder_digest

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row


@dataclass(frozen=True)
class WinRateRM:
    """Win rate against the SFT baseline by the score of a reward model.

    1 where the trained policy's response has the higher score, 0.5 within `tolerance` (float32 rounding), 0 where it
    has the lower.  `model` is a sequence classifier with one label: a folder (such as a run's reward/...) or a hub id.
    `form` is chat, question or pair, `head` the module of its head; see `ClassifierScorer`.  `threshold` is the share
    of undecided cases above which a command exits with 3.

    Raises BenchError for a setting out of range and for a model that is no such classifier.
    """

    model: str
    form: str = ""
    batch: int = 16
    device: str = ""
    tolerance: float = 1e-5
    threshold: float = 0.05
    head: str = ""
    # the account of the last measuring: a dict, because the dataclass is frozen
    _last: JsonObject = field(default_factory=dict, init=False, repr=False, compare=False)

    deterministic = True  # without annotation, so that it is no dataclass field, which would be a setting

    def __post_init__(self) -> None:
        if self.form and self.form not in FORMS:
            raise BenchError(f"winrate-rm.form is {self.form!r}.", did_you_mean(self.form, FORMS))
        if self.batch < 1 or self.tolerance < 0:
            raise BenchError("winrate-rm.batch must be above 0 and winrate-rm.tolerance not negative.")
        if not 0 <= self.threshold <= 1:
            raise BenchError(f"winrate-rm.threshold is {self.threshold}.", "It is a share between 0 and 1.")
        check_classifier(self.model, head=self.head)  # an unusable model must be refused before training

    @property
    def verdict_settings(self) -> Row:
        """What a verdict depends on: the model, by its content where it is a folder; batch and device do not matter."""
        found = {"model": folder_digest(self.model) or self.model, "form": self.form, "tolerance": self.tolerance}
        return found | ({"head": self.head} if self.head else {})

    @property
    def measures(self) -> Sequence[Measure]:
        by = f"better than the SFT baseline's response to the same prompt, by the reward model {self.model}"
        return [Measure("win_rate", "win", by, title="win rate by a reward model")]

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        """One verdict per case, in order; the notes hold both scores.

        The model is loaded here, where there are cases.  Raises BenchError where it cannot be loaded, has other than
        one label, or memory runs out; an answer that it cannot read leaves the case undecided.
        """
        scorer = ClassifierScorer(self.model, self.form, self.batch, self.device, head=self.head)
        found = before_and_after(cases, task, scorer)
        # without cases the model was not loaded, and its account would load it
        if cases:
            self._last.update({**scorer.account, **scorer_account(f"{REWARD_MODEL}{self.model}")})
        return [win_verdict(before, after, self.tolerance) for before, after in found]

    @property
    def account(self) -> Row:
        """The model that scored, where and how, as JSON, and what it was trained with, where a run trained it.

        {} where no case has been scored.
        """
        return dict(self._last)
