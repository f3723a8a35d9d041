"""The nouns everything else is written in: frozen records, no behaviour beyond what they are.

Text columns follow the ecosystem's standard names (prompt/completion, prompt/chosen/rejected).  Records that are
stored become one JSON object a line through `to_row`; only `Rollout` holds tensors and is never stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rlhf_bench.harness.text.tokens import Span

if TYPE_CHECKING:
    from torch import Tensor

Split = Literal["sft", "train", "test"]
"""`sft`: demonstrations; `train`: prompts PPO optimises on; `test`: held-out prompts, never trained on."""

Decoding = Literal["sample", "greedy"]


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt of a task.

    `completion` is the demonstration or reference ("" when there is none); `references` further ones; `source` names
    what prompts may share (examples with an equal source are one cluster; "" means the example stands alone);
    `facts` is JSON-able and holds what the task's own utility needs.
    """

    id: str
    prompt: str
    completion: str = ""
    references: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    source: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference.  `rejected` None asks the harness to take a sample of the SFT policy instead.

    The flaws are character spans known to be wrong, None where nobody knows (an empty tuple says: known to be clean).
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

    `kind` is "generated" (a controlled world) or "real"; `sha256` is of the content; `license` as its source states it.
    """

    kind: Literal["generated", "real"]
    description: str
    sha256: str
    license: str = "unknown"


@dataclass(frozen=True, slots=True)
class Utility:
    """The exact worth of one response (perfect 1, empty 0 in the controlled worlds) and what it is made of."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """A batch of B sampled responses of at most T tokens, as text and as the policy's own tokens.

    prompt_ids [B, P] left-padded with prompt_mask [B, P]; response_ids [B, T] right-padded with mask [B, T], True on
    response tokens, end-of-sequence token included.  finished [B]: the response ended with that token (a truncated one
    has none).  `tokenizer` is the policy's.  `logprobs` [B, T]: of the tokens as they were drawn, 0 outside the mask;
    None for texts that nobody sampled.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    prompt_ids: Tensor
    prompt_mask: Tensor
    response_ids: Tensor
    mask: Tensor
    finished: Tensor
    tokenizer: Any
    logprobs: Tensor | None = None

    @cached_property
    def spans(self) -> tuple[tuple[Span, ...], ...]:
        """Character span in `responses[b]` of every response token; end-of-sequence is the empty span at the end."""
        from rlhf_bench.harness.text.templates import token_spans

        rows = zip(self.response_ids.tolist(), self.mask.sum(1).tolist(), strict=True)
        return tuple(token_spans(self.tokenizer, ids[:length]) for ids, length in rows)


@dataclass(frozen=True, slots=True)
class Generation:
    """One stored response to a held-out prompt.

    `tokens` counts response tokens without end-of-sequence.  `kl` is the sum over response tokens of
    log pi(y_t) - log pi_sft(y_t) in nats (0 for the baseline, None under greedy decoding, where it estimates nothing).
    Best-of-n has n for `iteration` and the analytic bound for `kl`.
    `reward` is the reward model's sequence sum, unscaled.  `spans` and `token_rewards` (character span and unscaled
    reward per token) are kept at the first and last checkpoint for looking inside.  `correction` is what the reward
    model would have written instead, where it can tell: of the first sampled responses at the last checkpoint.
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
    spans: tuple[Span, ...] | None = None
    token_rewards: tuple[float, ...] | None = None
    correction: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """What a judge sees: one held-out example, the trained policy's response, the SFT baseline's response."""

    example: Example
    generation: Generation
    baseline: Generation

    @property
    def id(self) -> str:
        return f"{self.example.id}/{self.generation.decoding}/{self.generation.iteration}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's row for one case.

    `values` maps each of the judge's measures to a number.  None means undecided and needs a `reason`; it is counted
    and shown, never dropped and never scored 0.
    """

    values: Mapping[str, float | None]
    reason: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)


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
    the table by slice, and the comparison of every two reward models.
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


@dataclass(frozen=True, slots=True)
class Estimate:
    """One reported number.

    `value`, `low` and `high` are None when nothing can be said; `note` then says why.  `n` counts decided cases per
    seed on average (prompts), `n_invalid` undecided ones over all seeds; `seeds` lists the training seeds.
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


def to_row(record: Any) -> dict[str, Any]:
    """The JSON object of a stored record, its empty optional fields left out so that rows stay short."""
    return {name: value for name, value in asdict(record).items() if value not in (None, (), {}, "")}


class Answer(NamedTuple):
    """What is scored.  `finished`: the response ended by itself instead of being cut off."""

    example: Example
    response: str
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Scored:
    """A score, or None and why."""

    value: float | None
    reason: str = ""
