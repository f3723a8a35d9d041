"""Every interval and every test of the project, and nothing else: numpy and scipy, generators always explicit.

Cells [S seeds, P prompts] hold one number per training seed and held-out prompt; NaN (or None) is undecided and
is left out, never scored.  No nan or inf leaves this file: what cannot be said is None, and the note says why.  Columns
of one comparison share their resamples when each call gets a fresh generator of the same seed.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import MeasureKind

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]
Clusters = Sequence[Hashable] | Codes

RESAMPLES = 9999
ENOUGH_COMPLETE = 0.9
FEW_POINTS = 7
TWO_SEEDS = "two seeds: where runs differ much the interval covers less than its level (docs/coverage.md)"

quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")
# Overflow is let through as inf on purpose: `made` turns it into None with a reason.


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence bounds, in the unit of the data.  A p-value or distance has no bounds."""

    value: float | None
    low: float | None
    high: float | None
    method: str
    note: str = ""

    def noted(self, *notes: str) -> Interval:
        return replace(self, note="; ".join(filter(None, (self.note, *notes))))

    def clipped(self, low: float, high: float) -> Interval:
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, low), high=min(self.high, high))


class Moments(NamedTuple):
    """A mean, its squared standard error and the degrees of freedom of the latter."""

    mean: float
    variance: float
    df: float
    note: str = ""


def nothing(reason: str, method: str = "none") -> Interval:
    """Nothing can be said, and why."""
    return Interval(None, None, None, method, reason)


def made(value: float, low: float, high: float, method: str, note: str = "") -> Interval:
    """Value with bounds.  Bounds that miss the value (a bootstrap of a few skewed values) are widened to hold it."""
    if not math.isfinite(value):
        return nothing("the value is not a finite number", method)
    if not (math.isfinite(low) and math.isfinite(high)):
        return Interval(float(value), None, None, method).noted(note, "the bounds are not finite numbers")
    return Interval(float(value), float(min(low, value)), float(max(high, value)), method, note)


def alone(value: float, method: str, note: str = "") -> Interval:
    """A number without bounds: a p-value, a distance, or an estimate whose spread is unknown."""
    if not math.isfinite(value):
        return nothing("the value is not a finite number", method)
    return Interval(float(value), None, None, method, note)


# ---- one sample of prompts ------------------------------------------------------------------------------------------


def wilson(values: npt.ArrayLike, level: float) -> Interval:
    """Wilson's score interval on the mean of values [n] in [0, 1]; a tie counts .5 (Wilson 1927).

    With fractional values it is conservative: p(1 - p) bounds their variance.
    """
    kept = _kept(values, 0.0, 1.0)
    if not kept.size:
        return nothing("no decided case", "wilson")
    n, p, z = kept.size, float(kept.mean()), float(special.ndtri(_upper(level)))
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    shrink = 1 + z * z / n
    return made(p, (centre - half) / shrink, (centre + half) / shrink, "wilson").clipped(0.0, 1.0)


def exact(k: int, n: int, level: float) -> Interval:
    """Clopper and Pearson's interval for k of n."""
    _upper(level)
    if not 0 <= k <= n:
        raise BenchError(f"{k} successes of {n} trials.", "Give 0 <= k <= n.")
    if n == 0:
        return nothing("no decided case", "exact")
    bounds = stats.binomtest(k, n).proportion_ci(confidence_level=level)
    return made(k / n, float(bounds.low), float(bounds.high), "exact")


@quiet
def paired(
    values: npt.ArrayLike,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
) -> Interval:
    """BCa bootstrap of the mean of per-prompt numbers [n] (Efron 1987).

    With clusters [n] whole clusters are resampled, and the statistic is the ratio of their sums to their sizes.
    """
    cells, codes, note = _tidy(_line(values), clusters)
    if plain := _degenerate(cells, codes, several=False):
        return plain
    sums = cells[0] if codes is None else np.bincount(codes, cells[0]).astype(np.float64)
    sizes = np.ones_like(cells[0]) if codes is None else np.bincount(codes).astype(np.float64)
    return bca((sums, sizes), _ratio, level, rng, resamples).noted(note)


