"""Laws of the intervals, and agreement with slow or published references."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from rlhf_bench.harness import statistics as s
from rlhf_bench.harness.errors import BenchError

KINDS = ("win", "rate", "change", "level")
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


cells = hnp.arrays(np.float64, shapes, elements=st.floats(-1e6, 1e6) | st.just(math.nan))
wild = hnp.arrays(np.float64, shapes, elements=st.floats(allow_infinity=False))
bounded = hnp.arrays(np.float64, shapes, elements=st.floats(0, 1) | VERDICTS | st.just(math.nan))
fast = settings(max_examples=50, deadline=None)


# ---- laws -----------------------------------------------------------------------------------------------------------


@fast
@given(bounded, LEVELS, st.booleans())
def test_rates_and_wins_stay_in_the_unit_interval(Y, level, grouped):  # noqa: N803
    clusters = np.arange(Y.shape[1]) // 2 if grouped else None
    for kind in ("win", "rate"):
        sound(s.interval(kind, Y, level, rng(), clusters), 0, 1)
    for row in Y:
        sound(s.wilson(row, level), 0, 1)


@fast
@given(wild, LEVELS, st.booleans())
def test_no_matrix_breaks_an_interval(Y, level, grouped):  # noqa: N803
    clusters = np.arange(Y.shape[1]) // 2 if grouped else None
    for kind in ("change", "level"):
        sound(s.interval(kind, Y, level, rng(), clusters))
    sound(s.pigeonhole(Y, level, rng(), 100, clusters))
    sound(s.two_way(Y, level))
    sound(s.verdicts(Y[0], level, rng(), 100))


@fast
@given(hnp.arrays(np.float64, shapes, elements=VERDICTS | st.just(math.nan)), LEVELS)
def test_the_opponents_win_rate_is_the_mirror_image(Y, level):  # noqa: N803
    for clusters in (None, np.arange(Y.shape[1]) // 2):
        ours, theirs = (s.interval("win", wins, level, rng(), clusters) for wins in (Y, 1 - Y))
        if ours.value is not None:
            mirrored = s.Interval(1 - theirs.value, theirs.high, theirs.low, theirs.method)
            flip = lambda x: None if x is None else 1 - x  # noqa: E731
            near(ours, s.Interval(mirrored.value, flip(mirrored.low), flip(mirrored.high), mirrored.method), 1e-7)


@fast
@given(
    hnp.arrays(np.int64, shapes, elements=st.integers(-50, 50)), st.integers(-40, 40), st.sampled_from([0.25, 2.0, 8.0])
)
def test_shift_and_scale_carry_over(whole, shift, scale):
    Y = whole.astype(float)  # noqa: N806
    for measure in (s.two_way, lambda y, p: s.pigeonhole(y, p, rng(), 200), lambda y, p: s.paired(y[0], p, rng())):
        plain, moved = measure(Y, 0.95), measure(scale * Y + shift, 0.95)
        carry = lambda x: None if x is None else scale * x + shift  # noqa: E731
        near(moved, s.Interval(carry(plain.value), carry(plain.low), carry(plain.high), plain.method), 1e-7)


@fast
@given(bounded, LEVELS, st.randoms(use_true_random=False))
def test_the_order_of_prompts_and_of_seeds_changes_nothing(Y, level, random):  # noqa: N803
    names = np.arange(Y.shape[1]) // 2
    columns, rows = random.sample(range(Y.shape[1]), Y.shape[1]), random.sample(range(len(Y)), len(Y))
    shuffled = Y[rows][:, columns]
    for clusters, moved in ((None, None), (names, names[columns])):
        near(s.two_way(Y, level, clusters), s.two_way(shuffled, level, moved), 1e-7)
        near(s.rate_over_seeds(Y, level, clusters), s.rate_over_seeds(shuffled, level, moved), 1e-7)
    near(s.wilson(Y[0], level), s.wilson(Y[0][columns], level))


@fast
@given(cells, LEVELS)
def test_the_same_seed_gives_the_same_interval(Y, level):  # noqa: N803
    assert s.interval("change", Y, level, rng(5)) == s.interval("change", Y, level, rng(5))
    assert s.pigeonhole(Y, level, rng(5), 100) == s.pigeonhole(Y, level, rng(5), 100)
    assert s.verdicts(Y[0], level, rng(5), 100) == s.verdicts(Y[0], level, rng(5), 100)


@fast
@given(bounded)
def test_a_higher_level_is_never_shorter(Y):  # noqa: N803
    for measure in (s.two_way, s.rate_over_seeds, lambda y, p: s.wilson(y[0], p)):
        wide, short = measure(Y, 0.99), measure(Y, 0.8)
        assert wide.low is None or (wide.low <= short.low + 1e-12 and wide.high >= short.high - 1e-12)


@fast
@given(hnp.arrays(np.float64, st.integers(2, 12), elements=st.floats(-1e3, 1e3)), st.sampled_from([0.9, 0.99, 0.9999]))
def test_a_higher_level_is_never_shorter_of_a_bootstrap_either(y, level):
    """Also past the pole of BCa's correction, where few skewed values and a high level meet."""
    wide, short = s.paired(y, level, rng(), resamples=300), s.paired(y, 0.8, rng(), resamples=300)
    assert wide.low is None or (wide.low <= short.low and wide.high >= short.high)


