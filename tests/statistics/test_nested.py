"""Nested variance components: closed forms in balanced layouts, dense projections in others, coverage by simulation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.intervals import nested_t, two_way
from rlhf_bench.harness.statistics.variance import PROMPT, RESIDUAL, Nested, nested

LEVEL = 0.95
LAYERS = ("data seed", "reward seed", "PPO seed")
Array = np.ndarray[Any, Any]


def rows_of(cells: Array, shared: bool = True) -> tuple[Array, dict[str, list[int]], list[Any]]:
    """(values, layers, prompts) of cells [D, R, S, P]; `shared`: prompts are the same under every data seed."""
    places = list(itertools.product(*map(range, cells.shape)))
    layers = {name: [place[depth] for place in places] for depth, name in enumerate(LAYERS)}
    prompts = [place[3] if shared else (place[0], place[3]) for place in places]
    return cells.ravel(), layers, prompts


def of_cells(cells: Array, shared: bool = True) -> Nested:
    found = nested(*rows_of(cells, shared))
    assert found is not None
    return found


def squares_of(cells: Array) -> dict[str, float]:
    """Mean squares of balanced cells [D, R, S, P], prompts crossed with all runs."""
    d, r, s, p = cells.shape
    grand, of_prompt = cells.mean(), cells.mean(axis=(0, 1, 2))
    of_d, of_r, of_s = cells.mean(axis=(1, 2, 3)), cells.mean(axis=(2, 3)), cells.mean(axis=3)
    rest = cells - of_s[..., None] - of_prompt + grand
    return {
        LAYERS[0]: r * s * p * ((of_d - grand) ** 2).sum() / (d - 1),
        LAYERS[1]: s * p * ((of_r - of_d[:, None]) ** 2).sum() / (d * (r - 1)),
        LAYERS[2]: p * ((of_s - of_r[..., None]) ** 2).sum() / (d * r * (s - 1)),
        PROMPT: d * r * s * ((of_prompt - grand) ** 2).sum() / (p - 1),
        RESIDUAL: (rest**2).sum() / ((d * r * s - 1) * (p - 1)),
    }


def test_balanced_components_are_those_of_the_analysis_of_variance() -> None:
    cells = np.random.default_rng(0).normal(size=(3, 2, 4, 5)) + np.arange(3)[:, None, None, None]
    ms = squares_of(cells)
    d, r, s, p = cells.shape
    raw = {
        LAYERS[0]: (ms[LAYERS[0]] - ms[LAYERS[1]]) / (r * s * p),
        LAYERS[1]: (ms[LAYERS[1]] - ms[LAYERS[2]]) / (s * p),
        LAYERS[2]: (ms[LAYERS[2]] - ms[RESIDUAL]) / p,
        PROMPT: (ms[PROMPT] - ms[RESIDUAL]) / (d * r * s),
        RESIDUAL: ms[RESIDUAL],
    }
    found = of_cells(cells)
    assert found.components == pytest.approx({name: max(0.0, value) for name, value in raw.items()})
    assert found.mean == pytest.approx(cells.mean())
    assert found.levels == {LAYERS[0]: 3, LAYERS[1]: 6, LAYERS[2]: 24, PROMPT: 5}
    # the expected mean square of the outermost layer holds all that the mean varies by, but for prompts
    assert found.parts[0].sum() == pytest.approx((ms[LAYERS[0]] + ms[PROMPT] - ms[RESIDUAL]) / cells.size)
    for name, value in raw.items():
        assert (value < 0) == (name in found.note)


def test_one_layer_is_the_two_way_interval() -> None:
    rng = np.random.default_rng(1)
    for shape, seed_sd in (((2, 30), 0.5), ((5, 10), 0.0), ((3, 8), 3.0)):
        cells = rng.normal(size=shape) + seed_sd * rng.normal(size=(shape[0], 1)) + rng.normal(size=shape[1])
        seeds, prompts = np.indices(shape).reshape(2, -1).tolist()
        found, known = nested_t(cells.ravel(), {"seed": seeds}, prompts, LEVEL), two_way(cells, LEVEL)
        assert (found.value, found.low, found.high) == pytest.approx((known.value, known.low, known.high))


def test_seeds_that_drive_every_layer_are_one_layer() -> None:
    """Today's runs: one seed draws the data, the reward model and PPO."""
    cells = np.random.default_rng(2).normal(size=(4, 1, 1, 9)) + np.arange(4)[:, None, None, None]
    found, known = nested_t(*rows_of(cells), LEVEL), two_way(cells[:, 0, 0], LEVEL)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    made = of_cells(cells)
    assert (made.components[LAYERS[1]], made.components[LAYERS[2]]) == (None, None)
    assert "one reward seed per data seed: their variances are one" in made.note