def _ratio(sums: Array, sizes: Array, axis: int = -1) -> Array:
    return np.asarray(sums.sum(axis) / sizes.sum(axis))


@quiet
def bca(
    data: tuple[Array, ...], statistic: Callable[..., Any], level: float, rng: np.random.Generator, resamples: int
) -> Interval:
    """BCa interval of a vectorised statistic of paired samples, each [n]; percentile, and said so, where BCa is nan."""
    _upper(level)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # its nan is what the fallback below is for
        found = stats.bootstrap(
            data,
            statistic,
            n_resamples=resamples,
            batch=100,
            paired=True,
            confidence_level=level,
            method="BCa",
            rng=rng,
        )
    value, (low, high) = float(statistic(*data)), found.confidence_interval
    if math.isfinite(low) and math.isfinite(high):
        return made(value, float(low), float(high), "BCa bootstrap")
    return percentile(value, np.asarray(found.bootstrap_distribution), level, "BCa is undefined here")


def percentile(value: float, draws: Array, level: float, note: str = "") -> Interval:
    """Percentile interval of bootstrap draws [R]; undefined draws are left out."""
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [1 - _upper(level), _upper(level)]) if draws.size else (math.nan, math.nan)
    return made(value, float(low), float(high), "percentile bootstrap", note)


@quiet
def verdicts(values: npt.ArrayLike, level: float, rng: np.random.Generator, resamples: int = RESAMPLES) -> Interval:
    """Percentile bootstrap of the mean of values [n] with few distinct levels k: one multinomial draw [R, k]."""
    kept = _kept(values)
    if plain := _degenerate(kept[None], None, several=False):
        return plain
    levels, counts = np.unique(kept, return_counts=True)
    draws = rng.multinomial(kept.size, counts / kept.size, size=resamples)
    return percentile(float(kept.mean()), draws @ levels / kept.size, level)


# ---- several seeds --------------------------------------------------------------------------------------------------


@quiet
def two_way(cells: npt.ArrayLike, level: float, clusters: Clusters | None = None) -> Interval:
    """t interval on the grand mean of cells [S, P], seeds and prompts both random.

    V = (MS_seed + MS_prompt - MS_error) / (S P), never below MS_error / (S P); Satterthwaite's degrees of
    freedom, never below those of the shorter axis.  Clusters and holes: see `_moments`.
    """
    cells, codes, note = _tidy(cells, clusters)
    if plain := _degenerate(cells, codes):
        return plain.noted(note)
    m = _moments(cells, codes)
    half = float(special.stdtrit(m.df, _upper(level))) * math.sqrt(m.variance)
    return made(m.mean, m.mean - half, m.mean + half, "two-way t").noted(m.note, note)


def _moments(cells: Array, codes: Codes | None) -> Moments:
    """Moments of tidy cells [S, P], S and P at least 2 (or S = 1: over prompts alone).

    Holes: the prompts decided for every seed where 90% are.  Else, and for clusters, the ratio estimator is linearised:
    each cell becomes the sum of its cluster's deviations from the mean, undecided ones adding nothing.  (Pigeonhole as
    the fallback covers about .67 with two seeds that differ much, .77 with three: docs/coverage.md.)
    """
    complete = ~np.isnan(cells).any(axis=0)
    kept = int(complete.sum())
    if codes is None and kept == complete.size:
        return _anova(cells)
    if codes is None and kept >= max(2, ENOUGH_COMPLETE * complete.size):
        return _anova(cells[:, complete])._replace(
            note=f"on the {kept} of {complete.size} prompts decided for every seed"
        )
    if codes is not None:
        return _anova(_linearised(cells, codes))._replace(note=f"{codes.max() + 1} clusters of prompts")
    note = f"only {kept} of {complete.size} prompts decided for every seed: mean of all decided cases, linearised"
    return _anova(_linearised(cells, np.arange(cells.shape[1])))._replace(note=note)


