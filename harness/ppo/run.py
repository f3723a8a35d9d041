"""What one PPO run consists of, the data of one iteration, and the state an interrupted run continues from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rlhf_bench.harness import store
from rlhf_bench.harness.models.micro_batch import MicroBatchLimit
from rlhf_bench.harness.models.placement import can_run_concurrently
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.ppo.actors import Actors, load_state, save_state
from rlhf_bench.harness.ppo.arithmetic import Standard
from rlhf_bench.harness.ppo.offload import offload, offloaded
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.engines import Sampler
from rlhf_bench.harness.sampling.rollout import make_generator, rows_of, sample

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import PPOSettings

StepRow = dict[str, float]
"""The figures of one iteration, as they are logged and stored."""


@dataclass(frozen=True)
class PPORun:
    """The models, prompts and settings of one run, and the functions it calls.

    `sampler` draws the rollouts (`ppo.engine`).  `limit` is shared by all passes of policy, reference and critic: the
    most rows that the device's memory has been found to hold.
    """

    actors: Actors
    reward_model: NamedRewardModel
    examples: Sequence[Example]  # the prompts that PPO optimises on
    settings: PPOSettings
    standard: Standard  # puts the rewards on the common scale
    max_new: int  # tokens of the longest response
    seed: int
    scratch: Path  # holds the state of an interrupted run
    evaluate: Callable[[int], None]  # called with the iteration at checkpoints
    progress: Callable[[int, int], None]  # called with (done, total) after every iteration
    log: Callable[[Mapping[str, float]], None] = lambda _: None  # called with every iteration's figures
    sampler: Sampler = sample
    limit: MicroBatchLimit = field(default_factory=MicroBatchLimit)

    @property
    def concurrent(self) -> bool:
        """Whether forward passes, and the updates of policy and critic, may run in two threads.

        Settings and device decide, never time: the same run gives the same numbers.
        """
        return can_run_concurrently(self.actors.placement, self.settings, self.actors.policy.device.type)


class Experience(NamedTuple):
    """The data of one iteration: a rollout, and tensors [B, T] that are 0 outside its mask."""

    rollout: Rollout
    rewards: Tensor  # the reward model's, unscaled
    logprobs: Tensor  # of the policy that sampled, in nats
    reference: Tensor  # log-probabilities of the frozen SFT policy, in nats
    values: Tensor
    advantages: Tensor
    returns: Tensor
    kl: float = 0.0  # coefficient of the KL penalty

    def rows(self, index: Tensor) -> Experience:
        """The rows `index` [b] as an Experience of their own, columns trimmed to their longest response."""
        rollout = rows_of(self.rollout, index)
        width = rollout.mask.shape[1]

        def part(table: Tensor) -> Tensor:
            return table[index][:, :width]

        return Experience(
            rollout,
            part(self.rewards),
            part(self.logprobs),
            part(self.reference),
            part(self.values),
            part(self.advantages),
            part(self.returns),
            self.kl,
        )


def checkpoints(settings: PPOSettings) -> list[int]:
    """Iterations after which the policy is evaluated: evenly spread, the last included, fixed before training.

    Rising, counted from 1: `ppo.checkpoints` of them, or every one where there are fewer iterations.
    """
    count = min(settings.checkpoints, settings.iterations)  # no iteration is evaluated twice
    return [round(settings.iterations * (i + 1) / count) for i in range(count)]


def prompts_of(run: PPORun, iteration: int) -> list[str]:
    """The prompts of an iteration: a window of a stream in which every epoch is a new permutation of all prompts.

    Each stands `ppo.samples` times in a row.  A function of the seed and the iteration alone, so a resumed run sees the
    same prompts.
    """
    samples, total = run.settings.samples, len(run.examples)
    count = run.settings.rollouts // samples
    stream = range(iteration * count, (iteration + 1) * count)
    orders: dict[int, list[int]] = {
        epoch: torch.randperm(total, generator=make_generator("prompts", run.seed, epoch)).tolist()
        for epoch in {position // total for position in stream}
    }
    drawn = [run.examples[orders[position // total][position % total]].prompt for position in stream]
    return [prompt for prompt in drawn for _ in range(samples)]


def start(run: PPORun) -> tuple[int, list[StepRow]]:
    """The number of iterations done and their figures: 0 and none, or those of an interrupted run.

    Restores the state that `save` left in `run.scratch`, and offloads idle models under `ppo.offload`.
    """
    path, done, rows = run.scratch / "state.safetensors", 0, list[StepRow]()
    if path.exists():
        done = load_state(run.actors, path)
        rows = store.read_rows(run.scratch / "steps.jsonl")[:done]  # written before the state: there may be more
    offload(offloaded(run))
    return done, rows


def save(run: PPORun, iteration: int, rows: Sequence[StepRow]) -> None:
    """Write the state after `iteration` iterations, and their figures, to `run.scratch`; `start` reads both.

    A run that is killed at any moment keeps a state whose figures are stored too.
    """
    # Figures first: a run that is killed between the two writes has figures too many, which `start` leaves out, and
    # never a state without figures.
    store.write_rows(run.scratch / "steps.jsonl", rows)
    save_state(run.actors, iteration, run.scratch / "state.safetensors")
