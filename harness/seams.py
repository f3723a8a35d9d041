"""The seams: small Protocols with one main verb.  A plugin inherits nothing; `bench check` says what it lacks.

A plugin is registered as a *factory*: a callable whose keyword parameters are its settings (`--set NAME.key=value`) and
which returns the object below.  Importing a plugin's module must be cheap; import torch inside the verbs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rlhf_bench.harness.nouns import Case, Example, Measure, Origin, Pair, Rollout, Split, Utility, Verdict

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]
"""Called with (done, total); drawing it is somebody else's business."""


def no_progress(done: int, total: int) -> None:
    """The Progress that shows nothing."""


@runtime_checkable
class Task(Protocol):
    """What is asked of the policy.  All data are a pure function of the task's settings: no seed of the run enters."""

    @property
    def max_response_tokens(self) -> int:
        """The longest response, in policy tokens, end-of-sequence included."""

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts; those of split "sft" carry a demonstration in `completion`."""

    def pairs(self, split: Split) -> Sequence[Pair]:
        """Preference pairs of "train" (reward models learn from these) or "test" (pair accuracy is measured here)."""


@runtime_checkable
class GoldTask(Task, Protocol):
    """A task that knows the exact utility of any response."""

    def utility(self, example: Example, response: str) -> Utility:
        """The gold utility of `response` as an answer to `example.prompt`."""


@runtime_checkable
class HasOrigin(Protocol):
    """A task that says where its data come from (others are reported as of unknown origin, hashed by content)."""

    @property
    def origin(self) -> Origin: ...


@runtime_checkable
class RewardModel(Protocol):
    """Response -> reward per token."""

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] float32, zero outside `rollout.mask`.  A sequence-level score sits on the last token.

        The same rewards for the same response to the same prompt: one that repeats in a rollout is asked for once.
        """


@runtime_checkable
class ReadsExamples(Protocol):
    """A reward model, one that needs no training, that reads more of an example than its prompt: reference answers,
    the prompt's type."""

    def with_examples(self, examples: Mapping[str, Sequence[Example]]) -> RewardModel:
        """The scorer that knows the examples by split: "train", which PPO optimises on, and those it will be asked of.

        The same "train" in every stage: a reward model may count words in it.  Raises BenchError for examples without
        what it needs.
        """


@runtime_checkable
class MayDecline(Protocol):
    """A scorer that cannot score every prompt; a pair that it declines is left out of pair accuracy and counted."""

    def why_not(self, prompt: str) -> str:
        """Why responses to this prompt cannot be scored; "" where they can."""


@runtime_checkable
class HasCorrections(Protocol):
    """A reward model that can write what it would rather have read."""

    def corrections(self, rollout: Rollout) -> Sequence[str]:
        """B texts, one a response; equal to the response where nothing would be changed."""


@runtime_checkable
class ReadsFiles(Protocol):
    """A reward model whose settings name a folder or file: its content must name results, not its path."""

    @property
    def content(self) -> Mapping[str, Any]:
        """JSON that stands for what the settings point at: hashes of files; enters keys beside the settings."""


@runtime_checkable
class LoadsPlugins(Protocol):
    """A reward model that loads other plugins by name, as `path:` loads the arm that a folder was trained as."""

    @property
    def plugins(self) -> Sequence[str]:
        """Names of the reward models that it loads; their code enters keys beside its own."""


@dataclass(frozen=True)
class TrainingJob:
    """What a reward model gets to train with.

    `policy` is the folder of the SFT policy (`from_pretrained` opens it); `folder` is where the result goes;
    `scratch` survives an interruption, so checkpoints go there; pairs have both responses, filtered to fit `context`.
    """

    pairs: Sequence[Pair]
    policy: Path
    folder: Path
    scratch: Path
    seed: int
    max_response_tokens: int
    device: str
    progress: Progress = no_progress


@runtime_checkable
class TrainableRewardModel(Protocol):
    """A reward model that learns from the task's pairs before it can score.

    Arms with an equal `recipe` and equal `training_settings` share one training.
    """

    @property
    def recipe(self) -> str: ...

    @property
    def training_settings(self) -> Mapping[str, Any]: ...

    def train(self, job: TrainingJob) -> Mapping[str, float]:
        """Train, write safetensors to `job.folder`, return figures worth logging.  Resumes from `job.scratch`."""

    def load(self, folder: Path, device: str) -> RewardModel:
        """The scorer that `train` left in `folder`."""


@runtime_checkable
class Judge(Protocol):
    """Measures cases.  A judge computes no interval: statistics live in one module."""

    @property
    def measures(self) -> Sequence[Measure]:
        """What its rows hold, and which interval each number gets."""

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        """One verdict per case, in order.  None with a reason means undecided."""


@runtime_checkable
class Scorer(Protocol):
    """Any measure of a response where no gold exists: higher is better, None is undecided."""

    def __call__(self, example: Example, response: str) -> float | None: ...


@runtime_checkable
class HasVerdictSettings(Protocol):
    """A judge whose verdicts depend on something else than just its settings: on what is in a file that one of them
    names, and not on those that cost only time or money.  JSON; it takes the settings' place in the stage's key."""

    @property
    def verdict_settings(self) -> Mapping[str, Any]: ...


@runtime_checkable
class HasAccount(Protocol):
    """A judge that says what its last measuring took (JSON, stored beside the verdicts; {} for nothing)."""

    @property
    def account(self) -> Mapping[str, Any]: ...


@runtime_checkable
class HasThreshold(Protocol):
    """A judge that says which share of a cell's cases may stay undecided before a command ends with exit code 3."""

    @property
    def threshold(self) -> float: ...


@runtime_checkable
class SaysDeterministic(Protocol):
    """A judge that says whether asking again can change anything; of others it is taken to."""

    @property
    def deterministic(self) -> bool: ...


