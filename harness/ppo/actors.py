"""The models and optimisers of one PPO run, and their exact saving and restoring as one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rlhf_bench.harness.forward.passes import hidden_states, pack, scatter_to_mask
from rlhf_bench.harness.models.lora import (
    add_adapter,
    copy_sharing_weights,
    merge_adapters,
    require_peft,
    save_adapter,
    trainable_parameters,
)
from rlhf_bench.harness.models.placement import Placement, apply_placement, read_placement
from rlhf_bench.harness.models.policies import load_causal, load_frozen, load_tokenizer, save_model
from rlhf_bench.harness.models.tensors import check_shapes, shapes_of
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.replacing import replacing, sweep

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import Tokenizer


class Critic(nn.Module):
    """A value per response position: a trunk of its own, and a linear head of zeros.

    The trunk starts as the SFT policy's: a copy, or under adapters the shared base with an adapter of the critic's own.
    Every arm starts from the same critic, which gives 0 everywhere.
    """

    def __init__(self, trunk: CausalLM, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = zero_head(width)

    def forward(self, rollout: Rollout) -> Tensor:
        """V(x, y_<t) [B, T], 0 outside the mask.  A value is of the tokens before y_t, which it does not see."""
        packed = pack(rollout, self.trunk)
        # The state before y_t, [N, D] over all response tokens.
        hidden = hidden_states(self.trunk, packed, packed.before)
        return scatter_to_mask(read_values(self.head, hidden), rollout.mask)


class TrunkCritic(nn.Module):
    """A value per response position: a linear head of zeros on the policy's trunk, which is not part of the module.

    Its parameters are the head's alone.  The policy's optimiser updates the trunk, from the sum of both losses.
    """

    def __init__(self, policy: CausalLM) -> None:
        super().__init__()
        self._policy = (policy,)  # in a tuple, so that torch does not register its weights as the critic's
        self.head = zero_head(policy.config.hidden_size)

    def forward(self, rollout: Rollout) -> Tensor:
        """V(x, y_<t) [B, T], 0 outside the mask, by a pass of its own through the policy's trunk."""
        trunk = self._policy[0].base_model
        packed = pack(rollout, trunk)
        return self.values(hidden_states(trunk, packed, packed.before), rollout)

    def values(self, hidden: Tensor, rollout: Rollout) -> Tensor:
        """The values [B, T] from the policy's last hidden states [N, D] before each response token.

        N is the number of response tokens of `rollout`: a pass that also gives the logits serves both.
        """
        return scatter_to_mask(read_values(self.head, hidden), rollout.mask)


def read_values(head: nn.Linear, hidden: Tensor) -> Tensor:
    """The values [N] of states [N, D], each brought to mean 0 and variance 1 over its D numbers first.

    A policy's last norm is as small or large as its logits need.  Adam moves every weight of the head by about its
    rate whatever the states are, so under small states values cannot follow the returns within a run.
    """
    # float32 under bfloat16 too
    values: Tensor = head(nn.functional.layer_norm(hidden.float(), hidden.shape[-1:]))
    return values.squeeze(-1)


def zero_head(width: int) -> nn.Linear:
    """A linear layer [width] -> [1] with weights and bias 0, in float32."""
    # Zeros: every value is 0 until the first update, for every arm and seed.
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@dataclass
class Actors:
    """What PPO trains (policy and critic), their optimisers, and the frozen reference of the KL penalty.

    `tokenizer` is the policy's; `placement` says which weights are trained, and in which precision layers compute.
    """

    policy: CausalLM
    reference: CausalLM
    critic: Critic | TrunkCritic
    tokenizer: Tokenizer
    policy_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    placement: Placement = field(default_factory=Placement)


def make_actors(sft: Path, device: str, lr: float, critic_lr: float, seed: int = 0, shared: bool = False) -> Actors:
    """The models of a run from one SFT folder, and Adam without weight decay at constant rates.

    All weights are trained, and the reference is a frozen copy; or adapters drawn from `seed` are, and the models are
    views of one frozen base.  `shared`: the critic is a head on the policy's trunk.
    """
    placement, tokenizer = read_placement(sft), load_tokenizer(sft)
    if placement.lora:
        # One set of frozen weights in memory: three module trees over the same tensors.
        require_peft()
        reference = load_frozen(sft, tokenizer, device, placement)
        policy = add_adapter(copy_sharing_weights(reference), placement, seed)
        trunk = None if shared else add_adapter(copy_sharing_weights(reference).base_model, placement, seed)
    else:
        policy = load_causal(sft, tokenizer, device)
        reference = load_causal(sft, tokenizer, device).requires_grad_(False)
        trunk = None if shared else load_causal(sft, tokenizer, device).base_model
    if trunk is None:
        critic: Critic | TrunkCritic = TrunkCritic(policy)
    else:
        # Prepared by itself: the critic calls the trunk without the model around it.
        critic = Critic(apply_placement(trunk, placement), policy.config.hidden_size)
    critic.to(device)
    fused = device == "cpu"  # there the unfused one takes four times as long; a GPU's default is as fast as fused
    return Actors(
        apply_placement(policy, placement),
        apply_placement(reference, placement),
        critic,
        tokenizer,
        torch.optim.Adam(trainable_parameters(policy), lr, fused=fused),
        torch.optim.Adam(trainable_parameters(critic), critic_lr, fused=fused),
        placement,
    )


