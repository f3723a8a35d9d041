"""What the page shows, as plain values ready for its template: tables, figures, and the rows its script works on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.results.table import (
    Cell,
    cell_value,
    estimated,
    interval_text,
    restored,
)
from rlhf_bench.reports import answer, charts, figures, reasons
from rlhf_bench.reports.charts import frontiers, pair_accuracy
from rlhf_bench.reports.costs import cost, of_arms
from rlhf_bench.reports.figures import Look
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
from rlhf_bench.reports.setups import setup_lines
from rlhf_bench.reports.shown import cell, shown
from rlhf_bench.reports.tables import all_tables, with_reliability
from rlhf_bench.reports.verdicts import checks_table, claims_table, summary

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

TABLES = (
    "kl-matched", "runs", "layers", "curves", "slices", "collapse", "diagnostics", "gold", "sanity", "most-rewarded",
    "overlap", "monotonicity", "points", "features", "parts",
)  # fmt: skip
"""The tables of the section with that name; the others have places of their own on the page."""


def view(report: Report) -> JsonObject:
    """Everything that the template needs, but for the rows inside and the security policy.

    `report` may be one of an older version: what such a report lacks is read with a default.
    """
    report = indexed(report)
    slots, names = slots_of(report), tasks(report)
    return {
        "experiment": str(report.get("experiment", "")),
        "question": answer.question(report),
        "terms": answer.terms(report),
        "claims_said": answer.of_claims(report.get("claims", ())),
        "over_tasks_said": answer.over_tasks(report),
        "compared": compared(report),
        "setups": setup_lines(report["arms"]),
        "data": report["data"],
        "warnings": report["warnings"],
        "claims": claims(report),
        "level": ", ".join(f"{level:.3g}%" for level in sorted({100 * e["level"] for e in report["estimates"]})),
        "several": len(names) > 1,
        "tasks": [task_view(report, task, slots) for task in names],
        "comparisons": [shown(with_reliability(report, restored(one))) for one in report.get("comparisons", ())],
        "tables": [shown(table) for table in all_tables(report, TABLES)],
        "undecided": undecided(report),
        "cost": {**cost(report["manifest"]), "arms": of_arms(report)},
        "manifest": manifest(report["manifest"]),
        "key": str(report["key"])[:16],
    }


HIGHLIGHTED = 4
"""Series of a figure that are drawn in full; the others are faint until a reader chooses them."""


def slots_of(report: Report) -> dict[str, int]:
    """Colour and marker of every label, the same on all tasks: by label, because an arm's key differs between tasks.

    The best ones first, by their mean place in the answers, so that these have the first colours and are highlighted.
    """
    places: dict[str, list[int]] = {}
    for task in tasks(report):
        for column in answer.answering(report)[:1]:
            for place, outcome in enumerate(answer.outcomes(report, task, column)):
                places.setdefault(outcome.arm["label"], []).append(place)
    labels = dict.fromkeys(arm["label"] for arm in report["arms"])
    ordered = sorted(labels, key=lambda label: sum(places.get(label, ())) / max(1, len(places.get(label, ()))))
    return {label: k for k, label in enumerate(ordered)}


def compared(report: Report) -> list[JsonObject]:
    """What is known of each label in a line, those of which nothing is known left out."""
    said = {arm["label"]: str(arm.get("description", "")) for arm in report["arms"]}
    return [{"label": label, "description": description} for label, description in said.items() if description]


def task_view(report: Report, task: str, slots: Mapping[str, int]) -> JsonObject:
    """Everything about one task.

    `slots`: colour and marker by label, the same for every task of the page.
    """
    arms = arms_on(report, task)
    own = sorted({slots[arm["label"]] for arm in arms})
    looks = {label: Look(slot, slot not in own[:HIGHLIGHTED]) for label, slot in slots.items()}
    found = reasons.leader(report, task)
    return {
        "task": task,
        "answer": answer.sentence(report, task),
        "leader": found[1][0].arm["label"] if found else "",
        "reasons": [one._asdict() for one in reasons.reasons(report, task)],
        "forests": [forest(report, task, column) for column in answer.answering(report)],
        "compare": compare(report, task),
        "legend": [
            {"label": label, "key": figures.marker(look.slot), "slot": look.slot, "faint": look.faint}
            for label, look in sorted(
                ((arm["label"], looks[arm["label"]]) for arm in arms), key=lambda pair: pair[1].slot
            )
        ],
        "charts": [
            *frontiers(report, task, looks),
            *charts.charts(report, task, looks),
            *filter(None, proxy_charts(report, task, looks)),
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
        "axis": figures.bar_axis(scale, mark),
        "rows": [
            {
                "label": outcome.arm["label"],
                "seeds": len(outcome.arm["seeds"]),
                "collapsed": collapsed(report, outcome.arm, column),
                "side": "not known" if outcome.side == "unknown" else outcome.side,
                "in_the_mean": outcome.side == "better" and bool(answer.some_runs_collapsed(report, outcome.arm)),
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
    if found is None or found["value"] is None:
        return ""
    known = estimated(found, "runs")
    share = interval_text(known)
    return f"{cell_value(known)} runs collapsed" + (f" (share {share})" if share else "")


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
    levels = {f"{judge}.{statistic}_change" for judge, statistic in (column.key for column in columns)}
    return {
        # `twin`: against another arm, the difference of a change is that of its level, which has a column of its own
        "columns": [
            {"name": c.title, "format": c.format, "description": c.description, "twin": ".".join(c.key) in levels}
            for c in columns
        ],
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
    for cells, row in zip(table["rows"], rows, strict=True):  # what is claimed is read before its name
        cells[0] = {"text": row["text"], "number": None, "interval": row["id"]}
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


def manifest(found: Row) -> JsonObject:
    """The command, seeds, software and machines of the report.

    Versions and machines of all stages: more than one where a results folder was filled in several places.
    """
    versions = sorted({f"{k} {v}" for stage in found["stages"].values() for k, v in stage["versions"].items()})
    machines = sorted({f"{stage['machine']}, {stage['device']}" for stage in found["stages"].values()})
    keep = {"command": found["command"], "commit": found["git_commit"][:12], "seeds": found["seeds"]}
    return {**keep, "versions": versions, "machines": machines}
