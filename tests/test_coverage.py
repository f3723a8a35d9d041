"""Slow: the intervals hold the truth as often as the project's rules promise (`benchmarks/coverage.py` has the table).

The promises: Wilson .94 to .98 on verdicts, two-way t .92 to .955, at a nominal .95; each end gets three Monte Carlo
standard errors.  Above is no broken promise where seeds add nothing: with no spread left to estimate V errs upwards.
"""

import math

import numpy as np
import pytest

from rlhf_bench.harness import statistics as s

REPETITIONS = 1500
pytestmark = pytest.mark.slow


def slack(share):
    return 3 * math.sqrt(share * (1 - share) / REPETITIONS)


def covered(draw, measure, truth):
    rng = np.random.default_rng(20)
    found = [measure(draw(rng)) for _ in range(REPETITIONS)]
    return np.mean([one.low - 1e-12 <= truth <= one.high + 1e-12 for one in found])


def wilson_coverage(n, rate, ties):
    chances = [rate - ties / 2, ties, 1 - rate - ties / 2]
    return covered(lambda rng: rng.choice([1.0, 0.5, 0.0], size=n, p=chances), lambda y: s.wilson(y, 0.95), rate)


@pytest.mark.parametrize("n", [10, 50, 200, 500])
@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("ties", [0.0, 0.04])
def test_wilson(n, rate, ties, request):
    if (n, rate, ties) == (10, 0.95, 0.0):
        # Enumerated: 10 and 9 of 10 hold .95, 8 does not; .5987 + .3151.
        request.applymarker(pytest.mark.xfail(reason="the exact coverage of Wilson's interval here is .914"))
    assert 0.94 - slack(0.94) <= wilson_coverage(n, rate, ties) <= 0.98 + slack(0.98)


def two_way_coverage(seeds, seed_sd, prompt_sd, holes=0.0):
    def draw(rng):
        cells = seed_sd * rng.normal(size=(seeds, 1)) + prompt_sd * rng.normal(size=200)
        cells = cells + rng.normal(size=(seeds, 200))
        return np.where(rng.random(cells.shape) < holes, np.nan, cells)

    return covered(draw, lambda cells: s.two_way(cells, 0.95), 0.0)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize(
    ("seed_sd", "prompt_sd"), [(0.0, 1.0), (0.07, 1.0), (0.15, 0.3), (0.15, 1.0), (0.5, 0.3), (0.5, 1.0)]
)
@pytest.mark.parametrize("holes", [0.0, 0.2])
def test_two_way(seeds, seed_sd, prompt_sd, holes, request):
    if seeds == 2:
        reason = "two seeds: Satterthwaite's degrees of freedom rest on one, the interval then covers as little as .88"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=False))
    share = two_way_coverage(seeds, seed_sd, prompt_sd, holes)
    assert 0.92 - slack(0.92) <= share
    assert share <= 0.955 + slack(0.955) or seed_sd == 0
