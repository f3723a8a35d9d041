"""A reward model that starts from the policy is trained as the policy is: all weights or adapters, in its precision.

Adapters are merged when training ends, so the stored model is an ordinary one either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from rlhf_bench.harness.models import policies
from rlhf_bench.harness.models.lora import merge_adapters, require_peft, wrap_for_trainer
from rlhf_bench.harness.models.placement import Placement, read_placement

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM, Classifier
    from rlhf_bench.harness.text.types import Tokenizer

M = TypeVar("M", bound="CausalLM")


@dataclass(frozen=True)
class Trainee(Generic[M]):
    """A model to train: `trained` is what a trainer gets, which under adapters is peft's wrapper of `model`."""

    model: M
    trained: M
    tokenizer: Tokenizer
    placement: Placement

    def finished(self) -> M:
        """The model to store, its adapters merged.

        Call it once, after training: merging changes `model` in place.
        """
        merged: M = merge_adapters(self.model) if self.placement.lora else self.model
        return merged


def causal_trainee(policy: Path, device: str, seed: int) -> Trainee[CausalLM]:
    """A causal language model that starts from the SFT policy in the folder `policy`, with adapters if that has them.

    Raises BenchError where the policy cannot be loaded, or peft is missing.
    """
    placement, tokenizer = read_placement(policy), policies.load_tokenizer(policy)
    if not placement.lora:
        model = policies.load_causal(policy, tokenizer, device)
        return Trainee(model, model, tokenizer, placement)
    require_peft()
    # Frozen before the wrapper adds trainable adapters: an optimiser then gets these alone.
    model = policies.load_frozen(policy, tokenizer, device, placement)
    return Trainee(model, wrap_for_trainer(model, placement, seed), tokenizer, placement)


def classifier_trainee(policy: Path, device: str, seed: int, head_std: float) -> Trainee[Classifier]:
    """A one-label classifier that starts from the SFT policy in the folder `policy`.

    Its head is drawn from `seed` with standard deviation `head_std`, and trained whole also under adapters.
    """
    placement, tokenizer = read_placement(policy), policies.load_tokenizer(policy)
    # Drawn on the CPU, so that the head is the same on every device.
    model = policies.load_classifier(policy, tokenizer, "cpu", seed=seed, head_std=head_std)
    if not placement.lora:
        return Trainee(model.to(device), model, tokenizer, placement)
    require_peft()
    # The head is new, so it stays in float32 and is trained as a whole.
    model = policies.cast_layers(model, placement, keep=model.score).requires_grad_(False).to(device)
    return Trainee(model, wrap_for_trainer(model, placement, seed, head="score"), tokenizer, placement)
