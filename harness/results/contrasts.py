"""Paired comparisons of two arms on the same prompts and training seeds, recomputed from stored verdicts.

Pass one `Sheets` to several comparisons: their rows are then read once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import MeasureKind
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.estimates import ALL, Estimator, difference_limit, within
from rlhf_bench.harness.results.sheets import NO_PROMPT, NO_SEED, Common, Key, Rows, Sheets, common
from rlhf_bench.harness.seeds import Seed, layers_of
from rlhf_bench.harness.statistics import layers
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.harness.statistics.layers import Layers
from rlhf_bench.harness.statistics.over_tasks import TaskCells, mean_win

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Where:
    """The numbers of an arm to compare: one measure of one judge on one slice, at the last checkpoint.

    `statistic` is the measure's name, `decoding` "sample" or "greedy".
    """

    judge: str
    statistic: str
    slice: str = ALL
    decoding: str = "sample"


def difference(a: Arm, b: Arm, where: Where, estimator: Estimator, sheets: Sheets | None = None) -> Interval:
    """The mean of a - b over the seeds and prompts that both have, in the measure's units.

    The interval is that of `comparisons.difference`, cut off at twice the measure's limit.  Raises as `paired`.
    """
    both = paired(a, b, where, sheets)
    rng = estimator.generator("difference", a.key, b.key, *_place(where))
    found = layers.difference(*both.cells, both.kind, estimator.level, rng, both.clusters, both.layers)
    return within(found, difference_limit(_measure(a, where).get("limit")))


def by_seed(a: Arm, b: Arm, where: Where, sheets: Sheets | None = None) -> list[float | None]:
    """The mean of a - b under every common seed, ascending; None for a seed without a decided prompt.

    In the measure's units, without intervals: reports show how much the seeds agree.  Raises as `paired`.
    """
    first, second = paired(a, b, where, sheets).cells
    return [float(np.nanmean(row)) if not np.isnan(row).all() else None for row in first - second]


def head_to_head(a: Arm, b: Arm, where: Where, estimator: Estimator, sheets: Sheets | None = None) -> Interval:
    """The share of (seed, prompt) cells in which a's response has the higher value; a tie counts half.

    From 0 to 1, .5 without a difference; an undecided cell is left out.  Raises as `paired`.
    """
    both = paired(a, b, where, sheets)
    rng = estimator.generator("head to head", a.key, b.key, *_place(where))
    return layers.interval("win", _wins(both), estimator.level, rng, both.clusters, both.layers)


def mean_head_to_head(
    pairs: Sequence[tuple[Arm, Arm]], where: Where, estimator: Estimator, sheets: Sheets | None = None
) -> Interval:
    """The mean over several tasks of `head_to_head`, every task counting alike: one pair of arms for each task.

    Over the seeds that all tasks have, with the assumptions of `statistics.over_tasks`; of seeds in layers the means of
    each level of the outermost one.  Raises as `paired`, and where the tasks have no seed in common.
    """
    kept = sheets or Sheets()
    found = [paired(a, b, where, kept) for a, b in pairs]
    seeds = common_seeds(pairs)
    if not seeds:
        raise BenchError(f"The tasks {', '.join(sorted({a.task for a, _ in pairs}))} have {NO_SEED}.")
    tasks = []
    for both in found:
        rows = _wins(both)[[both.seeds.index(seed) for seed in seeds]]
        tasks.append(TaskCells(layers.outer_means(rows, layers_of(seeds)), both.prompts, both.clusters))
    return mean_win(tasks, estimator.level)


def mean_over_tasks(arms: Sequence[Arm], where: Where, estimator: Estimator, sheets: Sheets | None = None) -> Interval:
    """The mean over several tasks of a measure in [0, 1] (a win rate), one arm for each, as `mean_head_to_head`.

    Over the seeds that all arms have.  Raises BenchError where they have none in common, and for an arm of whose seeds
    no prompt in common was judged.
    """
    kept = sheets or Sheets()
    seeds = sorted(set.intersection(*(set(arm.seeds) for arm in arms)))
    if not seeds:
        raise BenchError(f"The tasks {', '.join(sorted({arm.task for arm in arms}))} have {NO_SEED}.")
    tasks = []
    for arm in arms:
        table = kept.of(arm, where.judge, where.decoding)
        both = common([table], [where.statistic]) if table else Common(why=NO_PROMPT)
        if both.why:
            raise BenchError(f"{arm.reward_model} on {arm.task}: {both.why}.")
        rows = both.cells[0][[both.seeds.index(seed) for seed in seeds]]
        tasks.append(TaskCells(layers.outer_means(rows, layers_of(seeds)), both.ids, both.clusters))
    return mean_win(tasks, estimator.level)


def common_seeds(pairs: Sequence[tuple[Arm, Arm]]) -> tuple[Seed, ...]:
    """The training seeds that every arm has, ascending."""
    return tuple(sorted(set.intersection(*(set(arm.seeds) for pair in pairs for arm in pair))))


def _wins(both: Paired) -> Array:
    """[S, P] 1 where the first arm's response is better, .5 for a tie, 0 where the second's is, NaN where undecided."""
    first, second = both.cells
    return np.where(np.isnan(first - second), np.nan, (np.sign(first - second) + 1) / 2)


def _place(where: Where) -> tuple[str, ...]:
    # part of the name that seeds a generator: another order or field would change every bootstrap
    return (where.judge, where.statistic, where.slice, where.decoding)


class UnlikeVerdictsError(BenchError):
    """A judge measured two arms with different settings: their verdicts are not compared."""


class Paired(NamedTuple):
    """Cells [S, P] of two arms on common seeds and prompts: of a first, then of b.

    `clusters` [P]: the prompts' sources.   `kind`: the measure's.   `layers`: the seeds' levels [S], None without.
    `seeds` [S], `prompts` [P]: what the rows and columns are of.
    """

    cells: tuple[Array, Array]
    clusters: tuple[str, ...]
    kind: MeasureKind
    layers: Layers | None
    seeds: tuple[Seed, ...]
    prompts: tuple[Key, ...]


def paired(a: Arm, b: Arm, where: Where, sheets: Sheets | None = None) -> Paired:
    """The cells of two arms on the seeds and prompts that they share; runs pair where all of their seeds are equal.

    Raises BenchError without common seeds and prompts, for an arm without verdicts, for verdicts that a judge made with
    different settings, and for an unknown measure.
    """
    kept = sheets or Sheets()
    tables: list[Mapping[Seed, Rows]] = []
    for arm in (a, b):
        table: Mapping[Seed, Rows] = kept.of(arm, where.judge, where.decoding)
        if where.slice != ALL:
            # a plain dict: the cells that a `Table` keeps are of all prompts, and `common` must not use them
            table = {s: {i: r for i, r in rows.items() if where.slice in r["slices"]} for s, rows in table.items()}
        tables.append(table)
    for arm, table in zip((a, b), tables, strict=True):
        if not table and any(where.judge not in cell.judged() for cell in arm.cells):
            raise BenchError(f"No verdicts of the judge {where.judge!r} for {arm.reward_model} on {arm.task}.")
    if unlike := kept.unlike((a, b), where.judge):
        raise UnlikeVerdictsError(
            f"{a.reward_model} and {b.reward_model} on {a.task}: {unlike}.",
            f"Judge them alike: bench judge RUNS --judge {where.judge}",
        )
    # an empty table: no checkpoint with this decoding is common to the arm's seeds
    both = common(tables, [where.statistic] * 2) if all(tables) else Common(why=NO_PROMPT)
    if both.why:
        raise BenchError(
            f"{a.reward_model} and {b.reward_model} on {a.task} (slice {where.slice!r}, {where.decoding}): {both.why}."
        )
    first, second = both.cells
    kind = _measure(a, where)["kind"]
    return Paired((first, second), both.clusters, kind, both.layers, both.seeds, both.ids)


def _measure(arm: Arm, where: Where) -> Row:
    """The measure's row of measures.json."""
    rows = {m["name"]: m for m in store.read_json(arm.cells[0].judged()[where.judge] / "measures.json")}
    if where.statistic not in rows:
        raise BenchError(f"The judge {where.judge!r} has no measure {where.statistic!r}, only {sorted(rows)}.")
    found: Row = rows[where.statistic]
    return found
