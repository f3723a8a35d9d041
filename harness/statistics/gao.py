"""The curves of Gao et al. (2210.10760): gold against the distance from the SFT policy, d = sqrt(KL); and the degree of
overoptimisation, the area between the curves of proxy and gold (Kim et al. 2505.12763).

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
    spread = _spread(kl, cube)
    codes = units_of(cube.shape[2], clusters)
    member = np.eye(int(codes.max()) + 1)[codes]  # [P, U]: 1 where a prompt belongs to a unit
    worth, distance = totals_of(cube, member), totals_of(spread, member)
    seeds, _, units = worth[0].shape
    # weights of 1 give the estimate itself, drawn ones its resamples
    value = _solve(form, worth, distance, np.ones((1, units)), np.ones((1, seeds)))
    x, y = means_at(worth, distance, np.ones((1, units)))
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


@allow_non_finite
def overoptimisation(
    form: Form,
    kl: npt.ArrayLike,
    gold: npt.ArrayLike,
    proxy: npt.ArrayLike,
    level: float,
    rng: np.random.Generator,
    clusters: Clusters | None = None,
    resamples: int = 2000,
) -> Interval:
    """gamma of Kim et al. (2505.12763, section 3.3): the integral of |f - g| over that of f, from 0 to the largest d.

    f and g are the fitted curves of the gains in gold and in proxy over the first point, the SFT policy; gold and proxy
    [S, C, P].  0: gold rises as the proxy does; 1: the proxy's gain is off by as much as gold gains.  The paper's two
    rewards share a scale.  Where they do not, each gain is taken in standard deviations over prompts of its first
    point, so that no affine change of either alters gamma.  The paper fits best-of-n alone; PPO has Gao's form for it.
    Undefined where the interval of the integral of f holds 0.  Intervals as `fit`; raises BenchError for other shapes.
    """
    cubes = cube_of(gold), cube_of(proxy)
    if cubes[0].shape != cubes[1].shape:
        raise BenchError(f"Gold of shape {cubes[0].shape} and proxy of {cubes[1].shape}.", "Give both alike.")
    codes = units_of(cubes[0].shape[2], clusters)
    member = np.eye(int(codes.max()) + 1)[codes]
    far = totals_of(_spread(kl, cubes[0]), member)
    seeds, _, units = far[0].shape
    worths = [(totals_of(cube, member), totals_of(cube[:, :1] ** 2, member)) for cube in cubes]

    def areas(of_units: Array, of_seeds: Array) -> tuple[Array, Array]:
        """The integrals of |f - g| and of f, [R] each, in standard deviations of the SFT policy."""
        solved = []
        for worth, squares in worths:
            d, mean = means_at(worth, far, of_units)  # [R, S, C]
            _, square = means_at(squares, (far[0][:, :1], far[1][:, :1]), of_units)
            drawn = of_seeds / of_seeds.sum(axis=1, keepdims=True)
            variance = (drawn * (square[:, :, 0] - mean[:, :, 0] ** 2)).sum(axis=1)
            # A variance that is 0 but for rounding gives no unit.
            variance = np.where(variance > FLAT * (drawn * square[:, :, 0]).sum(axis=1), variance, np.nan)
            gain = mean - mean[:, :, :1]
            solved.append(_least_squares(form, d, gain, of_seeds) / np.sqrt(variance)[:, None])
        reach = np.where((of_seeds[:, :, None] > 0) & np.isfinite(d), d, 0.0).max(axis=(1, 2))
        return _area_between(form, solved[0] - solved[1], reach), _primitive(form, solved[0], reach)

    between, under = areas(np.ones((1, units)), np.ones((1, seeds)))
    method = "least squares, area between the curves"
    if not (np.isfinite(between[0]) and np.isfinite(under[0])):
        return undefined("the points do not determine the two curves, or the SFT policy's values do not vary", method)
    drawn = areas(drawn_weights(rng, resamples, units), seed_weights(rng, resamples, seeds))
    whole = percentile(float(under[0]), drawn[1], level)
    if whole.low is None or whole.low <= 0:
        return undefined("the interval of the area below gold's curve holds 0: nothing to divide by", method)
    return replace(_bounded(float(between[0] / under[0]), drawn[0] / drawn[1], level, seeds, "area"), method=method)


def _spread(kl: npt.ArrayLike, cube: Array) -> Array:
    """KL [S, C, P] of the cells of a cube, from any shape that broadcasts to it."""
    try:
        return np.broadcast_to(np.asarray(kl, dtype=np.float64), cube.shape)
    except ValueError:
        raise BenchError(f"KL of shape {np.shape(kl)} for gold of {cube.shape}.", "Give one that broadcasts.") from None


def _primitive(form: Form, coefficients: Array, x: Array) -> Array:
    """[R] the integral from 0 to x [R] of the curve with coefficients [R, 2]."""
    a, b = coefficients.T
    if form == "rl":
        # the integral of x (a - b log x), whose second term is x^2 / 2 log x - x^2 / 4
        return np.asarray(a * x**2 / 2 - b * (x**2 / 2 * np.log(np.where(x > 0, x, 1.0)) - x**2 / 4))
    return np.asarray(a * x**2 / 2 - b * x**3 / 3)


def _area_between(form: Form, coefficients: Array, reach: Array) -> Array:
    """[R] the integral from 0 to `reach` of the absolute value of the curve with coefficients [R, 2]."""
    a, b = coefficients.T
    # Above 0 a curve has at most one root: exp(a / b), or a / b.
    root = np.exp(a / b) if form == "rl" else a / b
    root = np.where((b != 0) & (root > 0) & (root < reach), root, 0.0)
    before, whole = _primitive(form, coefficients, root), _primitive(form, coefficients, reach)
    return np.asarray(np.abs(before) + np.abs(whole - before))


Totals = tuple[Array, Array]
"""Sums and counts [S, C, U] of what each unit (a prompt, or a cluster of them) adds."""


def totals_of(cube: Array, member: Array) -> Totals:
    """Totals of cells [S, C, P] by unit; member [P, U] is 1 where a prompt belongs to a unit."""
    # sums and counts apart, so that a resample's mean is over its decided prompts alone
    decided = np.isfinite(cube)
    sums, counts = np.where(decided, cube, 0.0), decided.astype(np.float64)
    if np.array_equal(member, np.eye(*member.shape)):  # every prompt is a unit: the product changes no number
        return sums + 0.0, counts  # but -0, which it makes 0
    return sums @ member, counts @ member


def means_at(worth: Totals, distance: Totals, units: Array) -> tuple[Array, Array]:
    """d and gold [R, S, C] under the weights of units [R, U]; NaN where no prompt of positive weight is decided."""
    kl, gold = (
        np.moveaxis(sums @ units.T, -1, 0) / np.moveaxis(_counted(n, units), -1, 0) for sums, n in (distance, worth)
    )
    return np.sqrt(np.maximum(kl, 0.0)), gold  # an estimated KL near 0 can fall below it by sampling noise


def _counted(counts: Array, units: Array) -> Array:
    """[S, C, R] the decided cases in resamples, `counts` [S, C, U] under weights of units [R, U].

    Mostly the same prompts are decided everywhere: one row then serves all.  Both are whole numbers, whose sums are
    exact in any order.
    """
    if counts.size and (counts == counts[:1, :1]).all():
        return np.broadcast_to(counts[:1, :1] @ units.T, (*counts.shape[:2], len(units)))
    return np.asarray(counts @ units.T)


def _basis(form: Form, d: Array) -> Array:
    """[2, ...] the factors of a and b: d, and -d log d or -d^2."""
    # d log d tends to 0 at 0, where the logarithm itself is infinite.
    bend = d * np.log(np.where(d > 0, d, 1.0)) if form == "rl" else d * d
    return np.stack([d, -bend])


def _solve(form: Form, worth: Totals, distance: Totals, units: Array, seeds: Array) -> Array:
    """[R, 2] a and b by weighted least squares; NaN where the points do not determine them."""
    return _least_squares(form, *means_at(worth, distance, units), seeds)


def _least_squares(form: Form, d: Array, gold: Array, seeds: Array) -> Array:
    """[R, 2] a and b from d and gold [R, S, C] under the weights of seeds [R, S]."""
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
