"""Whether gold rises with the proxy: rank agreement over checkpoints, and gold's peak and its fall afterwards.

The checkpoints of one run depend on each other and are few (about ten): every function takes several seeds, and prompts
where it can.  NaN is undecided.  The curves of Gao et al. (2210.10760) are in gao.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy  # scipy.stats loads when it is first used: half a second that most commands do without
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import (
    Array,
    Clusters,
    as_line,
    as_matrix,
    constant,
    drawn_weights,
    tidy,
    upper_tail,
)
from rlhf_bench.harness.statistics.comparisons import spearman
from rlhf_bench.harness.statistics.intervals import (
    Interval,
    allow_non_finite,
    bounded,
    interval,
    unbounded,
    undefined,
)

ONE_RUN = "conditional on this training run"
FISHER = "spearman, Fisher's z"


# ---- ranks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Agreement:
    """Spearman's rank correlation [-1, 1] of each training run, and of several together.

    over_seeds: with one run its own interval, noted as conditional on that run.
    """

    by_seed: tuple[Interval, ...]
    over_seeds: Interval


@allow_non_finite
def agreement(proxy: npt.ArrayLike, gold: npt.ArrayLike, level: float, rng: np.random.Generator) -> Agreement:
    """Rank agreement of proxy and gold [S, n] over n points: means at fixed checkpoints, or changes per prompt.

    Each seed: `comparisons.spearman` (bootstrap; exact permutation for few points).  Over seeds: Student's t on their
    correlations, without bounds where all seeds have the same one.  A seed without a value is left out and counted.
    Raises BenchError for shapes that differ.
    """
    first, second = _same(as_matrix(proxy), as_matrix(gold))
    by_seed = tuple(spearman(x, y, level, rng) for x, y in zip(first, second, strict=True))
    if len(by_seed) == 1:
        return Agreement(by_seed, by_seed[0].noted(ONE_RUN) if by_seed[0].value is not None else by_seed[0])
    values = [one.value for one in by_seed if one.value is not None]
    missing = next((one.note for one in by_seed if one.value is None), "")
    note = f"{len(by_seed) - len(values)} of {len(by_seed)} seeds without a value ({missing})" if missing else ""
    if not values:
        return Agreement(by_seed, undefined("no seed has a value", "t over seeds").noted(note))
    if len(values) == 1:
        alone = unbounded(values[0], "spearman", f"one seed has a value, {ONE_RUN}")
        return Agreement(by_seed, alone.noted(note))
    # several runs: their correlations are the sample; checkpoints of one run depend on each other
    rhos = np.array(values)
    if constant(rhos):
        # Equal correlations are common with few points; a width of 0 would claim that other seeds agree too.
        alike = unbounded(values[0], "t over seeds", "all seeds agree: their spread is unknown")
        return Agreement(by_seed, alike.noted(note))
    mean, spread = float(rhos.mean()), float(rhos.std(ddof=1)) / math.sqrt(rhos.size)
    half = float(special.stdtrit(rhos.size - 1, upper_tail(level))) * spread
    several = bounded(mean, mean - half, mean + half, "t over seeds", f"{rhos.size} seeds").clipped(-1.0, 1.0)
    return Agreement(by_seed, several.noted(note))


@allow_non_finite
def of_means(proxy: npt.ArrayLike, gold: npt.ArrayLike, level: float) -> Interval:
    """Rank correlation over C checkpoints of the means over prompts of proxy and gold [S, C, P], meaned over seeds.

    The checkpoints are those after training began: one of the SFT policy, before it, would be the lowest in both and
    raise every correlation.  The interval is made on Fisher's z of the mean correlation r.  The variance of a
    seed's z is the known one, (1 + r^2 / 2) / (C - 3) (Bonett & Wright 2000), or that seen over seeds where it is
    larger, and the quantile that of t with S - 1 degrees of freedom.  Where checkpoints depend on each other the known
    variance alone covers .55 to .97, and t on the correlations themselves .69 to .93 (simulated); this covers .94 and
    more. No bounds below 4 checkpoints. Raises BenchError for shapes that differ.
    """
    first, second = _same(cube_of(proxy), cube_of(gold))
    if first.shape[1] < 3:
        return undefined("fewer than 3 checkpoints", FISHER)
    # a missing checkpoint would change which points are ranked
    if np.isnan(first).all(axis=2).any() or np.isnan(second).all(axis=2).any():
        return undefined("a checkpoint has no decided prompt", FISHER)
    rhos = _rank_correlations(np.nanmean(first, axis=2), np.nanmean(second, axis=2))
    known = rhos[~np.isnan(rhos)]
    note = f"{rhos.size - known.size} of {rhos.size} seeds without a value" if known.size < rhos.size else ""
    if not known.size:
        return undefined("one of the two does not vary under any seed", FISHER)
    return fisher(known, first.shape[1], level).noted(note)


def fisher(rhos: npt.ArrayLike, points: int, level: float) -> Interval:
    """Interval of the mean of Spearman's correlations [S], each over so many points; see `of_means`."""
    values = as_line(rhos)
    mean, seeds = float(values.mean()), values.size
    note = f"{seeds} seeds" if seeds > 1 else f"{ONE_RUN}, whose checkpoints are taken for independent"
    if points < 4:
        return unbounded(mean, FISHER, f"{points} checkpoints are too few for an interval").noted(note)
    # A correlation of 1 has no z.  The next smaller one is 1 - 12 / (n^3 - n): half the way to it stands for 1.
    most = 1 - 6 / (points**3 - points)
    centre, variance = math.atanh(min(max(mean, -most), most)), (1 + mean**2 / 2) / (points - 3)
    quantile = float(special.ndtri(upper_tail(level)))
    if seeds > 1:
        variance = max(variance, float(np.arctanh(np.clip(values, -most, most)).var(ddof=1)))
        quantile = float(special.stdtrit(seeds - 1, upper_tail(level)))
    half = quantile * math.sqrt(variance / seeds)
    return bounded(mean, math.tanh(centre - half), math.tanh(centre + half), FISHER, note)


