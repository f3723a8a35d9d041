"""What of a results folder no finished cell needs, and deleting it: `bench clean`.

Needed are the stages of finished cells with their judges, those of experiments' analyses, what an interrupted or
running driver planned, and all inputs of these.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_bench.harness import forms, store
from rlhf_bench.harness.errors import BenchError, DamagedError
from rlhf_bench.harness.pipeline import integrity, journal
from rlhf_bench.harness.results.found import is_complete
from rlhf_bench.harness.results.status import check_results_folder, is_finished, planned, planned_cell, size_of

LEAVING = ".cleaned"
"""Ends the name of a folder below .partial that is being deleted."""


@dataclass(frozen=True)
class Unused:
    """A file or folder that can go, why, and its bytes."""

    path: Path
    why: str
    size: int


def find_unused(root: Path) -> list[Unused]:
    """What no finished cell of a results folder needs, ordered by path.

    Raises BenchError for a path that is no results folder, for links out of it, and while a driver is running, whose
    cells are not finished; DamagedError for a record that cannot be read: what it needs is unknown.
    """
    check_results_folder(root)
    said = list[str]()
    drivers = journal.read(root, said.append)
    for driver in drivers:
        if driver.alive:
            seen = f"Process {driver.plan['pid']} on {driver.plan['host']} is writing to {root}."
            raise BenchError(seen, "Wait for its end (bench status), or interrupt it.")
    for lock in sorted((root / ".partial").glob("*.lock")):
        if journal.is_held(lock):  # by a version of this program that keeps no journal
            raise BenchError(f"A process is writing to {root}: {lock} is locked.", "Wait for its end, or interrupt it.")
    for sentence in said:
        raise DamagedError(f"{sentence}: what it needs is unknown.", "Remove the file.")
    left = [driver for driver in drivers if any(not is_complete(one.folder(root)) for one in planned(driver))]
    folders, records = _needed(root, left)
    found = [
        # a folder without a record may be anything: --out may name a folder with other things in it
        Unused(folder, "no finished cell needs it", size_of(folder))
        for folder in _all(root)
        if folder not in folders and is_complete(folder)
    ]
    others = [path for path in sorted((root / "cells").glob("*.json")) if path not in records]
    found += [Unused(path, "record of a cell that is not finished", size_of_file(path)) for path in others]
    over = {driver.path for driver in drivers if driver not in left}
    return found + list(_partial(root, {f"{one.parent.name}-{one.name.rpartition('-')[2]}" for one in folders}, over))


def _needed(root: Path, left: Sequence[journal.Driver]) -> tuple[set[Path], set[Path]]:
    """(folders of stages, records of cells) that stay: of finished cells, of analyses, and of what drivers left.

    The same command as that of a driver would go on with what it left.
    """
    folders = {one.folder(root) for driver in left for one in planned(driver)}
    records = set[Path]()
    for path in sorted((root / "cells").glob("*.json")):
        try:
            cell = planned_cell(path)
        except BenchError as error:
            raise DamagedError(error.seen, "bench run --repair writes it again; what it needs is unknown.") from error
        own = {cell.folder(role) for role in cell.record["stages"]}
        if is_finished(cell):
            folders |= own | set(cell.judged().values())
        elif not own & folders:
            continue
        records.add(path)
    for path in sorted((root / "experiments").glob("*.json")):
        record = store.read_json(path)
        if problem := forms.problem(record, forms.EXPERIMENT):
            raise DamagedError(f"{path} is damaged ({problem}): what it needs is unknown.", "Run the experiment again.")
        places = [one["place"] for own_analyses in record["analyses"].values() for one in own_analyses]
        folders |= {store.Store(root).folder(*place) for place in places}
    return _with_inputs(root, folders), records


def _with_inputs(root: Path, folders: set[Path]) -> set[Path]:
    """Folders of stages with their inputs, and theirs; a stage's record has the names of their folders alone."""
    places: dict[str, list[Path]] = {}
    for folder in _all(root):
        places.setdefault(folder.name, []).append(folder)
    found, todo = set(folders), list(folders)
    while todo:
        marker = todo.pop() / store.MARKER
        if not marker.is_file():
            continue
        record = store.read_json(marker)
        if problem := forms.problem(record, forms.MARKER):
            raise DamagedError(f"{marker} is damaged ({problem}): what it needs is unknown.", integrity.REPAIR)
        more = {place for name in record.get("inputs", {}).values() for place in places.get(str(name), ())} - found
        found |= more
        todo += more
    return found


def _all(root: Path) -> Iterator[Path]:
    """Every folder of a stage, by kind and name."""
    for kind in sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink()):
        if kind.name not in store.OWN_FOLDERS and not kind.name.startswith("."):
            yield from sorted(path for path in kind.iterdir() if path.is_dir() and not path.is_symlink())


def _partial(root: Path, wanted: set[str], over: set[Path]) -> Iterator[Unused]:
    """Of `.partial`: stages in progress that nothing waits for, locks, and journals of drivers that left nothing."""
    folder = root / ".partial"
    for path in sorted(folder.iterdir() if folder.is_dir() else ()):
        if path.is_symlink():
            continue
        if path.is_dir() and path.name not in wanted:
            yield Unused(path, "unfinished, and nothing waits for it", size_of(path))
        elif path in over or path.with_suffix(".jsonl") in over:
            yield Unused(path, "of a driver that has ended", size_of_file(path))
        elif path.suffix == ".lock" and not path.name.startswith("driver-") and path.stem not in wanted:
            yield Unused(path, "lock of a stage that is finished", size_of_file(path))


def size_of_file(path: Path) -> int:
    """Bytes of a file."""
    return path.lstat().st_size


def delete(root: Path, found: Sequence[Unused]) -> None:
    """Delete what `find_unused` found.  Raises BenchError where something cannot be deleted; what was before it is."""
    for one in found:
        try:
            if one.path.is_dir() and one.path.parent.name != ".partial":
                # renamed first: a folder with its final name is whole, also while it is deleted
                aside = root / ".partial" / f"{one.path.parent.name}-{one.path.name}{LEAVING}"
                aside.parent.mkdir(exist_ok=True)
                one.path.replace(aside)
                shutil.rmtree(aside)
            elif one.path.is_dir():
                shutil.rmtree(one.path)
            else:
                one.path.unlink(missing_ok=True)
        except OSError as error:
            raise BenchError(f"{one.path} cannot be deleted: {error.strerror}.", "Check its permissions.") from error
