"""Two threads: policy and critic learn at once, rewards and the reference's passes too, and no number changes."""

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
from rlhf_bench.harness.models.placement import Holding, keep_holding
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo import loop
from rlhf_bench.harness.ppo.loop import collect, train, update
from rlhf_bench.harness.ppo.schedule import Left, ask
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
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


def test_at_once_is_in_turn(policy: Path, tmp_path: Path) -> None:
    """With a thread each it is the very arithmetic of one thread in turn."""
    turn, once = (make_run(policy, tmp_path / name, table=torch.arange(258.0)) for name in ("turn", "once"))
    for iteration in range(2):
        with one_thread():
            first = collect(turn, iteration)
            losses = update(turn, first, iteration)
            second = collect(once, iteration)
        read = loop._ask(once, second.rollout)
        assert all(map(torch.equal, read, (second.rewards, second.reference, second.values)))
        assert update(once, second, iteration) == losses
        assert_equal(tensors(once.actors), tensors(turn.actors))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_repeats_to_the_bit(tmp_path: Path, dtype: str) -> None:
    """Whoever was faster: undisturbed twice, and cut in the middle."""
    make_policy(tmp_path / "policy")
    keep_holding(Holding(dtype=dtype), tmp_path / "policy")
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


def test_a_reader_is_asked_of_every_row_once(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path)
    rollout = collect(run, 0).rollout
    asked: list[str] = []

    def reader_of(model: Any) -> Callable[[Rollout], Tensor]:
        def reader(part: Rollout) -> Tensor:
            asked.extend(part.responses)
            return logprobs(model, part)

        return reader

    with torch.no_grad():
        readers = [reader_of(run.actors.policy), reader_of(run.actors.reference)]
        rewards, (one, two) = ask(run.reward_model, readers, rollout, 3)
        torch.testing.assert_close(one, logprobs(run.actors.policy, rollout), rtol=0, atol=1e-5)
    assert torch.equal(one, two)
    assert torch.equal(rewards, run.reward_model.rewards(rollout))
    assert sorted(asked) == sorted(rollout.responses * 2)


def test_who_shares_or_saves_memory_takes_turns(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path)
    assert run.at_once
    for holding in (Holding(lora=2), Holding(gradient_checkpointing=True), Holding(dtype="bfloat16")):
        assert not replace(run, actors=replace(run.actors, holding=holding)).at_once
    assert not make_run(policy, tmp_path, replace(SMALL, critic="trunk")).at_once
    assert not make_run(policy, tmp_path, replace(SMALL, offload=True)).at_once


def test_a_models_error_comes_out_as_itself(policy: Path, tmp_path: Path) -> None:
    """Whoever meets it first: in the passes of a rollout, and in an update."""
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


def test_nobody_asks_a_reader_that_is_asked() -> None:
    left = Left([[torch.tensor([i]) for i in range(count)] for count in (1, 3)])
    first, second = left.take(), left.take()
    assert first is not None
    assert second is not None
    assert (first[0], second[0]) == (1, 0), "most left first"
    assert left.take() is None
    left.free(1)
    assert [job and job[0] for job in (left.take(), left.take())] == [1, None]
    left.free(0)
    assert left.take() is None, "nothing is left of it"