def test_layers_of_one_level_are_given() -> None:
    cells = np.random.default_rng(3).normal(size=(1, 3, 2, 9))
    found = of_cells(cells)
    assert found.components[LAYERS[0]] is None
    assert "one data seed: the mean is conditional on it" in found.note
    runs = np.random.default_rng(4).normal(size=(1, 1, 4, 9))
    assert nested_t(*rows_of(runs), LEVEL).low == pytest.approx(two_way(runs[0, 0], LEVEL).low)
    one = np.random.default_rng(5).normal(size=(1, 1, 1, 9))
    low, high = stats.t.interval(LEVEL, 8, one.mean(), stats.sem(one, axis=None))
    alone = nested_t(*rows_of(one), LEVEL)
    assert (alone.low, alone.high) == pytest.approx((low, high))
    assert "prompts hold the residual" in alone.note


def test_prompts_of_their_own_leave_students_t_over_data_seeds() -> None:
    cells = np.random.default_rng(6).normal(size=(4, 2, 2, 6)) + 3 * np.arange(4)[:, None, None, None]
    found = nested_t(*rows_of(cells, shared=False), LEVEL)
    means = cells.mean(axis=(1, 2, 3))
    assert (found.low, found.high) == pytest.approx(stats.t.interval(LEVEL, 3, means.mean(), stats.sem(means)))


def projection(columns: Array) -> Array:
    found: Array = columns @ np.linalg.pinv(columns)
    return found


def dummies(codes: Any) -> Array:
    return (np.asarray(codes)[:, None] == np.unique(codes)).astype(float)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_unbalanced_components_solve_hendersons_equations(seed: int) -> None:
    """Against dense projections: y' (H_k - H_k-1) y equal to its expectation, with every trace computed in full."""
    rng = np.random.default_rng(seed)
    d = rng.integers(0, 3, 40)
    r, s, p = 3 * d + rng.integers(0, 3, 40), rng.integers(0, 2, 40), rng.integers(0, 6, 40)
    runs = 2 * r + s
    y = rng.normal(size=40) + rng.normal(size=3)[d] + rng.normal(size=9)[r] + rng.normal(size=6)[p]
    effects = [dummies(d), dummies(r), dummies(runs), dummies(p)]
    models = [np.ones((40, 1)), effects[0], effects[1], effects[2], np.hstack(effects[2:]), np.eye(40)]
    fits = [projection(model) for model in models]
    steps = [after - before for before, after in itertools.pairwise(fits)]
    expected = np.array([[np.trace(z.T @ step @ z) for z in [*effects, np.eye(40)]] for step in steps])
    solved = np.linalg.lstsq(expected, np.array([y @ step @ y for step in steps]), rcond=None)[0]
    found = nested(y, dict(zip(LAYERS, (d.tolist(), r.tolist(), s.tolist()), strict=True)), p.tolist())
    assert found is not None
    if None not in found.components.values():
        assert list(found.components.values()) == pytest.approx(np.maximum(solved, 0), abs=1e-8)
    # the mean counts data seeds alike, then reward seeds, then runs
    levels = [[y[runs == run].mean() for run in np.unique(runs[r == one])] for one in np.unique(r)]
    of_r = dict(zip(np.unique(r).tolist(), map(np.mean, levels), strict=True))
    of_d = [np.mean([of_r[one] for one in np.unique(r[d == data]).tolist()]) for data in np.unique(d)]
    assert found.mean == pytest.approx(np.mean(of_d))


