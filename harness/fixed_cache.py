"""A key-value cache of one size that never moves: what a compiled decoding step writes to.

As transformers' static cache, with a ready-made mask of what each row may see; a mask of columns serves every layer, so
a model whose layers differ in that is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.decoding import after_prompts
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.kv_cache import is_plain, make_cache
from rlhf_bench.harness.kv_parts import takes_masks

if TYPE_CHECKING:
    from torch import Tensor


class FixedCache:
    """Keys and values [B, heads, room, width] of B rows, what each may see [B, 1, 1, room], and where it goes on."""

    def __init__(self, held: Any, seen: Tensor, positions: Tensor, at: Tensor) -> None:
        self._held = held  # transformers' cache of FixedLayers
        self._seen, self._positions, self._at = seen, positions, at
        self.rows = len(seen)

    def read(self, model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        """Reads the prompts [B, P], left-padded; returns the logits [B, V] that follow."""
        width = ids.shape[1]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        for layer in self._held.layers:
            layer.filling = True
        logits = after_prompts(model, ids, mask, positions, self._held)
        for layer in self._held.layers:
            layer.filling = False
        self._seen.zero_()
        self._seen[:, 0, 0, :width] = mask.bool()
        self._positions.copy_(positions[:, -1:])
        self._at.fill_(width - 1)
        return logits

    def write(self, step: Callable[..., Tensor], model: Any, token: Tensor) -> Tensor:
        """Reads one token [B] per row by `step`, which is decoding's, compiled; returns the logits [B, V]."""
        import torch

        self._at += 1
        self._positions += 1
        self._seen.index_fill_(3, self._at, True)
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # memory of the step before is free
        return step(model, token[:, None], self._seen, self._positions, self._held)

    def take(self, other: FixedCache, rows: Tensor) -> None:
        """The rows at these indices of another one."""
        self._seen.copy_(other._seen[rows])
        self._positions.copy_(other._positions[rows])
        self._at.copy_(other._at)
        for mine, theirs in zip(self._held.layers, other._held.layers, strict=True):
            mine.take(theirs, rows)


def make_fixed(model: Any, rows: int, room: int) -> FixedCache:
    """An empty cache for so many rows.  Raises BenchError for a model whose attention it cannot serve."""
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if not is_plain(make_cache(model, 1)) or not takes_masks(model):
        raise BenchError(
            f"ppo.compile needs layers that attend to all tokens, by sdpa; {model.config.model_type} has others.",
            "Set ppo.compile=false.",
        )
    at = torch.zeros(1, dtype=torch.long, device=model.device)
    seen = torch.zeros(rows, 1, 1, room, dtype=torch.bool, device=model.device)
    positions = torch.zeros(rows, 1, dtype=torch.long, device=model.device)
    for fixed in (at, seen, positions):
        _stays(fixed)
    held = DynamicCache(config=model.config)
    layer = _fixed_layer(DynamicLayer)
    held.layers = [layer(room, at) for _ in held.layers]
    return FixedCache(held, seen, positions, at)


def _stays(tensor: Tensor) -> None:
    """Tells the compiler that a tensor keeps its address: a CUDA graph may then write to it in place."""
    import torch

    torch._dynamo.mark_static_address(tensor)


def _fixed_layer(base: type) -> Any:
    """The layer's class, made where transformers is loaded already: nothing that imports this file pays for it."""

    class FixedLayer(base):  # type: ignore[misc]
        """While `filling` it takes the prompts and attends to them alone; then one token per row, in column `at`."""

        keys: Tensor
        values: Tensor

        def __init__(self, room: int, at: Tensor) -> None:
            super().__init__()
            self.room, self.at, self.filling = room, at, True

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            if self.filling:
                self.hold(key_states, value_states, len(key_states))
                width = key_states.shape[-2]
                self.keys[:, :, :width], self.values[:, :, :width] = key_states, value_states
                return key_states, value_states
            self.keys.index_copy_(2, self.at, key_states)
            self.values.index_copy_(2, self.at, value_states)
            return self.keys, self.values

        def hold(self, key_states: Tensor, value_states: Tensor, rows: int) -> None:
            """Room for keys and values like these, once."""
            if self.is_initialized:
                return
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = (
                x.new_zeros(rows, x.shape[1], self.room, x.shape[-1]) for x in (key_states, value_states)
            )
            for buffer in (self.keys, self.values):
                _stays(buffer)

        def take(self, other: Any, keep: Tensor) -> None:
            """The rows `keep` of another layer."""
            self.hold(other.keys, other.values, len(keep))
            self.filling = False
            self.keys.copy_(other.keys[keep])
            self.values.copy_(other.values[keep])

        def get_seq_length(self) -> Any:
            return 0 if self.filling else self.at

    return FixedLayer
