"""The optimiser steps of a PPO iteration: the losses of policy and critic, and their gradients in micro-batches.

The losses are in arithmetic.py: the clipped surrogate (arXiv 1707.06347 eq. 7) and the clipped squared error of values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlhf_bench.harness.forward.passes import logits_and_hidden, pack, token_logprobs
from rlhf_bench.harness.forward.threads import Check, run_concurrently
from rlhf_bench.harness.models.micro_batch import Row
from rlhf_bench.harness.ppo import arithmetic
from rlhf_bench.harness.ppo.actors import TrunkCritic
from rlhf_bench.harness.ppo.run import Experience, PPORun
from rlhf_bench.harness.sampling.rollout import batches_by_length, longest_row, make_generator

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM

Losses = Callable[[Experience], tuple[Tensor, Sequence[Tensor]]]
"""Of a micro-batch: the loss to differentiate, and the terms to report; all are sums over its tokens (scalars)."""


def update(run: PPORun, experience: Experience, iteration: int) -> dict[str, float]:
    """`ppo.epochs` passes over the rollout, of `ppo.minibatches` optimiser steps each.

    Returns means over the steps: `policy_loss` and `value_loss` per token, `clip_share` (the share of tokens where the
    surrogate is clipped), and the norms of both gradients before clipping.
    """
    s, rollout = run.settings, experience.rollout
    # Drawn for all epochs beforehand: policy and critic take their steps on the same minibatches.
    generator = make_generator("update", run.seed, iteration)
    # The responses to a prompt stay in one minibatch: they share its computation.
    prompts, within = len(rollout.prompts) // s.samples, torch.arange(s.samples)
    groups = [torch.randperm(prompts, generator=generator)[:, None] for _ in range(s.epochs)]
    orders = [(group * s.samples + within).flatten() for group in groups]
    minibatches = [part for order in orders for part in order.to(rollout.mask.device).chunk(s.minibatches)]
    critic = run.actors.critic
    set_rates(run, iteration)
    if isinstance(critic, TrunkCritic):
        steps = [joint_step(run, critic, experience, index) for index in minibatches]
    else:
        # No step of the policy reads what a step of its critic changes, nor the reverse: their order is free.
        parts = run_concurrently(
            lambda check: [policy_step(run, experience, index, check) for index in minibatches],
            lambda check: [critic_step(run, experience, index, check) for index in minibatches],
            enabled=run.concurrent,
        )
        steps = [policy | value for policy, value in zip(*parts, strict=True)]
    return {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}


def set_rates(run: PPORun, iteration: int) -> None:
    """Set the learning rates of an iteration (from 0), which follow from it alone: a resumed run has the same."""
    s, actors = run.settings, run.actors
    share = 1 - iteration / s.iterations if s.lr_schedule == "linear" else 1.0
    for optimizer, rate in ((actors.policy_optimizer, s.lr), (actors.critic_optimizer, s.critic_lr)):
        for group in optimizer.param_groups:
            group["lr"] = rate * share


def policy_step(run: PPORun, experience: Experience, index: Tensor, check: Check) -> dict[str, float]:
    """One optimiser step of the policy on the rows `index` of a minibatch; `check` raises to abandon it.

    Returns `policy_loss` and `clip_share` per token, and `policy_norm`, that of the gradient before clipping.
    """
    policy, optimizer = run.actors.policy, run.actors.policy_optimizer

    def losses(batch: Experience) -> tuple[Tensor, Sequence[Tensor]]:
        check()  # raises once the critic's thread has failed
        logits, _ = logits_and_hidden(policy, pack(batch.rollout, policy))
        loss, clipped = surrogate(run, batch, logits)
        return loss, (loss, clipped)

    loss, clipped = accumulate(run, experience, index, [optimizer], losses)
    return {"policy_loss": loss, "clip_share": clipped, "policy_norm": descend(run, policy, optimizer)}


def critic_step(run: PPORun, experience: Experience, index: Tensor, check: Check) -> dict[str, float]:
    """One optimiser step of a critic with a trunk of its own on the rows `index`; `check` raises to abandon it.

    Returns `value_loss` per token, and `value_norm`, that of the gradient before clipping.
    """
    critic, optimizer = run.actors.critic, run.actors.critic_optimizer

    def losses(batch: Experience) -> tuple[Tensor, Sequence[Tensor]]:
        check()  # raises once the policy's thread has failed
        loss = value_error(run, batch, critic(batch.rollout))
        return loss, (loss,)

    (loss,) = accumulate(run, experience, index, [optimizer], losses)
    return {"value_loss": loss, "value_norm": descend(run, critic, optimizer)}


def joint_step(run: PPORun, critic: TrunkCritic, experience: Experience, index: Tensor) -> dict[str, float]:
    """One optimiser step of both on the rows `index` where the critic is a head on the policy's trunk.

    One pass of the trunk serves both losses, which are added with the weight `ppo.value_weight`.
    """
    policy = run.actors.policy
    policy_optimizer, critic_optimizer = run.actors.policy_optimizer, run.actors.critic_optimizer

    def losses(batch: Experience) -> tuple[Tensor, Sequence[Tensor]]:
        logits, hidden = logits_and_hidden(policy, pack(batch.rollout, policy))
        loss, clipped = surrogate(run, batch, logits)
        value = value_error(run, batch, critic.values(hidden, batch.rollout))
        return loss + run.settings.value_weight * value, (loss, value, clipped)

    loss, value, clipped = accumulate(run, experience, index, [policy_optimizer, critic_optimizer], losses)
    return {
        "policy_loss": loss,
        "value_loss": value,
        "clip_share": clipped,
        "policy_norm": descend(run, policy, policy_optimizer),
        "value_norm": descend(run, critic, critic_optimizer),
    }


def surrogate(run: PPORun, batch: Experience, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The clipped surrogate of a micro-batch and its clipped tokens, sums over its tokens, from logits [N, V].

    N is the number of response tokens of the micro-batch (arithmetic.policy_loss has the formula).
    """
    new = token_logprobs(logits, batch.rollout, run.settings.temperature)
    return arithmetic.policy_loss(new, batch.logprobs, batch.advantages, batch.rollout.mask, run.settings.clip)


