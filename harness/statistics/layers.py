"""Cells [S runs, P prompts] whose runs lie in layers of seeds: as rows for nested components, and as means by level.

`Layers` gives the level of each run [S] in each layer, outermost first (harness/seeds.py: data seed, reward seed,
seed).  Where a data seed draws prompts of its own, they are columns of their own, NaN under the other data seeds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import MeasureKind
from rlhf_bench.harness.statistics import comparisons, intervals
from rlhf_bench.harness.statistics.cells import (
    Array,
    Clusters,
    Codes,
    as_matrix,
    constant,
    tidy,
    upper_tail,
)
from rlhf_bench.harness.statistics.intervals import (
    Interval,
    allow_non_finite,
    bounded,
    nested_t,
    same_everywhere,
    unbounded,
    undefined,
)
from rlhf_bench.harness.statistics.variance import Nested, nested

Layers = Mapping[str, Sequence[Hashable]]


def chosen(layers: Layers | None, runs: Sequence[int] | Codes) -> Layers | None:
    """The layers of some of the runs, by their places; None without layers."""
    return layers and {name: [levels[run] for run in runs] for name, levels in layers.items()}


def outer_codes(layers: Layers) -> Codes:
    """[S] the level of each run in the outermost layer that has several, counted from 0; 0 for all without such."""
    for levels in layers.values():
        known = {level: code for code, level in enumerate(dict.fromkeys(levels))}
        if len(known) > 1:
            return np.array([known[level] for level in levels], dtype=np.intp)
    return np.zeros(len(next(iter(layers.values()))), dtype=np.intp)


def outer_means(cells: Array, layers: Layers | None) -> Array:
    """[S, ...] -> [D, ...]: means over the runs of each level of the outermost layer; the cells without layers.

    The D rows are independent of each other, as seeds are: for statistics that are made for seeds.  In a balanced
    design an interval over them is as wide as that of the nested components, since the mean square of the outermost
    layer holds the parts of all inner ones.  A cell is NaN where no run of the level has it.
    """
    if layers is None:
        return cells
    codes = outer_codes(layers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing is NaN, as it should be
        return np.stack([np.nanmean(cells[codes == code], axis=0) for code in range(int(codes.max()) + 1)])


class Rows(NamedTuple):
    """The decided cells as rows [N] for `variance.nested`: values, the levels of each in the layers, its prompt."""

    values: Array
    layers: Mapping[str, Sequence[Hashable]]
    prompts: Sequence[int]


def rows_of(cells: Array, layers: Layers, clusters: Clusters | None = None) -> Rows:
    """The rows of cells [S, P].

    With clusters [P] (the prompts' sources) a row is a cluster's sum of deviations from the mean, scaled so that the
    rows of a run have the mean of its cells: the ratio estimator, linearised, as `variance.moments` does.  Raises
    BenchError for layers that do not fit the cells.
    """
    if any(len(levels) != len(cells) for levels in layers.values()):
        raise BenchError(f"{len(cells)} runs with layers of other lengths.", "Give the level of each run.")
    decided = ~np.isnan(cells)
    # the clusters of all prompts, also of one without a decided cell: on cells that are all decided
    units = tidy(np.zeros((1, cells.shape[1])), clusters)[1] if decided.any() else None
    runs, prompts = np.nonzero(decided)
    values = cells[runs, prompts]
    if units is not None:
        counts, size = decided.sum(axis=1), int(units.max()) + 1
        means = np.array(
            [row[known].mean() if known.any() else np.nan for row, known in zip(cells, decided, strict=True)]
        )
        centre = float(np.nanmean(means))
        places = runs * size + units[prompts]
        held, at = np.unique(places, return_inverse=True)
        sums = np.bincount(at, values - centre)
        runs, prompts = held // size, held % size
        values = centre + sums * np.bincount(runs, minlength=len(cells))[runs] / counts[runs]
    levels = {name: [own[run] for run in runs.tolist()] for name, own in layers.items()}
    return Rows(values, levels, prompts.tolist())


def components(cells: Array, layers: Layers, clusters: Clusters | None = None) -> Nested | None:
    """The nested components of cells [S, P] (`variance.nested`); None where nothing varies."""
    return nested(*rows_of(cells, layers, clusters))


@allow_non_finite
def interval(
    kind: MeasureKind,
    cells: npt.ArrayLike,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    layers: Layers | None = None,
) -> Interval:
    """The interval of a measure over cells [S, P]; every reported number of seeds in layers uses this function.

    Without layers, and of one run, `intervals.interval`.  Else change and level: `intervals.nested_t`, all layers and
    prompts random; win and rate: Korn-Graubard at the effective sample size that the nested half width says.
    Conditional on a layer with one level, as the note says.  Raises BenchError as `intervals.interval`, and for layers
    that do not fit the cells.
    """
    proportion = kind in ("win", "rate")
    low, high = (0.0, 1.0) if proportion else (-math.inf, math.inf)
    whole = as_matrix(cells, low, high)
    if layers is None or len(whole) < 2:
        return intervals.interval(kind, cells, level, rng, clusters)
    kept, codes, note = tidy(whole, clusters, low, high)
    rows = rows_of(whole, layers, clusters)
    if not proportion:
        return nested_t(*rows, level).noted(_few(layers), note)
    found = nested(*rows)
    if found is None:
        made = same_everywhere(kept, codes, level, low, high) if kept.size else undefined("no decided case")
        return made.noted(note)
    half, t = found.half_width(1 - upper_tail(level)), float(special.stdtrit(rows.values.size - 1, upper_tail(level)))
    # Korn and Graubard (1998), as in `intervals.rate_over_seeds`: n_eff = p (1 - p) (t / half)^2, at most all cases.
    p, cases = found.mean, float(rows.values.size)
    size = min(cases, (t * math.sqrt(p * (1 - p)) / half) ** 2) if half > 0 and 0 < p < 1 else cases
    tail = 1 - upper_tail(level)
    # the exact bounds are quantiles of Beta(k, n - k + 1) and Beta(k + 1, n - k), which allow fractional counts
    k = size * p
    bounds = (
        float(special.betaincinv(k, size - k + 1, tail)) if k > 0 else 0.0,
        float(special.betaincinv(k + 1, size - k, 1 - tail)) if k < size else 1.0,
    )
    made = bounded(p, *bounds, "nested Korn-Graubard").noted(f"effective sample size {size:.0f}", found.note)
    return made.noted(_few(layers), note)


def _few(layers: Layers) -> str:
    """A note where the outermost layer with several levels has two; "" elsewhere."""
    for name, levels in layers.items():
        if (count := len(set(levels))) > 1:
            return (
                f"two {name}s say little of the spread between them: the interval is wide for it" if count == 2 else ""
            )
    return ""


@allow_non_finite
def difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    kind: MeasureKind,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    layers: Layers | None = None,
) -> Interval:
    """Interval of the paired difference a - b of one measure, a and b [S, P] of the same runs and prompts.

    Without layers, and of one run, `comparisons.difference`.  Raises BenchError as it and as `interval`.
    """
    first, second = as_matrix(a), as_matrix(b)
    if layers is None or len(first) < 2:
        return comparisons.difference(a, b, kind, level, rng, clusters)
    if kind in ("change", "level"):
        return interval(kind, first - second, level, rng, clusters, layers)
    kept, codes, note = tidy(first - second, clusters)
    # differences of wins and rates lie in [-1, 1]: equal ones have an exact bound instead of a width of 0
    if kept.size and constant(kept):
        return same_everywhere(kept, codes, level, -1.0, 1.0).noted(note)
    return interval("change", first - second, level, rng, clusters, layers).clipped(-1.0, 1.0)


@allow_non_finite
def p_value(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    kind: MeasureKind,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    layers: Layers | None = None,
) -> Interval:
    """Two-sided p of no difference: the level at which `difference`'s interval reaches 0, as `comparisons.p_value`."""
    cells = as_matrix(a) - as_matrix(b)
    if layers is None or len(cells) < 2 or ((~np.isnan(cells)).any() and constant(cells)):
        return comparisons.p_value(a, b, kind, rng, clusters)
    found = components(cells, layers, clusters)
    if found is None or not found.variance > 0:
        return undefined("the spread is not a finite number above 0", "nested t")
    low, high = -300.0, 0.0
    # Bisection on log10 p: the half width falls as p rises, and p is where it equals the mean's distance from 0.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if found.half_width(10**middle / 2) > abs(found.mean) else (low, middle)
    return unbounded(float(10**high), "nested t").noted(found.note)
