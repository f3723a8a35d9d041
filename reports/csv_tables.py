"""The tables of a report as CSV, one file each, in tidy form (tidy.py), and all estimates; numbers with every digit.

Text of models or data that a spreadsheet would run as a formula gets an apostrophe in front (OWASP, CSV injection);
numbers stay as they are.  Control characters are made visible.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from rlhf_bench.harness.printable import is_formula, printable
from rlhf_bench.harness.results.table import DASH, Cell, restored, text
from rlhf_bench.harness.seeds import joined
from rlhf_bench.reports import tidy
from rlhf_bench.reports.kl_tables import FRONTIER, frontier_rows
from rlhf_bench.reports.measures import Report, indexed
from rlhf_bench.reports.tables import TABLES, all_tables

ESTIMATES = (
    "task", "label", "reward_model", "arm", "judge", "statistic", "slice", "decoding", "iteration", "value", "low",
    "high", "level", "n", "n_invalid", "seeds", "method", "note",
)  # fmt: skip
"""Columns of estimates.csv: those of an Estimate, and the arm's label."""

OTHERS = ("estimates", "claims", "claim-checks", "frontier", "steps")
"""Files that are no table of `tables.TABLES`; steps.csv is written by steps.py."""


def csv_files(report: Report) -> Iterator[tuple[str, str]]:
    """(file name, content) of every table, estimates.csv first.

    Comparisons are named by their titles, the other tables as in `tables.TABLES`.
    """
    for name, columns, rows in _named(report):
        yield name, table_csv(columns, rows)


def csv_names(report: Report) -> Iterator[str]:
    """The file names of all tables.

    Raises LookupError, TypeError or AttributeError for a report of another version; `files.write_files` catches them.
    """
    return (name for name, _, _ in _named(report))


def _named(report: Report) -> Iterator[tuple[str, Sequence[str], Iterable[Sequence[object]]]]:
    """File name, columns and rows of every table."""
    report = indexed(report)
    labels = {arm["arm"]: arm["label"] for arm in report["arms"]}
    level = next((row["level"] for row in report["estimates"]), None)  # one for all intervals of a report
    estimates = (
        {**row, "label": labels.get(row["arm"], ""), "seeds": joined(row["seeds"])} for row in report["estimates"]
    )
    yield "estimates.csv", ESTIMATES, ([row[name] for name in ESTIMATES] for row in estimates)
    names = [name for name in TABLES if name != "comparisons"]
    taken: dict[str, int] = {}
    for name in names:
        for table in all_tables(report, [name]):  # several of one name: a distribution for each measure
            made = tidy.FROM_ROWS[name](report) if name in tidy.FROM_ROWS else tidy.tidy(table, level)
            yield f"{_unique(name, taken)}.csv", *made
    if report.get("claims"):
        yield "claims.csv", *tidy.claims(report["claims"])
        if any(row.get("checks") for row in report["claims"]):
            yield "claim-checks.csv", *tidy.claim_checks(report["claims"])
    frontier = list(frontier_rows(report))
    if frontier:
        yield "frontier.csv", FRONTIER, frontier
    # a name is taken whether its table has rows or not: adding seeds renames no file
    taken |= {name: max(1, taken.get(name, 1)) for name in (*OTHERS, *names)}
    for stored in report.get("comparisons", ()):  # each under its own title
        name = _unique(tidy.slug(stored["title"]), taken)
        part, write = tidy.COMPARED.get(name, ("", None))
        rows = report.get("comparison", {}).get(part)
        # reports of older versions have no typed cells: their text stays as it is
        yield f"{name}.csv", *(write(rows) if write and rows else tidy.tidy(restored(stored), level))


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1  # the first keeps the bare name, the next are NAME-2, NAME-3, ...
    return name if taken[name] == 1 else f"{name}-{taken[name]}"


def table_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """RFC 4180 with LF line ends: the same bytes on every system."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([cell(name) for name in columns])
    writer.writerows([[cell(value) for value in row] for row in rows])
    return file.getvalue()


def cell(value: object) -> str:
    """One entry as text that no spreadsheet runs; an empty one for None and where there is no number.

    Numbers have all their digits.  A typed cell is its value alone: its interval has columns of its own.
    """
    if isinstance(value, Cell):
        value = value.value
    # not a dash: in a spreadsheet a column of numbers stays one
    if value is None or value == DASH:
        return ""
    if isinstance(value, int | float):
        return repr(float(value)) if isinstance(value, float) else str(value)
    if isinstance(value, list | tuple):
        value = " ".join(text(one) if isinstance(one, Cell) else str(one) for one in value)
    shown = printable(str(value))
    return f"'{shown}" if is_formula(shown) else shown
