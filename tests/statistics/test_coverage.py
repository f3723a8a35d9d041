"""Slow: the intervals contain the truth at their level, and equal arms are seldom called different.

The promises at a nominal .95 (`benchmarks/coverage.py` has the whole table): Wilson .94 to .98 on verdicts; several
seeds at least .94, and at most .98 from three seeds on where seeds differ; the rest at least .93.  Each end gets three
Monte Carlo standard errors.  Above is no broken promise where seeds add nothing: few of them cannot show that.
"""

import math

import numpy as np
import pytest
from scipy import special

from rlhf_bench.harness.statistics import comparisons
from rlhf_bench.harness.statistics import intervals as s
from rlhf_bench.harness.statistics.length_control import length_controlled
from rlhf_bench.harness.statistics.ranking import rank, strengths

REPETITIONS = 1500
pytestmark = pytest.mark.slow


def slack(share, repetitions=REPETITIONS):
    return 3 * math.sqrt(share * (1 - share) / repetitions)


def covered(draw, measure, truth, repetitions=REPETITIONS):
    rng = np.random.default_rng(20)
    found = [measure(draw(rng)) for _ in range(repetitions)]
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


def crossed(seeds, prompts, seed_sd, prompt_sd, holes=0.0, clusters=None):
    of = np.arange(prompts) % (clusters or prompts)

    def draw(rng):
        cells = seed_sd * rng.normal(size=(seeds, 1)) + prompt_sd * rng.normal(size=prompts)[of]
        cells = cells + rng.normal(size=(seeds, prompts))
        return np.where(rng.random(cells.shape) < holes, np.nan, cells)

    return draw


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize(
    ("seed_sd", "prompt_sd"), [(0.0, 1.0), (0.07, 1.0), (0.15, 0.3), (0.15, 1.0), (0.5, 0.3), (0.5, 1.0)]
)
@pytest.mark.parametrize("holes", [0.0, 0.2])
def test_two_way(seeds, seed_sd, prompt_sd, holes):
    share = covered(crossed(seeds, 200, seed_sd, prompt_sd, holes), lambda cells: s.two_way(cells, 0.95), 0.0)
    assert share >= 0.94 - slack(0.94)
    assert share <= 0.98 + slack(0.98) or seed_sd == 0 or seeds == 2


@pytest.mark.parametrize("seeds", [1, 2, 3, 10])
def test_sources_are_covered(seeds):
    """25 sources of four prompts; without them the interval over prompts covers about .75."""
    names, draw = np.arange(100) % 25, crossed(seeds, 100, 0.15 if seeds > 1 else 0.0, 1.0, clusters=25)
    rng = np.random.default_rng(0)
    share = covered(draw, lambda y: s.interval("change", y, 0.95, rng, names), 0.0)
    assert share >= 0.93 - slack(0.93)
    assert covered(draw, lambda y: s.interval("change", y, 0.95, rng), 0.0) < share


def rates(seeds, prompts, rate, seed_share):
    """0 or 1: half the cases follow a rate per seed, half one per prompt, both Beta around `rate`."""

    def beta(rng, share, size):
        total = 1 / share - 1 if share else 0.0
        return rng.beta(rate * total, (1 - rate) * total, size=size) if share else np.full(size, rate)

    def draw(rng):
        by_seed = rng.random((seeds, prompts)) < beta(rng, seed_share, (seeds, 1))
        by_prompt = rng.random((seeds, prompts)) < beta(rng, 0.3, (1, prompts))
        return np.where(rng.random((seeds, prompts)) < 0.5, by_seed, by_prompt).astype(float)

    return draw


@pytest.mark.parametrize("kind", ["win", "rate"])
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("rate", [0.6, 0.95, 0.99])
@pytest.mark.parametrize("seed_share", [0.0, 0.05])
def test_rates_over_seeds(kind, seeds, rate, seed_share):
    rng = np.random.default_rng(0)
    share = covered(rates(seeds, 200, rate, seed_share), lambda y: s.interval(kind, y, 0.95, rng), rate)
    assert share >= 0.93 - slack(0.93)


@pytest.mark.parametrize("n", [10, 30, 100])
def test_bca(n):
    rng = np.random.default_rng(0)
    share = covered(lambda g: g.normal(size=n), lambda y: s.paired(y, 0.95, rng, resamples=999), 0.0)
    assert 0.93 - slack(0.93) <= share <= 0.97 + slack(0.97)


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_length_controlled(seeds):
    def draw(rng):
        lengths = rng.normal(0.5, 1, size=(seeds, 200))
        odds = (seeds > 1) * 0.3 * rng.normal(size=(seeds, 1)) + 1.5 * np.tanh(lengths)
        return np.stack([(rng.random(lengths.shape) < special.expit(odds)).astype(float), lengths])

    rng, count = np.random.default_rng(0), REPETITIONS // 3
    share = covered(draw, lambda y: length_controlled(y[0], y[1], 0.95, rng, resamples=499), 0.5, count)
    assert share >= 0.93 - slack(0.93, count)


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_strengths(seeds):
    means, seed_sd = np.array([0.0, 0.4, 1.0]), 0.3 * (seeds > 1)
    chance = special.ndtr((means[:, None] - means) / math.sqrt(2 * (1 + seed_sd**2)))
    truth = strengths(chance * (1 - np.eye(3)))

    def draw(rng):
        cells = rng.normal(size=(3, seeds, 100)) + means[:, None, None]
        return cells + seed_sd * rng.normal(size=(3, seeds, 1))

    rng, count = np.random.default_rng(0), REPETITIONS // 3
    share = covered(draw, lambda y: rank(list(y), 0.95, rng, resamples=499).strengths[2], truth[2], count)
    assert share >= 0.93 - slack(0.93, count)


def called_different(seeds, draw, kind, repetitions):
    rng = np.random.default_rng(seeds)
    p = [comparisons.p_value(draw(rng), draw(rng), kind, rng).value for _ in range(repetitions)]
    return np.mean([one is not None and one < 0.05 for one in p])


@pytest.mark.parametrize(
    ("seeds", "seed_sd"), [(1, 0.0), *((seeds, sd) for seeds in (2, 3, 4, 5) for sd in (0.0, 0.15, 0.5))]
)
def test_equal_arms_are_seldom_called_different(seeds, seed_sd):
    """One seed: only where seeds add nothing, and a report calls no two reward models different on one seed."""
    count = 600
    for kind, draw in (("change", crossed(seeds, 100, seed_sd, 0.0)), ("win", rates(seeds, 100, 0.7, seed_sd))):
        assert called_different(seeds, draw, kind, count) <= 0.05 + slack(0.05, count)
