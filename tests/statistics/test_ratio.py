"""The ratio of two paired means: Fieller's interval against its closed form, its laws and coverage, and its absence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array
from rlhf_bench.harness.statistics.ratio import share
from rlhf_bench.harness.statistics.variance import moments

LEVEL = 0.95


def cells(seed: int, seeds: int, prompts: int, part: float = 0.3, whole: float = 0.6) -> tuple[Array, Array]:
    made = np.random.default_rng(seed)
    common = 0.3 * made.normal(size=prompts)
    runs = 0.02 * made.normal(size=(2, seeds, 1))
    noise = 0.4 * made.normal(size=(2, seeds, prompts))
    return part + common + runs[0] + noise[0], whole + common + runs[1] + noise[1]


def test_one_seed_is_fiellers_closed_form() -> None:
    """Fieller (1954): the roots in r of (mean a - r mean b)^2 = t^2 (s_aa - 2 r s_ab + r^2 s_bb) / n."""
    a, b = (one[0] for one in cells(1, 1, 50))
    n, t = 50, float(stats.t.ppf(0.975, 49))
    (s_aa, s_ab), (_, s_bb) = np.cov(a, b)
    g = t * t / n
    roots = np.roots([b.mean() ** 2 - g * s_bb, -2 * (a.mean() * b.mean() - g * s_ab), a.mean() ** 2 - g * s_aa])
    found = share(a, b, LEVEL)
    assert found.value == pytest.approx(a.mean() / b.mean())
    assert (found.low, found.high) == pytest.approx(tuple(sorted(roots)))
    assert "conditional on this training run" in found.note


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_ends_are_where_the_t_interval_reaches_0(seeds: int) -> None:
    a, b = cells(2, seeds, 60, part=-0.1)
    found = share(a, b, LEVEL)
    for end in (found.low, found.high):
        assert end is not None
        of = moments(a - end * b, None)
        assert abs(of.mean) == pytest.approx(of.half_width(0.025))


@pytest.mark.parametrize("seeds", [1, 3])
def test_laws(seeds: int) -> None:
    a, b = cells(3, seeds, 60)
    one = share(a, b, LEVEL)
    assert one.low is not None
    assert one.high is not None
    scaled = share(7 * a, 7 * b, LEVEL)  # the unit of gold
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx((one.value, one.low, one.high))
    shifted = share(a + 0.5 * b, b, LEVEL)  # half of the whole more
    assert shifted.value == pytest.approx(one.value + 0.5)  # type: ignore[operator]
    assert (shifted.low, shifted.high) == pytest.approx((one.low + 0.5, one.high + 0.5))
    turned = share(-a, b, LEVEL)
    assert (turned.low, turned.high) == pytest.approx((-one.high, -one.low))
    wider = share(a, b, 0.99)
    assert wider.low is not None
    assert wider.low < one.low


def test_the_whole_itself_is_all_of_it() -> None:
    _, b = cells(4, 3, 40)
    assert (lambda i: (i.value, i.low, i.high))(share(b, b, LEVEL)) == pytest.approx((1, 1, 1))
    assert share(0.25 * b, b, LEVEL).value == pytest.approx(0.25)
    assert share(0 * b, b, LEVEL).value == 0


@pytest.mark.parametrize("whole", [0.0, 0.01, -0.6])
def test_a_whole_that_may_be_0_or_a_loss_has_no_share(whole: float) -> None:
    a, b = cells(5, 3, 60)
    found = share(a, b - b.mean() + whole, LEVEL)
    assert found.value is found.low is found.high is None
    assert "the whole is not above 0: its interval is [" in found.note


def test_undecided_cells_and_clusters() -> None:
    a, b = cells(6, 3, 60)
    a[1, 4] = b[2, 9] = np.nan
    kept = [k for k in range(60) if k not in (4, 9)]
    here, there = share(a, b, LEVEL), share(a[:, kept], b[:, kept], LEVEL)
    assert (here.value, here.low, here.high) == pytest.approx((there.value, there.low, there.high))
    a, b = cells(7, 3, 30)
    names = [str(k) for k in [*range(30), *range(30)]]
    twice, once = share(np.tile(a, 2), np.tile(b, 2), LEVEL, names), share(a, b, LEVEL)
    assert (twice.value, twice.low, twice.high) == pytest.approx((once.value, once.low, once.high))
    assert share(a, b, LEVEL, ["one"] * 30).value is None
    assert share(a[:, :1], b[:, :1], LEVEL).value is None
    assert share(np.full((2, 3), np.nan), np.ones((2, 3)), LEVEL).note == "no decided case"
    with pytest.raises(BenchError, match="Give both on the same seeds and prompts"):
        share(a, b[:2], LEVEL)


def covered(seeds: int, repetitions: int, whole: float = 0.6) -> tuple[float, float]:
    """(share of intervals that hold the true ratio, share of repetitions without one)."""
    held = count = 0
    for seed in range(repetitions):
        found = share(*cells(seed, seeds, 100, 0.5 * whole, whole), LEVEL)
        if found.low is not None and found.high is not None:
            held, count = held + (found.low <= 0.5 <= found.high), count + 1
    return held / max(count, 1), 1 - count / repetitions


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_true_share_is_covered(seeds: int) -> None:
    held, _ = covered(seeds, 300)
    assert held >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 300)
