"""Every setting of a run, in groups: its default, what it may be (the type), and what it does (the text below it).

A setting is named `group.key` on the command line: `--set ppo.kl=0.1`.  The groups below are the harness's own; a
plugin's group carries the plugin's name, and its keys are the keyword parameters of its factory.  Presets override
these defaults (presets.toml), `--set` overrides presets (presets.py).  `bench list settings` shows this page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple, Self, get_args, get_origin

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.text.types import JsonObject, Row

if TYPE_CHECKING:
    from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Field(gt=0)]
Limit = Annotated[int, Field(ge=0)]  # 0 mostly means none: each description says so
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]  # a learning rate
Mass = Annotated[float, Field(gt=0, le=1)]  # of a probability distribution

# Strict: "8" is not a number and 1 is not a truth value; `presets.parse_value` reads the texts of `--set`.
CONFIG = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, config=CONFIG)
class Group:
    """A group of settings: frozen, and validated when it is made or changed by `dataclasses.replace`."""

    refused: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Why a key that users of other tools expect is no setting here, and what to do instead."""

    # "wrap" runs the group's own validation inside, so that its error can be replaced
    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, values: object, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Raises BenchError in one line for the first value that is not allowed, and for an unknown key."""
        try:
            return validate(values)
        except ValidationError as error:  # its own text has several lines and does not name the group
            first = error.errors()[0]
        # Outside of the except clause: an error that is raised inside carries pydantic's along as its context.
        name = next(name for name in GROUPS if isinstance(getattr(Settings(), name), cls))
        key, known = str(first["loc"][0]), {one.key: one for one in describe_settings() if one.group == name}
        if key in cls.refused:
            raise BenchError(f"{name}.{key}: {cls.refused[key][0]}", cls.refused[key][1])
        if key not in known:
            raise BenchError(f"Unknown setting {name}.{key}.", did_you_mean(key, known))
        raise BenchError(f"{name}.{key} is {first['input']!r}.", f"It must be {known[key].allowed}.")


@dataclass(frozen=True)
class PolicySettings(Group):
    """The policy: its form of a prompt, adapters and the precision of the computation."""

    layers: Count = 2
    """Transformer layers of the policy `tiny`, which is trained from random weights; other policies ignore it."""
    width: Count = 64
    """Hidden size of the policy `tiny`, a multiple of `policy.heads`; other policies ignore it."""
    heads: Count = 4
    """Attention heads of the policy `tiny`; other policies ignore it."""
    vocabulary: Count = 4096
    """Most tokens in the vocabulary of the policy `tiny`; other policies ignore it."""
    template: Literal["auto", "plain", "chat"] = "auto"
    """The form of a prompt: the tokenizer's chat template (chat), question and answer (plain), or chat where the
    tokenizer has a template (auto)."""
    system: str = ""
    """Text in front of every prompt: a system turn, or part of the prompt where the template has no such role."""
    thinking: Literal["auto", "apart", "text"] = "auto"
    """A policy's thinking (<think>...</think> and its like) before its answer: kept apart from the responses that
    reward models and judges read (apart), a part of them (text), or apart where the chat template knows of thinking
    (auto).  Demonstrations close a block of thinking that the template opens."""
    lora: Limit = 0
    """Rank of the LoRA adapters that are trained in place of all weights; 0 trains all weights."""
    lora_alpha: NotNegative = 16.0
    """Scale of the LoRA adapters: their output is multiplied by `lora_alpha` / `lora`."""
    lora_targets: str = "auto"
    """Names of the layers that get LoRA adapters, comma-separated; auto takes every linear layer."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of the layers' computation; auto takes bfloat16 on a GPU or CPU with instructions for it, else
    float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    merge_for_sampling: bool = True
    """Sample from layers with their LoRA adapters merged, which is faster; training has them apart.  It takes memory
    for one copy of the layers with adapters while PPO samples.  Equal up to rounding; without adapters it does
    nothing."""


