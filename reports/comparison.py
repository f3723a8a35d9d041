"""Reward models against each other: differences of all pairs, a ranking, and win rates at equal length.

Plain rows for the report's JSON, computed from stored verdicts at the last checkpoint that all seeds share, on the
prompts and training seeds that the compared arms have in common.  Holm's correction is over all pairs of reward models
of one task, for each measure by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from rlhf_bench.harness import cache
from rlhf_bench.harness.cache import Group
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.entropy_matched import is_control
from rlhf_bench.harness.results.estimates import Estimator, difference_limit, reasons, within
from rlhf_bench.harness.results.sheets import Common, Sheets, common
from rlhf_bench.harness.results.table import Cell, Table, estimated
from rlhf_bench.harness.statistics import comparisons, intervals, power
from rlhf_bench.harness.statistics import layers as layered
from rlhf_bench.harness.statistics.cells import Array, tidy
from rlhf_bench.harness.statistics.intervals import Interval, undefined
from rlhf_bench.harness.statistics.layers import outer_means
from rlhf_bench.harness.statistics.length_control import length_controlled
from rlhf_bench.harness.statistics.ranking import Ranking, rank
from rlhf_bench.reports.measures import Column, described
from rlhf_bench.reports.over_tasks import over_tasks, over_tasks_table

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

LENGTH = ("length", "length_change")
"""The judge and measure that win rates are corrected for."""
ONE_SEED = "one seed: these two training runs are compared, not the reward models"


@dataclass(frozen=True)
class Context:
    """What every comparison needs: the arms' labels by key, how intervals are made, and the stored verdicts."""

    labels: Mapping[str, str]
    estimator: Estimator
    sheets: Sheets = field(default_factory=Sheets)

    def judged(self, arms: Sequence[Arm], judge: str) -> list[Arm]:
        """The arms with verdicts of a judge at a checkpoint that all of their seeds have."""
        found = []
        for arm in arms:
            if all(judge in cell.judged() for cell in arm.cells):
                kept = cache.group("judged", arm.depends(judge))
                found += [arm] if kept.get("sample", partial(self._has_rows, arm, judge)) else []
        return found

    def _has_rows(self, arm: Arm, judge: str) -> bool:
        return bool(self.sheets.of(arm, judge))

    def group(self, name: str, arms: Sequence[Arm], *judges: str) -> Group:
        """Where rows about these arms and judges are kept for the next report (cache.py)."""
        return cache.group(name, self.estimator.depends(), *(arm.depends(*judges) for arm in arms))


def comparison(arms: Sequence[Arm], labels: Mapping[str, str], estimator: Estimator) -> dict[str, list[JsonObject]]:
    """JSON-able rows of every kind of comparison, tasks in order; no rows where nothing is compared.

    `pairs`: of measures that are shown there or ranked.  `ranking`: of win rates, and of levels with a better side.
    `length_controlled`: of win rates.  `over_tasks`: only where there are several tasks (over_tasks.py).  Raises
    BenchError for stored verdicts that cannot be read.
    """
    found: dict[str, list[JsonObject]] = {"pairs": [], "ranking": [], "length_controlled": []}
    context = Context(labels, estimator)
    columns = sorted(described(arms), key=lambda column: column.key)
    for task in sorted({arm.task for arm in arms}):
        # the last checkpoint of the control is an arbitrary temperature: it is compared at equal entropy and equal KL
        own = [arm for arm in arms if arm.task == task and not is_control(arm)]
        # columns are made of all arms, because titles are unique among those of one call alone
        measured = {column.key for column in described(own)}
        for column in (column for column in columns if column.key in measured):
            # a rate or a change gives the order that its differences give already
            ranked = column.kind == "win" or (column.kind == "level" and bool(column.better))
            if "pairs" in column.shown or ranked:
                found["pairs"] += pairs(own, column, context)
            if ranked:
                found["ranking"] += ranking(own, column, context)
            if column.kind == "win":
                found["length_controlled"] += at_equal_length(own, column, context)
    # absent where there is one task, as in every report before there were means over several
    if several := over_tasks(arms, labels, columns, estimator, context.sheets):
        found["over_tasks"] = several
    return found


# ---- pairs ----------------------------------------------------------------------------------------------------------


def pairs(arms: Sequence[Arm], column: Column, context: Context) -> list[JsonObject]:
    """One row for every two arms that this judge measured: a - b, its interval, p before and after Holm.

    Units are the measure's.  `p_holm` is Holm's (1979) step-down over the rows of this call, all pairs of the arms.
    `different` is None where that cannot be said of reward models: one training seed, or no p.
    """
    judged = context.judged(arms, column.judge)
    rows = [_kept_pair(a, b, column, context) for a, b in itertools.combinations(judged, 2)]
    # after all pairs: the correction depends on how many p there are
    for row, adjusted in zip(rows, comparisons.holm([row["p"] for row in rows]), strict=True):
        row["p_holm"], row["different"] = adjusted, None
        if adjusted is not None and row["seeds"] > 1:
            row["different"] = adjusted < 1 - context.estimator.level
    return rows


