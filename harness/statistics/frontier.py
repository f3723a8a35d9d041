"""A measure at fixed KL to the SFT policy: curves through checkpoints, read between them, with paired intervals.

Arms that end at different KL differ in how far they were optimised, not only in what they were optimised for.  A curve
is piecewise linear in d = sqrt(KL), because gold is nearly linear in d where Gao et al. (2210.10760) fit it: lines in
KL itself fall short of such a curve between the SFT policy and the first checkpoint, the more the later that is.  A
curve is never read beyond its points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, Clusters, Codes, bca_tails, drawn_weights, upper_tail
from rlhf_bench.harness.statistics.gao import means_at, totals_of
from rlhf_bench.harness.statistics.intervals import (
    WIDE,
    Interval,
    allow_non_finite,
    bounded,
    percentile,
    unbounded,
    undefined,
)
from rlhf_bench.harness.statistics.monotonicity import ONE_RUN, units_of
from rlhf_bench.harness.statistics.variance import Moments

LADDER = tuple(2.0**power for power in range(-2, 8))
"""KL, in nats per response, at which arms are compared: fixed beforehand, the same in every report."""
RESAMPLES = 1000
REACHED = 0.95
"""The least share of resamples of prompts in which every seed of every curve reaches a KL that is reported."""
METHOD = "interpolated"
CONSTANT = "nothing varied here, which does not make the value certain"
UNREACHED = "a seed has no points on both sides of this KL"


@dataclass(frozen=True, eq=False)
class Curve:
    """The points of an arm: kl and value [S, C, P] over seeds, points and prompts, NaN where there is none.

    kl: in nats per response, log-ratios of single samples or exact; only its means over prompts are used.  Points need
    no order, and seeds may have different ones.  Equal to itself alone: what was read of it is kept (`_read_at`).
    """

    kl: Array
    value: Array

    @cached_property
    def reach(self) -> Array:
        """[S] the largest mean KL of each seed's points, in nats per response; 0 for a seed without a point."""
        decided = ~np.isnan(self.kl)
        means = np.where(decided, self.kl, 0.0).sum(axis=-1) / np.maximum(decided.sum(axis=-1), 1)
        there = decided.any(axis=-1) & (~np.isnan(self.value)).any(axis=-1)
        return np.asarray(np.where(there, means, 0.0).max(axis=-1))


@dataclass(frozen=True, eq=False)
class Draws:
    """Resamples of prompts, the same ones for every curve that is read with them: unit of each prompt, codes [P], and
    how often each resample draws each unit, weights [R, U].  A unit is a prompt, or a cluster of prompts."""

    codes: Codes
    weights: Array

    @property
    def units(self) -> int:
        """The number of units, U."""
        return int(self.weights.shape[1])


def draws_of(
    rng: np.random.Generator, prompts: int, clusters: Clusters | None = None, resamples: int = RESAMPLES
) -> Draws:
    """`resamples` of `prompts` prompts, or of their clusters [P]."""
    codes = units_of(prompts, clusters)
    units = int(codes.max(initial=-1)) + 1
    return Draws(codes, drawn_weights(rng, resamples, units) if units > 1 else np.ones((0, units)))


