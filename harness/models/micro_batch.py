"""How many rows go through a model at once: smaller micro-batches after the device has run out of memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class MicroBatchLimit:
    """The most rows that fit the device's memory, found by trial.

    `rows` is None until a micro-batch was too large.  Every failure halves it for good and is reported on stderr; the
    computation is then repeated in smaller parts, whose sums are the same.
    """

    def __init__(self) -> None:
        self.rows: int | None = None

    def run(self, function: Callable[[int], T], wanted: int) -> T:
        """`function(rows)` with as many of the `wanted` rows as fit.  It must be repeatable.

        Raises torch.OutOfMemoryError when a single row does not fit.
        """
        import torch

        while True:
            rows = min(wanted, self.rows or wanted)
            try:
                return function(rows)
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
            # outside of the except clause: the exception's traceback keeps the tensors of the failed attempt alive
            self.rows = min(rows // 2, self.rows or rows)  # another thread may have halved them further
            sys.stderr.write(f"Out of memory with {rows} rows at once: going on with {self.rows}.\n")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