@fast
@given(bounded)
def test_prompts_that_stand_alone_are_no_clusters(Y):  # noqa: N803
    apart = [f"source {i}" for i in range(Y.shape[1])]
    for kind in KINDS:
        plain = s.interval(kind, Y, 0.95, rng())
        assert plain == s.interval(kind, Y, 0.95, rng(), apart) == s.interval(kind, Y, 0.95, rng(), [""] * len(apart))


def test_none_is_undecided():
    assert s.wilson([1, None, 0], 0.95) == s.wilson([1, math.nan, 0], 0.95) == s.wilson([1, 0], 0.95)


# ---- references -----------------------------------------------------------------------------------------------------


def test_known_wilson_values():
    assert s.wilson([0.0] * 200, 0.95).low == 0
    assert s.wilson([0.0] * 200, 0.95).high == pytest.approx(0.0188, abs=5e-5)
    for k, n in ((0, 1), (3, 10), (64, 100), (200, 200)):
        known = stats.binomtest(k, n).proportion_ci(method="wilson")
        near(s.wilson([1.0] * k + [0.0] * (n - k), 0.95), s.Interval(k / n, known.low, known.high, ""))
    near(s.wilson([0.5] * 8, 0.9), s.wilson([1.0, 0.0] * 4, 0.9))


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), LEVELS)
@fast
def test_exact_is_binomtest_and_the_beta_form_agrees(counts, level):
    k, n = counts
    known = stats.binomtest(k, n).proportion_ci(confidence_level=level)
    near(s.exact(k, n, level), s.Interval(k / n, known.low, known.high, ""))
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
    near(s.two_way(Y, 0.9), s.Interval(mean, mean - half, mean + half, ""))


@fast
@given(hnp.arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(2, 9)), elements=st.floats(-10, 10)))
def test_several_seeds_never_get_a_shorter_interval_than_those_seeds_taken_as_given(Y):  # noqa: N803
    """The t interval over prompts of the seeds' mean knows nothing of other seeds."""
    found, means = s.two_way(Y, 0.95), Y.mean(axis=0)
    if np.ptp(means) > 1e-6:
        given_seeds = stats.ttest_1samp(means, 0).confidence_interval(0.95)
        assert found.high - found.low >= (given_seeds.high - given_seeds.low) * (1 - 1e-9)


def test_seeds_that_agree_by_chance_leave_a_width():
    """Both seeds have the same mean and the prompts theirs: all spread is between the cells."""
    found = s.two_way([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]], 0.95)
    assert found.high - found.low > 0.5


def test_two_way_reduces_to_t_where_seeds_agree_on_nothing_but_the_mean():
    """Every seed one number for all prompts: the t interval over seeds."""
    per_seed = np.array([1.0, 2.0, 4.0, 5.0])
    known = stats.ttest_1samp(per_seed, 0).confidence_interval(0.95)
    near(s.two_way(np.repeat(per_seed[:, None], 500, axis=1), 0.95), s.Interval(3.0, known.low, known.high, ""))


def test_rate_over_seeds_agrees_with_its_definition():
    Y = (rng(1).random((4, 60)) < 0.1).astype(float)  # noqa: N806
    p, half = brute_force(Y.tolist(), 0.025)
    size = min(240, p * (1 - p) * (stats.t.ppf(0.975, 239) / half) ** 2)
    low = stats.beta.ppf(0.025, size * p, size * (1 - p) + 1)
    high = stats.beta.ppf(0.975, size * p + 1, size * (1 - p))
    near(s.rate_over_seeds(Y, 0.95), s.Interval(p, low, high, ""))


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


# ---- the bootstrap --------------------------------------------------------------------------------------------------

SAMPLES = {
    "normal": rng(1).normal(size=30),
    "skewed": rng(2).exponential(size=200),
    "tied": rng(3).integers(-2, 3, size=64).astype(float),
    "two values": (rng(4).random(40) < 0.2).astype(float),
}


def scipys(data, statistic, resamples, level=0.9, seed=0):
    found = stats.bootstrap(
        data, statistic, n_resamples=resamples, batch=100, paired=True, confidence_level=level, method="BCa",
        rng=rng(seed),
    )  # fmt: skip
    return found.confidence_interval


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("resamples", [99, 1999])
def test_bca_is_scipys_with_the_same_draws(name, resamples):
    y = SAMPLES[name]
    known = scipys((y,), np.mean, resamples)
    found = s.bca(y[:, None], lambda totals: totals[..., 0] / y.size, 0.9, rng(), resamples)
    near(found, s.Interval(y.mean(), known.low, known.high, ""), 1e-8)
    assert found.method == "BCa bootstrap"


