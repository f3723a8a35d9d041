"""The mean of cells [S seeds, P prompts] and its variance when seeds and prompts are both random."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from rlhf_bench.harness.cells import Array, Codes, cluster_sums

ENOUGH_COMPLETE = 0.9


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
        return max(self.seeds + self.prompts, self.given)

    def half_width(self, tail: float) -> float:
        """Half of the interval that leaves `tail` on either side (Cochran 1964).

        Its t quantile is the mean of those for seeds and for prompts, weighted by the two parts.  Satterthwaite's
        degrees of freedom come out too high whenever few seeds happen to agree: it covers .87 with two seeds that
        differ much and .92 with three, where this covers .94 and .95.  Never below the width with these seeds as given.
        """
        of_seeds, of_prompts = (-float(special.stdtrit(df, tail)) for df in (self.df_seeds, self.df_prompts))
        total, least = self.seeds + self.prompts, of_prompts * math.sqrt(self.given)
        if not total > 0:
            return least
        return max((self.seeds * of_seeds + self.prompts * of_prompts) / math.sqrt(total), least)


def moments(cells: Array, codes: Codes | None) -> Moments:
    """Moments of tidy cells [S, P], S and P at least 2 (or S = 1: over prompts alone).

    Holes: the prompts decided for every seed where 90% are.  Else, and for clusters, the ratio estimator is linearised:
    each cell becomes the sum of its cluster's deviations from the mean, undecided ones adding nothing.  (Pigeonhole as
    the fallback covers about .67 with two seeds that differ much, .77 with three: docs/coverage.md.)
    """
    complete = ~np.isnan(cells).any(axis=0)
    kept = int(complete.sum())
    if codes is None and kept == complete.size:
        return _anova(cells)
    if codes is None and kept >= max(2, ENOUGH_COMPLETE * complete.size):
        return _anova(cells[:, complete])._replace(
            note=f"on the {kept} of {complete.size} prompts decided for every seed"
        )
    if codes is not None:
        return _anova(_linearised(cells, codes))._replace(note=f"{codes.max() + 1} clusters of prompts")
    note = f"only {kept} of {complete.size} prompts decided for every seed: mean of all decided cases, linearised"
    return _anova(_linearised(cells, np.arange(cells.shape[1])))._replace(note=note)


def _linearised(cells: Array, codes: Codes) -> Array:
    """[S, clusters] whose grand mean is that of the decided cells and whose spread is the ratio estimator's."""
    decided, mean = ~np.isnan(cells), np.nanmean(cells)
    excess = np.where(decided, cells - mean, 0.0)
    sums = cluster_sums(excess, codes)
    found: Array = mean + sums * (sums.size / decided.sum())
    return found


class MeanSquares(NamedTuple):
    """Mean squares of a complete two-way layout [S, P] without replication."""

    seed: float
    prompt: float
    error: float


def mean_squares(cells: Array) -> MeanSquares:
    """Of complete cells [S, P], S and P at least 2."""
    rows, columns, mean = cells.mean(axis=1), cells.mean(axis=0), float(cells.mean())
    seed = columns.size * float(((rows - mean) ** 2).sum()) / (rows.size - 1)
    prompt = rows.size * float(((columns - mean) ** 2).sum()) / (columns.size - 1)
    rest = float(((cells - rows[:, None] - columns + mean) ** 2).sum())
    return MeanSquares(seed, prompt, rest / ((rows.size - 1) * (columns.size - 1)))


def of_squares(mean: float, squares: MeanSquares, seeds: int, prompts: int) -> Moments:
    """Moments of a complete layout from its mean squares."""
    size = seeds * prompts
    between = max(squares.prompt - squares.error, 0.0)
    given = max(squares.prompt, squares.error)
    return Moments(mean, squares.seed / size, between / size, given / size, seeds - 1, prompts - 1)


def _anova(cells: Array) -> Moments:
    """One row gives the usual t on its columns."""
    mean, prompts = float(cells.mean()), cells.shape[1]
    if len(cells) > 1:
        return of_squares(mean, mean_squares(cells), *cells.shape)
    variance = float(((cells - mean) ** 2).sum()) / (prompts - 1) / prompts
    return Moments(mean, 0.0, variance, variance, prompts - 1, prompts - 1)
