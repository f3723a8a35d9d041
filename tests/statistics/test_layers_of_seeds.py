"""Cells of runs in layers of seeds: their intervals, tests and means by level, against closed forms and simulation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import comparisons, intervals, layer_plan, layers, runs
from rlhf_bench.harness.statistics.intervals import nested_t, two_way

LEVEL = 0.95
NAMES = ("data seed", "reward seed", "seed")
Array = np.ndarray[Any, Any]
Levels = dict[str, list[int]]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def grid(d: int, r: int, s: int) -> Levels:
    places = list(itertools.product(range(d), range(r), range(s)))
    return {name: [place[at] for place in places] for at, name in enumerate(NAMES)}


def draw(
    generator: np.random.Generator, design: tuple[int, int, int, int], spreads: tuple[float, ...], own: bool
) -> Array:
    """Cells [D R S, P] around 0, or [D R S, D P] with NaN where `own`: each data seed has prompts of its own."""
    d, r, s, p = design
    shapes = [(d, 1, 1, 1), (d, r, 1, 1), (d, r, s, 1), (d if own else 1, 1, 1, p), (d, r, s, p)]
    cells = sum(sd * generator.normal(size=shape) for sd, shape in zip(spreads, shapes, strict=True))
    assert isinstance(cells, np.ndarray)
    if not own:
        return cells.reshape(d * r * s, p)
    found = np.full((d, r, s, d, p), np.nan)
    for data in range(d):
        found[data, :, :, data] = cells[data]
    return found.reshape(d * r * s, d * p)


def test_without_layers_and_of_one_run_it_is_the_usual_interval() -> None:
    cells = rng().normal(size=(3, 20))
    assert layers.interval("change", cells, LEVEL, rng()) == intervals.interval("change", cells, LEVEL, rng())
    one = layers.interval("change", cells[:1], LEVEL, rng(), None, grid(1, 1, 1))
    assert one == intervals.interval("change", cells[:1], LEVEL, rng())


@pytest.mark.parametrize("own", [False, True])
def test_a_balanced_design_is_the_two_way_interval_of_the_means_of_its_data_seeds(own: bool) -> None:
    cells, levels = draw(rng(1), (4, 2, 3, 30), (1.0, 0.5, 0.5, 0.5, 1.0), own), grid(4, 2, 3)
    found = layers.interval("change", cells, LEVEL, rng(), None, levels)
    outer = layers.outer_means(cells, levels)
    assert outer.shape == (4, cells.shape[1])
    coarse = two_way(outer, LEVEL)
    assert (found.value, found.low) == pytest.approx((coarse.value, coarse.low), rel=1e-2)
    if own:  # prompts are then within the data: the interval is Student's t of the four means
        means = np.nanmean(outer, axis=1)
        assert found.value is not None
        assert found.low == pytest.approx(means.mean() - 3.182446 * means.std(ddof=1) / 2, rel=1e-5)


def test_equal_clusters_are_rows_of_their_means_and_others_keep_every_runs_mean() -> None:
    cells, levels = draw(rng(2), (3, 2, 2, 12), (1.0, 0.5, 0.5, 0.5, 1.0), False), grid(3, 2, 2)
    sources = [f"s{p // 3}" for p in range(12)]
    by_source = cells.reshape(12, 4, 3).mean(axis=2)
    expected = layers.interval("change", by_source, LEVEL, rng(), None, levels)
    found = layers.interval("change", cells, LEVEL, rng(), sources, levels)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    holes = np.where(rng(3).random(cells.shape) < 0.2, np.nan, cells)
    rows = layers.rows_of(holes, levels, ["a", "a", "a", "b", "", "", "c", "c", "d", "d", "d", "d"])
    runs = list(zip(*rows.layers.values(), strict=True))
    for run, row in zip(zip(*levels.values(), strict=True), holes, strict=True):
        own = [value for value, place in zip(rows.values, runs, strict=True) if place == run]
        assert np.mean(own) == pytest.approx(np.nanmean(row))


def test_rates_stay_in_their_range_and_equal_ones_have_the_exact_bound() -> None:
    levels = grid(3, 2, 2)
    cells = (rng(4).random((12, 40)) < 0.03).astype(float)
    found = layers.interval("rate", cells, LEVEL, rng(), None, levels)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low < cells.mean() < found.high <= 1
    assert "effective sample size" in found.note
    none = layers.interval("rate", np.zeros((12, 40)), LEVEL, rng(), None, levels)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 40))
    with pytest.raises(BenchError, match=r"\[0, 1\]"):
        layers.interval("win", cells + 1, LEVEL, rng(), None, levels)
    with pytest.raises(BenchError, match="12 runs"):
        layers.interval("rate", cells, LEVEL, rng(), None, grid(2, 2, 2))


def test_p_is_the_level_at_which_the_interval_reaches_0() -> None:
    levels = grid(3, 2, 2)
    a = draw(rng(5), (3, 2, 2, 20), (0.2, 0.2, 0.2, 0.5, 1.0), False) + 0.8
    b = np.zeros_like(a)
    p = layers.p_value(a, b, "change", rng(), None, levels).value
    assert p is not None
    edge = layers.difference(a, b, "change", 1 - p, rng(), None, levels)
    assert edge.low == pytest.approx(0, abs=1e-6)
    assert layers.p_value(a, a, "change", rng(), None, levels).value == 1
    assert layers.p_value(a, b, "change", rng()) == comparisons.p_value(a, b, "change", rng())
    # of shares: within [-1, 1], and the exact bound where all are equal
    ones = layers.difference(b + 1, b, "win", LEVEL, rng(), None, levels)
    assert (ones.value, ones.high) == (1, 1)


def test_one_level_of_a_layer_is_said_to_be_conditional() -> None:
    cells = draw(rng(6), (1, 3, 2, 20), (0.0, 0.5, 0.5, 0.5, 1.0), False)
    found = layers.interval("change", cells, LEVEL, rng(), None, grid(1, 3, 2))
    assert "one data seed: the mean is conditional on it" in found.note
    two = layers.interval("change", cells[:4], LEVEL, rng(), None, grid(1, 2, 2))
    assert "two reward seeds say little" in two.note
    nothing = layers.interval("change", np.full((6, 20), np.nan), LEVEL, rng(), None, grid(1, 3, 2))
    assert nothing.value is None


# ---- what the spread says ------------------------------------------------------------------------------------------


def test_shares_add_up_and_the_largest_part_of_the_error_is_to_be_repeated() -> None:
    for at, name in enumerate(("data seeds", "reward seeds", "seeds", "prompts")):
        spreads = [0.1, 0.1, 0.1, 0.1, 0.5]
        spreads[at] = 3.0
        found = layer_plan.spread(draw(rng(7), (6, 4, 3, 10), tuple(spreads), False), grid(6, 4, 3))
        assert found is not None
        assert sum(source.share or 0 for source in found.sources) == pytest.approx(1)
        assert sum(source.error or 0 for source in found.sources) == pytest.approx(1)
        assert f"add {name} next" in layer_plan.advice(found)
        assert not found.own_prompts


def test_what_the_design_cannot_tell_is_said() -> None:
    cells = rng(8).normal(size=(4, 10)) + rng(9).normal(size=(4, 1))
    alone = layer_plan.spread(cells, {"data seed": [0, 1, 2, 3], "seed": [0, 0, 0, 0]})
    assert alone is not None
    assert {source.name: source.why for source in alone.sources if source.share is None} == {
        "reward seed": "part of PPO: one seed drives both",
        "seed": "one seed in each level above: part of that",
    }
    fixed = layer_plan.spread(cells, {"reward seed": [0, 0, 1, 1], "seed": [0, 1, 0, 1]})
    assert fixed is not None
    assert fixed.sources[0].why == "the data were not redrawn"
    assert "the interval says nothing of other data." in layer_plan.advice(fixed)
    assert layer_plan.spread(np.ones((4, 10)), {"reward seed": [0, 0, 1, 1], "seed": [0, 1, 0, 1]}) is None


@pytest.mark.parametrize("own", [False, True])
def test_the_expected_width_is_that_of_intervals(own: bool) -> None:
    spreads, design = (0.6, 0.5, 0.4, 0.5, 1.0), (5, 2, 2, 20)
    parts = dict(zip((*NAMES, "prompt", "residual"), (sd**2 for sd in spreads), strict=True))
    known = layer_plan.Spread((), {**parts}, {}, own)
    generator, widths = rng(10), []
    for _ in range(60):
        found = layers.interval("change", draw(generator, design, spreads, own), LEVEL, generator, None, grid(5, 2, 2))
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high - found.low)
    assert layer_plan.width(known, layer_plan.Design(*design)) == pytest.approx(
        np.sqrt(np.mean(np.square(widths))), rel=0.12
    )


def test_the_cheapest_design_is_narrow_enough_and_one_run_less_is_not() -> None:
    parts = {"data seed": 0.04, "reward seed": 0.09, "seed": 0.01, "prompt": 0.1, "residual": 1.0}
    known = layer_plan.Spread((), {**parts}, {}, True)
    found = layer_plan.cheapest(known, 0.4, 200)
    assert found is not None
    assert layer_plan.width(known, found) <= 0.4
    fewer = [
        layer_plan.Design(d, r, s, 200)
        for d, r, s in itertools.product(range(2, 61), range(1, 7), range(1, 7))
        if d * r * s < found.runs
    ]
    assert all(layer_plan.width(known, one) > 0.4 for one in fewer)
    assert layer_plan.cheapest(known, 1e-3, 200) is None
    # a layer that the pilot cannot tell has one level
    blind = layer_plan.cheapest(known._replace(components={**parts, "reward seed": None}), 0.4, 200)
    assert blind is not None
    assert blind.reward == 1


# ---- simulation ----------------------------------------------------------------------------------------------------


def coverage(design: tuple[int, int, int, int], spreads: tuple[float, ...], own: bool, count: int) -> float:
    """The share of intervals that hold 0, conditional on the layers of one level."""
    generator, held = rng(11), 0
    given = tuple(0.0 if math.prod(design[: at + 1]) == 1 else sd for at, sd in enumerate(spreads[:3]))
    for _ in range(count):
        cells = draw(generator, design, (*given, *spreads[3:]), own)
        found = layers.interval("change", cells, LEVEL, generator, None, grid(*design[:3]))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    return held / count


def test_a_few_data_seeds_are_covered_where_the_bare_runs_are_not() -> None:
    design, spreads = (3, 2, 2, 10), (0.7, 0.4, 0.3, 0.5, 1.0)
    assert coverage(design, spreads, True, 80) >= 0.87
    # taking the 12 runs for independent, as seeds of one layer are, misses the truth
    generator, held = rng(12), 0
    for _ in range(80):
        found = two_way(draw(generator, design, spreads, False), LEVEL)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    assert held / 80 < 0.87


@pytest.mark.slow
@pytest.mark.parametrize("data", [2, 3, 5, 10])
@pytest.mark.parametrize(("rewards", "seeds"), [(1, 1), (2, 1), (2, 3)])
@pytest.mark.parametrize("spreads", [(0.6, 0.4, 0.3, 0.5, 1.0), (0.0, 0.6, 0.3, 0.5, 1.0), (0.0, 0.0, 0.0, 0.5, 1.0)])
@pytest.mark.parametrize("own", [True, False])
def test_coverage_of_two_to_ten_data_seeds(
    data: int, rewards: int, seeds: int, spreads: tuple[float, ...], own: bool
) -> None:
    held = coverage((data, rewards, seeds, 40), spreads, own, 400)
    assert held >= 0.94 - 3 * math.sqrt(0.94 * 0.06 / 400)


def test_a_change_in_layers_is_nested_t_of_its_rows() -> None:
    cells, levels = draw(rng(13), (2, 2, 2, 6), (1.0, 1.0, 1.0, 1.0, 1.0), False), grid(2, 2, 2)
    rows = layers.rows_of(cells, levels)
    expected = nested_t(*rows, LEVEL)
    found = layers.interval("level", cells, LEVEL, rng(), None, levels)
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)


def test_the_mean_of_runs_that_did_not_collapse_is_over_their_layers() -> None:
    levels = grid(3, 2, 2)
    before = rng(14).normal(size=(12, 20))
    change = draw(rng(15), (3, 2, 2, 20), (0.05, 0.05, 0.05, 0.05, 0.1), False)
    change[5] -= 3
    found = runs.of_runs(before, before + change, LEVEL, layers=levels)
    assert found.collapsed == tuple(at == 5 for at in range(12))
    others = [at for at in range(12) if at != 5]
    expected = layers.interval("change", change[others], LEVEL, rng(), None, layers.chosen(levels, others))
    assert (found.others.value, found.others.low) == pytest.approx((expected.value, expected.low))
    assert found.mixture.low is not None
    assert found.mixture.low < change.mean()
    assert layers.chosen(None, others) is None
