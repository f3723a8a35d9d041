"""A key-value cache with room for what is still to be written: transformers' own copies itself at each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def make_cache(model: Any, room: int) -> Any:
    """An empty cache of `model` with room for `room` tokens in layers that attend to everything.

    Layers of another kind (sliding windows, recurrent states) keep transformers' own.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=model.config)
    growing = _growing(DynamicLayer)
    cache.layers = [growing(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def is_plain(cache: Any) -> bool:
    """Whether every layer attends to all tokens, so that one mask of columns serves them all."""
    return bool(cache.layers) and all(hasattr(layer, "room") for layer in cache.layers)


def _growing(base: type) -> Any:
    """The layer's class, made where transformers is loaded already: nothing that imports this file pays for it."""

    class GrowingLayer(base):  # type: ignore[misc]
        """`keys` and `values` are views of the filled part of buffers [B, heads, room, width]."""

        _held: list[Tensor]
        keys: Tensor
        values: Tensor

        def __init__(self, room: int) -> None:
            super().__init__()
            self.room = room

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self._allocate(key_states, value_states)
            start = self.get_seq_length()
            end = start + key_states.shape[-2]
            if end > self._held[0].shape[-2]:
                self._enlarge(start, end)
            for buffer, states in zip(self._held, (key_states, value_states), strict=True):
                buffer[:, :, start:end] = states
            self._show(end)
            return self.keys, self.values

        def batch_select_indices(self, indices: Tensor) -> None:
            """Keep some rows, in the memory they have."""
            length = self.get_seq_length()
            for buffer in self._held:
                buffer[: len(indices), :, :length] = buffer[:, :, :length][indices]
            self._held = [buffer[: len(indices)] for buffer in self._held]
            self._show(length)

        def _allocate(self, *states: Tensor) -> None:
            self._held = [x.new_empty(*x.shape[:-2], max(self.room, x.shape[-2]), x.shape[-1]) for x in states]
            self._show(0)

        def _enlarge(self, filled: int, needed: int) -> None:
            before, self.room = self._held, 2 * needed
            self._allocate(*(buffer[:, :, :needed] for buffer in before))
            for old, new in zip(before, self._held, strict=True):
                new[:, :, :filled] = old[:, :, :filled]

        def _show(self, length: int) -> None:
            self.keys, self.values = (buffer[:, :, :length] for buffer in self._held)

    return GrowingLayer
