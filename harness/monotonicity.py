"""Does gold rise with the proxy?  Rank agreement, gold's peak and fall, and the curves of Gao et al. (2210.10760).

About ten checkpoints of one run depend on each other and say little: every function takes seeds, and prompts where it
can.  Pure functions of arrays; NaN is undecided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from rlhf_bench.harness.cells import Array, Clusters, as_matrix, constant, drawn_weights, tidy, upper_tail
from rlhf_bench.harness.comparisons import spearman
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.intervals import Interval, alone, made, nothing, quiet
from rlhf_bench.harness.statistics import interval, percentile

ONE_RUN = "conditional on this training run"
FLAT = 1e-10  # relative: two curves this close to proportional cannot be told apart
Form = Literal["rl", "best-of-n"]


# ---- ranks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Agreement:
    """Spearman's rank correlation of each training run, and of several together."""

    by_seed: tuple[Interval, ...]
    over_seeds: Interval


@quiet
def agreement(proxy: npt.ArrayLike, gold: npt.ArrayLike, level: float, rng: np.random.Generator) -> Agreement:
    """Of proxy and gold [S, n] over n points: means at fixed checkpoints, or changes of the same prompts.

    Each seed: `comparisons.spearman` (bootstrap; exact permutation for few points).  Over seeds: Student's t on their
    correlations.  A seed without a value is left out and counted.
    """
    first, second = _same(as_matrix(proxy), as_matrix(gold))
    by_seed = tuple(spearman(x, y, level, rng) for x, y in zip(first, second, strict=True))
    if len(by_seed) == 1:
        return Agreement(by_seed, by_seed[0].noted(ONE_RUN) if by_seed[0].value is not None else by_seed[0])
    values = [one.value for one in by_seed if one.value is not None]
    missing = next((one.note for one in by_seed if one.value is None), "")
    note = f"{len(by_seed) - len(values)} of {len(by_seed)} seeds without a value ({missing})" if missing else ""
    return Agreement(by_seed, _student(np.array(values), level).noted(note))


def _student(values: Array, level: float) -> Interval:
    """t interval of the mean of correlations [S]."""
    if not values.size:
        return nothing("no seed has a value", "t over seeds")
    if values.size == 1:
        return alone(float(values[0]), "spearman", f"one seed has a value, {ONE_RUN}")
    if constant(values):
        return alone(float(values[0]), "t over seeds", "all seeds agree: their spread is unknown")
    mean, spread = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(values.size)
    half = float(special.stdtrit(values.size - 1, upper_tail(level))) * spread
    return made(mean, mean - half, mean + half, "t over seeds", f"{values.size} seeds").clipped(-1.0, 1.0)


@quiet
def within_prompts(
    proxy: npt.ArrayLike,
    gold: npt.ArrayLike,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
) -> Interval:
    """Mean over prompts of the rank correlation within each: proxy and gold [S, P, n] over n samples or checkpoints.

    A prompt where one of the two does not vary ranks nothing: it is left out and counted.
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
    """[..., n] -> [...] Spearman's over the last axis; NaN where a point is, or where one of the two does not vary."""
    bad = (np.isnan(x) | np.isnan(y)).any(axis=-1, keepdims=True)
    a, b = (stats.rankdata(np.where(bad, 0.0, v), axis=-1) for v in (x, y))
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
    """gold at checkpoint `fixed` (an index chosen beforehand) minus gold at the last one, from gold [S, C, P]."""
    cube = _cube(gold)
    if not 0 <= fixed < cube.shape[1]:
        raise BenchError(
            f"Checkpoint {fixed} of {cube.shape[1]}.", f"Give an index from 0 to {cube.shape[1] - 1}, chosen before."
        )
    return interval("change", cube[:, fixed] - cube[:, -1], level, rng, clusters)


@dataclass(frozen=True, slots=True)
class Peak:
    """Gold's highest checkpoint of each seed (an index, None where undecided), its height, and the fall from it."""

    checkpoints: tuple[int | None, ...]
    height: Interval
    drop: Interval


