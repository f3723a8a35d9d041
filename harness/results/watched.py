"""What a results folder shows while it is written: drivers, stages in progress with their figures, cells, curves.

`bench watch` shows it, and the progress of a running command shows the part of its own process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.results import training
from rlhf_bench.harness.results.alarms import running_alarms
from rlhf_bench.harness.results.found import is_complete
from rlhf_bench.harness.results.monitors import warned
from rlhf_bench.harness.results.status import DriverStatus, StageStatus, StatusReader

if TYPE_CHECKING:
    from rlhf_bench.harness.results.arms import CellFiles
    from rlhf_bench.harness.text.types import Row

ROLE = "ppo"
"""Of the stage of a cell that optimises the policy step by step."""
STATES = ("running", "failed", "stopped", "waiting", "finished")
"""Of a cell, the first that applies to one of its stages; in this order cells are listed."""


@dataclass(frozen=True)
class InProgress:
    """A stage that runs, or that its driver left in the middle; `rows` of its steps.jsonl, [] where it has none."""

    driver: DriverStatus
    status: StageStatus
    rows: Sequence[Row] = ()

    @property
    def alarms(self) -> Mapping[str, str]:
        """Sentences about the run up to now, by what they are about."""
        return _alarms(self.rows)


def _alarms(rows: Sequence[Row]) -> dict[str, str]:
    return {**running_alarms(rows), **warned(rows)}


@dataclass(frozen=True)
class WatchedCell:
    """A cell and how far it is: `done` of `total` stages without those of judges."""

    name: str
    files: CellFiles
    state: str
    done: int
    total: int
    version: str
    """Differs when the curves have changed."""


@dataclass(frozen=True)
class Curves:
    """Of one cell: the rows of its policy optimisation, (iteration, gold) at judged checkpoints, and alarms."""

    rows: Sequence[Row]
    gold: Sequence[tuple[int, float]]
    alarms: Sequence[str]


@dataclass
class Look:
    """A results folder at one moment.  `problems`: sentences about records that cannot be read."""

    time: float
    drivers: Sequence[DriverStatus] = ()
    in_progress: Sequence[InProgress] = ()
    cells: Sequence[WatchedCell] = ()
    finished: tuple[int, int] = (0, 0)
    """Of cells, and all of them."""
    problems: list[str] = field(default_factory=list)

    @property
    def seconds_left(self) -> tuple[float, bool] | None:
        """About how long the drivers that run still take, side by side, and whether all stages could be estimated.

        None where no driver runs.
        """
        left = [one.seconds_left for one in self.drivers if one.driver.alive]
        return (max(seconds for seconds, _ in left), all(known for _, known in left)) if left else None


class Watcher:
    """Looks at a results folder again and again; what has not changed is not read twice.  Writes nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._status, self._rows = StatusReader(root), training.RowsReader(root)

    def look(self, now: float | None = None) -> Look:
        """The folder now.  Raises BenchError for a path that is no results folder, and for links out of it."""
        now = time.time() if now is None else now
        status = self._status.read(now)
        # what a later driver made is counted for that one: an older one without a stage has nothing to say
        drivers = [one for one in status.drivers if one.stages or one.driver.alive]
        problems = list(status.problems)
        progress = [
            self._in_progress(one, stage, problems) for one in drivers for stage in one.of("running", "stopped")
        ]
        states = {
            (stage.stage.kind, stage.stage.label, stage.stage.key): stage.state
            for one in drivers
            for stage in one.stages
        }
        cells = [self._cell(files, finished, states) for files, finished in status.records]
        cells.sort(key=lambda cell: (STATES.index(cell.state), cell.name))
        return Look(now, drivers, progress, cells, status.cells, list(dict.fromkeys(problems)))

    def own(self, now: float | None = None) -> tuple[DriverStatus, Sequence[InProgress]] | None:
        """The driver that this process is, and its running stages; None where it has no journal."""
        found = self._status.own(time.time() if now is None else now)
        return (found, [self._in_progress(found, stage, []) for stage in found.of("running")]) if found else None

    def curves(self, cell: WatchedCell, problems: list[str]) -> Curves:
        """The curves of a cell; sentences about damaged rows are added to `problems`."""
        kind, label, key = cell.files.record["stages"].get(ROLE) or ("", "", "")
        rows = self._rows.steps(kind, label, key, problems.append) if kind else []
        return Curves(rows, self._rows.gold(cell.files, problems.append), list(_alarms(rows).values()))

    def _in_progress(self, driver: DriverStatus, status: StageStatus, problems: list[str]) -> InProgress:
        stage = status.stage
        rows = self._rows.steps(stage.kind, stage.label, stage.key, problems.append)
        return InProgress(driver, status, rows)

    def _cell(self, files: CellFiles, finished: bool, states: Mapping[tuple[str, str, str], str]) -> WatchedCell:
        places = {role: tuple(place) for role, place in files.record["stages"].items()}
        done = len(places) if finished else sum(is_complete(files.folder(role)) for role in places)
        own = {states.get(place) for place in places.values()}
        state = "finished" if finished else next((one for one in STATES[:3] if one in own), "waiting")
        stamps = []
        if ROLE in places:
            stamps += [training.stamp_of(path) for path in training.steps_files(files.root, *places[ROLE])]
        if training.JUDGE in files.judged():
            stamps.append(training.stamp_of(files.judged()[training.JUDGE] / "verdicts.jsonl"))
        version = "-".join(f"{stamp[0]}.{stamp[1]}" for stamp in stamps if stamp)
        name = files.path.stem if files.path else ""
        return WatchedCell(name, files, state, done, len(places), version)
