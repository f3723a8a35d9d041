"""Two threads: policy and critic are updated concurrently, forward passes run concurrently, and no number changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_runs import SMALL, Table, assert_equal, make_policy, make_run, tensors
from torch import Tensor

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.placement import Placement, save_placement
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo.loop import collect, train
from rlhf_bench.harness.ppo.schedule import BatchQueue, concurrent_passes, forward_passes
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.ppo.update import update
from rlhf_bench.harness.sampling.rollout import logprobs


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(2)


def test_concurrent_passes_equal_passes_in_turn(policy: Path, tmp_path: Path) -> None:
    """A thread each does the same arithmetic as one thread does one after the other."""
    turn, once = (make_run(policy, tmp_path / name, table=torch.arange(258.0)) for name in ("turn", "once"))
    for iteration in range(2):
        with one_thread():
            first = collect(turn, iteration)
            losses = update(turn, first, iteration)
            second = collect(once, iteration)
        read = forward_passes(once, second.rollout)
        assert all(map(torch.equal, read, (second.rewards, second.reference, second.values)))
        assert update(once, second, iteration) == losses
        assert_equal(tensors(once.actors), tensors(turn.actors))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_repeats_to_the_bit(tmp_path: Path, dtype: str) -> None:
    """Which thread is faster does not matter: two undisturbed runs and an interrupted one are equal."""
    make_policy(tmp_path / "policy")
    save_placement(Placement(dtype=dtype), tmp_path / "policy")
    runs = [make_run(tmp_path / "policy", tmp_path / str(number)) for number in range(2)]
    rows = [train(run) for run in runs]
    assert rows[0] == rows[1]
    assert_equal(tensors(runs[0].actors), tensors(runs[1].actors))

    def cut(iteration: int, _: int) -> None:
        if iteration == 3:
            raise BenchError("A cut.")

    with pytest.raises(BenchError):
        train(make_run(tmp_path / "policy", tmp_path / "cut", progress=cut))
    resumed = make_run(tmp_path / "policy", tmp_path / "cut")
    assert train(resumed) == rows[0]
    assert_equal(tensors(resumed.actors), tensors(runs[0].actors))


def test_each_model_reads_every_row_once(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path)
    rollout = collect(run, 0).rollout
    read: list[str] = []

    def pass_of(model: Any) -> Callable[[Rollout], Tensor]:
        def forward(part: Rollout) -> Tensor:
            read.extend(part.responses)
            return logprobs(model, part)

        return forward

    with torch.no_grad():
        passes = [pass_of(run.actors.policy), pass_of(run.actors.reference)]
        rewards, (one, two) = concurrent_passes(run.reward_model, passes, rollout, 3)
        torch.testing.assert_close(one, logprobs(run.actors.policy, rollout), rtol=0, atol=1e-5)
    assert torch.equal(one, two)
    assert torch.equal(rewards, run.reward_model.rewards(rollout))
    assert sorted(read) == sorted(rollout.responses * 2)


def test_nothing_is_concurrent_where_weights_are_shared_or_memory_is_saved(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path)
    assert run.concurrent
    for placement in (Placement(lora=2), Placement(gradient_checkpointing=True), Placement(dtype="bfloat16")):
        assert not replace(run, actors=replace(run.actors, placement=placement)).concurrent
    assert not make_run(policy, tmp_path, replace(SMALL, critic="trunk")).concurrent
    assert not make_run(policy, tmp_path, replace(SMALL, offload=True)).concurrent


def test_a_models_error_comes_out_as_itself(policy: Path, tmp_path: Path) -> None:
    """In the passes of a rollout, and in an update."""
    run = make_run(policy, tmp_path)
    experience = collect(run, 0)

    def fail(*_: object, **__: object) -> None:
        raise OverflowError("too much")

    run.actors.critic.trunk.forward = fail
    with pytest.raises(OverflowError, match="too much"):
        collect(run, 0)
    with pytest.raises(OverflowError, match="too much"):
        update(run, experience, 0)


def test_a_reward_models_error_is_one_line(policy: Path, tmp_path: Path) -> None:
    table = NamedRewardModel("short", Table(torch.zeros(3)))
    with pytest.raises(BenchError, match="'short' failed while scoring: IndexError"):
        train(make_run(policy, tmp_path, reward_model=table))
    assert torch.get_num_threads() == 2


def test_taking_a_batch_locks_its_model_until_it_is_released() -> None:
    queue = BatchQueue([[torch.tensor([i]) for i in range(count)] for count in (1, 3)])
    first, second = queue.take(), queue.take()
    assert first is not None
    assert second is not None
    assert (first[0], second[0]) == (1, 0), "most left first"
    assert queue.take() is None
    queue.release(1)
    assert [job and job[0] for job in (queue.take(), queue.take())] == [1, None]
    queue.release(0)
    assert queue.take() is None, "no batch is left"
