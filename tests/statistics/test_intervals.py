"""Laws of the intervals, and undefined ones."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from intervals import LEVELS, VERDICTS, bounded, fast, near, rng, shapes, sound, wild

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import intervals as s
from rlhf_bench.harness.statistics.intervals import Interval

KINDS = ("win", "rate", "change", "level")


cells = hnp.arrays(np.float64, shapes, elements=st.floats(-1e6, 1e6) | st.just(math.nan))


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
def test_any_matrix_gives_an_interval_or_a_reason(Y, level, grouped):  # noqa: N803
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
            mirrored = Interval(1 - theirs.value, theirs.high, theirs.low, theirs.method)
            flip = lambda x: None if x is None else 1 - x  # noqa: E731
            near(ours, Interval(mirrored.value, flip(mirrored.low), flip(mirrored.high), mirrored.method), 1e-7)


@fast
@given(
    hnp.arrays(np.int64, shapes, elements=st.integers(-50, 50)), st.integers(-40, 40), st.sampled_from([0.25, 2.0, 8.0])
)
def test_intervals_shift_and_scale_with_the_data(whole, shift, scale):
    Y = whole.astype(float)  # noqa: N806
    for measure in (s.two_way, lambda y, p: s.pigeonhole(y, p, rng(), 200), lambda y, p: s.paired(y[0], p, rng())):
        plain, moved = measure(Y, 0.95), measure(scale * Y + shift, 0.95)
        carry = lambda x: None if x is None else scale * x + shift  # noqa: E731
        near(moved, Interval(carry(plain.value), carry(plain.low), carry(plain.high), plain.method), 1e-7)


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


# ---- what cannot be said --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_decided_case_there_is_no_value(kind):
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


def test_equal_values_get_a_note():
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
def test_errors_name_the_input(call):
    with pytest.raises(BenchError):
        call()


def test_rates_close_to_zero_have_an_interval() -> None:
    found = s.rate_over_seeds([[9.2e-159, 0.0]], 0.5)
    assert found.value == pytest.approx(4.6e-159)
    assert found.low is not None
    assert found.low <= found.value
