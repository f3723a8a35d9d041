"""What the page shows, as plain values ready for its template: tables, figures, and the rows its script works on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf_bench.harness.results.table import Table, interval, number
from rlhf_bench.reports import answer, charts, figures
from rlhf_bench.reports.answer import Column
from rlhf_bench.reports.charts import pair_accuracy
from rlhf_bench.reports.ledger import claims_table
from rlhf_bench.reports.proxy import proxy_charts
from rlhf_bench.reports.tables import Report, Row, all_tables, indexed, own

Json = dict[str, Any]
NUMBER = re.compile(r"(<?-?[\d.]+(?:e-?\d+)?%?)(?: (\[.*\]))?$")
MINUTE, HOUR = 60, 3600


def view(report: Report) -> Json:
    """All that the template needs but for the rows inside and the security headers."""
    report = indexed(report)
    slots = {label: k for k, label in enumerate(dict.fromkeys(arm["label"] for arm in report["arms"]))}
    names = answer.tasks(report)
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
        "comparisons": [shown(_table(one)) for one in report.get("comparisons", ())],
        "tables": [
            shown(table)
            for table in all_tables(
                report, ("curves", "slices", "collapse", "diagnostics", "overlap", "monotonicity", "points", "features")
            )
        ],
        "undecided": undecided(report),
        "cost": cost(report["manifest"]),
        "manifest": manifest(report["manifest"]),
        "key": str(report["key"])[:16],
    }


def task_view(report: Report, task: str, slots: Mapping[str, int]) -> Json:
    """Everything about one task."""
    arms = answer.arms_on(report, task)
    return {
        "task": task,
        "forests": [forest(report, task, column) for column in answer.answering(report)[:2]],
        "compare": compare(report, task),
        "legend": [{"label": arm["label"], "key": figures.marker(slots[arm["label"]])} for arm in arms],
        "charts": [*charts.charts(report, task, slots), *filter(None, proxy_charts(report, task, slots))],
        "histograms": charts.histograms(report, task),
    }


def forest(report: Report, task: str, column: Column) -> Json:
    """Rows of intervals over one scale, the largest estimate first."""
    results = answer.outcomes(report, task, column)
    mark = answer.reference(column.statistic)
    rows = [o.estimate for o in results if o.estimate and o.estimate["value"] is not None]
    values = [v for row in rows for v in (row["value"], row["low"], row["high"]) if v is not None]
    scale = figures.axis([*values, *([mark] if mark is not None else [])], 3)
    return {
        "name": column.name,
        "mark": "" if mark is None else figures.label(mark),
        "axis": figures.bar_axis(scale),
        "rows": [
            {
                "label": o.arm["label"],
                "seeds": len(o.arm["seeds"]),
                "side": {"unknown": "not known"}.get(o.side, o.side),
                "cell": cell(interval(o.estimate)),
                "bar": figures.interval_bar(*_ends(o.estimate), scale, mark),
            }
            for o in results
        ],
    }


def _ends(row: Row | None) -> tuple[float | None, float | None, float | None]:
    return (row["value"], row["low"], row["high"]) if row else (None, None, None)


def compare(report: Report, task: str) -> Json:
    """The table of reward models x statistics, and the same numbers for every slice and decoding as plain rows."""
    found = columns_on(report, task)
    arms = answer.arms_on(report, task)
    rows = [
        {
            "label": arm["label"],
            "seeds": len(arm["seeds"]),
            "cells": [
                {**_exact(interval(row), row["value"] if row else None), "undecided": row["n_invalid"] if row else 0}
                for row in found_cells
            ],
            "accuracy": _exact(number(pair_accuracy(arm)), pair_accuracy(arm)),
        }
        for arm in arms
        for found_cells in [[answer.final(report, arm["arm"], c.judge, c.statistic) for c in found]]
    ]
    return {
        "columns": [column.name for column in found],
        "rows": rows,
        "estimates": list(final_rows(report, arms, found)),
        "pairs": list(pair_rows(report, arms, found)),
        "arms": [{"label": arm["label"], "accuracy": pair_accuracy(arm), "seeds": len(arm["seeds"])} for arm in arms],
    }


def _exact(text: str, value: float | None) -> Json:
    """A cell that sorts by the number itself, not by what is left of it in print."""
    return {**cell(text), "number": value}


def columns_on(report: Report, task: str) -> list[Column]:
    """The columns that some arm of the task has a value in."""
    keys = {(e["judge"], e["statistic"]) for e in report["estimates"] if e["task"] == task and e["value"] is not None}
    return [column for column in answer.columns(report) if (column.judge, column.statistic) in keys]


def final_rows(report: Report, arms: Sequence[Row], columns: Sequence[Column]) -> Iterator[list[Any]]:
    """[arm, column, decoding, slice, value, low, high, undecided] of the last checkpoint; arm and column by place."""
    places = {(c.judge, c.statistic): k for k, c in enumerate(columns)}
    for k, arm in enumerate(arms):
        found = [e for e in own(report, arm["arm"]) if (e["judge"], e["statistic"]) in places]
        last = max((e["iteration"] for e in found), default=0)
        for e in (e for e in found if e["iteration"] == last):
            place = places[e["judge"], e["statistic"]]
            yield [k, place, e["decoding"], e["slice"], e["value"], e["low"], e["high"], e["n_invalid"]]


def pair_rows(report: Report, arms: Sequence[Row], columns: Sequence[Column]) -> Iterator[list[Any]]:
    """[arm, other arm, column, difference, low, high, p after Holm] of the stored pairs; arms and column by place."""
    places = {(c.judge, c.statistic): k for k, c in enumerate(columns)}
    keys = {arm["arm"]: k for k, arm in enumerate(arms)}
    for row in report.get("comparison", {}).get("pairs", ()):
        place = places.get((row["judge"], row["statistic"]))
        if place is not None and {row["a"], row["b"]} <= set(keys) and row["value"] is not None:
            ends = (row["value"], row["low"], row["high"], row["p_holm"])
            yield [keys[row["a"]], keys[row["b"]], place, *ends]


def claims(report: Report) -> Json | None:
    """The verdicts on the claims, counted and as a table."""
    rows = report.get("claims", ())
    if not rows:
        return None
    counts = {name: sum(row["verdict"] == name for row in rows) for name in answer.VERDICTS}
    texts = {row["id"]: row["text"] for row in rows}
    table = shown(claims_table(rows))
    return {"counts": {name: count for name, count in counts.items() if count}, "table": table, "texts": texts}


def undecided(report: Report) -> list[str]:
    """Sentences about undecided cases, each checkpoint and decoding for itself."""
    labels = {arm["arm"]: arm["label"] for arm in report["arms"]}
    rows = [e for e in report["estimates"] if e["slice"] == "all" and "undecided:" in e["note"]]
    return [
        f"{labels.get(e['arm'], e['arm'])}, {e['judge']} {e['statistic']}, {e['decoding']}, "
        f"iteration {e['iteration']}: {e['note']}"
        for e in rows
    ]


def cost(manifest: Mapping[str, Any]) -> Json:
    """Time by kind of stage, and every stage."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for name, stage in manifest["stages"].items():
        kinds.setdefault(name.split(" ")[0], []).append(stage)
    total = sum(stage["seconds"] for stage in manifest["stages"].values()) or 1.0
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
    stages = Table(
        "Every stage", ("stage", "seconds", "CPU seconds", "device"),
        [(n, f"{s['seconds']:.1f}", f"{s['cpu_seconds']:.1f}", s["device"]) for n, s in manifest["stages"].items()],
    )  # fmt: skip
    return {
        "rows": sorted(rows, key=lambda r: (-r["seconds"], r["kind"])),
        "total": duration(total),
        "stages": shown(stages),
    }


