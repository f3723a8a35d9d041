"""One PPO iteration against a second implementation: row by row and token by token, nothing packed or batched.

It shares with the package the models, the sampled responses and the order of minibatches, nothing of its arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_runs import SMALL, THIRDS, make_policy, make_run
from torch import Tensor

from rlhf_bench.harness.ppo.actors import Critic, make_actors
from rlhf_bench.harness.ppo.arithmetic import Standard
from rlhf_bench.harness.ppo.loop import collect
from rlhf_bench.harness.ppo.run import PPORun
from rlhf_bench.harness.ppo.update import update
from rlhf_bench.harness.sampling.rollout import make_generator
from rlhf_bench.harness.settings import PPOSettings

Line = list[float]
EPSILON = 1e-3
"""Adam's, for both.  With the usual 1e-8 its first steps have the size of the rate for any gradient, and those of
weights without a gradient (the bias of the keys) are rounding alone."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def row_logprobs(model: Any, prompt: list[int], response: list[int], temperature: float) -> Tensor:
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0] / temperature
    table = logits.log_softmax(-1)
    return torch.stack([table[len(prompt) - 1 + t, token] for t, token in enumerate(response)])


def row_values(critic: Critic, prompt: list[int], response: list[int]) -> Tensor:
    states = critic.trunk(input_ids=torch.tensor([prompt + response])).last_hidden_state[0]
    found = []
    for t in range(len(response)):
        state = states[len(prompt) - 1 + t]
        centred = state - state.mean()
        found.append(
            (critic.head.weight[0] * centred / (centred.square().mean() + 1e-5).sqrt()).sum() + critic.head.bias[0]
        )
    return torch.stack(found)


def advantages_of(rewards: Line, values: Line, gamma: float, lam: float) -> Line:
    n = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < n else 0.0) - values[t] for t in range(n)]
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(n - t)) for t in range(n)]


def clipped_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, largest: float) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    for gradient in gradients:
        gradient.mul_(min(1.0, largest / (norm + 1e-6)))
    optimizer.step()


def reference_iteration(run: PPORun, rollout: Any) -> dict[str, Tensor]:
    """The weights after one iteration on `rollout`, from those that the run's folder holds."""
    s = run.settings
    actors = make_actors(run.scratch.parent / "policy", "cpu", s.lr, s.critic_lr)
    model: Any = actors.policy
    critic: Any = actors.critic
    torch.nn.init.normal_(critic.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    rows = []
    for at in range(len(rollout.prompts)):
        prompt = rollout.prompt_ids[at][rollout.prompt_mask[at].bool()].tolist()
        rows.append((prompt, rollout.response_ids[at][rollout.mask[at]].tolist()))
    old, old_values, advantages, returns = [], [], [], []
    with torch.no_grad():
        for prompt, response in rows:
            logprobs = row_logprobs(model, prompt, response, s.temperature).tolist()
            reference = row_logprobs(actors.reference, prompt, response, s.temperature).tolist()
            values = row_values(critic, prompt, response).tolist()
            paid = [float(THIRDS[token]) for token in response]
            paid[-1] -= run.standard.offset
            shaped = [
                r / run.standard.scale - s.kl * (a - b) for r, a, b in zip(paid, logprobs, reference, strict=True)
            ]
            gained = advantages_of(shaped, values, s.gamma, s.lam)
            old.append(logprobs)
            old_values.append(values)
            advantages.append(gained)
            returns.append([a + v for a, v in zip(gained, values, strict=True)])
    every = [a for row in advantages for a in row]
    mean = math.fsum(every) / len(every)
    variance = math.fsum((a - mean) ** 2 for a in every) / (len(every) - 1)
    white = [[(a - mean) / math.sqrt(variance + 1e-8) for a in row] for row in advantages]
    generator = make_generator("update", run.seed, 0)
    # the responses to a prompt stay together
    groups = [torch.randperm(len(rows) // s.samples, generator=generator)[:, None] for _ in range(s.epochs)]
    orders = [(group * s.samples + torch.arange(s.samples)).flatten() for group in groups]
    optimizers = [
        torch.optim.Adam(trained.parameters(), rate, eps=EPSILON)
        for trained, rate in ((model, s.lr), (critic, s.critic_lr))
    ]
    for index in [part.tolist() for order in orders for part in order.chunk(s.minibatches)]:
        tokens = sum(len(rows[i][1]) for i in index)
        loss, value_loss = torch.zeros(()), torch.zeros(())
        for i in index:
            new, values = row_logprobs(model, *rows[i], s.temperature), row_values(critic, *rows[i])
            for t in range(len(rows[i][1])):
                ratio = (new[t] - old[i][t]).exp()
                kept = ratio.clamp(1 - s.clip, 1 + s.clip)
                loss = loss - torch.minimum(ratio * white[i][t], kept * white[i][t])
                near = old_values[i][t] + (values[t] - old_values[i][t]).clamp(-s.value_clip, s.value_clip)
                errors = (values[t] - returns[i][t]) ** 2, (near - returns[i][t]) ** 2
                value_loss = value_loss + 0.5 * torch.maximum(*errors)
        clipped_step(model, optimizers[0], loss / tokens, s.max_grad_norm)
        clipped_step(critic, optimizers[1], value_loss / tokens, s.max_grad_norm)
    return {
        **{f"policy {name}": p.detach() for name, p in model.named_parameters()},
        **{f"critic {name}": p.detach() for name, p in critic.named_parameters()},
    }


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        replace(SMALL, epochs=1, minibatches=4, clip=0.05, value_clip=0.01, max_grad_norm=0.05),
        replace(SMALL, gamma=0.9, lam=0.5, kl=1.0, temperature=0.7),
        replace(SMALL, samples=4),
    ],
    ids=["as in other tests", "everything is clipped", "discounted", "four responses to a prompt"],
)
def test_one_iteration_is_that_of_the_reference(policy: Path, tmp_path: Path, settings: PPOSettings) -> None:
    (tmp_path / "policy").symlink_to(policy)
    run = make_run(policy, tmp_path / "run", settings, standard=Standard(2.0, 1.5))
    critic: Any = run.actors.critic
    torch.nn.init.normal_(critic.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    for optimizer in (run.actors.policy_optimizer, run.actors.critic_optimizer):
        for group in optimizer.param_groups:
            group["eps"] = EPSILON
    experience = collect(run, 0)
    update(run, experience, 0)
    expected = reference_iteration(run, experience.rollout)
    found = {
        **{f"policy {name}": p.detach() for name, p in run.actors.policy.named_parameters()},
        **{f"critic {name}": p.detach() for name, p in critic.named_parameters()},
    }
    assert found.keys() == expected.keys()
    start = make_actors(policy, "cpu", 1.0, 1.0)
    moved = [float((found[f"policy {name}"] - p.detach()).abs().max()) for name, p in start.policy.named_parameters()]
    assert max(moved) > settings.lr / 2, "the iteration changed nothing"
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
