"""Showing how far a run is: bars on a terminal, one plain line per stage elsewhere, nothing with --quiet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rlhf_bench.harness.pipeline.machine import StageProgress

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def watching(console: Console, quiet: bool) -> Iterator[StageProgress]:
    """A StageProgress that draws on `console`."""
    if quiet:
        yield lambda *_: None
    elif console.is_terminal:
        with _bars(console) as watch:
            yield watch
    else:
        yield _Lines(console)


class _Lines:
    """Start and end of every stage, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started: dict[str, float] = {}

    def __call__(self, event: str, name: str, done: int, total: int) -> None:  # noqa: ARG002
        if event == "start":
            self.started[name] = time.monotonic()
            self.console.print(f"{name} ...", markup=False, highlight=False)
        elif event == "end":
            seconds = time.monotonic() - self.started.pop(name, time.monotonic())
            self.console.print(f"{name} {seconds:.1f} s", markup=False, highlight=False)


@contextmanager
def _bars(console: Console) -> Iterator[StageProgress]:
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def watch(event: str, name: str, done: int, total: int) -> None:
            if event == "start":
                tasks[name] = bars.add_task(escape(name), total=None)
            elif event == "step" and name in tasks:
                bars.update(tasks[name], completed=done, total=total)
            elif event == "end" and name in tasks:
                task = bars.tasks[tasks[name]]
                whole = task.total or 1
                bars.update(tasks.pop(name), completed=whole, total=whole)

        yield watch
