"""Reward models against each other: differences of all pairs, a ranking, and win rates at equal length.

Plain rows for the report's JSON, recomputed from stored verdicts at the last checkpoint that all seeds share, on the
prompts and training seeds that the compared arms have in common.  Holm's correction is over all pairs of reward models
of one task, for each measure by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import MeasureKind
from rlhf_bench.harness.results.estimates import Arm, Estimator, reasons, twice, within
from rlhf_bench.harness.results.sheets import Common, Rows, Sheets, common
from rlhf_bench.harness.results.table import Table, interval, number
from rlhf_bench.harness.statistics import comparisons, power, rules
from rlhf_bench.harness.statistics.cells import Array, tidy
from rlhf_bench.harness.statistics.interval import Interval, nothing
from rlhf_bench.harness.statistics.length_control import length_controlled
from rlhf_bench.harness.statistics.ranking import Ranking, rank
from rlhf_bench.reports.tables import HEADLINE

Row = dict[str, Any]
COMPARED = {(judge, statistic) for _, judge, statistic in HEADLINE}
GOLD = ("utility", "gold")
LENGTH = ("length", "length_change")
ONE_SEED = "one seed: these two training runs are compared, not the reward models"


class Question(NamedTuple):
    """What is compared: one measure of one judge."""

    judge: str
    statistic: str
    kind: MeasureKind
    limit: float | None = None
    """The largest size of a change (nouns.Measure)."""


@dataclass(frozen=True)
class Context:
    """What every comparison needs: the arms' labels by key, how intervals are made, and the rows."""

    labels: Mapping[str, str]
    estimator: Estimator
    sheets: Sheets = field(default_factory=Sheets)


def comparison(arms: Sequence[Arm], labels: Mapping[str, str], estimator: Estimator) -> dict[str, list[Row]]:
    """{"pairs", "ranking", "length_controlled"}: JSON-able rows, tasks in order.  No rows where nothing is compared."""
    found: dict[str, list[Row]] = {"pairs": [], "ranking": [], "length_controlled": []}
    context = Context(labels, estimator)
    for task in sorted({arm.task for arm in arms}):
        own = [arm for arm in arms if arm.task == task]
        for what in measures(own):
            ranked = what.kind == "win" or what[:2] == GOLD
            if what[:2] in COMPARED or ranked:
                found["pairs"] += pairs(own, what, context)
            if ranked:
                found["ranking"] += ranking(own, what, context)
            if what.kind == "win":
                found["length_controlled"] += at_equal_length(own, what, context)
    return found


def measures(arms: Sequence[Arm]) -> list[Question]:
    """All measures of all judges of the arms, by name."""
    found: dict[tuple[str, str], tuple[MeasureKind, float | None]] = {}
    for arm in arms:
        for judge, folder in arm.cells[0].judged().items():
            found.update(
                {(judge, m["name"]): (m["kind"], m.get("limit")) for m in store.read_json(folder / "measures.json")}
            )
    return [Question(*name, *rest) for name, rest in sorted(found.items())]


# ---- pairs ----------------------------------------------------------------------------------------------------------


def pairs(arms: Sequence[Arm], what: Question, context: Context) -> list[Row]:
    """One row for every two arms that this judge measured: a - b, its interval, p before and after Holm.

    `different` is None where that cannot be said of reward models: one training seed, or no p.
    """
    judged = [arm for arm in arms if context.sheets.of(arm, what.judge)]
    rows = [_pair(a, b, what, context) for a, b in itertools.combinations(judged, 2)]
    for row, adjusted in zip(rows, comparisons.holm([row["p"] for row in rows]), strict=True):
        row["p_holm"], row["different"] = adjusted, None
        if adjusted is not None and row["seeds"] > 1:
            row["different"] = adjusted < 1 - context.estimator.level
    return rows


def _pair(a: Arm, b: Arm, what: Question, context: Context) -> Row:
    tables = [context.sheets.of(arm, what.judge) for arm in (a, b)]
    both = common(tables, [what.statistic] * 2, context.sheets.unlike((a, b), what.judge))
    found = p = nothing(both.why)
    seeds = prompts = 0
    least = None
    if not both.why:
        first, second = both.cells
        rng, level = context.estimator.generator("pair", a.key, b.key, *what[:2]), context.estimator.level
        seeds, prompts = tidy(first - second, None)[0].shape
        found = comparisons.difference(first, second, what.kind, level, rng, both.clusters)
        found = within(found, twice(what.limit))
        found = found.noted(ONE_SEED if seeds == 1 else "", _undecided(both, tables, what.statistic))
        p = comparisons.p_value(first, second, what.kind, rng, both.clusters)
        least = detectable(first - second, both.clusters, level)
    labels = {"a_label": context.labels[a.key], "b_label": context.labels[b.key]}
    place = {"task": a.task, "a": a.key, "b": b.key, **labels, "judge": what.judge, "statistic": what.statistic}
    test = {"p": p.value, "p_method": p.method, "p_note": p.note, "smallest_detectable": least}
    return {**place, **_interval(found, context), **test, "seeds": seeds, "prompts": prompts}


def detectable(differences: Array, clusters: Sequence[str], level: float) -> float | None:
    """The true difference that this design finds with power .8, given the spread it saw; None where nothing varied."""
    found = power.components(differences, clusters)
    if found is None:
        return None
    cells, codes, _ = tidy(differences, clusters)
    return power.smallest_detectable(
        found, len(cells), cells.shape[1] if codes is None else int(codes.max()) + 1, level
    )