@allow_non_finite
def within_prompts(
    proxy: npt.ArrayLike,
    gold: npt.ArrayLike,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
) -> Interval:
    """Mean over prompts of the rank correlation within each: proxy and gold [S, P, n] over n samples or checkpoints.

    A prompt where one of the two does not vary has no ranks: it is left out and counted.  Raises BenchError for other
    shapes.
    """
    first, second = _same(np.asarray(proxy, dtype=np.float64), np.asarray(gold, dtype=np.float64))
    if first.ndim != 3:
        raise BenchError(f"Proxy and gold of shape {first.shape}.", "Give both as [seeds, prompts, points].")
    cells = _rank_correlations(first, second)
    unranked = int(np.isnan(cells).sum())
    note = f"{unranked} of {cells.size} prompts left out: nothing to rank" if unranked else ""
    found = interval("level", cells, level, rng, clusters).clipped(-1.0, 1.0)
    return replace(found, method=f"mean spearman within prompts, {found.method}").noted(note)


def _rank_correlations(x: Array, y: Array) -> Array:
    """[..., n] -> [...] Spearman's over the last axis; NaN where a point is NaN or one of the two does not vary."""
    bad = (np.isnan(x) | np.isnan(y)).any(axis=-1, keepdims=True)
    # a row with a NaN becomes constant: its scale below is 0, and its correlation NaN
    a, b = (scipy.stats.rankdata(np.where(bad, 0.0, v), axis=-1) for v in (x, y))
    a, b = (v - v.mean(axis=-1, keepdims=True) for v in (a, b))
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.asarray((a * b).sum(-1) / np.where(scale > 0, scale, np.nan))


def _same(first: Array, second: Array) -> tuple[Array, Array]:
    if first.shape != second.shape:
        raise BenchError(f"Proxy of shape {first.shape} and gold of shape {second.shape}.", "Give both alike.")
    return first, second


# ---- peak and fall --------------------------------------------------------------------------------------------------


