"""Cells [S seeds, P prompts] as arrays: validated, without undecided seeds and prompts, summed by cluster, resampled.

NaN is an undecided cell.  `clusters` [P] name the source of each prompt: equal names share one, "" stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from rlhf_bench.harness.errors import BenchError

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]
Clusters = Sequence[Hashable] | Codes

AT_ONCE = 100_000  # numbers of a batch of resamples: what a processor's cache holds


def upper_tail(level: float) -> float:
    """The upper tail's quantile of a two-sided level: .975 for .95.  Raises BenchError outside (0, 1).

    Functions that need no quantile call it too, to refuse a wrong level.
    """
    if not 0 < level < 1:
        raise BenchError(f"A confidence level of {level}.", "Give one between 0 and 1, such as .95.")
    return (1 + level) / 2


def as_line(values: npt.ArrayLike) -> Array:
    """Values [P] as floats, None as NaN.  Raises BenchError for any other shape."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise BenchError(f"Values of shape {found.shape}.", "Give a list of numbers, one per prompt.")
    return found


def as_matrix(cells: npt.ArrayLike, low: float = -math.inf, high: float = math.inf) -> Array:
    """Cells [S, P] as floats, a line [P] as one seed [1, P].

    Raises BenchError for another shape or a value outside [low, high]; NaN is allowed.
    """
    found = np.asarray(cells, dtype=np.float64)
    if found.ndim == 1:
        found = found[None]
    if found.ndim != 2:
        raise BenchError(f"A matrix of shape {found.shape}.", "Give [seeds, prompts].")
    if ((found < low) | (found > high)).any():
        raise BenchError(
            f"Values from {np.nanmin(found):g} to {np.nanmax(found):g}.", f"Give values in [{low:g}, {high:g}]."
        )
    return found


def decided_values(values: npt.ArrayLike, low: float = -math.inf, high: float = math.inf) -> Array:
    """The decided values [n] of a line [P].  Raises BenchError for another shape or a value outside [low, high]."""
    found = as_matrix(as_line(values), low, high)
    return found[~np.isnan(found)]


def tidy(
    cells: npt.ArrayLike, clusters: Clusters | None, low: float = -math.inf, high: float = math.inf
) -> tuple[Array, Codes | None, str]:
    """Cells without wholly undecided seeds and prompts, the cluster codes of the rest, and a note on seeds left out.

    Codes [P] count from 0; they are None where every prompt stands alone.  Raises BenchError for cells of a wrong
    shape or outside [low, high], and where there is not one cluster per prompt.
    """
    found = as_matrix(cells, low, high)
    if clusters is not None and len(clusters) != found.shape[1]:
        raise BenchError(f"{len(clusters)} clusters for {found.shape[1]} prompts.", "Give one per prompt.")
    decided = ~np.isnan(found)
    seeds, prompts = np.flatnonzero(decided.any(axis=1)), np.flatnonzero(decided.any(axis=0))
    note = f"{len(found) - seeds.size} seeds without a decided case left out" if 0 < seeds.size < len(found) else ""
    kept = found[seeds][:, prompts]
    if clusters is None or not kept.size or _stand_alone(clusters):
        return kept, None, note
    # A prompt without a source is a cluster of its own: tuples of one and of two never collide.
    keys = [(i,) if clusters[i] == "" else ("", clusters[i]) for i in prompts.tolist()]
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return kept, None if len(codes) == len(keys) else np.array([codes[key] for key in keys]), note


def _stand_alone(clusters: Clusters) -> bool:
    """Whether no prompt has a source, as of most tasks."""
    return not isinstance(clusters, np.ndarray) and not any(clusters) and set(clusters) <= {""}


def constant(cells: Array) -> bool:
    """Whether all decided cells are equal but for rounding: a difference of two columns rarely cancels exactly."""
    low, high = float(np.nanmin(cells)), float(np.nanmax(cells))
    return high - low <= 8 * float(np.finfo(np.float64).eps) * max(abs(low), abs(high))


def cluster_sums(rows: Array, codes: Codes | None) -> Array:
    """[..., P] -> [..., clusters] the sums of each cluster; the rows themselves where every prompt stands alone."""
    if codes is None:
        return rows
    # bincount takes one row at a time: all axes but the last become one
    flat, count = rows.reshape(-1, rows.shape[-1]), int(codes.max()) + 1
    sums = np.array([np.bincount(codes, row, minlength=count) for row in flat], dtype=np.float64)
    return sums.reshape(*rows.shape[:-1], count)


def batches(resamples: int, n: int) -> Iterator[int]:
    """Sizes of batches of resamples of n units each; the sizes add up to `resamples`."""
    # one resample at least, however many units it has
    size = max(1, AT_ONCE // max(n, 1))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def drawn_totals(columns: Array, rng: np.random.Generator, resamples: int) -> Array:
    """[R, c] totals of columns [n, c] over n units drawn with replacement, those that `scipy.stats.bootstrap` draws."""
    n, found = len(columns), []
    lines = np.ascontiguousarray(columns.T)
    for count in batches(resamples, n):
        drawn = rng.integers(n, size=(count, n), dtype=np.int32).astype(np.intp)  # half the time of 64 bits
        # A column of ones totals n in every resample.
        sums = [np.full(count, float(n)) if (line == 1).all() else line.take(drawn).sum(axis=1) for line in lines]
        found.append(np.stack(sums, axis=1))
    return np.concatenate(found)


def drawn_weights(rng: np.random.Generator, count: int, n: int) -> Array:
    """[count, n] how often each of n units is drawn in n draws with replacement."""
    # Each row counts in its own range of n codes, so that one bincount serves all rows.
    drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
    return np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def bca_tails(value: float, draws: Array, left_out: Array, z: float) -> tuple[float, float] | None:
    """The shares of the draws that lie below the two BCa bounds (Efron 1987); None where they are undefined.

    draws [R]: the statistic of each resample.   left_out [n]: the statistic without each unit (jackknife).   z: the
    quantile of an uncorrected bound.
    """
    if not (np.isfinite(draws).all() and np.isfinite(left_out).all()):
        return None
    # Draws equal to the value but for rounding count half below and half above.
    rounding = 1e-12 * float(np.abs(draws - value).max())
    below, above = int((draws < value - rounding).sum()), int((draws > value + rounding).sum())
    influence = left_out.mean() - left_out
    largest = float(np.abs(influence).max())
    bias = float(special.ndtri((draws.size + below - above) / 2 / draws.size))
    if not (math.isfinite(bias) and math.isfinite(largest) and largest > 0):
        return None
    influence = influence / largest  # scaled so that cubes do not underflow
    acceleration = float((influence**3).sum()) / (6 * float((influence**2).sum()) ** 1.5)
    shares = []
    # Efron (1987): Phi(z0 + (z0 -+ z) / (1 - a (z0 -+ z))), z0 the bias, a the acceleration.
    for at in (bias - z, bias + z):
        stretch = 1 - acceleration * at
        # Past the pole of the correction, the bound lies beyond all draws.
        shares.append(float(at > 0) if stretch <= 0 else float(special.ndtr(bias + at / stretch)))
    return shares[0], shares[1]
