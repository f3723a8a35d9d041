"""The ratio of two paired means: what share of one gain another gain is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy  # scipy.optimize loads when it is first used: most commands do without

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, Clusters, Codes, as_matrix, tidy, upper_tail
from rlhf_bench.harness.statistics.intervals import (
    WIDE,
    Interval,
    allow_non_finite,
    bounded,
    unbounded,
    undefined,
)
from rlhf_bench.harness.statistics.monotonicity import ONE_RUN
from rlhf_bench.harness.statistics.variance import moments

METHOD = "Fieller"
DOUBLINGS = 60


@allow_non_finite
def share(part: npt.ArrayLike, whole: npt.ArrayLike, level: float, clusters: Clusters | None = None) -> Interval:
    """mean(part) / mean(whole) of paired cells [S, P], with Fieller's (1954) interval.

    The interval holds every ratio r for which the t interval of the mean of part - r whole holds 0: seeds and prompts
    both random (`variance.moments`), with one seed prompts alone.  A cell undecided in one of the two is left out of
    both.  Undefined unless the interval of mean(whole) lies above 0: near 0 the ratio can be anything, and a share of
    a loss means nothing.  Raises BenchError for shapes that differ.
    """
    first, second = as_matrix(part), as_matrix(whole)
    if first.shape != second.shape:
        raise BenchError(
            f"Cells of shapes {first.shape} and {second.shape}.", "Give both on the same seeds and prompts."
        )
    holes = np.isnan(first) | np.isnan(second)
    above, codes, note = tidy(np.where(holes, np.nan, first), clusters)
    below, _, _ = tidy(np.where(holes, np.nan, second), clusters)
    if not above.size:
        return undefined("no decided case", METHOD)
    tail = 1 - upper_tail(level)
    if above.shape[1] < 2 or (codes is not None and not codes.max()):
        return undefined("one prompt or one cluster of prompts: whether the whole is above 0 is unknown", METHOD)
    of_whole = moments(below, codes)
    half = of_whole.half_width(tail)
    if not of_whole.mean - half > 0:
        bounds = f"[{of_whole.mean - half:.3g}, {of_whole.mean + half:.3g}]"
        return undefined(f"the whole is not above 0: its interval is {bounds}", METHOD)
    ratio = moments(above, codes).mean / of_whole.mean
    low, high = (_end(above, below, codes, ratio, sign, tail) for sign in (-1.0, 1.0))
    seeds = ONE_RUN if len(above) == 1 else WIDE if len(above) == 2 else ""
    if not (np.isfinite(low) and np.isfinite(high)):
        return unbounded(ratio, METHOD, "the set of ratios has no end").noted(seeds, note)
    return bounded(ratio, low, high, METHOD).noted(of_whole.note, seeds, note)


def _end(above: Array, below: Array, codes: Codes | None, ratio: float, sign: float, tail: float) -> float:
    """The end of the interval on one side of `ratio`."""

    def outside(r: float) -> float:
        """Above 0 where the interval of the mean of above - r below does not hold 0."""
        of = moments(above - r * below, codes)
        return abs(of.mean) - of.half_width(tail)

    width = moments(above - ratio * below, codes).half_width(tail)
    step = width / float(np.nanmean(below))
    if not step > 1e-12 * max(1.0, abs(ratio)):
        return ratio  # the two are proportional in every cell
    inner, outer = ratio, ratio + sign * step
    for _ in range(DOUBLINGS):
        if outside(outer) > 0:
            return float(scipy.optimize.brentq(outside, inner, outer, xtol=1e-12 * max(1.0, abs(outer))))
        inner, step = outer, 2 * step
        outer = ratio + sign * step
    return sign * np.inf