def _kept_pair(a: Arm, b: Arm, column: Column, context: Context) -> JsonObject:
    """`_pair`, or the row of an earlier report on the same verdicts; labels depend on the other arms of the report."""
    row = context.group("pair", (a, b), column.judge).get(asdict(column), lambda: _pair(a, b, column, context))
    # a copy: `pairs` adds to it
    return {**row, "a_label": context.labels[a.key], "b_label": context.labels[b.key]}


def _pair(a: Arm, b: Arm, column: Column, context: Context) -> JsonObject:
    tables = [context.sheets.of(arm, column.judge) for arm in (a, b)]
    shared = common(tables, [column.statistic] * 2, context.sheets.unlike((a, b), column.judge))
    found = p = undefined(shared.why)
    # what cannot be compared keeps its row, with the reason as its note
    seeds = prompts = 0
    least = None
    if not shared.why:
        first, second = shared.cells  # [seeds, prompts] each
        rng, level = context.estimator.generator("pair", a.key, b.key, *column.key), context.estimator.level
        # of the cells that both have decided: a wholly undecided seed or prompt counts for nothing
        seeds, prompts = tidy(first - second, None)[0].shape
        found = layered.difference(first, second, column.kind, level, rng, shared.clusters, shared.layers)
        # each lies within the limit, hence their difference within twice the limit
        found = within(found, difference_limit(column.limit))
        holes = int(np.isnan(first + second).sum()) - shared.absent
        why = ""
        if holes:  # rows are made of columns when they are asked for
            rows = [list(table[seed].values()) for table in tables for seed in shared.seeds]
            why = f"{holes} cases undecided for one of the two: {reasons(rows, column.statistic)}"
        found = found.noted(ONE_SEED if seeds == 1 else "", why)
        # the same generator goes on: p depends on the draws of the interval before it
        p = layered.p_value(first, second, column.kind, rng, shared.clusters, shared.layers)
        # of runs in layers: the means over the outermost layer are the units that are drawn
        least = detectable(outer_means(first - second, shared.layers), shared.clusters, level)
    return {
        "task": a.task,
        "a": a.key,
        "b": b.key,
        "a_label": context.labels[a.key],
        "b_label": context.labels[b.key],
        **_measure(column),
        **_interval(found, context),
        "p": p.value,
        "p_method": p.method,
        "p_note": p.note,
        "smallest_detectable": least,
        "seeds": seeds,
        "prompts": prompts,
    }


def detectable(differences: Array, clusters: Sequence[str], level: float) -> float | None:
    """The true difference that this design finds with power .8, given the spread it saw; None where nothing varied.

    `differences` [seeds, prompts], in the measure's unit, as the result; `clusters` [prompts] are the prompts' sources.
    """
    found = power.components(differences, clusters)
    if found is None:
        return None
    cells, codes, _ = tidy(differences, clusters)
    # clusters of prompts, where there are any, are the units that are drawn
    units = cells.shape[1] if codes is None else int(codes.max()) + 1
    return power.smallest_detectable(found, len(cells), units, level)


def _measure(column: Column) -> JsonObject:
    """Which measure a row is of; title and format are for its table."""
    return {"judge": column.judge, "statistic": column.statistic, "title": column.title, "format": column.format}


def _interval(found: Interval, context: Context) -> JsonObject:
    values = {"value": found.value, "low": found.low, "high": found.high, "level": context.estimator.level}
    return {**values, "method": found.method, "note": found.note}


# ---- ranking and length ---------------------------------------------------------------------------------------------


def ranking(arms: Sequence[Arm], column: Column, context: Context) -> list[JsonObject]:
    """`_ranking` of the arms that this judge measured, or the rows of an earlier report on the same verdicts."""
    judged = context.judged(arms, column.judge)
    if len(judged) < 2:
        return []
    kept = context.group("ranking", judged, column.judge)
    rows = kept.get(asdict(column), lambda: _ranking(judged, column, context))
    return [{**row, "label": context.labels[row["arm"]]} for row in rows]


def _ranking(judged: Sequence[Arm], column: Column, context: Context) -> list[JsonObject]:
    """Bradley-Terry strengths of the arms, the strongest first.

    `value`, `low`, `high`: log odds against the average arm.  `first`: the share of resamples in which the arm is the
    strongest.  Values None, with the reason as the note, where the arms have no seeds or prompts in common.
    """
    unlike = context.sheets.unlike(judged, column.judge)
    names = [column.statistic] * len(judged)
    shared = common([context.sheets.of(arm, column.judge) for arm in judged], names, unlike)
    found = Ranking((undefined(shared.why),) * len(judged), (None,) * len(judged))
    if not shared.why:
        rng = context.estimator.generator("ranking", *(arm.key for arm in judged), *column.key)
        # strengths rise with the values: where lower is better, the least value must win
        cells = tuple(-one for one in shared.outer) if column.better == "lower" else shared.outer
        found = rank(cells, context.estimator.level, rng, shared.clusters)
    rows = [
        {**_place(arm, column, context), **_interval(one, context), "first": first, **_size(shared)}
        for arm, one, first in zip(judged, found.strengths, found.first, strict=True)
    ]
    # strengths are undefined for all arms or for none, and equal ones stay in the order of arms
    return sorted(rows, key=lambda row: -row["value"] if row["value"] is not None else 0.0)


