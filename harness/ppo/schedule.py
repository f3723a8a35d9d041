"""Scheduling of forward passes over a rollout: reward model, reference and critic, concurrently or one after another.

Which of the two never depends on time, so the same run gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlhf_bench.harness.forward.threads import Check, run_concurrently
from rlhf_bench.harness.models.micro_batch import MicroBatchLimit
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo.offload import on_device
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import batches_by_length, logprobs, map_batches, rows_of

if TYPE_CHECKING:
    from rlhf_bench.harness.ppo.run import PPORun

PASSES = "reading rollouts with the policy, the reference or the critic"
"""What is done with a rollout here, for messages."""

Pass = Callable[[Rollout], Tensor]
"""A model's forward pass over a micro-batch: numbers [b, t]."""


def forward_passes(run: PPORun, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, the reference's log-probabilities and the critic's values of a rollout, [B, T] each.

    Rewards are unscaled, log-probabilities in nats at the sampling temperature.  The caller switches gradients off.
    Raises BenchError where the reward model fails.
    """
    s, actors = run.settings, run.actors
    sizes = (s.micro_batch, s.micro_tokens, run.limit)  # of every pass: one model's memory is much like another's

    def reference(part: Rollout) -> Tensor:
        return logprobs(actors.reference, part, s.temperature)

    if run.concurrent:
        rewards, (found, values) = concurrent_passes(run.reward_model, [reference, actors.critic], rollout, *sizes)
        return rewards, found, values

    def score(_: Check) -> Tensor:
        with on_device(run, run.reward_model.model):
            return run.reward_model.rewards(rollout)

    def others(_: Check) -> tuple[Tensor, Tensor]:
        with on_device(run, actors.reference):
            found = map_batches(reference, rollout, *sizes, PASSES)
        return found, map_batches(actors.critic, rollout, *sizes, PASSES)

    # Reference and critic share weights, or autocast's cache of casts, so they stay in one thread.  The reward model
    # shares nothing with them: on a CPU it has a thread of its own, unless offloading keeps few models in memory.
    apart = actors.policy.device.type == "cpu" and not s.offload
    rewards, (found, values) = run_concurrently(score, others, enabled=apart)
    return rewards, found, values


def sampled_logprobs(run: PPORun, rollout: Rollout) -> Tensor:
    """log pi_old(y_t) [B, T] of the sampled tokens, in nats, at the sampling temperature.

    Our own sampler gives them with the tokens: in float32 another pass would only add rounding.  Those of another
    engine come from other kernels, and those of bfloat16 from sums in another order, with which the ratio of the first
    minibatch would not be 1; they are computed again.
    """
    s = run.settings
    if rollout.logprobs is not None and not rescores(run):
        return rollout.logprobs
    policy = run.actors.policy
    return map_batches(
        lambda part: logprobs(policy, part, s.temperature), rollout, s.micro_batch, s.micro_tokens, run.limit, PASSES
    )


def rescores(run: PPORun) -> bool:
    """Whether the sampler's log-probabilities differ from a pass's by more than float32's rounding."""
    return run.settings.engine != "own" or run.actors.placement.half


def evaluate(run: PPORun, iteration: int) -> None:
    """The run's evaluation of a checkpoint (from 1), which uses all models: those offloaded are on the device."""
    with on_device(run):
        run.evaluate(iteration)


def concurrent_passes(
    reward_model: NamedRewardModel,
    passes: Sequence[Pass],
    rollout: Rollout,
    size: int,
    tokens: int = 0,
    limit: MicroBatchLimit | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The rewards and the result of each of `passes`, [B, T] each, computed in two threads.

    The reward model, which may be a plugin, runs in the calling thread; the other thread begins with the passes, and
    the first joins it when the rewards are done.  `size`, `tokens` and `limit` are those of `map_batches`.
    """
    # Sorted by length, shortest first, and taken from the end: the longest batches cannot be left for one thread.
    rows = torch.arange(len(rollout.prompts), device=rollout.mask.device)
    parts = batches_by_length(rollout, rows, size, tokens)
    results = [torch.zeros_like(rollout.mask, dtype=torch.float32) for _ in passes]
    queue = BatchQueue([list(parts) for _ in passes])

    def work(check: Check) -> None:
        while (job := queue.take()) is not None:
            check()  # raises once the other thread has failed
            model, part = job
            # A batch again in `map_batches`, which divides it further where the memory is too small for it.
            found = map_batches(passes[model], rows_of(rollout, part), size, tokens, limit, PASSES)
            results[model][part, : found.shape[1]] = found
            queue.release(model)

    # Each row of a result is written by one thread alone, so the threads need no lock for the results.
    def score_then_work(check: Check) -> Tensor:
        rewards = reward_model.rewards(rollout)
        work(check)
        return rewards

    rewards, _ = run_concurrently(score_then_work, work)
    return rewards, results


class BatchQueue:
    """The micro-batches that each model has yet to read, for several threads.

    Taking a batch locks its model until it is released: a module is in one thread at a time.
    """

    def __init__(self, batches: list[list[Tensor]]) -> None:
        self._batches, self._locked, self._lock = batches, set[int](), Lock()

    def take(self) -> tuple[int, Tensor] | None:
        """(model, rows) of the unlocked model with most batches left, which keeps both threads busy longest.

        None when no unlocked model has any: the thread that holds a lock finishes that model's batches.
        """
        with self._lock:
            free = [i for i, batches in enumerate(self._batches) if batches and i not in self._locked]
            if not free:
                return None
            # Equal counts: the first model, in every run.  Which thread takes it changes no number.
            model = max(free, key=lambda i: len(self._batches[i]))
            self._locked.add(model)
            return model, self._batches[model].pop()

    def release(self, model: int) -> None:
        """Unlock a model whose batch has been read."""
        with self._lock:
            self._locked.discard(model)
