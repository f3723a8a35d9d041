"""`bench report`, and the report that other commands end with.  Exit code 3: something is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.cli.consoles import command_line, complain, consoles
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results.estimates import CellFiles, Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.reports import build, terminal


def report_cells(
    cells: Sequence[Path], out: Path, estimator: Estimator, console: Any, *, fresh: bool = False
) -> list[str]:
    """Write the report unless the same one stands there, show it, and return what is missing.

    `fresh` writes it in any case: a key does not tell that undecided cases were asked again.
    """
    found, missing = find_cells(cells)
    if not found:
        complain(["No cell is finished", *missing], "")
        return missing
    stored = None if fresh else _stored(out)
    if stored is None or stored.get("key") != build.report_key(found, missing, estimator):
        stored = build.build(found, missing, estimator, command_line())
        build.write(stored, out, found)
    terminal.show_headline(console, stored)
    name_page(console, out)
    return missing


def _stored(out: Path) -> dict[str, Any] | None:
    """The report in `out`, None where there is none of this version, or not all of it."""
    if not all((out / name).is_file() for name in ("report.html", "report.md")):
        return None
    try:
        report: Any = store.read_json(out / "report.json")
    except BenchError:
        return None
    if not isinstance(report, dict) or report.get("schema_version") != build.SCHEMA_VERSION:
        return None
    return report


def name_page(console: Any, out: Path) -> None:
    """Say where the page lies."""
    console.print(f"{out / 'report.html'}", markup=False, soft_wrap=True)


def report(runs: Sequence[Path], out: Path | None, level: float, quiet: bool, in_terminal: bool) -> int:
    """bench report"""
    if out is None and not in_terminal:
        raise BenchError("Nowhere to write the report.", "Give --out DIR, or --terminal to read it here.")
    stdout, _ = consoles(quiet)
    found, missing = find_cells(runs)
    if not found:
        complain(["No cell is finished", *missing], "")
        return 3
    made = build.build(found, missing, Estimator(level), command_line())
    show(stdout, made, found, out, in_terminal)
    return 3 if missing else 0


def show(
    console: Any, made: Mapping[str, Any], cells: Sequence[CellFiles], out: Path | None, in_terminal: bool
) -> None:
    """Write the files where a folder is given; show the end table, or all tables."""
    if out:
        build.write(dict(made), out, cells)
    (terminal.show_report if in_terminal else terminal.show_headline)(console, made)
    if out:
        name_page(console, out)
