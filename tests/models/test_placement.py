"""Precision and gradient checkpointing: what is computed in bfloat16, what stays float32, and that it is so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from tiny import by_hand

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import placement
from rlhf_bench.harness.models.placement import (
    Placement,
    apply_placement,
    choose_placement,
    read_placement,
    save_placement,
)
from rlhf_bench.harness.models.policies import load_causal, load_frozen, load_sampler, load_tokenizer, save_model
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo.actors import make_actors
from rlhf_bench.harness.sampling.rollout import logprobs, make_generator, sample

HALF = Placement(dtype="bfloat16")


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = FAMILIES[request.param](tmp_path_factory.mktemp(request.param))
    tokenizer = load_tokenizer(made, "plain")
    save_model(load_causal(made, tokenizer, "cpu"), tokenizer, made)
    return made


def rollout_of(tokenizer: Any) -> Rollout:
    return by_hand(tokenizer, [[5, 6, 7, 8, 9], [10, 11]], [[12, 13, 14], [15, 16, 17, 18]])


def test_bfloat16_gives_float32_logits_near_the_exact_ones(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    exact, half = (apply_placement(load_causal(folder, tokenizer, "cpu"), h) for h in (Placement(), HALF))
    rollout = rollout_of(tokenizer)
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], 1)
    with torch.no_grad():
        assert half(input_ids=ids).logits.dtype == torch.float32
        difference = (logprobs(exact, rollout) - logprobs(half, rollout)).abs().max()
    assert 0 < difference < 0.05
    assert {p.dtype for p in half.parameters()} == {torch.float32}, "weights that are trained"


def test_a_frozen_base_is_kept_in_bfloat16_and_stored_without_loss(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder)
    model = apply_placement(load_frozen(folder, tokenizer, "cpu", HALF), HALF)
    assert model.get_output_embeddings().weight.dtype == torch.float32
    assert model.get_input_embeddings().weight.dtype == torch.float32
    dtypes = {
        name: p.dtype for name, p in model.base_model.named_parameters() if "bias" not in name and "norm" not in name
    }
    layers = {
        dtype for name, dtype in dtypes.items() if name.partition(".")[0] in ("h", "layers") and ".ln_" not in name
    }
    assert layers == {torch.bfloat16}
    rollout = rollout_of(tokenizer)
    with torch.no_grad():
        before = logprobs(model, rollout)
        save_model(model, tokenizer, tmp_path)
        after = logprobs(apply_placement(load_frozen(tmp_path, tokenizer, "cpu", HALF), HALF), rollout)
    assert torch.equal(before, after)


def saved_bytes(model: Any, rollout: Rollout) -> tuple[int, list[torch.Tensor]]:
    """Bytes that a forward pass keeps for backward, and the gradients."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = logprobs(model, rollout).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return sum(kept.values()), [p.grad for p in model.parameters() if p.grad is not None]


def test_gradient_checkpointing_keeps_less_and_changes_no_gradient(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    plain = apply_placement(load_causal(folder, tokenizer, "cpu"), Placement())
    checkpointed = apply_placement(load_causal(folder, tokenizer, "cpu"), Placement(gradient_checkpointing=True))
    rollout = by_hand(tokenizer, [[5, 6, 7] * 20] * 4, [[12, 13, 14] * 5] * 4)
    (most, wanted), (least, found) = saved_bytes(plain, rollout), saved_bytes(checkpointed, rollout)
    assert least < 0.8 * most
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("lora", [0, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_policy_with_a_placement_samples_as_a_loaded_one(folder: Path, lora: int, dtype: str) -> None:
    """Checkpointing must not take away the cache; under bfloat16 what was sampled has the same odds again."""
    if lora:
        pytest.importorskip("peft", reason="the optional package peft is not installed")
    save_placement(Placement(lora=lora, dtype=dtype, gradient_checkpointing=True), folder)
    actors = make_actors(folder, "cpu", 1e-3, 1e-3)
    sampler, tokenizer = load_sampler(folder, "cpu")
    prompts = ["Where?", "When do they meet?"]
    one, two = (sample(m, tokenizer, prompts, 6, generator=make_generator("x")) for m in (actors.policy, sampler))
    assert torch.equal(one.response_ids, two.response_ids)
    assert one.logprobs is not None
    with torch.no_grad():
        again = logprobs(actors.policy, one)
        reference = logprobs(actors.reference, one)
        values = actors.critic(one)
    torch.testing.assert_close(one.logprobs, again, atol=1e-4 if dtype == "float32" else 0.05, rtol=0)
    assert torch.equal(again, reference), "nothing is trained yet"
    assert not values.any()
    logprobs(actors.policy, one).sum().backward()  # type: ignore[no-untyped-call]
    (folder / "holding.json").unlink()


def test_a_placement_is_chosen_stored_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"dtype": "auto", "lora": 8, "gradient_checkpointing": True, "width": 64, "merge_for_sampling": False}
    monkeypatch.setattr(placement, "cpu_multiplies_bfloat16", lambda: True)
    assert choose_placement(settings, "cpu").half
    monkeypatch.setattr(placement, "cpu_multiplies_bfloat16", lambda: False)
    chosen = choose_placement(settings, "cpu")
    assert chosen == Placement(lora=8, dtype="float32", gradient_checkpointing=True, merge_for_sampling=False)
    assert choose_placement({"dtype": "bfloat16"}, "cpu").half
    with pytest.raises(BenchError, match="bfloat16"):
        choose_placement({"dtype": "bfloat16"}, "mps")
    assert read_placement(tmp_path) == Placement()
    save_placement(replace(chosen, lora_alpha=2.5), tmp_path)
    assert read_placement(tmp_path) == replace(chosen, lora_alpha=2.5)
