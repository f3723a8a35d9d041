"""Speeds of a policy: measured on a loaded model, and computed from operations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from families import FAMILIES

from rlhf_bench.harness.models.memory import config_of, sizes_of
from rlhf_bench.harness.models.placement import Placement
from rlhf_bench.harness.models.policies import load_causal, load_frozen, load_tokenizer
from rlhf_bench.harness.sampling.speeds import KNOWN_DEVICES, from_operations, speeds_of


@pytest.mark.parametrize("rank", [0, 2])
def test_a_model_is_timed_in_all_it_does(tmp_path: Path, rank: int) -> None:
    if rank:
        pytest.importorskip("peft", reason="the optional package peft is not installed")
    folder, placement = FAMILIES["llama"](tmp_path), Placement(lora=rank)
    tokenizer = load_tokenizer(folder, "plain")
    model = load_frozen(folder, tokenizer, "cpu", placement) if rank else load_causal(folder, tokenizer, "cpu")
    found = speeds_of(model, tokenizer, placement, 8, 4)
    assert set(found) == {"read", "trained", "step", "row"}
    assert min(found["read"], found["trained"]) > 0
    assert min(found.values()) >= 0
    # what was tried leaves nothing behind
    assert all(parameter.grad is None for parameter in model.parameters())


def test_operations_grow_with_what_is_done() -> None:
    config, device = config_of("meta-llama/Llama-2-7b-hf"), KNOWN_DEVICES["a100-80gb"]
    lora = Placement(lora=8, dtype="bfloat16")
    sizes = sizes_of(config, lora, 8, 8)
    found = from_operations(sizes, lora, device)
    # two operations for each weight and token, at 40% of the device's speed; logits at a quarter of the tokens
    layers = 6_738_415_616 - sizes.outside + 0.25 * 4096 * 32000
    assert found.read == pytest.approx(2 * layers / (0.4 * 312e12))
    assert found.trained == pytest.approx(2 * found.read)
    assert from_operations(sizes, Placement(dtype="bfloat16"), device).trained == pytest.approx(3 * found.read)
    again = replace(lora, gradient_checkpointing=True)
    assert from_operations(sizes, again, device).trained == pytest.approx(3 * found.read)
    # a step reads 13 GB at 2 TB/s, and takes as long at least as its launches on a GPU
    assert 6e-3 < from_operations(sizes, lora, replace(device, name="")).step < 7.5e-3
    assert found.step == 32 * 0.5e-3