def _linearised(cells: Array, codes: Codes) -> Array:
    """[S, clusters] whose grand mean is that of the decided cells and whose spread is the ratio estimator's."""
    decided, mean, count = ~np.isnan(cells), np.nanmean(cells), int(codes.max()) + 1
    excess = np.where(decided, cells - mean, 0.0)
    sums = np.stack([np.bincount(codes, row, minlength=count) for row in excess])
    found: Array = mean + sums * (sums.size / decided.sum())
    return found


def _anova(cells: Array) -> Moments:
    """Mean squares of a complete two-way layout without replication; one row gives the usual t on its columns."""
    rows, columns, mean = cells.mean(axis=1), cells.mean(axis=0), float(cells.mean())
    df_seed, df_prompt = rows.size - 1, columns.size - 1
    prompt = rows.size * float(((columns - mean) ** 2).sum()) / df_prompt
    if not df_seed:
        return Moments(mean, prompt / columns.size, df_prompt)
    seed = columns.size * float(((rows - mean) ** 2).sum()) / df_seed
    error = float(((cells - rows[:, None] - columns + mean) ** 2).sum()) / (df_seed * df_prompt)
    total = max(seed + prompt - error, error)
    if total == 0:
        return Moments(mean, 0.0, min(df_seed, df_prompt))
    parts = ((seed, df_seed), (prompt, df_prompt), (error, df_seed * df_prompt))
    df = 1 / sum((square / total) ** 2 / freedom for square, freedom in parts)
    return Moments(mean, total / cells.size, max(df, min(df_seed, df_prompt)))


@quiet
def pigeonhole(cells: npt.ArrayLike, level: float, rng: np.random.Generator, resamples: int = 2000) -> Interval:
    """Percentile bootstrap that resamples seeds and prompts of cells [S, P] independently (Owen 2007).

    The companion of `two_way`: with few seeds its interval is too short, since S seeds have few resamples.
    """
    cells, _, note = _tidy(cells, None)
    if plain := _degenerate(cells, None):
        return plain.noted(note)
    decided = ~np.isnan(cells)
    filled, mask, draws = np.where(decided, cells, 0.0), decided.astype(np.float64), []
    for start in range(0, resamples, 100):  # [100, P] at a time bounds the memory
        seeds, prompts = (_weights(rng, min(100, resamples - start), n) for n in cells.shape)
        draws.append(((seeds @ filled) * prompts).sum(axis=1) / ((seeds @ mask) * prompts).sum(axis=1))
    found = percentile(float(np.nanmean(cells)), np.concatenate(draws), level, note)
    return replace(found, method="pigeonhole bootstrap")


def _weights(rng: np.random.Generator, count: int, n: int) -> Array:
    """[count, n] how often each of n is drawn in n draws with replacement."""
    drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


@quiet
def rate_over_seeds(cells: npt.ArrayLike, level: float, clusters: Clusters | None = None) -> Interval:
    """Clopper and Pearson's interval for cells [S, P] in [0, 1] at the effective sample size (Korn and Graubard 1998).

    n_eff = p(1 - p) / V times the squared ratio of t quantiles (all cases over V's degrees of freedom), at most the
    number of cases.  Where all cases are equal V says nothing: n_eff = prompts (or clusters), as if seeds only repeated
    each other.
    """
    cells, codes, note = _tidy(cells, clusters, 0.0, 1.0)
    if not cells.size:
        return nothing("no decided case", "Korn-Graubard")
    if constant(cells):
        return _same_everywhere(cells, codes, level, 0.0, 1.0).noted(note)
    if why := _too_small(cells, codes, several=False):
        return alone(float(np.nanmean(cells)), "none", why).noted(note)
    m, n = _moments(cells, codes), int((~np.isnan(cells)).sum())
    ratio = special.stdtrit(n - 1, _upper(level)) / special.stdtrit(m.df, _upper(level))
    size = min(float(n), m.mean * (1 - m.mean) / m.variance * float(ratio) ** 2) if m.variance > 0 else float(n)
    low, high = _clopper_pearson(m.mean, size, level)
    return made(m.mean, low, high, "Korn-Graubard").noted(f"effective sample size {size:.0f}", m.note, note)


