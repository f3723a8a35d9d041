"""Small PPO runs for tests: a policy of a few thousand parameters, rewards from a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny import make_tokenizer, save
from torch import Tensor

from rlhf_bench.harness.models.tiny_policy import tiny_model
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.ppo.actors import Actors, make_actors
from rlhf_bench.harness.ppo.arithmetic import Standard
from rlhf_bench.harness.ppo.run import PPORun
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.settings import PPOSettings

SMALL = PPOSettings(
    iterations=4, rollouts=8, samples=1, epochs=2, minibatches=2, micro_batch=3,
    lr=3e-3, critic_lr=1e-2, kl=0.1, checkpoints=2, save_every=2, temperature=0.9,
)  # fmt: skip
EXAMPLES = [Example(str(i), f"Where {'on earth ' * (i % 3)}is {i}?") for i in range(5)]


class Table:
    """The reward of a token is looked up in a table [V]."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def rewards(self, rollout: Rollout) -> Tensor:
        return self.table[rollout.response_ids] * rollout.mask


THIRDS = torch.arange(258).remainder(3).float()


def make_policy(folder: Path) -> Path:
    """A fresh GPT-2 over bytes: its first distribution is nearly uniform."""
    tokenizer = make_tokenizer(258)
    return save(tiny_model(tokenizer, context=64, layers=1, width=16, heads=2, seed=0), tokenizer, folder).folder


def ignore(*_: object) -> None:
    """For a run that evaluates nothing and reports no progress."""


def make_run(
    policy: Path, scratch: Path, settings: PPOSettings = SMALL, table: Tensor = THIRDS, **others: Any
) -> PPORun:
    scratch.mkdir(exist_ok=True)
    run = PPORun(
        actors=make_actors(policy, "cpu", settings.lr, settings.critic_lr, shared=settings.critic == "trunk"),
        reward_model=NamedRewardModel("table", Table(table), batch=3),
        examples=EXAMPLES,
        settings=settings,
        standard=Standard(2.0),
        max_new=6,
        seed=7,
        scratch=scratch,
        evaluate=ignore,
        progress=ignore,
    )
    return replace(run, **others)


def tensors(actors: Actors) -> dict[str, Tensor]:
    """All weights and Adam's moments and step counts."""
    state = {}
    for part, module, optimizer in (
        ("policy", actors.policy, actors.policy_optimizer),
        ("critic", actors.critic, actors.critic_optimizer),
    ):
        for name, parameter in module.named_parameters():
            state[f"{part} {name}"] = parameter.detach().clone()
            for moment, value in optimizer.state[parameter].items():
                state[f"{part} {name} {moment}"] = value.clone()
    return state


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
