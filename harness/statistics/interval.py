"""The record that every statistic returns: a value with bounds, or None with the reason in the note.

An `Interval` never holds nan or inf: a number that is not finite becomes None, and the note says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

# Overflow and 0 / 0 pass through as inf and nan without a warning: `bounded` turns them into None with a reason.
allow_non_finite = np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence bounds, in the unit of the data.

    value: None where the estimate is undefined.   low, high: None where there are no bounds, as for a p-value or a
    distance.   method: how the bounds were computed.   note: what the reader should know, joined by semicolons.
    """

    value: float | None
    low: float | None
    high: float | None
    method: str
    note: str = ""

    def noted(self, *notes: str) -> Interval:
        """The same interval with notes added; empty ones are skipped."""
        return replace(self, note="; ".join(filter(None, (self.note, *notes))))

    def clipped(self, low: float, high: float) -> Interval:
        """The same value with its bounds cut to [low, high], the range of the statistic."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, low), high=min(self.high, high))


def undefined(reason: str, method: str = "none") -> Interval:
    """An interval without a value; the note is the reason."""
    return Interval(None, None, None, method, reason)


def bounded(value: float, low: float, high: float, method: str, note: str = "") -> Interval:
    """A value with bounds; what is not finite is None, with a note.

    Bounds that miss the value are widened to include it.
    """
    if not math.isfinite(value):
        return undefined("the value is not a finite number", method)
    if not (math.isfinite(low) and math.isfinite(high)):
        return Interval(float(value), None, None, method).noted(note, "the bounds are not finite numbers")
    # A bootstrap of a few skewed values can put both bounds on one side of the estimate.
    return Interval(float(value), float(min(low, value)), float(max(high, value)), method, note)


def unbounded(value: float, method: str, note: str = "") -> Interval:
    """A number without bounds: a p-value, a distance, or an estimate whose spread is unknown."""
    if not math.isfinite(value):
        return undefined("the value is not a finite number", method)
    return Interval(float(value), None, None, method, note)
