"""A sample of a sequence that is spread evenly over it, whose order may mean something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def evenly(rows: Sequence[T], most: int) -> list[T]:
    """At most `most` of the rows, evenly spread, in their order."""
    count = min(len(rows), most)
    return [rows[k * len(rows) // count] for k in range(count)]
