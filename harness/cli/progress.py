"""Progress of a command that makes stages, on stderr: bars on a terminal, lines in pipes and logs.

Starts, steps and ends come from the process itself.  The time that is left, the figures of a running policy
optimisation and alarms come from the rows that it writes (results/watched.py), as `bench status` has them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.cli.status import duration
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.machine import StageProgress, no_stage_progress
from rlhf_bench.harness.printable import printable
from rlhf_bench.harness.results.table import number
from rlhf_bench.harness.results.training import latest
from rlhf_bench.harness.results.watched import InProgress, Watcher

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from rlhf_bench.harness.results.status import DriverStatus

EVERY = 2.0
"""Seconds between two looks at what the process has written."""
MINUTE = 60.0
"""Seconds between two lines about everything in a log."""


@contextmanager
def watching(console: Console, quiet: bool, root: Path) -> Iterator[StageProgress]:
    """Progress of the stages that this process makes in `root`.

    Bars with a total on a terminal; elsewhere a line for each start and end, and a total once a minute; nothing if
    `quiet`.  Yields the function for `Machine.progress`.
    """
    if quiet:
        yield no_stage_progress
        return
    shown = Bars(console) if console.is_terminal else ProgressLines(console)
    with shown, _looking(root, shown):
        yield shown


@contextmanager
def _looking(root: Path, shown: Bars | ProgressLines) -> Iterator[None]:
    """Show every few seconds what this process has written, from a thread of its own."""
    ended, watcher = threading.Event(), Watcher(root)

    def look() -> None:
        while not ended.wait(EVERY):
            # a folder that cannot be read now, and a stage that ends meanwhile, must not end the run
            with suppress(BenchError, OSError):
                # not beside a timing, which runs alone
                names = shown.running
                if names and not any(name.startswith("overhead ") for name in names) and (found := watcher.own()):
                    shown.update(*found)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(EVERY)


def total_text(driver: DriverStatus) -> str:
    """How many of a driver's stages are done, and the time that is left for all of them."""
    failed = len(driver.of("failed"))
    text = f"{len(driver.of('done'))} of {len(driver.stages)} stages"
    return f"{text}{f', {failed} failed' if failed else ''}, {left_text(*driver.seconds_left)}"


def left_text(seconds: float, known: bool) -> str:
    """The time that is left; `known`: all stages could be estimated."""
    if not known and not seconds:
        return "time left unknown"
    return f"{'about' if known else 'over'} {duration(seconds)} left"


def figures_text(one: InProgress) -> str:
    """The last written figures of a policy optimisation; "" for a stage without."""
    if not one.rows:
        return ""
    row = one.rows[-1]
    said = ", ".join(f"{name} {number(value)}" for name, value in latest(row).items())
    return f"{said} (iteration {row['iteration']})"


class Alarms:
    """Names each alarm of each stage once."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def new(self, running: Sequence[InProgress]) -> Iterator[str]:
        """Sentences about what has not been said."""
        for one in running:
            for subject, sentence in one.alarms.items():
                if (one.status.stage.key, subject) not in self._said:
                    self._said.add((one.status.stage.key, subject))
                    yield f"alarm: {one.status.stage.name}, iteration {one.rows[-1]['iteration']}: {sentence}"


class ProgressLines:
    """A StageProgress for logs and pipes: "NAME ..." at a stage's start, "NAME SECONDS s" at its end.

    Steps have no lines, because a log keeps all of them.  Once a minute a line says how far everything is, with the
    figures of the policies in training.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.started: dict[str, float] = {}
        self._alarms, self._last = Alarms(), time.monotonic()

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, event: str, name: str, done: int, total: int) -> None:  # noqa: ARG002
        if event == "start":
            # by name: under --jobs several stages run at once and end in any order
            self.started[name] = time.monotonic()
            self._line(f"{name} ...")
        elif event == "end":
            seconds = time.monotonic() - self.started.pop(name, time.monotonic())
            self._line(f"{name} {seconds:.1f} s")

    @property
    def running(self) -> list[str]:
        """The names of the stages that run."""
        return list(self.started)

    def update(self, driver: DriverStatus, running: Sequence[InProgress]) -> None:
        """Say what is new."""
        for sentence in self._alarms.new(running):
            self._line(sentence)
        if time.monotonic() - self._last >= MINUTE:
            self._last = time.monotonic()
            stages = [_running_text(one) for one in running]
            self._line("; ".join([f"all: {total_text(driver)}", *stages]))

    def _line(self, text: str) -> None:
        self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def _running_text(one: InProgress) -> str:
    steps = f" {one.status.done} of {one.status.total}" if one.status.total else ""
    figures = figures_text(one)
    return f"{one.status.stage.name}{steps}{f': {figures}' if figures else ''}"


