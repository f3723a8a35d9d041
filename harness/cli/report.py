"""`bench report`, and how a report is shown at the end of other commands.  Exit code 3: something is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.api.reports import Report, load_report, make_report
from rlhf_bench.harness.cli.consoles import command_line, complain, consoles
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.replacing import write_text
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import check_there
from rlhf_bench.reports import diff, terminal

if TYPE_CHECKING:
    from rich.console import Console

DIFF = "diff.md"
"""What `bench report A B --diff --out DIR` writes."""


def report(runs: Sequence[Path], out: Path | None, level: float, quiet: bool, in_terminal: bool) -> int:
    """bench report

    Returns 3 where a cell is missing, with the reasons on stderr.  Raises BenchError without both
    `out` and `in_terminal`, for a folder that is not there, and where `out` cannot be written.
    """
    check_there(runs)  # before the complaint about --out: a misspelt folder is the nearer mistake
    if out is None and not in_terminal:
        raise BenchError("Nowhere to write the report.", "Give --out DIR, or --terminal to read it here.")
    # bootstraps start from the default seed: RUNS may have been made with several `stats.seed`
    made, missing = make_report(runs, out, Estimator(level), command_line())
    if made is None:
        complain(["No cell is finished", *missing], "")
        return 3
    complain(missing, "")
    stdout, _ = consoles(quiet)
    show_end(stdout, made, whole=in_terminal)
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
        raise BenchError(f"--diff with {len(folders)} folders.", "Give two: bench report FIRST SECOND --diff")
    first, second = (load_report(folder).data for folder in folders)
    stdout, _ = consoles(quiet)
    stdout.print(diff.summary(diff.differences(first, second)), markup=False, soft_wrap=True)
    for table in diff.diff_tables(first, second):
        terminal.show_with_note(stdout, table)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_text(out / DIFF, diff.diff_markdown(first, second, (str(folders[0]), str(folders[1]))))
        except OSError as error:
            raise BenchError(f"Cannot write to {out}: {error.strerror}.", "Give another --out.") from None
        stdout.print(str(out / DIFF), markup=False, soft_wrap=True)
    return 0
