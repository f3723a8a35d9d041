"""`bench report`, and how a report is shown at the end of other commands.  Exit code 3: something is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness.api.reports import Report, load_report, make_report
from rlhf_bench.harness.cli.consoles import command_line, complain, consoles
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.replacing import write_text
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import check_there
from rlhf_bench.reports import diff, paper, terminal
from rlhf_bench.reports.canvas import Style

if TYPE_CHECKING:
    from rich.console import Console

DIFF = "diff.md"
"""What `bench report A B --diff --out DIR` writes."""


class Shown(NamedTuple):
    """How a report is shown beside its files: in the terminal, and as figures for a paper in a folder `figures`."""

    quiet: bool = False
    in_terminal: bool = False
    figures: Path | None = None
    figure_width: float = 3.25
    figure_font: float = 8.0


def report(runs: Sequence[Path], out: Path | None, level: float, shown: Shown) -> int:
    """bench report

    Returns 3 where a cell is missing, with the reasons on stderr.  Raises BenchError without any of `out`,
    `in_terminal` and `figures`, for a folder that is not there, where matplotlib is missing for `figures`, and where a
    folder cannot be written.
    """
    check_there(runs)  # before the complaint about --out: a misspelt folder is the nearer mistake
    if out is None and shown.figures is None and not shown.in_terminal:
        raise BenchError("Nowhere to write the report.", "Give --out DIR, or --terminal to read it here.")
    if shown.figures is not None:
        paper.check_library()  # before the statistics, which may take minutes
    # bootstraps start from the default seed: RUNS may have been made with several `stats.seed`
    made, missing = make_report(runs, out, Estimator(level), command_line(), histograms=shown.figures is not None)
    if made is None:
        complain(["No cell is finished", *missing], "")
        return 3
    complain(missing, "")
    stdout, _ = consoles(shown.quiet)
    show_end(stdout, made, whole=shown.in_terminal)
    if shown.figures is not None:
        paper.write(made.data, shown.figures, Style(shown.figure_width, shown.figure_font))
        stdout.print(f"{shown.figures / 'figures.md'}", markup=False, soft_wrap=True)
    return 3 if missing else 0


def show_end(console: Console, made: Report, *, whole: bool = False) -> None:
    """The end table of a report, or with `whole` all its tables, then the path of its page.

    `bench run` and `bench judge` end with it, too.
    """
    (terminal.show_report if whole else terminal.show_headline)(console, made.data)
    if made.path is not None:
        console.print(f"{made.path / 'report.html'}", markup=False, soft_wrap=True)


def diff_reports(folders: Sequence[Path], out: Path | None, quiet: bool) -> int:
    """bench report A B --diff

    Returns 0, also where something changed.  Raises BenchError for other than two folders, for one that is no written
    report, for intervals of two levels, and where `out` cannot be written.
    """
    if len(folders) != 2:
        seen = f"--diff with {len(folders)} folder{'' if len(folders) == 1 else 's'}."
        raise BenchError(seen, "Give two: bench report FIRST SECOND --diff")
    first, second = (load_report(folder).data for folder in folders)
    stdout, _ = consoles(quiet)
    found = diff.differences(first, second)
    said, tables = diff.summary(found), diff.diff_tables(first, second, found)
    stdout.print(said, markup=False, soft_wrap=True)
    for table in tables:
        terminal.show_with_note(stdout, table)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_text(out / DIFF, diff.diff_markdown([*map(str, folders)], said, tables))
        except OSError as error:
            raise BenchError(f"Cannot write to {out}: {error.strerror}.", "Give another --out.") from None
        stdout.print(str(out / DIFF), markup=False, soft_wrap=True)
    return 0
