"""`bench report`, and how a report is shown at the end of other commands.  Exit code 3: something is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.api.reports import Report, make_report
from rlhf_bench.harness.cli.consoles import command_line, complain, consoles
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import check_there
from rlhf_bench.reports import terminal

if TYPE_CHECKING:
    from rich.console import Console


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
