"""What a running command does: its progress, and rows on disk that another terminal reads (`bench status`).

    RUNS/.partial/driver-HOST-PID-TIME.jsonl    rows of one call of `execute`, appended by its process alone
    RUNS/.partial/driver-HOST-PID-TIME.lock     locked while that process lives

The first row has the event "plan" (what is missing, in order), then follow "start", "step", "end" of stages and "over".
Nothing of a result depends on a journal: where it cannot be written, as on a full disk, the run goes on without.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rlhf_bench.harness import forms, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.machine import Machine, StageProgress
from rlhf_bench.harness.pipeline.stage import Stage

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject

FOLDER = ".partial"
EVERY = 1.0
"""Seconds between two rows about the steps of one stage, at least."""
BEAT = 30.0
"""Seconds between two touches of the file, by which a reader on another machine sees that the process lives."""
SILENT = 4 * BEAT
"""Seconds after which such a process counts as dead."""
KEPT = 20
"""Journals of processes that have ended which are kept; the older ones are removed when another is begun."""
MOST = 2**26
"""Bytes of a journal: a longer one is not what a run writes in weeks, and is not read."""

PLAN: forms.Form = {
    "event": str,
    **dict.fromkeys(("host", "command"), str),
    "pid": forms.Count,
    "jobs": forms.Count,
    "time": forms.Number,
    "stages": [{"place": forms.Place, "family": str, "cost": forms.Number}],
}
"""The first row; a place as in the records of cells."""
EVENT: forms.Form = {
    "event": str,
    "time": forms.Number,
    "stage?": str,
    "done?": forms.Count,
    "total?": forms.Count,
    "error?": str,
}
"""The other rows; `stage` is the short key of a place."""


class Journal:
    """Tells `progress` of this process's stages, and writes the rows where it has a file."""

    def __init__(self, progress: StageProgress, file: IO[str] | None = None) -> None:
        self._progress, self._file = progress, file
        self._last: dict[str, float] = {}

    def start(self, stage: Stage) -> None:
        """The stage begins."""
        self._progress("start", stage.name, 0, 0)
        self._write(event="start", stage=stage.place[2])

    def step(self, stage: Stage, done: int, total: int) -> None:
        """`done` of `total` steps are made; rows that come too fast are left out."""
        self._progress("step", stage.name, done, total)
        if time.monotonic() - self._last.get(stage.key, -EVERY) >= EVERY or done == total:
            self._last[stage.key] = time.monotonic()
            self._write(event="step", stage=stage.place[2], done=done, total=total)

    def end(self, stage: Stage, error: str = "") -> None:
        """The stage has ended, or failed with an error of one line."""
        self._write(event="end", stage=stage.place[2], **({"error": error} if error else {}))
        self._progress("end", stage.name, 0, 0)

    def plan(self, missing: Sequence[Stage], jobs: int) -> None:
        """What is to be made, in order; the first row."""
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        stages = [{"place": stage.place, "family": stage.family, "cost": stage.cost} for stage in missing]
        self._write(event="plan", host=platform.node(), pid=os.getpid(), command=command, jobs=jobs, stages=stages)

    def over(self) -> None:
        """All that could be made is made."""
        self._write(event="over")

    def _write(self, **row: object) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({**row, "time": round(time.time(), 3)}) + "\n")
            self._file.flush()
        except OSError:
            self._file = None  # a run does not end because nobody can watch it


@contextmanager
def journal(root: Path, missing: Sequence[Stage], machine: Machine) -> Iterator[Journal]:
    """The journal of a process that is to make `missing`; it ends, and its lock with it, when the block does."""
    from filelock import FileLock, Timeout

    path = root / FOLDER / f"{_prefix()}{os.getpid()}-{time.time_ns()}.jsonl"
    lock, ended = FileLock(path.with_suffix(".lock")), threading.Event()
    try:
        _remove_old(root)
        lock.acquire(timeout=0)
        file = path.open("x", encoding="utf-8")
    except (OSError, Timeout, NotImplementedError):  # a file system without locks, a full disk
        lock.release()
        yield Journal(machine.progress)
        return
    made = Journal(machine.progress, file)
    made.plan(missing, machine.jobs)
    threading.Thread(target=_beat, args=(path, ended), daemon=True).start()
    try:
        yield made
        made.over()
    finally:
        ended.set()
        with suppress(OSError):
            file.close()
        lock.release()


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(path)


