"""Every knob of a run, in groups, with presets as data (presets.toml).

A setting is named `group.key` on the command line.  The groups below are the harness's own; a plugin's group carries
the plugin's name and its keys are the keyword parameters of its factory.
"""

from __future__ import annotations

import fnmatch
import inspect
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from typing import Any

from rlhf_bench.harness.errors import BenchError, did_you_mean


@dataclass(frozen=True)
class PolicySettings:
    """How the policy is made and held.  The sizes are of `tiny`, which is trained from nothing; others ignore them.

    `template` auto (the tokenizer's chat template where it has one), plain or chat, `system` in front of it.  `lora` is
    the rank of adapters that are trained instead of all weights (0: all weights), scaled by `lora_alpha` / `lora`, on
    `lora_targets` (auto: every linear layer; or names, comma-separated).  `dtype` of the computation: float32,
    bfloat16, or auto, which takes bfloat16 on a GPU that has it; see precision.py for what stays float32.
    """

    layers: int = 2
    width: int = 64
    heads: int = 4
    vocabulary: int = 4096
    template: str = "auto"
    system: str = ""
    lora: int = 0
    lora_alpha: float = 16.0
    lora_targets: str = "auto"
    dtype: str = "float32"
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class DataSettings:
    """What is kept of a task's data.  0 means no limit; whatever is dropped is counted in the report."""

    limit: int = 0
    max_prompt_tokens: int = 0


@dataclass(frozen=True)
class PairSettings:
    """Which training pairs reward models see: `overlap` all, or the low, middle or high third of them by the lexical
    overlap of chosen and rejected (shared words over all words).
    """

    overlap: str = "all"


@dataclass(frozen=True)
class SFTSettings:
    """Supervised fine-tuning of the policy on the demonstrations (TRL's SFTTrainer)."""

    steps: int = 1000
    batch: int = 16
    lr: float = 8e-3
    warmup: float = 0.05
    save_every: int = 100


@dataclass(frozen=True)
class PPOSettings:
    """One schedule for every arm.  `kl` is the coefficient of the per-token KL penalty inside the reward.

    `normalise` "sd" divides every arm's rewards by the standard deviation of the sequence sum over `scale_prompts` x
    `scale_samples` SFT samples; "none" takes rewards as they come.  `checkpoints` held-out evaluations are spread
    evenly over the iterations, fixed beforehand.  `micro_batch` rows go through a model at once, fewer where they are
    longer than `micro_tokens` together (0: no limit).  `critic` own has a trunk of its own; trunk is a head on the
    policy's, its loss weighted by `value_weight` against the policy's: less work, another algorithm.  `offload`: the
    frozen reference and the reward model wait in main memory while nobody asks them.  `engine` own or vllm (another
    sampler's draws, so other runs; `engine_memory` is the share of a GPU it takes) and `compile` (a compiled decoding
    step) are of rollouts alone: evaluations always come from the plain loop.
    """

    iterations: int = 42
    rollouts: int = 64
    epochs: int = 1
    minibatches: int = 2
    micro_batch: int = 16
    micro_tokens: int = 0
    offload: bool = False
    engine: str = "own"
    engine_memory: float = 0.3
    compile: bool = False
    lr: float = 5e-4
    critic_lr: float = 1e-3
    clip: float = 0.2
    value_clip: float = 0.2
    critic: str = "own"
    value_weight: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    kl: float = 0.05
    whiten: bool = True
    temperature: float = 1.0
    max_grad_norm: float = 1.0
    checkpoints: int = 3
    save_every: int = 7
    normalise: str = "sd"
    scale_prompts: int = 64
    scale_samples: int = 4


@dataclass(frozen=True)
class DPOSettings:
    """Direct preference optimisation (arXiv 2305.18290, TRL's DPOTrainer) of the SFT policy on the training pairs."""

    beta: float = 0.1
    epochs: int = 2
    batch: int = 16
    lr: float = 5e-4
    warmup: float = 0.05
    save_every: int = 100


