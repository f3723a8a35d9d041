"""A measure at fixed KL: against numpy, exact on lines, never extrapolated, intervals of the two-way layout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import frontier
from rlhf_bench.harness.statistics.frontier import Curve, at_kl, components, draws_of, read
from rlhf_bench.harness.statistics.intervals import paired, two_way
from rlhf_bench.harness.statistics.variance import moments

LEVEL = 0.95
KL = (0.25, 1.0, 2.0)


def rng(seed: int = 7) -> np.random.Generator:
    return np.random.default_rng(seed)


def line(kl: Any, a: float, b: float, noise: float = 0.0, seed: int = 0) -> Curve:
    """kl [S, C] on every one of 40 prompts, value a + b sqrt(kl) plus noise of mean 0 over the prompts."""
    kl = np.asarray(kl, dtype=np.float64)
    extra = rng(seed).normal(size=(*kl.shape, 40))
    extra = noise * (extra - extra.mean(axis=-1, keepdims=True))
    value = a + b * np.sqrt(np.maximum(kl, 0))[..., None] + extra
    return Curve(np.repeat(kl[..., None], 40, axis=-1), value)


def found(*curves: Curve, kl: Any = KL, clusters: Any = None) -> list[Any]:
    return at_kl(curves, kl, LEVEL, draws_of(rng(), curves[0].kl.shape[2], clusters, 300))


# ---- reading --------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(-5, 5)), min_size=1, max_size=8, unique_by=lambda p: round(p[0], 3)),
    st.lists(st.floats(-1, 10), min_size=1, max_size=6),
)
def test_reading_is_numpys_between_the_points_and_nothing_beyond(points: Any, places: Any) -> None:
    x, y = map(np.array, zip(*points, strict=True))
    order = np.argsort(x)
    expected = np.interp(places, x[order], y[order], left=np.nan, right=np.nan)
    assert read(x, y, places) == pytest.approx(expected, nan_ok=True, abs=1e-9)
    holes = np.full(2, np.nan)  # absent points change nothing, wherever they stand
    padded = np.concatenate([holes[:1], x, [3.0, np.nan]]), np.concatenate([holes[:1], y, [np.nan, 1.0]])
    assert read(*padded, places) == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_a_curve_without_points_has_no_value() -> None:
    assert np.isnan(read([[np.nan, np.nan]], [[1.0, np.nan]], [0.0, 1.0])).all()


# ---- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_line_in_the_distance_is_read_exactly(seeds: int) -> None:
    """Whatever the checkpoints are: each seed and each arm has its own, one point in another order."""
    kl = np.array([[0.9, 0.0, 2.6], [1.1, 0.1, 4.0], [0.3, 0.0, 2.01]])[:seeds]
    other = np.array([[0.0, 0.05, 0.5, 3.0, np.nan], [0.0, 9.0, 5.0, 0.2, 0.1], [0.0, 2.5, 0.7, np.nan, np.nan]])
    one, two = line(kl, 0.3, 0.5, noise=1.0), line(other[:seeds], 0.3, 0.2, noise=1.0, seed=1)
    for k, level, difference in zip(KL, found(one), found(one, two), strict=True):
        assert level.value == pytest.approx(0.3 + 0.5 * math.sqrt(k))
        assert difference.value == pytest.approx(0.3 * math.sqrt(k))
        assert difference.low < difference.value < difference.high


def noisy(seed: int, seeds: int = 3, points: int = 4, prompts: int = 60) -> Curve:
    made = rng(seed)
    kl = np.linspace(0.0, 3.0, points)[None, :, None] + 0.4 * made.normal(size=(seeds, points, prompts))
    kl[:, 0] = 0.0
    value = np.sqrt(np.maximum(kl.mean(-1, keepdims=True), 0)) + made.normal(size=(seeds, points, prompts))
    return Curve(kl, value + made.normal(size=(seeds, 1, 1)) + made.normal(size=(1, 1, prompts)))


@pytest.mark.parametrize("seeds", [1, 3])
def test_affine_changes_of_the_measure(seeds: int) -> None:
    a, b = noisy(1, seeds), noisy(2, seeds, points=6)
    moved = [Curve(c.kl, 5.0 - 3.0 * c.value) for c in (a, b)]
    for one, other in zip(found(a), found(moved[0]), strict=True):
        assert other.value == pytest.approx(5 - 3 * one.value)
        if seeds > 1:  # BCa's bounds turn round with the sign only up to the direction of quantiles
            assert (other.low, other.high) == pytest.approx((5 - 3 * one.high, 5 - 3 * one.low))
    for one, other in zip(found(a, b), found(*moved), strict=True):
        assert other.value == pytest.approx(-3 * one.value)
    for one, other in zip(found(a, b), found(*(Curve(c.kl, 2 + 4 * c.value) for c in (a, b))), strict=True):
        assert (other.value, other.low, other.high) == pytest.approx((4 * one.value, 4 * one.low, 4 * one.high))


def test_the_order_of_seeds_checkpoints_and_arms_says_nothing() -> None:
    a, b = noisy(1), noisy(2, points=6)
    turned = Curve(a.kl[::-1, ::-1], a.value[::-1, ::-1])
    assert [i.value for i in found(a)] == pytest.approx([i.value for i in found(turned)])
    assert [i.low for i in found(a)] == pytest.approx([i.low for i in found(turned)])
    for one, other in zip(found(a, b), found(b, a), strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_the_difference_of_an_arm_to_itself_is_0() -> None:
    for one in found(noisy(1), noisy(1)):
        assert one.value == 0
        assert one.low is None
        assert "nothing varied" in one.note


def test_nothing_is_extrapolated() -> None:
    short, long = line([[0.0, 1.5], [0.0, 1.2]], 0, 1, noise=1.0), line([[0.0, 8.0], [0.0, 9.0]], 0, 1, noise=1.0)
    assert short.reach == pytest.approx([1.5, 1.2])
    at = (0.25, 1.2, 1.21, 4.0)
    assert [one.value is None for one in found(short, kl=at)] == [False, False, True, True]
    assert [one.value is None for one in found(long, short, kl=at)] == [False, False, True, True]
    assert all("no points on both sides" in one.note for one in found(short, kl=(1.21, 4.0)))
    # without the SFT policy's point there is nothing below the first checkpoint either
    late = line([[0.5, 1.5], [0.6, 1.2]], 0, 1, noise=1.0)
    assert [one.value is None for one in found(late, kl=(0.25, 0.55, 0.65, 1.0))] == [True, True, False, False]


def test_a_kl_at_the_noisy_end_of_a_curve_is_left_out() -> None:
    """Half of the resamples do not reach the mean KL of the last point."""
    kl = np.stack([np.zeros((2, 40)), 2 + rng().normal(size=(2, 40))], axis=1)
    curve = Curve(kl, rng(1).normal(size=kl.shape))
    end = float(curve.reach.min())
    near, inside = found(curve, kl=(end, end - 1.0))
    assert near.value is None
    assert "of resamples every seed reaches this KL" in near.note
    assert inside.value is not None


def test_a_missing_checkpoint_is_an_absent_point() -> None:
    whole = noisy(1, points=5)
    parts = whole.kl, whole.value
    cut = Curve(*(np.where(np.arange(5)[None, :, None] == 2, np.nan, part) for part in parts))
    without = Curve(*(np.delete(part, 2, axis=1) for part in parts))
    assert found(cut) == found(without)
    one_seed = Curve(whole.kl.copy(), whole.value.copy())
    one_seed.value[1, 2] = np.nan
    differing = [a.value != b.value for a, b in zip(found(one_seed), found(whole), strict=True)]
    assert any(differing)
    assert all(one.low is not None for one in found(one_seed))


def test_undecided_prompts_are_left_out_of_their_mean_alone() -> None:
    curve = line([[0.0, 1.0, 4.0]] * 2, 0.0, 1.0, noise=1.0)
    value = curve.value.copy()
    value[0, 1, :10] = np.nan
    at = found(Curve(curve.kl, value), kl=(1.0,))[0]
    assert at.value == pytest.approx((np.nanmean(value[0, 1]) + value[1, 1].mean()) / 2)


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_at_a_checkpoint_of_exact_kl_it_is_the_two_way_interval() -> None:
    made = rng(3)
    cells = made.normal(size=(4, 1)) + made.normal(size=80) + made.normal(size=(4, 80))
    curve = Curve(np.full((4, 1, 80), 1.0), cells[:, None])
    here, there = at_kl([curve], [1.0], LEVEL, draws_of(rng(), 80, None, 20_000))[0], two_way(cells, LEVEL)
    assert here.value == pytest.approx(there.value)
    assert (here.low, here.high) == pytest.approx((there.low, there.high), rel=0.02)
    found_here = components(
        cells.mean(1), np.stack([cells[:, rng(k).integers(80, size=80)].mean(1) for k in range(9999)]), 80
    )
    assert found_here[1:5] == pytest.approx(moments(cells, None)[1:5], rel=0.06)
    alone = at_kl([Curve(curve.kl[:1], curve.value[:1])], [1.0], LEVEL, draws_of(rng(), 80, None, 20_000))[0]
    same = paired(cells[0], LEVEL, rng())
    assert (alone.value, alone.low, alone.high) == pytest.approx((same.value, same.low, same.high), rel=0.05, abs=0.01)
    assert "conditional on this training run" in alone.note


def test_whole_clusters_are_drawn() -> None:
    once = noisy(4, prompts=30)
    twice = Curve(np.tile(once.kl, 2), np.tile(once.value, 2))
    names = [str(k) for k in [*range(30), *range(30)]]
    for a, b in zip(found(once), found(twice, clusters=names), strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))


def test_one_prompt_and_one_cluster_have_no_bounds() -> None:
    curve = noisy(5, prompts=1)
    assert found(curve, kl=(0.25,))[0].low is None
    many = found(noisy(5), clusters=["one"] * 60, kl=(0.25,))[0]
    assert many.value is not None
    assert many.low is None
    assert found(Curve(np.empty((0, 2, 3)), np.empty((0, 2, 3))))[0].value is None


def test_shapes_that_differ_are_refused() -> None:
    for curves in ([noisy(1), noisy(1, prompts=9)], [noisy(1), noisy(1, seeds=2)], [], [noisy(1)] * 3):
        with pytest.raises(BenchError, match="Curves of shapes"):
            at_kl(curves, KL, LEVEL, draws_of(rng(), 60))
    assert tuple(sorted(frontier.LADDER)) == frontier.LADDER


def test_a_curve_is_read_once_for_all_that_it_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every KL of the ladder; elsewhere it is read again, to the same values."""
    read_of: list[Any] = []
    plain = frontier.means_at
    monkeypatch.setattr(frontier, "means_at", lambda *given: [read_of.append(given), plain(*given)][1])
    one, other, draws = noisy(1), noisy(2), draws_of(rng(), 60)
    twice = [at_kl([one, other], kl, LEVEL, draws) for kl in ((0.25, 1.0), (1.0,))]
    assert twice[0][1] == twice[1][0]
    assert len(read_of) == 2 * 2, "once as they are, once in all resamples"
    assert at_kl([one, other], (0.3, 1.0), LEVEL, draws)[1] == twice[1][0]
    assert len(read_of) == 4 * 2
    turned = at_kl([other, one], (1.0,), LEVEL, draws)[0]
    assert [turned.low, turned.high] == pytest.approx([-float(twice[1][0].high), -float(twice[1][0].low)])


