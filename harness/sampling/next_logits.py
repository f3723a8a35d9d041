"""Decoders: the next token's logits of a batch, with the KV cache that serves the model best.

`CachedDecoder` works for every model.  `SplitCacheDecoder` is the fast one on a CPU (split_attention.py).  The loop
that chooses tokens is decoding.py.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from rlhf_bench.harness.forward.packing import packed_mask, packed_positions
from rlhf_bench.harness.forward.patch import last_layer_only_at
from rlhf_bench.harness.sampling.kv_cache import SplitCache, is_preallocated, preallocated_cache
from rlhf_bench.harness.sampling.split_attention import attending_to, placeholder_mask, takes_boolean_masks

if TYPE_CHECKING:
    from transformers import DynamicCache

    from rlhf_bench.harness.forward.types import CausalLM


class Decoder(Protocol):
    """What the decoding loop calls.  B rows at first; `select_rows` makes them fewer."""

    def prefill(self, ids: Tensor) -> Tensor:
        """Logits [B, V] after the prompts' ids [B, P]; called once, first."""

    def step(self, token: Tensor) -> Tensor:
        """Logits [B, V] after one more token [B], which follows all earlier ones of its row."""

    def select_rows(self, rows: Tensor) -> None:
        """Go on with the rows at these indices [b] only, in this order; B is b from then on."""


class CachedDecoder:
    """A decoder of any model, with a preallocated cache where its layers attend to all tokens.

    `mask` [B, P] is 1 on the tokens of left-padded prompts, which get at most `max_new` tokens each.
    """

    def __init__(self, model: CausalLM, mask: Tensor, max_new: int) -> None:
        self._model, self._length = model, mask.shape[1]  # columns that have been read
        self._positions = (mask.cumsum(1) - 1).clamp(min=0)  # padding has any position: it is masked
        self._cache = preallocated_cache(model, mask.shape[1] + max_new)
        self._mask = torch.cat([mask, mask.new_ones(len(mask), max_new)], 1)  # of all columns there will be
        self._one_mask = is_preallocated(self._cache) and takes_boolean_masks(model)
        self._padded = not bool(mask.all())

    def prefill(self, ids: Tensor) -> Tensor:
        """Logits [B, V] after the prompts' ids [B, P]."""
        return prompt_logits(self._model, ids, self._mask[:, : self._length], self._positions, self._cache)

    def step(self, token: Tensor) -> Tensor:
        """Logits [B, V] after one more token [B]."""
        self._length += 1
        self._positions = self._positions[:, -1:] + 1
        columns = self._mask[:, : self._length]
        if not self._one_mask:  # layers that differ in what they see make their masks from the columns
            mask: Tensor | None = columns
        else:  # [B, 1, 1, columns], ready for attention, which saves the model from building it for every token
            mask = columns[:, None, None].bool() if self._padded else None
        return next_logits(self._model, token[:, None], mask, self._positions, self._cache)

    def select_rows(self, rows: Tensor) -> None:
        """Go on with the rows at these indices only."""
        self._cache.batch_select_indices(rows)
        self._positions, self._mask = self._positions[rows], self._mask[rows]


class SplitCacheDecoder:
    """A decoder with a SplitCache, for models that support it, used inside `split_attention`.

    `mask` [B, P] is 1 on the tokens of left-padded prompts.  `pack`: the model supports packed rows (packing.py).
    """

    def __init__(self, model: CausalLM, mask: Tensor, pack: bool = False) -> None:
        self._model, self._mask, self._pack = model, mask, pack and not bool(mask.all())
        self._positions = (mask.cumsum(1) - 1).clamp(min=0)
        self._cache = SplitCache(model, mask)
        self._placeholder = placeholder_mask(mask)

    def prefill(self, ids: Tensor) -> Tensor:
        """Logits [B, V] after the prompts' ids [B, P]."""
        with attending_to(self._cache):
            if self._pack:
                logits = packed_prompt_logits(self._model, ids, self._mask, self._cache)
            else:
                logits = prompt_logits(self._model, ids, self._mask, self._positions, self._cache)
        self._cache.prefilling = False  # prompts are read by `packed_attention`, single tokens by `attend`
        return logits

    def step(self, token: Tensor) -> Tensor:
        """Logits [B, V] after one more token [B]."""
        self._positions = self._positions[:, -1:] + 1
        with attending_to(self._cache):
            return next_logits(self._model, token[:, None], self._placeholder, self._positions, self._cache)

    def select_rows(self, rows: Tensor) -> None:
        """Go on with the rows at these indices only."""
        self._cache.select_rows(rows)
        self._positions = self._positions[rows]

    def slice_rows(self, rows: slice) -> SplitCacheDecoder:
        """A decoder of these rows; from now on the two are independent and may run in two threads."""
        made = copy(self)  # shares what no step changes: the model and the placeholder
        made._cache = self._cache.slice_rows(rows)
        made._positions = self._positions[rows]
        return made


def prompt_logits(model: CausalLM, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
    """Logits [B, V] after left-padded prompts' ids [B, P], of mask and position ids [B, P]; the cache then holds them.

    The last layer's feed-forward part and the head compute the last column alone (forward/patch.py).
    """
    last = torch.zeros_like(ids, dtype=torch.bool)  # left-padded: the last token of every row is in the last column
    last[:, -1] = True
    with last_layer_only_at(model, last):
        return next_logits(model, ids, mask, positions, cache)


def packed_prompt_logits(model: CausalLM, ids: Tensor, mask: Tensor, cache: SplitCache) -> Tensor:
    """As `prompt_logits`, but the prompts are read as packed rows, without their padding (forward/packing.py).

    Keys and values get the padding afterwards.
    """
    kept = mask.bool()
    lengths = kept.sum(1)
    last = lengths.cumsum(0) - 1
    ids = ids[kept][None]
    with last_layer_only_at(model, torch.zeros_like(ids, dtype=torch.bool).index_fill(1, last, True)):
        output = model(
            input_ids=ids,
            attention_mask=packed_mask(lengths),
            position_ids=packed_positions(lengths),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last,  # positions: the head computes the last token of every row alone
        )
    # single tokens attend to a table [B, heads, P, width] in which the padding is masked
    for layer in cache.layers:
        layer.unpack(kept)
    logits: Tensor = output.logits[0]
    return logits


def next_logits(model: CausalLM, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: DynamicCache) -> Tensor:
    """Logits [B, V] of the token after `ids` [B, n]; the cache then holds `ids`.

    `mask` is what the model's attention takes: [B, columns so far], four dimensions, or None where nothing is hidden.
    """
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[:, -1]
    return logits
