"""Attention of single tokens over a SplitCache (kv_cache.py), for decoding on a CPU.

One product for each piece of the cache.  Keys of grouped queries are not repeated, and no mask is built: the cache
itself knows which columns are padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from rlhf_bench.harness.forward.fast_paths import require_close
from rlhf_bench.harness.forward.packing import has_packed_attention, packed_attention
from rlhf_bench.harness.forward.transformers_private import attention_name, register_attention
from rlhf_bench.harness.sampling.kv_cache import SplitCache, attends_to_all

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import AttentionLayer, CausalLM, Module

ATTENTION = "rlhf_bench_parts"
"""The name under which transformers knows `attend`."""

# An attention implementation gets keys and values, not the cache.  A context variable, because each of two threads that
# decode with one model has a cache of its own.
_current: ContextVar[SplitCache] = ContextVar("the cache that the thread's single tokens attend to")
_supported: WeakKeyDictionary[CausalLM, bool] = WeakKeyDictionary()  # by model: whether it was found to agree


@contextmanager
def split_attention(model: CausalLM) -> Iterator[None]:
    """Inside, the model's layers compute `attend`; threads may share the model, each with a cache of its own.

    Passes inside need `attending_to`.
    """
    register_attention(ATTENTION, attend)
    before = attention_name(model)
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def attending_to(cache: SplitCache) -> Iterator[None]:
    """Inside, passes of this thread attend to `cache`, which they also get as `past_key_values`."""
    token = _current.set(cache)
    try:
        yield
    finally:
        _current.reset(token)


def placeholder_mask(ids: Tensor) -> Tensor:
    """A mask [1, 1, 1, 1] that keeps the model from building one of its own; `attend` does not read it."""
    return ids.new_ones(1, 1, 1, 1).bool()


def supports_split_cache(model: CausalLM) -> bool:
    """Whether the model decodes with a SplitCache as it does without: tried once for each model, on four tokens.

    False on any device but a CPU (nothing was measured elsewhere), for layers that do not attend to all tokens, for
    attention other than sdpa, and where the numbers differ (caps, sinks, biases: `attend` does not know them).
    """
    if model.device.type != "cpu" or not takes_boolean_masks(model):
        return False
    if model not in _supported:
        _supported[model] = attends_to_all(model) and _agrees(model)
    return _supported[model]


def takes_boolean_masks(model: Module) -> bool:
    """Whether the model's attention takes a boolean mask [B, 1, queries, columns] as it is, True where it attends.

    Others ("eager") add the mask to the scores, so it would have to be float there.
    """
    return has_packed_attention(model) or attention_name(model) == "sdpa"


def _agrees(model: CausalLM) -> bool:
    """The logits of a fourth token, its cache split and not, of two rows of which one is padded."""
    # different tokens in every place, so that a wrong position or a wrong row shows
    ids = torch.arange(8, device=model.device).view(2, 4) % model.config.vocab_size
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    half = getattr(model, "computes_half", False)
    try:
        with torch.no_grad():
            plain = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, -1]
            cache = SplitCache(model, mask[:, :3])
            first = {"input_ids": ids[:, :3], "attention_mask": mask[:, :3], "position_ids": positions[:, :3]}
            last = {"input_ids": ids[:, 3:], "attention_mask": placeholder_mask(ids), "position_ids": positions[:, 3:]}
            with split_attention(model), attending_to(cache):
                model(**first, past_key_values=cache)
                cache.prefilling = False  # from here on `attend` computes, which is what is tried
                found = model(**last, past_key_values=cache).logits[:, -1]
        require_close(found, plain, 0.05 if half or plain.dtype in (torch.bfloat16, torch.float16) else 1e-4)
    except Exception:  # a model whose attention expects something else, in whichever way it fails
        return False
    return True


def attend(
    module: AttentionLayer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **named: object,
) -> tuple[Tensor, None]:
    """Attention of one token a row, query [B, H, 1, D], to both pieces of the layer's cache: [B, 1, H, D].

    While prompts are read it is `packed_attention`, which is "sdpa" where nothing is packed.
    """
    cache = _current.get()
    if cache.prefilling:
        return packed_attention(module, query, key, value, attention_mask, scaling=scaling, **named)
    layer = cache.layers[module.layer_idx]
    # A model that changes keys after the cache has stored them, or attends to another layer's, is not supported.
    if key is not layer.keys or value is not layer.values or query.shape[2] != 1:
        raise RuntimeError("these keys are not the cache's own")
    rows, heads, _, width = query.shape
    groups = key.shape[1]  # heads / groups queries share one key
    query = (query * (width**-0.5 if scaling is None else scaling)).reshape(rows * groups, heads // groups, width)
    old_keys, old_values, keys, values = (x.flatten(0, 1) for x in (*layer.old, *layer.recent()))
    # one softmax over both pieces: [rows * groups, heads / groups, old + recent]
    # the scores are joined, not the keys: joining keys would copy the cache for every token
    weights = torch.cat([torch.bmm(query, old_keys.mT), torch.bmm(query, keys.mT)], -1)
    if cache.hidden is not None:
        prompt = weights.view(rows, heads, -1)[..., : cache.hidden.shape[1]]
        # the prompts' padding is in the first columns: responses begin after the longest prompt for all rows
        prompt.masked_fill_(cache.hidden[:, None], float("-inf"))
    before, since = torch.split(weights.softmax(-1), [old_keys.shape[1], keys.shape[1]], -1)
    found = torch.bmm(before, old_values).baddbmm_(since, values)
    return found.view(rows, 1, heads, width), None
