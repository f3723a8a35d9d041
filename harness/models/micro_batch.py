"""What fits the device's memory, learned by running out of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class MicroBatchLimit:
    """The rows that may go through a model at once: as many as asked for, until that was too many for the memory.

    `rows` is None until then.  Each failure halves them for good and is said on stderr; what had been begun is done
    again in smaller parts, whose sums are the same.
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
            self._halve(rows)  # out here: the exception's traceback would hold on to the tensors

    def _halve(self, rows: int) -> None:
        import torch

        self.rows = min(rows // 2, self.rows or rows)  # another thread may have halved them further
        sys.stderr.write(f"Out of memory with {rows} rows at once: going on with {self.rows}.\n")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
