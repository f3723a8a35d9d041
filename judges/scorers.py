"""Scorers rate single responses where no true utility exists.  Every report names the scorer that it used.

A score that is missing or not finite leaves a case undecided with its reason: a failure never counts as a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rlhf_bench.harness import plugins
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Answer, Case, Example, Scored
from rlhf_bench.harness.seams import GoldTask, Scorer, Task
from rlhf_bench.harness.text.words import UNIT, content_words
from rlhf_bench.harness.training.record import training_of

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

NO_GOLD = "the task has no gold utility and no scorer was given"
REWARD_MODEL = "rm:"
"""Prefix of the name of a scorer that is a reward model: rm:FOLDER_OR_HUB_ID."""
EMBEDDING = "embedding:"
"""Prefix of the name of a scorer that compares with references by a sentence encoder: embedding:FOLDER_OR_HUB_ID."""


@runtime_checkable
class ScoresMany(Protocol):
    """A scorer that takes many answers at once and gives a reason where it does not decide.

    `score_all` prefers this to one call per answer: `ClassifierScorer` batches answers by their length.
    """

    def scores(self, answers: Sequence[Answer]) -> Sequence[Scored]:
        """One score per answer, in order."""


def load_scorer(name: str) -> Scorer:
    """The scorer of a name: a built-in one, `rm:` or `embedding:` with a folder or hub id, or `module:attribute`.

    The attribute is a function (example, response) -> number, or None where it does not decide.  Raises BenchError for
    an unknown name, and for a reward model or module that cannot be used.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if name.startswith(REWARD_MODEL):
        from rlhf_bench.reward_models.classifier import ClassifierScorer

        return ClassifierScorer(name.removeprefix(REWARD_MODEL))
    if name.startswith(EMBEDDING):
        from rlhf_bench.judges.similarity import Similarity

        return Similarity(name.removeprefix(EMBEDDING))
    if ":" not in name:
        fix = f"{did_you_mean(name, BUILT_IN)} Or give rm:FOLDER, embedding:FOLDER or module:attribute."
        raise BenchError(f"Unknown scorer {name!r}.", fix)
    found = plugins.find("judge", name)  # looks for modules in the current folder too, as for judges
    # the attribute itself is the scorer, not a factory of one; its kind is the word that errors use
    return replace(found, kind="scorer").factory()  # type: ignore[arg-type]


def scorer_content(name: str) -> str:
    """Hash of what the name does not identify: the reward model's files or the code of the user's module, else "".

    It enters the key of stored verdicts, so that changed weights or code are judged again.
    """
    if name in BUILT_IN or ":" not in name:
        return ""
    if name.startswith(REWARD_MODEL):
        from rlhf_bench.reward_models.sources import folder_digest

        return folder_digest(name.removeprefix(REWARD_MODEL))
    if name.startswith(EMBEDDING):
        from rlhf_bench.judges.similarity import source_content

        return source_content(name.removeprefix(EMBEDDING)).get("embedding", "")
    return plugins.find("judge", name).fingerprint()


def scorer_account(name: str) -> Row:
    """{"trained": what the reward model of a name was trained with} (training/record.py), for the judge's account.

    A report compares it with the proxy's.  {} for other scorers, and for models that no run trained.
    """
    if not name.startswith(REWARD_MODEL):
        return {}
    found = training_of(Path(name.removeprefix(REWARD_MODEL)).expanduser())
    return {"trained": found} if found else {}


def described(name: str) -> str:
    """A scorer as reports name it, with what it counts."""
    if name.startswith(EMBEDDING):
        return f"scorer {name} (cosine similarity to the closest reference)"
    return f"scorer {name}" + (f" ({UNIT})" if name in BUILT_IN else "")


def is_deterministic(name: str) -> bool:
    """Whether the scorer of a name always returns the same score.

    Then undecided cases stay undecided, and `bench judge` does not judge them again (seams.SaysDeterministic).
    """
    # a user's function may fail now and decide later, so its undecided cases are judged again
    return ":" not in name or name.startswith((REWARD_MODEL, EMBEDDING))


