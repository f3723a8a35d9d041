"""The optimiser steps of a PPO iteration: losses, gradients in micro-batches, the policy's and the critic's steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_bench.harness.forward.passes import logits_and_hidden, pack, token_logprobs
from rlhf_bench.harness.forward.threads import Check, both
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo import arithmetic
from rlhf_bench.harness.ppo.actors import TrunkCritic
from rlhf_bench.harness.sampling.rollout import batches_by_length, make_generator, rows_of

if TYPE_CHECKING:
    from rlhf_bench.harness.ppo.loop import Experience, PPORun


def update(run: PPORun, experience: Experience, iteration: int) -> dict[str, float]:
    """`epochs` passes of `minibatches` optimiser steps each; returns mean losses, clip share and gradient norms.

    Neither the policy's steps nor those of a critic of its own read what the others change: they may run at once.
    """
    steps = _minibatches(run, experience, iteration)
    critic = run.actors.critic
    if isinstance(critic, TrunkCritic):
        found = [_joint_step(run, critic, experience, index) for index in steps]
    else:
        parts = both(
            lambda check: [_policy_step(run, experience, index, check) for index in steps],
            lambda check: [_critic_step(run, experience, index, check) for index in steps],
            at_once=run.at_once,
        )
        found = [one | other for one, other in zip(*parts, strict=True)]
    return {name: sum(row[name] for row in found) / len(found) for name in found[0]}


def _minibatches(run: PPORun, experience: Experience, iteration: int) -> list[Tensor]:
    """The rows of every optimiser step of an iteration."""
    s = run.settings
    generator = make_generator("update", run.seed, iteration)
    orders = [torch.randperm(len(experience.rollout.prompts), generator=generator) for _ in range(s.epochs)]
    return [part for order in orders for part in order.to(experience.rollout.mask.device).chunk(s.minibatches)]


def _policy_step(run: PPORun, experience: Experience, index: Tensor, check: Check) -> dict[str, float]:
    """One optimiser step of the policy on the rows `index`."""

    def backward(part: Tensor, tokens: Tensor) -> Tensor:
        check()
        rollout = rows_of(experience.rollout, part)
        logits, _ = logits_and_hidden(run.actors.policy, pack(rollout, run.actors.policy))
        loss, clipped = _policy_loss(run, experience, part, rollout, logits)
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        return torch.stack([loss.detach(), clipped.float()])

    loss, clipped = _accumulate(run, experience, index, [run.actors.policy_optimizer], backward)
    norm = _descend(run, run.actors.policy, run.actors.policy_optimizer)
    return {"policy_loss": loss, "clip_share": clipped, "policy_norm": norm}


def _critic_step(run: PPORun, experience: Experience, index: Tensor, check: Check) -> dict[str, float]:
    """One optimiser step of a critic of its own on the rows `index`."""

    def backward(part: Tensor, tokens: Tensor) -> Tensor:
        check()
        rollout = rows_of(experience.rollout, part)
        loss = _value_loss(run, experience, part, rollout, run.actors.critic(rollout))
        (loss / tokens).backward()  # type: ignore[no-untyped-call]
        return loss.detach()[None]

    (loss,) = _accumulate(run, experience, index, [run.actors.critic_optimizer], backward)
    return {"value_loss": loss, "value_norm": _descend(run, run.actors.critic, run.actors.critic_optimizer)}


def _joint_step(run: PPORun, critic: TrunkCritic, experience: Experience, index: Tensor) -> dict[str, float]:
    """One optimiser step on the rows `index` of a policy whose trunk the critic's head stands on: one pass for both."""
    s, actors = run.settings, run.actors

    def backward(part: Tensor, tokens: Tensor) -> Tensor:
        rollout = rows_of(experience.rollout, part)
        logits, hidden = logits_and_hidden(actors.policy, pack(rollout, actors.policy))
        policy, clipped = _policy_loss(run, experience, part, rollout, logits)
        value = _value_loss(run, experience, part, rollout, critic.values(hidden, rollout))
        ((policy + s.value_weight * value) / tokens).backward()  # type: ignore[no-untyped-call]
        return torch.stack([policy.detach(), value.detach(), clipped.float()])

    optimizers = [actors.policy_optimizer, actors.critic_optimizer]
    policy, value, clipped = _accumulate(run, experience, index, optimizers, backward)
    norms = [_descend(run, *pair) for pair in zip((actors.policy, critic), optimizers, strict=True)]
    found = {"policy_loss": policy, "value_loss": value, "clip_share": clipped}
    return {**found, "policy_norm": norms[0], "value_norm": norms[1]}


def _accumulate(
    run: PPORun,
    experience: Experience,
    index: Tensor,
    optimizers: Sequence[torch.optim.Optimizer],
    backward: Callable[[Tensor, Tensor], Tensor],
) -> list[float]:
    """Gradients of the rows `index` in micro-batches, adding up exactly; means over their tokens.

    `backward(part, tokens)` adds the gradients of one micro-batch, divided by `tokens`, and returns undivided sums.
    """
    tokens = experience.rollout.mask[index].sum()

    def attempt(rows: int) -> Tensor:
        for optimizer in optimizers:
            optimizer.zero_grad()  # an attempt that ran out of memory has left some
        parts = batches_by_length(experience.rollout, index, rows, run.settings.micro_tokens)
        return torch.stack([backward(part, tokens) for part in parts]).sum(0) / tokens

    found: list[float] = run.fit.attempt(attempt, run.settings.micro_batch).tolist()
    return found


def _policy_loss(
    run: PPORun, experience: Experience, part: Tensor, rollout: Rollout, logits: Tensor
) -> tuple[Tensor, Tensor]:
    """The policy's loss and its clipped tokens, sums over the rows `part`, which are `rollout`."""
    old, advantages = _columns(rollout, experience.logprobs[part], experience.advantages[part])
    new = token_logprobs(logits, rollout, run.settings.temperature)
    return arithmetic.policy_loss(new, old, advantages, rollout.mask, run.settings.clip)


def _value_loss(run: PPORun, experience: Experience, part: Tensor, rollout: Rollout, values: Tensor) -> Tensor:
    old, returns = _columns(rollout, experience.values[part], experience.returns[part])
    return arithmetic.value_loss(values, old, returns, rollout.mask, run.settings.value_clip)


def _columns(rollout: Rollout, *tables: Tensor) -> list[Tensor]:
    """As many columns of tables [b, T] as the rollout has."""
    return [table[:, : rollout.mask.shape[1]] for table in tables]


def _descend(run: PPORun, module: Any, optimizer: torch.optim.Optimizer) -> float:
    """One step along the gradients; returns their norm before it was clipped."""
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), run.settings.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    return float(norm)
