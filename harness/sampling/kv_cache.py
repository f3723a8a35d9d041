"""KV caches whose layers do not copy all keys and values for every token, as transformers' own do.

`preallocated_cache` writes into buffers with room for the whole response.  `SplitCache` keeps the old keys and values
in one contiguous piece and the latest tokens in a small buffer beside it: all of them are read for every token, and a
CPU reads contiguous memory at more than twice the speed of rows with gaps between them (measured: 20 against 8 GB/s).
Only an attention made for two pieces can use it (split_attention.py).
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from torch import Tensor, cat
from transformers import DynamicCache

from rlhf_bench.harness.forward.transformers_private import CACHE_LAYERS, cache_layer_base

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.transformers_private import DynamicLayer
    from rlhf_bench.harness.forward.types import CausalLM
else:
    DynamicLayer = cache_layer_base()

RECENT = 32
"""Tokens in the small buffer of a SplitCache.  When it is full it joins the old ones, which are then copied once."""


def preallocated_cache(model: CausalLM, capacity: int) -> DynamicCache:
    """An empty cache of `model` with room for `capacity` tokens in the layers that attend to all tokens.

    Layers of another kind (sliding windows, recurrent states) keep transformers' own.
    """
    cache = DynamicCache(config=model.config)
    if CACHE_LAYERS.usable():
        # the exact class: a subclass is another kind of layer (a sliding window)
        cache.layers = [PreallocatedLayer(capacity) if type(x) is DynamicLayer else x for x in cache.layers]
    return cache


def is_preallocated(cache: DynamicCache) -> bool:
    """Whether every layer is preallocated.

    All then attend to all tokens, and one mask of columns serves them all.
    """
    return bool(cache.layers) and all(isinstance(layer, PreallocatedLayer) for layer in cache.layers)


def attends_to_all(model: CausalLM) -> bool:
    """Whether every layer of the model attends to all tokens, which is what a SplitCache is for.

    False for sliding windows and recurrent states, and where our cache layers are not usable.
    """
    layers = DynamicCache(config=model.config).layers
    return CACHE_LAYERS.usable() and bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values; `keys` and `values` are views of the filled part of [B, heads, capacity, width]."""

    keys: Tensor
    values: Tensor

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self._buffers: list[Tensor] = []  # of keys and of values

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append states [B, heads, n, width]; returns all keys and values so far, [B, heads, length, width].

        What is returned are views: the next update writes behind them, not into them.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._allocate(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:  # more tokens than were announced: the capacity doubles
            filled, self.capacity = self._buffers, 2 * end
            self._allocate(*(buffer[:, :, :end] for buffer in filled))
            for old, new in zip(filled, self._buffers, strict=True):
                new[:, :, :start] = old[:, :, :start]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows at `indices` [b], in this order, in the memory that is allocated already.

        A row may be kept several times; more rows than there were get new memory.
        """
        length = self.get_seq_length()
        if len(indices) > len(self._buffers[0]):
            self._buffers = [x.new_empty(len(indices), *x.shape[1:]).copy_(x[indices]) for x in self._buffers]
            self._show(length)
            return
        for buffer in self._buffers:
            buffer[: len(indices), :, :length] = buffer[:, :, :length][indices]  # indexing copies before it is written
        self._buffers = [buffer[: len(indices)] for buffer in self._buffers]
        self._show(length)

    def _allocate(self, *states: Tensor) -> None:
        self._buffers = [x.new_empty(*x.shape[:-2], max(self.capacity, x.shape[-2]), x.shape[-1]) for x in states]
        self._show(0)

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


class SplitLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values in two pieces.

    `old`: keys and values [B, heads, O, width], contiguous.  `recent()`: those of the latest tokens, at most RECENT.
    `keys` and `values` are the states of the latest pass alone, which is what attention gets from transformers.
    """

    old: tuple[Tensor, Tensor]
    keys: Tensor
    values: Tensor
    _buffers: list[Tensor]
    _filled = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Append the prompts' states [B, heads, P, width], then those of one token at a time [B, heads, 1, width].

        Returns the new states alone: `attend` reads `old` and `recent()` itself.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states  # after it, because it sets them to empty tensors
            self.old = key_states.contiguous(), value_states.contiguous()
            self._empty()
            return key_states, value_states
        self.keys, self.values = key_states, value_states
        if self._filled == RECENT:  # once in RECENT tokens everything is copied into one piece
            (keys, values), (new_keys, new_values) = self.old, self._buffers
            self.old = cat([keys, new_keys], 2), cat([values, new_values], 2)
            self._empty()
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._filled] = states[:, :, 0]
        self._filled += 1
        return key_states, value_states

    def unpack(self, mask: Tensor) -> None:
        """Move the states of packed prompts, [1, heads, N, width], to the N True positions of mask [B, P].

        Afterwards it is a layer of B padded rows, [B, heads, P, width].  Called once, before the first token.
        """
        self.old = self._unpacked(self.old[0], mask), self._unpacked(self.old[1], mask)
        self._empty()

    def _unpacked(self, states: Tensor, mask: Tensor) -> Tensor:
        # zeros, not empty memory: padding is masked, but a NaN there times a weight of 0 would be a NaN
        whole = states.new_zeros(*mask.shape, states.shape[1], states.shape[3])
        whole[mask] = states[0].transpose(0, 1)
        return whole.transpose(1, 2).contiguous()

    def recent(self) -> list[Tensor]:
        """Keys and values [B, heads, n, width] of the tokens in the small buffer."""
        return [buffer[:, :, : self._filled] for buffer in self._buffers]

    def get_seq_length(self) -> int:
        """Tokens in both pieces, padding of prompts included; transformers asks for it under this name."""
        return self.old[0].shape[2] + self._filled if self.is_initialized else 0

    def batch_select_indices(self, indices: Tensor | slice) -> None:
        """Keep the rows at `indices` [b]; a slice gives views and copies nothing."""
        self.old = self.old[0][indices], self.old[1][indices]
        self._buffers = [buffer[indices] for buffer in self._buffers]

    def _empty(self) -> None:
        self._buffers = [x.new_empty(*x.shape[:2], RECENT, x.shape[3]) for x in self.old]
        self._filled = 0


class SplitCache(DynamicCache):  # type: ignore[misc]
    """A cache of SplitLayers, for models whose layers attend to all tokens.

    `prompt_mask` [B, P] is True (or 1) on the tokens of left-padded prompts; None where nothing is padded.
    """

    layers: list[SplitLayer]

    def __init__(self, model: CausalLM, prompt_mask: Tensor | None = None) -> None:
        super().__init__(config=model.config)
        self.layers = [SplitLayer() for _ in self.layers]  # as many as transformers' cache has
        self.prefilling = True  # until the prompts have been read
        self.hidden: Tensor | None = None  # [B, P]: the prompts' padding
        if prompt_mask is not None and not bool(prompt_mask.all()):
            self.hidden = prompt_mask == 0

    def select_rows(self, rows: Tensor | slice) -> None:
        """Keep the rows at these indices, [b] or a slice, in all layers and in the padding."""
        self.batch_select_indices(rows)
        if self.hidden is not None:
            self.hidden = self.hidden[rows]

    def slice_rows(self, rows: slice) -> SplitCache:
        """A cache of these rows; from now on the two are independent.

        For two threads that decode half of the rows each.
        """
        made = copy(self)
        made.layers = [copy(layer) for layer in self.layers]  # shallow: selecting rows creates new tensors or views
        made.select_rows(rows)
        return made