@allow_non_finite
def read(distance: npt.ArrayLike, value: npt.ArrayLike, at: npt.ArrayLike) -> Array:
    """[..., K] the piecewise linear curves through points [..., C], read at [K]; NaN beyond a curve's points.

    Points are taken in order of distance, those with NaN left out; of points with equal distances the first one ends
    the line from the left, and the last one begins the line to the right and is the value there.
    """
    x, y, places = (np.asarray(values, dtype=np.float64) for values in (distance, value, at))
    x = np.where(np.isfinite(x) & np.isfinite(y), x, np.inf)  # absent points come last
    count = x.shape[-1]
    rows = np.arange(x.size // count if count else 0).reshape(*x.shape[:-1], 1) * count  # where each curve begins
    order = rows + np.argsort(x, axis=-1, kind="stable")
    x, y = (np.ascontiguousarray(v).ravel()[order] for v in (x, y))
    known = np.isfinite(x).sum(axis=-1)[..., None]
    # [..., K] points at or before each place, counted point by point: sums over few of them are slow
    after = np.zeros((*x.shape[:-1], places.size), dtype=np.intp)
    for k in range(count):
        after += x[..., k, None] <= places
    left = rows + np.maximum(after - 1, 0)
    right = rows + np.minimum(after, np.maximum(known - 1, 0))
    x0, x1, y0, y1 = (v.ravel()[k] for v in (x, y) for k in (left, right))
    width = x1 - x0
    share = np.where(width > 0, (places - x0) / np.where(width > 0, width, 1.0), 0.0)
    # `after` = known: the place lies at the last point or beyond it
    within = (after > 0) & ((after < known) | (x0 == places))
    return np.where(within, y0 + share * (y1 - y0), np.nan)


@allow_non_finite
def at_kl(curves: Sequence[Curve], kl: Sequence[float], level: float, draws: Draws) -> list[Interval]:
    """The interval of a curve, or of the paired difference of two, first minus second, at each KL of `kl`.

    The curves have the same seeds and prompts, each its own points.  Prompts (or clusters) are resampled, the same ones
    for every seed, point and curve; means of KL and value, the order of the points and the interpolation are computed
    again each time.  One seed: BCa, as `intervals.paired`.  Several: two-way t as `intervals.two_way`, whose variance
    has its part between seeds from the seeds' own values, and the other parts from the resamples; resampling few seeds
    instead gives intervals that are too short.  Undefined at a KL that some seed does not reach.  Raises BenchError
    for shapes that differ.
    """
    shapes = [part.shape for curve in curves for part in (curve.kl, curve.value)]
    wrong = not 1 <= len(curves) <= 2 or any(len(shape) != 3 for shape in shapes)
    wrong = wrong or any(curve.kl.shape != curve.value.shape for curve in curves) or len({s[::2] for s in shapes}) > 1
    if wrong or shapes[0][2] != draws.codes.size:
        raise BenchError(
            f"Curves of shapes {', '.join(map(str, shapes))}, resamples of {draws.codes.size} prompts.",
            "Give one or two, kl and value [seeds, points, prompts] each, on the same seeds and prompts.",
        )
    seeds, _, prompts = shapes[0]
    if not seeds or not prompts:
        return [undefined("no seed or no prompt in common", METHOD)] * len(kl)
    # on the ladder a curve is read once, for its comparisons with all others
    places = LADDER if set(kl) <= set(LADDER) else tuple(kl)
    at = [places.index(value) for value in kl]
    which = slice(len(at)) if at == [*range(len(at))] else at  # a slice copies nothing
    own = [[part[..., which] for part in _read_at(curve, places, draws)] for curve in curves]
    found, drawn, left_out = own[0] if len(own) == 1 else [one - other for one, other in zip(*own, strict=True)]
    if draws.units < 2:
        why = "one prompt or one cluster of prompts: its spread is unknown"
        known: list[bool] = np.asarray(np.isfinite(found).all(axis=0)).tolist()
        return [
            unbounded(float(found[:, k].mean()), METHOD, why) if known[k] else undefined(UNREACHED, METHOD)
            for k in range(len(kl))
        ]
    if seeds > 1 and np.isfinite(found).all() and np.isfinite(drawn).all():
        return _of_several(found, drawn, draws.units, level)
    reasons = UNREACHED, "every seed reaches this KL"
    return [
        interval_of(found[:, k], drawn[:, :, k], left_out[:, 0, k], draws.units, level, *reasons)
        for k in range(len(kl))
    ]


@lru_cache(64)  # 64 curves of 5 seeds: about 30 MB
def _read_at(curve: Curve, kl: tuple[float, ...], draws: Draws) -> tuple[Array, Array, Array]:
    """A curve read at each KL: [S, K], in resamples [R, S, K], and of one seed without each unit in turn [U, 1, K]."""
    member, units = np.eye(draws.units)[draws.codes], draws.units
    totals, at = (totals_of(curve.value, member), totals_of(curve.kl, member)), np.sqrt(np.asarray(kl))

    def under(weights: Array) -> Array:
        return read(*means_at(*totals, weights), at)

    alone = len(curve.kl) == 1 and units > 1
    left_out = under(1.0 - np.eye(units)) if alone else np.empty((0, 1, at.size))
    return under(np.ones((1, units)))[0], under(draws.weights), left_out


def interval_of(
    found: Array, draws: Array, left_out: Array, units: int, level: float, outside: str, inside: str
) -> Interval:
    """The interval from the seeds' values [S], those of resamples [R, S], and with one seed the jackknife's [U].

    NaN is a value that could not be read, since the curve ends before it: undefined where a seed has one (the reason is
    `outside`), and where too few resamples have none (`inside` says what is true of the others).
    """
    if not np.isfinite(found).all():
        return undefined(outside, METHOD)
    drawn = np.isfinite(draws).all(axis=1)
    if drawn.mean() < REACHED:
        return undefined(f"in only {drawn.mean():.0%} of resamples {inside}", METHOD)
    draws, value = draws[drawn], float(found.mean())
    if _is_constant(value, found, float(draws.std(axis=0).max())):
        return unbounded(value, METHOD, CONSTANT)
    if found.size == 1:
        # Hesterberg (2015), as in `intervals.bca`: t of n - 1 degrees of freedom times sqrt(n / (n - 1)).
        t = float(special.stdtrit(units - 1, upper_tail(level))) * math.sqrt(units / (units - 1))
        tails = bca_tails(value, draws[:, 0], left_out, t)
        if tails is None:
            return percentile(value, draws[:, 0], level, "BCa is undefined here").noted(ONE_RUN)
        low, high = np.quantile(draws[:, 0], tails)
        return bounded(value, float(low), float(high), f"{METHOD}, BCa bootstrap", ONE_RUN)
    return _two_way(components(found, draws, units), found.size, level)


def _of_several(found: Array, draws: Array, units: int, level: float) -> list[Interval]:
    """`interval_of` at each KL, from the values of several seeds [S, K] and of resamples [R, S, K], all finite."""
    # [K, R, S] in this order in memory: sums are then made in the order of those at one KL
    lines = np.ascontiguousarray(np.moveaxis(draws, -1, 0))
    of_seeds = lines.var(axis=1)
    spreads, of_means = np.sqrt(of_seeds).max(axis=1).tolist(), lines.mean(axis=2).var(axis=1).tolist()
    made = []
    for values, spread, of_mean, of_one in zip(found.T, spreads, of_means, of_seeds.mean(axis=1).tolist(), strict=True):
        value = float(values.mean())
        if _is_constant(value, values, spread):
            made.append(unbounded(value, METHOD, CONSTANT))
        else:
            made.append(_two_way(_components(values, of_mean, of_one, units), values.size, level))
    return made


def _is_constant(value: float, found: Array, spread: float) -> bool:
    """Whether neither the seeds nor the resamples, of this standard deviation, differ by more than rounding."""
    least = 1e-12 * max(1.0, abs(value))
    return spread <= least and bool(np.ptp(found) <= least)


def _two_way(m: Moments, seeds: int, level: float) -> Interval:
    half = m.half_width(1 - upper_tail(level))
    return bounded(m.mean, m.mean - half, m.mean + half, f"{METHOD}, two-way t", WIDE if seeds == 2 else "")


def components(found: Array, draws: Array, units: int) -> Moments:
    """The variance of the mean of the seeds' values [S], from them and from resamples of the prompts [R, S].

    With cells that are a seed's effect, a prompt's and a residual: the spread between seeds has MS_seed, a resample's
    variance of the mean over seeds is MS_prompt, and the mean variance of one seed is (MS_prompt + (S - 1) MS_error)
    / S, each over S P.
    """
    return _components(found, float(draws.mean(axis=1).var()), float(draws.var(axis=0).mean()), units)


def _components(found: Array, of_mean: float, of_one: float, units: int) -> Moments:
    """The same from the variance of resamples' means, and from the mean of their variances under one seed."""
    seeds = found.size
    unbiased = units / (units - 1)  # a bootstrap's variance divides by n
    of_mean, of_one = of_mean * unbiased, of_one * unbiased
    error = max(of_one - of_mean, 0.0) / (seeds - 1)
    return Moments(
        mean=float(found.mean()),
        seeds=float(found.var(ddof=1)) / seeds,
        prompts=max(of_mean - error, 0.0),
        given=max(of_mean, error),
        df_seeds=seeds - 1,
        df_prompts=units - 1,
    )
