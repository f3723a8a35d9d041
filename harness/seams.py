"""The seams: what a task, a reward model and a judge must have, as small Protocols.  A plugin inherits nothing.

A plugin is registered as a *factory*: a class or function whose keyword parameters are the plugin's settings
(`--set NAME.key=value`; texts are parsed by the type of the parameter's default) and which returns the object described
below.  `bench check KIND NAME` calls every member and says what is wrong.  Three rules hold for all of them:

* Importing the module and building the object are cheap, because `bench run` does both before it computes anything:
  import torch inside the methods, read large files when they are first needed.
* For bad input raise `BenchError(seen, fix)` (harness/errors.py).  The command line prints it as one line and exits
  with 2.  Any other exception of a plugin is reported the same way, with the plugin's name, the exception's type and
  the first line of its message.  What was computed before is kept.
* `Task`, `RewardModel` or `TrainableRewardModel`, and `Judge` are needed.  The other Protocols are optional: the
  harness looks with `isinstance` whether the object has their members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rlhf_bench.harness.nouns import (
    Answer,
    Case,
    Example,
    Measure,
    Origin,
    Pair,
    Rollout,
    Scored,
    Split,
    Utility,
    Verdict,
)
from rlhf_bench.harness.text.types import Row

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]
"""Called with (done, total) as work proceeds."""


def no_progress(done: int, total: int) -> None:
    """The Progress that shows nothing."""


# ---- tasks ----------------------------------------------------------------------------------------------------------


@runtime_checkable
class Task(Protocol):
    """Prompts, demonstrations and preference pairs.

    The data are a pure function of the task's settings.  They are read several times and in several processes: when a
    run is planned (their content is hashed), and in the stages that filter prompts and pairs.  A second reading must
    return the same in the same order, so no clock, no global random state and no seed of the run may enter.

    ```python
    class Capitals:
        max_response_tokens = 8
        def examples(self, split): return [Example(c, f"Capital of {c}?", CAPITALS[c]) for c in SPLITS[split]]
        def pairs(self, split): return [Pair(c, f"{c}: its capital?", CAPITALS[c], "Rome") for c in SPLITS[split]]
    ```
    """

    @property
    def max_response_tokens(self) -> int:
        """The longest response in tokens of the policy, end-of-sequence included; 2 or more."""

    def examples(self, split: Split) -> Sequence[Example]:
        """The prompts of a split: "sft", "train" or "test" (see `nouns.Split`).

        Ids are unique within a split.  Prompts are not blank; in "sft" neither are the demonstrations (`completion`),
        except on purpose (`HasEmptyDemonstrations`).
        A run ends with one line where a split is empty or a prompt of "test" also stands in "sft" or "train".
        """

    def pairs(self, split: Split) -> Sequence[Pair]:
        """Preference pairs of "train", from which reward models learn, or "test", on which their accuracy is measured.

        A pair with `rejected` None gets a sample of the SFT policy.  Pairs that are too long for the policy, and pairs
        of equal responses, are left out and counted.  A run ends with one line where a training pair has a prompt of
        the examples' "test" split.
        """


@runtime_checkable
class GoldTask(Task, Protocol):
    """A task that can compute the true utility of any response; the judges `utility` and `winrate` use it."""

    def utility(self, example: Example, response: str) -> Utility:
        """The true utility of `response` to `example.prompt`: finite, the same in every call, for any text.

        `example` is the one that `examples` returned, or that one written as JSON and read back: `facts` must hold all
        that the utility needs.
        """


@runtime_checkable
class HasOrigin(Protocol):
    """A task that states where its data come from.  Without it reports say "origin not stated" and a content hash."""

    @property
    def origin(self) -> Origin:
        """Where the data come from, read once, when the run is planned.  Its `sha256` names them in keys of results."""


@runtime_checkable
class HasOwnJudges(Protocol):
    """A task that some judges are made for: a run that names no judges has these too."""

    @property
    def judges(self) -> Sequence[str]:
        """Names of judges."""


@runtime_checkable
class HasEmptyDemonstrations(Protocol):
    """A task some of whose demonstrations are empty on purpose.  In any other an empty one is an error of the data."""

    @property
    def sft_empty(self) -> float:
        """The share of demonstrations that are empty, 0 for none."""


# ---- reward models --------------------------------------------------------------------------------------------------


@runtime_checkable
class RewardModel(Protocol):
    """Scores responses, one reward per token.  PPO calls it once per iteration, evaluations once per batch.

    ```python
    class Brevity:
        def rewards(self, rollout):
            return -0.01 * rollout.mask.float()
    ```
    """

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T]: float, finite, zero outside `rollout.mask`, on any device.

        A reward of the whole sequence stands on its last token.  The call runs without gradients, on as many rows as
        memory allows.  Rewards of a row must not depend on the other rows or on padding, and must be the same in every
        call: a response that repeats in a rollout is scored once.  A run ends with one line for another shape, for NaN
        and infinite values, and for rewards outside the mask.
        """


