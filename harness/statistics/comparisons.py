"""Paired differences, tests on them, the smallest effect that a design detects, and rank correlation.

Numpy and scipy only, generators explicit; an undecided case is left out, and no result is nan.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy  # scipy.stats loads when it is first used: half a second that most commands do without
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import MeasureKind
from rlhf_bench.harness.statistics.cells import (
    Array,
    Clusters,
    Codes,
    as_line,
    as_matrix,
    batches,
    cluster_sums,
    constant,
    decided_values,
    tidy,
    upper_tail,
)
from rlhf_bench.harness.statistics.intervals import (
    RESAMPLES,
    Interval,
    allow_non_finite,
    interval,
    percentile,
    same_everywhere,
    unbounded,
    undefined,
)
from rlhf_bench.harness.statistics.variance import moments

FEW_POINTS = 7  # up to here all permutations are tried (7! = 5040): so few points have no useful bootstrap
ROUNDING = 1e-12  # relative: sums this close are equal


@allow_non_finite
def difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    kind: MeasureKind,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
) -> Interval:
    """Interval of the paired difference a - b of one measure, a and b [S, P] on the same prompts.

    Seeds are matched by index; where one has more, the rest is left out with a note.  Raises BenchError for different
    numbers of prompts.
    """
    cells, codes, note = _differences(a, b, clusters)
    if kind in ("change", "level"):
        return interval(kind, cells, level, rng, codes).noted(note)
    # Differences of wins and rates lie in [-1, 1]: equal ones have an exact bound instead of a width of 0.
    if cells.size and constant(cells):
        return same_everywhere(cells, codes, level, -1.0, 1.0).noted(note)
    return interval("change", cells, level, rng, codes).clipped(-1.0, 1.0).noted(note)


def _differences(a: npt.ArrayLike, b: npt.ArrayLike, clusters: Clusters | None) -> tuple[Array, Codes | None, str]:
    """Tidy cells a - b on common seeds, their cluster codes, and a note where one has more seeds."""
    first, second = as_matrix(a), as_matrix(b)
    if first.shape[1] != second.shape[1]:
        seen = f"A comparison of {first.shape[1]} with {second.shape[1]} prompts."
        raise BenchError(seen, "Give both on the same prompts.")
    seeds = min(len(first), len(second))
    note = "" if len(first) == len(second) else f"{len(first)} seeds against {len(second)}: the first {seeds} of each"
    cells, codes, left_out = tidy(first[:seeds] - second[:seeds], clusters)
    return cells, codes, "; ".join(filter(None, (note, left_out)))


@allow_non_finite
def p_value(
    a: npt.ArrayLike, b: npt.ArrayLike, kind: MeasureKind, rng: np.random.Generator, clusters: Clusters | None = None
) -> Interval:
    """Two-sided p of no difference between a and b [S, P], by the method of `difference`'s interval.

    One seed: exact McNemar for win and rate, else (and for clusters) sign-flip permutation, both conditional on the two
    training runs.  Several: the level at which the two-way t interval reaches 0.
    """
    cells, codes, _ = _differences(a, b, clusters)
    if not cells.size:
        return undefined("no decided case")
    if len(cells) > 1:
        return two_way_p(cells, codes, bounded=kind in ("win", "rate"))
    # McNemar's test takes prompts for independent; against 0 it counts the signs of the differences.
    exact = kind in ("win", "rate") and codes is None
    found = mcnemar_exact(cells[0], np.zeros(cells.shape[1])) if exact else permutation_p(cells[0], rng, clusters=codes)
    return found.noted("of these two training runs")


@allow_non_finite
def two_way_p(cells: npt.ArrayLike, clusters: Clusters | None = None, bounded: bool = False) -> Interval:
    """Two-sided p of mean 0 for cells [S, P]: 1 minus the level at which `two_way`'s interval ends at 0.

    `bounded`: the cells lie in [-1, 1], and where they are all equal the p is that of the exact bound.
    """
    kept, codes, note = tidy(cells, clusters)
    method = "two-way t"
    if not kept.size:
        return undefined("no decided case", method)
    if len(kept) < 2 or kept.shape[1] < 2 or (codes is not None and codes.max() == 0):
        return undefined("a p-value needs two seeds and two prompts (or clusters)", method)
    if constant(kept):
        value = float(kept.flat[np.flatnonzero(~np.isnan(kept))[0]])
        if value == 0:
            return unbounded(1.0, method, "all differences are 0")
        if not bounded:
            return undefined("all differences are equal: their spread is unknown", method)
        units = kept.shape[1] if codes is None else int(codes.max()) + 1
        # `same_everywhere` reaches 0 at the share |value| / (1 + |value|), the exact bound 1 - (p / 2)^(1 / units).
        p = min(1.0, 2.0 * (1.0 + abs(value)) ** -float(units))
        return unbounded(p, "exact bound", f"all differences are equal: {units} independent prompts")
    m = moments(kept, codes)
    if not (math.isfinite(m.mean) and math.isfinite(m.variance) and m.variance > 0):
        return undefined("the spread is not a finite number above 0", method)
    # Bisection on log10 p: the half width falls as p rises, and p is where it equals the mean's distance from 0.
    low, high = -300.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if m.half_width(10**middle / 2) > abs(m.mean) else (low, middle)
    return unbounded(float(min(1.0, 10**high)), method).noted(m.note, note)


@allow_non_finite
def permutation_p(
    diff: npt.ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES, clusters: Clusters | None = None
) -> Interval:
    """Two-sided p of mean 0 for paired differences [n], by flipping signs; exact where 2^n is within the resamples.

    Prompts of one cluster are flipped together.
    """
    cells, codes, _ = tidy(as_line(diff), clusters)
    if not cells.size:
        return undefined("no decided case")
    kept = cluster_sums(cells[0] / (np.abs(cells).max() or 1.0), codes)  # scaled so that sums do not overflow
    if kept.size < 2:
        return unbounded(1.0, "sign-flip permutation", "one case" if codes is None else "one cluster of prompts")
    observed = abs(kept.sum()) * (1 - ROUNDING)
    if 2**kept.size <= resamples:
        # [2^n, n]: the bits of each row's number are its signs
        signs = 1.0 - 2.0 * (np.arange(2**kept.size)[:, None] >> np.arange(kept.size) & 1)
        return unbounded(float((np.abs(signs @ kept) >= observed).mean()), "sign-flip permutation", "all sign flips")
    reached = 1  # the observed signs are one of the flips, so that p is never 0
    for count in batches(resamples, kept.size):
        # [count, n] of 0 and 1: with signs 2 b - 1 the sum is 2 b . x - sum(x)
        signs = rng.integers(2, size=(count, kept.size), dtype=np.int8).astype(np.float64)
        reached += int((np.abs(2 * (signs @ kept) - kept.sum()) >= observed).sum())
    return unbounded(reached / (resamples + 1), "sign-flip permutation")


def mcnemar_exact(a: npt.ArrayLike, b: npt.ArrayLike) -> Interval:
    """McNemar's exact two-sided p for paired verdicts [n]: a binomial test on the prompts where a and b differ.

    The note counts the prompts where a is higher, lower and equal.
    """
    diff = decided_values(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))
    if not diff.size:
        return undefined("no decided case", "exact McNemar")
    up, differing = int((diff > 0).sum()), int((diff != 0).sum())
    p = scipy.stats.binomtest(up, differing).pvalue if differing else 1.0
    return unbounded(float(p), "exact McNemar", f"{up} up, {differing - up} down, {diff.size - differing} equal")


def holm(pvalues: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down adjusted p-values in the order given; None stays None and is not counted.

    A comparison is significant at level alpha, over the whole family, where its adjusted p is at most alpha.
    """
    order = sorted((p, i) for i, p in enumerate(pvalues) if p is not None)
    adjusted, largest = list(pvalues), 0.0
    for rank, (p, i) in enumerate(order):
        # Holm (1979): the r-th smallest of m, counted from 0, times m - r; the maximum so far keeps the order.
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def smallest_detectable(
    level: float, power: float = 0.8, *, n: int | None = None, se: float | None = None, df: float = 1e9
) -> float | None:
    """The true effect that a two-sided test at 1 - level detects with this power, in the data's unit.

    From the standard error `se` (with its degrees of freedom) or from n verdicts.  None where it is not finite (n = 0).
    Raises BenchError unless exactly one of n and se is given.
    """
    if (n is None) == (se is None):
        raise BenchError(
            "smallest_detectable needs one of n and se.", "Give the number of prompts or a standard error."
        )
    if se is None:
        # The standard deviation of values in [0, 1] is at most .5.
        se = 0.5 / math.sqrt(n) if n else math.inf
    # (t_(1 - alpha / 2) + t_power) se; with df = 1e9 both are normal quantiles.
    effect = float(special.stdtrit(df, upper_tail(level)) + special.stdtrit(df, power)) * se
    return effect if math.isfinite(effect) else None


