"""Logging a stage's scalars to TensorBoard, W&B or trackio while it trains.

The libraries are optional, and imported at a stage's first row in the process that trains.  They have no effect on
results or keys: nothing is read back, and a tracker that fails is switched off with a warning.
"""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, did_you_mean, one_line
from rlhf_bench.harness.printable import printable
from rlhf_bench.harness.text.types import JsonObject

PROJECT = "rlhf-bench"
Log = Callable[[Mapping[str, float]], None]
"""Called with every row of a training: its `iteration`, from 1, and its scalars by name."""


LibraryCalls = tuple[Callable[..., object], Callable[[], object]]
"""Of an open run of a library: (log one step, end the run)."""


class Tracker(Protocol):
    """Logs the scalars of one stage."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Log the scalars, by name, of iteration `step`, from 1."""

    def close(self) -> None:
        """End the run; nothing is logged afterwards."""


@dataclass(frozen=True)
class Tracked:
    """The trackers that a stage logs to (`names`; empty for none), and under which name and where.

    `folder` is the stage's own below OUT/tracking.  `scratch` survives an interruption and is removed when the stage is
    done.
    """

    names: tuple[str, ...] = ()
    folder: Path = Path()
    run_name: str = ""
    scratch: Path = Path()


class TensorBoard:
    """Event files in the stage's folder.

    `first`: the first step to log; steps from there on that an interrupted run left are dropped.
    """

    def __init__(self, tracked: Tracked, first: int) -> None:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self.writer: Any = writer(log_dir=str(tracked.folder), purge_step=first)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # a step may take minutes: it must be visible before the next one ends

    def close(self) -> None:
        self.writer.close()


class ResumedRun:
    """A run of a library that cannot remove steps: what was logged before an interruption is not logged again.

    The file `memory` holds the run's id and last step.  `open_run(id)` opens or resumes the run and returns the
    library's functions for one step and for the end.
    """

    def __init__(self, memory: Path, open_run: Callable[[str], LibraryCalls]) -> None:
        self.memory = memory
        known: JsonObject = store.read_json(memory) if memory.exists() else {"id": uuid.uuid4().hex[:12], "step": 0}
        self.id: str = known["id"]
        self.last: int = known["step"]
        self.send, self.finish = open_run(self.id)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        if step > self.last:
            self.last = step
            # before the step is logged: a kill between the two loses the step's point instead of doubling it
            store.write_json(self.memory, {"id": self.id, "step": step})
            self.send(dict(scalars), step=step)

    def close(self) -> None:
        self.finish()


def _wandb(tracked: Tracked, first: int) -> Tracker:  # noqa: ARG001
    """Offline unless the environment names a mode or a key; `wandb sync` uploads an offline run later."""
    wandb = importlib.import_module("wandb")
    online = {} if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY") else {"mode": "offline"}
    tracked.folder.mkdir(parents=True, exist_ok=True)

    def open_run(name: str) -> LibraryCalls:
        where = {"project": os.environ.get("WANDB_PROJECT", PROJECT), "dir": str(tracked.folder)}
        # by default W&B uploads the terminal's output and the state of the repository
        settings = wandb.Settings(console="off", disable_git=True)
        run = wandb.init(**where, name=tracked.run_name, id=name, resume="allow", settings=settings, **online)
        return run.log, run.finish

    return ResumedRun(tracked.scratch / "wandb.json", open_run)


def _trackio(tracked: Tracked, first: int) -> Tracker:  # noqa: ARG001
    """trackio's database on this machine."""
    trackio = importlib.import_module("trackio")

    def open_run(name: str) -> LibraryCalls:
        # trackio finds the run to resume by its name, so the name holds the id
        run = trackio.init(project=PROJECT, name=f"{tracked.run_name} {name}", resume="allow")
        return run.log, trackio.finish  # not run.finish: trackio calls that again at exit, and it prints

    return ResumedRun(tracked.scratch / "trackio.json", open_run)


OPENERS: Mapping[str, Callable[[Tracked, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
}
"""By the name of the library, which is also that of the extra that installs it: (where, first step) -> tracker."""


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The names without repetitions.  Raises BenchError for an unknown one and for a library that is not installed."""
    for name in names:
        if name not in OPENERS:
            raise BenchError(f"Unknown tracker {name!r}.", did_you_mean(name, OPENERS))
        if find_spec(name) is None:  # not imported: that takes seconds, and only a process that trains needs it
            raise BenchError(f"--track {name} needs the package {name}.", f"pip install 'rlhf-bench[{name}]'")
    return tuple(dict.fromkeys(names))


class Trackers:
    """Several trackers as one `Log`, opened at the first row.  One that raises is closed, with one warning."""

    def __init__(self, tracked: Tracked) -> None:
        self.tracked = tracked
        self.opened: dict[str, Tracker] | None = None

    def __call__(self, row: Mapping[str, float]) -> None:
        step = int(row["iteration"])
        scalars = {name: value for name, value in row.items() if name != "iteration"}
        if self.opened is None:  # at the first row: only then is it known where a resumed training goes on
            self.opened = {}
            for name in self.tracked.names:
                with self._guarded(name):
                    self.opened[name] = OPENERS[name](self.tracked, step)
        for name, tracker in list(self.opened.items()):  # a copy: `_guarded` takes out a tracker that fails
            with self._guarded(name):
                tracker.log(step, scalars)

    def close(self) -> None:
        for name, tracker in list((self.opened or {}).items()):
            with self._guarded(name):
                tracker.close()

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Keep a tracker's exception from training; send what it prints to stderr, because stdout is for results."""
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:  # a library may raise anything, and a training of hours must not end by its log
            failed = (self.opened or {}).pop(name, None)
            if failed is not None:
                with suppress(Exception), redirect_stdout(sys.stderr):
                    failed.close()
            line = f"Warning: {self.tracked.run_name} is no longer tracked by {name}: {one_line(error)}."
            print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def open_trackers(tracked: Tracked) -> Iterator[Log]:
    """A function that a training calls with each of its rows.  Its trackers are closed at the end, also by an error."""
    trackers = Trackers(tracked)
    try:
        yield trackers
    finally:
        trackers.close()