@dataclass(frozen=True)
class SFTChosenSettings:
    """Further supervised fine-tuning of the SFT policy on the training pairs' chosen responses."""

    epochs: int = 2
    batch: int = 16
    lr: float = 2e-3
    warmup: float = 0.05
    save_every: int = 100


@dataclass(frozen=True)
class BestOfNSettings:
    """Best-of-n: every `n` is taken from one pool of `pool` samples per held-out prompt (0: the largest n).

    Unless `independent`, the first sample is the baseline's own.
    """

    n: str = "1,2,4,8,16,32,64"
    pool: int = 0
    independent: bool = False


@dataclass(frozen=True)
class EvalSettings:
    """Held-out evaluation: `prompts` of the test split (0: all), `batch` rows at once, greedy decoding at the ends.

    `corrections`: of so many sampled responses at the last checkpoint the reward model's correction is kept, where it
    can write one; each costs a generation of the response's length.
    """

    prompts: int = 256
    batch: int = 128
    greedy: bool = True
    corrections: int = 32


@dataclass(frozen=True)
class StatsSettings:
    """Intervals: nominal level, and the seed of their generators."""

    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Settings:
    """All groups of the harness, and what was set for plugins by name."""

    policy: PolicySettings = field(default_factory=PolicySettings)
    data: DataSettings = field(default_factory=DataSettings)
    pairs: PairSettings = field(default_factory=PairSettings)
    sft: SFTSettings = field(default_factory=SFTSettings)
    ppo: PPOSettings = field(default_factory=PPOSettings)
    best_of_n: BestOfNSettings = field(default_factory=BestOfNSettings)
    dpo: DPOSettings = field(default_factory=DPOSettings)
    sft_chosen: SFTChosenSettings = field(default_factory=SFTChosenSettings)
    eval: EvalSettings = field(default_factory=EvalSettings)
    stats: StatsSettings = field(default_factory=StatsSettings)
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def group(self, name: str) -> dict[str, Any]:
        """The values of one group, as a plain dictionary."""
        return asdict(getattr(self, name))


GROUPS = tuple(f.name for f in fields(Settings) if f.name != "plugins")
POSITIVE = {
    "policy.layers", "policy.width", "policy.heads", "policy.vocabulary", "sft.steps", "sft.batch", "sft.lr",
    "ppo.iterations", "ppo.rollouts", "ppo.epochs", "ppo.minibatches", "ppo.micro_batch", "ppo.lr", "ppo.critic_lr",
    "ppo.temperature", "ppo.checkpoints", "ppo.save_every", "ppo.scale_prompts", "ppo.scale_samples",
    "dpo.beta", "dpo.epochs", "dpo.batch", "dpo.lr", "dpo.save_every", "sft_chosen.epochs", "sft_chosen.batch",
    "sft_chosen.lr", "sft_chosen.save_every", "ppo.max_grad_norm", "eval.batch", "sft.save_every",
}  # fmt: skip
CHOICES = {
    "pairs.overlap": ("all", "low", "middle", "high"),
    "ppo.normalise": ("sd", "none"),
    "ppo.critic": ("own", "trunk"),
    "ppo.engine": ("own", "vllm"),
    "policy.template": ("auto", "plain", "chat"),
    "policy.dtype": ("auto", "float32", "bfloat16"),
}
FRACTIONS = {
    "sft.warmup",
    "dpo.warmup",
    "sft_chosen.warmup",
    "ppo.gamma",
    "ppo.lam",
    "ppo.engine_memory",
    "stats.level",
}


def which_policy(policy: str, preset: str) -> str:
    """The policy asked for, else the preset's own, else `tiny`.

    Raises BenchError for an unknown preset, and for one that names no policy where none was given.
    """
    if policy or not preset:
        return policy or "tiny"
    known = load_presets()
    if preset not in known:
        raise BenchError(f"Unknown preset {preset!r}.", did_you_mean(preset, known))
    named = known[preset].get("preset", {}).get("policy", "")
    if not named:
        raise BenchError(f"The preset {preset!r} names no policy.", "Add --policy FOLDER_OR_HUB_ID.")
    return str(named)


