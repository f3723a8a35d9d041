"""What the page shows, as plain values ready for its template: tables, figures, and the rows its script works on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.results.table import (
    Cell,
    Entry,
    Table,
    cell_value,
    estimated,
    interval_text,
    numeric,
    restored,
    text,
)
from rlhf_bench.reports import answer, charts, figures
from rlhf_bench.reports.charts import frontiers, pair_accuracy
from rlhf_bench.reports.measures import (
    COLLAPSED,
    Column,
    Report,
    arms_on,
    indexed,
    own,
    pick,
    reliability,
    shown_at,
    tasks,
)
from rlhf_bench.reports.proxy import proxy_charts
from rlhf_bench.reports.tables import all_tables, with_reliability
from rlhf_bench.reports.verdicts import checks_table, claims_table, summary

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

TABLES = (
    "kl-matched", "runs", "layers", "curves", "slices", "collapse", "diagnostics", "overlap", "monotonicity", "points",
    "features",
)  # fmt: skip
"""The tables of the section with that name; the others have places of their own on the page."""
MINUTE, HOUR = 60, 3600
"""Seconds."""


def view(report: Report) -> JsonObject:
    """Everything that the template needs, but for the rows inside and the security policy.

    `report` may be one of an older version: what such a report lacks is read with a default.
    """
    report = indexed(report)
    # one colour and marker for a label on all tasks; by label, because an arm's key differs between tasks
    slots = {label: k for k, label in enumerate(dict.fromkeys(arm["label"] for arm in report["arms"]))}
    names = tasks(report)
    return {
        "experiment": str(report.get("experiment", "")),
        "question": answer.question(report),
        "answers": [
            *filter(None, [answer.of_claims(report.get("claims", ()))]),
            *(answer.sentence(report, task) for task in names),
        ],
        "data": report["data"],
        "warnings": report["warnings"],
        "claims": claims(report),
        "level": ", ".join(f"{level:.3g}%" for level in sorted({100 * e["level"] for e in report["estimates"]})),
        "several": len(names) > 1,
        "tasks": [task_view(report, task, slots) for task in names],
        "comparisons": [shown(with_reliability(report, restored(one))) for one in report.get("comparisons", ())],
        "tables": [shown(table) for table in all_tables(report, TABLES)],
        "undecided": undecided(report),
        "cost": cost(report["manifest"]),
        "manifest": manifest(report["manifest"]),
        "key": str(report["key"])[:16],
    }


def task_view(report: Report, task: str, slots: Mapping[str, int]) -> JsonObject:
    """Everything about one task.

    `slots`: colour and marker by label, the same for every task of the page.
    """
    arms = arms_on(report, task)
    return {
        "task": task,
        "forests": [forest(report, task, column) for column in answer.answering(report)],
        "compare": compare(report, task),
        "legend": [{"label": arm["label"], "key": figures.marker(slots[arm["label"]])} for arm in arms],
        "charts": [
            *frontiers(report, task, slots),
            *charts.charts(report, task, slots),
            *filter(None, proxy_charts(report, task, slots)),
        ],
        "histograms": charts.histograms(report, task),
    }


def forest(report: Report, task: str, column: Column) -> JsonObject:
    """Rows of intervals over one scale, the best estimate first: the forest plot of a measure that answers.

    Arms without an estimate come last, with an empty bar.
    """
    results = answer.outcomes(report, task, column)
    found = [estimated(outcome.estimate, column.format) for outcome in results]
    mark = column.reference
    values = [value for one in found for value in (one.value, one.low, one.high, mark) if value is not None]
    scale = figures.axis(values, 3)  # with the reference value, so that its line is never beyond an end
    return {
        "name": column.title,
        "description": column.description,
        "reliability": column.reliability,
        "mark": "" if mark is None else figures.label(mark),
        "axis": figures.bar_axis(scale),
        "rows": [
            {
                "label": outcome.arm["label"],
                "seeds": len(outcome.arm["seeds"]),
                "collapsed": collapsed(report, outcome.arm, column),
                "side": "not known" if outcome.side == "unknown" else outcome.side,
                "cell": cell(one),
                "bar": figures.interval_bar(one.value, one.low, one.high, scale, mark),
            }
            for outcome, one in zip(results, found, strict=True)
        ],
    }


def collapsed(report: Report, arm: Row, column: Column) -> str:
    """How many of the runs behind a mean change collapsed, "" where that was not measured."""
    name = column.statistic.removesuffix("_change") + COLLAPSED
    found = pick(report, arm["arm"], (column.judge, name)) if column.kind == "change" else None
    return "" if found is None or found["value"] is None else f"{text(estimated(found, 'runs'))} collapsed"


def compare(report: Report, task: str) -> JsonObject:
    """The table of reward models x measures, and the same numbers for every slice and decoding as plain rows.

    The template shows `rows`; compare.js fills the table anew from the others when a reader chooses a slice, a decoding
    or another reward model to compare with.
    """
    columns, arms = shown_at(report, "headline", task), arms_on(report, task)
    rows = []
    for arm in arms:
        found = [pick(report, arm["arm"], column.key) for column in columns]
        cells = [
            {**cell(estimated(row, column.format)), "undecided": row["n_invalid"] if row else 0}
            for row, column in zip(found, columns, strict=True)
        ]
        accuracy = cell(Cell(pair_accuracy(arm)))
        rows.append({"label": arm["label"], "seeds": len(arm["seeds"]), "cells": cells, "accuracy": accuracy})
    return {
        "columns": [{"name": c.title, "format": c.format, "description": c.description} for c in columns],
        "rows": rows,
        "reliability": reliability(columns),
        "estimates": list(final_rows(report, arms, columns)),
        "pairs": list(pair_rows(report, arms, columns)),
        "arms": [{"label": arm["label"], "accuracy": pair_accuracy(arm), "seeds": len(arm["seeds"])} for arm in arms],
    }


def final_rows(report: Report, arms: Sequence[Row], columns: Sequence[Column]) -> Iterator[list[object]]:
    """[arm, column, decoding, slice, value, low, high, undecided] of the last checkpoint; arm and column by place.

    Lists without names, because there are thousands; compare.js reads them in this order.
    """
    places = {column.key: k for k, column in enumerate(columns)}
    for k, arm in enumerate(arms):
        found = [e for e in own(report, arm["arm"]) if (e["judge"], e["statistic"]) in places]
        # one checkpoint for all columns: numbers of different ones do not belong in one row
        last = max((e["iteration"] for e in found), default=0)
        for e in (e for e in found if e["iteration"] == last):
            place = places[e["judge"], e["statistic"]]
            yield [k, place, e["decoding"], e["slice"], e["value"], e["low"], e["high"], e["n_invalid"]]


def pair_rows(report: Report, arms: Sequence[Row], columns: Sequence[Column]) -> Iterator[list[object]]:
    """[arm, other arm, column, difference, low, high, p after Holm] of the stored pairs; arms and column by place.

    Of every pair one direction; compare.js turns signs and ends around for the other.
    """
    places = {column.key: k for k, column in enumerate(columns)}
    keys = {arm["arm"]: k for k, arm in enumerate(arms)}
    for row in report.get("comparison", {}).get("pairs", ()):
        place = places.get((row["judge"], row["statistic"]))
        if place is not None and {row["a"], row["b"]} <= set(keys) and row["value"] is not None:
            ends = (row["value"], row["low"], row["high"], row["p_holm"])
            yield [keys[row["a"]], keys[row["b"]], place, *ends]


def claims(report: Report) -> JsonObject | None:
    """The verdicts on the claims: counts and a table; None without claims.

    `counts` in the order of `answer.VERDICTS`, without zeros; `texts`: the claims in words by id; `checks`: a table or
    None.
    """
    rows = report.get("claims", ())
    if not rows:
        return None
    counts = {name: sum(row["verdict"] == name for row in rows) for name in answer.VERDICTS}
    texts = {row["id"]: row["text"] for row in rows}
    table = shown(claims_table(rows))
    checked = checks_table(rows)
    counted = {name: count for name, count in counts.items() if count}
    return {
        "counts": counted,
        "more": summary(rows)[1:],
        "table": table,
        "texts": texts,
        "checks": shown(checked) if checked.rows else None,
    }


def undecided(report: Report) -> list[str]:
    """Sentences about undecided cases, one for each arm, measure, decoding and checkpoint.

    Over all prompts: those of a slice are among them.
    """
    labels = {arm["arm"]: arm["label"] for arm in report["arms"]}
    rows = [e for e in report["estimates"] if e["slice"] == "all" and "undecided:" in e["note"]]
    return [
        f"{labels.get(e['arm'], e['arm'])}, {e['judge']} {e['statistic']}, {e['decoding']}, "
        f"iteration {e['iteration']}: {e['note']}"
        for e in rows
    ]


def cost(manifest: Row) -> JsonObject:
    """Time by kind of stage, the largest first, and every stage.

    Shares are of the seconds of all stages, each counted once.  Tokens and FLOP come from stages that record them.
    """
    kinds: dict[str, list[Row]] = {}
    for name, stage in manifest["stages"].items():
        kinds.setdefault(name.split(" ")[0], []).append(stage)  # stages are named "KIND LABEL-KEY"
    total = sum(stage["seconds"] for stage in manifest["stages"].values()) or 1.0  # never 0: shares divide by it
    rows = [
        {
            "kind": kind,
            "count": len(stages),
            "seconds": _sum(stages, "seconds"),
            "shown": duration(_sum(stages, "seconds")),
            "cpu": duration(_sum(stages, "cpu_seconds")),
            "memory": memory(stages),
            "tokens": amount(stages, "tokens"),
            "flop": amount(stages, "flop"),
            "share": f"{_sum(stages, 'seconds') / total:.0%}",
            "bar": figures.interval_bar(None, 0.0, _sum(stages, "seconds") / total, figures.Axis(0.0, 1.0, ()), None),
        }
        for kind, stages in kinds.items()
    ]
    stages = [
        (name, *(Cell(stage[key], format="seconds") for key in ("seconds", "cpu_seconds")), stage["device"])
        for name, stage in manifest["stages"].items()
    ]
    return {
        "rows": sorted(rows, key=lambda r: (-r["seconds"], r["kind"])),
        "total": duration(total),
        "stages": shown(Table("Every stage", ("stage", "seconds", "CPU seconds", "device"), stages)),
    }


def _sum(stages: Iterable[Row], name: str) -> float:
    return float(sum(stage[name] or 0.0 for stage in stages))


def memory(stages: Iterable[Row]) -> str:
    """The largest peak of a stage's process, a dash where none was recorded."""
    known = [stage["peak_memory_mb"] for stage in stages if stage.get("peak_memory_mb") is not None]
    return f"{max(known):.0f} MB" if known else "–"


