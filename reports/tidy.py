"""The tables of a report in tidy form, for CSV: one row an estimate, every number in a column of its own.

Tables to read have a column for each measure and intervals as text.  Here the columns that name a row stay, and every
estimate of the row becomes a row with `quantity`, `value`, `low`, `high` and `level`.  Tables whose numbers a report
holds as rows (comparisons, claims, equal KL, layers) are written from these rows, with all they say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness.results.table import DASH, Cell, Entry, Table
from rlhf_bench.reports.measures import Report

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

ESTIMATE = ("quantity", "value", "low", "high", "level")
"""The columns of a tidy table behind those that name its rows."""
NAMING = ("count", "p")
"""Formats of numbers that belong to a whole row, such as its seeds: they stay in columns of their own."""
RENAMED = {"reward model": "label"}
"""Columns by the name that they have in estimates.csv."""
INTERVAL = ("value", "low", "high", "level")


class Sheet(NamedTuple):
    """The content of one CSV file: names of columns, and rows of texts, numbers and None."""

    columns: Sequence[str]
    rows: Iterable[Sequence[object]]


def tidy(table: Table, level: float | None) -> Sheet:
    """The table with one row an estimate; `level`: of the report's intervals, from 0 to 1.

    Places without a number give no row; of a place with several numbers (one a seed) each gives one.
    """
    estimates = [place for place in range(len(table.columns)) if _estimates(row[place] for row in table.rows)]
    naming = [place for place in range(len(table.columns)) if place not in estimates]
    names = unique([plain(table.columns[place]) for place in naming], ESTIMATE)
    return Sheet((*names, *ESTIMATE), _melted(table, naming, estimates, level))


def _estimates(column: Iterable[Entry]) -> bool:
    """Whether a column holds estimates: numbers that are neither counts nor p values."""
    return any(cell.format not in NAMING for entry in column for cell in _cells(entry))


def _cells(entry: Entry) -> tuple[Cell, ...]:
    if isinstance(entry, Cell):
        return (entry,)
    return entry if isinstance(entry, tuple) else ()


def _melted(
    table: Table, naming: Sequence[int], estimates: Sequence[int], level: float | None
) -> Iterator[Sequence[object]]:
    for row in table.rows:
        named = [row[place] for place in naming]
        for place in estimates:
            entry, quantity = row[place], table.columns[place]
            if isinstance(entry, str):
                if entry not in ("", DASH):  # words in place of a number, such as why there is none
                    yield [*named, f"{quantity}: {entry}", None, None, None, None]
                continue
            cells = _cells(entry)
            for number, cell in enumerate(cells, 1):
                if cell.value is not None:
                    name = quantity if len(cells) == 1 else f"{quantity} {number}"
                    yield [*named, name, cell.value, cell.low, cell.high, None if cell.low is None else level]


def plain(name: str) -> str:
    """A column's name in lower-case words with underscores; "column" where nothing is left."""
    return re.sub(r"[^a-z0-9]+", "_", RENAMED.get(name, name).lower()).strip("_") or "column"