def load_presets() -> dict[str, dict[str, dict[str, Any]]]:
    """Presets by name: group -> key -> value.  They override the defaults above, `--set` overrides them."""
    text = files("rlhf_bench.harness").joinpath("presets.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def make_settings(preset: str, assignments: Mapping[str, Mapping[str, str]], plugins: frozenset[str]) -> Settings:
    """The preset's settings with `--set` assignments (group -> key -> text) on top.

    `plugins` names the plugins of this run; a group may be a pattern over them ("seq2seq-*").  Their keys are checked
    later, against their factories.
    Raises BenchError for an unknown group or key and for a value of the wrong type.
    """
    known = load_presets()
    if preset not in known:
        raise BenchError(f"Unknown preset {preset!r}.", did_you_mean(preset, known))
    settings = Settings()
    extra: dict[str, dict[str, Any]] = {}
    for name, values in known[preset].items():
        if name in GROUPS:
            settings = replace(settings, **{name: replace(getattr(settings, name), **values)})
        for plugin in fnmatch.filter(plugins, name):
            extra.setdefault(plugin, {}).update(values)
    for name, texts in assignments.items():
        if name in GROUPS:
            settings = replace(settings, **{name: _override(name, getattr(settings, name), texts)})
            continue
        named = fnmatch.filter(plugins, name)
        for plugin in named:
            extra.setdefault(plugin, {}).update(texts)
        if not named:
            raise BenchError(f"Unknown settings group {name!r} in --set.", did_you_mean(name, {*GROUPS, *plugins}))
    return replace(settings, plugins=extra)


def _override(group: str, current: Any, texts: Mapping[str, str]) -> Any:
    hints = typing.get_type_hints(type(current))
    values = {}
    for key, text in texts.items():
        if key not in hints:
            raise BenchError(f"Unknown setting {group}.{key}.", did_you_mean(key, hints))
        values[key] = _check(f"{group}.{key}", parse_value(f"{group}.{key}", text, hints[key]))
    return replace(current, **values)


def _check(name: str, value: Any) -> Any:
    if name in CHOICES and value not in CHOICES[name]:
        raise BenchError(f"{name} is {value!r}.", f"Choose one of: {', '.join(CHOICES[name])}.")
    if isinstance(value, bool | str):
        return value
    if name in POSITIVE and value <= 0:
        raise BenchError(f"{name} is {value}.", "It must be above 0.")
    if name in FRACTIONS and not 0 <= value <= 1:
        raise BenchError(f"{name} is {value}.", "It must lie between 0 and 1.")
    if value < 0:
        raise BenchError(f"{name} is {value}.", "It must not be negative.")
    return value


def parse_value(name: str, text: str, kind: type) -> Any:
    """`text` as a bool, int, float or str; raises BenchError naming what was expected."""
    if kind is bool:
        if text.lower() in ("true", "yes", "1", "on", "false", "no", "0", "off"):
            return text.lower() in ("true", "yes", "1", "on")
        raise BenchError(f"{name}={text!r} is not true or false.", f"Write --set {name}=true.")
    if kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            raise BenchError(f"{name}={text!r} is not a number of type {kind.__name__}.") from None
        if value != value or value in (float("inf"), float("-inf")):
            raise BenchError(f"{name}={text!r} is not a finite number.")
        return value
    return text


def factory_settings(name: str, factory: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a plugin: its factory's defaults with `given` (texts are parsed by the defaults' types) on top.

    Raises BenchError for a key the factory does not have, or one without default that was not given.
    """
    parameters: Mapping[str, inspect.Parameter]
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        parameters = {}  # a builtin without signature takes no settings
    own = {k: p for k, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    values = {k: p.default for k, p in own.items() if p.default is not p.empty}
    for key, value in given.items():
        if key not in own:
            raise BenchError(f"Unknown setting {name}.{key}.", did_you_mean(key, own))
        default = own[key].default
        kind = str if default is inspect.Parameter.empty else type(default)
        values[key] = parse_value(f"{name}.{key}", value, kind) if isinstance(value, str) else value
    missing = [k for k in own if k not in values]
    if missing:
        raise BenchError(f"{name} needs the setting {missing[0]!r}.", f"Add --set {name}.{missing[0]}=VALUE.")
    return values
