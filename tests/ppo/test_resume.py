"""A PPO run that was interrupted ends as if nothing had happened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_runs import SMALL, Table, assert_equal, make_policy, make_run, tensors
from torch import Tensor

from rlhf_bench.harness import store
from rlhf_bench.harness.ppo.actors import load_state, make_actors, save_state
from rlhf_bench.harness.ppo.loop import train
from rlhf_bench.harness.ppo.run import checkpoints
from rlhf_bench.harness.ppo.scoring import NamedRewardModel


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def test_a_saved_state_is_restored_exactly(policy: Path, tmp_path: Path) -> None:
    trained = make_run(policy, tmp_path)
    train(trained)
    before = tensors(trained.actors)
    save_state(trained.actors, 3, tmp_path / "again.safetensors")
    fresh = make_actors(policy, "cpu", SMALL.lr, SMALL.critic_lr)
    assert load_state(fresh, tmp_path / "again.safetensors") == 3
    assert_equal(tensors(fresh), before)
    assert_equal(tensors(trained.actors), before)
    assert {name.rpartition(" ")[2] for name in before} >= {"exp_avg", "exp_avg_sq", "step"}
    assert fresh.policy.get_input_embeddings().weight is fresh.policy.get_output_embeddings().weight, "still tied"


class CutError(Exception):
    """An interruption."""


@pytest.fixture(scope="module")
def undisturbed(
    policy: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    run = make_run(policy, tmp_path_factory.mktemp("undisturbed"))
    return train(run), tensors(run.actors)


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
@pytest.mark.parametrize("during", ["progress", "evaluate"])
def test_an_interrupted_run_ends_as_the_undisturbed_one(
    policy: Path, tmp_path: Path, undisturbed: tuple[Any, Any], moment: int, during: str
) -> None:
    """Bitwise, wherever the cut falls: after a saved iteration, between two, in an evaluation."""

    def cut(iteration: int, _: int = 0) -> None:
        if iteration == moment:
            raise CutError

    evaluated: list[int] = []
    if during == "progress" or moment in checkpoints(SMALL):
        with pytest.raises(CutError):
            train(make_run(policy, tmp_path, **{during: cut}))
    resumed = make_run(policy, tmp_path, evaluate=evaluated.append)
    rows = train(resumed)
    assert rows == undisturbed[0]
    assert_equal(tensors(resumed.actors), undisturbed[1])
    saved = moment - moment % 2 if during == "progress" else moment - moment % 2 - 2 if moment % 2 == 0 else 0
    assert evaluated == [i for i in checkpoints(SMALL) if i > saved]


def test_rows_written_before_a_lost_state_are_made_again(
    policy: Path, tmp_path: Path, undisturbed: tuple[Any, Any]
) -> None:
    def cut(iteration: int, _: int) -> None:
        if iteration == 2:
            raise CutError

    with pytest.raises(CutError):
        train(make_run(policy, tmp_path, progress=cut))
    rows = store.read_rows(tmp_path / "steps.jsonl")
    store.write_rows(tmp_path / "steps.jsonl", [*rows, {"iteration": 3, "reward": 99.0}])
    assert train(make_run(policy, tmp_path)) == undisturbed[0]


def test_a_finished_run_is_not_trained_again(policy: Path, tmp_path: Path, undisturbed: tuple[Any, Any]) -> None:
    train(make_run(policy, tmp_path))
    again = make_run(policy, tmp_path, reward_model=NamedRewardModel("none", Table(torch.tensor([]))))
    assert train(again) == undisturbed[0]
    assert_equal(tensors(again.actors), undisturbed[1])


def test_a_shared_critic_is_resumed_exactly(policy: Path, tmp_path: Path) -> None:
    settings = replace(SMALL, critic="trunk")

    def cut(iteration: int, _: int) -> None:
        if iteration == 3:
            raise CutError

    calm = make_run(policy, tmp_path / "calm", settings)
    rows = train(calm)
    with pytest.raises(CutError):
        train(make_run(policy, tmp_path / "cut", settings, progress=cut))
    resumed = make_run(policy, tmp_path / "cut", settings)
    assert train(resumed) == rows
    assert_equal(tensors(resumed.actors), tensors(calm.actors))
