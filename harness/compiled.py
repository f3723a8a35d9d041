"""Our sampler with a compiled decoding step: static shapes, so that torch.compile sees the same step every time.

On a GPU the step is replayed as a CUDA graph (mode reduce-overhead), which spares launching its kernels one by one; on
a CPU, where inductor's default is used, compiling takes a minute or more, and it is there for tests.  The loop is
rollout.sample's own, so draws, tokens and log-probabilities are too, to rounding.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.decoding import next_logits
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.fixed_cache import FixedCache, make_fixed
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.rollout import make_rollout, pad_prompts
from rlhf_bench.harness.text import encode_prompts
from rlhf_bench.harness.writing import write

if TYPE_CHECKING:
    from torch import Tensor

HALVINGS = 3
"""A batch shrinks to half its size at most so often: every size is compiled, and has a cache, of its own."""


class CompiledSampler:
    """rollout.sample for batches of `rows` with `room` for a prompt and its response; larger ones compile anew."""

    def __init__(self, rows: int, room: int, compiler: Callable[[Any], Any]) -> None:
        self._rows, self._room = rows, room
        self.step = compiler(next_logits)
        self._caches: dict[int, FixedCache] = {}

    def __call__(
        self,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[str],
        max_new: int,
        *,
        generator: Any = None,
        temperature: float = 1.0,
    ) -> Rollout:
        """As rollout.sample.  Raises BenchError for a model whose attention it cannot serve."""
        import torch

        ids, mask = pad_prompts(encode_prompts(tokenizer, prompts), tokenizer.pad_token_id, str(model.device))
        if ids.shape[1] + max_new > self._room or len(ids) > self._rows:
            self._room, self._rows = max(self._room, ids.shape[1] + max_new), max(self._rows, len(ids))
            self._caches.clear()
        uniforms = None if generator is None else torch.rand(len(ids), max_new, generator=generator).to(ids.device)
        decoder = FixedDecoder(self, model, mask)
        response, drawn = write(decoder, model, tokenizer, ids, max_new, uniforms, temperature)
        return make_rollout(tokenizer, prompts, ids, mask, response, drawn)

    def cache(self, model: Any, count: int) -> FixedCache:
        """The cache of the smallest batch that holds so many rows."""
        size = self._rows
        for _ in range(HALVINGS):
            half = -(-size // 2)
            if half < count:
                break
            size = half
        if size not in self._caches:
            self._caches[size] = make_fixed(model, size, self._room)
        return self._caches[size]


class FixedDecoder:
    """As decoding.Decoder, its rows lying in the places of a batch that is as large or larger."""

    def __init__(self, sampler: CompiledSampler, model: Any, mask: Tensor) -> None:
        import torch

        self._sampler, self._model, self._mask = sampler, model, mask
        self._cache = sampler.cache(model, len(mask))
        self._places = torch.arange(len(mask), device=mask.device)  # where the rows lie in the batch

    def read(self, ids: Tensor) -> Tensor:
        """Logits [B, V] after the prompts' ids [B, P]."""
        import torch

        filled = torch.arange(self._cache.rows, device=ids.device).clamp(max=len(ids) - 1)
        return self._cache.read(self._model, ids[filled], self._mask[filled])[self._places]

    def write(self, token: Tensor) -> Tensor:
        """Logits [B, V] after one more token [B]."""
        whole = token.new_zeros(self._cache.rows).index_copy(0, self._places, token)
        return self._cache.write(self._sampler.step, self._model, whole)[self._places]

    def keep(self, rows: Tensor) -> None:
        """From now on the rows at these indices alone; they move only when a smaller batch holds them."""
        import torch

        self._places = self._places[rows]
        smaller = self._sampler.cache(self._model, len(rows))
        if smaller is not self._cache:
            filled = torch.arange(smaller.rows, device=rows.device).clamp(max=len(rows) - 1)
            smaller.take(self._cache, self._places[filled])
            self._cache, self._places = smaller, torch.arange(len(rows), device=rows.device)


@contextmanager
def open_compiled(rows: int, room: int, device: str, backend: str = "inductor") -> Iterator[CompiledSampler]:
    """A CompiledSampler; what was compiled is forgotten at the end.

    Raises BenchError where there is nothing to compile with.
    """
    import torch

    if backend == "inductor" and not device.startswith("cuda"):
        _require_compiler()
    mode = "reduce-overhead" if backend == "inductor" and device.startswith("cuda") else None

    def compiler(function: Any) -> Any:
        return torch.compile(function, backend=backend, mode=mode, dynamic=False)

    try:
        yield CompiledSampler(rows, room, compiler)
    finally:
        torch.compiler.reset()


def _require_compiler() -> None:
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        seen = f"ppo.compile needs a C++ compiler on a CPU; {name!r} is not found."
        raise BenchError(seen, "Install g++ or set CXX.")