def amount(stages: Iterable[Row], name: str) -> str:
    """The sum of a figure over the stages that have it, such as 1.2M; a dash where none has."""
    known = [stage["figures"][name] for stage in stages if stage["figures"].get(name)]
    if not known:
        return "–"
    total, units = sum(known), iter(("", "k", "M", "G", "T", "P", "E"))  # FLOP of a large policy reach E, 10^18
    unit = next(units)
    while total >= 1000 and unit != "E":
        total, unit = total / 1000, next(units)
    return f"{total:.3g}{unit}"


def duration(seconds: float) -> str:
    """Seconds in s, min or h."""
    if seconds >= HOUR:
        return f"{seconds / HOUR:.1f} h"
    return f"{seconds / MINUTE:.1f} min" if seconds >= 2 * MINUTE else f"{seconds:.1f} s"


def manifest(found: Row) -> JsonObject:
    """The command, seeds, software and machines of the report.

    Versions and machines of all stages: more than one where a results folder was filled in several places.
    """
    versions = sorted({f"{k} {v}" for stage in found["stages"].values() for k, v in stage["versions"].items()})
    machines = sorted({f"{stage['machine']}, {stage['device']}" for stage in found["stages"].values()})
    keep = {"command": found["command"], "commit": found["git_commit"][:12], "seeds": found["seeds"]}
    return {**keep, "versions": versions, "machines": machines}


def shown(table: Table) -> JsonObject:
    """A table whose columns of numbers are marked, so that they align and sort.

    A column of numbers without any number is not marked: there is nothing to sort by.
    """
    rows = [[cell(entry) for entry in row] for row in table.rows]
    names = [
        {"name": name, "numeric": numeric(table, k) and any(row[k]["number"] is not None for row in rows)}
        for k, name in enumerate(table.columns)
    ]
    return {"title": table.title, "columns": names, "rows": rows, "note": table.note, "reliability": table.reliability}


def cell(entry: Entry) -> JsonObject:
    """An entry: its text, the number to sort by (None for words), and the interval that stands below it.

    The number has all its digits, so that values that look alike sort as they are.
    """
    if not isinstance(entry, Cell):
        return {"text": text(entry), "number": None, "interval": ""}
    value = cell_value(entry).replace("-", "−")  # a minus sign is as wide as a digit
    return {"text": value, "number": entry.value, "interval": interval_text(entry).replace("-", "−")}