@runtime_checkable
class ReadsExamples(Protocol):
    """A reward model without training that reads more than the prompt: references, the prompt's type."""

    def with_examples(self, examples: Mapping[str, Sequence[Example]]) -> RewardModel:
        """The scorer for these examples, by split: "train" (PPO's prompts) and "test" (held out).

        Called once per stage, before any `rewards`.  "train" is the same in every stage, so statistics of its texts are
        reproducible.  Raises BenchError for examples that lack what the model needs.
        """


@runtime_checkable
class ReadsUtility(Protocol):
    """A reward model without training that pays the true utility, as the arm `gold` does: a ceiling, not a candidate.

    Only tasks with a true utility (`GoldTask`) can be run with it.
    """

    def with_utility(self, utility: Callable[[str, str], float | None]) -> RewardModel:
        """The scorer; `utility(prompt, response)` is None for a prompt that is not one of the run's examples.

        Called once per stage, before any `rewards`.
        """


@runtime_checkable
class MayDecline(Protocol):
    """A scorer that cannot score every prompt.  The pairs that it declines are counted and left out of its accuracy."""

    def why_not(self, prompt: str) -> str:
        """Why responses to this prompt cannot be scored, in a few words; "" where they can."""


@runtime_checkable
class HasDiagnostics(Protocol):
    """A reward model with further figures of a response; reports show their means before and after training."""

    def diagnostics(self, rollout: Rollout) -> Mapping[str, Tensor]:
        """Figures [B] by name, for example the token at which a response first differs from the model's own."""


@runtime_checkable
class HasCorrections(Protocol):
    """A reward model that can write the text it prefers to a response.  Stored at the last checkpoint."""

    def corrections(self, rollout: Rollout) -> Sequence[str]:
        """B texts, one per response; equal to the response where nothing would be changed."""


@runtime_checkable
class ReadsFiles(Protocol):
    """A reward model whose settings name a folder or file.

    Results are found again by hashes of all that they depend on, and the path says nothing about the content.
    """

    @property
    def content(self) -> Row:
        """A JSON object that identifies what the settings point at, such as hashes of files.  Read by the plan."""


@runtime_checkable
class LoadsPlugins(Protocol):
    """A reward model that loads other plugins by name, as `path:` loads the one that a folder was trained as."""

    @property
    def plugins(self) -> Sequence[str]:
        """Names of the reward models that it loads; their code enters the keys of results beside its own."""


@dataclass(frozen=True)
class TrainingJob:
    """What `TrainableRewardModel.train` receives.

    `pairs` have both responses and fit the policy's context.  `policy` is the folder of the SFT policy, which
    `transformers` opens with `from_pretrained`.  The result goes to `folder`.  `scratch` survives an interruption:
    checkpoints go there.  `device` is "cpu", "cuda" or "mps".
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

    ```python
    class MyModel:
        recipe, training_settings = "my-model", {"lr": 1e-4}
        def train(self, job): ...; return {"loss": 0.3}
        def load(self, folder, device): return MyScorer(folder, device)
    ```
    """

    @property
    def recipe(self) -> str:
        """Name of the training; reward models with equal recipe and `training_settings` share one trained model."""

    @property
    def training_settings(self) -> Row:
        """The settings that change the training, as a JSON object; those that only change the scoring are left out."""

    def train(self, job: TrainingJob) -> Mapping[str, float]:
        """Train and write safetensors to `job.folder`; return figures to log, such as the final loss.

        Called once per seed, in a stage of its own.  Continues from what an interrupted call left in `job.scratch`.
        """

    def load(self, folder: Path, device: str) -> RewardModel:
        """The scorer that `train` wrote to `folder`.  Called once in every stage that scores."""


