"""`bench watch`: a results folder while commands write to it, on a page of a local server or in the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.cli.consoles import consoles
from rlhf_bench.harness.cli.progress import left_text
from rlhf_bench.harness.cli.status import DRIVERS, STAGES, driver_row, stage_row
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results.table import Cell, Entry, Table
from rlhf_bench.harness.results.training import FIGURES, latest
from rlhf_bench.harness.results.watched import Look, Watcher
from rlhf_bench.reports import terminal

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

EVERY = 2.0
"""Seconds between two looks of the terminal view."""
MOST = 20
"""Rows of a table in the terminal."""


def watch(runs: Path, port: int, in_terminal: bool) -> int:
    """bench watch

    `port` 0 takes a free one.  Returns 0, also when it is ended by Ctrl-C.  Raises BenchError for a path that is no
    results folder and for a port that cannot be used.
    """
    stdout, _ = consoles(quiet=False)
    watcher = Watcher(runs)
    look = watcher.look()  # before a server says that it is there
    if in_terminal and not stdout.is_terminal:
        for table in tables(look):
            terminal.show(stdout, table)
        return 0
    try:
        if in_terminal:
            _refresh(stdout, watcher)
        else:
            serve(stdout, watcher, port)
    except KeyboardInterrupt:
        stdout.print("Stopped watching; what runs goes on.")
    return 0


def serve(console: Console, watcher: Watcher, port: int) -> None:
    """Serve the page until an interruption."""
    from rlhf_bench.harness.cli.watch_server import WatchServer

    try:
        server = WatchServer(watcher, port)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BenchError(f"Port {port} cannot be used: {why}.", "Give another --port, or none.") from None
    with server:
        console.print(f"Watching {watcher.root} at {server.address} (Ctrl-C ends it)", markup=False, soft_wrap=True)
        console.file.flush()  # a pipe would keep the address back
        server.serve_forever(poll_interval=0.2)


def tables(look: Look) -> Iterator[Table]:
    """What the terminal shows of a results folder, the most important first."""
    finished, cells = look.finished
    left = left_text(*look.seconds_left) if look.seconds_left else "nothing is running"
    yield Table("All", ("cells finished", "of", "time left"), [(str(finished), str(cells), left)])
    if look.in_progress:
        rows: list[tuple[Entry, ...]] = []
        for one in look.in_progress[:MOST]:
            figures = latest(one.rows[-1]) if one.rows else {}
            rows.append((*stage_row(one.driver, one.status), *(Cell(figures.get(name)) for name in FIGURES)))
        yield Table("In progress", (*STAGES, *FIGURES), rows, _more(len(look.in_progress), "stages"))
    alarms = [(one.status.stage.name, text) for one in look.in_progress for text in one.alarms.values()]
    if alarms:
        yield Table("Alarms", ("stage", "alarm"), alarms[:MOST], _more(len(alarms), "alarms"))
    failed = [(stage.stage.name, stage.error) for one in look.drivers for stage in one.of("failed")]
    if failed:
        yield Table("Failed", ("stage", "error"), failed[:MOST], _more(len(failed), "stages"))
    drivers = [one for one in look.drivers if one.driver.alive or one.of("failed", "stopped", "waiting")]
    if drivers:
        yield Table("Drivers", DRIVERS, [driver_row(one) for one in drivers[-MOST:]], _more(len(drivers), "drivers"))
    open_cells = [cell for cell in look.cells if cell.state != "finished"]
    if open_cells:
        left_over = [(cell.name, cell.state, f"{cell.done} of {cell.total}") for cell in open_cells[:MOST]]
        yield Table("Unfinished cells", ("cell", "state", "stages"), left_over, _more(len(open_cells), "cells"))
    if look.problems:
        problems = [(problem,) for problem in look.problems[:MOST]]
        yield Table("Not read", ("record",), problems, _more(len(look.problems), "records"))


def _more(count: int, noun: str) -> str:
    return f"{count - MOST} more {noun}." if count > MOST else ""


def _refresh(console: Console, watcher: Watcher) -> None:
    """Draw the tables again and again on a screen of their own, until an interruption."""
    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            try:
                shown = drawn(console, watcher.look())
            except BenchError as error:  # the folder may be moved away, and come back
                from rich.text import Text

                shown = Text(str(error))
            live.update(shown, refresh=True)
            time.sleep(EVERY)


def drawn(console: Console, look: Look) -> RenderableType:
    """The tables as they fit the width of a console."""
    from rich.text import Text

    with console.capture() as capture:
        for table in tables(look):
            terminal.show(console, table)
    # every text in it is printable: the escape codes are those of the console alone
    return Text.from_ansi(capture.get())
