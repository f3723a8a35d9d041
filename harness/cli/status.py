"""`bench status`: what is done, running, failed and left; and `bench clean`: what nothing needs."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.cli.consoles import complain, consoles
from rlhf_bench.harness.results.status import DriverStatus, StageStatus, read_status
from rlhf_bench.harness.results.table import Table
from rlhf_bench.harness.results.unused import delete, find_unused
from rlhf_bench.reports import terminal

if TYPE_CHECKING:
    from rich.console import Console

DRIVERS = ("process", "started", "state", "done", "running", "failed", "left", "time left", "command")
STAGES = ("stage", "process", "since", "steps", "time left")
MOST_FAILED = 20
"""Failed stages that are shown."""


def status(runs: Path) -> int:
    """bench status

    Returns 3 where a stage failed, a driver was interrupted or a record is damaged, 0 otherwise.
    """
    found = read_status(runs, time.time())
    stdout, _ = consoles(quiet=False)
    # what a later driver made is counted for that one: an older one without a stage has nothing to say
    drivers = [one for one in found.drivers if one.driver.alive or one.of("running", "failed", "stopped", "waiting")]
    if drivers:
        rows = [driver_row(one) for one in drivers]
        terminal.show(stdout, Table("Drivers", DRIVERS, rows))
    if running := [(one, stage) for one in drivers for stage in one.of("running", "stopped")]:
        terminal.show(stdout, Table("In progress", STAGES, [stage_row(*pair) for pair in running]))
    failed = [stage for one in drivers for stage in one.of("failed")]
    if failed:
        rows = [(stage.stage.name, stage.error) for stage in failed[:MOST_FAILED]]
        terminal.show(stdout, Table("Failed", ("stage", "error"), rows))
        _line(stdout, f"{len(failed)} stages failed.") if len(failed) > MOST_FAILED else None
    finished, cells = found.cells
    _line(stdout, f"{finished} of {cells} cells are finished." if cells else "No cell is planned.")
    largest = sorted(found.sizes.items(), key=lambda pair: -pair[1])[:4]
    parts = ", ".join(f"{name} {megabytes(size)}" for name, size in largest if size)
    _line(stdout, f"Disk: {megabytes(sum(found.sizes.values()))}{f' ({parts})' if parts else ''}.")
    wrong = complain(found.problems, "")
    return 3 if wrong or failed or any(one.state == "interrupted" for one in drivers) else 0


def clean(runs: Path, yes: bool) -> int:
    """bench clean

    Returns 0.  Deletes nothing without `yes`.
    """
    found = find_unused(runs)
    stdout, _ = consoles(quiet=False)
    if not found:
        _line(stdout, f"Nothing in {runs} is unused.")
        return 0
    by_reason: dict[tuple[str, str], list[int]] = {}
    for one in found:
        place = one.path.relative_to(runs).parts[0]
        by_reason.setdefault((place, one.why), []).append(one.size)
    rows = [(place, str(len(sizes)), megabytes(sum(sizes)), why) for (place, why), sizes in by_reason.items()]
    terminal.show(stdout, Table("Unused", ("below", "number", "size", "why"), rows))
    if not stdout.is_terminal:
        for one in found:
            _line(stdout, str(one.path))
    total = megabytes(sum(one.size for one in found))
    if not yes:
        _line(stdout, f"{len(found)} files and folders, {total}. Nothing was deleted; --yes deletes them.")
        return 0
    delete(runs, found)
    _line(stdout, f"Deleted {len(found)} files and folders, {total}.")
    return 0


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _process(one: DriverStatus) -> str:
    return f"{one.driver.plan['pid']} on {one.driver.plan['host']}"


def driver_row(one: DriverStatus) -> tuple[str, ...]:
    """A row of DRIVERS."""
    counts = (len(one.of(*states)) for states in (("done",), ("running",), ("failed",), ("stopped", "waiting")))
    seconds, known = one.seconds_left
    left = ("" if known else "over ") + duration(seconds)
    plan = one.driver.plan
    return (_process(one), clock(plan["time"]), one.state, *map(str, counts), left, plan["command"])


def stage_row(one: DriverStatus, stage: StageStatus) -> tuple[str, ...]:
    """A row of STAGES."""
    steps = f"{stage.done} of {stage.total}" if stage.total else ""
    left = "" if stage.left is None else duration(stage.left)
    where = _process(one) if stage.state == "running" else "stopped"
    return stage.stage.name, where, clock(stage.since), steps, left


def clock(seconds: float) -> str:
    """A time of the epoch as the local date and time."""
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # from a file of someone else
        return "?"


def duration(seconds: float) -> str:
    """A number of seconds as a person says it, in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds >= 48 * 3600:
        return f"{seconds / 86400:.1f} days"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def megabytes(size: int) -> str:
    """A size in bytes, in MB or GB."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
