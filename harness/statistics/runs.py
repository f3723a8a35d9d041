"""Training runs that collapse: how many of them do, which runs lie apart, and the mean over runs of two modes.

Over seeds of which some collapse, the t interval of the mean is too short: where no seed of a few happens to collapse,
it lies around the mean of the others (docs/statistics.md has the simulation).  Three numbers stand beside it: the share
of runs that collapse, the mean of the others, and an interval of the mean over all runs that allows for a collapse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, Clusters, as_matrix, constant, upper_tail
from rlhf_bench.harness.statistics.intervals import (
    Interval,
    allow_non_finite,
    bounded,
    exact,
    nested_t,
    two_way,
    unbounded,
    undefined,
)
from rlhf_bench.harness.statistics.layers import Layers, chosen, rows_of

SHARE_OF_SD = 0.5
"""A run has collapsed where its mean falls by more than this many standard deviations of the SFT baseline's values."""
RULE = f"collapsed: the run's mean falls by more than {SHARE_OF_SD:g} standard deviations of the SFT baseline's values"
MIXTURE = "exact binomial with two-way t of either mode"
TWO_MODES = "the runs have two modes"
SHARED = "runs that share data or a reward model are counted as independent"

Flags = npt.NDArray[np.bool_]


class Runs(NamedTuple):
    """The training runs of one condition, in the order given.

    changes [S]: each run's mean change, nan without a decided prompt.   thresholds [S]: the change below which a run
    has collapsed, nan where the baseline's values do not vary.   collapsed [S]: None where that cannot be said.
    outlying: the places of the runs that lie apart (see `outlying`).   share: runs that collapsed, of those that can be
    ruled on. others: the mean change over the runs that did not collapse.   mixture: the mean over all runs (see
    `mixture`)."""

    changes: Array
    thresholds: Array
    collapsed: tuple[bool | None, ...]
    outlying: tuple[int, ...]
    share: Interval
    others: Interval
    mixture: Interval

    @property
    def two_modes(self) -> bool:
        """Whether some runs collapsed and others did not."""
        return True in self.collapsed and False in self.collapsed


@allow_non_finite
def of_runs(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    level: float,
    clusters: Clusters | None = None,
    higher_is_better: bool = True,
    layers: Layers | None = None,
) -> Runs:
    """Which of the runs with these values before and after training [S, P] collapsed, and what that makes of the mean.

    A run has collapsed where its mean change lies more than SHARE_OF_SD standard deviations of its baseline's values
    over prompts on the worse side of 0, a medium effect by Cohen (1988).  The rule looks at one run alone, so that the
    number of collapsed runs is binomial, whatever the other seeds did.  The smallest and the largest value seen, before
    or after, bound how far the mean of a run can go.  Undecided (NaN) cells are left out of both.  `layers` [S] of the
    runs: means are then over nested layers, while the share takes runs for independent, which its note says.  Raises
    BenchError for shapes that differ.
    """
    first, second = as_matrix(before), as_matrix(after)
    if first.shape != second.shape:
        raise BenchError(f"Shapes {first.shape} before and {second.shape} after.", "Give [seeds, prompts] alike.")
    sign = 1.0 if higher_is_better else -1.0
    holes = np.isnan(first) | np.isnan(second)
    first, second = (np.where(holes, np.nan, sign * cells) for cells in (first, second))
    cells = second - first
    changes, levels = _means(cells), _means(first)
    decided = [row[~np.isnan(row)] for row in first]
    # nan where the baseline's values do not vary: the run is then in neither group
    spreads = [math.nan if row.size < 2 or constant(row) else float(row.std(ddof=1)) for row in decided]
    thresholds = -SHARE_OF_SD * np.array(spreads)
    known = np.isfinite(changes) & np.isfinite(thresholds)
    flags = changes < thresholds  # False where either is nan
    limits = None
    if known.any():
        seen = np.concatenate([first[~holes], second[~holes]])
        # a run at worst gives every prompt the smallest value seen: its mean then falls to that value
        limits = float(seen.min() - np.nanmax(levels)), float(seen.max() - np.nanmin(levels))
    found = mixture(
        cells[known], flags[known], thresholds[known], level, limits, clusters, chosen(layers, np.flatnonzero(known))
    )
    kept = known & ~flags
    others = undefined("all runs collapsed" if known.any() else "the baseline's values do not vary")
    if kept.any():
        others = _mean(cells[kept], level, clusters, chosen(layers, np.flatnonzero(kept)))
    return Runs(
        sign * changes,
        sign * thresholds,
        tuple(bool(flag) if ruled else None for flag, ruled in zip(flags, known, strict=True)),
        outlying(changes, level),
        exact(int(flags[known].sum()), int(known.sum()), level),
        _turned(others, sign),
        _turned(found, sign),
    )


