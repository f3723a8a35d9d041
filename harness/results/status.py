"""What is done, running, failed and left in a results folder, from its records and the journals of its drivers.

A driver is a process that makes stages: `bench run`, `bench experiment`, `bench judge`.  Each stage is counted once,
for the last driver that planned it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from rlhf_bench.harness import forms, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import integrity, journal
from rlhf_bench.harness.plan.costs import Rate, rough_seconds
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.harness.results.found import is_complete

State = Literal["done", "running", "failed", "stopped", "waiting"]
"""Of a stage.  stopped: its driver ended in the middle of it; waiting: it was not begun."""


MOST = 2**22
"""Bytes of a cell's record: a longer one is not what a plan writes, and is not read."""


class Planned(NamedTuple):
    """A stage as a journal names it (`costs.Costed`); `key` is as short as its folder has it."""

    kind: str
    label: str
    key: str
    family: str
    cost: float

    @property
    def name(self) -> str:
        """As progress names it."""
        return f"{self.kind} {self.label}"

    def folder(self, root: Path) -> Path:
        """Where its result lies, or will lie."""
        return store.Store(root).folder(self.kind, self.label, self.key)


def planned(driver: journal.Driver) -> list[Planned]:
    """What a driver was to make, in order."""
    rows = ((*row["place"], row["family"], row["cost"]) for row in driver.plan["stages"])
    return [Planned(kind, label, key, family, cost) for kind, label, key, family, cost in rows]


@dataclass(frozen=True)
class StageStatus:
    """`since`: when it began, in seconds of the epoch; `done` of `total` steps, 0 where none are known.

    `left`: about how many seconds of one core are left; None where that cannot be estimated.
    """

    stage: Planned
    state: State
    since: float = 0.0
    done: int = 0
    total: int = 0
    error: str = ""
    left: float | None = None


@dataclass(frozen=True)
class DriverStatus:
    """A driver and the stages that are counted for it."""

    driver: journal.Driver
    stages: Sequence[StageStatus]

    def of(self, *states: State) -> list[StageStatus]:
        """The stages in one of these states."""
        return [one for one in self.stages if one.state in states]

    @property
    def state(self) -> str:
        """running, finished, or interrupted: it is dead and did not come to its end."""
        return "running" if self.driver.alive else "finished" if self.driver.is_over else "interrupted"

    @property
    def seconds_left(self) -> tuple[float, bool]:
        """About how many seconds are left with the jobs of the driver, and whether all stages could be estimated."""
        left = [one.left for one in self.of("running", "stopped", "waiting")]
        known = [seconds for seconds in left if seconds is not None]
        jobs = max(1, self.driver.plan["jobs"])
        return max([sum(known) / jobs, *known], default=0.0), len(known) == len(left)


