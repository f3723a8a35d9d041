"""The difference of two independent estimates from their intervals alone."""

from __future__ import annotations

import math
from typing import NamedTuple


class Ends(NamedTuple):
    """An estimate with the ends of its interval."""

    value: float
    low: float
    high: float


def difference(a: Ends, b: Ends) -> Ends:
    """b - a with its interval, at the common level of both: MOVER, the method of variance estimates recovery.

    Zou and Donner 2008 (Statistics in Medicine 27, equation 3): each end takes the variance that the facing ends of
    both intervals tell, so intervals may be skewed or exact.  It assumes independent estimates: of positively related
    ones, such as runs on the same seeds, it is wider than it need be.
    """
    value = b.value - a.value
    low = value - math.hypot(b.value - b.low, a.high - a.value)
    high = value + math.hypot(b.high - b.value, a.value - a.low)
    return Ends(value, low, high)
