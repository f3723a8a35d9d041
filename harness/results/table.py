"""Tables of typed cells, and how a number is written.

A cell keeps its value, its interval and its format until a table is shown; `text` writes it, and nothing reads the
text back.  `stored` and `restored` are the JSON form of a table in a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from rlhf_bench.harness.nouns import MeasureFormat

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

DASH = "–"
"""Stands where there is no number."""

CellFormat = MeasureFormat | Literal["count", "p", "seconds", "runs"]
"""The formats of measures, and of whole numbers, p values, times, and shares of training runs (1 of 5)."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number, with its interval where it has one; value None where nothing can be said.

    `value`, `low` and `high` are in the unit of the measure; `format` says how they are written.  `of` is the number of
    training runs that a share of runs is of.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    format: CellFormat = "number"
    of: int | None = None


Entry = str | Cell | tuple[Cell, ...]
"""What a table holds in one place: words, a number, or several numbers (one a seed)."""


class Table(NamedTuple):
    """A titled table; the first columns name things.

    Every row has one entry per column.  `note` stands below the table, "" for none, and below it `reliability`: what
    judges say of their own numbers, which is text of plugins and never markup.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Entry, ...]]
    note: str = ""
    reliability: str = ""


def estimated(row: Row | None, format: CellFormat = "number") -> Cell:
    """The cell of an estimate's row, which has value, low and high, each a number or None; empty for no row.

    A row with a value and no bounds gives a number without an interval.
    """
    if row is None or row["value"] is None:
        return Cell(None, format=format)
    of = len(row["seeds"]) if format == "runs" else None
    if row["low"] is None:
        return Cell(row["value"], format=format, of=of)
    return Cell(row["value"], row["low"], row["high"], format, of)


def numeric(table: Table, place: int) -> bool:
    """Whether a column holds numbers, which are aligned to the right; so is one that holds nothing."""
    # the first column names what a row is about, also where all its names are empty
    return place > 0 and all(not isinstance(row[place], str) or row[place] in ("", DASH) for row in table.rows)


# ---- text -----------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Two decimals, three below 0.1; no minus sign before a zero."""
    if value is None:
        return DASH
    # two decimals of .04 or .06 would have one significant digit
    text = f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3f}"
    return text.replace("-0.00", "0.00") if float(text) == 0 else text


def value_text(value: float | None, format: CellFormat = "number") -> str:
    """A number as its format writes it, DASH for None; times have one decimal and no unit, p values three decimals."""
    if value is None:
        return DASH
    if format == "percent":
        text = f"{value:.0%}"  # a share of -.001 is written as -0%
        return "0%" if text == "-0%" else text
    if format == "count":
        return f"{value:.0f}"
    if format == "seconds":
        return f"{value:.1f}"
    if format == "p":
        return "<0.001" if value < 0.001 else f"{value:.3f}"
    return number(value)  # also a format of a later version


def cell_value(cell: Cell) -> str:
    """A cell's number as its format writes it: a share of runs as `1 of 5`."""
    if cell.value is not None and cell.format == "runs" and cell.of:
        count = cell.value * cell.of
        # a share of fewer runs (some without a rule) is no whole number of these, and is written as a share
        if abs(count - round(count)) < 1e-6:
            return f"{round(count)} of {cell.of}"
    return value_text(cell.value, cell.format)


def interval_text(cell: Cell) -> str:
    """`[low, high]`, "" where there is no interval."""
    if cell.low is None or cell.high is None:
        return ""
    return f"[{value_text(cell.low, cell.format)}, {value_text(cell.high, cell.format)}]"


def text(entry: Entry, before_interval: str = " ") -> str:
    """An entry in words: `value [low, high]`, `value` where there is no interval, a dash where nothing can be said.

    `before_interval` stands between the two; several numbers are separated by spaces.
    """
    if isinstance(entry, str):
        return entry
    if isinstance(entry, tuple):
        return " ".join(text(cell) for cell in entry)
    interval = interval_text(entry)
    return cell_value(entry) + (f"{before_interval}{interval}" if interval else "")


def interval(row: Row | None, format: CellFormat = "number") -> str:
    """An estimate's row in words, for a sentence: as `text` of its cell."""
    return text(estimated(row, format))


# ---- JSON -----------------------------------------------------------------------------------------------------------


def stored(table: Table) -> JsonObject:
    """The JSON form in report.json: title, columns, note, `rows` as text to read, and `cells`, the same rows typed.

    `restored` gives the table back; formats and unrounded values are in `cells` alone.
    """
    return {
        "title": table.title,
        "columns": list(table.columns),
        "rows": [[text(entry) for entry in row] for row in table.rows],
        "cells": [[_stored(entry) for entry in row] for row in table.rows],
        "note": table.note,
    }


def _stored(entry: Entry) -> object:
    if isinstance(entry, tuple):
        return [_stored(cell) for cell in entry]
    if isinstance(entry, str):
        return entry
    # a value of None stays, because `Cell` has no default for it
    return {name: value for name, value in asdict(entry).items() if value is not None or name == "value"}


def restored(found: Row) -> Table:
    """The table of a JSON form.  Plain numbers count as cells; without `cells`, `rows` are taken as they stand.

    Raises KeyError without a title, columns or rows.
    """
    rows = [tuple(_restored(value) for value in row) for row in found.get("cells", found["rows"])]
    return Table(str(found["title"]), tuple(map(str, found["columns"])), rows, found.get("note") or "")


def _restored(value: object) -> Entry:
    if isinstance(value, Mapping):
        return Cell(**{name: value[name] for name in ("value", "low", "high", "format", "of") if name in value})
    if isinstance(value, list | tuple):
        # JSON has no tuples; only numbers are several cells, and words among them make one text
        parts = [_restored(one) for one in value]
        cells = tuple(part for part in parts if isinstance(part, Cell))
        return cells if len(cells) == len(parts) else ", ".join(map(text, parts))
    if value is None:
        return Cell(None)
    if isinstance(value, int | float) and not isinstance(value, bool):  # True is an int: it is shown as a word
        return Cell(value, format="count" if isinstance(value, int) else "number")
    return str(value)