def at_equal_length(arms: Sequence[Arm], column: Column, context: Context) -> Iterator[JsonObject]:
    """Every arm's win rate and the one at equal length, on the cases that have both a verdict and a length.

    After AlpacaEval 2 (Dubois et al., 2404.04475; statistics/length_control.py).  Arms without verdicts of the judge
    `length` are left out.
    """
    for arm in context.judged(context.judged(arms, column.judge), LENGTH[0]):
        kept = context.group("length", (arm,), column.judge, LENGTH[0])
        row = kept.get(asdict(column), partial(_at_equal_length, arm, column, context))
        yield {**row, "label": context.labels[arm.key]}


def _at_equal_length(arm: Arm, column: Column, context: Context) -> JsonObject:
    tables = [context.sheets.of(arm, judge) for judge in (column.judge, LENGTH[0])]
    shared = common(tables, [column.statistic, LENGTH[1]])
    controlled = raw = undefined(shared.why)
    if not shared.why:
        verdicts, lengths = shared.outer
        rng, level = context.estimator.generator("length", arm.key, *column.key), context.estimator.level
        controlled = length_controlled(verdicts, lengths, level, rng, shared.clusters)
        # the raw rate beside it is of the same cases, and comes second: both draw from one generator
        decided = np.where(np.isnan(lengths), np.nan, verdicts)
        raw = intervals.interval("win", decided, level, rng, shared.clusters)
    place = {**_place(arm, column, context), **_interval(controlled, context)}
    return {**place, "raw": _interval(raw, context), **_size(shared)}


def _place(arm: Arm, column: Column, context: Context) -> JsonObject:
    return {"task": arm.task, "arm": arm.key, "label": context.labels[arm.key], **_measure(column)}


def _size(shared: Common) -> JsonObject:
    return {"seeds": len(shared.seeds), "prompts": shared.prompts}


# ---- tables ---------------------------------------------------------------------------------------------------------


def tables(found: Mapping[str, Sequence[Row]]) -> list[Table]:
    """The tables of `comparison`'s rows, empty ones left out."""
    made = (
        over_tasks_table(found.get("over_tasks", ())),
        pairs_table(found["pairs"]),
        ranking_table(found["ranking"]),
        length_table(found["length_controlled"]),
    )
    return [table for table in made if table.rows]


def pairs_table(rows: Sequence[Row]) -> Table:
    """Every two reward models under every measure, from rows of `pairs`.

    "different" follows p after Holm, never the interval, which is not adjusted for the number of pairs.
    """
    lines = [
        (
            row["task"],
            f"{row['a_label']} − {row['b_label']}",
            row["title"],
            Cell(row["seeds"], format="count"),
            estimated(row, row["format"]),
            Cell(row["p"], format="p"),
            Cell(row["p_holm"], format="p"),
            {True: "yes", False: "undecided", None: "cannot be said"}[row["different"]],
            Cell(row["smallest_detectable"], format=row["format"]),
        )
        for row in rows
    ]
    note = (
        "Paired by prompt and training seed. Holm's correction is over all pairs of a task, for each measure by "
        "itself. Smallest detectable: the true difference that this many seeds and prompts find with power .8; a "
        "smaller one may exist unseen."
    )
    if any(row["seeds"] == 1 for row in rows):
        note += " With one seed p speaks of two training runs, not of two reward models."
    columns = ("task", "pair", "measure", "seeds", "difference", "p", "p (Holm)", "different", "smallest detectable")
    return Table("Every two reward models", columns, lines, note)


def ranking_table(rows: Sequence[Row]) -> Table:
    """Strengths of the reward models, the strongest first, from rows of `ranking`.

    Log odds have no format of their measure: they are plain numbers, 0 for the average.
    """
    lines = [
        (row["task"], row["label"], row["title"], estimated(row), Cell(row["first"], format="percent")) for row in rows
    ]
    columns = ("task", "reward model", "by", "strength", "first")
    note = (
        "Bradley-Terry log odds against the average, from who did better on the same prompt and seed, a tie for half; "
        "first: share of resamples of prompts and seeds in which it is the strongest."
    )
    return Table("Ranking of the reward models", columns, lines, note)


def length_table(rows: Sequence[Row]) -> Table:
    """Win rates beside those at equal length, from rows of `at_equal_length`; never one without the other."""
    lines = [
        (row["task"], row["label"], row["title"], estimated(row["raw"], row["format"]), estimated(row, row["format"]))
        for row in rows
    ]
    columns = ("task", "reward model", "by", "win rate", "at equal length")
    note = "At equal length: logistic regression on tanh(length difference / sd), predicted at 0. Beside the raw rate."
    return Table("Win rates at equal length", columns, lines, note)