def _clopper_pearson(p: float, n: float, level: float) -> tuple[float, float]:
    """The exact interval with fractional counts, by beta quantiles."""
    k, upper = n * p, _upper(level)
    low = special.betaincinv(k, n - k + 1, 1 - upper) if k > 0 else 0.0
    high = special.betaincinv(k + 1, n - k, upper) if k < n else 1.0
    return float(low), float(high)


# ---- the one rule ---------------------------------------------------------------------------------------------------


@quiet
def interval(
    kind: MeasureKind, cells: npt.ArrayLike, level: float, rng: np.random.Generator, clusters: Clusters | None = None
) -> Interval:
    """The interval of a measure over cells [S, P]; every reported number goes through here.

    One seed: win and rate Wilson, change and level BCa, all conditional on that training run.  Several: two-way t, for
    rates Korn-Graubard.  `clusters` [P] names what prompts share ("" stands alone); with it, one seed's win and rate
    are Korn-Graubard too, over clusters.
    """
    bounded = kind in ("win", "rate")
    cells, codes, note = _tidy(cells, clusters, *((0.0, 1.0) if bounded else ()))
    if not cells.size:
        return nothing("no decided case")
    if len(cells) > 1:
        return _several(kind, cells, level, codes).noted(note)
    if not bounded:
        result = paired(cells[0], level, rng, codes)
    else:
        result = wilson(cells[0], level) if codes is None else rate_over_seeds(cells, level, codes)
    return result.noted("conditional on this training run", note)


def _several(kind: MeasureKind, cells: Array, level: float, codes: Codes | None) -> Interval:
    # All wins or all ties have no variance to estimate: the rate's rule is honest there, a t interval is not.
    if kind == "rate" or (kind == "win" and constant(cells)):
        return rate_over_seeds(cells, level, codes)
    result = two_way(cells, level, codes).noted(TWO_SEEDS if len(cells) == 2 else "")
    return result.clipped(0.0, 1.0) if kind == "win" else result


@quiet
def difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    kind: MeasureKind,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
) -> Interval:
    """Interval of the paired difference a - b of one measure: same prompts (columns), seeds matched by index."""
    first, second = _matrix(a), _matrix(b)
    if first.shape[1] != second.shape[1]:
        seen = f"A comparison of {first.shape[1]} with {second.shape[1]} prompts."
        raise BenchError(seen, "Give both on the same prompts.")
    seeds = min(len(first), len(second))
    note = "" if len(first) == len(second) else f"{len(first)} seeds against {len(second)}: the first {seeds} of each"
    cells, codes, _ = _tidy(first[:seeds] - second[:seeds], clusters)
    if kind in ("change", "level"):
        return interval(kind, cells, level, rng, codes).noted(note)
    if cells.size and constant(cells):
        return _same_everywhere(cells, codes, level, -1.0, 1.0).noted(note)
    return interval("change", cells, level, rng, codes).clipped(-1.0, 1.0).noted(note)


# ---- tests and sizes ------------------------------------------------------------------------------------------------


