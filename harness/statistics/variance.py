"""The mean of outcomes and its variance when training seeds and prompts are both random.

Cells [S seeds, P prompts], the two-way random-effects layout: V = (MS_seed + MS_prompt - MS_error) / (S P), from the
mean squares of the cells.  Rows under several layers of seeds, each nested in the one before: `nested`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, Codes, as_line, cluster_sums

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
    of_seeds, of_prompts = _t(df_seeds, tail), _t(df_prompts, tail)
    total = seeds + prompts
    # Cochran (1964): t = (V_seeds t_seeds + V_prompts t_prompts) / V, times sqrt(V) for the half width.
    weighted = (seeds * of_seeds + prompts * of_prompts) / np.sqrt(np.where(total > 0, total, 1.0))
    return np.asarray(np.maximum(weighted, np.maximum(of_seeds * np.sqrt(seeds), of_prompts * np.sqrt(given))))


@lru_cache(64)
def _t(df: float, tail: float) -> float:
    """The quantile of Student's t that leaves `tail` above it."""
    return -float(special.stdtrit(df, tail))


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


# ---- layers of seeds, each nested in the one before -----------------------------------------------------------------

PROMPT, RESIDUAL = "prompt", "residual"


@dataclass(frozen=True, slots=True)
class Nested:
    """A mean, the variance components behind it, and what its interval needs.

    mean: every level of a layer counts alike within the level above it, in the unit of the data.
    components: by layer, then PROMPT and RESIDUAL, in the squared unit; a negative estimate is 0.  None where a layer
    has one level, or none beyond the layer above it, whose component then holds both; `note` says which.
    levels: the number of levels of each layer, and of prompts.
    parts [F, F]: for the variance with all layers random, then without the first, and so on to the residual alone,
    what each of the F mean squares adds to the squared standard error.   freedom [F]: their degrees of freedom.
    """

    mean: float
    components: Mapping[str, float | None]
    levels: Mapping[str, int]
    parts: Array
    freedom: Array
    note: str = ""

    @property
    def variance(self) -> float:
        """The squared standard error of the mean: that of the widest of the cases in `parts`."""
        of_layers, of_prompts = self.parts[:, :-2].sum(axis=1), self.parts[:, -2:].sum(axis=1)
        return float((np.maximum(of_layers, 0.0) + np.maximum(of_prompts, 0.0)).max())

    def half_width(self, tail: float) -> float:
        """Half of the interval that leaves `tail` on either side, in the unit of the data.

        The t quantile is the mean of those of the mean squares, weighted by their parts of the variance (Cochran 1964),
        as in `half_widths`; never below that of any part alone, nor below the width with the outer layers as given.
        """
        found = 0.0
        *layers, prompt, residual = -special.stdtrit(self.freedom, tail)
        for *of_layers, of_prompt, of_residual in self.parts:
            # The residual's part is negative where prompts are crossed with runs: it is a part of theirs.
            positive = [(max(part, 0.0), t) for part, t in zip(of_layers, layers, strict=True)]
            positive.append((max(of_prompt + of_residual, 0.0), prompt if np.isfinite(prompt) else residual))
            known = [(part, t) for part, t in positive if part > 0]
            if known:
                weighted = sum(part * t for part, t in known) / sum(part for part, _ in known) ** 0.5
                found = max(found, weighted, *(part**0.5 * t for part, t in known))
        return float(found)


class _Fits(NamedTuple):
    """Of a sequence of models, each with one more factor: sum of squares, rank, and trace [factors] of each."""

    squares: list[float]
    ranks: list[int]
    traces: list[Array]


def nested(
    values: npt.ArrayLike, layers: Mapping[str, Sequence[Hashable]], prompts: Sequence[Hashable]
) -> Nested | None:
    """Variance components of rows [N] under layers of seeds, outermost first, each nested in the one before.

    layers: the level of each row in each layer, such as {"data seed": ..., "reward seed": ..., "PPO seed": ...}; a
    level is told apart by those above it.   prompts [N]: rows with an equal prompt share its effect, whichever runs
    they are of; prompts that a data seed redraws need names of their own.  Prompts of one source: give the mean over
    each source and the source as the prompt.  Rows with NaN are left out.

    Henderson's method III (1953): the reductions in the sum of squares of fitting one layer after the other, then the
    prompts, are set equal to their expectations.  It is unbiased for any unbalanced layout, and in balanced ones the
    analysis of variance.  Negative estimates are set to 0 in `components`, not in the variance of the mean.  A layer
    with one level adds nothing: the mean is conditional on it.  None where no spread can be estimated: fewer than two
    rows, or equal values.  Raises BenchError for columns of other lengths and for no layer.
    """
    found = as_line(values)
    columns = {**layers, PROMPT: prompts}
    if not layers or any(len(column) != found.size for column in columns.values()):
        lengths = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise BenchError(f"{found.size} values with {lengths}.", "Give one level of each layer and a prompt per value.")
    kept = np.flatnonzero(~np.isnan(found)).tolist()
    y = found[kept]
    if y.size < 2 or float(np.ptp(y)) <= 8 * np.finfo(np.float64).eps * float(np.abs(y).max()):
        return None
    paths = [[column[row] for row in kept] for column in layers.values()]
    # a level is told apart by those above it
    codes = [_numbered(list(zip(*paths[: depth + 1], strict=True))) for depth in range(len(paths))]
    codes.append(_numbered([prompts[row] for row in kept]))
    weights = _equal_weights(codes[:-1])
    centre = float(weights @ y)
    fits = _fitted(y - centre, codes)
    gained = np.diff([1, *fits.ranks, y.size])  # degrees of freedom of each layer, of prompts, of the residual
    names = [*layers, PROMPT, RESIDUAL]
    # [F, F] what each component adds to each reduction, and the reductions
    expected = np.column_stack([np.diff(np.stack(fits.traces), axis=0), gained])
    reductions = np.diff(fits.squares)
    used = np.flatnonzero(gained > 0)
    solved = np.linalg.inv(expected[np.ix_(used, used)])
    estimates = solved @ reductions[used]
    # squared standard error of the mean per unit of each component
    shares = np.array([*(float((np.bincount(code, weights) ** 2).sum()) for code in codes), float((weights**2).sum())])
    parts = np.zeros((len(names), len(names)))
    for first in range(len(names)):
        counted = np.where(np.arange(len(names)) >= first, shares, 0.0)[used]
        parts[first, used] = counted @ solved * reductions[used]
    return Nested(
        centre,
        {name: max(0.0, float(estimates[used == at][0])) if at in used else None for at, name in enumerate(names)},
        {name: int(code.max()) + 1 for name, code in zip(names, codes, strict=False)},
        parts,
        np.where(gained > 0, gained, np.nan).astype(np.float64),
        _nested_note(names, codes, estimates, used),
    )


