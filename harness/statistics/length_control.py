"""Win rate at equal length: an estimate of the verdicts if responses were as long as the baseline's.

After AlpacaEval 2 (Dubois et al. 2404.04475): logistic regression of the verdict on tanh(length difference / its
standard deviation), predicted where the difference is 0.  It is shown beside the raw rate, never instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import (
    Array,
    Clusters,
    Codes,
    as_matrix,
    batches,
    constant,
    drawn_weights,
    tidy,
)
from rlhf_bench.harness.statistics.intervals import (
    Interval,
    allow_non_finite,
    interval,
    percentile,
    two_way,
    unbounded,
    undefined,
)

RESAMPLES = 1999
STEPS = 60  # most Newton steps; the loop ends at convergence
LONGEST_STEP = 2.0  # log odds: a full Newton step can overshoot
# 1 / the variance of a normal prior on the slope.  A dozen verdicts outweigh it, but where length decides every verdict
# it keeps the slope finite.
RIDGE = 0.01
EACH_SIDE = 5  # responses on either side of the baseline's length that a prediction at equal length needs
METHOD = "length-controlled"


class Fit(NamedTuple):
    """Coefficients [R, 2]: log odds of a win at equal length, and their slope; information [R, 2, 2]."""

    coefficients: Array
    information: Array


@allow_non_finite
def length_controlled(
    verdicts: npt.ArrayLike,
    differences: npt.ArrayLike,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    resamples: int = RESAMPLES,
) -> Interval:
    """Win rate at equal length from verdicts [S, P] in [0, 1] and length differences [S, P] (any unit).

    One seed: percentile bootstrap over prompts (or clusters), the regression refitted in each.  Several seeds: the
    two-way t interval of the linearised log odds.  Where lengths never differ, or all verdicts are equal, it is the raw
    rate; it is undefined where nearly all responses lie on one side of the baseline's length, since a prediction at
    equal length would extrapolate.  Cases without a verdict or a length are left out.  Raises BenchError for shapes
    that differ and verdicts outside [0, 1].
    """
    y, codes, x = _cases(verdicts, differences, clusters)
    if not y.size:
        return undefined("no case with a verdict and a length", METHOD)
    if constant(y):
        return interval("win", y, level, rng, codes).noted("all verdicts are equal: the raw rate")
    if not x.any():
        return interval("win", y, level, rng, codes).noted("no length differs from the baseline's: the raw rate")
    decided = ~np.isnan(y)
    shorter, longer = int((x[decided] <= 0).sum()), int((x[decided] >= 0).sum())
    if min(shorter, longer) < EACH_SIDE:
        counts = f"{shorter} responses no longer and {longer} no shorter than the baseline's"
        return undefined(f"{counts}: equal length needs {EACH_SIDE} of each", METHOD)
    # One regression over all cases [1, S P]; undecided ones weigh 0.
    fitted = fit(x.reshape(1, -1), np.nan_to_num(y).reshape(1, -1), decided.astype(np.float64).reshape(1, -1))
    value = float(special.expit(fitted.coefficients[0, 0]))
    note = f"slope {fitted.coefficients[0, 1]:.2f} per tanh(length difference / sd)"
    if y.shape[1] < 2 or (codes is not None and not codes.max()):
        return unbounded(value, METHOD, "one prompt or one cluster of prompts").noted(note)
    if len(y) > 1:
        return _over_seeds(y, x, fitted, codes, level).noted(note)
    draws = np.concatenate(list(_draws(y[0], x[0], codes, rng, resamples)))
    found = percentile(value, draws, level, "conditional on this training run")
    return replace(found, method=f"{METHOD}, percentile bootstrap").noted(note)


def predicted(intercept: float, difficulty_weight: float, difficulties: npt.ArrayLike) -> tuple[float, float]:
    """(mean, standard error) of AlpacaEval's length-controlled rate over instructions [n].

    The prediction of Dubois et al. (2404.04475) with the length term at 0: intercept + weight * difficulty, in log
    odds.  No report uses it: it checks this model of length against published rates.
    """
    chances = special.expit(intercept + difficulty_weight * np.asarray(difficulties, dtype=np.float64))
    return float(chances.mean()), float(chances.std(ddof=1) / np.sqrt(chances.size))


@allow_non_finite
def fit(x: Array, y: Array, weights: Array, ridge: float = RIDGE) -> Fit:
    """Weighted logistic regressions of y on 1 and x by Newton's method, one per row of [R, n] (or shared [1, n]).

    y may be any number in [0, 1].  `ridge` penalises the slope only: the log likelihood minus ridge * slope^2 / 2.
    """
    rows = len(weights)
    found, information = np.zeros((rows, 2)), np.zeros((rows, 2, 2))
    for _ in range(STEPS):
        chance = special.expit(found[:, :1] + found[:, 1:] * x)
        rest, spread = weights * (y - chance), weights * chance * (1 - chance)
        gradient = np.stack([rest.sum(1), (rest * x).sum(1) - ridge * found[:, 1]], axis=1)
        cross = (spread * x).sum(1)
        information = np.stack([spread.sum(1), cross, cross, (spread * x * x).sum(1) + ridge], axis=1).reshape(-1, 2, 2)
        # [R, 2] by Cramer's rule; nan or inf where a matrix is singular, since such a row has nothing to fit
        (a, b), (c, d) = np.moveaxis(information, 0, -1)
        u, v = gradient.T
        step = np.asarray(np.stack([d * u - b * v, a * v - c * u], axis=1) / (a * d - b * c)[:, None])
        # shortened as a whole, so that its direction stays; 1e-300 keeps a step of 0 from dividing by 0
        found = found + step * np.minimum(1.0, LONGEST_STEP / np.maximum(np.abs(step).max(1, keepdims=True), 1e-300))
        if not np.abs(np.nan_to_num(step)).max(initial=0.0) > 1e-9:
            break
    return Fit(found, information)


def _cases(
    verdicts: npt.ArrayLike, differences: npt.ArrayLike, clusters: Clusters | None
) -> tuple[Array, Codes | None, Array]:
    """Tidy verdicts [S, P], cluster codes, and tanh(difference / sd) [S, P] (0 where there is no verdict)."""
    cells, lengths = as_matrix(verdicts, 0.0, 1.0), as_matrix(differences)
    if cells.shape != lengths.shape:
        seen = f"Verdicts of shape {cells.shape} with length differences of shape {lengths.shape}."
        raise BenchError(seen, "Give both as [seeds, prompts], on the same ones.")
    # a verdict without a length cannot be adjusted: it counts as undecided
    cells = np.where(np.isfinite(lengths), cells, np.nan)
    decided = ~np.isnan(cells)
    kept, codes, _ = tidy(cells, clusters)
    if not kept.size:
        return kept, codes, kept
    lengths = np.where(decided, lengths, 0.0)[decided.any(axis=1)][:, decided.any(axis=0)]
    lengths = lengths / (np.abs(lengths).max() or 1.0)  # the longest becomes 1, so that squares do not overflow
    sd = float(lengths[~np.isnan(kept)].std())
    return kept, codes, np.tanh(lengths / sd) if sd > 0 else np.sign(lengths)


def _draws(y: Array, x: Array, codes: Codes | None, rng: np.random.Generator, resamples: int) -> Iterator[Array]:
    """[R] refitted rates over resampled prompts (or clusters)."""
    units = y.size if codes is None else int(codes.max()) + 1
    for count in batches(resamples, 4 * y.size):
        weights = drawn_weights(rng, count, units)
        weights = weights if codes is None else weights[:, codes]
        found = weights @ y / weights.sum(axis=1)
        mixed = (found > 0) & (found < 1)  # with one verdict alone the fit is that verdict
        if mixed.any():
            found[mixed] = special.expit(fit(x[None], y[None], weights[mixed]).coefficients[:, 0])
        yield found


def _over_seeds(y: Array, x: Array, fitted: Fit, codes: Codes | None, level: float) -> Interval:
    """Two-way t on cells whose mean is the log odds at equal length and whose spread is its error to first order."""
    log_odds, slope = fitted.coefficients[0]
    residual = y - special.expit(log_odds + slope * x)  # [S, P]
    inverse = np.linalg.inv(fitted.information[0])
    # Influence of a case on the log odds: the first row of I^-1 times its score (residual, x residual); times the
    # number of cases, so that the mean of the cells moves as the estimate does.
    cells = log_odds + (inverse[0, 0] + inverse[0, 1] * x) * residual * int((~np.isnan(y)).sum())
    found = two_way(cells, level, codes)
    # The interval is symmetric in log odds; as rates its bounds stay in [0, 1].
    at = [None if v is None else float(special.expit(v)) for v in (float(log_odds), found.low, found.high)]
    return Interval(at[0], at[1], at[2], f"{METHOD}, two-way t", found.note)
