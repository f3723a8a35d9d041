"""What tests of statistics share: any cells, and what a sound interval is."""

import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

LEVELS = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99])
VERDICTS = st.sampled_from([0.0, 0.5, 1.0])
shapes = st.tuples(st.integers(1, 4), st.integers(1, 9))


def rng(seed=0):
    return np.random.default_rng(seed)


def near(a, b, tolerance=1e-9):
    """Two intervals alike, None where None."""
    for x, y in zip((a.value, a.low, a.high), (b.value, b.low, b.high), strict=True):
        assert (x is None) == (y is None)
        assert x is None or x == pytest.approx(y, rel=tolerance, abs=tolerance)


def sound(found, low=-math.inf, high=math.inf):
    """No nan, no inf, the value inside its bounds, a reason where there is none."""
    for number in (found.value, found.low, found.high):
        assert number is None or (math.isfinite(number) and low <= number <= high)
    assert (found.low is None) == (found.high is None)
    if found.low is None:
        assert found.note
    else:
        assert found.low <= found.value <= found.high


wild = hnp.arrays(np.float64, shapes, elements=st.floats(allow_infinity=False))
bounded = hnp.arrays(np.float64, shapes, elements=st.floats(0, 1) | VERDICTS | st.just(math.nan))
fast = settings(max_examples=50, deadline=None)
