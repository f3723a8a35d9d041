"""Every knob of a run, in groups, with presets as data (presets.toml; presets.py).

A setting is named `group.key` on the command line.  The groups below are the harness's own; a plugin's group carries
the plugin's name and its keys are the keyword parameters of its factory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class PolicySettings:
    """How the policy is made and held.  The sizes are of `tiny`, which is trained from nothing; others ignore them.

    `template` auto (the tokenizer's chat template where it has one), plain or chat, `system` in front of it.  `lora` is
    the rank of adapters that are trained instead of all weights (0: all weights), scaled by `lora_alpha` / `lora`, on
    `lora_targets` (auto: every linear layer; or names, comma-separated).  `dtype` of the computation: float32,
    bfloat16, or auto, which takes bfloat16 on a GPU that has it; see models/placement.py for what stays float32.
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
    sampler's draws, so other runs; `engine_memory` is the share of a GPU it takes) writes rollouts alone: evaluations
    always come from the plain loop.
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
