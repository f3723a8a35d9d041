"""How many rows go through a model at once: smaller micro-batches after the device has run out of memory."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.faults import is_out_of_memory

T = TypeVar("T")
R = TypeVar("R")

LOWER = (
    "Shorten what it reads (data.max_prompt_tokens), train adapters (policy.lora=8), recompute activations "
    "(policy.gradient_checkpointing=true), set policy.dtype=bfloat16, or take a machine with more memory."
)
"""What makes a single row smaller, or leaves it more room."""


class Row(NamedTuple):
    """A row for messages: what is done with it, and the tokens of the longest of its kind (0: unknown)."""

    doing: str = ""
    tokens: int = 0

    def too_large(self, error: Exception) -> BenchError:
        """The error for a single row that does not fit the memory, where `error` was raised."""
        size = f" of {self.tokens} tokens" if self.tokens else ""
        doing = f" while {self.doing}" if self.doing else ""
        return BenchError(f"Out of memory{doing} with a single row{size} ({one_line(error)}).", LOWER)


class MicroBatchLimit:
    """The most rows that fit the device's memory, found by trial.

    `rows` is None until a micro-batch was too large.  Every failure halves it for good and is reported on stderr; the
    computation is then repeated in smaller parts, whose sums are the same.
    """

    def __init__(self) -> None:
        self.rows: int | None = None

    def run(self, function: Callable[[int], T], wanted: int, row: Row = Row()) -> T:  # noqa: B008 - immutable
        """`function(rows)` with as many of the `wanted` rows as fit, on a GPU or a CPU.  It must be repeatable.

        Raises BenchError, with what `row` says, when a single row does not fit.
        """
        while True:
            rows = min(wanted, self.rows or wanted)
            try:
                return function(rows)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if rows <= 1:
                    raise row.too_large(error) from error
            # outside of the except clause: the exception's traceback keeps the tensors of the failed attempt alive
            self.rows = min(rows // 2, self.rows or rows)  # another thread may have halved them further
            sys.stderr.write(f"Out of memory with {rows} rows at once: going on with {self.rows}.\n")
            release()

    def each(self, function: Callable[[Sequence[R]], Sequence[T]], rows: Sequence[R], size: int, row: Row) -> list[T]:
        """What `function` gives for each of `rows`, in their order, at most `size` of them at a time.

        What was computed before the memory ended is kept.  Raises BenchError as `run`.
        """
        found: list[T] = []
        while len(found) < len(rows):
            rest = rows[len(found) : len(found) + size]
            found += self.run(lambda count, rest=rest: function(rest[:count]), len(rest), row)  # type: ignore[misc]
        return found


_limits: WeakKeyDictionary[object, dict[str, MicroBatchLimit]] = WeakKeyDictionary()


def limit_of(model: object, doing: str) -> MicroBatchLimit:
    """How many rows a model takes at once when it does `doing`: found by trial, so it is kept from call to call."""
    return _limits.setdefault(model, {}).setdefault(doing, MicroBatchLimit())


def release() -> None:
    """Give back what is no longer used, so that the next attempt finds it: Python's cycles, the GPU's cache."""
    import torch

    gc.collect()  # a graph of gradients may be part of a cycle
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
