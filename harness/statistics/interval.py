"""The record that every statistic ends in: a value with bounds, or None and why.

No nan or inf gets into one: what is not a finite number becomes None, and the note says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

allow_non_finite = np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")
# Overflow is let through as inf on purpose: `made` turns it into None with a reason.


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence bounds, in the unit of the data.  A p-value or distance has no bounds."""

    value: float | None
    low: float | None
    high: float | None
    method: str
    note: str = ""

    def noted(self, *notes: str) -> Interval:
        return replace(self, note="; ".join(filter(None, (self.note, *notes))))

    def clipped(self, low: float, high: float) -> Interval:
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, low), high=min(self.high, high))


def undefined(reason: str, method: str = "none") -> Interval:
    """Nothing can be said, and why."""
    return Interval(None, None, None, method, reason)


def bounded(value: float, low: float, high: float, method: str, note: str = "") -> Interval:
    """Value with bounds.  Bounds that miss the value (a bootstrap of a few skewed values) are widened to hold it."""
    if not math.isfinite(value):
        return undefined("the value is not a finite number", method)
    if not (math.isfinite(low) and math.isfinite(high)):
        return Interval(float(value), None, None, method).noted(note, "the bounds are not finite numbers")
    return Interval(float(value), float(min(low, value)), float(max(high, value)), method, note)


def unbounded(value: float, method: str, note: str = "") -> Interval:
    """A number without bounds: a p-value, a distance, or an estimate whose spread is unknown."""
    if not math.isfinite(value):
        return undefined("the value is not a finite number", method)
    return Interval(float(value), None, None, method, note)