def _prefix() -> str:
    """How the journals of this machine begin."""
    return f"driver-{re.sub(r'[^A-Za-z0-9.]', '_', platform.node()) or 'host'}-"


def _remove_old(root: Path) -> None:
    for path in [path for path in journals(root) if not is_alive(path)][:-KEPT]:
        for one in (path, path.with_suffix(".lock")):
            with suppress(OSError):
                one.unlink(missing_ok=True)


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Driver:
    """One process that makes or made stages: its `plan` and `events`, and whether it is `alive`."""

    path: Path
    plan: JsonObject
    events: Sequence[JsonObject]
    alive: bool

    @property
    def is_over(self) -> bool:
        """Whether it came to its end; a process that is dead and is not was interrupted."""
        return any(row["event"] == "over" for row in self.events)


def journals(root: Path) -> list[Path]:
    """The journals of a results folder, the oldest first."""
    found = [path for path in (root / FOLDER).glob("driver-*.jsonl") if path.is_file()]
    return sorted(found, key=lambda path: (path.stem.rpartition("-")[2].zfill(30), path.name))


def is_alive(path: Path) -> bool:
    """Whether the process of a journal lives: its lock is held, or on another machine the file was touched lately."""
    if path.name.startswith(_prefix()):
        return is_held(path.with_suffix(".lock"))
    try:
        return time.time() - path.stat().st_mtime < SILENT
    except OSError:
        return False


def is_held(path: Path) -> bool:
    """Whether a process of this machine holds the lock; False where that cannot be told."""
    from filelock import FileLock, Timeout

    if path.is_symlink() or not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # no locks here, or another user's file
        return False
    lock.release()
    return False


def read(root: Path, complain: Callable[[str], object]) -> list[Driver]:
    """The drivers of a results folder, the oldest first; `complain` gets a sentence about each damaged journal.

    The last row of a process that was killed may be cut off: it is left out.
    """
    return Reader(root).read(complain)


class Reader:
    """Reads the journals of a results folder again and again, of each only what was appended since."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Path, _Followed] = {}

    def read(self, complain: Callable[[str], object]) -> list[Driver]:
        """As the function `read`."""
        paths = journals(self.root)
        self._known = {path: followed for path, followed in self._known.items() if path in paths}
        found = (self._driver(path, complain) for path in paths)
        return [driver for driver in found if driver]

    def own(self) -> Driver | None:
        """The driver that this process is; None where it has no journal."""
        paths = [path for path in journals(self.root) if path.name.startswith(f"{_prefix()}{os.getpid()}-")]
        return self._driver(paths[-1], lambda _: None, alive=True) if paths else None

    def _driver(self, path: Path, complain: Callable[[str], object], alive: bool | None = None) -> Driver | None:
        try:
            store.check_links(path, self.root)
            rows = self._known.setdefault(path, _Followed(path)).read()
        except BenchError as error:
            complain(error.seen.removesuffix("."))
            return None
        return Driver(path, rows[0], rows[1:], is_alive(path) if alive is None else alive)


class _Followed:
    """A journal, read up to the end of the last whole line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[JsonObject] = []
        self.read_bytes = self.inode = 0

    def read(self) -> list[JsonObject]:
        """All rows.  Raises BenchError for a damaged one and for a file that is too long."""
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_size > MOST:
                    raise BenchError(f"{self.path} is longer than {MOST // 2**20} MiB.", "Remove it.")
                if found.st_ino != self.inode or found.st_size < self.read_bytes:  # another file
                    self.rows, self.read_bytes, self.inode = [], 0, found.st_ino
                file.seek(self.read_bytes)
                text = file.read(MOST)
        except OSError as error:
            raise BenchError(f"{self.path} cannot be read ({type(error).__name__}).", "Remove it.") from error
        # what is behind the last line end is empty, or being written, or cut off
        text = text[: text.rfind(b"\n") + 1]
        new = [self._row(line, number) for number, line in enumerate(text.split(b"\n")[:-1], len(self.rows) + 1)]
        self.rows += new
        self.read_bytes += len(text)
        if not self.rows:
            raise BenchError(f"{forms.misfit(self.path, 'no rows')}.", "Remove it.")
        return self.rows

    def _row(self, line: bytes, number: int) -> JsonObject:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise BenchError(f"{self.path} is damaged (line {number}: no JSON object).", "Remove it.")
        if problem := forms.problem(row, PLAN if number == 1 else EVENT):
            raise BenchError(f"{forms.misfit(self.path, problem)}.", "Remove it.")
        return row