def test_undecided_rows_are_left_out_and_nothing_to_estimate_is_said() -> None:
    values, layers, prompts = rows_of(np.random.default_rng(7).normal(size=(2, 2, 2, 4)))
    values[3] = math.nan
    kept = [at for at in range(values.size) if at != 3]
    whole = nested(values, layers, prompts)
    part = nested(values[kept], {k: [v[at] for at in kept] for k, v in layers.items()}, [prompts[at] for at in kept])
    assert whole is not None
    assert part is not None
    assert whole.components == part.components
    assert nested(np.ones(values.size), layers, prompts) is None
    assert "equal" in nested_t(np.ones(values.size), layers, prompts, LEVEL).note
    assert nested_t([math.nan], {"seed": [1]}, [1], LEVEL).value is None
    with pytest.raises(BenchError, match="2 values with seed 1"):
        nested([1.0, 2.0], {"seed": [1]}, [1, 2])
    with pytest.raises(BenchError, match="Give one level"):
        nested([1.0, 2.0], {}, [1, 2])


# ---- simulation ------------------------------------------------------------------------------------------------------

DESIGNS = [(3, 1, 1, 40), (3, 2, 2, 40), (2, 2, 3, 40), (5, 2, 2, 20), (1, 3, 2, 40), (1, 1, 5, 40)]
SPREADS = [(0.5, 0.5, 0.5, 1.0), (0.0, 0.5, 0.2, 0.5), (0.0, 0.0, 0.0, 1.0)]


def draw(rng: np.random.Generator, design: tuple[int, ...], spreads: tuple[float, ...], shared: bool) -> Array:
    """Cells [D, R, S, P] around 0 (around the data seed's and reward seed's effect where there is one of them)."""
    d, r, s, p = design
    parts = [(d, 1, 1, 1), (d, r, 1, 1), (d, r, s, 1), (1 if shared else d, 1, 1, p)]
    random = [sd * rng.normal(size=shape) for sd, shape in zip(spreads, parts, strict=True)]
    if d == 1:
        random[0] *= 0.0
    if d == r == 1:
        random[1] *= 0.0
    cells: Array = sum(random) + rng.normal(size=design)
    return cells


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("spreads", SPREADS)
@pytest.mark.parametrize(("shared", "holes"), [(True, 0.0), (False, 0.0), (True, 0.2)])
def test_coverage(design: tuple[int, ...], spreads: tuple[float, ...], shared: bool, holes: float) -> None:
    rng, count = np.random.default_rng(11), 400
    held = 0
    for _ in range(count):
        values, layers, prompts = rows_of(draw(rng, design, spreads, shared), shared)
        values = np.where(rng.random(values.size) < holes, np.nan, values)
        found = nested_t(values, layers, prompts, LEVEL)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    assert held / count >= 0.94 - 3 * math.sqrt(0.94 * 0.06 / count)


@pytest.mark.slow
def test_components_are_unbiased_in_an_unbalanced_layout() -> None:
    rng, spreads, count = np.random.default_rng(12), (1.0, 0.7, 0.5, 0.8), 1500
    design = (6, 3, 2, 6)
    keep = rng.random(design) < 0.6
    totals = np.zeros((count, 5))
    for at in range(count):
        cells = np.where(keep, draw(rng, design, spreads, True), np.nan)
        found = of_cells(cells)
        totals[at] = list(found.components.values())
    errors = totals.std(axis=0) / math.sqrt(count)
    # setting negative estimates to 0 pushes up, if at all: rarely so here
    assert (np.abs(totals.mean(axis=0) - [*(sd**2 for sd in spreads), 1.0]) < 4 * errors + 0.01).all()
