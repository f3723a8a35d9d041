"""What a command writes to: results on stdout, progress and complaints on stderr."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.pipeline.machine import StageProgress, no_stage_progress
from rlhf_bench.harness.printable import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console


def command_line() -> str:
    """The command as it was typed, for manifests.

    Quoted for a shell, so that it can be pasted; `ledger.without_folder` splits it again.
    """
    return "bench " + shlex.join(sys.argv[1:])


def complain(lines: Sequence[str], fix: str) -> bool:
    """Say on stderr, under --quiet too, why the exit code will be 3; whether there is anything to say.

    `lines`: sentences without a full stop.  `fix`: what to do about each of them, "" for nothing.
    """
    for line in lines:
        # print, not a console: rich would wrap the line and drop it under --quiet
        print(printable(f"{line}. {fix}").strip(), file=sys.stderr)
    return bool(lines)


def consoles(quiet: bool) -> tuple[Console, Console]:
    """(stdout, stderr): results go to the first, progress to the second.

    With `quiet` neither prints anything; errors and `complain` do not pass through them.  Control characters of a text
    are printed as escapes; tables make their own texts printable (reports/terminal.py).
    """
    from rich.console import Console

    class Safe(Console):
        """A console on which no text is a control code: names and notes may come from files of someone else."""

        def print(self, *objects: object, **options: Any) -> None:
            super().print(*(printable_lines(one) if isinstance(one, str) else one for one in objects), **options)

    # without highlighting: rich would colour the numbers in names and paths
    return Safe(quiet=quiet, highlight=False), Safe(stderr=True, quiet=quiet, highlight=False)


# -- progress ----------------------------------------------------------------------------------------------------------


@contextmanager
def watching(console: Console, quiet: bool) -> Iterator[StageProgress]:
    """Progress of stages: bars on a terminal, one line for each start and end elsewhere, nothing if `quiet`.

    Yields the function for `Machine.progress`.
    """
    if quiet:
        yield no_stage_progress
    elif console.is_terminal:
        with progress_bars(console) as progress:
            yield progress
    else:
        yield ProgressLines(console)


class ProgressLines:
    """A StageProgress for logs and pipes: "NAME ..." at a stage's start, "NAME SECONDS s" at its end.

    Steps are not shown: a log keeps every line.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started: dict[str, float] = {}

    def __call__(self, event: str, name: str, done: int, total: int) -> None:  # noqa: ARG002
        if event == "start":
            # by name: under --jobs several stages run at once and end in any order
            self.started[name] = time.monotonic()
            self.console.print(f"{name} ...", markup=False, highlight=False)
        elif event == "end":
            seconds = time.monotonic() - self.started.pop(name, time.monotonic())
            self.console.print(f"{name} {seconds:.1f} s", markup=False, highlight=False)


@contextmanager
def progress_bars(console: Console) -> Iterator[StageProgress]:
    """A StageProgress for terminals: a bar for each stage that has started.

    The time left is of that stage alone; --dry-run estimates the whole plan.
    """
    from rich import progress
    from rich.markup import escape

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=30),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console) as bars:
        tasks = {}

        def show(event: str, name: str, done: int, total: int) -> None:
            if event == "start":
                # no total yet, the bar pulses: a stage says how many steps it has with its first one
                tasks[name] = bars.add_task(escape(name), total=None)
            elif event == "step" and name in tasks:
                bars.update(tasks[name], completed=done, total=total)
            elif event == "end" and name in tasks:
                # a stage without steps has no total: its bar ends as 1 of 1
                total = int(bars.tasks[tasks[name]].total or 1)
                bars.update(tasks.pop(name), completed=total, total=total)

        yield show
