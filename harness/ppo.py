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

from rlhf_bench.harness import ppo_math, store
from rlhf_bench.harness.actors import Actors, TrunkCritic, load_state, save_state
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.fit import Fit
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.passes import logits_and_hidden, pack, token_logprobs
from rlhf_bench.harness.resting import Movable, awake, rest, sleepers
from rlhf_bench.harness.rollout import batches_by_length, logprobs, make_generator, map_batches, rows_of, sample
from rlhf_bench.harness.scoring import NamedRewardModel
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
    fit: Fit = field(default_factory=Fit)


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
    rollout = sample(
        actors.policy,
        actors.tokenizer,
        prompts_of(run, iteration),
        run.max_new,
        generator=generator,
        temperature=s.temperature,
    )
    with _awake(run, run.reward_model.model):
        rewards = run.reward_model.rewards(rollout)
    assert rollout.logprobs is not None
    old = rollout.logprobs  # of the policy as it sampled: another pass would only add rounding
    sizes = (s.micro_batch, s.micro_tokens, run.fit)
    with _awake(run, actors.reference):
        reference = map_batches(lambda part: logprobs(actors.reference, part, s.temperature), rollout, *sizes)
    values = map_batches(actors.critic, rollout, *sizes)
    shaped = ppo_math.kl_reward(rewards / run.scale, old, reference, rollout.mask, s.kl)
    advantages = ppo_math.gae(shaped, values, rollout.mask, s.gamma, s.lam)
    returns = (advantages + values) * rollout.mask
    if s.whiten:
        advantages = ppo_math.whiten(advantages, rollout.mask)
    return Experience(rollout, rewards, old, reference, values, advantages, returns)


def _sleepers(run: PPORun) -> list[Movable]:
    """Who rests while nobody asks: nobody unless `ppo.offload`."""
    return sleepers(run.actors, run.reward_model.model) if run.settings.offload else []


def _awake(run: PPORun, *models: Any) -> AbstractContextManager[None]:
    """Inside, those of the models that may rest are where the policy is."""
    asked = [one for one in _sleepers(run) if any(one is model for model in models)]
    return awake(asked, str(run.actors.policy.device))


def update(run: PPORun, experience: Experience, iteration: int) -> dict[str, float]:
    """`epochs` passes of `minibatches` optimiser steps each; returns mean losses, clip share and gradient norms."""
    s = run.settings
    generator = make_generator("update", run.seed, iteration)
    totals: dict[str, float] = {}
    steps = 0
    for _ in range(s.epochs):
        order = torch.randperm(len(experience.rollout.prompts), generator=generator)
        for index in order.to(experience.rollout.mask.device).chunk(s.minibatches):
            for name, value in _step(run, experience, index).items():
                totals[name] = totals.get(name, 0.0) + value
            steps += 1
    return {name: value / steps for name, value in totals.items()}


def _step(run: PPORun, experience: Experience, index: Tensor) -> dict[str, float]:
    """One optimiser step of policy and critic on the rows `index`."""
    s, actors = run.settings, run.actors
    sums = run.fit.attempt(lambda rows: _accumulate(run, experience, index, rows), s.micro_batch)
    norms = [
        float(_descend(module, optimizer, s.max_grad_norm))
        for module, optimizer in (
            (actors.policy, actors.policy_optimizer),
            (actors.critic, actors.critic_optimizer),
        )
    ]
    names = ("policy_loss", "value_loss", "clip_share", "policy_norm", "value_norm")
    return dict(zip(names, [*sums.tolist(), *norms], strict=True))


def _accumulate(run: PPORun, experience: Experience, index: Tensor, rows: int) -> Tensor:
    """Gradients of the rows `index`, in micro-batches of at most `rows`, adding up exactly; means over their tokens of
    policy loss, value loss and clipped tokens [3]."""
    s, actors = run.settings, run.actors
    for optimizer in (actors.policy_optimizer, actors.critic_optimizer):
        optimizer.zero_grad()  # an attempt that ran out of memory has left some
    tokens = experience.rollout.mask[index].sum()
    sums = torch.zeros(3, device=index.device)
    for part in batches_by_length(experience.rollout, index, rows, s.micro_tokens):
        sums += _backward(run, experience, part, tokens)
    return sums / tokens


def _backward(run: PPORun, experience: Experience, part: Tensor, tokens: Tensor) -> Tensor:
    """Adds the gradients of one micro-batch, divided by `tokens`; returns the undivided sums [3]."""
    s, actors = run.settings, run.actors
    rollout = rows_of(experience.rollout, part)
    width = rollout.mask.shape[1]
    old, values, advantages, returns = (
        tensor[part][:, :width]
        for tensor in (experience.logprobs, experience.values, experience.advantages, experience.returns)
    )
    logits, hidden = logits_and_hidden(actors.policy, pack(rollout, actors.policy))
    new = token_logprobs(logits, rollout, s.temperature)
    policy, clipped = ppo_math.policy_loss(new, old, advantages, rollout.mask, s.clip)
    if isinstance(actors.critic, TrunkCritic):
        value = ppo_math.value_loss(actors.critic.values(hidden, rollout), values, returns, rollout.mask, s.value_clip)
        ((policy + s.value_weight * value) / tokens).backward()  # type: ignore[no-untyped-call]
    else:
        (policy / tokens).backward()  # type: ignore[no-untyped-call]
        del logits, hidden, new  # the critic's pass needs their room
        value = ppo_math.value_loss(actors.critic(rollout), values, returns, rollout.mask, s.value_clip)
        (value / tokens).backward()  # type: ignore[no-untyped-call]
    return torch.stack([policy.detach(), value.detach(), clipped.float()])


def _descend(module: Any, optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    optimizer.step()
    optimizer.zero_grad()
    return norm


def describe(run: PPORun, experience: Experience) -> dict[str, float]:
    """What happened in the rollouts: means over responses, `kl` in nats per response, rewards unscaled.

    `read_tokens` counts all prompts' and responses' tokens.
    """
    rollout = experience.rollout
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
        "explained_variance": ppo_math.explained_variance(experience.values, experience.returns, rollout.mask),
    }


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
