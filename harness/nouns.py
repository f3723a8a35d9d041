"""The records that tasks, reward models, judges and the harness exchange.  All are frozen and have no behaviour.

In the order of a run: a task gives `Example`s and `Pair`s; the policy's responses are a `Rollout` in memory and
`Generation`s on disk; a judge gets `Case`s and returns `Verdict`s, whose numbers its `Measure`s describe; a report
consists of `Estimate`s.  Text fields have the names that data sets on the hub use (prompt/completion,
prompt/chosen/rejected).  Stored records become one JSON object per line through `to_row`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rlhf_bench.harness.text.tokens import Span
from rlhf_bench.harness.text.turns import restored_prompt, stored_turns

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.text.types import JsonObject, Row, Tokenizer

Split = Literal["sft", "train", "test"]
"""`sft`: demonstrations; `train`: prompts that PPO optimises on; `test`: held-out prompts, never trained on."""

Decoding = Literal["sample", "greedy"]
"""How a response was generated: sampled (at `eval.temperature`), or the most likely token at every step."""


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt of a task.

    id: unique within its split; responses and verdicts refer to it.
    completion: the demonstration or reference response, "" where there is none; `references` holds further ones.
    slices: names of groups for which a report repeats its numbers.
    source: names a text that several prompts share, such as a document.  Examples with an equal source are one cluster
    in every interval; "" means that the example shares nothing.
    facts: a JSON object with what the task's own utility needs.
    sample: tasks leave it out.  Where `eval.samples` asks for several responses to a held-out prompt, the harness makes
    an example of each, with an id and a number (from 1) of its own and a source that they share.
    """

    id: str
    prompt: str
    completion: str = ""
    references: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    source: str = ""
    facts: Row = field(default_factory=dict)
    sample: int | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference between two responses to a prompt.

    rejected: None lets the harness sample the SFT policy instead.
    chosen_flaws, rejected_flaws: character spans [start, end) that are known to be wrong.  () means known to have none,
    None means unknown.
    """

    id: str
    prompt: str
    chosen: str
    rejected: str | None
    chosen_flaws: tuple[Span, ...] | None = None
    rejected_flaws: tuple[Span, ...] | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a task's data come from; shown in every report.

    kind: "generated" for a synthetic task with known true utility, or "real".
    sha256: of the content, hexadecimal; it names the data in keys of results.
    license: as the source states it.
    """

    kind: Literal["generated", "real"]
    description: str
    sha256: str
    license: str = "unknown"


@dataclass(frozen=True, slots=True)
class Utility:
    """The true utility of one response and its parts, for display.

    Synthetic tasks give a perfect response 1 and an empty one 0; other tasks may use any scale, higher is better.
    """

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)  # without slots: `cached_property` stores its value in the instance's __dict__
class Rollout:
    """A batch of B responses of at most T tokens, as text and as the policy's tokens.  Never stored.

    prompts: B prompts of the task, without the template.  responses: B texts, without special tokens.
    prompt_ids [B, P] int64, with the template, left-padded; prompt_mask [B, P], 1 on tokens.
    response_ids [B, T] int64, right-padded; mask [B, T] bool, True on response tokens, end-of-sequence included.
    finished [B] bool: the response ended with end-of-sequence; a response that reached the length limit has none.
    tokenizer: the policy's; its ids are those above.
    logprobs [B, T] float32: log-probabilities of the tokens when they were sampled, 0 outside the mask; None for texts
    that were not sampled.
    thoughts: the number of each response's first tokens that are thinking, which its text leaves out (text/chat.py);
    None for none.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    mask: Tensor
    finished: Tensor
    tokenizer: Tokenizer
    logprobs: Tensor | None = None
    thoughts: tuple[int, ...] | None = None

    @cached_property
    def spans(self) -> tuple[tuple[Span, ...], ...]:
        """For each response the character span [start, end) of every token in its text.

        End-of-sequence is the empty span at the end, thinking has empty ones at the start.  Computed once per rollout.
        """
        from rlhf_bench.harness.text.templates import token_spans

        # one transfer from the device for the whole batch
        rows = zip(self.response_ids.tolist(), self.mask.sum(1).tolist(), strict=True)
        before = self.thoughts or (0,) * len(self.responses)
        return tuple(
            (*(((0, 0),) * count), *token_spans(self.tokenizer, ids[count:length]))
            for (ids, length), count in zip(rows, before, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Generation:
    """One stored response to a held-out prompt.

    iteration: PPO iterations so far, 0 for the SFT baseline; n for best-of-n; for the tempered SFT policy the place of
    the temperature, from 1 for the highest.
    tokens: response tokens without end-of-sequence.
    finished: the response ended with end-of-sequence.
    kl: sum over response tokens of log pi(y_t) - log pi_sft(y_t), in nats; of samples from a nucleus (`eval.top_p`) the
    sum of the KL of the whole distributions at each token.  0 for the baseline; the analytic bound for
    best-of-n; None under greedy decoding, where the sum does not estimate the KL divergence.
    reward: the sum of the reward model's token rewards, not scaled.
    logprob: sum over all sampled tokens of log pi(y_t) of the policy that wrote them, in nats, at the temperature they
    were sampled at; drawn: their number, end-of-sequence and thinking included.  None under greedy decoding, whose sum
    estimates no entropy, and for best-of-n.
    spans, token_rewards: character span and unscaled reward of each token; stored at the first and last checkpoint.
    sample: number of the response among several to its prompt, from 1 (`eval.samples`); None for one alone.
    correction: the text that the reward model prefers (`seams.HasCorrections`); stored for the first `eval.corrections`
    sampled responses at the last checkpoint.
    """

    example_id: str
    iteration: int
    decoding: Decoding
    prompt: str
    response: str
    tokens: int
    finished: bool
    kl: float | None = None
    reward: float | None = None
    logprob: float | None = None
    drawn: int | None = None
    spans: tuple[Span, ...] | None = None
    token_rewards: tuple[float, ...] | None = None
    correction: str | None = None
    sample: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """What a judge measures: the trained policy's and the SFT baseline's response to one held-out prompt.

    Both responses have the same decoding.
    """

    example: Example
    generation: Generation
    baseline: Generation

    @property
    def id(self) -> str:
        """A name that is unique within a run, for messages and caches."""
        return f"{self.example.id}/{self.generation.decoding}/{self.generation.iteration}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's result for one case.

    values: a number for each of the judge's measures.  None means undecided; it is counted and shown, never dropped and
    never replaced by 0.
    reason: why something is undecided; needed where a value is None.
    notes: a JSON object that is stored beside the values, such as a judge's explanation.
    """

    values: Mapping[str, float | None]
    reason: str = ""
    notes: Row = field(default_factory=dict)


