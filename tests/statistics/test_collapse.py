"""Laws of the distribution statistics, and agreement with scipy."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.collapse import KEYS, collapse, over_seeds, repetition
from rlhf_bench.harness.statistics.intervals import Interval, unbounded, undefined

numbers = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, math.nan])
pairs = hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(0, 12)), elements=numbers)
wild = hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(0, 8)), elements=st.floats(allow_infinity=False))
fast = settings(max_examples=40, deadline=None)


def rng(seed=0):
    return np.random.default_rng(seed)


def collapsed(before, after, resamples=199):
    return collapse(before, after, rng(), 0.95, resamples)


@fast
@given(pairs | wild)
def test_every_number_is_finite_or_none_with_a_reason(pair):
    found = collapsed(*pair)
    assert set(found) == set(KEYS)
    for key, one in found.items():
        assert all(x is None or math.isfinite(x) for x in (one.value, one.low, one.high))
        assert one.value is not None or one.note
        assert one.value is None or one.value >= 0
        assert not key.endswith(" p") or one.value is None or one.value <= 1
        assert one.low is None or one.low <= one.value <= one.high


@fast
@given(pairs | wild, st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=12, max_size=12))
def test_any_clusters_give_a_number_or_a_reason(pair, names):
    found = collapse(*pair, rng(), 0.95, 199, names[: pair.shape[1]])
    for one in found.values():
        assert all(x is None or math.isfinite(x) for x in (one.value, one.low, one.high))
        assert one.value is not None or one.note


def test_repeating_every_prompt_within_its_cluster_adds_no_certainty():
    before, after = rng(8).normal(size=(2, 40))
    once = collapse(before, after, rng(), 0.95, 999)
    thrice = collapse(np.repeat(before, 3), np.repeat(after, 3), rng(), 0.95, 999, np.repeat(np.arange(40), 3))
    for key in KEYS:
        if key != "levene p":
            assert thrice[key].value == pytest.approx(once[key].value)
    for end in ("low", "high"):
        assert getattr(thrice["variance ratio"], end) == pytest.approx(getattr(once["variance ratio"], end))
    assert (thrice["levene p"].value, "independent" in thrice["levene p"].note) == (None, True)
    alone_each = collapse(before, after, rng(), 0.95, 999, [f"source {i}" for i in range(40)])
    assert alone_each == once


def test_fewer_than_three_clusters_are_undefined():
    found = collapse([1.0, 2.0, 3.0, 5.0], [2.0, 1.0, 4.0, 4.0], rng(), 0.95, 99, ["a", "a", "b", "b"])
    assert "2 clusters of prompts" in found["ks p"].note


def test_the_interval_of_the_variance_ratio_equals_scipy():
    before, after = rng(9).normal(size=(2, 50)) * [[1.0], [0.6]]
    known = stats.bootstrap(
        (before, after), lambda x, y, axis: y.var(axis) / x.var(axis), n_resamples=999, batch=100, paired=True,
        method="BCa", rng=rng(),
    ).confidence_interval  # fmt: skip
    found = collapse(before, after, rng(), 0.95, 999)["variance ratio"]
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


@fast
@given(pairs)
def test_the_same_seed_gives_the_same_result(pair):
    assert collapsed(*pair) == collapsed(*pair)


@fast
@given(hnp.arrays(np.int64, st.tuples(st.just(2), st.integers(3, 12)), elements=st.integers(-20, 20)))
def test_distances_agree_with_scipy(whole):
    before, after = whole.astype(float)
    found = collapsed(before, after)
    assert found["ks"].value == pytest.approx(stats.ks_2samp(before, after, method="asymp").statistic)
    assert found["wasserstein"].value == pytest.approx(stats.wasserstein_distance(before, after))
    assert found["energy"].value == pytest.approx(stats.energy_distance(before, after), abs=1e-7)


@fast
@given(hnp.arrays(np.float64, st.tuples(st.just(2), st.integers(3, 12)), elements=st.floats(-100, 100).map(round)))
def test_a_change_of_unit_scales_the_distances(pair):
    small, large = collapsed(*pair), collapsed(*(4 * pair))
    for key in KEYS:
        unit = {"wasserstein": 4, "energy": 2}.get(key, 1)
        value = small[key].value
        assert large[key].value == (None if value is None else pytest.approx(unit * value, rel=1e-9))


@fast
@given(hnp.arrays(np.float64, st.integers(3, 12), elements=st.floats(-100, 100)))
def test_equal_values_before_and_after_have_no_distance(values):
    found = collapsed(values, values)
    assert found["variance ratio"].value in (None, 1)
    for shape in ("ks", "wasserstein", "energy"):
        assert (found[shape].value, found[f"{shape} p"].value) == (0, 1)


def test_swapping_before_and_after_inverts_the_ratio_and_keeps_the_rest():
    before, after = rng(1).normal(size=(2, 60))
    there, back = collapsed(before, after), collapsed(after, before)
    assert there["variance ratio"].value == pytest.approx(1 / back["variance ratio"].value)
    assert there["variance ratio"].value == pytest.approx(after.var() / before.var())
    for key in KEYS[1:]:
        assert there[key].value == pytest.approx(back[key].value, abs=1e-9)


def test_permutation_p_agrees_with_all_swaps():
    before, after = np.array([0.0, 1.0, 3.0, 4.0, 7.0, 9.0]), np.array([2.5, 1.5, 6.0, 8.0, 8.5, 9.5])
    observed, reached = stats.wasserstein_distance(before, after), 0
    for code in range(64):
        swap = np.array([code >> i & 1 for i in range(6)], dtype=bool)
        reached += (
            stats.wasserstein_distance(np.where(swap, after, before), np.where(swap, before, after)) >= observed - 1e-9
        )
    assert collapsed(before, after, 20000)["wasserstein p"].value == pytest.approx(reached / 64, abs=0.01)


def test_levene_equals_scipy_around_medians():
    before, after = rng(2).normal(size=40), 0.3 * rng(3).normal(size=40)
    assert collapsed(before, after)["levene p"].value == pytest.approx(stats.levene(before, after).pvalue)


@pytest.mark.parametrize(
    ("before", "after", "value", "reason"),
    [
        ([1.0] * 5, [1.0, 2, 3, 4, 5], None, "before do not vary"),
        ([1.0, 2, 3, 4, 5], [1.0] * 5, 0, "after do not vary"),
        ([1.0, 2.0], [2.0, 1.0], None, "needs 3"),
        ([1.0, 2.0, math.nan], [2.0, 1.0, 4.0], None, "2 prompts decided"),
    ],
)
def test_degenerate_input(before, after, value, reason):
    found = collapsed(before, after)["variance ratio"]
    assert (found.value, found.low) == (value, None)
    assert reason in found.note


@pytest.mark.parametrize("scale", [1e-40, 1e-55, 1e-80, 1e-160])
def test_a_spread_close_to_zero_is_handled(scale):
    before = rng(1).normal(size=20)
    found = collapsed(before, scale * rng(2).normal(size=20))["variance ratio"]
    assert 0 <= found.low <= found.value <= found.high < 1e-70


def test_unequal_lengths_are_refused():
    with pytest.raises(BenchError):
        collapsed([1.0, 2.0, 3.0], [1.0, 2.0])


def test_the_variance_ratio_of_half_the_standard_deviation_is_a_quarter():
    """Half the standard deviation is a quarter of the variance."""
    before = rng(4).normal(size=400)
    found = collapse(before, 0.5 * rng(5).normal(size=400), rng(), 0.99)["variance ratio"]
    assert found.low < 0.25 < found.high < 1


def test_repetition():
    found = repetition(["a b a", "a  b a\n", "c"])
    assert found["top share"].value == pytest.approx(2 / 3)
    assert found["distinct-1"].value == pytest.approx(3 / 7)
    assert found["distinct-2"].value == pytest.approx(2 / 4)
    assert repetition([])["top share"].value is None
    assert repetition(["", ""])["top share"].value == 1
    assert repetition(["one"])["distinct-2"].note == "no response has 2 words"


def test_collapse_is_fast_enough_for_every_cell_of_a_report():
    before, after = rng(6).normal(size=(2, 256))
    collapse(before, after, rng(), 0.95)
    start = time.perf_counter()
    collapse(before, after, rng(), 0.95)
    assert time.perf_counter() - start < 0.9  # .05 s alone; the room is for busy machines


# ---- over seeds -----------------------------------------------------------------------------------------------------


def values_of(*values):
    return [undefined("too few") if value is None else unbounded(value, "count") for value in values]


NAMES = st.sampled_from([*KEYS, "top share", "distinct-1", "distinct-2"])


@fast
@given(NAMES, st.lists(st.none() | st.floats(0, 1) | st.floats(0, 1e300), max_size=6), st.sampled_from([0.5, 0.95]))
def test_over_seeds_is_finite_inside_its_bounds_or_none_with_a_reason(name, values, level):
    share = name in ("ks", "top share", "distinct-1", "distinct-2") or name.endswith(" p")
    found = over_seeds(name, values_of(*(min(v, 1.0) if share and v is not None else v for v in values)), level)
    assert all(x is None or math.isfinite(x) for x in (found.value, found.low, found.high))
    assert (found.low is None) == (found.high is None)
    assert found.value is not None or found.note
    assert found.low is None or 0 <= found.low <= found.value <= found.high
    assert not share or found.high is None or found.high <= 1


def test_one_seed_keeps_its_interval_and_gets_one_note():
    one = Interval(0.5, 0.2, 0.9, "BCa bootstrap")
    found = over_seeds("variance ratio", [one], 0.95)
    assert (found.value, found.low, found.high, found.method) == (0.5, 0.2, 0.9, "BCa bootstrap")
    assert found.note == "conditional on this training run"
    assert over_seeds("variance ratio", [found], 0.95) == found
    assert over_seeds("ks", [undefined("too few")], 0.95) == undefined("too few")


def test_several_seeds_get_students_t():
    values = [0.1, 0.2, 0.4, 0.3]
    found, known = over_seeds("distinct-2", values_of(*values), 0.9), stats.ttest_1samp(values, 0)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval(0.9)))
    assert found.value == pytest.approx(0.25)
    assert "4 seeds" in found.note


def test_ratios_are_averaged_on_the_logarithm():
    values = [0.5, 1.0, 4.0]
    found, turned = (over_seeds("variance ratio", values_of(*v), 0.95) for v in (values, [1 / v for v in values]))
    assert found.value == pytest.approx(2 ** (1 / 3))
    assert (1 / turned.high, 1 / turned.low) == pytest.approx((found.low, found.high))


def test_ratios_with_zeros_are_averaged_without_the_logarithm():
    values = (0.0, 0.0, 0.0, 0.0, 0.02)  # nearly all runs collapsed to one value: they must not end as "cannot be said"
    found = over_seeds("variance ratio", values_of(*values), 0.95)
    by_hand = stats.t(4, loc=np.mean(values), scale=stats.sem(values)).interval(0.95)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((0.0, by_hand[1]))
    assert "4 values are 0" in found.note
    assert over_seeds("variance ratio", values_of(0.0, 0.0), 0.95).value == 0


def test_bounds_stay_in_the_range_of_the_statistic():
    assert over_seeds("top share", values_of(0.9, 0.1), 0.95).low == 0
    assert over_seeds("ks", values_of(0.9, 0.1), 0.95).high == 1
    assert over_seeds("wasserstein", values_of(9.0, 1.0), 0.95).low == 0
    assert over_seeds("wasserstein", values_of(9.0, 1.0), 0.95).high > 9


def test_p_values_are_listed_not_averaged():
    for name in ("levene p", "ks p"):
        found = over_seeds(name, values_of(0.01, 0.2), 0.95)
        assert (found.value, found.note) == (None, "p-values of 2 seeds: .01, .2")


def test_seeds_without_a_value_are_counted():
    found = over_seeds("distinct-1", values_of(0.2, None, 0.4), 0.95)
    assert found.value == pytest.approx(0.3)
    assert "1 of 3 seeds without a value (too few)" in found.note
    found = over_seeds("distinct-1", values_of(0.2, None, None), 0.95)
    assert (found.value, found.low) == (0.2, None)
    assert "2 of 3 seeds without a value (too few)" in found.note
    assert over_seeds("distinct-1", values_of(None, None), 0.95).value is None
    assert over_seeds("distinct-1", values_of(0.2, 0.2), 0.95).low == 0.2
