"""Decoding with a split cache, packed weights and fused activations gives what the plain loop gives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tiny, louder, make_gpt2, make_llama, make_tokenizer
from torch import Tensor
from transformers import DynamicCache

from rlhf_bench.harness.forward.packing import enable_packing, has_packed_attention
from rlhf_bench.harness.models import micro_batch
from rlhf_bench.harness.models.placement import Placement, apply_placement
from rlhf_bench.harness.sampling import decoding, kv_cache, next_logits, packed_weights, split_attention
from rlhf_bench.harness.sampling.rollout import logprobs, make_generator, sample
from rlhf_bench.harness.sampling.split_attention import supports_split_cache

PROMPTS = ("Where is Anna?", "?", "Who brings the map, and who brings the lamp on Sunday at nine?")
LONG = 40
"""More tokens than the small buffer of keys holds."""


@pytest.fixture(autouse=True)
def as_loaded(tiny_gpt2: Tiny, tiny_llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """As models come from a folder, and as large ones are treated."""
    monkeypatch.setattr(packed_weights, "SMALLEST", 0)
    for model in (tiny_gpt2.model, tiny_llama.model):
        assert has_packed_attention(model) or has_packed_attention(enable_packing(model))


def draw(tiny: Tiny, prompts: tuple[str, ...], greedy: bool) -> Any:
    generator = None if greedy else make_generator("plain")
    return sample(tiny.model, tiny.tokenizer, prompts, LONG, generator=generator, temperature=2.0)


def use_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' own cache and masks, its layers as they are, every row read by itself."""
    monkeypatch.setattr(decoding, "distinct_rows", lambda ids, _: (torch.arange(len(ids)), torch.arange(len(ids))))
    monkeypatch.setattr(decoding, "supports_split_cache", lambda _: False)
    monkeypatch.setattr(packed_weights, "LARGEST", 0)
    monkeypatch.setattr(next_logits, "preallocated_cache", lambda model, _: DynamicCache(config=model.config))