@quiet
def permutation_p(diff: npt.ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Interval:
    """Two-sided p of mean 0 for paired differences [n], by flipping signs; exact where 2^n is within the resamples."""
    kept = _kept(diff)
    if kept.size < 2:
        return alone(1.0, "sign-flip permutation", "one case") if kept.size else nothing("no decided case")
    kept = kept / (np.abs(kept).max() or 1.0)  # so that sums do not overflow
    found = stats.permutation_test(
        (kept,), np.mean, permutation_type="samples", vectorized=True, n_resamples=resamples, batch=100, rng=rng
    )
    return alone(float(found.pvalue), "sign-flip permutation")


def mcnemar_exact(a: npt.ArrayLike, b: npt.ArrayLike) -> Interval:
    """McNemar's exact two-sided p for paired verdicts [n]: a binomial test on the prompts where a and b differ."""
    diff = _kept(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))
    if not diff.size:
        return nothing("no decided case", "exact McNemar")
    up, differing = int((diff > 0).sum()), int((diff != 0).sum())
    p = stats.binomtest(up, differing).pvalue if differing else 1.0
    return alone(float(p), "exact McNemar", f"{up} up, {differing - up} down, {diff.size - differing} equal")


def holm(pvalues: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down adjusted p-values in the order given; None stays None and is not counted."""
    order = sorted((p, i) for i, p in enumerate(pvalues) if p is not None)
    adjusted, largest = list(pvalues), 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def smallest_detectable(
    level: float, power: float = 0.8, *, n: int | None = None, se: float | None = None, df: float = 1e9
) -> float | None:
    """The true effect that a two-sided test at 1 - level finds with this power, in the data's unit.

    From the standard error `se` (with its degrees of freedom) or from n verdicts, whose spread is at most .5.
    """
    if (n is None) == (se is None):
        raise BenchError(
            "smallest_detectable needs one of n and se.", "Give the number of prompts or a standard error."
        )
    if se is None:
        se = 0.5 / math.sqrt(n) if n else math.inf
    effect = float(special.stdtrit(df, _upper(level)) + special.stdtrit(df, power)) * se
    return effect if math.isfinite(effect) else None


@quiet
def spearman(
    x: npt.ArrayLike, y: npt.ArrayLike, level: float, rng: np.random.Generator, resamples: int = 2000
) -> Interval:
    """Spearman's rank correlation of x, y [n] with a percentile bootstrap over points.

    Up to 7 points have no useful bootstrap: the note gives the exact permutation p and the smallest it could have been.
    """
    points = np.stack([_line(x), _line(y)])
    points = points[:, ~np.isnan(points).any(axis=0)]
    n = points.shape[1]
    if n < 3 or any(constant(row) for row in points):
        return nothing("fewer than 3 points" if n < 3 else "one of the two does not vary", "spearman")
    rho = float(_rank_correlation(points[0], points[1]))
    if n <= FEW_POINTS:
        return alone(rho, "spearman, exact permutation", _few_points(points, rho))
    drawn = rng.integers(n, size=(resamples, n))
    result = percentile(rho, _rank_correlation(points[0][drawn], points[1][drawn]), level)
    return replace(result.clipped(-1.0, 1.0), method="spearman, percentile bootstrap")


def _few_points(points: Array, rho: float) -> str:
    orders = np.array(list(itertools.permutations(range(points.shape[1]))))
    null = np.abs(_rank_correlation(points[0][None], points[1][orders]))
    p, least = np.mean(null >= abs(rho) - 1e-9), np.mean(null >= null.max() - 1e-9)
    return f"{points.shape[1]} points tell little: exact two-sided p = {p:.3f}, at best {least:.3f}; no interval"


def _rank_correlation(x: Array, y: Array) -> Array:
    a, b = (stats.rankdata(v, axis=-1) - (v.shape[-1] + 1) / 2 for v in (x, y))
    return np.asarray((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


# ---- what the data look like ----------------------------------------------------------------------------------------


def _upper(level: float) -> float:
    """The upper tail's quantile of a two-sided level."""
    if not 0 < level < 1:
        raise BenchError(f"A confidence level of {level}.", "Give one between 0 and 1, such as .95.")
    return (1 + level) / 2


def _line(values: npt.ArrayLike) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise BenchError(f"Values of shape {found.shape}.", "Give a list of numbers, one per prompt.")
    return found


def _matrix(cells: npt.ArrayLike, low: float = -math.inf, high: float = math.inf) -> Array:
    found = np.asarray(cells, dtype=np.float64)
    if found.ndim == 1:
        found = found[None]
    if found.ndim != 2:
        raise BenchError(f"A matrix of shape {found.shape}.", "Give [seeds, prompts].")
    if ((found < low) | (found > high)).any():
        raise BenchError(
            f"Values from {np.nanmin(found):g} to {np.nanmax(found):g}.", f"Give values in [{low:g}, {high:g}]."
        )
    return found


def _kept(values: npt.ArrayLike, low: float = -math.inf, high: float = math.inf) -> Array:
    """The decided values [n]."""
    found = _matrix(_line(values), low, high)
    return found[~np.isnan(found)]


def _tidy(
    cells: npt.ArrayLike, clusters: Clusters | None, low: float = -math.inf, high: float = math.inf
) -> tuple[Array, Codes | None, str]:
    """Cells without wholly undecided seeds and prompts; cluster codes 0.. [P], None where all prompts stand alone."""
    found = _matrix(cells, low, high)
    if clusters is not None and len(clusters) != found.shape[1]:
        raise BenchError(f"{len(clusters)} clusters for {found.shape[1]} prompts.", "Give one per prompt.")
    decided = ~np.isnan(found)
    seeds, prompts = np.flatnonzero(decided.any(axis=1)), np.flatnonzero(decided.any(axis=0))
    note = f"{len(found) - seeds.size} seeds without a decided case left out" if 0 < seeds.size < len(found) else ""
    kept = found[seeds][:, prompts]
    if clusters is None or not kept.size:
        return kept, None, note
    keys = [(i,) if clusters[i] == "" else ("", clusters[i]) for i in prompts.tolist()]
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return kept, None if len(codes) == len(keys) else np.array([codes[key] for key in keys]), note


def _too_small(cells: Array, codes: Codes | None, several: bool = True) -> str:
    """Why no spread can be estimated from tidy cells, or ""."""
    if several and len(cells) == 1:
        return "one seed: the spread between training runs is unknown"
    if cells.shape[1] == 1:
        return "one prompt: the spread between prompts is unknown"
    return "one cluster of prompts" if codes is not None and codes.max() == 0 else ""


def _degenerate(cells: Array, codes: Codes | None, several: bool = True) -> Interval | None:
    """What can be said of tidy data whose spread cannot be estimated; None where it can."""
    if not cells.size:
        return nothing("no decided case")
    if why := _too_small(cells, codes, several):
        return alone(float(np.nanmean(cells)), "none", why)
    return _unvarying(cells) if constant(cells) else None


def constant(cells: Array) -> bool:
    """Equal but for rounding: a difference of two columns rarely cancels exactly."""
    low, high = float(np.nanmin(cells)), float(np.nanmax(cells))
    return high - low <= 8 * float(np.finfo(np.float64).eps) * max(abs(low), abs(high))


def _unvarying(cells: Array) -> Interval:
    value, n = float(np.nanmax(cells)), int((~np.isnan(cells)).sum())
    note = f"all {n} values are equal: the width 0 says that nothing varied here, not that the value is certain"
    return made(value, value, value, "percentile bootstrap", note)


def _same_everywhere(cells: Array, codes: Codes | None, level: float, low: float, high: float) -> Interval:
    """Bounded values all equal: at most a share can be otherwise, the exact bound for 0 of n (rule of three)."""
    n, value = cells.shape[1] if codes is None else int(codes.max()) + 1, float(np.nanmax(cells))
    share = _clopper_pearson(0.0, n, level)[1]
    bounds = value - share * (value - low), value + share * (high - value)
    return made(value, *bounds, "Korn-Graubard", f"all values are equal: exact bound for {n} independent prompts")
