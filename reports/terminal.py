"""Tables and token rewards on a terminal; plain when piped.  Text from models never reaches it as control codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.plan.origins import LABEL, is_stated
from rlhf_bench.harness.printable import printable, printable_lines
from rlhf_bench.harness.results.table import Table, text
from rlhf_bench.harness.text.tokens import Span
from rlhf_bench.reports.answer import question, sentence
from rlhf_bench.reports.layout import draw
from rlhf_bench.reports.measures import tasks
from rlhf_bench.reports.tables import TABLES, all_tables, headline
from rlhf_bench.reports.verdicts import verdicts_table

if TYPE_CHECKING:
    from rich.console import Console

    from rlhf_bench.harness.text.types import Row


def show_headline(console: Console, report: Row) -> None:
    """The final results of a run, where its data come from, and its warnings.

    Text is wrapped on a terminal alone: piped, a line of the report is one line.
    """
    for origin in report["data"]:
        label = "" if is_stated(origin) else f"{LABEL}: "
        said = printable(f"{origin['task']}: {label}{origin['description']}")
        console.print(said, markup=False, soft_wrap=not console.is_terminal)
    for warning in report["warnings"]:
        console.print(f"note: {printable(warning)}", markup=False, soft_wrap=not console.is_terminal)
    table = headline(report)
    show(console, table)
    console.print(printable_lines(table.note), markup=False, soft_wrap=not console.is_terminal)
    _reliability(console, table)


def show_report(console: Console, report: Row) -> None:
    """The parts that fit a terminal: question, answers, warnings, verdicts on claims and every table."""
    wide = not console.is_terminal
    for said in (question(report), *(sentence(report, task) for task in tasks(report))):
        console.print(printable(said), markup=False, soft_wrap=wide, style="bold")
    show_headline(console, report)
    if report.get("claims"):
        show(console, verdicts_table(report["claims"]))
    for table in all_tables(report, [name for name in TABLES if name != "sampled"]):  # shown above, as the headline
        show_with_note(console, table)


def show_with_note(console: Console, table: Table) -> None:
    """A table with its title, also where it is piped, and what stands below it."""
    if not console.is_terminal:
        plain(console, "")
        plain(console, printable(table.title))
    show(console, table)
    if table.note:
        console.print(printable_lines(table.note), markup=False, soft_wrap=not console.is_terminal, style="dim")
    _reliability(console, table)


def _reliability(console: Console, table: Table) -> None:
    if table.reliability:
        console.print(printable(table.reliability), markup=False, soft_wrap=not console.is_terminal, style="dim")


def show(console: Console, table: Table) -> None:
    """A table: arranged for the width of a terminal (reports/layout.py), tab-separated with all columns when piped.

    Every text in it is made printable and kept from rich's markup: "[red]" in a model's name must not colour anything.
    """
    if not console.is_terminal:  # for cut, awk and spreadsheets
        for row in (table.columns, *table.rows):
            plain(console, "\t".join(printable(text(entry)) for entry in row))
        return
    draw(console, table)


def show_settings(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Settings, each with its default, what it may be, and below them a sentence; tab-separated when piped.

    `rows` hold (name, default, allowed values, description).
    """
    if not console.is_terminal:
        show(console, Table("", tuple(columns), [tuple(row) for row in rows]))
        return
    from rich.padding import Padding
    from rich.text import Text

    for name, default, allowed, description in rows:
        head = Text(printable(f"{name} = {default}"), style="bold")
        head.append(printable(f"  {allowed}") if allowed else "", style="not bold dim")
        console.print(head, soft_wrap=len(head) > console.width)
        console.print(Padding(Text(printable(description)), (0, 0, 0, 4)))


def plain(console: Console, line: str) -> None:
    """One line as it is: rich would turn tabs into spaces.

    The caller makes the line printable.
    """
    if not console.quiet:
        console.file.write(line + "\n")


def show_tokens(console: Console, response: str, spans: Sequence[Span], rewards: Sequence[float]) -> None:
    """The response coloured by reward (green above 0, red below), then one line per token.

    `spans` are character spans [start, end) of the T tokens, `rewards` their T rewards.  Colours are relative to the
    largest size in this response; rewards of less than a twentieth of it get none.
    """
    from rich.text import Text

    top = max((abs(r) for r in rewards), default=0.0) or 1.0
    painted = Text()
    for (start, end), reward in zip(spans, rewards, strict=True):
        share = reward / top
        faded = int(60 + 140 * min(1.0, abs(share))) // 2  # the other channels fade as the size grows
        colour = f"{200 - faded},255,{200 - faded}" if share > 0 else f"255,{255 - faded},{255 - faded}"
        style = f"black on rgb({colour})" if abs(share) >= 0.05 else ""
        painted.append(printable_lines(response[start:end]), style=style)
    console.print(painted, soft_wrap=True)
    for (start, end), reward in zip(spans, rewards, strict=True):
        # an empty span is the end-of-sequence token, or a token of a character that a later one completes
        shown = printable(response[start:end]) if end > start else "<end>" if start == len(response) else "<part>"
        plain(console, f"{reward:+.4g}\t{shown}")
    plain(console, f"sum {sum(rewards):+.4g}\t{len(rewards)} tokens")
