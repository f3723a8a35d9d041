"""The interval of every reported number: the record `Interval`, and the rule for each kind of measure.

`interval` chooses the rule; `wilson`, `exact`, `paired`, `two_way` and the others compute one each.  Tests of
differences are in comparisons.py.  An `Interval` never holds nan or inf: a number that is not finite becomes None,
with a note.

Cells [S seeds, P prompts] hold one number per training seed and held-out prompt; NaN (or None) is undecided and is
left out, never scored.  An undefined value is None, and the note gives the reason.  Generators are always explicit:
columns of one comparison share their resamples when each call gets a fresh generator of the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

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
    batches,
    bca_tails,
    cluster_sums,
    constant,
    decided_values,
    drawn_totals,
    drawn_weights,
    tidy,
    upper_tail,
)
from rlhf_bench.harness.statistics.variance import moments, nested

RESAMPLES = 9999
FEW = "fewer than 30 independent prompts: the interval covers a skewed measure less often than its level"
EDGE = "a rate this near 0 or 1 is covered a little less than the level says where many seeds differ"
WIDE = "two seeds say little of the spread between training runs: the interval is wide for it"

# ---- the record ----------------------------------------------------------------------------------------------------

# Overflow and 0 / 0 pass through as inf and nan without a warning: `bounded` turns them into None with a reason.
allow_non_finite = np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence bounds, in the unit of the data.

    value: None where the estimate is undefined.   low, high: None where there are no bounds, as for a p-value or a
    distance.   method: how the bounds were computed.   note: what the reader should know, joined by semicolons.
    """

    value: float | None
    low: float | None
    high: float | None
    method: str
    note: str = ""

    def noted(self, *notes: str) -> Interval:
        """The same interval with notes added; empty ones are skipped."""
        return replace(self, note="; ".join(filter(None, (self.note, *notes))))

    def clipped(self, low: float, high: float) -> Interval:
        """The same value with its bounds cut to [low, high], the range of the statistic."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, low), high=min(self.high, high))


def undefined(reason: str, method: str = "none") -> Interval:
    """An interval without a value; the note is the reason."""
    return Interval(None, None, None, method, reason)


def bounded(value: float, low: float, high: float, method: str, note: str = "") -> Interval:
    """A value with bounds; what is not finite is None, with a note.

    Bounds that miss the value are widened to include it.
    """
    if not math.isfinite(value):
        return undefined("the value is not a finite number", method)
    if not (math.isfinite(low) and math.isfinite(high)):
        return Interval(float(value), None, None, method).noted(note, "the bounds are not finite numbers")
    # A bootstrap of a few skewed values can put both bounds on one side of the estimate.
    return Interval(float(value), float(min(low, value)), float(max(high, value)), method, note)


def unbounded(value: float, method: str, note: str = "") -> Interval:
    """A number without bounds: a p-value, a distance, or an estimate whose spread is unknown.

    A number that is not finite becomes None, with a note.
    """
    if not math.isfinite(value):
        return undefined("the value is not a finite number", method)
    return Interval(float(value), None, None, method, note)


# ---- one sample of prompts ------------------------------------------------------------------------------------------


def wilson(values: npt.ArrayLike, level: float) -> Interval:
    """Wilson's score interval (1927) on the mean of values [n] in [0, 1]; a tie counts .5.

    With fractional values it is conservative: p(1 - p) bounds their variance.  Raises BenchError for a value outside
    [0, 1].
    """
    kept = decided_values(values, 0.0, 1.0)
    if not kept.size:
        return undefined("no decided case", "wilson")
    n, p, z = kept.size, float(kept.mean()), float(special.ndtri(upper_tail(level)))
    # Wilson (1927): (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n).
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    shrink = 1 + z * z / n
    # clipped for rounding alone: the formula stays in [0, 1]
    return bounded(p, (centre - half) / shrink, (centre + half) / shrink, "wilson").clipped(0.0, 1.0)


def exact(k: int, n: int, level: float) -> Interval:
    """Clopper and Pearson's exact interval for k successes of n trials.

    Raises BenchError unless 0 <= k <= n.
    """
    upper_tail(level)
    if not 0 <= k <= n:
        raise BenchError(f"{k} successes of {n} trials.", "Give 0 <= k <= n.")
    if n == 0:
        return undefined("no decided case", "exact")
    bounds = scipy.stats.binomtest(k, n).proportion_ci(confidence_level=level)
    return bounded(k / n, float(bounds.low), float(bounds.high), "exact")


@allow_non_finite
def paired(
    values: npt.ArrayLike,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
) -> Interval:
    """BCa bootstrap of the mean of per-prompt numbers [n], expanded for small n (see `bca`), in their unit.

    With clusters [n] whole clusters are resampled, and the statistic is the ratio of their sums to their sizes.
    """
    cells, codes, note = tidy(as_line(values), clusters)
    if plain := _degenerate(cells, codes, several=False):
        return plain
    scale = float(np.abs(cells).max())  # the largest value becomes 1, so that totals do not overflow
    n = cells.size
    if codes is None:
        # [n, 1]: a resample of n prompts has n of them, so the mean needs no second column
        found = bca(cells.T / scale, lambda totals: np.asarray(totals[..., 0] / n), level, rng, resamples, True)
    else:
        # [clusters, 2]: the sum and the size of each
        columns = cluster_sums(np.stack([cells[0] / scale, np.ones(n)]), codes).T
        found = bca(columns, lambda totals: np.asarray(totals[..., 0] / totals[..., 1]), level, rng, resamples, True)
    # nan for None, which `bounded` turns back into None with a reason
    value, low, high = (math.nan if x is None else x * scale for x in (found.value, found.low, found.high))
    units = n if codes is None else int(codes.max()) + 1
    return bounded(value, low, high, found.method, found.note).noted(FEW if units < 30 else "", note)


@allow_non_finite
def bca(
    columns: Array,
    statistic: Callable[[Array], Array],
    level: float,
    rng: np.random.Generator,
    resamples: int,
    expanded: bool = False,
) -> Interval:
    """BCa interval (Efron 1987) of a statistic of column totals; percentile, with a note, where BCa is undefined.

    columns [n, c]: what each independent unit (a prompt, or a cluster of them) adds to c totals; statistic: totals
    [..., c] -> [...].  The numbers are those of `scipy.stats.bootstrap` with the same generator, without its loops.
    `expanded`: quantiles of t with n - 1 degrees of freedom, times sqrt(n / (n - 1)), stand for normal ones (Hesterberg
    2015), since a bootstrap of few units is too short.
    """
    n, totals = len(columns), columns.sum(axis=0)
    value, draws = float(statistic(totals)), statistic(drawn_totals(columns, rng, resamples))
    left_out = statistic(totals - columns)  # [n] jackknife: the totals without each unit
    upper = upper_tail(level)
    # Hesterberg (2015): t of n - 1 degrees of freedom times sqrt(n / (n - 1)) in place of the normal quantile.
    t = float(special.stdtrit(n - 1, upper)) * math.sqrt(n / (n - 1)) if expanded else float(special.ndtri(upper))
    tails = bca_tails(value, draws, left_out, t)
    if tails is None:
        return percentile(value, draws, level, "BCa is undefined here")
    low, high = np.quantile(draws, tails)
    return bounded(value, float(low), float(high), "BCa bootstrap")


def percentile(value: float, draws: Array, level: float, note: str = "") -> Interval:
    """Percentile interval of `value` from its bootstrap draws [R]; undefined draws (nan, inf) are left out.

    Without a defined draw there are no bounds, and the note says so.
    """
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [1 - upper_tail(level), upper_tail(level)]) if draws.size else (math.nan, math.nan)
    return bounded(value, float(low), float(high), "percentile bootstrap", note)


@allow_non_finite
def verdicts(values: npt.ArrayLike, level: float, rng: np.random.Generator, resamples: int = RESAMPLES) -> Interval:
    """Percentile bootstrap of the mean of values [n] with few distinct levels k, by one multinomial draw.

    No reported number uses it: Wilson's interval covers better (docs/coverage.md).
    """
    kept = decided_values(values)
    if plain := _degenerate(kept[None], None, several=False):
        return plain
    levels, counts = np.unique(kept, return_counts=True)
    # [R, k] counts of each level: the same bootstrap as drawing the values, without an array [R, n]
    draws = rng.multinomial(kept.size, counts / kept.size, size=resamples)
    return percentile(float(kept.mean()), draws @ levels / kept.size, level)


# ---- several seeds --------------------------------------------------------------------------------------------------


@allow_non_finite
def two_way(cells: npt.ArrayLike, level: float, clusters: Clusters | None = None) -> Interval:
    """t interval on the grand mean of cells [S, P], seeds and prompts both random.

    V = (MS_seed + MS_prompt - MS_error) / (S P) with the t quantile of `Moments.half_width` (Cochran 1964); never
    narrower than the interval that takes the seeds as given.  Clusters and holes: see `moments`.
    """
    cells, codes, note = tidy(cells, clusters)
    if plain := _degenerate(cells, codes):
        return plain.noted(note)
    m = moments(cells, codes)
    half = m.half_width(1 - upper_tail(level))
    return bounded(m.mean, m.mean - half, m.mean + half, "two-way t").noted(m.note, note)


@allow_non_finite
def nested_t(
    values: npt.ArrayLike, layers: Mapping[str, Sequence[Hashable]], prompts: Sequence[Hashable], level: float
) -> Interval:
    """t interval on the mean of values [N], random under layers of nested seeds and over prompts [N].

    The layers, outermost first, and the mean are those of `variance.nested`; with one layer and every prompt under
    every seed it is `two_way`.  Conditional on the layers that have one level, as the note says.
    """
    tail = 1 - upper_tail(level)
    found = nested(values, layers, prompts)
    if found is None:
        known = decided_values(values)
        return _degenerate(known[None], None, several=False) or undefined("no decided case")
    half = found.half_width(tail)
    return bounded(found.mean, found.mean - half, found.mean + half, "nested t", found.note)


@allow_non_finite
def pigeonhole(
    cells: npt.ArrayLike,
    level: float,
    rng: np.random.Generator,
    resamples: int = 2000,
    clusters: Clusters | None = None,
) -> Interval:
    """Percentile bootstrap that resamples seeds and prompts (or clusters) of cells [S, P] independently (Owen 2007).

    A check beside `two_way`: with few seeds its interval is too short, since S seeds have few resamples.
    """
    cells, codes, note = tidy(cells, clusters)
    if plain := _degenerate(cells, codes):
        return plain.noted(note)
    decided = ~np.isnan(cells)
    sums, counts = (cluster_sums(each, codes) for each in (np.where(decided, cells, 0.0), decided.astype(np.float64)))
    draws = []
    # sums, counts [S, units].  A resample is the ratio of both, each cell weighted by how often its seed and its unit
    # are drawn.
    for count in batches(resamples, sums.shape[1]):
        seeds, prompts = (drawn_weights(rng, count, n) for n in sums.shape)
        draws.append(((seeds @ sums) * prompts).sum(axis=1) / ((seeds @ counts) * prompts).sum(axis=1))
    found = percentile(float(np.nanmean(cells)), np.concatenate(draws), level, note)
    return replace(found, method="pigeonhole bootstrap")


@allow_non_finite
def rate_over_seeds(cells: npt.ArrayLike, level: float, clusters: Clusters | None = None) -> Interval:
    """Clopper and Pearson's interval for cells [S, P] in [0, 1] at the effective sample size (Korn and Graubard 1998).

    Where all cases are equal the variance is 0: then n_eff is the number of prompts (or clusters), as if seeds only
    repeated each other.  Raises BenchError for a cell outside [0, 1].
    """
    cells, codes, note = tidy(cells, clusters, 0.0, 1.0)
    if not cells.size:
        return undefined("no decided case", "Korn-Graubard")
    if constant(cells):
        return same_everywhere(cells, codes, level, 0.0, 1.0).noted(note)
    # one seed is enough here: with clusters its rates use this rule too
    if why := _too_small(cells, codes, several=False):
        return unbounded(float(np.nanmean(cells)), "none", why).noted(note)
    m, n = moments(cells, codes), int((~np.isnan(cells)).sum())
    half, t = m.half_width(1 - upper_tail(level)), float(special.stdtrit(n - 1, upper_tail(level)))
    # Korn and Graubard (1998): n_eff = p (1 - p) (t / half)^2, at most the number of cases.  `half` is t_df standard
    # errors, so the quotient holds their factor (t_(n - 1) / t_df)^2 for few degrees of freedom.
    size = min(float(n), (t * math.sqrt(m.mean * (1 - m.mean)) / half) ** 2) if half > 0 else float(n)
    low, high = _clopper_pearson(m.mean, size, level)
    found = bounded(m.mean, low, high, "Korn-Graubard").noted(f"effective sample size {size:.0f}", m.note, note)
    return found.noted(EDGE if len(cells) > 1 and not 0.05 < m.mean < 0.95 else "")


def _clopper_pearson(p: float, n: float, level: float) -> tuple[float, float]:
    """The exact interval of a rate p of n cases, n and n p of any size."""
    k, upper = n * p, upper_tail(level)
    # The exact bounds are quantiles of Beta(k, n - k + 1) and Beta(k + 1, n - k), which allow fractional counts.
    low = special.betaincinv(k, n - k + 1, 1 - upper) if k > 0 else 0.0
    high = special.betaincinv(k + 1, n - k, upper) if k < n else 1.0
    return float(low), float(high)


# ---- the one rule ---------------------------------------------------------------------------------------------------


@allow_non_finite
def interval(
    kind: MeasureKind, cells: npt.ArrayLike, level: float, rng: np.random.Generator, clusters: Clusters | None = None
) -> Interval:
    """The interval of a measure over cells [S, P]; every reported number uses this function.

    One seed: win and rate Wilson, change and level BCa, all conditional on that training run.  Several: win and rate
    Korn-Graubard, change and level two-way t.  `clusters` [P] names the source of each prompt ("" stands alone); with
    it, one seed's win and rate are Korn-Graubard too, over clusters.  Raises BenchError for a win or rate outside
    [0, 1], a matrix that is not [S, P], and clusters that are not one per prompt.
    """
    proportion = kind in ("win", "rate")
    cells, codes, note = tidy(cells, clusters, *((0.0, 1.0) if proportion else ()))
    if not cells.size:
        return undefined("no decided case")
    if len(cells) > 1:
        found = rate_over_seeds(cells, level, codes) if proportion else two_way(cells, level, codes)
        return found.noted(WIDE if len(cells) == 2 else "", note)
    if not proportion:
        result = paired(cells[0], level, rng, codes)
    else:
        # Wilson's interval takes prompts for independent, which prompts of one source are not.
        result = wilson(cells[0], level) if codes is None else rate_over_seeds(cells, level, codes)
    return result.noted("conditional on this training run", note)


# ---- data without spread ----------------------------------------------------------------------------------------


def _too_small(cells: Array, codes: Codes | None, several: bool = True) -> str:
    """Why no spread can be estimated from tidy cells, or ""."""
    if several and len(cells) == 1:
        return "one seed: the spread between training runs is unknown"
    if cells.shape[1] == 1:
        return "one prompt: the spread between prompts is unknown"
    return "one cluster of prompts" if codes is not None and codes.max() == 0 else ""


def _degenerate(cells: Array, codes: Codes | None, several: bool = True) -> Interval | None:
    """The interval of tidy data whose spread cannot be estimated; None where it can."""
    if not cells.size:
        return undefined("no decided case")
    if why := _too_small(cells, codes, several):
        return unbounded(float(np.nanmean(cells)), "none", why)
    if not constant(cells):
        return None
    value, n = float(np.nanmax(cells)), int((~np.isnan(cells)).sum())
    note = f"all {n} values are equal: the width 0 says that nothing varied here, not that the value is certain"
    return bounded(value, value, value, "percentile bootstrap", note)


def same_everywhere(cells: Array, codes: Codes | None, level: float, low: float, high: float) -> Interval:
    """The interval of tidy cells [S, P] in [low, high] that are all equal.

    The share of cases that differ is at most the exact upper bound for 0 of n (rule of three); each of them can lie as
    far as `low` or `high`.
    """
    # n counts prompts or clusters, not cells: seeds that agree everywhere add no evidence on prompts
    n, value = cells.shape[1] if codes is None else int(codes.max()) + 1, float(np.nanmax(cells))
    share = _clopper_pearson(0.0, n, level)[1]
    bounds = value - share * (value - low), value + share * (high - value)
    return bounded(value, *bounds, "Korn-Graubard", f"all values are equal: exact bound for {n} independent prompts")
