"""PPO finds optima that are known: the rewarded token, a late reward, the tilted reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_runs import THIRDS, Table, make_policy, make_run
from torch import Tensor

from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.ppo.arithmetic import Standard
from rlhf_bench.harness.ppo.loop import collect, train
from rlhf_bench.harness.ppo.run import PPORun
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import encode_prompts
from rlhf_bench.harness.seams import RewardModel
from rlhf_bench.harness.settings import PPOSettings
from rlhf_bench.reward_models.extraction import on_last_token


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def distribution(model: Any, tokenizer: Any) -> Tensor:
    """log pi(. | the only prompt) [V]."""
    with torch.no_grad():
        return model(input_ids=torch.tensor(encode_prompts(tokenizer, ["?"]))).logits[0, -1].double().log_softmax(-1)


def trained_on(policy: Path, scratch: Path, model: RewardModel, max_new: int, **settings: Any) -> PPORun:
    given = PPOSettings(minibatches=4, micro_batch=1024, critic_lr=1e-2, value_clip=10.0, checkpoints=1, **settings)
    scorer = NamedRewardModel("toy", model)
    run = make_run(
        policy, scratch, given, reward_model=scorer, examples=[Example("0", "?")], standard=Standard(), max_new=max_new
    )
    train(run)
    return run


@pytest.mark.training
@pytest.mark.parametrize(("max_new", "whiten"), [(1, False), (4, True)])
def test_without_kl_it_learns_the_rewarded_token(policy: Path, tmp_path: Path, max_new: int, whiten: bool) -> None:
    table = torch.zeros(258)
    table[70] = 1.0
    run = trained_on(
        policy, tmp_path, Table(table), max_new, iterations=25, rollouts=128, lr=1e-2, kl=0.0, whiten=whiten
    )
    actors = run.actors
    assert distribution(actors.reference, actors.tokenizer)[70].exp() < 0.01
    assert distribution(actors.policy, actors.tokenizer)[70].exp() > 0.9
    assert float(collect(run, 99).rewards.mean()) > 0.9


class FirstToken:
    """1 on the last token of a response whose first token is a multiple of 3."""

    def rewards(self, rollout: Rollout) -> Tensor:
        return on_last_token((rollout.response_ids[:, 0] % 3 == 0).float(), rollout.mask)


@pytest.mark.training
def test_a_late_reward_reaches_the_token_that_earned_it(policy: Path, tmp_path: Path) -> None:
    run = trained_on(policy, tmp_path, FirstToken(), 3, iterations=20, rollouts=128, lr=1e-2, kl=0.0)
    learnt = distribution(run.actors.policy, run.actors.tokenizer).exp()
    assert float(learnt[THIRDS == 0].sum()) > 0.9


@pytest.mark.training
def test_with_a_critic_on_the_policys_trunk_it_learns_the_rewarded_token(policy: Path, tmp_path: Path) -> None:
    table = torch.zeros(258)
    table[70] = 1.0
    run = trained_on(policy, tmp_path, Table(table), 2, iterations=25, rollouts=128, lr=1e-2, kl=0.0, critic="trunk")
    assert distribution(run.actors.policy, run.actors.tokenizer)[70].exp() > 0.9
    assert [name for name, _ in run.actors.critic.named_parameters()] == ["head.weight", "head.bias"]


@pytest.mark.training
def test_with_kl_it_finds_the_tilted_reference(policy: Path, tmp_path: Path) -> None:
    """One token to choose: the optimum of E[r] - beta KL(pi || ref) is pi = ref exp(r / beta) / Z."""
    beta = 0.8
    run = trained_on(policy, tmp_path, Table(THIRDS), 1, iterations=25, rollouts=512, lr=2e-2, kl=beta, whiten=False)
    learnt, reference = (distribution(m, run.actors.tokenizer) for m in (run.actors.policy, run.actors.reference))
    optimum = (reference + THIRDS / beta).log_softmax(-1)

    def shares(logs: Tensor) -> list[float]:
        return [float(logs.exp()[kind == THIRDS].sum()) for kind in range(3)]

    def divergence(one: Tensor, two: Tensor) -> float:
        return float((one.exp() * (one - two)).sum())

    assert shares(learnt) == pytest.approx(shares(optimum), abs=0.03)
    assert divergence(learnt, optimum) < 0.1 * divergence(reference, optimum)