def _mean(cells: Array, level: float, clusters: Clusters | None, layers: Layers | None) -> Interval:
    """The interval of the mean over runs and prompts [S, P]."""
    if layers is None or len(cells) < 2:
        return two_way(cells, level, clusters)
    return nested_t(*rows_of(cells, layers, clusters), level)


def _means(cells: Array) -> Array:
    """[S] means over decided prompts, nan without any."""
    decided = ~np.isnan(cells)
    return np.asarray(np.where(decided, cells, 0.0).sum(axis=1) / decided.sum(axis=1))


def _turned(found: Interval, sign: float) -> Interval:
    """The interval of sign times the estimate, sign 1 or -1."""
    if sign > 0 or found.value is None:
        return found
    low, high = (None if end is None else -end for end in (found.high, found.low))
    return Interval(-found.value, low, high, found.method, found.note)


@allow_non_finite
def mixture(
    cells: npt.ArrayLike,
    collapsed: Sequence[bool] | Flags,
    thresholds: npt.ArrayLike,
    level: float,
    limits: tuple[float, float] | None = None,
    clusters: Clusters | None = None,
    layers: Layers | None = None,
) -> Interval:
    """Interval of the mean over runs of changes [S, P] when each run collapses with an unknown probability p.

    The mean is (1 - p) m + p c, m the mean of runs that do not collapse and c that of those that do.  Half of the error
    goes to Clopper and Pearson's interval of p, half to the two-way t intervals of m and c (a quarter each where both
    are used); the bounds are the smallest and the largest mean that these three allow (Bonferroni), so the interval
    holds at least its level.  A mode with fewer than two runs has no t interval: it is then bounded by thresholds [S]
    and limits (lowest, highest possible change), without which there are no bounds.  Raises BenchError for lengths that
    differ.
    """
    matrix, flags = as_matrix(cells), np.asarray(collapsed, dtype=bool)
    edges = np.asarray(thresholds, dtype=np.float64)
    if not len(matrix) == len(flags) == len(edges):
        seen = f"{len(matrix)} runs, {len(flags)} verdicts and {len(edges)} thresholds."
        raise BenchError(seen, "Give one of each for every run.")
    if not matrix.size or np.isnan(matrix).all():
        return undefined("no decided case", MIXTURE)
    value, error = float(np.nanmean(_means(matrix))), 2 * (1 - upper_tail(level))
    bad, runs = int(flags.sum()), len(flags)
    modes = [matrix[~flags], matrix[flags]]
    several = [len(mode) > 1 for mode in modes]
    lowest, highest = limits or (-math.inf, math.inf)
    # a run that did not collapse lies above the threshold and one that did lies below
    ends = [(float(edges.min()), highest), (lowest, float(edges.max()))]
    for place, mode in enumerate(modes):
        if several[place]:
            own = chosen(layers, np.flatnonzero(flags == bool(place)))
            found = _mean(mode, 1 - error / 2 / sum(several), clusters, own)
            if found.low is not None and found.high is not None:
                ends[place] = max(found.low, ends[place][0]), min(found.high, ends[place][1])
    (good_low, good_high), (bad_low, bad_high) = ends
    if not (math.isfinite(good_high) and math.isfinite(bad_low)):
        return unbounded(value, MIXTURE, "no interval of the mean: nothing bounds how far a run can fall or rise")
    share = exact(bad, runs, 1 - error / 2)
    chances = [p for p in (share.low, share.high) if p is not None]
    # a mean is linear in p, m and c each, so that its extremes lie at their ends
    low = min((1 - p) * good_low + p * bad_low for p in chances)
    high = max((1 - p) * good_high + p * bad_high for p in chances)
    return bounded(value, low, high, MIXTURE)


def outlying(values: npt.ArrayLike, level: float, most: int | None = None) -> tuple[int, ...]:
    """Places of the values [S] that lie apart from the rest, by Rosner's generalised ESD test (1983) at 1 - level.

    Up to `most` of them, (S - 1) / 2 by default; nan is no value.  A single step is Grubbs' test, exact for normal
    values.  Rosner gives every step the whole error, by which 10 normal values have an outlier in .10 of samples; here
    the steps share it.
    """
    found, error = np.asarray(values, dtype=np.float64), 2 * (1 - upper_tail(level))
    rest = np.flatnonzero(np.isfinite(found))
    total, removed, count = rest.size, [], 0
    steps = (total - 1) // 2 if most is None else min(most, total - 2)
    for step in range(1, steps + 1):
        left = found[rest]
        if constant(left):
            break
        away = np.abs(left - left.mean())
        worst = int(away.argmax())
        n = total - step + 1
        t = float(special.stdtrit(n - 2, 1 - error / steps / (2 * n)))
        critical = t * (n - 1) / math.sqrt((n - 2 + t * t) * n)
        removed.append(int(rest[worst]))
        if away[worst] / left.std(ddof=1) > critical:
            count = step  # the last step that exceeds its value decides: two outliers can hide each other
        rest = np.delete(rest, worst)
    return tuple(sorted(removed[:count]))
