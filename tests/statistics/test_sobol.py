"""Sobol points and roots are those of scipy, whose modules take long to load."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from rlhf_bench.harness.statistics import sobol


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("log2", [0, 1, 5, 12])
def test_points_are_those_of_scipy(seed: int, log2: int) -> None:
    wanted = stats.qmc.Sobol(3, scramble=True, rng=np.random.default_rng(seed)).random_base2(log2)
    assert np.array_equal(sobol.points(np.random.default_rng(seed), log2), wanted)


@settings(max_examples=200, deadline=None)
@given(st.floats(-3, 3), st.floats(0.5, 3), st.floats(0, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_roots_are_those_of_brents_method(a: float, b: float, c: float, low: float, high: float) -> None:
    def function(x: float) -> float:
        return a + b * x + c * x**3

    assume(function(low) * function(high) < 0)
    found = sobol.root(function, low, high, 1e-12, 1e-12)
    # the same steps: another compiler may round one of them otherwise
    assert found == pytest.approx(optimize.brentq(function, low, high, xtol=1e-12, rtol=1e-12), abs=1e-11)


def test_ends_and_equal_signs() -> None:
    assert sobol.root(lambda x: x, 0.0, 1.0, 1e-9, 1e-9) == 0.0
    assert sobol.root(lambda x: x - 1, 0.0, 1.0, 1e-9, 1e-9) == 1.0
    with pytest.raises(ValueError, match="one sign"):
        sobol.root(lambda x: x + 1, 0.0, 1.0, 1e-9, 1e-9)
    # numbers whose products underflow to 0
    assert sobol.root(lambda x: 5.7e-111 * x**3, 1.0, -2.0, 1e-9, 1e-9) == pytest.approx(0.0, abs=1e-8)
