"""A reward model made from the policy is trained as the policy is held: all weights or adapters, in its precision.

Adapters are merged when training ends, so what is stored is an ordinary model, whichever way it was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_bench.harness.models import policies
from rlhf_bench.harness.models.lora import for_trainer, merge, require_peft
from rlhf_bench.harness.models.placement import Holding, read_holding


@dataclass(frozen=True)
class Trainee:
    """A model to train: `trained` is what a trainer gets, `model` what is left of it in the end."""

    model: Any
    trained: Any
    tokenizer: Any
    holding: Holding

    @property
    def options(self) -> dict[str, Any]:
        """Further options of `train_lm` and `train_preferences`."""
        return {"bf16": self.holding.half, "gradient_checkpointing": self.holding.gradient_checkpointing}

    def finished(self) -> Any:
        """The model to store."""
        return merge(self.model) if self.holding.lora else self.model


def causal_trainee(policy: Path, device: str, seed: int) -> Trainee:
    """A causal language model that starts from the SFT policy."""
    holding, tokenizer = read_holding(policy), policies.load_tokenizer(policy)
    if not holding.lora:
        model = policies.load_causal(policy, tokenizer, device)
        return Trainee(model, model, tokenizer, holding)
    require_peft()
    model = policies.load_frozen(policy, tokenizer, device, holding)
    return Trainee(model, for_trainer(model, holding, seed), tokenizer, holding)


def classifier_trainee(policy: Path, device: str, seed: int, head_std: float) -> Trainee:
    """A one-label classifier that starts from the SFT policy, its fresh head drawn from `seed` and always trained."""
    holding, tokenizer = read_holding(policy), policies.load_tokenizer(policy)
    model = policies.load_classifier(policy, tokenizer, "cpu", seed=seed, head_std=head_std)
    if not holding.lora:
        return Trainee(model.to(device), model, tokenizer, holding)
    require_peft()
    model = policies.narrowed(model, holding, keep=model.score).requires_grad_(False).to(device)
    return Trainee(model, for_trainer(model, holding, seed, head="score"), tokenizer, holding)