def checked(value: float | None) -> Scored:
    """A score, undecided with its reason where it is None or not finite.

    None is no loss: a case that is undecided is counted and left out of the estimate.
    """
    if value is None:
        return Scored(None, "the scorer could not decide")
    return Scored(float(value)) if math.isfinite(value) else Scored(None, "the score is not finite")


def score_all(scorer: Scorer | ScoresMany, answers: Sequence[Answer]) -> list[Scored]:
    """One score per answer, in order; undecided, with its reason, where the scorer gives no finite number."""
    if isinstance(scorer, ScoresMany):
        return list(scorer.scores(answers))
    return [checked(scorer(answer.example, answer.response)) for answer in answers]


def before_and_after(
    cases: Sequence[Case], task: Task, scorer: Scorer | ScoresMany | None
) -> list[tuple[Scored, Scored]]:
    """Per case (score of the baseline's response, score of the trained policy's).

    By the scorer, without one by the task's true utility; undecided where there is neither.
    """
    if scorer is None and not isinstance(task, GoldTask):
        return [(Scored(None, NO_GOLD),) * 2 for _ in cases]
    # all responses in one list, so that a scorer can batch them: baseline, trained, baseline, trained, ...
    pairs = [(case.example, one) for case in cases for one in (case.baseline, case.generation)]
    answers = [Answer(example, one.response, one.finished) for example, one in pairs]
    if scorer is not None:
        found = score_all(scorer, answers)
    else:
        assert isinstance(task, GoldTask)  # for the type checker: without a scorer and without gold it returned above
        found = [checked(task.utility(answer.example, answer.response).value) for answer in answers]
    return list(zip(found[::2], found[1::2], strict=True))


class RougeL:
    """ROUGE-L F1 (Lin 2004; the rouge-score package, with stemming), the largest over the example's references.

    It measures lexical overlap with the references, nothing else.  Text in ASCII gives the package's own words.  That
    package drops all other letters, so elsewhere words are those of text/words.py: in scripts without spaces,
    characters.  Without a reference that has a word it does not decide.  Raises BenchError where rouge-score is not
    installed.
    """

    def __init__(self) -> None:
        try:
            from rouge_score.rouge_scorer import RougeScorer
            from rouge_score.tokenizers import DefaultTokenizer
        except ImportError:
            raise BenchError("The scorer 'rouge-l' needs rouge-score.", "Install rlhf-bench[rouge].") from None
        self._ascii = DefaultTokenizer(use_stemmer=True)
        self._rouge = RougeScorer(["rougeL"], tokenizer=self)

    def tokenize(self, text: str) -> list[str]:
        """The words that are compared; the name is what rouge-score calls."""
        parts = [text] if text.isascii() else content_words(text.lower())
        return [word for part in parts for word in (self._ascii.tokenize(part) if part.isascii() else [part])]

    def scores(self, answers: Sequence[Answer]) -> list[Scored]:
        """One score per answer, in order; undecided, with the reason, where no reference can be compared with."""
        return [self._scored(answer.example, answer.response) for answer in answers]

    def __call__(self, example: Example, response: str) -> float | None:
        """The score of one response, None where no reference can be compared with."""
        return self._scored(example, response).value

    def _scored(self, example: Example, response: str) -> Scored:
        # a demonstration counts as a reference
        references = [text for text in (example.completion, *example.references) if text.strip()]
        if not references:
            return Scored(None, "no reference to compare with")
        readable = [text for text in references if self.tokenize(text)]
        if not readable:
            return Scored(None, "no reference has a word that ROUGE reads")
        return Scored(max(float(self._rouge.score(text, response)["rougeL"].fmeasure) for text in readable))


BUILT_IN: Mapping[str, Callable[[], Scorer]] = {"rouge-l": RougeL}


@dataclass(frozen=True)
class ByScorer:
    """What judges share that measure by true utility, or by a scorer where their setting `scorer` names one.

    Raises BenchError for a scorer that cannot be used.
    """

    scorer: str = ""

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
        """Whether it decides nothing on a task whose held-out examples have no reference, which a plan refuses."""
        return self.scorer.startswith(EMBEDDING)

    @property
    def takes_gold(self) -> bool:
        """Whether a run's gold model takes the place of the true utility: not beside a scorer."""
        return not self.scorer
