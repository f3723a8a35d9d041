"""Tables and their entries as plain values for the page's template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_bench.harness.results.table import Cell, Entry, Table, cell_value, interval_text, numeric, text
from rlhf_bench.reports.layout import without_constants, without_empty
from rlhf_bench.reports.tidy import slug

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject


def shown(table: Table) -> JsonObject:
    """A table whose columns of numbers are marked, so that they align and sort.

    Columns that hold nothing in any row are left out; what all rows have in common stands in the caption
    (`layout.without_constants`).  A column of numbers without any number is not marked: there is nothing to sort by.
    """
    table, common = without_constants(without_empty(table))
    rows = [[cell(entry) for entry in row] for row in table.rows]
    names = [
        {"name": name, "numeric": numeric(table, k) and any(row[k]["number"] is not None for row in rows)}
        for k, name in enumerate(table.columns)
    ]
    return {
        "title": table.title,
        "anchor": f"table-{slug(table.title)}",
        "common": common,
        "columns": names,
        "rows": rows,
        "note": table.note,
        "reliability": table.reliability,
    }


def cell(entry: Entry) -> JsonObject:
    """An entry: its text, the number to sort by (None for words), and the interval that stands below it.

    The number has all its digits, so that values that look alike sort as they are.
    """
    if not isinstance(entry, Cell):
        return {"text": text(entry), "number": None, "interval": ""}
    value = cell_value(entry).replace("-", "−")  # a minus sign is as wide as a digit
    return {"text": value, "number": entry.value, "interval": interval_text(entry).replace("-", "−")}