class Bars:
    """A StageProgress for terminals: a bar for each stage that runs, its figures under it, and a bar for everything.

    A stage that has ended is a line above them, and so is an alarm.
    """

    def __init__(self, console: Console) -> None:
        from rich import progress
        from rich.table import Column

        class Left(progress.ProgressColumn):
            """The time left as the journal's reader estimates it."""

            def render(self, task: progress.Task) -> RenderableType:
                from rich.text import Text

                return Text(str(task.fields.get("left", "")), "progress.remaining")

        class Rows(progress.Progress):
            """A bar for each task, with the task's note in the next line."""

            def get_renderables(own) -> Iterator[RenderableType]:  # noqa: N805
                yield from self._renderables(own)

        self._console, self._names = console, Column(no_wrap=True)
        self._tasks: dict[str, Any] = {}
        self._notes: dict[str, str] = {}
        self._all: Any = None
        self._alarms = Alarms()
        self._lock = threading.Lock()  # stages start and end in one thread, `update` is called in another
        self._bars = Rows(
            progress.TextColumn("{task.description}", table_column=self._names),
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            Left(),
            console=console,
            refresh_per_second=4,
        )

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            # what it said last is some seconds old, and would stay below the stages that have ended since
            if self._all is not None:
                self._bars.remove_task(self._all)
                self._all = None
            self._bars.stop()

    def __call__(self, event: str, name: str, done: int, total: int) -> None:
        with self._lock:
            self._take(event, name, done, total)

    def _take(self, event: str, name: str, done: int, total: int) -> None:
        from rich.markup import escape

        if event == "start":
            # no total yet, the bar pulses: a stage says how many steps it has with its first one
            self._tasks[name] = self._bars.add_task(escape(printable(name)), total=None)
        elif event == "step" and name in self._tasks:
            self._bars.update(self._tasks[name], completed=done, total=total)
        elif event == "end" and name in self._tasks:
            place = self._tasks.pop(name)
            task = next(task for task in self._bars.tasks if task.id == place)
            # a stage without steps has no total, and one that ends early is done all the same: its bar would be full
            steps, seconds = int(task.total or 1), duration(task.elapsed or 0.0)
            self._bars.remove_task(place)
            self._notes.pop(name, None)
            self._bars.refresh()  # what is printed is drawn above the bars as they were last
            self._line(f"{name} {steps}/{steps} {seconds}")

    @property
    def running(self) -> list[str]:
        """The names of the stages that run."""
        return list(self._tasks)

    def update(self, driver: DriverStatus, running: Sequence[InProgress]) -> None:
        """Show the total, the time that is left, and what is new of the stages that run."""
        for sentence in self._alarms.new(running):
            self._line(sentence, "yellow")
        with self._lock:
            self._update(driver, running)

    def _update(self, driver: DriverStatus, running: Sequence[InProgress]) -> None:
        done, total = len(driver.of("done")), len(driver.stages)
        if self._all is None:
            self._all = self._bars.add_task("all stages", total=total)
        self._bars.update(self._all, completed=done, total=total, left=left_text(*driver.seconds_left))
        for one in running:
            if one.status.stage.name in self._tasks:
                left = "" if one.status.left is None else f"about {duration(one.status.left)} left"
                self._bars.update(self._tasks[one.status.stage.name], left=left)
                self._notes[one.status.stage.name] = figures_text(one)

    def _renderables(self, bars: Any) -> Iterator[RenderableType]:
        from rich.text import Text

        names = {place: name for name, place in list(self._tasks.items())}
        tasks = sorted(bars.tasks, key=lambda task: task.id == self._all)  # the total is last
        self._names.min_width = max((len(str(task.description)) for task in tasks), default=0)
        for task in tasks:
            yield bars.make_tasks_table([task])
            if note := self._notes.get(names.get(task.id, "")):
                yield Text(f"  {note}", "dim", no_wrap=True, overflow="ellipsis")

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True, style=style or None)
