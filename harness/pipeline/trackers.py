"""Scalars of a stage while it trains, for TensorBoard, W&B or trackio: watched, never read back.

The libraries are optional and imported at a stage's first row, in the process that trains.  What they do has no part in
the result: a tracker that fails is left out with a warning, and no key knows of one.
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

PROJECT = "rlhf-bench"
Log = Callable[[Mapping[str, float]], None]
"""Called with every row of a training: `iteration` (from 1) and its scalars."""


class Tracker(Protocol):
    """Where the scalars of one stage go."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Tracked:
    """Which trackers a stage logs to (none: `names` is empty), as what, and where.

    `folder` is the stage's own below OUT/tracking; `scratch` survives an interruption and goes when the stage is done.
    """

    names: tuple[str, ...] = ()
    folder: Path = Path()
    run_name: str = ""
    scratch: Path = Path()


class TensorBoard:
    """Event files in the stage's folder.  Steps from `first` on that an interrupted run left there are dropped."""

    def __init__(self, tracked: Tracked, first: int) -> None:
        writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        self.writer: Any = writer(log_dir=str(tracked.folder), purge_step=first)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()  # a step takes long enough that one wants to see it

    def close(self) -> None:
        self.writer.close()


class Remembering:
    """A run of a library that cannot take steps back: what was logged before an interruption is not logged again.

    `memory` holds the run's id and last step.  It is written before a step is logged, so a kill between the two loses
    that step's point rather than doubling it.  `open_run(id)` returns the library's calls for a step and for the end.
    """

    def __init__(self, memory: Path, open_run: Callable[[str], tuple[Any, Any]]) -> None:
        self.memory = memory
        known: Any = store.read_json(memory) if memory.exists() else {"id": uuid.uuid4().hex[:12], "step": 0}
        self.id: str = known["id"]
        self.last: int = known["step"]
        self.send, self.finish = open_run(self.id)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        if step > self.last:
            self.last = step
            store.write_json(self.memory, {"id": self.id, "step": step})
            self.send(dict(scalars), step=step)

    def close(self) -> None:
        self.finish()


def _wandb(tracked: Tracked, first: int) -> Tracker:  # noqa: ARG001
    """Offline unless the environment names a mode or a key: nothing goes out unasked.  `wandb sync` sends it later."""
    wandb = importlib.import_module("wandb")
    online = {} if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY") else {"mode": "offline"}
    tracked.folder.mkdir(parents=True, exist_ok=True)

    def open_run(name: str) -> tuple[Any, Any]:
        where = {"project": os.environ.get("WANDB_PROJECT", PROJECT), "dir": str(tracked.folder)}
        # terminal and repository are nobody's business
        settings = wandb.Settings(console="off", disable_git=True)
        run = wandb.init(**where, name=tracked.run_name, id=name, resume="allow", settings=settings, **online)
        return run.log, run.finish

    return Remembering(tracked.scratch / "wandb.json", open_run)


def _trackio(tracked: Tracked, first: int) -> Tracker:  # noqa: ARG001
    """trackio's own database on this machine.  Its runs are found by name, so the name holds the id."""
    trackio = importlib.import_module("trackio")

    def open_run(name: str) -> tuple[Any, Any]:
        run = trackio.init(project=PROJECT, name=f"{tracked.run_name} {name}", resume="allow")
        return run.log, trackio.finish  # its run's own `finish` is called once more at exit, and prints

    return Remembering(tracked.scratch / "trackio.json", open_run)


OPENERS: Mapping[str, Callable[[Tracked, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
}
"""By the name of the library, which is that of the extra that brings it: (where, the first step) -> a tracker."""


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.  Raises BenchError for an unknown one and for a library that is not installed."""
    for name in names:
        if name not in OPENERS:
            raise BenchError(f"Unknown tracker {name!r}.", did_you_mean(name, OPENERS))
        if find_spec(name) is None:
            raise BenchError(f"--track {name} needs the package {name}.", f"pip install 'rlhf-bench[{name}]'")
    return tuple(dict.fromkeys(names))


class Trackers:
    """Several as one, opened at the first row.  One that raises gets no further rows; one warning says so."""

    def __init__(self, tracked: Tracked) -> None:
        self.tracked = tracked
        self.opened: dict[str, Tracker] | None = None

    def __call__(self, row: Mapping[str, float]) -> None:
        step = int(row["iteration"])
        scalars = {name: value for name, value in row.items() if name != "iteration"}
        if self.opened is None:
            self.opened = {}
            for name in self.tracked.names:
                with self._surviving(name):
                    self.opened[name] = OPENERS[name](self.tracked, step)
        for name, tracker in list(self.opened.items()):
            with self._surviving(name):
                tracker.log(step, scalars)

    def close(self) -> None:
        for name, tracker in list((self.opened or {}).items()):
            with self._surviving(name):
                tracker.close()

    @contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        """Training goes on whatever a tracker does; what one prints goes to stderr, where no results are."""
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            failed = (self.opened or {}).pop(name, None)
            if failed is not None:
                with suppress(Exception), redirect_stdout(sys.stderr):
                    failed.close()
            line = f"Warning: {self.tracked.run_name} is no longer tracked by {name}: {one_line(error)}."
            print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def open_trackers(tracked: Tracked) -> Iterator[Log]:
    """What a training calls with each of its rows; closed at the end, also an early one."""
    trackers = Trackers(tracked)
    try:
        yield trackers
    finally:
        trackers.close()
