"""Planning: from a pilot's cells to the smallest detectable difference of a design, and the design for a difference.

A pilot [S seeds, P prompts] gives three variance components: between training seeds, between prompts, and the residual.
The power of another design is that of the interval that reports show (`intervals.two_way`), from simulated mean squares
of a two-way normal layout.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import sobol
from rlhf_bench.harness.statistics.cells import Array, Clusters, constant, tidy
from rlhf_bench.harness.statistics.intervals import allow_non_finite
from rlhf_bench.harness.statistics.variance import complete_layout, half_widths, mean_squares

PRECISE = 2.0**-32  # of a difference that a design detects
DRAWS = 12  # 2^12 points
SEEDS = (1, 2, 3, 5, 10, 20)
PROMPTS = (50, 100, 200, 500, 1000, 2000)
MOST_PROMPTS = 1_000_000  # above this number of prompts a design counts as impossible
ONE_SEED = "conditional on one training run: no estimate for other seeds"


@dataclass(frozen=True, slots=True)
class Components:
    """Variance components of a measure, in its squared unit; a prompt is a cluster where the pilot has clusters.

    seed: None where the pilot had one seed.   prompt: with one seed, all variation between prompts.   residual: 0 with
    one seed.
    """

    seed: float | None
    prompt: float
    residual: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """One design and the difference it detects, in the data's unit.

    None is unknown or impossible, and the note gives the reason.   prompts: clusters where the pilot has clusters.
    """

    seeds: int
    prompts: int | None
    smallest_detectable: float | None
    power: float | None = None
    note: str = ""


@allow_non_finite
def components(cells: npt.ArrayLike, clusters: Clusters | None = None) -> Components | None:
    """Variance components of a pilot's cells [S, P] (differences of two arms, or of wins); None where nothing varies.

    A negative estimate is set to 0, with a note.  Clusters and holes: see `variance.complete_layout`.
    """
    kept, codes, note = tidy(cells, clusters)
    if not kept.size or kept.shape[1] < 2 or constant(kept) or (codes is not None and not codes.max()):
        return None
    layout, left_out = complete_layout(kept, codes)
    note = "; ".join(filter(None, (left_out, note)))
    if len(layout) == 1:
        return Components(None, float(layout[0].var(ddof=1)), 0.0, "; ".join(filter(None, (ONE_SEED, note))))
    squares = mean_squares(layout)
    # E MS_seed = residual + P seed, E MS_prompt = residual + S prompt, E MS_error = residual.
    seed = (squares.seed - squares.error) / layout.shape[1]
    prompt = (squares.prompt - squares.error) / layout.shape[0]
    # a difference of mean squares can be negative by chance
    low = " and ".join(name for name, value in (("seeds", seed), ("prompts", prompt)) if value < 0)
    few = f"the spread between seeds is estimated from {len(layout)} alone" if len(layout) < 5 else ""
    unseen = f"no spread between {low} beyond chance" if low else ""
    return Components(max(seed, 0.0), max(prompt, 0.0), squares.error, "; ".join(filter(None, (few, unseen, note))))


@functools.lru_cache(maxsize=256)
def _chi_squares(seeds: int, prompts: int) -> Array:
    """[3, 2^DRAWS] mean squares of unit variance for seeds, prompts and error."""
    # Every design uses the same quasi-random points, so that tables do not vary by simulation noise.
    points = sobol.points(np.random.default_rng(0), DRAWS)
    freedom = np.array([seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)], dtype=np.float64)
    # The quantile function of chi-squared / df at the points: 2 gammaincinv(df / 2, u) / df.
    return np.asarray(2 * special.gammaincinv(freedom / 2, points) / freedom).T


@allow_non_finite
def power(found: Components, difference: float, seeds: int, prompts: int, level: float = 0.95) -> float:
    """Chance that the interval of a design excludes 0 when the true mean is `difference`.

    Raises BenchError for fewer than 1 seed or 2 prompts, and for several seeds after a pilot of one.
    """
    error, halves = _design(found, seeds, prompts, level)
    return _excludes(difference, error, halves)


def _excludes(difference: float, error: float, halves: Array) -> float:
    """The chance, averaged over half widths [R], that a normal mean with this error lies a half width from 0."""
    # an interval excludes 0 on either side: the wrong one counts too, as a test's rejection does
    away = (difference - halves) / error, (-difference - halves) / error
    return float(sum(special.ndtr(side).mean() for side in away))


def _design(found: Components, seeds: int, prompts: int, level: float) -> tuple[float, Array]:
    """The standard error of the mean and the half widths [R] of its intervals."""
    if seeds < 1 or prompts < 2:
        raise BenchError(f"A design of {seeds} seeds and {prompts} prompts.", "Give at least 1 seed and 2 prompts.")
    tail = (1 - level) / 2
    if seeds == 1:
        error = math.sqrt((found.prompt + found.residual) / prompts)
        freedom = prompts - 1
        # One seed: the half width depends on one chi-squared variable, sampled at its quantiles.
        points = (np.arange(256) + 0.5) / 256
        spread = np.sqrt(2 * special.gammaincinv(freedom / 2, points) / freedom)
        return error, -float(special.stdtrit(freedom, tail)) * error * spread
    if found.seed is None:
        raise BenchError("A pilot of one seed has no spread between seeds.", "Run the pilot with at least two seeds.")
    # [3] expected mean squares of the new design, times [3, R] simulated ones of unit variance
    expected = np.array([prompts * found.seed, seeds * found.prompt, 0.0]) + found.residual
    squares = expected[:, None] * _chi_squares(seeds, prompts)
    # Var(mean) = seed / S + prompt / P + residual / (S P).
    error = math.sqrt((expected[0] + seeds * found.prompt) / (seeds * prompts))
    return error, half_widths(squares, seeds, prompts, tail)


@allow_non_finite
def smallest_detectable(
    found: Components, seeds: int, prompts: int, level: float = 0.95, wanted: float = 0.8
) -> float | None:
    """The true difference that a design detects with the wanted power, in the data's unit.

    None where nothing varies.  Raises BenchError as `power` does.
    """
    error, halves = _design(found, seeds, prompts, level)
    if not (error > 0 and math.isfinite(error)):
        return None
    reached = functools.cache(lambda difference: _excludes(difference, error, halves))  # the ends are asked for twice
    high = error
    # Power rises with the difference: bracket the wanted power by doubling.
    while reached(high) < wanted:
        high *= 2
    if reached(0.0) >= wanted:
        return 0.0
    return sobol.root(lambda difference: reached(difference) - wanted, 0.0, high, error * PRECISE, PRECISE)


def prompts_needed(
    found: Components, difference: float, seeds: int, level: float = 0.95, wanted: float = 0.8
) -> int | None:
    """The fewest prompts with which a number of seeds detects a difference with the wanted power.

    None where MOST_PROMPTS do not reach it: the spread between seeds stays.  Raises BenchError as `power` does.
    """
    if power(found, difference, seeds, MOST_PROMPTS, level) < wanted:
        return None
    # Doubling, then bisection between the last size that fails and the first that succeeds: power rises with prompts.
    low, high = 1, 2
    while power(found, difference, seeds, high, level) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power(found, difference, seeds, middle, level) < wanted else (low, middle)
    return high


def table(
    pilot: npt.ArrayLike,
    difference: float | None = None,
    clusters: Clusters | None = None,
    seeds: Sequence[int] = SEEDS,
    prompts: Sequence[int] = PROMPTS,
    level: float = 0.95,
    wanted: float = 0.8,
) -> list[Plan]:
    """The rows of `bench power` for a pilot [S, P]: the smallest detectable difference of every design.

    With `difference` (in the data's unit), also its power, and per number of seeds one row with the fewest prompts that
    detect it.  One seed is always conditional on that training run.  Raises BenchError on a difference that is not
    above 0.
    """
    if difference is not None and not (math.isfinite(difference) and difference > 0):
        raise BenchError(f"A difference of {difference}.", "Give a number above 0, such as .05.")
    found = components(pilot, clusters)
    if found is None:
        return [Plan(0, None, None, None, "the pilot does not vary: nothing can be planned from it")]
    # a pilot of one seed says nothing of designs with several
    possible = [n for n in seeds if n == 1 or found.seed is not None]
    plans = [_plan(found, n, size, difference, level, wanted) for n in possible for size in prompts]
    if difference is not None:
        for n in possible:
            size = prompts_needed(found, difference, n, level, wanted)
            if size is None:
                why = f"no number of prompts finds {difference:g}: the seeds differ too much"
                plans.append(Plan(n, None, None, None, why))
            else:
                plans.append(_plan(found, n, size, difference, level, wanted))
    return plans


def _plan(found: Components, seeds: int, prompts: int, difference: float | None, level: float, wanted: float) -> Plan:
    reached = None if difference is None else power(found, difference, seeds, prompts, level)
    least = smallest_detectable(found, seeds, prompts, level, wanted)
    # The components of a pilot of one seed hold this note already.
    one_seed = "" if seeds > 1 or ONE_SEED in found.note else ONE_SEED
    return Plan(seeds, prompts, least, reached, "; ".join(filter(None, (one_seed, found.note))))