def test_bca_of_a_ratio_of_sums_is_scipys():
    sums, sizes = rng(5).normal(5, 1, size=(2, 50))
    known = scipys((sums, sizes), lambda a, b, axis: a.sum(axis) / b.sum(axis), 999)
    found = s.bca(np.stack([sums, sizes], axis=1), lambda totals: totals[..., 0] / totals[..., 1], 0.9, rng(), 999)
    near(found, s.Interval(sums.sum() / sizes.sum(), known.low, known.high, ""), 1e-8)


def test_many_prompts_are_drawn_in_batches_and_the_batches_change_nothing(monkeypatch):
    y = rng(6).normal(size=500)
    whole = s.paired(y, 0.95, rng(), resamples=400)
    monkeypatch.setattr("rlhf_bench.harness.cells.AT_ONCE", 1700)
    near(s.paired(y, 0.95, rng(), resamples=400), whole)


def test_expansion_is_for_few_prompts():
    """Hesterberg's quantiles are wider for few values and next to the normal ones for many."""
    for n, least, most in ((10, 1.15, 1.35), (1000, 1.0, 1.01)):
        y = rng(7).normal(size=n)
        columns = np.stack([y, np.ones(n)], axis=1)
        plain, wide = (s.bca(columns, s._ratio, 0.95, rng(), 20000, expanded) for expanded in (False, True))
        assert least <= (wide.high - wide.low) / (plain.high - plain.low) <= most


def test_a_bootstrap_that_cannot_correct_itself_says_so():
    """A statistic that some resamples leave undefined."""
    y = np.array([1.0, 2.0, 3.0])
    found = s.bca(y[:, None], lambda totals: np.where(totals[..., 0] > 8.5, np.nan, totals[..., 0]), 0.9, rng(), 199)
    assert found.method == "percentile bootstrap"
    assert "BCa is undefined" in found.note


def test_pigeonhole_takes_clusters_whole():
    """Every prompt thrice in its cluster is every prompt once."""
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


# ---- what cannot be said --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_decided(kind):
    found = s.interval(kind, np.full((3, 5), math.nan), 0.95, rng())
    assert (found.value, found.note) == (None, "no decided case")
    assert s.interval(kind, [], 0.95, rng()).value is None


def test_one_prompt_and_one_seed():
    one_prompt = s.interval("change", [[1.0], [2.0]], 0.95, rng())
    assert (one_prompt.value, one_prompt.low) == (1.5, None)
    assert "one prompt" in one_prompt.note
    assert "one seed" in s.two_way([[1.0, 2.0]], 0.95).note
    assert "one cluster" in s.interval("change", [[1.0, 2.0]], 0.95, rng(), ["a", "a"]).note
    for kind in KINDS:
        assert "conditional on this training run" in s.interval(kind, [[1.0, 0.0, 1.0]], 0.95, rng()).note


def test_equal_values_say_so():
    for found in (s.paired([2.0] * 4, 0.95, rng()), s.two_way(np.full((3, 4), 2.0), 0.95)):
        assert (found.low, found.value, found.high) == (2, 2, 2)
        assert "nothing varied" in found.note
    wins = s.interval("win", np.ones((3, 50)), 0.95, rng())
    assert wins.low < 0.95
    assert wins.high == 1


def test_holes():
    Y = rng(11).normal(size=(3, 20))  # noqa: N806
    Y[0, 0] = math.nan
    near(s.two_way(Y, 0.95), s.two_way(Y[:, 1:], 0.95))
    assert "19 of 20" in s.two_way(Y, 0.95).note
    Y[1, 1:6] = math.nan
    assert s.two_way(Y, 0.95).value == pytest.approx(np.nanmean(Y))
    assert "linearised" in s.two_way(Y, 0.95).note
    Y[0] = math.nan
    assert "1 seeds without" in s.two_way(Y, 0.95).note


def test_numbers_too_large_to_square():
    found = s.two_way([[1e300, -1e300], [1e300, 3e300]], 0.95)
    assert found.value == pytest.approx(1e300)
    assert (found.low, found.note) == (None, "the bounds are not finite numbers")
    assert s.two_way([[1e308] * 3, [1.7e308] * 3], 0.95).value is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: s.wilson([1.2], 0.95),
        lambda: s.interval("rate", [[-0.1, 0.5]], 0.95, rng()),
        lambda: s.wilson([1.0], 95),
        lambda: s.wilson([[1.0]], 0.95),
        lambda: s.two_way(np.zeros((2, 2, 2)), 0.95),
        lambda: s.exact(3, 2, 0.95),
        lambda: s.interval("win", [[1.0, 0.0]], 0.95, rng(), ["a"]),
    ],
)
def test_bad_input_says_what_was_seen(call):
    with pytest.raises(BenchError):
        call()
