"""Intervals against slow or published references."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from intervals import LEVELS, fast, near, rng
from scipy import stats

from rlhf_bench.harness.statistics import intervals as s
from rlhf_bench.harness.statistics.intervals import Interval


def test_known_wilson_values():
    assert s.wilson([0.0] * 200, 0.95).low == 0
    assert s.wilson([0.0] * 200, 0.95).high == pytest.approx(0.0188, abs=5e-5)
    for k, n in ((0, 1), (3, 10), (64, 100), (200, 200)):
        known = stats.binomtest(k, n).proportion_ci(method="wilson")
        near(s.wilson([1.0] * k + [0.0] * (n - k), 0.95), Interval(k / n, known.low, known.high, ""))
    near(s.wilson([0.5] * 8, 0.9), s.wilson([1.0, 0.0] * 4, 0.9))


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), LEVELS)
@fast
def test_exact_is_binomtest_and_the_beta_form_agrees(counts, level):
    k, n = counts
    known = stats.binomtest(k, n).proportion_ci(confidence_level=level)
    near(s.exact(k, n, level), Interval(k / n, known.low, known.high, ""))
    assert s._clopper_pearson(k / n, n, level) == pytest.approx((known.low, known.high), abs=1e-7)


def brute_force(Y, tail):  # noqa: N803
    """Mean and half width of the two-way interval, cell by cell."""
    S, P = len(Y), len(Y[0])  # noqa: N806
    grand = sum(Y[i][j] for i in range(S) for j in range(P)) / (S * P)
    row = [sum(Y[i][j] for j in range(P)) / P for i in range(S)]
    column = [sum(Y[i][j] for i in range(S)) / S for j in range(P)]
    seed = sum(P * (r - grand) ** 2 for r in row) / (S - 1)
    prompt = sum(S * (c - grand) ** 2 for c in column) / (P - 1)
    rest = sum((Y[i][j] - row[i] - column[j] + grand) ** 2 for i in range(S) for j in range(P))
    error = rest / ((S - 1) * (P - 1))
    of_seeds, of_prompts = stats.t.isf(tail, S - 1), stats.t.isf(tail, P - 1)
    prompts = max(prompt - error, 0)
    quantile = (seed * of_seeds + prompts * of_prompts) / (seed + prompts)
    parts = (of_seeds * math.sqrt(seed), of_prompts * math.sqrt(max(prompt, error)))
    half = max(quantile * math.sqrt(seed + prompts), *parts)
    return grand, half / math.sqrt(S * P)


@pytest.mark.parametrize(("seeds", "prompts", "spread"), [(2, 7, 0), (3, 20, 0.5), (5, 4, 3), (10, 30, 0.1)])
def test_two_way_agrees_with_brute_force(seeds, prompts, spread):
    r = rng(seeds)
    Y = r.normal(size=(seeds, prompts)) + spread * r.normal(size=(seeds, 1)) + r.normal(size=prompts)  # noqa: N806
    mean, half = brute_force(Y.tolist(), 0.05)
    near(s.two_way(Y, 0.9), Interval(mean, mean - half, mean + half, ""))


@fast
@given(hnp.arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(2, 9)), elements=st.floats(-10, 10)))
def test_several_seeds_never_get_a_shorter_interval_than_those_seeds_taken_as_given(Y):  # noqa: N803
    """The t interval over prompts of the seeds' mean ignores the spread between seeds."""
    found, means = s.two_way(Y, 0.95), Y.mean(axis=0)
    if np.ptp(means) > 1e-6:
        given_seeds = stats.ttest_1samp(means, 0).confidence_interval(0.95)
        assert found.high - found.low >= (given_seeds.high - given_seeds.low) * (1 - 1e-9)


def test_seeds_that_agree_by_chance_have_a_width():
    """Both seeds have the same mean, and so have all prompts: all spread is between the cells."""
    found = s.two_way([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]], 0.95)
    assert found.high - found.low > 0.5


def test_two_way_equals_t_over_seeds_where_prompts_do_not_vary():
    """Every seed one number for all prompts: the t interval over seeds."""
    per_seed = np.array([1.0, 2.0, 4.0, 5.0])
    known = stats.ttest_1samp(per_seed, 0).confidence_interval(0.95)
    near(s.two_way(np.repeat(per_seed[:, None], 500, axis=1), 0.95), Interval(3.0, known.low, known.high, ""))


def test_rate_over_seeds_agrees_with_its_definition():
    Y = (rng(1).random((4, 60)) < 0.1).astype(float)  # noqa: N806
    p, half = brute_force(Y.tolist(), 0.025)
    size = min(240, p * (1 - p) * (stats.t.ppf(0.975, 239) / half) ** 2)
    low = stats.beta.ppf(0.025, size * p, size * (1 - p) + 1)
    high = stats.beta.ppf(0.975, size * p + 1, size * (1 - p))
    near(s.rate_over_seeds(Y, 0.95), Interval(p, low, high, ""))


def test_a_rate_of_zero_over_seeds_is_that_of_its_prompts():
    found = s.interval("rate", np.zeros((5, 200)), 0.95, rng())
    near(found, s.exact(0, 200, 0.95))
    assert "200 independent prompts" in found.note
    near(s.interval("rate", np.ones((5, 200)), 0.95, rng(), np.arange(200) // 4), s.exact(50, 50, 0.95))


def test_one_cluster_per_pair_equals_the_mean_of_each_pair():
    Y = rng(2).normal(size=(3, 40))  # noqa: N806
    means = Y.reshape(3, 20, 2).mean(axis=2)
    near(s.two_way(Y, 0.95, np.arange(40) // 2), s.two_way(means, 0.95))
    near(s.paired(Y[0], 0.95, rng(), np.arange(40) // 2), s.paired(means[0], 0.95, rng()))


def test_unequal_clusters_keep_the_mean_over_prompts():
    Y, clusters = rng(3).normal(size=(3, 10)), ["a"] * 5 + ["b"] * 2 + ["", "", "c"]  # noqa: N806
    for kind, rows in (("change", Y), ("change", Y[:1]), ("rate", (Y > 0).astype(float))):
        assert s.interval(kind, rows, 0.95, rng(), clusters).value == pytest.approx(rows.mean())


def test_repeating_every_prompt_within_its_cluster_adds_no_certainty():
    Y = (rng(4).random((1, 50)) < 0.3).astype(float)  # noqa: N806
    once, thrice = s.rate_over_seeds(Y, 0.95), s.interval("rate", np.tile(Y, 3), 0.95, rng(), list(range(50)) * 3)
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.05)


def test_paired_and_verdicts_estimate_the_same_bootstrap():
    y = rng(6).choice([0.0, 0.5, 1.0], 300)
    one, other = s.paired(y, 0.95, rng()), s.verdicts(y, 0.95, rng())
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.01)


def test_wins_over_seeds_are_rates():
    Y = rng(5).choice([0.0, 0.5, 1.0], (3, 40))  # noqa: N806
    assert s.interval("win", Y, 0.95, rng()) == s.interval("rate", Y, 0.95, rng()) == s.rate_over_seeds(Y, 0.95)
