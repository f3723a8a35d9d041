"""The tables of a report as CSV, one file each, and all estimates with full precision.

Text of models or data that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV injection);
numbers and intervals stay as they are.  Control characters are made visible.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf_bench.harness.printable import printable
from rlhf_bench.reports.ledger import claims_table
from rlhf_bench.reports.tables import TABLES, Report, all_tables, indexed

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
NUMBERS = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?( \[-?[\d.e+-]+, -?[\d.e+-]+\])?")

ESTIMATES = (
    "task", "label", "reward_model", "arm", "judge", "statistic", "slice", "decoding", "iteration", "value", "low",
    "high", "level", "n", "n_invalid", "seeds", "method", "note",
)  # fmt: skip
"""Columns of estimates.csv: those of an Estimate, and the arm's label."""


def csv_files(report: Report) -> Iterator[tuple[str, str]]:
    """(file name, content) of every table."""
    for name, columns, rows in _named(report):
        yield name, table_csv(columns, rows)


def csv_names(report: Report) -> Iterator[str]:
    """The file names of all tables."""
    return (name for name, _, _ in _named(report))


def _named(report: Report) -> Iterator[tuple[str, Sequence[str], Iterable[Sequence[object]]]]:
    """File name, columns and rows of every table."""
    report = indexed(report)
    yield "estimates.csv", ESTIMATES, _estimates(report)
    names = ["estimates", "claims", *(name for name in TABLES if name != "comparisons")]
    for name in names[2:]:
        for table in all_tables(report, [name]):
            yield f"{name}.csv", table.columns, table.rows
    if report.get("claims"):
        claims = claims_table(report["claims"])
        yield "claims.csv", claims.columns, claims.rows
    taken = dict.fromkeys(names, 1)
    for stored in report.get("comparisons", ()):  # each under its own title
        yield f"{_unique(slug(stored['title']), taken)}.csv", stored["columns"], stored["rows"]


def slug(title: str) -> str:
    """A file name from a title: lower-case words with hyphens, at most 60 characters."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60].rstrip("-") or "table"


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}-{taken[name]}"


def _estimates(report: Report) -> Iterator[Sequence[object]]:
    """Every estimate, a row each; seeds separated by spaces, nothing where nothing can be said."""
    labels = {arm["arm"]: arm["label"] for arm in report["arms"]}
    for row in report["estimates"]:
        shown = _estimate(row, labels)
        yield [shown[name] for name in ESTIMATES]


def _estimate(row: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    return {**row, "label": labels.get(row["arm"], ""), "seeds": " ".join(map(str, row["seeds"]))}


def table_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """RFC 4180 with LF line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([cell(name) for name in columns])
    writer.writerows([[cell(value) for value in row] for row in rows])
    return text.getvalue()


def cell(value: object) -> str:
    """One cell as text that no spreadsheet runs; an empty one for None and for the dash of the tables."""
    if value is None or value == "–":
        return ""
    if isinstance(value, list | tuple):
        return cell(" ".join(map(str, value)))
    text = printable(repr(float(value)) if isinstance(value, float) else str(value))
    if text.lstrip().startswith(FORMULA) and not NUMBERS.fullmatch(text):
        return "'" + text
    return text
