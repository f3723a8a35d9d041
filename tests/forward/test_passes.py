"""Faster passes equal the plain ones: the preallocated cache, one ready-made mask, a last layer that skips prompts."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from tiny import Tiny, by_hand, make_tokenizer
from torch import Tensor
from transformers import DynamicCache

from rlhf_bench.harness.forward import passes, patch
from rlhf_bench.harness.forward.patch import last_layer_only_at
from rlhf_bench.harness.models.placement import Placement, apply_placement
from rlhf_bench.harness.models.policies import load_causal
from rlhf_bench.harness.sampling import decoding
from rlhf_bench.harness.sampling.kv_cache import is_preallocated, preallocated_cache
from rlhf_bench.harness.sampling.rollout import full_inputs, logprobs, make_generator, sample

PROMPTS = ("Where is Anna?", "?", "Who brings the map, and who brings the lamp on Sunday at nine?")


def pieces() -> list[Tensor]:
    """Keys of three rows, two heads: a prompt of four tokens, then single tokens."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 2, width, 5, generator=generator) for width in (4, 1, 1, 1, 1, 1)]


@pytest.mark.parametrize("capacity", [0, 5, 9])
def test_the_preallocated_cache_holds_what_transformers_own_holds(tiny: Tiny, capacity: int) -> None:
    """Also where more is written than there was room for, and after rows have left."""
    plain, growing = DynamicCache(), preallocated_cache(tiny.model, capacity)
    keep = torch.tensor([0, 2])
    for number, keys in enumerate(pieces()):
        if number == 3:
            plain.batch_select_indices(keep)
            growing.layers[0].batch_select_indices(keep)
        given = keys if number < 3 else keys[keep]
        expected = plain.update(given, -given, 0)
        found = growing.layers[0].update(given, -given)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert growing.layers[0].get_seq_length() == plain.get_seq_length()


def test_layers_that_see_a_window_keep_their_own_cache() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    tokenizer = make_tokenizer(280)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MistralConfig(
        vocab_size=len(tokenizer), num_key_value_heads=1, sliding_window=4, pad_token_id=0, bos_token_id=None, **sizes
    )
    torch.manual_seed(0)
    model = MistralForCausalLM(config).eval()
    assert not is_preallocated(preallocated_cache(model, 20))
    drawn = sample(model, tokenizer, PROMPTS, 12, generator=make_generator("window"))
    assert drawn.logprobs is not None
    torch.testing.assert_close(drawn.logprobs, logprobs(model, drawn).detach(), rtol=1e-4, atol=1e-4)


def test_passes_that_skip_unread_positions_give_the_same_logprobs_and_gradients(
    tiny: Tiny,
) -> None:
    made = by_hand(tiny.tokenizer, [[40, 41, 42, 43], [50], [60, 61]], [[70, 71, 1], [73], [74, 75]], extra_left=1)

    def values_and_gradients(table: Tensor) -> tuple[Tensor, list[Tensor]]:
        parameters = [p for p in tiny.model.parameters() if p.requires_grad]
        return table.detach(), list(torch.autograd.grad(table.sum(), parameters))

    def plain_logprobs() -> Tensor:
        """Left-padded prompts, right-padded responses, all logits, everywhere."""
        ids, mask, positions = full_inputs(made)
        logits = tiny.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        width = made.mask.shape[1]
        table = logits[:, -width - 1 : -1].log_softmax(-1).gather(-1, made.response_ids[..., None]).squeeze(-1)
        return torch.where(made.mask, table, 0.0)

    shortened = values_and_gradients(logprobs(tiny.model, made))
    plain = values_and_gradients(plain_logprobs())
    torch.testing.assert_close(shortened[0], plain[0], rtol=1e-4, atol=1e-4)
    for one, two in zip(shortened[1], plain[1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


def test_the_last_layer_computes_fewer_positions_inside_and_all_outside(tiny: Tiny) -> None:
    ids, mask, positions = full_inputs(by_hand(tiny.tokenizer, [[40, 41, 42, 43]], [[70, 71, 72]]))
    mlp = patch.last_mlp(tiny.model)
    seen: list[int] = []
    handle = next(iter(mlp.children())).register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    try:
        with torch.no_grad():
            for places in (torch.arange(7)[None] >= 4, torch.ones(1, 7, dtype=torch.bool)):
                with last_layer_only_at(tiny.model, places):
                    tiny.model(input_ids=ids, attention_mask=mask, position_ids=positions)
            tiny.model(input_ids=ids, attention_mask=mask, position_ids=positions)
    finally:
        handle.remove()
    assert seen == [3, 7, 7]
    assert "forward" not in vars(mlp)


def test_a_model_with_gradient_checkpointing_computes_all_positions(tiny: Tiny) -> None:
    tiny.model.activation_checkpointing_enable()
    try:
        assert patch.last_mlp(tiny.model) is None
    finally:
        tiny.model.activation_checkpointing_disable()
    assert patch.last_mlp(tiny.model) is not None


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_in_chunks_are_those_of_the_whole(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    model = load_causal(tiny.folder, tiny.tokenizer, "cpu")
    rows = by_hand(tiny.tokenizer, [[40, 41], [42]], [[50, 51, 52, 53], [54, 55]])
    found = []
    for chunk in (passes.CHUNK, 4, 1):
        monkeypatch.setattr(passes, "CHUNK", chunk)
        model.zero_grad()
        values = logprobs(model, rows, temperature)
        values.square().sum().backward()  # type: ignore[no-untyped-call]
        found.append((values.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    for values, gradients in found[1:]:
        assert torch.equal(values, found[0][0])
        for one, other in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept_by_the_process() -> None:
    """In a process of its own: large blocks that are freed are soon there again without a page fault for each page."""
    code = """
import resource, torch
from rlhf_bench.harness.pipeline.machine import keep_freed_memory
told = keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60):
    torch.ones(2**22)
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told, faults = done.stdout.split()
    assert told == "False" or int(faults) < 60 * 4096 / 2  # pages of 4 KiB


def test_weights_cast_once_sample_what_casts_at_each_step_do(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 from float32 weights: to the bit, since the casts are the same."""
    model = apply_placement(load_causal(tiny.folder, tiny.tokenizer, "cpu"), Placement(dtype="bfloat16"))
    assert model.computes_half
    fast = sample(model, tiny.tokenizer, PROMPTS, 8, generator=make_generator("half"))
    monkeypatch.setattr(decoding, "_outer_autocast", lambda *_: nullcontext())
    slow = sample(model, tiny.tokenizer, PROMPTS, 8, generator=make_generator("half"))
    assert torch.equal(fast.response_ids, slow.response_ids)
    assert fast.logprobs is not None
    assert slow.logprobs is not None
    assert torch.equal(fast.logprobs, slow.logprobs)
