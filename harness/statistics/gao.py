"""The curves of Gao et al. (2210.10760): gold against the distance from the SFT policy, d = sqrt(KL).

Least squares on arrays; NaN is undecided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, Clusters, drawn_weights
from rlhf_bench.harness.statistics.intervals import Interval, allow_non_finite, percentile, undefined
from rlhf_bench.harness.statistics.monotonicity import ONE_RUN, cube_of, seed_weights, units_of

FLAT = 1e-10  # relative: two curves this close to proportional cannot be told apart
Form = Literal["rl", "best-of-n"]


@dataclass(frozen=True, slots=True)
class Curve:
    """gold = d (a - b log d) ("rl") or d (a - b d) ("best-of-n"), d = sqrt(KL) in sqrt(nats), gold against d = 0.

    top_distance, top_gold: the curve's maximum.   residual: the root mean square of gold minus the curve.   points: how
    many have a distance above 0.
    """

    form: Form
    a: Interval
    b: Interval
    top_distance: Interval
    top_gold: Interval
    residual: float | None
    points: int


@allow_non_finite
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
    (per prompt, or analytic [C, 1]).  Both are averaged over prompts, then fitted.  One seed: prompts alone are
    resampled.  Raises BenchError for another form or shape.
    """
    if form not in ("rl", "best-of-n"):
        raise BenchError(f"The form {form!r} of a curve is unknown.", "Choose one of: rl, best-of-n.")
    cube = cube_of(gold)
    try:
        spread = np.broadcast_to(np.asarray(kl, dtype=np.float64), cube.shape)
    except ValueError:
        raise BenchError(f"KL of shape {np.shape(kl)} for gold of {cube.shape}.", "Give one that broadcasts.") from None
    codes = units_of(cube.shape[2], clusters)
    member = np.eye(int(codes.max()) + 1)[codes]  # [P, U]: 1 where a prompt belongs to a unit
    worth, distance = _totals(cube, member), _totals(spread, member)
    seeds, _, units = worth[0].shape
    # weights of 1 give the estimate itself, drawn ones its resamples
    value = _solve(form, worth, distance, np.ones((1, units)), np.ones((1, seeds)))
    x, y = _means(worth, distance, np.ones((1, units)))
    used = int((np.isfinite(x) & np.isfinite(y) & (x > 0)).sum())
    if not np.isfinite(value).all():
        none = undefined(f"{used} points at a distance above 0 do not determine two coefficients", "least squares")
        return Curve(form, none, none, none, none, None, used)
    drawn = drawn_weights(rng, resamples, units), seed_weights(rng, resamples, seeds)
    draws = _solve(form, worth, distance, *drawn)
    a, b = (_bounded(value[0, i], draws[:, i], level, seeds, "solution") for i in (0, 1))
    best, bests = _top(form, value), _top(form, draws)
    at, height = (_bounded(best[0, i], bests[:, i], level, seeds, "maximum") for i in (0, 1))
    left = y - np.tensordot(value[0], _basis(form, x), axes=1)  # [R = 1, S, C], nan where a point is undecided
    return Curve(form, a, b, at, height, float(np.sqrt(np.nanmean(left**2))), used)


Totals = tuple[Array, Array]
"""Sums and counts [S, C, U] of what each unit (a prompt, or a cluster of them) adds."""


def _totals(cube: Array, member: Array) -> Totals:
    # sums and counts apart, so that a resample's mean is over its decided prompts alone
    decided = np.isfinite(cube)
    return np.where(decided, cube, 0.0) @ member, decided.astype(np.float64) @ member


def _means(worth: Totals, distance: Totals, units: Array) -> tuple[Array, Array]:
    """d and gold [R, S, C] under the weights of units [R, U]."""
    kl, gold = (np.moveaxis(sums @ units.T, -1, 0) / np.moveaxis(n @ units.T, -1, 0) for sums, n in (distance, worth))
    return np.sqrt(np.maximum(kl, 0.0)), gold  # an estimated KL near 0 can fall below it by sampling noise


def _basis(form: Form, d: Array) -> Array:
    """[2, ...] the factors of a and b: d, and -d log d or -d^2."""
    # d log d tends to 0 at 0, where the logarithm itself is infinite.
    bend = d * np.log(np.where(d > 0, d, 1.0)) if form == "rl" else d * d
    return np.stack([d, -bend])


def _solve(form: Form, worth: Totals, distance: Totals, units: Array, seeds: Array) -> Array:
    """[R, 2] a and b by weighted least squares; NaN where the points do not determine them."""
    d, gold = _means(worth, distance, units)
    # An undecided point weighs 0 and becomes 0, because 0 * nan is nan.  At d = 0 both factors are 0: the SFT
    # policy itself has no weight.
    weight = seeds[:, :, None] * (np.isfinite(d) & np.isfinite(gold))
    x, y = _basis(form, np.where(np.isfinite(d), d, 0.0)), np.where(np.isfinite(gold), gold, 0.0)
    # Normal equations of two coefficients, summed over seeds and checkpoints, solved by Cramer's rule.
    (aa, ab, bb), (ay, by) = (
        [(weight * one * other).sum(axis=(1, 2)) for one, other in pairs]
        for pairs in ([(x[0], x[0]), (x[0], x[1]), (x[1], x[1])], [(x[0], y), (x[1], y)])
    )
    determinant = aa * bb - ab * ab
    determinant = np.where(determinant > FLAT * aa * bb, determinant, np.nan)
    return np.stack([(ay * bb - by * ab) / determinant, (aa * by - ab * ay) / determinant], axis=1)


def _top(form: Form, coefficients: Array) -> Array:
    """[R, 2] where the curve is highest and how high; NaN where it has no maximum at a distance above 0."""
    a, b = coefficients.T
    b = np.where(b > 0, b, np.nan)  # else the curve rises without end
    if form == "rl":
        # a - b log d - b = 0 at d = exp(a / b - 1), where gold is b d
        at = np.exp(a / b - 1)
        return np.stack([at, b * at], axis=1)
    a = np.where(a > 0, a, np.nan)
    # a - 2 b d = 0 at d = a / 2b, where gold is a^2 / 4b; at or below 0 for a <= 0
    return np.stack([a / (2 * b), a * a / (4 * b)], axis=1)


def _bounded(value: float, draws: Array, level: float, seeds: int, what: str) -> Interval:
    # Resamples without a solution are left out of the interval, so the note says how many there are.
    if not math.isfinite(value):
        return undefined(f"the fitted curve has no {what} at a distance above 0", "least squares")
    note = ONE_RUN if seeds == 1 else f"{seeds} seeds resampled: with few the interval is too short"
    lost = float(np.mean(~np.isfinite(draws)))
    gone = f"no {what} in {lost:.1%} of resamples" if lost else ""
    found = percentile(float(value), draws, level)
    return replace(found, method="least squares, percentile bootstrap").noted(note, gone)