def unique(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """The names, with _2, _3 and so on behind those that are taken."""
    used, found = set(taken), []
    for name in names:
        other, number = name, 1
        while other in used:
            number += 1
            other = f"{name}_{number}"
        used.add(other)
        found.append(other)
    return found


def slug(title: str) -> str:
    """A file name from a title: lower-case words with hyphens, at most 60 characters.

    ASCII alone; "table" where nothing is left of the title.
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60].rstrip("-") or "table"


# ---- from rows of the report ----------------------------------------------------------------------------------------

MEASURE = ("judge", "statistic", "measure")
SIZE = ("seeds", "prompts", "method", "note")


def sheet(columns: Sequence[str], rows: Iterable[Row]) -> Sheet:
    """Columns by their names in the rows; None where a row has none of a name."""
    return Sheet(columns, ([row.get(name) for name in columns] for row in rows))


def pairs(rows: Sequence[Row]) -> Sheet:
    """Every two reward models under every measure: the difference of the first minus the second."""
    tests = ("p", "p_holm", "p_method", "p_note", "different", "smallest_detectable")
    made = (
        {**row, "label_a": row["a_label"], "label_b": row["b_label"], "measure": row["title"],
         "different": {True: "yes", False: "not shown"}.get(row["different"], "cannot be said")}
        for row in rows
    )  # fmt: skip
    return sheet(("task", "label_a", "label_b", *MEASURE, *INTERVAL, *tests, *SIZE), made)


def ranking(rows: Sequence[Row]) -> Sheet:
    """Strengths in log odds against the average; `first`: the share of resamples in which the arm is the strongest."""
    made = ({**row, "measure": row["title"]} for row in rows)
    return sheet(("task", "label", *MEASURE, *INTERVAL, "first", *SIZE), made)


def at_equal_length(rows: Sequence[Row]) -> Sheet:
    """Two rows an arm: its win rate, and the one at equal length."""
    made = (
        {**row, "measure": row["title"], **one, "quantity": name}
        for row in rows
        for name, one in (("win rate", row["raw"]), ("win rate at equal length", {k: row[k] for k in row["raw"]}))
    )
    return sheet(("task", "label", *MEASURE, "quantity", *INTERVAL, *SIZE), made)


def over_tasks(rows: Sequence[Row]) -> Sheet:
    """A mean over tasks a row: of `label` against `versus`."""
    made = ({**row, "tasks": ", ".join(row["tasks"]), "measure": row["title"]} for row in rows)
    return sheet(("label", "versus", "tasks", *MEASURE, *INTERVAL, "seeds", "method", "note"), made)


def equal_kl(rows: Sequence[Row]) -> Sheet:
    """A row for each KL at which two reward models are compared; one without a number where they never are."""
    made = (
        {**row, **at, "label_a": row["a_label"], "label_b": row["b_label"], "measure": row["title"],
         "note": " ".join(dict.fromkeys(filter(None, (row["note"], at.get("note")))))}
        for row in rows
        for at in row["at"] or [{}]
    )  # fmt: skip
    columns = ("task", "label_a", "label_b", *MEASURE, "decoding", "reach", "kl", *INTERVAL, *SIZE)
    return sheet(columns, made)


def layers(rows: Sequence[Row]) -> Sheet:
    """A row for each source of the spread: its share of the variance of one value, and of the mean's squared error."""
    made = (
        {**row, **one, "source": one["name"], "measure": row["title"],
         "note": " ".join(filter(None, (one["why"], row["note"])))}
        for row in rows
        for one in row["sources"]
    )  # fmt: skip
    return sheet(("task", "label", *MEASURE, "source", "share", "error", "levels", "next", "note"), made)


def claims(rows: Sequence[Row]) -> Sheet:
    """A claim a row, with its verdicts; `figure_low` and `figure_high`: what the paper reports."""
    made = (
        {**row, "seeds": len(row["seeds"]), "direction": row["verdict"],
         "direction_holm": row.get("verdict_holm"), "claim": row["id"],
         **dict(zip(("figure_low", "figure_high"), (*row.get("figure", ()), *row.get("figure", ())[:1]), strict=False))}
        for row in rows
    )  # fmt: skip
    columns = (
        "claim", "direction", *INTERVAL, "p", "p_holm", "direction_holm", "figure_low", "figure_high",
        "size", "detectable", "seeds", "measured", "rule", "text", "source", "reported", "note",
    )  # fmt: skip
    return sheet(columns, made)


def claim_checks(rows: Sequence[Row]) -> Sheet:
    """A check of a claim a row: its interval, and the claim's rule applied to it."""
    made = (
        {**one, "claim": row["id"], "direction": one["verdict"], "seeds": len(one["seeds"])}
        for row in rows
        for one in row.get("checks", ())
    )
    columns = ("claim", "check", "direction", "value", "low", "high", "seeds", "measured", "note")
    return sheet(columns, made)


FROM_ROWS: Mapping[str, Callable[[Report], Sheet]] = {
    "kl-matched": lambda report: equal_kl(report.get("kl_matched", {}).get("contrasts", ())),
    "layers": lambda report: layers(report.get("layers", ())),
}
"""Tables of `tables.TABLES` that are written from rows of the report, by name."""
COMPARED: Mapping[str, tuple[str, Callable[[Sequence[Row]], Sheet]]] = {
    "every-two-reward-models": ("pairs", pairs),
    "ranking-of-the-reward-models": ("ranking", ranking),
    "win-rates-at-equal-length": ("length_controlled", at_equal_length),
    "means-over-tasks": ("over_tasks", over_tasks),
}
"""Tables of a report's `comparisons` that are written from rows of its `comparison`, by file name."""
