"""Speeds of a policy: measured on a loaded model, and computed from operations."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES

from rlhf_bench.harness.models.memory import config_of, sizes_of
from rlhf_bench.harness.models.placement import Placement
from rlhf_bench.harness.models.policies import load_causal, load_frozen, load_tokenizer
from rlhf_bench.harness.plan import policy_speeds
from rlhf_bench.harness.sampling.speeds import KNOWN_DEVICES, SHAPES, from_operations, speeds_of


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


@pytest.mark.parametrize(("dtype", "lengths"), [("float32", 1), ("bfloat16", SHAPES + 1)])
def test_a_pass_in_bfloat16_is_timed_on_lengths_it_has_not_seen(tmp_path: Path, dtype: str, lengths: int) -> None:
    folder, placement = FAMILIES["llama"](tmp_path), Placement(dtype=dtype)
    tokenizer = load_tokenizer(folder, "plain")
    model = load_causal(folder, tokenizer, "cpu")
    trained: list[int] = []

    def seen(_module: object, _given: tuple[object, ...], named: dict[str, Any], _result: object) -> None:
        if torch.is_grad_enabled():
            trained.append(named["input_ids"].numel())

    model.base_model.register_forward_hook(seen, with_kwargs=True)
    speeds_of(model, tokenizer, placement, 8, 4)
    assert len(set(trained)) == lengths
    assert set(Counter(trained).values()) == ({1} if dtype == "bfloat16" else {len(trained)})


def test_a_policy_is_tried_as_often_at_once_as_stages_run(tmp_path: Path) -> None:
    folder = FAMILIES["llama"](tmp_path)
    found = policy_speeds.measured(str(folder), Placement(), "cpu", 1, 8, 4, jobs=2)
    assert found.basis == "measured here, 2 side by side"
    assert min(found.read, found.trained, found.load) > 0


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
