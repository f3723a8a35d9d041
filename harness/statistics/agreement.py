"""How far two scores of the same responses agree: over pairs of responses to one prompt, and over single responses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Both = tuple[float | None, float | None]
"""The scores of a pair's chosen and rejected response, None where there is none."""


def pair_accuracy(scores: Sequence[Both]) -> float | None:
    """The share of pairs whose chosen response scores higher, a tie half, of those scored; None without any."""
    known = [(first, second) for first, second in scores if first is not None and second is not None]
    return float(np.mean([_preference(*both) for both in known])) if known else None


def same_side(one: Sequence[Both], other: Sequence[Both]) -> float | None:
    """The share of pairs on which both scores prefer the same response, of those that both score; None without any.

    A tie of one of them counts half, and one of both as well: neither says which response is better.
    """
    found = []
    for a, b in zip(one, other, strict=True):
        if None in a or None in b:
            continue
        first, second = _preference(*a), _preference(*b)  # type: ignore[arg-type]  # neither is None here
        found.append(0.5 if 0.5 in (first, second) else float(first == second))
    return float(np.mean(found)) if found else None


def pearson(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Pearson's correlation, None where one of them does not vary or there are fewer than two values."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if len(a) < 2 or not a.std() > 0 or not b.std() > 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _preference(first: float, second: float) -> float:
    return 0.5 if first == second else float(first > second)