# ---- coverage -------------------------------------------------------------------------------------------------------


def true_gold(d: Any, a: float, b: float) -> Any:
    """Gao's curve for PPO."""
    return d * (a - b * np.log(np.where(d > 0, d, 1.0)))


def simulated(made: np.random.Generator, seeds: int, prompts: int, ends: tuple[float, ...], a: float) -> Curve:
    """Runs whose KL and gold spread by seed, read by single samples: a log-ratio's noise is as large as 2 nats."""
    kl = np.array([0.0, *ends]) * np.exp(0.15 * made.normal(size=(seeds, 1)))
    value = true_gold(np.sqrt(kl), a, 0.2) + 0.1 * made.normal(size=(seeds, 1)) * (kl > 0)
    of_prompt = 0.3 * made.normal(size=prompts)
    shape = (*kl.shape, prompts)
    noise = 0.4 * made.normal(size=shape) + of_prompt
    spread = made.normal(size=shape) * np.where(kl > 0, np.minimum(2.0, 2 * np.sqrt(kl)), 0.0)[..., None]
    return Curve(kl[..., None] + spread, value[..., None] + noise)


def coverage(seeds: int, repetitions: int, kl: float = 1.0) -> tuple[float, float]:
    """(share of intervals that hold the true difference, share of repetitions without one)."""
    made = np.random.default_rng(seeds)
    truth, held, count = float(true_gold(math.sqrt(kl), 0.6, 0.2) - true_gold(math.sqrt(kl), 0.4, 0.2)), 0, 0
    for _ in range(repetitions):
        a = simulated(made, seeds, 100, (0.5, 0.9, 1.4, 2.2), 0.6)
        b = simulated(made, seeds, 100, (0.8, 1.2, 2.0), 0.4)
        one = at_kl([a, b], [kl], 0.95, draws_of(made, 100, None, 300))[0]
        if one.low is not None and one.high is not None:
            held, count = held + (one.low <= truth <= one.high), count + 1
    return held / count, 1 - count / repetitions


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_true_difference_at_equal_kl_is_covered(seeds: int) -> None:
    """Interpolation's own error included: the true curves are bent between checkpoints."""
    held, _ = coverage(seeds, 150)
    assert held >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 150)