@dataclass(frozen=True)
class DataSettings(Group):
    """What is kept of a task's data; dropped examples are counted in the report."""

    limit: Limit = 0
    """Most examples of every split; 0 keeps all."""
    max_prompt_tokens: Limit = 0
    """Drop prompts with more tokens than this; 0 keeps all."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """What is done with rows of real data that cannot be used: refuse the data, with their number and the first ones,
    or leave them out (skip), counted at the end of the run and in the report."""


@dataclass(frozen=True)
class PairSettings(Group):
    """The pairs that reward models learn from and are tested on."""

    overlap: Literal["all", "low", "middle", "high"] = "all"
    """Keep all training pairs, or one third of them by lexical overlap of chosen and rejected (shared words over all
    words)."""
    test: Limit = 0
    """Held-out pairs on which accuracy is measured, the first that fit; 0 keeps all.  Every reward model scores them:
    of a pretrained policy and real data that can take longer than its training."""


@dataclass(frozen=True)
class SFTSettings(Group):
    """Supervised fine-tuning of the policy on the demonstrations (TRL's SFTTrainer)."""

    steps: Count = 2000
    """Optimiser steps."""
    batch: Count = 16
    """Demonstrations per step."""
    micro_batch: Limit = 0
    """Most demonstrations in one pass of a step, whose gradients are summed: it bounds memory and changes no
    result.  0 takes all at once; they are halved where memory runs out."""
    lr: Rate = 8e-3
    """Peak learning rate."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    save_every: Count = 100
    """Steps between checkpoints, from which an interrupted run continues."""


@dataclass(frozen=True)
class PPOSettings(Group):
    """PPO (arXiv 1707.06347), with the same schedule for every arm."""

    # ways of leaving out unlikely tokens, by the names that other tools give them
    refused: ClassVar[Mapping[str, tuple[str, str]]] = dict.fromkeys(
        ("top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
        (
            "rollouts are drawn from the policy's whole distribution, because PPO's probability ratio and KL hold for "
            "such samples alone.",
            "Leave it out; evaluations can be drawn with --set eval.top_p=0.9.",
        ),
    )

    iterations: Count = 48
    """Iterations: each samples rollouts, scores them and updates policy and critic."""
    rollouts: Count = 128
    """Responses sampled per iteration."""
    samples: Count = 4
    """Responses to each prompt of an iteration: `ppo.rollouts` / `ppo.samples` prompts, which must be a whole number.
    The responses to a prompt share its computation."""
    epochs: Count = 1
    """Passes over the rollouts of an iteration."""
    minibatches: Count = 2
    """Optimiser steps per epoch: the rollouts are divided by this number."""
    micro_batch: Count = 32
    """Most rows in one forward pass: it bounds memory, and gradients are summed over micro-batches."""
    micro_tokens: Limit = 0
    """Most tokens in one forward pass; 0 sets no limit besides `ppo.micro_batch`."""
    offload: bool = False
    """Keep the frozen reference and the reward model in main memory between their passes: less GPU memory."""
    engine: Literal["own", "vllm"] = "own"
    """What samples the rollouts; vllm draws other samples, and evaluations always use the harness's own loop."""
    engine_memory: Share = 0.3
    """Share of the GPU's memory that vLLM takes."""
    lr: Rate = 1e-3
    """Learning rate of the policy."""
    critic_lr: Rate = 3e-3
    """Learning rate of the critic."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """Both learning rates over the iterations: the same throughout, or falling to 0 after the last one (linear)."""
    clip: NotNegative = 0.2
    """Clipping range of the probability ratio (arXiv 1707.06347, equation 7)."""
    value_clip: NotNegative = 0.2
    """Clipping range of the change of a value against the value at sampling time."""
    critic: Literal["own", "trunk"] = "own"
    """A critic with a network of its own (own), or a value head on the policy's network (trunk): less work, but
    another algorithm."""
    value_weight: NotNegative = 0.1
    """Weight of the value loss against the policy loss where `ppo.critic` is trunk."""
    gamma: Share = 1.0
    """Discount per token."""
    lam: Share = 0.95
    """Lambda of generalised advantage estimation (arXiv 1506.02438)."""
    kl: NotNegative = 0.02
    """Coefficient of the KL penalty against the SFT policy, which is subtracted from every token's reward."""
    kl_estimator: Literal["k1", "k3"] = "k1"
    """The penalty of a token: the log-ratio of its probabilities (k1), or an estimate that is never negative (k3)."""
    kl_target: NotNegative = 0.0
    """KL to the SFT policy, in nats per response, to which the coefficient is adapted from `ppo.kl` on
    (arXiv 1909.08593); 0 keeps the coefficient fixed."""
    missing_eos_penalty: NotNegative = 0.0
    """Subtracted from the reward of a response that is cut off, in standard deviations of the reward (with
    `ppo.normalise` none: in the reward's units)."""
    whiten: bool = True
    """Scale the advantages of an iteration to mean 0 and variance 1."""
    temperature: Positive = 1.0
    """Sampling temperature of rollouts, and of sampled evaluations where `eval.temperature` is 0."""
    max_grad_norm: Positive = 1.0
    """Gradients are scaled down to this norm where they exceed it."""
    checkpoints: Count = 4
    """Held-out evaluations, spread evenly over the iterations; the last one is at the end."""
    save_every: Count = 8
    """Iterations between checkpoints, from which an interrupted run continues."""
    normalise: Literal["sd", "none"] = "sd"
    """Divide rewards by the standard deviation of the sequence's sum over samples of the SFT policy (sd), or take
    them as they are (none)."""
    centre: Literal["sequence", "token", "none"] = "sequence"
    """What is subtracted from rewards first: the mean sum of SFT samples, once, from the last token (sequence: the
    best policy stays the same); the mean per token, from every token (token: for dense rewards; what length itself
    is paid goes away); nothing (none)."""
    scale_prompts: Count = 64
    """Training prompts on which `ppo.normalise` and `ppo.centre` are measured."""
    scale_samples: Count = 4
    """Samples per prompt on which `ppo.normalise` and `ppo.centre` are measured."""


@dataclass(frozen=True)
class DPOSettings(Group):
    """Direct preference optimisation (arXiv 2305.18290, TRL's DPOTrainer) of the SFT policy on the training pairs."""

    beta: Positive = 0.1
    """Strength of the implicit KL penalty against the SFT policy."""
    epochs: Count = 2
    """Passes over the training pairs."""
    batch: Count = 16
    """Pairs per step."""
    micro_batch: Limit = 0
    """Most pairs in one pass of a step, whose gradients are summed: it bounds memory and changes no
    result.  0 takes all at once; they are halved where memory runs out."""
    lr: Rate = 5e-4
    """Peak learning rate."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    save_every: Count = 100
    """Steps between checkpoints, from which an interrupted run continues."""


@dataclass(frozen=True)
class SFTChosenSettings(Group):
    """Further supervised fine-tuning of the SFT policy on the training pairs' chosen responses."""

    epochs: Count = 2
    """Passes over the chosen responses."""
    batch: Count = 16
    """Responses per step."""
    micro_batch: Limit = 0
    """Most responses in one pass of a step, whose gradients are summed: it bounds memory and changes no
    result.  0 takes all at once; they are halved where memory runs out."""
    lr: Rate = 2e-3
    """Peak learning rate."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    save_every: Count = 100
    """Steps between checkpoints, from which an interrupted run continues."""


@dataclass(frozen=True)
class BestOfNSettings(Group):
    """Best-of-n sampling: the response with the highest reward of n samples of the SFT policy."""

    n: str = "1,2,4,8,16,32,64"
    """The values of n, comma-separated; all are computed from one pool of samples per prompt."""
    pool: Limit = 0
    """Samples per held-out prompt in the pool; 0 takes the largest n."""
    independent: bool = False
    """Draw the pool independently of the baseline; otherwise its first sample is the baseline's response."""


@dataclass(frozen=True)
class SFTTemperedSettings(Group):
    """The SFT policy sampled at lower temperatures: a control without training and without a reward model."""

    temperatures: str = "1,0.8,0.6,0.4,0.2"
    """Sampling temperatures as parts of the baseline's, comma-separated, each from 0.01 to 1 (the baseline's own)."""


@dataclass(frozen=True)
class EvalSettings(Group):
    """Evaluation on held-out prompts."""

    prompts: Limit = 256
    """Held-out prompts that are evaluated, the first of the test split; 0 takes all."""
    samples: Count = 1
    """Sampled responses to each held-out prompt.  A prompt's samples are one cluster in every interval, and each is
    compared with the baseline's sample of the same number."""
    batch: Count = 128
    """Responses generated at once."""
    temperature: NotNegative = 0.0
    """Sampling temperature of all sampled evaluations, best-of-n's pool included; 0 takes `ppo.temperature`."""
    top_p: Mass = 1.0
    """Sampled evaluations draw from the fewest most likely tokens that hold this share of the probability (nucleus
    sampling, arXiv 1904.09751); 1 draws from all.  Rollouts always draw from all."""
    greedy: bool = True
    """Evaluate greedy decoding too, at every checkpoint."""
    corrections: Limit = 32
    """Sampled responses at the last checkpoint whose correction by the reward model is stored, where it writes any."""
    cut_off: Literal["keep", "lose"] = "keep"
    """What judges make of responses that are cut off at the longest length: judged as they stand (keep), or losing to
    every response that ended, with the utility or score of an empty response (lose)."""

    @property
    def rows(self) -> int:
        """About how many responses one decoding of an evaluation has; 1000 prompts stand for all."""
        return (self.prompts or 1000) * self.samples


@dataclass(frozen=True)
class StatsSettings(Group):
    """Confidence intervals."""

    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Nominal confidence level."""
    seed: Limit = 0
    """Seed of bootstrap and permutation draws."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """All groups of the harness, and what was set for plugins by name (group -> key -> text or value).

    A group has validated its values when it was made.  Those of plugins are checked by `presets.factory_settings`.
    """

    policy: PolicySettings = dataclasses.field(default_factory=PolicySettings)
    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    pairs: PairSettings = dataclasses.field(default_factory=PairSettings)
    sft: SFTSettings = dataclasses.field(default_factory=SFTSettings)
    ppo: PPOSettings = dataclasses.field(default_factory=PPOSettings)
    best_of_n: BestOfNSettings = dataclasses.field(default_factory=BestOfNSettings)
    dpo: DPOSettings = dataclasses.field(default_factory=DPOSettings)
    sft_chosen: SFTChosenSettings = dataclasses.field(default_factory=SFTChosenSettings)
    sft_tempered: SFTTemperedSettings = dataclasses.field(default_factory=SFTTemperedSettings)
    eval: EvalSettings = dataclasses.field(default_factory=EvalSettings)
    stats: StatsSettings = dataclasses.field(default_factory=StatsSettings)
    plugins: Mapping[str, Row] = dataclasses.field(default_factory=dict)

    @property
    def evaluation(self) -> JsonObject:
        """The group `eval` without what judges alone read: what the keys of generated responses depend on."""
        return {key: value for key, value in self.group("eval").items() if key != "cut_off"}

    def group(self, name: str) -> JsonObject:
        """The values of one group, as a plain dictionary: what enters the keys of stages."""
        return dataclasses.asdict(getattr(self, name))


GROUPS = tuple(field.name for field in dataclasses.fields(Settings) if field.name != "plugins")


class Setting(NamedTuple):
    """One setting: `allowed` says in words which values it takes, for help and errors."""

    group: str
    key: str
    default: object
    description: str
    allowed: str


def describe_settings() -> Iterator[Setting]:
    """All settings of the harness in the order of their groups; those of plugins are parameters of their factories."""
    for name in GROUPS:
        for key, info in type(getattr(Settings(), name)).__pydantic_fields__.items():
            # the text below the field in this file, which pydantic reads (use_attribute_docstrings)
            description = " ".join((info.description or "").split())
            yield Setting(name, key, info.default, description, allowed_values(info.annotation, info.metadata))


def allowed_values(kind: object, constraints: Sequence[Gt | Ge | Lt | Le]) -> str:
    """The values of a field in words, from its type and its bounds (annotated_types.Gt, Ge, Lt and Le)."""
    if get_origin(kind) is Literal:
        return f"one of: {', '.join(get_args(kind))}"
    if kind in (bool, str):
        return "true or false" if kind is bool else "text"
    bounds = {name: value for one in constraints for name, value in dataclasses.asdict(one).items()}
    number = "a whole number" if kind is int else "a number"
    # A pattern fits where the bounds have further keys, so those of two bounds come first.
    match bounds:
        case {"gt": low, "lt": high}:
            return f"{number} between {low} and {high}, both excluded"
        case {"ge": low, "le": high}:
            return f"{number} between {low} and {high}"
        case {"gt": low, "le": high}:
            return f"{number} above {low}, at most {high}"
        case {"gt": low}:
            return f"{number} above {low}"
        case {"ge": low}:
            return f"{number}, {low} or more"
    return number
