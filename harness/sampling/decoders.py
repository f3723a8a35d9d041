"""What a model says comes next, token by token, of a batch whose rows leave when they have ended."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, Protocol

from rlhf_bench.harness.forward.last_layer import last_layer_only_at
from rlhf_bench.harness.forward.packing import packed_mask, packed_positions
from rlhf_bench.harness.sampling.kv_cache import is_plain, make_cache
from rlhf_bench.harness.sampling.kv_parts import attending_to, keep_rows, make_parts, part_of, stand_in, takes_masks

if TYPE_CHECKING:
    from torch import Tensor


class Decodes(Protocol):
    """What rollout's loop asks: logits [B, V] after the prompts [B, P], then after one token [B] at a time, of rows of
    which only those at some indices stay."""

    def read(self, ids: Tensor) -> Tensor: ...

    def write(self, token: Tensor) -> Tensor: ...

    def keep(self, rows: Tensor) -> None: ...


class Decoder:
    """Any model, with a cache that has room for `max_new` tokens after the prompts.

    `mask` [B, P] is 1 on the tokens of left-padded prompts.
    """

    def __init__(self, model: Any, mask: Tensor, max_new: int) -> None:
        import torch

        self._model, self._read = model, mask.shape[1]
        self._places = (mask.cumsum(1) - 1).clamp(min=0)
        self._cache = make_cache(model, mask.shape[1] + max_new)
        self._seen = torch.cat([mask, mask.new_ones(len(mask), max_new)], 1)  # what a row may attend to, once there
        self._ready = is_plain(self._cache) and takes_masks(model)
        self._padded = not bool(mask.all())

    def read(self, ids: Tensor) -> Tensor:
        """Logits [B, V] after the prompts' ids [B, P]."""
        return after_prompts(self._model, ids, self._seen[:, : self._read], self._places, self._cache)

    def write(self, token: Tensor) -> Tensor:
        """Logits [B, V] after one more token [B]."""
        self._read += 1
        self._places = self._places[:, -1:] + 1
        return next_logits(self._model, token[:, None], self._visible(), self._places, self._cache)

    def keep(self, rows: Tensor) -> None:
        """From now on the rows at these indices alone."""
        self._cache.batch_select_indices(rows)
        self._places, self._seen = self._places[rows], self._seen[rows]

    def _visible(self) -> Tensor | None:
        """The mask of one token: a row's columns ready-made [B, 1, 1, columns], which spares the model from building it
        again, or none where nothing is hidden; models whose layers differ in what they see get the columns."""
        if not self._ready:
            return self._seen[:, : self._read]
        return self._seen[:, None, None, : self._read].bool() if self._padded else None


class PartsDecoder:
    """A model that decodes in parts (kv_parts.works_in_parts), inside `attention_by_parts`; used as Decoder is."""

    def __init__(self, model: Any, mask: Tensor, rows: bool = False) -> None:
        """`rows`: the model reads rows that lie end to end (packing.reads_rows)."""
        self._model, self._mask, self._rows = model, mask, rows and not bool(mask.all())
        self._places = (mask.cumsum(1) - 1).clamp(min=0)
        self._cache = make_parts(model, mask)
        self._stand_in = stand_in(mask)

    def read(self, ids: Tensor) -> Tensor:
        with attending_to(self._cache):
            logits = self._end_to_end(ids) if self._rows else self._padded(ids)
        self._cache.reading = False
        return logits

    def _padded(self, ids: Tensor) -> Tensor:
        return after_prompts(self._model, ids, self._mask, self._places, self._cache)

    def _end_to_end(self, ids: Tensor) -> Tensor:
        """Prompts of different length without their padding; their keys and values get it afterwards."""
        import torch

        kept = self._mask.bool()
        lengths = kept.sum(1)
        last = lengths.cumsum(0) - 1
        ids = ids[kept][None]
        with last_layer_only_at(self._model, torch.zeros_like(ids, dtype=torch.bool).index_fill(1, last, True)):
            output = self._model(
                input_ids=ids,
                attention_mask=packed_mask(lengths),
                position_ids=packed_positions(lengths),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=last,
            )
        for layer in self._cache.layers:
            layer.spread(kept)
        logits: Tensor = output.logits[0]
        return logits

    def write(self, token: Tensor) -> Tensor:
        self._places = self._places[:, -1:] + 1
        with attending_to(self._cache):
            return next_logits(self._model, token[:, None], self._stand_in, self._places, self._cache)

    def keep(self, rows: Tensor) -> None:
        keep_rows(self._cache, rows)
        self._places = self._places[rows]

    def part(self, rows: slice) -> PartsDecoder:
        """A decoder of these rows, by itself from now on."""
        made = copy(self)
        made._cache = part_of(self._cache, rows)
        made._places = self._places[rows]
        return made


def after_prompts(model: Any, ids: Tensor, mask: Tensor, places: Tensor, cache: Any) -> Tensor:
    import torch

    last = torch.zeros_like(ids, dtype=torch.bool)
    last[:, -1] = True
    with last_layer_only_at(model, last):
        return next_logits(model, ids, mask, places, cache)


def next_logits(model: Any, ids: Tensor, mask: Tensor | None, places: Tensor, cache: Any) -> Tensor:
    """Logits [B, V] of the token after `ids`; the cache then holds `ids`."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[:, -1]
    return logits