@allow_non_finite
def spearman(
    x: npt.ArrayLike, y: npt.ArrayLike, level: float, rng: np.random.Generator, resamples: int = 2000
) -> Interval:
    """Spearman's rank correlation of x, y [n] with a percentile bootstrap over points.

    Up to 7 points have no useful bootstrap: the note gives the exact permutation p and the smallest p possible.
    """
    points = np.stack([as_line(x), as_line(y)])
    points = points[:, ~np.isnan(points).any(axis=0)]
    n = points.shape[1]
    if n < 3 or any(constant(row) for row in points):
        return undefined("fewer than 3 points" if n < 3 else "one of the two does not vary", "spearman")
    rho = float(_rank_correlation(points[0], points[1]))
    if n <= FEW_POINTS:
        # [n!, n] every order of y against x; 1e-9 lets equal correlations count as equal
        orders = np.array(list(itertools.permutations(range(n))))
        null = np.abs(_rank_correlation(points[0][None], points[1][orders]))
        p, least = np.mean(null >= abs(rho) - 1e-9), np.mean(null >= null.max() - 1e-9)
        # `least` is the smallest p that so few points allow: 1/3 for 3 points, where no order is significant
        note = f"{n} points are too few for an interval: exact two-sided p = {p:.3f}, at best {least:.3f}"
        return unbounded(rho, "spearman, exact permutation", note)
    drawn = rng.integers(n, size=(resamples, n))
    result = percentile(rho, _rank_correlation(points[0][drawn], points[1][drawn]), level)
    return replace(result.clipped(-1.0, 1.0), method="spearman, percentile bootstrap")


def _rank_correlation(x: Array, y: Array) -> Array:
    """[..., n] -> [...] Pearson's correlation of midranks; nan where one of the two does not vary."""
    a, b = (scipy.stats.rankdata(v, axis=-1) - (v.shape[-1] + 1) / 2 for v in (x, y))
    return np.asarray((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))
