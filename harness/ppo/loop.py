"""PPO, one runner for every reward model: sample, reward, advantage, update, log.

Which kind of reward a model gives is nobody's business here: rewards are per token, a sequence score sits on the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward.threads import Check, both
from rlhf_bench.harness.models.micro_batch import Fit
from rlhf_bench.harness.models.placement import separate
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.ppo import arithmetic
from rlhf_bench.harness.ppo.actors import Actors, load_state, save_state
from rlhf_bench.harness.ppo.offload import Movable, awake, rest, sleepers
from rlhf_bench.harness.ppo.schedule import ask
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.ppo.update import update
from rlhf_bench.harness.sampling.engines import Sampler
from rlhf_bench.harness.sampling.rollout import logprobs, make_generator, map_batches, rows_of, sample
from rlhf_bench.harness.settings import PPOSettings


@dataclass(frozen=True)
class PPORun:
    """Everything one run is made of.

    `scale` divides the rewards; `evaluate(iteration)` is called at checkpoints, `log(row)` after every iteration.
    """

    actors: Actors
    reward_model: NamedRewardModel
    examples: Sequence[Example]
    settings: PPOSettings
    scale: float
    max_new: int
    seed: int
    scratch: Path
    evaluate: Callable[[int], None]
    progress: Callable[[int, int], None]
    log: Callable[[Mapping[str, float]], None] = lambda _: None
    sampler: Sampler = sample
    fit: Fit = field(default_factory=Fit)

    @property
    def at_once(self) -> bool:
        """Whether models may compute at once."""
        return separate(self.actors.holding, self.settings, self.actors.policy.device.type)


class Experience(NamedTuple):
    """One iteration's data: a rollout and [B, T] tensors, 0 outside its mask."""

    rollout: Rollout
    rewards: Tensor  # the reward model's, unscaled
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def checkpoints(settings: PPOSettings) -> list[int]:
    """Iterations after which the policy is evaluated: evenly spread, the last included, fixed beforehand."""
    count = min(settings.checkpoints, settings.iterations)
    return [round(settings.iterations * (i + 1) / count) for i in range(count)]


def train(run: PPORun) -> list[dict[str, float]]:
    """All iterations, going on from the state in `run.scratch` when there is one; returns one row per iteration."""
    done, rows = _resume(run)
    stops = set(checkpoints(run.settings))
    rest(_sleepers(run))
    for iteration in range(done, run.settings.iterations):
        experience = collect(run, iteration)
        losses = update(run, experience, iteration)
        rows.append({"iteration": iteration + 1, **describe(run, experience), **losses})
        if run.fit.rows:
            rows[-1]["micro_batch"] = run.fit.rows
        _check_finite(run, rows[-1])
        run.log(rows[-1])
        if iteration + 1 in stops:
            _check_policy(run, experience, rows[-1])
            with _awake(run, *_sleepers(run)):
                run.evaluate(iteration + 1)
        if (iteration + 1) % run.settings.save_every == 0 or iteration + 1 in stops:
            store.write_rows(run.scratch / "steps.jsonl", rows)
            save_state(run.actors, iteration + 1, run.scratch / "state.safetensors")
        run.progress(iteration + 1, run.settings.iterations)
    return rows


def _resume(run: PPORun) -> tuple[int, list[dict[str, float]]]:
    path = run.scratch / "state.safetensors"
    if not path.exists():
        return 0, []
    done = load_state(run.actors, path)
    return done, store.read_rows(run.scratch / "steps.jsonl")[:done]  # rows are written first: there may be more


def prompts_of(run: PPORun, iteration: int) -> list[str]:
    """The iteration's prompts: each epoch a fresh order of all of them, a pure function of the seed."""
    count, total = run.settings.rollouts, len(run.examples)
    chosen = []
    for position in range(iteration * count, (iteration + 1) * count):
        epoch, place = divmod(position, total)
        chosen.append(run.examples[_order(run.seed, epoch, total)[place]].prompt)
    return chosen


def _order(seed: int, epoch: int, total: int) -> list[int]:
    order: list[int] = torch.randperm(total, generator=make_generator("prompts", seed, epoch)).tolist()
    return order


