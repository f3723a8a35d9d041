"""Decoding on a CPU: keys and values in two parts, because all of them are read for every token.

What is old lies in one piece, the last few tokens in a small buffer beside it.  One buffer with room for everything has
gaps between its rows, and a processor reads memory with gaps at half the speed (8 against 20 GB/s where it was
measured); growing by copies, as transformers does, moves everything at every token.  Only single tokens attend here, by
two products; keys of grouped queries are not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from rlhf_bench.harness.forward.packing import attend, has_packed_attention

if TYPE_CHECKING:
    from torch import Tensor

NAME = "rlhf_bench_parts"
"""Our attention's name among transformers' own."""

RECENT = 32
"""Tokens in the small buffer: when it is full it joins the old ones, which copies them once."""

_current: ContextVar[Any] = ContextVar("the cache that single tokens attend to")
_known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def make_parts(model: Any, prompt_mask: Tensor | None = None) -> Any:
    """An empty cache in parts.  `prompt_mask` [B, P] is True (or 1) on the tokens of left-padded prompts, None where
    nothing is padded."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    made = DynamicCache(config=model.config)
    part = _parts(DynamicLayer)
    made.layers = [part() for _ in made.layers]
    made.reading = True  # the prompts; until the first single token
    made.hidden = None if prompt_mask is None or bool(prompt_mask.all()) else prompt_mask == 0
    return made


def keep_rows(cache: Any, rows: Tensor | slice) -> None:
    """Keep some rows alone."""
    cache.batch_select_indices(rows)
    if cache.hidden is not None:
        cache.hidden = cache.hidden[rows]


def part_of(cache: Any, rows: slice) -> Any:
    """The cache of some rows, by itself from now on."""
    made = copy(cache)
    made.layers = [copy(layer) for layer in cache.layers]
    keep_rows(made, rows)
    return made


@contextmanager
def attention_by_parts(model: Any) -> Iterator[None]:
    """Inside, the model's layers ask for the attention here; threads may share it, each with a cache of its own."""
    _register()
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


@contextmanager
def attending_to(cache: Any) -> Iterator[None]:
    """Inside, this thread's single tokens attend to the parts of `cache`."""
    token = _current.set(cache)
    try:
        yield
    finally:
        _current.reset(token)


def stand_in(ids: Tensor) -> Tensor:
    """What a model is handed for a mask: ready-made, so that it builds none.  What is hidden the cache knows."""
    return ids.new_ones(1, 1, 1, 1).bool()


def works_in_parts(model: Any) -> bool:
    """Whether the model decodes in parts as it does plainly: tried once, on four tokens.

    False on anything but a CPU (nothing was measured there), for layers that do not attend to everything, for other
    attention than sdpa's, and where the numbers differ (caps, sinks, biases: whatever the products here do not know).
    """
    if model.device.type != "cpu" or not takes_masks(model):
        return False
    if model not in _known:
        _known[model] = _full_layers(model) and _agrees(model)
    return _known[model]


def takes_masks(model: Any) -> bool:
    """Whether the model's attention takes a ready-made boolean mask."""
    return has_packed_attention(model) or getattr(model.config, "_attn_implementation", "") == "sdpa"


def _full_layers(model: Any) -> bool:
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _agrees(model: Any) -> bool:
    import torch

    ids = torch.arange(8, device=model.device).view(2, 4) % model.config.vocab_size
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]], device=model.device)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits[:, -1]
        parts = make_parts(model, mask[:, :3])
        first = {"input_ids": ids[:, :3], "attention_mask": mask[:, :3], "position_ids": places[:, :3]}
        last = {"input_ids": ids[:, 3:], "attention_mask": stand_in(ids), "position_ids": places[:, 3:]}
        try:
            with attention_by_parts(model), attending_to(parts):
                model(**first, past_key_values=parts)
                parts.reading = False
                found = model(**last, past_key_values=parts).logits[:, -1]
        except (TypeError, RuntimeError):  # a model whose attention wants something else
            return False
    scale = max(1.0, float(plain.abs().max()))
    near = 0.05 if plain.dtype in (torch.bfloat16, torch.float16) or getattr(model, "computes_half", False) else 1e-4
    return bool(((found - plain).abs() <= near * scale).all())


@cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **named: Any,
) -> tuple[Tensor, None]:
    """Attention of one token a row, query [B, H, 1, D], to the layer's parts: [B, 1, H, D].  While prompts are read,
    transformers' "sdpa", or by row where they lie end to end."""
    import torch

    held = _current.get()
    if held.reading:
        return attend(module, query, key, value, attention_mask, scaling=scaling, **named)
    layer = held.layers[module.layer_idx]
    if key is not layer.keys or value is not layer.values or query.shape[2] != 1:
        raise RuntimeError("these keys are not the cache's own")
    rows, heads, _, width = query.shape
    groups = key.shape[1]
    each = (rows * groups, heads // groups, width)
    query = (query * (width**-0.5 if scaling is None else scaling)).reshape(each)
    old_keys, old_values, keys, values = (x.flatten(0, 1) for x in (*layer.old, *layer.recent()))
    weights = torch.cat([torch.bmm(query, old_keys.mT), torch.bmm(query, keys.mT)], -1)
    if held.hidden is not None:
        prompt = weights.view(rows, heads, -1)[..., : held.hidden.shape[1]]
        prompt.masked_fill_(held.hidden[:, None], float("-inf"))
    before, since = torch.split(weights.softmax(-1), [old_keys.shape[1], keys.shape[1]], -1)
    found = torch.bmm(before, old_values).baddbmm_(since, values)
    return found.view(rows, 1, heads, width), None


@cache
def _parts(base: type) -> Any:
    """The layer's class, made where transformers is loaded already: nothing that imports this file pays for it."""
    import torch

    class PartsLayer(base):  # type: ignore[misc]
        """`old` are keys and values [B, heads, O, width] in one piece; `keys` and `values` the latest token's."""

        old: tuple[Tensor, Tensor]
        keys: Tensor
        values: Tensor
        _buffers: list[Tensor]
        _filled = 0

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            self.keys, self.values = key_states, value_states
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.keys, self.values = key_states, value_states
                self.old = key_states.contiguous(), value_states.contiguous()
                self._empty()
                return key_states, value_states
            if self._filled == RECENT:
                old = zip(self.old, self._buffers, strict=True)
                self.old = tuple(torch.cat(pair, 2) for pair in old)  # type: ignore[assignment]
                self._empty()
            for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
                buffer[:, :, self._filled] = states[:, :, 0]
            self._filled += 1
            return key_states, value_states

        def spread(self, mask: Tensor) -> None:
            """What was read end to end, [1, heads, N, width], to the N True places of mask [B, P]."""
            self.old = self._spread(self.old[0], mask), self._spread(self.old[1], mask)
            self._empty()

        def _spread(self, states: Tensor, mask: Tensor) -> Tensor:
            whole = states.new_zeros(*mask.shape, states.shape[1], states.shape[3])
            whole[mask] = states[0].transpose(0, 1)
            return whole.transpose(1, 2).contiguous()

        def recent(self) -> list[Tensor]:
            return [buffer[:, :, : self._filled] for buffer in self._buffers]

        def get_seq_length(self) -> int:
            return self.old[0].shape[2] + self._filled if self.is_initialized else 0

        def batch_select_indices(self, indices: Tensor | slice) -> None:
            self.old = self.old[0][indices], self.old[1][indices]
            self._buffers = [buffer[indices] for buffer in self._buffers]

        def _empty(self) -> None:
            self._buffers = [x.new_empty(*x.shape[:2], RECENT, x.shape[3]) for x in self.old]
            self._filled = 0

    return PartsLayer
