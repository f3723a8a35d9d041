"""How many rows go through a model at once changes no number: by rows, by tokens, by what the memory holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ppo_runs import SMALL, make_policy, make_run, tensors
from torch import Tensor

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo.actors import Critic
from rlhf_bench.harness.ppo.loop import collect, train
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.ppo.update import update


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize("critic", ["own", "trunk"])
def test_token_budgets_do_not_matter(policy: Path, tmp_path: Path, critic: str) -> None:
    settings = replace(SMALL, critic=critic)
    whole, parts = (
        train(make_run(policy, tmp_path / str(tokens), replace(settings, micro_batch=64, micro_tokens=tokens)))
        for tokens in (0, 90)
    )
    for one, two in zip(whole, parts, strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-4)


class Narrow(Critic):
    """A critic for whose passes the memory ends at two rows."""

    def forward(self, rollout: Rollout) -> Tensor:
        if len(rollout.prompts) > 2:
            raise torch.OutOfMemoryError("a fake")
        return super().forward(rollout)


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The critic's pass comes after the policy's backward: gradients of a failed attempt must not count twice."""
    settings = replace(SMALL, micro_batch=8, minibatches=1, iterations=2)
    calm, narrow = (make_run(policy, tmp_path / name, settings) for name in ("calm", "narrow"))
    experience = collect(narrow, 0)
    narrow.actors.critic.__class__ = Narrow
    expected = update(calm, collect(calm, 0), 0)
    assert update(narrow, experience, 0) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    for name, value in tensors(calm.actors).items():
        torch.testing.assert_close(tensors(narrow.actors)[name], value, rtol=1e-3, atol=1e-4)
    assert narrow.limit.rows == 2
    assert [row["micro_batch"] for row in train(narrow)] == [2, 2]
    said = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert said == [
        "Out of memory with 8 rows at once: going on with 4.",
        "Out of memory with 4 rows at once: going on with 2.",
    ], "said once, and never tried again"


class Huge:
    """A reward model that does not fit with a single row."""

    def rewards(self, rollout: Rollout) -> Tensor:
        raise torch.OutOfMemoryError(f"a fake, for {len(rollout.prompts)} rows")


def test_one_row_that_does_not_fit_is_an_error(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path, reward_model=NamedRewardModel("huge", Huge(), batch=2))
    with pytest.raises(BenchError, match=r"Out of memory.* single row") as caught:
        collect(run, 0)
    assert "data.max_prompt_tokens" in caught.value.fix