def _sum(stages: Iterable[Mapping[str, Any]], name: str) -> float:
    return float(sum(stage[name] or 0.0 for stage in stages))


def memory(stages: Iterable[Mapping[str, Any]]) -> str:
    """The largest peak of a stage's process, a dash where none was recorded."""
    known = [stage["peak_memory_mb"] for stage in stages if stage.get("peak_memory_mb") is not None]
    return f"{max(known):.0f} MB" if known else "–"


def amount(stages: Iterable[Mapping[str, Any]], name: str) -> str:
    """What the stages that say it did together, such as 1.2M; a dash where none does."""
    known = [stage["figures"][name] for stage in stages if stage["figures"].get(name)]
    if not known:
        return "–"
    total, units = sum(known), iter(("", "k", "M", "G", "T", "P", "E"))
    unit = next(units)
    while total >= 1000 and unit != "E":
        total, unit = total / 1000, next(units)
    return f"{total:.3g}{unit}"


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds >= HOUR:
        return f"{seconds / HOUR:.1f} h"
    return f"{seconds / MINUTE:.1f} min" if seconds >= 2 * MINUTE else f"{seconds:.1f} s"


def manifest(found: Mapping[str, Any]) -> Json:
    """How the report was made."""
    versions = sorted({f"{k} {v}" for stage in found["stages"].values() for k, v in stage["versions"].items()})
    machines = sorted({f"{stage['machine']}, {stage['device']}" for stage in found["stages"].values()})
    keep = {"command": found["command"], "commit": found["git_commit"][:12], "seeds": found["seeds"]}
    return {**keep, "versions": versions, "machines": machines}


def _table(found: Mapping[str, Any]) -> Table:
    """A stored table, whatever is in its cells."""
    rows = [tuple(_text(value) for value in row) for row in found["rows"]]
    return Table(found["title"], tuple(map(str, found["columns"])), rows, found.get("note") or "")


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return number(value)
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)


def shown(table: Table) -> Json:
    """A table whose columns of numbers are known, so that they align and sort."""
    rows = [[cell(text) for text in row] for row in table.rows]
    numeric = [
        any(r[k]["number"] is not None for r in rows)
        and all(r[k]["number"] is not None or r[k]["text"] in ("–", "") for r in rows)
        for k in range(len(table.columns))
    ]
    names = [{"name": name, "numeric": is_number} for name, is_number in zip(table.columns, numeric, strict=True)]
    return {"title": table.title, "columns": names, "rows": rows, "note": table.note}


def cell(text: str) -> Json:
    """A cell: its text, the number to sort by (None for words), and the interval that stands below it."""
    match = NUMBER.match(text)
    if not match:
        return {"text": text, "number": None, "interval": ""}
    try:
        value = float(match[1].strip("<%"))
    except ValueError:
        return {"text": text, "number": None, "interval": ""}
    return {"text": match[1].replace("-", "−"), "number": value, "interval": (match[2] or "").replace("-", "−")}
