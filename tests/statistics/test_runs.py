"""Collapsed runs: a rule that reads one run alone, its exact interval, and a mean over two modes that is covered."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import runs
from rlhf_bench.harness.statistics.intervals import exact, two_way

LEVEL = 0.95
PROMPTS = 60
Array = np.ndarray[Any, Any]


def worlds(collapsed: list[bool], seed: int = 0, prompts: int = PROMPTS) -> Array:
    """[2, S, P] gold before and after training in [0, 1]: runs gain about .15, collapsed ones lose about .38."""
    rng = np.random.default_rng(seed)
    flags = np.array(collapsed)[:, None]
    shared = rng.random(prompts)
    before, after = (shared + rng.random((2, len(collapsed), prompts))) / 2
    gain, loss = rng.normal(0.3, 0.05, flags.shape), rng.uniform(0.6, 0.9, flags.shape)
    return np.stack([before, np.where(flags, (1 - loss) * after, (1 - gain) * after + gain)])


def test_the_rule_is_half_a_standard_deviation_of_the_baseline() -> None:
    before = np.tile([0.0, 2.0, 4.0, 6.0], (3, 1))
    sd = before[0].std(ddof=1)
    after = before + np.array([[-0.499], [-0.501], [0.501]]) * sd
    found = runs.of_runs(before, after, LEVEL)
    assert found.collapsed == (False, True, False)
    assert found.changes == pytest.approx([-0.499 * sd, -0.501 * sd, 0.501 * sd])
    assert found.thresholds == pytest.approx([-sd / 2] * 3)
    turned = runs.of_runs(before, after, LEVEL, higher_is_better=False)
    assert turned.collapsed == (False, False, True)


def test_the_share_has_the_exact_interval() -> None:
    for count in range(6):
        found = runs.of_runs(*worlds([place < count for place in range(5)]), LEVEL)
        assert found.share == exact(count, 5, LEVEL)
        assert found.two_modes == (0 < count < 5)


@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 99))
def test_the_verdict_depends_on_no_scale_and_no_other_run(scale: float, shift: float, seed: int) -> None:
    """Else the number of collapsed runs would not be binomial."""
    before, after = worlds([False, True, False, True], seed)
    found = runs.of_runs(before, after, LEVEL)
    moved = runs.of_runs(scale * before + shift, scale * after + shift, LEVEL)
    assert moved.collapsed == found.collapsed
    assert moved.mixture.low == pytest.approx(scale * (found.mixture.low or 0), abs=1e-9 * scale)
    alone = [runs.of_runs(before[[place]], after[[place]], LEVEL).collapsed[0] for place in range(4)]
    assert alone == list(found.collapsed)


def test_a_measure_that_is_better_when_lower_is_the_mirror_image() -> None:
    before, after = worlds([False, True, False, False, True])
    found, turned = runs.of_runs(before, after, LEVEL), runs.of_runs(-before, -after, LEVEL, higher_is_better=False)
    assert turned.collapsed == found.collapsed
    for one, other in ((found.others, turned.others), (found.mixture, turned.mixture)):
        assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))  # type: ignore[operator]


def test_the_others_have_the_two_way_interval() -> None:
    before, after = worlds([False, True, False, False])
    assert runs.of_runs(before, after, LEVEL).others == two_way((after - before)[[0, 2, 3]], LEVEL)
    none = runs.of_runs(*worlds([True, True]), LEVEL).others
    assert (none.value, none.note) == (None, "all runs collapsed")
    alone = runs.of_runs(*worlds([True, False, True]), LEVEL).others
    assert alone.low is None
    assert "spread between training runs is unknown" in alone.note


@pytest.mark.parametrize("count", range(6))
def test_the_mixture_interval_has_every_mean_that_its_parts_allow(count: int) -> None:
    flags = [place < count for place in range(5)]
    before, after = worlds(flags)
    cells = after - before
    found = runs.of_runs(before, after, LEVEL)
    share = exact(count, 5, 0.975)
    part = 0.9875 if 2 <= count <= 3 else 0.975  # half of the error, a quarter each where both modes have an interval
    limits = (
        min(before.min(), after.min()) - before.mean(axis=1).max(),
        max(before.max(), after.max()) - before.mean(axis=1).min(),
    )
    modes = []
    for flag, ends in ((False, (min(found.thresholds), limits[1])), (True, (limits[0], max(found.thresholds)))):
        own = cells[[one == flag for one in flags]]
        t = two_way(own, part) if len(own) > 1 else None
        low, high = ends if t is None else (max(t.low or 0, ends[0]), min(t.high or 0, ends[1]))
        modes.append(np.linspace(low, high, 7))
    assert share.low is not None
    assert share.high is not None
    means = [(1 - p) * m + p * c for p in np.linspace(share.low, share.high, 7) for m, c in itertools.product(*modes)]
    assert (found.mixture.low, found.mixture.high) == pytest.approx((min(means), max(means)))
    assert found.mixture.value == pytest.approx(cells.mean())


def test_without_limits_a_mode_of_one_run_gives_no_bounds() -> None:
    cells = np.stack([*np.subtract(*worlds([False] * 3)[::-1]), np.full(PROMPTS, -0.5)])
    found = runs.mixture(cells, [False, False, False, True], [-0.1] * 4, LEVEL)
    assert found.low is None
    assert "nothing bounds" in found.note
    held = runs.mixture(cells, [False, False, False, True], [-0.1] * 4, LEVEL, (-1.0, 1.0))
    assert held.low is not None
    with pytest.raises(BenchError, match="4 runs, 1 verdicts and 4 thresholds"):
        runs.mixture(cells, [True], [-0.1] * 4, LEVEL)


def test_undecided_cells_are_left_out_and_a_constant_baseline_has_no_rule() -> None:
    before, after = worlds([False, True, False])
    after[0, ::2], before[1, ::3] = math.nan, math.nan
    found = runs.of_runs(before, after, LEVEL)
    assert found.changes[0] == pytest.approx((after - before)[0, 1::2].mean())
    assert found.collapsed == (False, True, False)
    before[2] = 0.5
    flat = runs.of_runs(before, after, LEVEL)
    assert flat.collapsed == (False, True, None)
    assert flat.share == exact(1, 2, LEVEL)
    nothing = runs.of_runs(np.full((2, 3), 0.5), np.zeros((2, 3)), LEVEL)
    assert (nothing.share.value, nothing.mixture.value, nothing.others.value) == (None, None, None)
    with pytest.raises(BenchError, match="before and"):
        runs.of_runs(before, after[:2], LEVEL)


ROSNER = """-0.25 0.68 0.94 1.15 1.20 1.26 1.26 1.34 1.38 1.43 1.49 1.49 1.55 1.56 1.58 1.65 1.69 1.70 1.76 1.77 1.81
1.91 1.94 1.96 1.99 2.06 2.09 2.10 2.14 2.15 2.23 2.24 2.26 2.35 2.37 2.40 2.47 2.54 2.62 2.64 2.90 2.92
2.92 2.93 3.21 3.26 3.30 3.59 3.68 4.30 4.64 5.34 5.42 6.01"""


def test_rosners_example_has_three_outliers() -> None:
    """Rosner (1983), as in the NIST/SEMATECH handbook, 1.3.5.17.3: the three largest of 54; .05 a step, 10 steps."""
    values = [float(word) for word in ROSNER.split()]
    assert runs.outlying(values, 0.5, most=10) == (51, 52, 53)
    assert runs.outlying(values[::-1], 0.5, most=10) == (0, 1, 2)


def test_an_outlier_is_named_and_equal_values_have_none() -> None:
    assert runs.outlying([0.10, 0.12, -0.5, 0.09, 0.11], LEVEL) == (2,)
    assert runs.outlying([0.10, 0.12, -0.5, 0.09, -0.52, 0.11, 0.1], LEVEL) == (2, 4)  # neither hides the other
    assert runs.outlying([0.1, math.nan, 0.1, 0.1], LEVEL) == ()
    assert runs.outlying([0.1, 5.0], LEVEL) == ()
    assert runs.outlying([], LEVEL) == ()


# ---- simulation ------------------------------------------------------------------------------------------------------


def covered(chance: float, seeds: int, repetitions: int = 1000) -> dict[str, float]:
    """Share of repetitions in which each interval holds its truth; a missing interval holds it."""
    rng = np.random.default_rng(seeds)
    # before has mean .5; a gain g moves the mean by g (1 - .5), a loss by -.5 loss
    good, bad = 0.15, -0.375
    truth = {"t": (1 - chance) * good + chance * bad, "others": good, "share": chance}
    truth["mixture"] = truth["t"]
    held = dict.fromkeys(truth, 0)
    for at in range(repetitions):
        before, after = worlds([bool(one) for one in rng.random(seeds) < chance], 10_000 * seeds + at)
        found = runs.of_runs(before, after, LEVEL)
        ends = {"t": two_way(after - before, LEVEL), "others": found.others}
        ends |= {"share": found.share, "mixture": found.mixture}
        for name, one in ends.items():
            held[name] += one.low is None or one.high is None or one.low <= truth[name] <= one.high
    return {name: count / repetitions for name, count in held.items()}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("chance", [0.0, 0.1, 0.3, 0.5])
def test_coverage_over_two_modes(chance: float, seeds: int) -> None:
    found = covered(chance, seeds)
    slack = 3 * math.sqrt(0.95 * 0.05 / 1000)
    assert found["share"] >= 0.95 - slack
    assert found["mixture"] >= 0.95 - slack
    assert found["others"] >= 0.94 - slack
    if chance == 0.3 and seeds < 10:
        assert found["t"] < 0.9  # what stood alone before


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 4, 5, 10])
def test_normal_seeds_seldom_have_outliers(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    share = np.mean([bool(runs.outlying(rng.normal(size=seeds), LEVEL)) for _ in range(4000)])
    assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
