"""The models and optimisers of one PPO run, and their exact saving and restoring as one safetensors file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_bench.harness.forward.passes import hidden_states, pack, spread
from rlhf_bench.harness.models.lora import add_adapter, merge, require_peft, save_adapter, trainable, twin
from rlhf_bench.harness.models.placement import Holding, compute_as, read_holding
from rlhf_bench.harness.models.policies import load_causal, load_frozen, load_policy, load_tokenizer, save_model
from rlhf_bench.harness.nouns import Rollout


class Critic(nn.Module):
    """A value per response position: the SFT policy's trunk under a head that starts at zero.

    The trunk is a copy, or under adapters the shared base with an adapter of the critic's own.  Every arm starts from
    the same critic.
    """

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = _zero_head(width)

    def forward(self, rollout: Rollout) -> Tensor:
        """V(x, y_<t) [B, T], 0 outside the mask."""
        packed = pack(rollout, self.trunk)
        hidden = hidden_states(self.trunk, packed, packed.before)
        return spread(self.head(hidden.float()).squeeze(-1), rollout.mask)


class TrunkCritic(nn.Module):
    """A value per response position: a head, zero at first, on the policy's own trunk, which is not part of it."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self._policy = (policy,)  # in a tuple: its weights are the policy's to train and to save
        self.head = _zero_head(policy.config.hidden_size)

    def forward(self, rollout: Rollout) -> Tensor:
        """As Critic's."""
        trunk = self._policy[0].base_model
        packed = pack(rollout, trunk)
        return self.values(hidden_states(trunk, packed, packed.before), rollout)

    def values(self, hidden: Tensor, rollout: Rollout) -> Tensor:
        """The values [B, T] from hidden states [N, D] that a pass of the policy has left."""
        return spread(self.head(hidden.float()).squeeze(-1), rollout.mask)


def _zero_head(width: int) -> nn.Linear:
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@dataclass
class Actors:
    """What PPO trains, and the frozen reference it is held to."""

    policy: Any
    reference: Any
    critic: Critic | TrunkCritic
    tokenizer: Any
    policy_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    holding: Holding = field(default_factory=Holding)


def make_actors(sft: Path, device: str, lr: float, critic_lr: float, seed: int = 0, shared: bool = False) -> Actors:
    """Policy, reference and critic from one SFT folder, held as it says; Adam without weight decay, constant rates.

    `shared`: the critic is a head on the policy's trunk.

    Fused on a CPU, where the plain one takes four times as long (on a GPU torch's default is as fast).
    """
    holding = read_holding(sft)
    make = _adapted if holding.lora else _whole
    policy, reference, trunk, tokenizer = make(sft, device, holding, seed, not shared)
    critic = Critic(trunk, policy.config.hidden_size) if trunk is not None else TrunkCritic(policy)
    return Actors(
        compute_as(policy, holding),
        compute_as(reference, holding),
        critic.to(device),
        tokenizer,
        torch.optim.Adam(trainable(policy), lr, fused=device == "cpu"),
        torch.optim.Adam(trainable(critic), critic_lr, fused=device == "cpu"),
        holding,
    )


def _whole(sft: Path, device: str, holding: Holding, _: int, apart: bool) -> tuple[Any, Any, Any, Any]:
    """Policy, reference, the critic's trunk (None unless `apart`) and tokenizer where all weights are trained: the
    reference is a frozen copy."""
    policy, tokenizer = load_policy(sft, device)
    reference = load_causal(sft, tokenizer, device).requires_grad_(False)
    trunk = compute_as(load_causal(sft, tokenizer, device).base_model, holding) if apart else None
    return policy, reference, trunk, tokenizer


def _adapted(sft: Path, device: str, holding: Holding, seed: int, apart: bool) -> tuple[Any, Any, Any, Any]:
    """As `_whole` where adapters are trained: views of one frozen base."""
    require_peft()
    tokenizer = load_tokenizer(sft)
    reference = load_frozen(sft, tokenizer, device, holding)
    policy = add_adapter(twin(reference), holding, seed)
    trunk = compute_as(add_adapter(twin(reference).base_model, holding, seed), holding) if apart else None
    return policy, reference, trunk, tokenizer


def save_policy(actors: Actors, sft: Path, work: Path) -> None:
    """policy/, which from_pretrained opens; under adapters also adapter/, policy/ being the base with it merged."""
    if not actors.holding.lora:
        save_model(actors.policy, actors.tokenizer, work / "policy")
        return
    save_adapter(actors.policy, actors.holding, work / "adapter")
    fresh = load_frozen(sft, actors.tokenizer, "cpu", actors.holding)
    merged = add_adapter(fresh, actors.holding, seed=0)
    own = dict(actors.policy.named_parameters())
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(own[name])
    save_model(merge(merged), actors.tokenizer, work / "policy")


def save_state(actors: Actors, iteration: int, path: Path) -> None:
    """Weights and optimiser moments after `iteration` iterations, written aside and renamed.

    There is no random state to save: every draw's generator is seeded by what it is for.
    """
    from safetensors.torch import save_file

    tensors = {
        **_pack("policy", actors.policy, actors.policy_optimizer),
        **_pack("critic", actors.critic, actors.critic_optimizer),
    }
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, aside, metadata={"iteration": str(iteration)})
    aside.replace(path)


def load_state(actors: Actors, path: Path) -> int:
    """Restore what `save_state` wrote; returns the number of iterations done."""
    from safetensors import safe_open

    device = next(actors.policy.parameters()).device
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        iteration = int(file.metadata()["iteration"])
    _unpack("policy", actors.policy, actors.policy_optimizer, tensors, device)
    _unpack("critic", actors.critic, actors.critic_optimizer, tensors, device)
    return iteration


def _pack(prefix: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in module.named_parameters():  # tied weights appear once
        if not parameter.requires_grad:
            continue  # a base under adapters is in the SFT folder
        tensors[f"{prefix}/{name}"] = parameter.detach().contiguous()
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{prefix}@{moment}/{name}"] = value.contiguous()
    return tensors


def _unpack(
    prefix: str, module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], device: torch.device
) -> None:
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
        if moments:  # Adam keeps its step count on the CPU
            optimizer.state[parameter] = {m: v if m == "step" else v.to(device) for m, v in moments.items()}
