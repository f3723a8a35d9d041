"""The memory plan against sizes measured on a CPU: it must neither promise what does not fit nor refuse what does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import memory
from rlhf_bench.harness.models.lora import trainable_parameters
from rlhf_bench.harness.models.placement import Placement, save_placement
from rlhf_bench.harness.models.policies import load_causal, load_tokenizer, save_model
from rlhf_bench.harness.ppo.actors import make_actors
from rlhf_bench.harness.settings import PPOSettings

PROMPT, RESPONSE = 60, 20


@pytest.fixture(scope="module", params=["gpt2", "qwen2", "gemma", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = FAMILIES[request.param](tmp_path_factory.mktemp(request.param))
    tokenizer = load_tokenizer(made, "plain")
    save_model(load_causal(made, tokenizer, "cpu"), tokenizer, made)
    return made


def sizes(folder: Path, placement: Placement) -> memory.Sizes:
    return memory.sizes_of(memory.config_of(str(folder)), placement, PROMPT, RESPONSE)


def bytes_of(tensors: Any) -> int:
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


@pytest.mark.parametrize("placement", [Placement(), Placement(lora=4), Placement(lora=4, dtype="bfloat16")], ids=str)
def test_weights_gradients_and_moments_are_those_that_are_there(folder: Path, placement: Placement) -> None:
    if placement.lora:
        pytest.importorskip("peft", reason="the optional package peft is not installed")
    save_placement(placement, folder)
    actors = make_actors(folder, "cpu", 1e-3, 1e-3)
    models = (actors.policy, actors.reference, actors.critic)
    weights = bytes_of(p for model in models for p in model.parameters())
    trained = bytes_of(p for model in models for p in trainable_parameters(model))
    plan = memory.make_plan(sizes(folder, placement), placement, PPOSettings(), PROMPT, RESPONSE)
    planned = sum(need.bytes for need in plan.needs if need.role != "reward model")
    assert planned == pytest.approx(
        weights + 3 * trained, rel=0.02
    )  # a gradient and two moments; the value head is new


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_backward_needs_is_what_a_pass_keeps(folder: Path, checkpointing: bool) -> None:
    placement = Placement(gradient_checkpointing=checkpointing)
    save_placement(placement, folder)
    trunk = make_actors(folder, "cpu", 1e-3, 1e-3).policy.base_model
    weights = {p.untyped_storage().data_ptr() for p in trunk.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trunk(input_ids=torch.full((1, PROMPT + RESPONSE), 5), use_cache=False)
    measured = sum(s.nbytes() for s in kept.values())
    planned = sizes(folder, placement).kept
    assert 0.7 * planned < measured < 1.1 * planned


def test_the_cache_is_as_large_as_planned(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    model = load_causal(folder, tokenizer, "cpu")
    with torch.no_grad():
        cache = model(input_ids=torch.ones(3, 10, dtype=torch.long), use_cache=True).past_key_values
    measured = sum(bytes_of((layer.keys, layer.values)) for layer in cache.layers)
    assert measured == 3 * 10 * 4 * sizes(folder, Placement()).cached


def test_the_known_policies_have_the_parameters_they_are_named_after() -> None:
    counts = {name: memory.sizes_of(memory.config_of(name), Placement(), 8, 8).total for name in memory.KNOWN}
    assert counts["google/gemma-2b"] == 2_506_172_416  # as its model card counts
    assert counts["meta-llama/Llama-2-7b-hf"] == 6_738_415_616


@pytest.mark.parametrize("gibibytes", [1, 4, 16, 80])
def test_the_largest_micro_batch_fits_and_twice_it_does_not(gibibytes: int) -> None:
    needs = (memory.Need("policy", "weights", 2**30),)
    plan = memory.MemoryPlan(needs, row=2**28, sampled=2**20, flops=1.0)
    room, largest = memory.SPARE * gibibytes * 2**30, plan.largest_micro_batch(gibibytes * 2**30, 64)
    if largest:
        assert plan.peak(largest, 64) <= room
    assert largest == 64 or plan.peak(max(1, 2 * largest), 64) > room


def test_a_critic_that_learns_at_once_keeps_as_much_as_the_policy(folder: Path) -> None:
    found = sizes(folder, Placement())
    turn, once = (memory.make_plan(found, Placement(), PPOSettings(), PROMPT, RESPONSE, at) for at in (False, True))
    assert once.row - turn.row == found.kept > 0
    assert (once.fixed, once.sampled) == (turn.fixed, turn.sampled)


def test_more_work_takes_longer(folder: Path) -> None:
    found = sizes(folder, Placement())
    once, twice = (
        memory.make_plan(found, Placement(), replace(PPOSettings(), iterations=n), PROMPT, RESPONSE).flops
        for n in (5, 10)
    )
    assert twice == 2 * once > 0


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BenchError, match="configuration"):
        memory.config_of(str(tmp_path))
    with pytest.raises(BenchError, match="HF_HUB_OFFLINE"):
        memory.config_of("nobody/nothing")