def value_error(run: PPORun, batch: Experience, values: Tensor) -> Tensor:
    """The value loss of a micro-batch, a sum over its tokens, from values [b, t] (arithmetic.value_loss)."""
    return arithmetic.value_loss(values, batch.values, batch.returns, batch.rollout.mask, run.settings.value_clip)


def accumulate(
    run: PPORun, experience: Experience, index: Tensor, optimizers: Sequence[Optimizer], losses: Losses
) -> list[float]:
    """Add up the gradients of the rows `index` in micro-batches; returns the terms of `losses` per token.

    Every micro-batch is divided by the tokens of the whole minibatch, so the gradient does not depend on their size.
    """
    # A mean over tokens, not over responses: every token of a minibatch has the same weight.
    tokens = experience.rollout.mask[index].sum()

    def attempt(rows: int) -> Tensor:
        for optimizer in optimizers:
            optimizer.zero_grad()  # an attempt that ran out of memory has left some
        sums = []
        for part in batches_by_length(experience.rollout, index, rows, run.settings.micro_tokens):
            loss, terms = losses(experience.rows(part))
            (loss / tokens).backward()  # type: ignore[no-untyped-call]
            # Kept on the device until the step's end: a float() here would wait for every micro-batch.
            sums.append(torch.stack([term.detach().float() for term in terms]))
        return torch.stack(sums).sum(0) / tokens

    row = Row("updating policy and critic", longest_row(experience.rollout))
    found: list[float] = run.limit.run(attempt, min(run.settings.micro_batch, len(index)), row).tolist()
    return found


def descend(run: PPORun, module: nn.Module | CausalLM, optimizer: Optimizer) -> float:
    """One step along the gradients, clipped to norm `ppo.max_grad_norm`; returns their norm before that.

    The norm is that of all gradients of `module` as one vector.  Clears them afterwards.
    """
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), run.settings.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()  # frees the gradients before the next rollout
    return float(norm)
