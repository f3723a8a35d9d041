"""The mean over several tasks of a share of wins, every task counting alike: one interval over seeds and prompts.

What it assumes.  The tasks are these and no sample of tasks: their difference in level is no spread.  Runs of different
tasks share their training seed and are independent given it: what a seed does to all of them is in the spread of the
seeds' means over tasks, which is all that enters of the spread between seeds.  Prompts of different tasks are drawn
independently, but for those that are the same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, as_matrix, constant, tidy, upper_tail
from rlhf_bench.harness.statistics.intervals import (
    WIDE,
    Interval,
    allow_non_finite,
    bounded,
    same_everywhere,
    unbounded,
    undefined,
)
from rlhf_bench.harness.statistics.variance import complete_layout, moments

METHOD = "Korn-Graubard over tasks"


class TaskCells(NamedTuple):
    """Cells [S, P] in [0, 1] of one task, NaN where undecided.

    prompts [P]: names, equal for equal prompts of several tasks, which can be ordered.   clusters [P]: the prompts'
    sources within the task, "" for none.
    """

    cells: Array
    prompts: Sequence[Hashable]
    clusters: Sequence[str]

    @property
    def units(self) -> list[Hashable]:
        """[P] what is independent: a source, named by its first prompt, or a prompt without a source.

        Names of sources count within their task: two tasks share a unit only where they share its prompts.
        """
        first: dict[str, Hashable] = {}
        for source, prompt in sorted(zip(self.clusters, self.prompts, strict=True)):
            first.setdefault(source, prompt)
        return [first[s] if s else p for s, p in zip(self.clusters, self.prompts, strict=True)]


@allow_non_finite
def mean_win(tasks: Sequence[TaskCells], level: float) -> Interval:
    """The interval of the mean over tasks of each task's mean, from cells of the same S seeds in the same order.

    As `intervals.rate_over_seeds`, which it equals for tasks of the same cells and prompts: the exact interval at the
    effective sample size of the two-way variance.  A unit's deviation is from its own task's mean.  A seed without a
    decided case in some task is left out of all.  One seed: conditional on its training runs.  Raises BenchError for no
    task, for cells outside [0, 1], and for tasks of different numbers of seeds.
    """
    upper_tail(level)
    cells = [as_matrix(task.cells, 0.0, 1.0) for task in tasks]
    if len({len(one) for one in cells}) != 1:
        raise BenchError(f"Tasks of {[len(one) for one in cells]} seeds.", "Give the same seeds for every task.")
    seeds = np.stack([(~np.isnan(one)).any(axis=1) for one in cells]).all(axis=0)
    lost = f"{int((~seeds).sum())} seeds without a decided case in some task left out" if not seeds.all() else ""
    if not seeds.any():
        return undefined("no seed with a decided case in every task", METHOD)
    cells = [one[seeds] for one in cells]
    found = [_layout(task._replace(cells=one)) for task, one in zip(tasks, cells, strict=True)]
    value = float(np.mean([layout.mean() for layout, _ in found]))
    if min(layout.shape[1] for layout, _ in found) < 2:
        return unbounded(value, METHOD, "a task with one prompt or one cluster of them: their spread is unknown")
    units = {unit: place for place, unit in enumerate(dict.fromkeys(unit for _, own in found for unit in own))}
    several = np.hstack(cells)
    if constant(several):
        whole = np.full((int(seeds.sum()), len(units)), float(np.nanmax(several)))
        return same_everywhere(whole, None, level, 0.0, 1.0).noted(lost)
    # [S, U] of all units: its rows have the seeds' means over tasks, its columns vary as the mean over tasks does
    table = np.full((int(seeds.sum()), len(units)), value)
    for layout, own in found:
        rows = layout.mean(axis=1, keepdims=True) - layout.mean()
        rest = layout - layout.mean(axis=1, keepdims=True)
        # a task's mean square divides by its own units - 1, that of the table by all units - 1
        few, many = layout.shape[1], len(units)
        rest *= math.sqrt((1 - 1 / many) / (1 - 1 / few))
        # each of the task's `few` units stands for many / few columns of the table, of which a task has 1 / K
        table[:, [units[unit] for unit in own]] += (rows + rest) * many / few / len(tasks)
    m, n = moments(table, None), _cases(tasks, cells)
    half, t = m.half_width(1 - upper_tail(level)), float(special.stdtrit(n - 1, upper_tail(level)))
    # Korn and Graubard (1998), as in `intervals.rate_over_seeds`; without spread within tasks: one case a unit
    size = min(n, (t * math.sqrt(value * (1 - value)) / half) ** 2) if half > 0 else len(units)
    k, tail = size * value, 1 - upper_tail(level)
    low = float(special.betaincinv(k, size - k + 1, tail)) if k > 0 else 0.0
    high = float(special.betaincinv(k + 1, size - k, 1 - tail)) if k < size else 1.0
    few_seeds = {1: "conditional on these training runs", 2: WIDE}.get(len(table), "")
    return bounded(value, low, high, METHOD, f"effective sample size {size:.0f}").noted(few_seeds, lost)


def _layout(task: TaskCells) -> tuple[Array, list[Hashable]]:
    """The task's cells as a layout [S, U] without holes or clusters (`variance.complete_layout`), and its units [U]."""
    kept, codes, _ = tidy(task.cells, task.units)
    decided = np.flatnonzero((~np.isnan(task.cells)).any(axis=0)).tolist()
    units = [task.units[place] for place in decided]
    layout, _ = complete_layout(kept, codes)
    if codes is None and layout.shape[1] < len(units):  # prompts that some seed has not decided were left out
        complete = np.flatnonzero(~np.isnan(kept).any(axis=0)).tolist()
        return layout, [units[place] for place in complete]
    return layout, list(dict.fromkeys(units))


def _cases(tasks: Sequence[TaskCells], cells: Sequence[Array]) -> int:
    """The number of decided cases: a seed and a prompt, counted once where several tasks have it."""
    found = {
        (seed, task.prompts[place])
        for task, one in zip(tasks, cells, strict=True)
        for seed, place in np.argwhere(~np.isnan(one)).tolist()
    }
    return len(found)
