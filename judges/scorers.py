"""Scorers: how good a response is where no gold exists.  Every report names the scorer it used.

A score that is missing or not finite is undecided with its reason: a failure is never a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from rlhf_bench.harness import plugins
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Answer, Case, Example, Scored
from rlhf_bench.harness.seams import GoldTask, Scorer, Task

NO_GOLD = "the task has no gold utility and no scorer was given"
REWARD_MODEL = "rm:"
"""What the name of a scorer begins with that is a scalar reward model in a folder or on the hub."""


@runtime_checkable
class ScoresMany(Protocol):
    """A scorer that is faster with many answers at once, and that can say why it does not decide."""

    def scores(self, answers: Sequence[Answer]) -> Sequence[Scored]: ...


def load_scorer(name: str) -> Scorer:
    """A scorer by name, `rm:FOLDER_OR_HUB_ID`, or `module:attribute`: (example, response) -> number or None."""
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if name.startswith(REWARD_MODEL):
        from rlhf_bench.reward_models.classifier import ClassifierScorer

        return ClassifierScorer(name.removeprefix(REWARD_MODEL))
    if ":" not in name:
        fix = f"{did_you_mean(name, BUILT_IN)} Or give rm:FOLDER or module:attribute."
        raise BenchError(f"Unknown scorer {name!r}.", fix)
    found = plugins.find("judge", name)  # found beside the user, as a judge given so would be
    return replace(found, kind="scorer").factory()  # type: ignore[arg-type]  # the kind is what errors call it


def scorer_content(name: str) -> str:
    """Hash of what the name does not say: the reward model's files, or the code of the user's module ("" for ours)."""
    if name in BUILT_IN or ":" not in name:
        return ""
    if name.startswith(REWARD_MODEL):
        from rlhf_bench.reward_models.sources import folder_digest

        return folder_digest(name.removeprefix(REWARD_MODEL))
    return plugins.find("judge", name).fingerprint()


def repeatable(name: str) -> bool:
    """Whether asking again gives the same; a user's own function may decide later what it could not before."""
    return ":" not in name or name.startswith(REWARD_MODEL)


def scored(value: float | None) -> Scored:
    """A plain score, checked."""
    if value is None:
        return Scored(None, "the scorer could not decide")
    return Scored(float(value)) if math.isfinite(value) else Scored(None, "the score is not finite")


def score_all(scorer: Scorer, answers: Sequence[Answer]) -> list[Scored]:
    """One score per answer, in order."""
    if isinstance(scorer, ScoresMany):
        return list(scorer.scores(answers))
    return [scored(scorer(answer.example, answer.response)) for answer in answers]


def before_and_after(cases: Sequence[Case], task: Task, scorer: Scorer | None) -> list[tuple[Scored, Scored]]:
    """(of the baseline's response, of the trained policy's) by the scorer, else by the task's gold, per case."""
    if scorer is None and not isinstance(task, GoldTask):
        return [(Scored(None, NO_GOLD),) * 2 for _ in cases]
    pairs = [(case.example, one) for case in cases for one in (case.baseline, case.generation)]
    answers = [Answer(example, one.response, one.finished) for example, one in pairs]
    if scorer is not None:
        found = score_all(scorer, answers)
    else:
        assert isinstance(task, GoldTask)
        found = [scored(task.utility(answer.example, answer.response).value) for answer in answers]
    return list(zip(found[::2], found[1::2], strict=True))


def rouge_l() -> Scorer:
    """ROUGE-L F1 (Lin, 2004; the rouge-score package, with stemming) against the best of the example's references.

    It measures lexical overlap with what people wrote, no more.  Without a reference it does not decide.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise BenchError("The scorer 'rouge-l' needs rouge-score.", "Install rlhf-bench[rouge].") from None
    scorer = RougeScorer(["rougeL"], use_stemmer=True)

    def score(example: Example, response: str) -> float | None:
        references = [text for text in (example.completion, *example.references) if text.strip()]
        if not references:
            return None
        return max(float(scorer.score(text, response)["rougeL"].fmeasure) for text in references)

    return score


BUILT_IN: Mapping[str, Callable[[], Scorer]] = {"rouge-l": rouge_l}