@pytest.mark.parametrize("prompts", [PROMPTS * 3, PROMPTS[:1] * 9], ids=["padded", "equal lengths"])
@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "drawn"])
@pytest.mark.parametrize("split", [True, False], ids=["split cache", "one buffer"])
def test_sampling_is_as_with_transformers_own_cache_masks_and_layers(
    tiny: Tiny, prompts: tuple[str, ...], greedy: bool, split: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert supports_split_cache(tiny.model)
    monkeypatch.setattr(decoding, "end_token_ids", lambda _: range(8))  # so that some rows end before others
    if not split:
        monkeypatch.setattr(decoding, "supports_split_cache", lambda _: False)
    fast = draw(tiny, prompts, greedy)
    use_plain_path(monkeypatch)
    plain = draw(tiny, prompts, greedy)
    assert torch.equal(fast.response_ids, plain.response_ids)
    torch.testing.assert_close(fast.logprobs, plain.logprobs, rtol=1e-4, atol=1e-4)
    lengths = plain.mask.sum(1).tolist()
    assert greedy or min(lengths) < kv_cache.RECENT < max(lengths), "no row has left, or the buffer was never full"


@pytest.mark.parametrize(("prompts", "shape"), [(PROMPTS, (1, "tokens")), (PROMPTS[:1] * 2, (1, "columns"))])
def test_prompts_are_read_packed_and_once(tiny: Tiny, prompts: tuple[str, ...], shape: Any) -> None:
    read: list[tuple[int, ...]] = []
    embeddings = tiny.model.get_input_embeddings()
    handle = embeddings.register_forward_pre_hook(lambda _, given: read.append(tuple(given[0].shape)))
    try:
        found = draw(tiny, prompts, greedy=True)
    finally:
        handle.remove()
    counts = {"tokens": int(found.prompt_mask.sum()), "columns": found.prompt_mask.shape[1]}
    assert read[0] == (shape[0], counts[shape[1]])


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("greedy", [True, False], ids=["greedy", "drawn"])
def test_two_threads_decode_half_of_the_rows_each(
    tiny: Tiny, greedy: bool, threads_used: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "end_token_ids", lambda _: range(8))
    found = draw(tiny, PROMPTS * 6, greedy)
    assert len(threads_used) == 2
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    alone = draw(tiny, PROMPTS * 6, greedy)
    assert torch.equal(found.response_ids, alone.response_ids)
    torch.testing.assert_close(found.logprobs, alone.logprobs, rtol=1e-4, atol=1e-4)


@pytest.fixture
def threads_used(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the threads that decode."""
    names: set[str] = set()
    original = decoding.decode_rows

    def write(*given: Any) -> int:
        names.add(threading.current_thread().name)
        return original(*given)

    monkeypatch.setattr(decoding, "decode_rows", write)
    return names


@pytest.mark.usefixtures("two_threads")
def test_in_bfloat16_two_threads_repeat_to_the_bit_or_one_decodes(
    tokenizer: Any, threads_used: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Tiny(apply_placement(enable_packing(make_gpt2(tokenizer)), Placement(dtype="bfloat16")), tokenizer, Path())
    first = draw(tiny, PROMPTS * 6, greedy=False)
    assert len(threads_used) == 2
    for _ in range(3):
        again = draw(tiny, PROMPTS * 6, greedy=False)
        assert torch.equal(first.response_ids, again.response_ids)
        assert torch.equal(first.logprobs, again.logprobs)
    threads_used.clear()
    monkeypatch.setattr(packed_weights, "LARGEST", 0)
    draw(tiny, PROMPTS * 6, greedy=False)
    assert len(threads_used) == 1


def test_a_batch_too_large_for_the_memory_is_decoded_in_smaller_batches(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decoding, "end_token_ids", lambda _: range(8))
    whole = draw(tiny, PROMPTS * 3, greedy=False)
    original = decoding.generate

    def small(model: Any, tokenizer: Any, ids: Tensor, *given: Any) -> Any:
        if len(ids) > 3:
            raise torch.OutOfMemoryError
        return original(model, tokenizer, ids, *given)

    monkeypatch.setattr(decoding, "generate", small)
    monkeypatch.setattr(micro_batch, "_limits", {})
    for _ in range(2):
        found = draw(tiny, PROMPTS * 3, greedy=False)
        assert torch.equal(found.response_ids, whole.response_ids)
        assert torch.equal(found.mask, whole.mask)
        torch.testing.assert_close(found.logprobs, whole.logprobs, rtol=1e-4, atol=1e-4)
    assert capsys.readouterr().err.count("Out of memory") == 2  # 9 -> 4 -> 2, and then it is known


def test_what_was_sampled_may_be_trained_on(tiny: Tiny) -> None:
    drawn = draw(tiny, PROMPTS, greedy=False)
    loss = (logprobs(tiny.model, drawn) * drawn.logprobs).sum()
    gradients = torch.autograd.grad(loss, [p for p in tiny.model.parameters() if p.requires_grad])
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_a_change_of_the_weights_is_seen(tokenizer: Any) -> None:
    for make in (make_gpt2, make_llama):
        model = make(tokenizer)
        before = sample(model, tokenizer, PROMPTS, 12, generator=make_generator("before"))
        louder(model, 0.5)
        after = sample(model, tokenizer, PROMPTS, 12, generator=make_generator("before"))
        assert not torch.equal(before.response_ids, after.response_ids)
        torch.testing.assert_close(after.logprobs, logprobs(model, after).detach(), rtol=1e-4, atol=1e-4)


# --- split cache


@pytest.fixture
def wrong_attention(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An attention that ignores the scale, as one would that knows less than a model asks for; and its calls."""
    calls: list[int] = []
    right = split_attention.attend

    def attend(*given: Any, **named: Any) -> Any:
        calls.append(1)
        return right(*given, **{**named, "scaling": 0.01})

    monkeypatch.setattr(split_attention, "attend", attend)
    return calls


def test_a_model_that_a_split_cache_would_change_keeps_one_buffer(tokenizer: Any, wrong_attention: list[int]) -> None:
    model = make_llama(tokenizer)
    assert not supports_split_cache(model)
    tried = len(wrong_attention)
    assert tried
    drawn = sample(model, tokenizer, PROMPTS, 12, generator=make_generator("wrong"))
    assert len(wrong_attention) == tried
    torch.testing.assert_close(drawn.logprobs, logprobs(model, drawn).detach(), rtol=1e-4, atol=1e-4)


def test_a_model_that_ignores_the_attention_implementation_is_noticed(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a model that brings its own attention and would see the latest token alone."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.models.llama import modeling_llama

    class Own:
        def get_interface(self, *_: Any) -> Any:
            return sdpa_attention_forward

    monkeypatch.setattr(modeling_llama, "ALL_ATTENTION_FUNCTIONS", Own())
    assert not supports_split_cache(make_llama(tokenizer))


@pytest.mark.parametrize("implementation", ["eager"])
def test_other_attention_keeps_one_buffer(tokenizer: Any, implementation: str) -> None:
    model = make_gpt2(tokenizer)
    model.set_attn_implementation(implementation)
    assert not supports_split_cache(model)


def test_the_models_attention_is_put_back(tiny: Tiny) -> None:
    before = tiny.model.config._attn_implementation
    draw(tiny, PROMPTS, greedy=True)
    assert tiny.model.config._attn_implementation == before
    with pytest.raises(ZeroDivisionError), split_attention.split_attention(tiny.model):
        raise ZeroDivisionError
    assert tiny.model.config._attn_implementation == before


# --- packed weights


def outputs(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(24).view(3, 8), use_cache=False).logits  # type: ignore[no-any-return]


def test_packed_weights_give_the_same_and_leave_no_patch(tiny: Tiny) -> None:
    before = outputs(tiny.model)
    own = [name for name, module in tiny.model.named_modules() if "forward" in vars(module)]
    with packed_weights.packed_weights(tiny.model):
        changed = [name for name, module in tiny.model.named_modules() if "forward" in vars(module)]
        torch.testing.assert_close(outputs(tiny.model), before, rtol=1e-4, atol=1e-4)
    assert len(changed) > len(own)
    assert [name for name, module in tiny.model.named_modules() if "forward" in vars(module)] == own
    assert torch.equal(outputs(tiny.model), before)
    with pytest.raises(ZeroDivisionError), packed_weights.packed_weights(tiny.model):
        raise ZeroDivisionError
    assert torch.equal(outputs(tiny.model), before)


def test_packing_that_fails_leaves_no_patch(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    before = outputs(tiny.model)
    made: list[int] = []
    original = packed_weights.packed_forward

    def fail_at_third(*given: Any) -> Any:
        made.append(1)
        if len(made) == 3:
            raise MemoryError
        return original(*given)

    monkeypatch.setattr(packed_weights, "packed_forward", fail_at_third)
    with pytest.raises(MemoryError), packed_weights.packed_weights(tiny.model):
        pass
    assert not [name for name, module in tiny.model.named_modules() if "forward" in vars(module)]
    assert torch.equal(outputs(tiny.model), before)


def test_gradients_take_the_plain_path(tiny: Tiny) -> None:
    def gradient() -> Tensor:
        logits = tiny.model(input_ids=torch.arange(24).view(3, 8), use_cache=False).logits
        found: Tensor = torch.autograd.grad(logits.square().mean(), next(iter(tiny.model.parameters())))[0]
        return found

    before = gradient()
    with packed_weights.packed_weights(tiny.model):
        assert torch.equal(gradient(), before)


def test_large_models_and_small_layers_stay_as_they_are(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_gpt2(tokenizer)

    def changed() -> list[str]:
        with packed_weights.packed_weights(model):
            return [name for name, module in model.named_modules() if "forward" in vars(module)]

    assert changed()
    with monkeypatch.context() as patch:
        patch.setattr(packed_weights, "LARGEST", 1000)
        assert not changed()
    monkeypatch.setattr(packed_weights, "SMALLEST", 1000)
    few = changed()
    assert few
    assert all(model.get_submodule(name).weight.numel() >= 1000 for name in few if not name.endswith("act"))


def test_a_model_that_computes_in_bfloat16_goes_on_doing_so(tokenizer: Any) -> None:
    """As near to float32 as its own pass is, give or take: roundings of the same size, in another order."""
    for make in (make_gpt2, make_llama):
        exact = outputs(make(tokenizer, 4.0))
        model = apply_placement(make(tokenizer, 4.0), Placement(dtype="bfloat16"))
        before = outputs(model)
        rounding = (before - exact).abs().max()
        assert rounding > 1e-4
        with packed_weights.packed_weights(model):
            found = (outputs(model) - exact).abs().max()
        assert rounding / 10 <= found <= 2 * rounding


def test_activations_that_onednn_does_not_have_follow_as_before() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = make_tokenizer(280)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": len(tokenizer)}
    for activation in ("relu", "gelu_new", "gelu_pytorch_tanh", "gelu", "silu"):
        torch.manual_seed(0)
        model = louder(GPT2LMHeadModel(GPT2Config(activation_function=activation, **sizes)), 8.0)
        before = outputs(model)
        with packed_weights.packed_weights(model):
            torch.testing.assert_close(outputs(model), before, rtol=1e-4, atol=1e-4)