def peak(
    gold: npt.ArrayLike, level: float, make_rng: Callable[[], np.random.Generator], clusters: Clusters | None = None
) -> Peak:
    """The peak of gold [S, C, P], chosen on one half of the prompts and measured on the other.

    On one set of prompts "peak minus last" is never negative and finds a fall in half of the runs where nothing
    happens (statistics.md).  Prompts of one cluster stay together.  `make_rng` gives a fresh generator at each call.
    """
    cube, units = _cube(gold), _units(np.asarray(gold).shape[-1], clusters)
    count = int(units.max()) + 1 if units.size else 0
    if count < 4:
        reason = f"{count} prompts (or clusters) cannot be halved: needs 4"
        return Peak((None,) * len(cube), nothing(reason), nothing(reason))
    choosing = (make_rng().permutation(count) < count // 2)[units]
    found = [_highest(run[:, choosing]) for run in cube]
    measured = cube[:, :, ~choosing]
    missing = np.full(measured.shape[2], np.nan)
    tops = np.array([missing if at is None else run[at] for run, at in zip(measured, found, strict=True)])
    note = f"chosen on {int(choosing.sum())} prompts, measured on the other {int((~choosing).sum())}"
    others = units[~choosing]
    height = interval("level", tops, level, make_rng(), others).noted(note)
    drop = interval("change", tops - measured[:, -1], level, make_rng(), others).noted(note)
    return Peak(tuple(found), height, drop)


def _highest(run: Array) -> int | None:
    """The checkpoint with the highest mean of [C, P], the first of equals; None where one has no decided prompt."""
    decided = ~np.isnan(run)
    if not decided.any(axis=1).all():
        return None
    return int((np.where(decided, run, 0.0).sum(axis=1) / decided.sum(axis=1)).argmax())


def _units(prompts: int, clusters: Clusters | None) -> npt.NDArray[np.intp]:
    """[P] codes of what prompts share, each its own where nothing is shared."""
    _, codes, _ = tidy(np.zeros((1, prompts)), clusters)
    return np.arange(prompts) if codes is None else codes


def _cube(values: npt.ArrayLike) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 3 or not found.size:
        raise BenchError(f"Gold of shape {found.shape}.", "Give [seeds, checkpoints, prompts], not empty.")
    return found


# ---- Gao's curves ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curve:
    """gold = d (a - b log d) ("rl") or d (a - b d) ("best-of-n"), d = sqrt(KL) in sqrt(nats), gold against d = 0.

    `top_distance` and `top_gold` are the curve's maximum; `residual` the root mean square of what it leaves.
    """

    form: Form
    a: Interval
    b: Interval
    top_distance: Interval
    top_gold: Interval
    residual: float | None
    points: int


@quiet
def fit(
    form: Form,
    kl: npt.ArrayLike,
    gold: npt.ArrayLike,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    resamples: int = 2000,
) -> Curve:
    """Least squares over the points of all seeds and checkpoints, with bootstrap intervals over seeds and prompts.

    gold [S, C, P]: change against the SFT policy, prompt by prompt; kl: in nats, of any shape that broadcasts to it
    (per prompt, or analytic [C, 1]).  Both are averaged over prompts, then fitted; a mean KL below 0 (sampling noise)
    is taken for 0.  One seed: prompts alone are resampled.
    """
    if form not in ("rl", "best-of-n"):
        raise BenchError(f"The form {form!r} of a curve is unknown.", "Choose one of: rl, best-of-n.")
    worth, distance = _by_unit(kl, gold, clusters)
    seeds, _, units = worth[0].shape
    value = _solve(form, worth, distance, np.ones((1, units)), np.ones((1, seeds)))
    x, y = _means(worth, distance, np.ones((1, units)))
    used = int((np.isfinite(x) & np.isfinite(y) & (x > 0)).sum())
    if not np.isfinite(value).all():
        none = nothing(f"{used} points at a distance above 0 do not determine two coefficients", "least squares")
        return Curve(form, none, none, none, none, None, used)
    drawn = drawn_weights(rng, resamples, units), _seed_weights(rng, resamples, seeds)
    draws = _solve(form, worth, distance, *drawn)
    a, b = (_bounded(value[0, i], draws[:, i], level, seeds, "solution") for i in (0, 1))
    best, bests = _top(form, value), _top(form, draws)
    at, height = (_bounded(best[0, i], bests[:, i], level, seeds, "maximum") for i in (0, 1))
    left = y - np.tensordot(value[0], _basis(form, x), axes=1)
    return Curve(form, a, b, at, height, float(np.sqrt(np.nanmean(left**2))), used)


Totals = tuple[Array, Array]
"""Sums and counts [S, C, U] of what each unit (a prompt, or a cluster of them) adds."""


def _by_unit(kl: npt.ArrayLike, gold: npt.ArrayLike, clusters: Clusters | None) -> tuple[Totals, Totals]:
    cube = _cube(gold)
    try:
        spread = np.broadcast_to(np.asarray(kl, dtype=np.float64), cube.shape)
    except ValueError:
        raise BenchError(f"KL of shape {np.shape(kl)} for gold of {cube.shape}.", "Give one that broadcasts.") from None
    units = _units(cube.shape[2], clusters)
    member = np.eye(int(units.max()) + 1)[units]
    return _totals(cube, member), _totals(spread, member)


def _totals(cube: Array, member: Array) -> Totals:
    decided = np.isfinite(cube)
    return np.where(decided, cube, 0.0) @ member, decided.astype(np.float64) @ member


def _means(worth: Totals, distance: Totals, units: Array) -> tuple[Array, Array]:
    """d and gold [R, S, C] under the weights of units [R, U]."""
    kl, gold = (np.moveaxis(sums @ units.T, -1, 0) / np.moveaxis(n @ units.T, -1, 0) for sums, n in (distance, worth))
    return np.sqrt(np.maximum(kl, 0.0)), gold


def _basis(form: Form, d: Array) -> Array:
    """[2, ...] what a and b multiply; d log d is 0 at 0."""
    bend = d * np.log(np.where(d > 0, d, 1.0)) if form == "rl" else d * d
    return np.stack([d, -bend])


def _solve(form: Form, worth: Totals, distance: Totals, units: Array, seeds: Array) -> Array:
    """[R, 2] a and b by weighted least squares; NaN where the points do not determine them."""
    d, gold = _means(worth, distance, units)
    weight = seeds[:, :, None] * (np.isfinite(d) & np.isfinite(gold))
    x, y = _basis(form, np.where(np.isfinite(d), d, 0.0)), np.where(np.isfinite(gold), gold, 0.0)
    (aa, ab, bb), (ay, by) = (
        [(weight * one * other).sum(axis=(1, 2)) for one, other in pairs]
        for pairs in ([(x[0], x[0]), (x[0], x[1]), (x[1], x[1])], [(x[0], y), (x[1], y)])
    )
    found = aa * bb - ab * ab
    found = np.where(found > FLAT * aa * bb, found, np.nan)
    return np.stack([(ay * bb - by * ab) / found, (aa * by - ab * ay) / found], axis=1)


def _top(form: Form, coefficients: Array) -> Array:
    """[R, 2] where the curve is highest and how high; NaN where it has no maximum at a distance above 0."""
    a, b = coefficients.T
    b = np.where(b > 0, b, np.nan)
    if form == "rl":
        at = np.exp(a / b - 1)
        return np.stack([at, b * at], axis=1)
    a = np.where(a > 0, a, np.nan)
    return np.stack([a / (2 * b), a * a / (4 * b)], axis=1)


def _seed_weights(rng: np.random.Generator, resamples: int, seeds: int) -> Array:
    return np.ones((resamples, 1)) if seeds == 1 else drawn_weights(rng, resamples, seeds)


def _bounded(value: float, draws: Array, level: float, seeds: int, what: str) -> Interval:
    if not math.isfinite(value):
        return nothing(f"the fitted curve has no {what} at a distance above 0", "least squares")
    note = ONE_RUN if seeds == 1 else f"{seeds} seeds resampled: with few the interval is too short"
    lost = float(np.mean(~np.isfinite(draws)))
    gone = f"no {what} in {lost:.1%} of resamples" if lost else ""
    found = percentile(float(value), draws, level)
    return replace(found, method="least squares, percentile bootstrap").noted(note, gone)
