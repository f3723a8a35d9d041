"""Several reward models on one scale: Bradley-Terry strengths from which did better on the same prompt and seed.

A strength is a log odds against the average of those compared (they sum to 0): of two that differ by d, the stronger
wins with odds e^d.  A tie counts half for either.  Undecided cases are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, Clusters, Codes, batches, cluster_sums, drawn_weights, tidy
from rlhf_bench.harness.statistics.intervals import (
    Interval,
    allow_non_finite,
    percentile,
    two_way,
    unbounded,
    undefined,
)

RESAMPLES = 1999
STEPS = 100  # most Newton steps; the loop ends at convergence
STEP = 1.0  # longest Newton step in log odds: a full one can overshoot where one side nearly always wins
TIE = 0.5  # wins added to each side of every pair where the maximum would lie at infinity
METHOD = "Bradley-Terry"


@dataclass(frozen=True, slots=True)
class Ranking:
    """Strengths [K] in log odds, with bounds, in the order in which the reward models were given.

    first [K]: share of resamples in which each is the strongest, None where unknown.
    """

    strengths: tuple[Interval, ...]
    first: tuple[float | None, ...]


class Games(NamedTuple):
    """Results of the M pairs: `pairs` [M, 2] of model numbers, wins of the first [M, S, U], decided cases [M, S, U].

    U counts prompts, or clusters of them.
    """

    pairs: npt.NDArray[np.intp]
    wins: Array
    games: Array

    @classmethod
    def of(cls, cells: Array, codes: Codes | None) -> Games:
        """The games of every two models on cells [K, S, P]; prompts of one cluster (equal codes [P]) are summed."""
        pairs = np.array(list(itertools.combinations(range(len(cells)), 2)), dtype=np.intp)
        one, other = cells[pairs[:, 0]], cells[pairs[:, 1]]
        decided = ~(np.isnan(one) | np.isnan(other))
        wins = np.where(decided, (one > other) + 0.5 * (one == other), 0.0)
        return cls(pairs, cluster_sums(wins, codes), cluster_sums(decided.astype(np.float64), codes))


@allow_non_finite
def rank(
    values: Sequence[npt.ArrayLike],
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
) -> Ranking:
    """Strengths of K reward models from values K x [S, P] on the same seeds and prompts, the higher the better.

    One seed: percentile bootstrap over prompts (or clusters), refitted each time.  Several: the two-way t interval of
    the linearised strengths, since resampling two or three seeds gives intervals that are too short.  `first` resamples
    both axes.  Where a model wins all its comparisons the maximum lies at infinity (Ford 1957): values are then those
    with one tie added to every pair, without bounds; such a resample gets the same tie.  Raises BenchError for shapes
    that differ.
    """
    parts = [np.atleast_2d(np.asarray(value, dtype=np.float64)) for value in values]
    if not parts or {part.shape for part in parts} != {parts[0].shape} or parts[0].ndim != 2:
        seen = f"Values of shapes {sorted({part.shape for part in parts})} to rank."
        raise BenchError(seen, "Give each reward model's [seeds, prompts] on the same seeds and prompts.")
    cells = np.stack(parts)  # [K, S, P]
    # [S, P] where two models or more are decided: one alone plays no game
    compared = (~np.isnan(cells)).sum(axis=0) > 1
    if len(cells) < 2 or not compared.any():
        why = "no decided case" if len(cells) > 1 else "one reward model alone cannot be ranked"
        return Ranking((undefined(why, METHOD),) * len(cells), (None,) * len(cells))
    # Prompts and seeds without any comparison are left out, as `tidy` leaves out undecided ones.
    _, codes, _ = tidy(np.where(compared, 0.0, np.nan), clusters)
    cells = cells[:, compared.any(axis=1)][:, :, compared.any(axis=0)]
    games = Games.of(cells, codes)
    wins = _square(games, games.wins.sum(axis=(1, 2)), games.games.sum(axis=(1, 2)), len(cells))
    if not _connected(wins + wins.T):
        reason = "not all are compared, even through others"
        return Ranking((undefined(reason, METHOD),) * len(cells), (None,) * len(cells))
    value = strengths(wins)
    draws = np.concatenate(list(_draws(games, len(cells), rng, resamples)))
    intervals = tuple(_intervals(cells, codes, wins, value, draws, level))
    usable = draws[np.isfinite(draws).all(axis=1)]
    if not len(usable):
        return Ranking(intervals, (None,) * len(cells))
    top = usable >= usable.max(axis=1, keepdims=True) - 1e-9
    first = (top / top.sum(axis=1, keepdims=True)).mean(axis=0)  # equals share a resample
    return Ranking(intervals, tuple(map(float, first)))


def strengths(wins: Array) -> Array:
    """[..., K] maximum-likelihood log odds, summing to 0, of win counts [..., K, K] (row beats column).

    Newton's method.  Where no maximum is finite (Ford 1957), TIE wins are added to both sides of every pair.
    """
    size = wins.shape[-1]
    separated = ~_connected(wins)
    counts = wins + TIE * separated[..., None, None] * (1 - np.eye(size))
    found = np.zeros(wins.shape[:-1])
    for _ in range(STEPS):
        gradient, information = _score(counts, found)
        # The likelihood depends on differences alone, so the information is singular: adding ones fixes the mean and
        # changes nothing else.
        step = np.linalg.solve(information + 1.0, gradient[..., None])[..., 0]
        found = found + step * np.minimum(1.0, STEP / np.maximum(np.abs(step).max(axis=-1, keepdims=True), 1e-300))
        if np.abs(step).max(initial=0.0) < 1e-10:
            break
    return np.asarray(found - found.mean(axis=-1, keepdims=True))


def _score(wins: Array, at: Array) -> tuple[Array, Array]:
    """Gradient [..., K] and information [..., K, K] of the log likelihood at strengths [..., K]."""
    played = wins + np.swapaxes(wins, -1, -2)
    chance = special.expit(at[..., :, None] - at[..., None, :])
    weight = played * chance * (1 - chance)
    size = np.eye(wins.shape[-1])
    return (wins - played * chance).sum(axis=-1), weight.sum(axis=-1)[..., None] * size - weight


def _connected(counts: Array) -> npt.NDArray[np.bool_]:
    """[...] whether every model reaches every other along positive counts [..., K, K]."""
    size = counts.shape[-1]
    reach = (counts > 0) | np.eye(size, dtype=bool)
    # Squaring doubles the length of the paths covered; the longest simple path has size - 1 steps.
    for _ in range(max(1, int(size - 1).bit_length())):
        reach = np.matmul(reach.astype(np.float64), reach.astype(np.float64)) > 0
    return np.asarray(reach.all(axis=(-1, -2)))


def _square(games: Games, wins: Array, played: Array, size: int) -> Array:
    """[..., K, K] win counts from wins of the first [..., M] and decided cases [..., M]."""
    found = np.zeros((*wins.shape[:-1], size, size))
    first, second = games.pairs.T
    found[..., first, second] = wins
    found[..., second, first] = np.maximum(played - wins, 0.0)  # rounding must not make a count negative
    return found


def _draws(games: Games, size: int, rng: np.random.Generator, resamples: int) -> Iterator[Array]:
    """[R, K] strengths, seeds and prompts (or clusters) resampled; nan where not all are compared."""
    pairs, seeds, units = games.wins.shape
    counts = np.concatenate([games.wins, games.games]).reshape(-1, units).T  # [U, 2 M S]
    for count in batches(resamples, units + 2 * pairs * seeds + size * size):
        of_seeds, of_units = drawn_weights(rng, count, seeds), drawn_weights(rng, count, units)
        # a game counts as often as its seed times its unit is drawn, as in `intervals.pigeonhole`
        totals = ((of_units @ counts).reshape(count, 2 * pairs, seeds) * of_seeds[:, None, :]).sum(axis=2)
        wins = _square(games, totals[:, :pairs], totals[:, pairs:], size)
        compared = _connected(wins + np.swapaxes(wins, -1, -2))
        found = np.full((count, size), np.nan)
        if compared.any():
            found[compared] = strengths(wins[compared])
        yield found


def _intervals(
    cells: Array, codes: Codes | None, wins: Array, value: Array, draws: Array, level: float
) -> Iterator[Interval]:
    low, high = np.fmin.reduce(cells, axis=0), np.fmax.reduce(cells, axis=0)  # nan where no model is decided
    why = ""
    if cells.shape[2] == 1 or (codes is not None and not codes.max()):
        why = "one prompt or one cluster of prompts"
    elif not _connected(wins):
        why = "a model wins all its comparisons: finite only with one tie added to every pair, no bounds"
    # on every case all decided models are equal
    elif ((low == high) | np.isnan(low)).all():
        why = "nothing but ties: no bounds"
    if why:
        yield from (unbounded(float(one), METHOD, why) for one in value)
    elif cells.shape[1] > 1:
        for one in linearised(cells, wins, value):
            found = two_way(one, level, codes)
            yield replace(found, method=f"{METHOD}, two-way t")
    else:
        for one, drawn in zip(value, draws.T, strict=True):
            found = percentile(float(one), drawn, level, "conditional on these training runs")
            yield replace(found, method=f"{METHOD}, percentile bootstrap")


def linearised(cells: Array, wins: Array, value: Array) -> Array:
    """[K, S, P] cells whose mean is each strength and whose spread is its sampling error to first order.

    Each cell is the strength plus the influence of its case: I^-1 times the case's score, times the number of cases.
    """
    one, other = cells[:, None], cells[None, :]
    decided = ~(np.isnan(one) | np.isnan(other)) & ~np.eye(len(cells), dtype=bool)[..., None, None]
    chance = special.expit(value[:, None] - value[None, :])[..., None, None]
    scores = np.where(decided, (one > other) + 0.5 * (one == other) - chance, 0.0).sum(axis=1)
    inverse = np.linalg.pinv(_score(wins, value)[1])  # singular along the mean, which the scores do not move
    moved = np.tensordot(inverse, scores, axes=1) * scores[0].size
    return np.asarray(value[:, None, None] + moved)