def drop_from(
    gold: npt.ArrayLike,
    fixed: int,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
) -> Interval:
    """Gold at checkpoint `fixed` minus gold at the last one, from gold [S, C, P], in gold's unit.

    The index must be chosen before the results are seen: a peak chosen afterwards lies above the last checkpoint by
    selection alone (see `peak`).  Raises BenchError for an index out of range.
    """
    cube = cube_of(gold)
    if not 0 <= fixed < cube.shape[1]:
        raise BenchError(
            f"Checkpoint {fixed} of {cube.shape[1]}.", f"Give an index from 0 to {cube.shape[1] - 1}, chosen before."
        )
    # prompt by prompt, so that what a prompt adds to both checkpoints cancels
    return interval("change", cube[:, fixed] - cube[:, -1], level, rng, clusters)


@dataclass(frozen=True, slots=True)
class Peak:
    """Gold's highest checkpoint of each seed, its height, and the fall from it to the last checkpoint.

    checkpoints [S]: an index, None where a checkpoint has no decided prompt.   height, drop: in gold's unit.
    """

    checkpoints: tuple[int | None, ...]
    height: Interval
    drop: Interval


def peak(
    gold: npt.ArrayLike, level: float, make_rng: Callable[[], np.random.Generator], clusters: Clusters | None = None
) -> Peak:
    """The peak of gold [S, C, P], chosen on one half of the prompts and measured on the other.

    Prompts of one cluster stay together.  `make_rng` gives a fresh generator at each call.  Undefined with fewer than 4
    prompts (or clusters).
    """
    cube, units = cube_of(gold), units_of(np.asarray(gold).shape[-1], clusters)
    count = int(units.max()) + 1 if units.size else 0
    if count < 4:
        reason = f"{count} prompts (or clusters) cannot be halved: needs 4"
        return Peak((None,) * len(cube), undefined(reason), undefined(reason))
    # On one set of prompts "peak minus last" is never negative: it finds a fall in 49% of the runs where nothing
    # happens, on two halves in 4% (simulated).
    choosing = (make_rng().permutation(count) < count // 2)[units]
    found: list[int | None] = []
    for run in cube:
        half = run[:, choosing]
        decided = ~np.isnan(half)
        if not decided.any(axis=1).all():  # a checkpoint without a decided prompt cannot be compared
            found.append(None)
            continue
        means = np.where(decided, half, 0.0).sum(axis=1) / decided.sum(axis=1)  # [C]
        found.append(int(means.argmax()))  # the first of equals
    measured = cube[:, :, ~choosing]
    # a seed without a chosen checkpoint is undecided on every prompt
    missing = np.full(measured.shape[2], np.nan)
    tops = np.array([missing if at is None else run[at] for run, at in zip(measured, found, strict=True)])
    note = f"chosen on {int(choosing.sum())} prompts, measured on the other {int((~choosing).sum())}"
    others = units[~choosing]
    height = interval("level", tops, level, make_rng(), others).noted(note)
    drop = interval("change", tops - measured[:, -1], level, make_rng(), others).noted(note)
    return Peak(tuple(found), height, drop)


def units_of(prompts: int, clusters: Clusters | None) -> npt.NDArray[np.intp]:
    """[P] codes of the clusters from 0, a code per prompt where every prompt stands alone.

    Raises BenchError where there is not one cluster per prompt.
    """
    # zeros are decided everywhere, so `tidy` numbers the clusters and leaves no prompt out
    _, codes, _ = tidy(np.zeros((1, prompts)), clusters)
    return np.arange(prompts) if codes is None else codes


def cube_of(values: npt.ArrayLike) -> Array:
    """Gold [S, C, P] as floats; raises BenchError for another shape and for no cells."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 3 or not found.size:
        raise BenchError(f"Gold of shape {found.shape}.", "Give [seeds, checkpoints, prompts], not empty.")
    return found


def seed_weights(rng: np.random.Generator, resamples: int, seeds: int) -> Array:
    """[R, S] how often each seed is drawn; a single seed is drawn once in every resample."""
    return np.ones((resamples, 1)) if seeds == 1 else drawn_weights(rng, resamples, seeds)
