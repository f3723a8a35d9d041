"""The mean of cells [S seeds, P prompts] and its variance when seeds and prompts are both random."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhf_bench.harness.cells import Array, Codes

ENOUGH_COMPLETE = 0.9


class Moments(NamedTuple):
    """A mean, its squared standard error and the degrees of freedom of the latter."""

    mean: float
    variance: float
    df: float
    note: str = ""


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
    decided, mean, count = ~np.isnan(cells), np.nanmean(cells), int(codes.max()) + 1
    excess = np.where(decided, cells - mean, 0.0)
    sums = np.stack([np.bincount(codes, row, minlength=count) for row in excess])
    found: Array = mean + sums * (sums.size / decided.sum())
    return found


def _anova(cells: Array) -> Moments:
    """Mean squares of a complete two-way layout without replication; one row gives the usual t on its columns."""
    rows, columns, mean = cells.mean(axis=1), cells.mean(axis=0), float(cells.mean())
    df_seed, df_prompt = rows.size - 1, columns.size - 1
    prompt = rows.size * float(((columns - mean) ** 2).sum()) / df_prompt
    if not df_seed:
        return Moments(mean, prompt / columns.size, df_prompt)
    seed = columns.size * float(((rows - mean) ** 2).sum()) / df_seed
    error = float(((cells - rows[:, None] - columns + mean) ** 2).sum()) / (df_seed * df_prompt)
    total = max(seed + prompt - error, error)
    if total == 0:
        return Moments(mean, 0.0, min(df_seed, df_prompt))
    parts = ((seed, df_seed), (prompt, df_prompt), (error, df_seed * df_prompt))
    df = 1 / sum((square / total) ** 2 / freedom for square, freedom in parts)
    return Moments(mean, total / cells.size, max(df, min(df_seed, df_prompt)))