def _undecided(both: Common, tables: Sequence[Mapping[int, Rows]], statistic: str) -> str:
    holes = int(np.isnan(sum(both.cells)).sum())
    rows = [list(table[seed].values()) for table in tables for seed in both.seeds]
    return f"{holes} cases undecided for one of the two: {reasons(rows, statistic)}" if holes else ""


def _interval(found: Interval, context: Context) -> Row:
    values = {"value": found.value, "low": found.low, "high": found.high, "level": context.estimator.level}
    return {**values, "method": found.method, "note": found.note}


# ---- ranking and length ---------------------------------------------------------------------------------------------


def ranking(arms: Sequence[Arm], what: Question, context: Context) -> list[Row]:
    """Bradley-Terry strengths of the arms that this judge measured, the strongest first; [] below two of them."""
    judged = [arm for arm in arms if context.sheets.of(arm, what.judge)]
    if len(judged) < 2:
        return []
    unlike = context.sheets.unlike(judged, what.judge)
    shared = common([context.sheets.of(arm, what.judge) for arm in judged], [what.statistic] * len(judged), unlike)
    found = Ranking((nothing(shared.why),) * len(judged), (None,) * len(judged))
    if not shared.why:
        rng = context.estimator.generator("ranking", *(arm.key for arm in judged), *what[:2])
        found = rank(shared.cells, context.estimator.level, rng, shared.clusters)
    rows = [
        {**_place(arm, what, context), **_interval(one, context), "first": first, **_size(shared)}
        for arm, one, first in zip(judged, found.strengths, found.first, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["value"] if row["value"] is not None else 0.0)


def at_equal_length(arms: Sequence[Arm], what: Question, context: Context) -> Iterator[Row]:
    """Every arm's win rate and the one at equal length, on the cases that have both a verdict and a length."""
    for arm in arms:
        tables = [context.sheets.of(arm, judge) for judge in (what.judge, LENGTH[0])]
        if not all(tables):
            continue
        both = common(tables, [what.statistic, LENGTH[1]])
        controlled = raw = nothing(both.why)
        if not both.why:
            verdicts, lengths = both.cells
            rng, level = context.estimator.generator("length", arm.key, *what[:2]), context.estimator.level
            controlled = length_controlled(verdicts, lengths, level, rng, both.clusters)
            decided = np.where(np.isnan(lengths), np.nan, verdicts)
            raw = rules.interval("win", decided, level, rng, both.clusters)
        place = {**_place(arm, what, context), **_interval(controlled, context)}
        yield {**place, "raw": _interval(raw, context), **_size(both)}


def _place(arm: Arm, what: Question, context: Context) -> Row:
    names = {"task": arm.task, "arm": arm.key, "label": context.labels[arm.key]}
    return {**names, "judge": what.judge, "statistic": what.statistic}


def _size(both: Common) -> Row:
    return {"seeds": len(both.seeds), "prompts": both.prompts}


# ---- tables ---------------------------------------------------------------------------------------------------------


def tables(found: Mapping[str, Sequence[Row]]) -> list[Table]:
    """The three tables of `comparison`'s rows, empty ones left out."""
    made = (pairs_table(found["pairs"]), ranking_table(found["ranking"]), length_table(found["length_controlled"]))
    return [table for table in made if table.rows]


def p_text(p: float | None) -> str:
    """Three decimals, "<0.001" below them."""
    if p is None:
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def pairs_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["task"],
            f"{row['a_label']} − {row['b_label']}",
            f"{row['judge']} {row['statistic']}",
            str(row["seeds"]),
            interval(row),
            p_text(row["p"]),
            p_text(row["p_holm"]),
            {True: "yes", False: "not shown", None: "cannot be said"}[row["different"]],
            number(row["smallest_detectable"]),
        )
        for row in rows
    ]
    columns = ("task", "pair", "measure", "seeds", "difference", "p", "p (Holm)", "different", "smallest detectable")
    return Table("Every two reward models", columns, lines, _pairs_note(rows))


def _pairs_note(rows: Sequence[Row]) -> str:
    note = (
        "Paired by prompt and training seed. Holm's correction is over all pairs of a task, for each measure by "
        "itself. Smallest detectable: the true difference that this many seeds and prompts find with power .8; a "
        "smaller one may be there unseen."
    )
    one = " With one seed p speaks of two training runs, not of two reward models." if _one_seed(rows) else ""
    return note + one


def _one_seed(rows: Sequence[Row]) -> bool:
    return any(row["seeds"] == 1 for row in rows)


def ranking_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["task"],
            row["label"],
            f"{row['judge']} {row['statistic']}",
            interval(row),
            "–" if row["first"] is None else f"{row['first']:.0%}",
        )
        for row in rows
    ]
    columns = ("task", "reward model", "by", "strength", "first")
    note = (
        "Bradley-Terry log odds against the average, from who did better on the same prompt and seed, a tie for half; "
        "first: share of resamples of prompts and seeds in which it is the strongest."
    )
    return Table("Ranking of the reward models", columns, lines, note)


def length_table(rows: Sequence[Row]) -> Table:
    lines = [
        (row["task"], row["label"], f"{row['judge']} {row['statistic']}", interval(row["raw"]), interval(row))
        for row in rows
    ]
    columns = ("task", "reward model", "by", "win rate", "at equal length")
    note = "At equal length: logistic regression on tanh(length difference / sd), predicted at 0. Beside the raw rate."
    return Table("Win rates at equal length", columns, lines, note)
