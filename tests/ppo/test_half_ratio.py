"""bfloat16: the log-probabilities that PPO's ratio starts from are those of the pass that it is computed with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from ppo_runs import EXAMPLES, SMALL, ignore

from rlhf_bench.harness.models.placement import Placement, save_placement
from rlhf_bench.harness.models.policies import load_causal, load_tokenizer, save_model
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo.actors import make_actors
from rlhf_bench.harness.ppo.arithmetic import Standard
from rlhf_bench.harness.ppo.log import describe
from rlhf_bench.harness.ppo.loop import collect
from rlhf_bench.harness.ppo.run import PPORun
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import batches_by_length, logprobs


class Odd:
    """1 for every token with an odd id."""

    def rewards(self, rollout: Rollout) -> torch.Tensor:
        return (rollout.response_ids % 2).float() * rollout.mask


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    source = FAMILIES["llama"](folder / "source")
    tokenizer = load_tokenizer(source, "plain")
    save_model(load_causal(source, tokenizer, "cpu"), tokenizer, folder / "sft")
    return folder / "sft"


def run_of(sft: Path, tmp_path: Path, placement: Placement) -> PPORun:
    if placement.lora:
        pytest.importorskip("peft", reason="the optional package peft is not installed")
    save_placement(placement, sft)
    actors = make_actors(sft, "cpu", 1e-3, 1e-3)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in actors.policy.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    reward = NamedRewardModel("odd", Odd(), batch=3)
    rest = (EXAMPLES, replace(SMALL, micro_batch=3), Standard(1.0), 24, 1, tmp_path, ignore, ignore)
    return PPORun(actors, reward, *rest)


@pytest.mark.parametrize("lora", [0, 4])
def test_the_first_ratio_is_one(sft: Path, tmp_path: Path, lora: int) -> None:
    run = run_of(sft, tmp_path, Placement(lora=lora, dtype="bfloat16"))
    experience = collect(run, 0)
    rollout, mask = experience.rollout, experience.rollout.mask
    assert rollout.logprobs is not None

    def ratio(old: torch.Tensor) -> float:
        """Mean distance from 1 over the first minibatch, in the passes of an update."""
        found = []
        for part in batches_by_length(rollout, torch.arange(0, len(mask), 2), 3):
            rows = experience.rows(part)
            # with gradients, as an update
            new = logprobs(run.actors.policy, rows.rollout, run.settings.temperature).detach()
            kept = old[part][:, : rows.rollout.mask.shape[1]]
            found.append(((new - kept).exp() - 1).abs()[rows.rollout.mask])
        return float(torch.cat(found).mean())

    assert ratio(experience.logprobs) < 1e-3
    row = describe(run, experience)
    gap = (experience.logprobs - rollout.logprobs)[mask].abs()
    assert row["engine_gap"] == pytest.approx(float(gap.mean()))
    assert row["engine_gap_max"] == pytest.approx(float(gap.max()))
    assert 0 < row["engine_gap"] < row["engine_gap_max"] < 0.5
    assert ratio(rollout.logprobs) > ratio(experience.logprobs)


@pytest.mark.parametrize("lora", [0, 4])
def test_in_float32_the_samplers_own_are_taken(sft: Path, tmp_path: Path, lora: int) -> None:
    run = run_of(sft, tmp_path, Placement(lora=lora))
    experience = collect(run, 0)
    assert experience.rollout.logprobs is not None
    assert torch.equal(experience.logprobs, experience.rollout.logprobs)
    assert not {"engine_gap", "engine_gap_max"} & describe(run, experience).keys()
    with torch.no_grad():
        again = logprobs(run.actors.policy, experience.rollout, run.settings.temperature)
    torch.testing.assert_close(again, experience.logprobs, atol=1e-4, rtol=0)
