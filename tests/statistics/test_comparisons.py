"""Laws of comparisons, and agreement with slow or published references."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from intervals import LEVELS, bounded, fast, rng, sound, wild
from scipy import stats

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import comparisons as c
from rlhf_bench.harness.statistics.intervals import interval


@fast
@given(wild, LEVELS, st.booleans())
def test_any_matrix_gives_a_comparison_or_a_reason(Y, level, grouped):  # noqa: N803
    clusters = np.arange(Y.shape[1]) // 2 if grouped else None
    sound(c.difference(Y, Y[:, ::-1], "change", level, rng(), clusters))
    for kind in ("change", "win"):
        for p in (c.permutation_p(Y[0], rng(), 99, clusters), c.p_value(Y, Y[:, ::-1], kind, rng(), clusters)):
            assert p.value is None or 0 <= p.value <= 1
            assert p.value is not None or p.note


def test_equal_wins_differ_by_at_most_the_exact_bound():
    same = c.difference(np.ones((1, 50)), np.ones((1, 50)), "win", 0.95, rng())
    assert same.low == -same.high < 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: c.difference([[1.0]], [[1.0, 2.0]], "change", 0.95, rng()),
        lambda: c.smallest_detectable(0.95),
        lambda: c.smallest_detectable(0.95, n=10, se=0.1),
    ],
)
def test_errors_name_the_input(call):
    with pytest.raises(BenchError):
        call()


@fast
@given(bounded, bounded, LEVELS)
def test_differences_of_rates_stay_in_minus_one_to_one(a, b, level):
    width = min(a.shape[1], b.shape[1])
    for kind in ("win", "rate"):
        sound(c.difference(a[:, :width], b[:, :width], kind, level, rng()), -1, 1)


def test_permutation_p_is_the_share_of_sign_flips():
    diff = np.array([0.3, 1.2, -0.4, 0.9, 2.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T
    known = np.mean(np.abs(signs @ diff) >= abs(diff.sum()) - 1e-12)
    assert c.permutation_p(diff, rng()).value == pytest.approx(known)
    assert c.permutation_p(np.zeros(20), rng()).value == 1


def test_whole_clusters_are_flipped():
    diff, clusters = np.array([0.3, 1.2, -0.4, 0.9, 2.0, 0.1]), ["a", "a", "b", "b", "", "c"]
    sums = np.array([1.5, 0.5, 2.0, 0.1])
    assert c.permutation_p(diff, rng(), clusters=clusters).value == c.permutation_p(sums, rng()).value == 0.125


def test_sampled_sign_flips_agree_with_all_of_them():
    diff = rng(3).normal(0.4, 1, 12)
    every, some = c.permutation_p(diff, rng()), c.permutation_p(diff, rng(), resamples=4000)
    assert (every.note, some.note) == ("all sign flips", "")
    assert some.value == pytest.approx(every.value, abs=0.03)


@fast
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(2, 4), st.integers(2, 9)), elements=st.floats(-5, 5)), st.booleans()
)
def test_p_over_seeds_is_the_level_at_which_the_interval_reaches_zero(Y, grouped):  # noqa: N803
    clusters = np.arange(Y.shape[1]) // 2 if grouped and Y.shape[1] > 2 else None
    p = c.two_way_p(Y, clusters).value
    if p is not None and 1e-6 < p < 1 - 1e-6 and np.ptp(Y) > 1e-3:
        found = interval("change", Y, 1 - p, rng(), clusters)
        assert min(abs(found.low), abs(found.high)) == pytest.approx(0, abs=1e-6)


def test_p_over_seeds_of_equal_differences():
    assert c.two_way_p(np.zeros((3, 5))).value == 1
    assert c.two_way_p(np.ones((3, 5))).value is None
    wins = c.p_value(np.ones((3, 5)), np.zeros((3, 5)), "win", rng())
    assert wins.value == pytest.approx(2 * 2.0**-5)
    bound = c.difference(np.ones((3, 5)), np.zeros((3, 5)), "win", 1 - wins.value, rng())
    assert bound.low == pytest.approx(0, abs=1e-9)


def test_the_method_of_each_kind_of_comparison():
    a, b = rng(1).integers(0, 2, size=(2, 1, 30)).astype(float)
    assert c.p_value(a, b, "win", rng()).method == "exact McNemar"
    assert c.p_value(a, b, "win", rng(), np.arange(30) // 2).method == "sign-flip permutation"
    assert c.p_value(a, b, "change", rng()).method == "sign-flip permutation"
    assert c.p_value(np.tile(a, (3, 1)), rng(2).random((3, 30)), "win", rng()).method == "two-way t"
    assert c.p_value(np.full((1, 4), math.nan), np.zeros((1, 4)), "win", rng()).note == "no decided case"


def test_mcnemar_is_a_binomial_test_on_the_prompts_that_differ():
    a, b = np.array([1, 1, 1, 1, 0, 1, 0, math.nan]), np.array([0, 0, 0, 1, 1, 0, 0, 1])
    assert c.mcnemar_exact(a, b).value == pytest.approx(stats.binomtest(4, 5).pvalue)
    assert c.mcnemar_exact([1, 0], [1, 0]).value == 1


def test_holm():
    assert c.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert c.holm([]) == []
    assert c.holm([0.9, 0.8]) == [1, 1]


@given(st.lists(st.none() | st.floats(0, 1), max_size=8))
def test_holm_never_lowers_and_keeps_the_order(pvalues):
    pairs = [(p, q) for p, q in zip(pvalues, c.holm(pvalues), strict=True) if p is not None]
    assert all(p <= q <= 1 for p, q in pairs)
    assert [q for _, q in sorted(pairs)] == sorted(q for _, q in pairs)


def test_published_design_sizes():
    found = [c.smallest_detectable(0.95, n=n) for n in (100, 200, 500, 1000)]
    assert found == pytest.approx([0.14, 0.099, 0.063, 0.044], abs=5e-4)
    assert c.smallest_detectable(0.95, se=0.05) == pytest.approx(c.smallest_detectable(0.95, n=100))
    assert c.smallest_detectable(0.95, se=1, df=2) > c.smallest_detectable(0.95, se=1)
    assert c.smallest_detectable(0.95, n=0) is None


def test_spearman_exact_p_by_hand():
    x, y = [1, 2, 3, 4, 5], [2.0, 1.0, 3.0, 5.0, 4.0]
    rho = stats.spearmanr(x, y).statistic
    null = [stats.spearmanr(x, order).statistic for order in permutations(y)]
    found = c.spearman(x, y, 0.95, rng())
    assert found.value == pytest.approx(rho)
    assert found.low is None
    assert f"p = {np.mean(np.abs(null) >= abs(rho) - 1e-9):.3f}, at best 0.017" in found.note


def test_spearman_with_ties_has_a_bootstrap_interval():
    x = rng(9).integers(0, 6, 60).astype(float)
    y = x + rng(10).normal(size=60)
    found = c.spearman(x, y, 0.95, rng())
    sound(found, -1, 1)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.low > 0


def test_unequal_seeds_are_matched_by_index():
    found = c.difference(np.zeros((3, 9)), rng().normal(size=(2, 9)), "level", 0.95, rng())
    assert "3 seeds against 2" in found.note