MeasureKind = Literal["win", "rate", "change", "level"]
MeasureFormat = Literal["number", "share", "percent", "tokens", "nats"]
ReportPlace = Literal["headline", "curves", "figures", "slices", "pairs"]


@dataclass(frozen=True, slots=True)
class Measure:
    """What one number in a judge's rows means, which interval it gets, and how reports show it.

    `kind` decides the interval:
      win: 1 win, .5 tie, 0 loss against the baseline, per prompt.   rate: 0 or 1, per response.
      change: a difference to the baseline on the same prompt.       level: any number, of the response alone.
    `before` names another level measure of the same judge, that of the baseline; the measure then also gets the
    distribution statistics of collapse, after against before.  `limit` is the largest size of a change, where it has
    one (1 of a difference of two rates): no bound of its interval lies beyond.

    The rest is for reports; what is left empty follows from `kind` (reports/measures.py).
    `title` heads the column ("" for the name and the judge).  `reference` is the value that means no effect (.5 for a
    win, 0 for a change).  `format` is how values are written: "percent" for a share in whole percent, the others with
    two or three decimals and their unit on axes.  `better` says which side of `reference` is the better one; a measure
    with both is read as an answer: better or worse than the baseline.  `shown` lists where it appears (None for
    everywhere, () for nowhere but estimates.csv): the table of final results, the table along training, the figures,
    the table by slice, and the comparison of every two reward models.  `reliability`: how far the number itself
    agrees with labels, where a classifier or a rule makes it; reports show it wherever they show the number.
    """

    name: str
    kind: MeasureKind
    description: str = ""
    before: str = ""
    limit: float | None = None
    title: str = ""
    reference: float | None = None
    format: MeasureFormat = "number"
    better: Literal["", "higher", "lower"] = ""
    shown: tuple[ReportPlace, ...] | None = None
    reliability: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One number of a report with its confidence interval.

    arm: the key of the condition: reward model, optimiser and settings.
    value, low, high: None where nothing can be estimated; `note` says why.
    level: the nominal confidence level of [low, high].
    n: decided cases (prompts) per seed, on average.  n_invalid: undecided cases over all seeds.
    seeds: the training seeds.  method: the interval's name (statistics/intervals.py).
    """

    task: str
    reward_model: str
    arm: str
    judge: str
    statistic: str
    slice: str
    decoding: Decoding
    iteration: int
    value: float | None
    low: float | None
    high: float | None
    level: float
    n: int
    n_invalid: int
    seeds: tuple[int, ...]
    method: str
    note: str = ""


def to_row(record: Any) -> JsonObject:
    """The JSON object of a stored record, nested records included.

    Empty fields (None, "", (), {}) are left out.  What reads a row puts them back, and makes tuples of JSON's lists:
    `prompts.read_examples`, `pairs.read_pairs` and `evaluation.read_generations`.  A prompt of several turns has them
    in `turns` beside its text; `with_turns` puts them back.
    """
    # 0 and False are equal to none of the empty values, so they are stored.
    row = {name: value for name, value in asdict(record).items() if value not in (None, (), {}, "")}
    turns = stored_turns(row.get("prompt", ""))
    return {**row, "turns": turns} if turns else row


def with_turns(row: Row) -> JsonObject:
    """A stored row whose `prompt` has its turns again; raises BenchError where the two differ."""
    found = dict(row)
    if turns := found.pop("turns", None):
        found["prompt"] = restored_prompt(found["prompt"], turns)
    return found


class Answer(NamedTuple):
    """A response to be scored, with the example whose prompt it answers.

    finished: it ended with end-of-sequence, not at the length limit.
    """

    example: Example
    response: str
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Scored:
    """A score, or None and the reason why there is none."""

    value: float | None
    reason: str = ""
