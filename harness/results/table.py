"""A table of a report as rows of text, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A titled table; all cells are text, the first columns name things and the rest are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def number(value: float | None) -> str:
    """Three significant decimals at most, without a needless minus zero."""
    if value is None:
        return "–"
    text = f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3f}"
    return text.replace("-0.00", "0.00") if float(text) == 0 else text


def interval(row: Mapping[str, Any] | None) -> str:
    """`value [low, high]`, `value` where there is no interval, a dash where nothing can be said."""
    if row is None or row["value"] is None:
        return "–"
    if row["low"] is None:
        return number(row["value"])
    return f"{number(row['value'])} [{number(row['low'])}, {number(row['high'])}]"