def save_policy(actors: Actors, sft: Path, work: Path) -> None:
    """Write the trained policy to `work`/policy, which `from_pretrained` opens.

    Under adapters also `work`/adapter; policy/ is then the base of `sft` with the adapter merged.
    """
    if not actors.placement.lora:
        save_model(actors.policy, actors.tokenizer, work / "policy")
        return
    save_adapter(actors.policy, actors.placement, work / "adapter")
    # Merged into a fresh base: merging changes weights in place, and those in memory are the reference's too.
    fresh = load_frozen(sft, actors.tokenizer, "cpu", actors.placement)
    merged = add_adapter(fresh, actors.placement, seed=0)
    trained = dict(actors.policy.named_parameters())
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(trained[name])
    save_model(merge_adapters(merged), actors.tokenizer, work / "policy")


def save_state(actors: Actors, iteration: int, path: Path) -> None:
    """Write weights and optimiser moments after `iteration` iterations to one safetensors file.

    There is no random state to save: every draw has a generator of its own, seeded by what it is for.
    """
    from safetensors.torch import save_file

    tensors = {
        **state_tensors("policy", actors.policy, actors.policy_optimizer),
        **state_tensors("critic", actors.critic, actors.critic_optimizer),
    }
    # Written aside and renamed: a run that is killed meanwhile keeps the state before.
    sweep(path.parent)
    with replacing(path) as aside:
        save_file(tensors, aside, metadata={"iteration": str(iteration)})


def load_state(actors: Actors, path: Path) -> int:
    """Restore what `save_state` wrote, in place; returns the number of iterations done.

    `actors` are made from the same SFT folder and settings.  Raises BenchError where a weight of policy or critic is
    missing, of another shape, or one too many.
    """
    from safetensors import safe_open

    device = next(actors.policy.parameters()).device
    # Restored in place: the optimisers, and a critic on the policy's trunk, hold on to the parameters.
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        iteration = int(file.metadata()["iteration"])
    # here, because a tensor of another shape may fit by broadcasting
    needed = shapes_of({**state_tensors("policy", actors.policy), **state_tensors("critic", actors.critic)})
    for name, shape in list(needed.items()):
        model, _, parameter = name.partition("/")
        # none before a parameter's first step
        moments = {"exp_avg": shape, "exp_avg_sq": shape, "step": ()}
        needed |= {held: size for m, size in moments.items() if (held := f"{model}@{m}/{parameter}") in tensors}
    check_shapes(path, needed, shapes_of(tensors))
    restore_tensors("policy", actors.policy, actors.policy_optimizer, tensors, device)
    restore_tensors("critic", actors.critic, actors.critic_optimizer, tensors, device)
    return iteration


def state_tensors(
    prefix: str, module: nn.Module | CausalLM, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Tensor]:
    """Trained weights as PREFIX/NAME, and Adam's moments and step counts, if any, as PREFIX@MOMENT/NAME."""
    tensors = {}
    for name, parameter in module.named_parameters():  # tied weights appear once
        if not parameter.requires_grad:
            continue  # the frozen base under adapters is in the SFT folder
        tensors[f"{prefix}/{name}"] = parameter.detach().contiguous()
        for moment, value in (optimizer.state.get(parameter, {}) if optimizer else {}).items():
            tensors[f"{prefix}@{moment}/{name}"] = value.contiguous()
    return tensors


def restore_tensors(
    prefix: str,
    module: nn.Module | CausalLM,
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, Tensor],
    device: torch.device,
) -> None:
    """Put back what `state_tensors` gave: trained weights into `module`, moments and step counts into `optimizer`.

    `tensors` may hold those of other prefixes.  Raises KeyError for a trained weight that it lacks.
    """
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        with torch.no_grad():
            parameter.copy_(tensors[f"{prefix}/{name}"])
        moments = {
            m: tensors[f"{prefix}@{m}/{name}"]
            for m in ("exp_avg", "exp_avg_sq", "step")
            if f"{prefix}@{m}/{name}" in tensors
        }
        if moments:  # none before a parameter's first step; Adam keeps its step count on the CPU
            optimizer.state[parameter] = {m: v if m == "step" else v.to(device) for m, v in moments.items()}
