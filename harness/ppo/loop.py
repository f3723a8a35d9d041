"""The PPO loop, one for every reward model: sample, reward, advantage, update, log.

- Sample: one response to each prompt of the iteration, from the policy as it is.
- Reward: r_t per token, a sequence-level score on the last token, centred and scaled as all arms' are.  Of each token
  the KL penalty kl (log pi(y_t) - log pi_ref(y_t)) is subtracted: KL inside the reward, arXiv 1909.08593.
- Advantage: generalised advantage estimation, Schulman et al. 2016, arXiv 1506.02438 eq. 16.
- Update: the clipped surrogate, Schulman et al. 2017, arXiv 1707.06347 eq. 7, and a clipped value loss.
- Log: a row of figures per iteration; at checkpoints the policy is evaluated on held-out prompts.

The formulas are in arithmetic.py (to change the advantage, open it), the optimiser steps in update.py, the figures in
log.py.  Rewards of all reward models have one form here, so the loop does not depend on the reward model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from rlhf_bench.harness.ppo import arithmetic
from rlhf_bench.harness.ppo.log import check_policy, step_row
from rlhf_bench.harness.ppo.run import Experience, PPORun, StepRow, checkpoints, prompts_of, save, start
from rlhf_bench.harness.ppo.schedule import evaluate, forward_passes, sampled_logprobs
from rlhf_bench.harness.ppo.update import update
from rlhf_bench.harness.sampling.rollout import make_generator

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import PPOSettings


def train(run: PPORun) -> list[StepRow]:
    """All iterations of a run, or those that an interrupted one has left; returns one row of figures per iteration.

    Raises BenchError where the run diverges or the reward model fails.
    """
    done, rows = start(run)
    stops = set(checkpoints(run.settings))
    for iteration in range(done, run.settings.iterations):  # from 0; stored and reported iterations count from 1
        # From the rows alone, so that a resumed run goes on with the coefficient of the interrupted one.
        experience = collect(run, iteration, kl_coefficient(run.settings, rows))
        losses = update(run, experience, iteration)
        row = step_row(run, iteration + 1, experience, losses)  # raises where a figure is not finite
        rows.append(row)
        run.log(row)
        if iteration + 1 in stops:
            check_policy(run, iteration + 1, experience)
            evaluate(run, iteration + 1)
        # Saved at checkpoints too, after the evaluation: one that was interrupted is made again.
        if (iteration + 1) % run.settings.save_every == 0 or iteration + 1 in stops:
            save(run, iteration + 1, rows)
        run.progress(iteration + 1, run.settings.iterations)
    return rows


@torch.no_grad()
def collect(run: PPORun, iteration: int, kl: float | None = None) -> Experience:
    """Responses to the iteration's prompts with their rewards, log-probabilities, values and advantages.

    `iteration` counts from 0; `kl` is the coefficient of the KL penalty, None takes `ppo.kl`.  Raises BenchError where
    the reward model fails or breaks the rules of its Protocol.
    """
    s, actors = run.settings, run.actors
    kl = s.kl if kl is None else kl

    # Sample.  The generator names the draw, so that a resumed run samples the same responses.
    rollout = run.sampler(
        actors.policy,
        actors.tokenizer,
        prompts_of(run, iteration),
        run.max_new,
        generator=make_generator("rollout", run.seed, iteration),
        temperature=s.temperature,
    )
    mask = rollout.mask  # [B, T], as all tensors below

    # Reward, with the KL penalty of each token.
    rewards, reference, values = forward_passes(run, rollout)
    logprobs = sampled_logprobs(run, rollout)
    scaled = arithmetic.standardised(rewards, mask, run.standard)
    if s.missing_eos_penalty:
        scaled = scaled - s.missing_eos_penalty * (arithmetic.last_tokens(mask) & ~rollout.finished[:, None])
    shaped = arithmetic.kl_reward(scaled, logprobs, reference, mask, kl, s.kl_estimator)

    # Advantage.  Returns are the critic's targets; they are taken before whitening, in the units of the rewards.
    advantages = arithmetic.gae(shaped, values, mask, s.gamma, s.lam)
    returns = (advantages + values) * mask
    if s.whiten:
        advantages = arithmetic.whiten(advantages, mask)
    return Experience(rollout, rewards, logprobs, reference, values, advantages, returns, kl)


def kl_coefficient(settings: PPOSettings, rows: Sequence[StepRow]) -> float:
    """The KL coefficient of the iteration after `rows`: `ppo.kl`, moved towards `ppo.kl_target` where there is one."""
    if not rows or not settings.kl_target:
        return settings.kl
    return arithmetic.adapted_coefficient(rows[-1]["kl_coefficient"], rows[-1]["kl"], settings.kl_target)