@dataclass
class Status:
    """Of a results folder.  `records`: its cells, and whether each is finished; `sizes`: bytes by folder; `problems`:
    sentences, without a full stop, about records that cannot be read.
    """

    drivers: list[DriverStatus] = field(default_factory=list)
    records: Sequence[tuple[CellFiles, bool]] = ()
    unread: int = 0
    """Records of cells that cannot be read."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def cells(self) -> tuple[int, int]:
        """The number of finished cells, and of all."""
        return sum(finished for _, finished in self.records), len(self.records) + self.unread


def read_status(root: Path, now: float) -> Status:
    """The status of a results folder at the time `now`, in seconds of the epoch.

    Raises BenchError for a path that is no results folder, and for links out of it.
    """
    found = StatusReader(root).read(now)
    found.sizes = {path.name: size_of(path) for path in sorted(root.iterdir()) if path.is_dir()}
    return found


class StatusReader:
    """Reads the status of a results folder again and again; what has not changed is not read twice."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._journals = journal.Reader(root)
        self._rates: dict[Path, Rate | None] = {}
        self._left: tuple[frozenset[str], Mapping[str, float | None]] = frozenset(), {}
        self._cells: dict[Path, tuple[object, CellFiles | str]] = {}

    def read(self, now: float) -> Status:
        """The status at the time `now`, without sizes.  Raises as `read_status`."""
        check_results_folder(self.root)
        found = Status()
        counted, owned = set[Path](), list[tuple[journal.Driver, list[Planned]]]()
        for driver in reversed(self._journals.read(found.problems.append)):
            own = [stage for stage in planned(driver) if stage.folder(self.root) not in counted]
            counted |= {stage.folder(self.root) for stage in own}
            owned.insert(0, (driver, own))
        rough = self._rough([stage for _, own in owned for stage in own])
        found.drivers = [
            DriverStatus(driver, list(_of_stages(self.root, driver, own, rough, now))) for driver, own in owned
        ]
        read = [self._cell(path) for path in sorted((self.root / "cells").glob("*.json"))]
        found.records = [(cell, is_finished(cell)) for cell in read if isinstance(cell, CellFiles)]
        found.problems += [problem for problem in read if isinstance(problem, str)]
        found.unread = len(read) - len(found.records)
        return found

    def own(self, now: float) -> DriverStatus | None:
        """The driver that this process is, with all stages that it planned; None where it has no journal."""
        driver = self._journals.own()
        if driver is None:
            return None
        own = planned(driver)
        return DriverStatus(driver, list(_of_stages(self.root, driver, own, self._rough(own), now)))

    def _rough(self, stages: Sequence[Planned]) -> Mapping[str, float | None]:
        """Estimates of the stages that are left."""
        left = [stage for stage in stages if not is_complete(stage.folder(self.root))]
        keys = frozenset(stage.key for stage in left)
        if keys != self._left[0]:  # once for all drivers: it reads the records of all finished stages
            self._left = keys, rough_seconds(left, store.Store(self.root), self._rates)
        return self._left[1]

    def _cell(self, path: Path) -> CellFiles | str:
        """The cell of a record, or what is wrong with the record."""
        try:
            made = path.stat()
            stamp = made.st_mtime_ns, made.st_size, made.st_ino
            if made.st_size > MOST:
                return f"{path} is longer than {MOST // 2**20} MiB"
            if self._cells.get(path, (None, ""))[0] != stamp:
                self._cells[path] = stamp, planned_cell(path)
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
        except BenchError as error:
            return error.seen.removesuffix(".")
        return self._cells[path][1]


def check_results_folder(root: Path) -> None:
    """Raises BenchError for a path that is no results folder, and where a folder of its records leads elsewhere."""
    if not (store.is_folder(root) and (store.is_folder(root / "cells") or store.is_folder(root / ".partial"))):
        raise BenchError(f"{root} is no results folder.", "Give the --out folder of a bench run.")
    store.Store(root).check_own_folders()


def _of_stages(
    root: Path, driver: journal.Driver, own: Sequence[Planned], rough: Mapping[str, float | None], now: float
) -> Iterator[StageStatus]:
    begun, ended = dict[str, float](), dict[str, str]()
    steps = dict[str, tuple[int, int]]()
    for row in driver.events:
        name = row.get("stage", "")
        if row["event"] == "start":
            begun[name] = row["time"]
        elif row["event"] == "step":
            steps[name] = row.get("done", 0), row.get("total", 0)
        elif row["event"] == "end":
            ended[name] = row.get("error", "")
    for stage in own:
        done, total = steps.get(stage.key, (0, 0))
        since, estimate = begun.get(stage.key, 0.0), rough.get(stage.key)
        if is_complete(stage.folder(root)):
            yield StageStatus(stage, "done", since)
        elif ended.get(stage.key):
            yield StageStatus(stage, "failed", since, done, total, ended[stage.key], estimate)
        elif not since or stage.key in ended:
            yield StageStatus(stage, "waiting", left=estimate)
        else:
            left = None if estimate is None else estimate * (1 - done / total if total else 1)
            if driver.alive and done and total:  # its own speed says more than that of others
                left = (now - since) * (total - done) / done
            yield StageStatus(stage, "running" if driver.alive else "stopped", since, done, total, "", left)


def planned_cell(path: Path) -> CellFiles:
    """The cell of a record, whose stages need not have finished.

    Raises BenchError for a record that is damaged or of another version.
    """
    record = store.read_json(path)
    problem = forms.problem(record, forms.CELL) or integrity.seal_problem(record, path.name)
    if problem:
        raise BenchError(f"{forms.misfit(path, problem)}.")
    return CellFiles(record, path.parent.parent, path)


def is_finished(cell: CellFiles) -> bool:
    """Whether all stages of the cell are there, those of its judges apart."""
    return all(is_complete(cell.folder(role)) for role in cell.record["stages"])


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder, links not followed; files that vanish meanwhile count as empty."""
    total = 0
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(top) / name).lstat().st_size
            except OSError:
                continue
    return total