# ---- judges ---------------------------------------------------------------------------------------------------------


@runtime_checkable
class Judge(Protocol):
    """Measures stored responses after training, in a stage of its own.

    A judge computes no interval: the kind of each measure decides which one it gets (statistics/intervals.py).

    ```python
    class Polite:
        measures = [Measure("polite", "rate")]
        def measure(self, cases, task):
            return [Verdict({"polite": float("please" in case.generation.response)}) for case in cases]
    ```
    """

    @property
    def measures(self) -> Sequence[Measure]:
        """The numbers in every verdict; names are unique."""

    def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:
        """One verdict per case, in the order of `cases` (all checkpoints and decodings of one run; may be empty).

        Every verdict has all measures and does not depend on the other cases.  A case that cannot be decided gets None
        and a `reason`; it is counted, never dropped.  A run ends with one line for a missing verdict or measure, a
        number that is not finite, a "win" or "rate" outside [0, 1], and None without a reason.
        """


@runtime_checkable
class HasVerdictSettings(Protocol):
    """A judge whose verdicts depend on something else than exactly its settings.

    Examples: the content of a file that a setting names, or settings that cost only time and change no verdict.
    """

    @property
    def verdict_settings(self) -> Row:
        """A JSON object of all that the verdicts depend on; it replaces the settings in the key of the result."""


@runtime_checkable
class NeedsReferences(Protocol):
    """A judge that may decide nothing on a task whose held-out examples have no reference."""

    @property
    def needs_references(self) -> bool:
        """True: a run of such a task is refused before anything is computed."""


class GoldScores(Protocol):
    """The scores of a run's gold model; a judge that `TakesGold` gets one."""

    @property
    def name(self) -> str:
        """What reports call the gold model, such as scalar@half."""

    def scores(self, answers: Sequence[Answer]) -> Sequence[Scored]:
        """One score per stored response of the run, in order; higher is better."""


@runtime_checkable
class TakesGold(Protocol):
    """A judge that measures by true utility, and by the gold model in a run that has one (`bench run --gold`)."""

    @property
    def takes_gold(self) -> bool:
        """False where the judge's settings name a scorer of their own."""

    def with_gold(self, gold: GoldScores) -> Judge:
        """The judge that has the gold model's scores in place of the task's true utility."""


@runtime_checkable
class HasAccount(Protocol):
    """A judge that reports what measuring took, such as requests and tokens."""

    @property
    def account(self) -> Row:
        """A JSON object about the last call of `measure`, stored beside the verdicts; {} for nothing."""


@runtime_checkable
class HasThreshold(Protocol):
    """A judge whose verdicts are of no use when too many cases are undecided; of others any share is accepted."""

    @property
    def threshold(self) -> float:
        """The share of a run's cases that may be undecided; above it commands name the judge and exit with 3."""


@runtime_checkable
class JudgesQuality(Protocol):
    """A judge whose measures say how good a response is.

    Under `eval.cut_off=lose` it reads an empty response in place of one that is cut off.  Without this member a judge
    whose measures are all of kind "win" is not asked about such responses, which lose, and any other reads them.
    """

    @property
    def judges_quality(self) -> bool:
        """True."""


@runtime_checkable
class SaysDeterministic(Protocol):
    """A judge that states whether measuring again can change a verdict."""

    @property
    def deterministic(self) -> bool:
        """True: undecided cases are not measured again by `bench judge`.  Judges without this member: False."""


@runtime_checkable
class Scorer(Protocol):
    """A measure of responses for tasks without a true utility: the judges' setting `scorer` names one."""

    def __call__(self, example: Example, response: str) -> float | None:
        """A number, higher is better; None where the response cannot be scored."""
