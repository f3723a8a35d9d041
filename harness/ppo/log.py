"""The figures of a PPO iteration, and the checks that stop a run whose numbers are no longer finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.ppo import arithmetic
from rlhf_bench.harness.ppo.run import Experience, PPORun, StepRow
from rlhf_bench.harness.ppo.schedule import rescores
from rlhf_bench.harness.sampling.rollout import logprobs, rows_of


def step_row(run: PPORun, iteration: int, experience: Experience, losses: Mapping[str, float]) -> StepRow:
    """The row of steps.jsonl of an iteration (from 1): what its rollouts were like, and the losses of its update.

    `micro_batch` is there once the device's memory has limited it.  Raises BenchError where a figure is not finite.
    """
    row = {"iteration": iteration, **describe(run, experience), **losses}
    if run.limit.rows:
        row["micro_batch"] = run.limit.rows
    check_finite(run, row)
    return row


def describe(run: PPORun, experience: Experience) -> StepRow:
    """Means over the responses of a rollout; rewards are sequence sums, unscaled, and `kl` is in nats per response.

    `tokens` counts a response without end-of-sequence, `read_tokens` all prompts' and responses' tokens.  Where
    the sampler's log-probabilities are computed again (another engine, bfloat16), `engine_gap` and `engine_gap_max` are
    the mean and largest distance per token of the two, in nats.
    """
    rollout = experience.rollout
    lengths = (rollout.mask.sum(1) - rollout.finished.long()).float()
    row = {
        # Unscaled, so that curves of one reward model compare across runs with another scale.
        "reward": float(experience.rewards.sum(1).mean()),
        "reward_scaled": float(arithmetic.standardised(experience.rewards, rollout.mask, run.standard).sum(1).mean()),
        # Both log-probabilities are of sampled tokens: an unbiased estimate of KL(pi || pi_ref), of either sign.
        "kl_coefficient": experience.kl,
        "kl": float((experience.logprobs - experience.reference).sum(1).mean()),
        # Per token, of the sampled tokens: -log pi has the entropy as its mean.
        "entropy_estimate": float(-experience.logprobs.sum() / rollout.mask.sum()),
        "tokens": float(lengths.mean()),
        "read_tokens": float(rollout.prompt_mask.sum() + rollout.mask.sum()),
        "empty_share": sum(not text.strip() for text in rollout.responses) / len(rollout.responses),
        "truncated_share": float((~rollout.finished).float().mean()),
        "explained_variance": arithmetic.explained_variance(experience.values, experience.returns, rollout.mask),
    }
    if rescores(run) and rollout.logprobs is not None:
        gap = (experience.logprobs - rollout.logprobs)[rollout.mask].abs()
        row |= {"engine_gap": float(gap.mean()), "engine_gap_max": float(gap.max())}
    return row


def check_finite(run: PPORun, row: StepRow) -> None:
    """Raises BenchError where a figure of the row is NaN or infinite; the message names the figures.

    `row` has `iteration`, from 1.
    """
    bad = [name for name, value in row.items() if not math.isfinite(value)]
    if bad:  # before the row is stored or evaluated: what follows would be of a broken policy
        raise BenchError(
            f"PPO diverged at iteration {row['iteration']}: {', '.join(bad)} not finite "
            f"(reward model {run.reward_model.name!r}, seed {run.seed}).",
            "Lower ppo.lr or ppo.critic_lr.",
        )


def check_policy(run: PPORun, iteration: int, experience: Experience) -> None:
    """Raises BenchError where the policy no longer gives finite log-probabilities, tried on the first response.

    The figures of an iteration are of the policy before its last optimiser step; an evaluation is of the one after it.
    """
    # One row is enough: weights that are not finite spread to every logit.
    part = rows_of(experience.rollout, torch.arange(1, device=experience.rollout.mask.device))
    with torch.no_grad():
        total = float(logprobs(run.actors.policy, part).sum())
    check_finite(run, {"iteration": iteration, "logprobs": total})