def _numbered(levels: Sequence[Hashable]) -> Codes:
    """Codes from 0 in the order in which levels appear."""
    known = {level: code for code, level in enumerate(dict.fromkeys(levels))}
    return np.array([known[level] for level in levels], dtype=np.intp)


def _equal_weights(codes: Sequence[Codes]) -> Array:
    """[N] weights that sum to 1: levels of a layer count alike within the level above, rows alike within a run."""
    weights = np.ones(codes[0].size)
    above = np.zeros(codes[0].size, dtype=np.intp)
    for code in codes:
        # how many levels of this layer the level above has, at each row
        parent = np.zeros(int(code.max()) + 1, dtype=np.intp)
        parent[code] = above
        weights /= np.bincount(parent)[above]
        above = code
    found: Array = weights / np.bincount(above)[above]
    return found


def _fitted(y: Array, codes: Sequence[Codes]) -> _Fits:
    """The models: a mean, then each layer in turn, then prompts beside the runs, then every row by itself."""
    layers, prompts = codes[:-1], codes[-1]
    grand = np.zeros(y.size, dtype=np.intp)
    groups = [grand, *layers]
    squares = [float((np.bincount(g, y) ** 2 / np.bincount(g)).sum()) for g in groups]
    ranks = [int(g.max()) + 1 for g in groups]
    traces = []
    for g in groups:
        # trace of Z' H Z: for groups g and levels l of a factor, the sum of n_gl^2 / n_g
        of_factors = []
        for code in codes:
            size = int(code.max()) + 1
            pairs, counts = np.unique(g * size + code, return_counts=True)
            of_factors.append(float((counts**2 / np.bincount(g)[pairs // size]).sum()))
        traces.append(np.array(of_factors))
    square, rank = _two_way_fit(y, layers[-1], prompts)
    # Every factor lies within the span of runs and prompts, so that the trace is that of Z' Z, the number of rows.
    whole = np.full(len(codes), float(y.size))
    return _Fits([*squares, square, float(y @ y)], [*ranks[1:], rank], [*traces, whole, whole])


def _two_way_fit(y: Array, runs: Codes, prompts: Codes) -> tuple[float, int]:
    """The sum of squares of the fit of runs and prompts, and its rank; prompts are absorbed."""
    counts = np.zeros((int(runs.max()) + 1, int(prompts.max()) + 1))
    np.add.at(counts, (runs, prompts), 1.0)
    of_prompts, totals = counts.sum(axis=0), np.bincount(prompts, y)
    system = np.diag(counts.sum(axis=1)) - counts / of_prompts @ counts.T
    right = np.bincount(runs, y) - counts @ (totals / of_prompts)
    # Singular: runs and prompts that are connected share a constant.
    effects = np.linalg.pinv(system, hermitian=True) @ right
    rank = int(np.linalg.matrix_rank(system, hermitian=True))
    return float((totals**2 / of_prompts).sum() + right @ effects), of_prompts.size + rank


def _nested_note(names: Sequence[str], codes: Sequence[Codes], estimates: Array, used: npt.NDArray[np.intp]) -> str:
    """What the reader of the components should know."""
    said = []
    for at, name in enumerate(names[:-2]):
        if at in used:
            continue
        if int(codes[at].max()) == 0:
            said.append(f"one {name}: the mean is conditional on it")
        else:
            above = max(place for place in range(at) if place in used)
            said.append(f"one {name} per {names[above]}: their variances are one")
    if int(codes[-1].max()) == 0:
        said.append("one prompt: the mean is conditional on it")
    elif len(names) - 1 not in used:
        said.append("prompts hold the residual: no prompt is measured twice beyond the runs")
    low = [names[at] for at, value in zip(used, estimates, strict=True) if value < 0]
    if low:
        said.append(f"no spread between {' and '.join(low)}s beyond chance: set to 0")
    return "; ".join(said)
