"""The bootstrap against scipy with the same draws, and against a slow loop."""

import math

import numpy as np
import pytest
from intervals import near, rng
from scipy import stats

from rlhf_bench.harness.statistics import intervals as s
from rlhf_bench.harness.statistics.intervals import Interval

SAMPLES = {
    "normal": rng(1).normal(size=30),
    "skewed": rng(2).exponential(size=200),
    "tied": rng(3).integers(-2, 3, size=64).astype(float),
    "two values": (rng(4).random(40) < 0.2).astype(float),
}


def scipy_interval(data, statistic, resamples, level=0.9, seed=0):
    found = stats.bootstrap(
        data, statistic, n_resamples=resamples, batch=100, paired=True, confidence_level=level, method="BCa",
        rng=rng(seed),
    )  # fmt: skip
    return found.confidence_interval


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("resamples", [99, 1999])
def test_bca_equals_scipy_with_the_same_draws(name, resamples):
    y = SAMPLES[name]
    known = scipy_interval((y,), np.mean, resamples)
    found = s.bca(y[:, None], lambda totals: totals[..., 0] / y.size, 0.9, rng(), resamples)
    near(found, Interval(y.mean(), known.low, known.high, ""), 1e-8)
    assert found.method == "BCa bootstrap"


def test_bca_of_a_ratio_of_sums_equals_scipy():
    sums, sizes = rng(5).normal(5, 1, size=(2, 50))
    known = scipy_interval((sums, sizes), lambda a, b, axis: a.sum(axis) / b.sum(axis), 999)
    found = s.bca(np.stack([sums, sizes], axis=1), lambda totals: totals[..., 0] / totals[..., 1], 0.9, rng(), 999)
    near(found, Interval(sums.sum() / sizes.sum(), known.low, known.high, ""), 1e-8)


def test_the_size_of_a_batch_of_draws_does_not_change_the_interval(monkeypatch):
    y = rng(6).normal(size=500)
    whole = s.paired(y, 0.95, rng(), resamples=400)
    monkeypatch.setattr("rlhf_bench.harness.statistics.cells.AT_ONCE", 1700)
    near(s.paired(y, 0.95, rng(), resamples=400), whole)


def test_expansion_widens_intervals_of_few_prompts():
    """Hesterberg's quantiles are wider than normal ones for few values, and close to them for many."""
    for n, least, most in ((10, 1.15, 1.35), (1000, 1.0, 1.01)):
        y = rng(7).normal(size=n)
        columns = np.stack([y, np.ones(n)], axis=1)
        ratio = lambda totals: totals[..., 0] / totals[..., 1]  # noqa: E731
        plain, wide = (s.bca(columns, ratio, 0.95, rng(), 20000, expanded) for expanded in (False, True))
        assert least <= (wide.high - wide.low) / (plain.high - plain.low) <= most


def test_where_bca_is_undefined_the_note_names_the_percentile_bootstrap():
    """A statistic that some resamples leave undefined."""
    y = np.array([1.0, 2.0, 3.0])
    found = s.bca(y[:, None], lambda totals: np.where(totals[..., 0] > 8.5, np.nan, totals[..., 0]), 0.9, rng(), 199)
    assert found.method == "percentile bootstrap"
    assert "BCa is undefined" in found.note


def test_pigeonhole_resamples_whole_clusters():
    """Clusters of three copies of a prompt give the interval of one prompt each."""
    Y = rng(9).normal(size=(3, 12))  # noqa: N806
    thrice = s.pigeonhole(np.repeat(Y, 3, axis=1), 0.9, rng(), 500, np.repeat(np.arange(12), 3))
    near(thrice, s.pigeonhole(Y, 0.9, rng(), 500))


def test_pigeonhole_agrees_with_a_loop():
    Y = rng(7).normal(size=(4, 12))  # noqa: N806
    Y[0, 3] = math.nan
    r = rng(8)
    means = [np.nanmean(Y[r.integers(4, size=4)][:, r.integers(12, size=12)]) for _ in range(4000)]
    found = s.pigeonhole(Y, 0.9, rng(), 4000)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])), abs=0.06)