@torch.no_grad()
def collect(run: PPORun, iteration: int) -> Experience:
    """Sample responses and compute rewards, log-probabilities, values and advantages."""
    s, actors = run.settings, run.actors
    generator = make_generator("rollout", run.seed, iteration)
    rollout = run.sampler(
        actors.policy,
        actors.tokenizer,
        prompts_of(run, iteration),
        run.max_new,
        generator=generator,
        temperature=s.temperature,
    )
    rewards, reference, values = _ask(run, rollout)
    old = rollout.logprobs  # of the policy as it sampled: another pass would only add rounding
    if old is None or s.engine != "own":  # another engine's are of other kernels: the first ratio would not be 1
        sizes = (s.micro_batch, s.micro_tokens, run.fit)
        old = map_batches(lambda part: logprobs(actors.policy, part, s.temperature), rollout, *sizes)
    shaped = arithmetic.kl_reward(rewards / run.scale, old, reference, rollout.mask, s.kl)
    advantages = arithmetic.gae(shaped, values, rollout.mask, s.gamma, s.lam)
    returns = (advantages + values) * rollout.mask
    if s.whiten:
        advantages = arithmetic.whiten(advantages, rollout.mask)
    return Experience(rollout, rewards, old, reference, values, advantages, returns)


def _ask(run: PPORun, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, the reference's log-probabilities and values of a rollout, [B, T] each."""
    s, actors = run.settings, run.actors
    sizes = (s.micro_batch, s.micro_tokens, run.fit)

    def reference(part: Rollout) -> Tensor:
        return logprobs(actors.reference, part, s.temperature)

    if run.at_once:
        rewards, (found, values) = ask(run.reward_model, [reference, actors.critic], rollout, *sizes)
        return rewards, found, values

    def reward(_: Check) -> Tensor:
        with _awake(run, run.reward_model.model):
            return run.reward_model.rewards(rollout)

    def others(_: Check) -> tuple[Tensor, Tensor]:
        with _awake(run, actors.reference):
            found = map_batches(reference, rollout, *sizes)
        return found, map_batches(actors.critic, rollout, *sizes)

    # who shares weights, or autocast's cache of casts, is asked in one thread; the reward model shares nothing
    apart = run.actors.policy.device.type == "cpu" and not s.offload
    rewards, (found, values) = both(reward, others, at_once=apart)
    return rewards, found, values


def _sleepers(run: PPORun) -> list[Movable]:
    """Who rests while nobody asks: nobody unless `ppo.offload`."""
    return sleepers(run.actors, run.reward_model.model) if run.settings.offload else []


def _awake(run: PPORun, *models: Any) -> AbstractContextManager[None]:
    """Inside, those of the models that may rest are where the policy is."""
    asked = [one for one in _sleepers(run) if any(one is model for model in models)]
    return awake(asked, str(run.actors.policy.device))


def describe(run: PPORun, experience: Experience) -> dict[str, float]:
    """What happened in the rollouts: means over responses, `kl` in nats per response, rewards unscaled.

    `read_tokens` counts all prompts' and responses' tokens; `engine_gap` is there for another engine than our own.
    """
    rollout = experience.rollout
    apart = {} if run.settings.engine == "own" else {"engine_gap": _engine_gap(experience)}
    lengths = (rollout.mask.sum(1) - rollout.finished.long()).float()  # without end-of-sequence
    return {
        "reward": float(experience.rewards.sum(1).mean()),
        "reward_scaled": float(experience.rewards.sum(1).mean() / run.scale),
        "kl": float((experience.logprobs - experience.reference).sum(1).mean()),
        "entropy_estimate": float(-experience.logprobs.sum() / rollout.mask.sum()),
        "tokens": float(lengths.mean()),
        "read_tokens": float(rollout.prompt_mask.sum() + rollout.mask.sum()),
        "empty_share": sum(not text.strip() for text in rollout.responses) / len(rollout.responses),
        "truncated_share": float((~rollout.finished).float().mean()),
        "explained_variance": arithmetic.explained_variance(experience.values, experience.returns, rollout.mask),
        **apart,
    }


def _engine_gap(experience: Experience) -> float:
    """Mean distance per token of another engine's log-probabilities from our own pass, in nats."""
    rollout = experience.rollout
    assert rollout.logprobs is not None
    return float((experience.logprobs - rollout.logprobs)[rollout.mask].abs().mean())


def _check_finite(run: PPORun, row: dict[str, float]) -> None:
    bad = [name for name, value in row.items() if value != value or abs(value) == float("inf")]
    if bad:
        raise BenchError(
            f"PPO diverged at iteration {row['iteration']}: {', '.join(bad)} not finite "
            f"(reward model {run.reward_model.name!r}, seed {run.seed}).",
            "Lower ppo.lr or ppo.critic_lr.",
        )


def _check_policy(run: PPORun, experience: Experience, row: dict[str, float]) -> None:
    """The losses above are of the policy before its last update; an evaluation is of the one after it."""
    part = rows_of(experience.rollout, torch.arange(1, device=experience.rollout.mask.device))
    with torch.no_grad():
        _check_finite(run, {"iteration": row["iteration"], "logprobs": float(logprobs(run.actors.policy, part).sum())})
