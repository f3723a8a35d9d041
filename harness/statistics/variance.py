"""The mean of cells [S seeds, P prompts] and its variance when seeds and prompts are both random.

The two-way random-effects layout: V = (MS_seed + MS_prompt - MS_error) / (S P), from the mean squares of the cells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from rlhf_bench.harness.statistics.cells import Array, Codes, cluster_sums

ENOUGH_COMPLETE = 0.9  # share of prompts decided for every seed from which the others are dropped


class Moments(NamedTuple):
    """A mean and the parts of its squared standard error, each with its degrees of freedom.

    seeds: MS_seed / (S P).   prompts: (MS_prompt - MS_error) / (S P), at least 0.   given: the larger of MS_prompt and
    MS_error over S P, the squared error with these seeds taken as given.
    """

    mean: float
    seeds: float
    prompts: float
    given: float
    df_seeds: float
    df_prompts: float
    note: str = ""

    @property
    def variance(self) -> float:
        """The squared standard error of the mean, in the squared unit of the data."""
        return max(self.seeds + self.prompts, self.given)

    def half_width(self, tail: float) -> float:
        """Half of the interval that leaves `tail` on either side, in the unit of the data; see `half_widths`."""
        parts = np.array(self.seeds), np.array(self.prompts), np.array(self.given)
        return float(_cochran(parts, self.df_seeds, self.df_prompts, tail))


def half_widths(squares: Array, seeds: int, prompts: int, tail: float) -> Array:
    """[...] half widths of the interval that leaves `tail` on either side, from mean squares [3, ...] (`MeanSquares`).

    The t quantile is the mean of those for seeds and for prompts, weighted by the two parts of the variance (Cochran
    1964); the width is never below that of either part alone, nor of these seeds taken as given, so that more prompts
    never widen it.
    """
    return _cochran(_parts(squares, seeds * prompts), seeds - 1, prompts - 1, tail)


def _parts(squares: Array, size: int) -> tuple[Array, Array, Array]:
    """The squared standard error due to seeds, due to prompts beyond the error, and with these seeds as given."""
    seed, prompt, error = squares
    return seed / size, np.maximum(prompt - error, 0.0) / size, np.maximum(prompt, error) / size


def _cochran(parts: tuple[Array, Array, Array], df_seeds: float, df_prompts: float, tail: float) -> Array:
    seeds, prompts, given = parts
    # Satterthwaite's degrees of freedom come out too high whenever few seeds happen to agree: they cover .87 with two
    # seeds that differ much and .92 with three, where this covers .95 (docs/coverage.md).
    of_seeds, of_prompts = (-float(special.stdtrit(df, tail)) for df in (df_seeds, df_prompts))
    total = seeds + prompts
    # Cochran (1964): t = (V_seeds t_seeds + V_prompts t_prompts) / V, times sqrt(V) for the half width.
    weighted = (seeds * of_seeds + prompts * of_prompts) / np.sqrt(np.where(total > 0, total, 1.0))
    return np.asarray(np.maximum(weighted, np.maximum(of_seeds * np.sqrt(seeds), of_prompts * np.sqrt(given))))


def moments(cells: Array, codes: Codes | None) -> Moments:
    """Moments of tidy cells [S, P], S and P at least 2 (or S = 1: over prompts alone).

    Holes: the prompts decided for every seed where 90% are.  Else, and for clusters, the ratio estimator is linearised:
    each cell becomes the sum of its cluster's deviations from the mean, undecided ones adding nothing.
    """
    layout, note = complete_layout(cells, codes)
    mean, (seeds, prompts) = float(layout.mean()), layout.shape
    if seeds > 1:
        of_seeds, of_prompts, given = map(float, _parts(np.array(mean_squares(layout)), layout.size))
        return Moments(mean, of_seeds, of_prompts, given, seeds - 1, prompts - 1, note)
    # One seed: the usual t interval over its prompts.
    variance = float(((layout - mean) ** 2).sum()) / (prompts - 1) / prompts
    return Moments(mean, 0.0, variance, variance, prompts - 1, prompts - 1, note)


def complete_layout(cells: Array, codes: Codes | None) -> tuple[Array, str]:
    """Tidy cells [S, P] as a layout without holes or clusters [S, P'], and what was done (see `moments`)."""
    complete = ~np.isnan(cells).any(axis=0)
    kept = int(complete.sum())
    if codes is None and kept == complete.size:
        return cells, ""
    if codes is None and kept >= max(2, ENOUGH_COMPLETE * complete.size):
        return cells[:, complete], f"on the {kept} of {complete.size} prompts decided for every seed"
    if codes is not None:
        return _linearised(cells, codes), f"{codes.max() + 1} clusters of prompts"
    # The pigeonhole bootstrap as the fallback would cover about .7 with two seeds that differ much, .8 with three
    # (docs/coverage.md).
    note = f"only {kept} of {complete.size} prompts decided for every seed: mean of all decided cases, linearised"
    return _linearised(cells, np.arange(cells.shape[1])), note


def _linearised(cells: Array, codes: Codes) -> Array:
    """[S, clusters] whose grand mean is that of the decided cells and whose spread is the ratio estimator's."""
    decided, mean = ~np.isnan(cells), np.nanmean(cells)
    excess = np.where(decided, cells - mean, 0.0)
    sums = cluster_sums(excess, codes)
    # The factor is 1 / the mean number of decided cells per seed and cluster, the ratio's denominator.
    found: Array = mean + sums * (sums.size / decided.sum())
    return found


class MeanSquares(NamedTuple):
    """Mean squares of a complete two-way layout [S, P] without replication, in the squared unit of the data."""

    seed: float
    prompt: float
    error: float


def mean_squares(cells: Array) -> MeanSquares:
    """Mean squares of complete cells [S, P], S and P at least 2.

    seed: of the seeds' means, with S - 1 degrees of freedom.   prompt: of the prompts', P - 1.   error: of the
    residuals, (S - 1) (P - 1).
    """
    rows, columns, mean = cells.mean(axis=1), cells.mean(axis=0), float(cells.mean())
    seed = columns.size * float(((rows - mean) ** 2).sum()) / (rows.size - 1)
    prompt = rows.size * float(((columns - mean) ** 2).sum()) / (columns.size - 1)
    rest = float(((cells - rows[:, None] - columns + mean) ** 2).sum())
    return MeanSquares(seed, prompt, rest / ((rows.size - 1) * (columns.size - 1)))
