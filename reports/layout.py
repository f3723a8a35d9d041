"""A table on a terminal of a given width: no name, word or number is broken across lines.

Three forms, the first that fits: all columns side by side (intervals below their values, at need on two lines); blocks
below each other, each with the columns that name the rows; one line for each value, which the terminal wraps itself.
Columns that say the same in every row, task and seeds, go to the caption.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_bench.harness.printable import printable
from rlhf_bench.harness.results.table import DASH, Entry, Table, numeric, text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

GAP = 2
"""Columns of the terminal between two columns of a table."""
PROSE = 40
"""An entry with spaces that is longer than this is wrapped between its words; shorter ones stay on one line."""
NARROW = 24
"""Prose is not wrapped to less than this, where none of its words is longer."""
CONSTANT = ("task", "seeds")
"""Columns that go to the caption where all rows have the same entry."""


@dataclass(frozen=True)
class Column:
    """A column in words: `title` and `entries` as they are shown, an entry's lines separated by "\\n".

    `prose`: wrapped between words.  `names`: words that say what a row is about.  Widths are in columns of a terminal.
    """

    title: str
    entries: Sequence[str]
    right: bool
    prose: bool
    names: bool

    @property
    def least(self) -> int:
        """The width below which a name, a word or a number would be broken."""
        words = [word for part in (self.title, *(self.entries if self.prose else ())) for word in part.split()]
        whole = () if self.prose else self.entries
        least = max(map(columns_of, (*words, *(line for entry in whole for line in entry.split("\n")), "")))
        return max(least, min(NARROW, self.full)) if self.prose else least

    @property
    def full(self) -> int:
        """The width that breaks no line."""
        return max(columns_of(line) for part in (self.title, *self.entries) for line in part.split("\n"))


def columns_of(line: str) -> int:
    """The columns of a terminal that a line takes: two for a wide character."""
    from rich.cells import cell_len

    return cell_len(line)


def without_constants(table: Table) -> tuple[Table, str]:
    """The table without the columns of CONSTANT whose entries are all equal, and these as text; at least one stays."""
    gone = [
        place
        for place, name in enumerate(table.columns)
        if name in CONSTANT and len({text(row[place]) for row in table.rows}) == 1
    ]
    if len(gone) >= len(table.columns):
        return table, ""
    said = "; ".join(f"{table.columns[place]}: {text(table.rows[0][place])}" for place in gone)
    kept = [place for place in range(len(table.columns)) if place not in gone]
    rows = [tuple(row[place] for place in kept) for row in table.rows]
    return table._replace(columns=tuple(table.columns[place] for place in kept), rows=rows), said


def without_empty(table: Table) -> Table:
    """The table without the columns that hold nothing in any row; the first one stays, which says what a row is."""
    kept = [
        place
        for place in range(len(table.columns))
        if place == 0 or any(text(row[place]) not in ("", DASH) for row in table.rows)
    ]
    rows = [tuple(row[place] for place in kept) for row in table.rows]
    return table._replace(columns=tuple(table.columns[place] for place in kept), rows=rows)


def columns(table: Table, compact: bool = False) -> list[Column]:
    """The columns of a table in words; `compact`: the ends of an interval on two lines."""
    found = []
    for place, name in enumerate(table.columns):
        entries = [_words(row[place], compact) for row in table.rows]
        several = any(isinstance(row[place], tuple) for row in table.rows)  # numbers side by side
        prose = several or any(" " in entry and columns_of(entry) > PROSE for entry in entries)
        right = numeric(table, place)
        found.append(Column(printable(name), entries, right, prose, not (right or prose)))
    return found


def _words(entry: Entry, compact: bool) -> str:
    if isinstance(entry, str):
        return printable(entry)
    shown = text(entry, before_interval="\n")
    return shown.replace(", ", ",\n") if compact else shown


def arrange(table: Table, width: int) -> list[list[Column]]:
    """The blocks of a table within `width`, each with its columns; [] where a name and a number do not fit."""
    for compact in (False, True):
        whole = columns(table, compact)
        if needed(whole) <= width:
            return [whole]
    whole = columns(table)
    names = next((place for place, column in enumerate(whole) if not column.names), len(whole))
    key, rest = whole[:names], whole[names:]
    if not rest:  # names alone: the first one says what a row is about
        key, rest = whole[:1], whole[1:]
    # numbers are read with the names of their row; of many long names the last ones count as numbers do
    while len(key) > 1 and any(needed([*key, column]) > width for column in rest):
        rest = [key[-1], *rest]
        key = key[:-1]
    blocks: list[list[Column]] = []
    for column in rest:
        if needed([*key, column]) > width:
            return []
        if blocks and needed([*blocks[-1], column]) <= width:
            blocks[-1].append(column)
        else:
            blocks.append([*key, column])
    return blocks


def needed(side_by_side: Sequence[Column]) -> int:
    """The least width of columns side by side."""
    return sum(column.least for column in side_by_side) + GAP * (len(side_by_side) - 1)


def widths(side_by_side: Sequence[Column], width: int) -> list[int]:
    """The widths of columns within `width`: what is left goes to prose first, then to titles that would be wrapped."""
    found = [column.least for column in side_by_side]
    left = width - needed(side_by_side)
    for place in sorted(range(len(found)), key=lambda place: not side_by_side[place].prose):
        more = min(left, side_by_side[place].full - found[place])
        found[place] += more
        left -= more
    return found


def draw(console: Console, table: Table) -> None:
    """Print a table on a terminal, below its title; every text in it is shown as it is, without markup."""
    from rich.text import Text

    table, constant = without_constants(table)
    title = printable(table.title) + (f" ({printable(constant)})" if constant else "")
    console.print()
    console.print(Text(title, style="italic"))
    console.print()
    blocks = arrange(table, console.width)
    for number, block in enumerate(blocks):
        if number:
            console.print()
        console.print(_boxed(block, console.width))
    if not blocks:
        for row in table.rows:
            for name, entry in zip(table.columns, row, strict=True):
                line = Text(f"{printable(name)}: {printable(text(entry))}")
                # a word that is longer than the line is left to the terminal, so that it can be copied in one piece
                console.print(line, soft_wrap=max(map(columns_of, line.plain.split())) > console.width)
            console.print()
    console.print()


def _boxed(side_by_side: Sequence[Column], width: int) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    # one space and the box's own: GAP
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for column, wide in zip(side_by_side, widths(side_by_side, width), strict=True):
        # wrapped here: rich breaks a title of `no_wrap` nowhere
        title = textwrap.fill(column.title, wide, break_long_words=False, break_on_hyphens=False)
        justify = "right" if column.right else "left"
        drawn.add_column(Text(title), justify=justify, width=wide, no_wrap=not column.prose)  # type: ignore[arg-type]
    for entries in zip(*(column.entries for column in side_by_side), strict=True):
        drawn.add_row(*map(Text, entries))
    return drawn
