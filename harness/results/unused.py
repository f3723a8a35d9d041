"""What of a results folder no finished cell needs, and deleting it: `bench clean`.

Needed are the stages of finished cells with their judges, those of experiments' analyses, what an interrupted or
running driver planned, and all inputs of these.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_bench.harness import forms, store
from rlhf_bench.harness.errors import BenchError, DamagedError
from rlhf_bench.harness.pipeline import integrity, journal
from rlhf_bench.harness.results.found import is_complete
from rlhf_bench.harness.results.status import check_results_folder, folders_of, size_of

LEAVING = ".cleaned"
"""Ends the name of a folder below .partial that is being deleted."""


@dataclass(frozen=True)
class Unused:
    """A file or folder that can go, why, and its bytes."""

    path: Path
    why: str
    size: int


@dataclass
class _Needed:
    """Names of folders as kind/label-key, and of cell records."""

    folders: set[str] = field(default_factory=set)
    records: set[str] = field(default_factory=set)


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
    needed = _needed(root, drivers)
    found = list(_stages(root, needed))
    records = [path for path in sorted((root / "cells").glob("*.json")) if path.stem not in needed.records]
    found += [Unused(path, "record of a cell that is not finished", size_of_file(path)) for path in records]
    wanted = {f"{name.partition('/')[0]}-{name.rpartition('-')[2]}" for name in needed.folders}
    found += _partial(root, wanted, {driver.path for driver in drivers if not _is_left(root, driver)})
    return found


def _needed(root: Path, drivers: Sequence[journal.Driver]) -> _Needed:
    needed = _Needed()
    for path in sorted((root / "cells").glob("*.json")):
        try:
            folders = folders_of(path, root)
        except BenchError as error:
            raise DamagedError(error.seen, "bench run --repair writes it again; what it needs is unknown.") from error
        if all(map(is_complete, folders)):
            needed.records.add(path.stem)
            places = store.read_json(path)["judges"].values()
            needed.folders |= {f"{folder.parent.name}/{folder.name}" for folder in folders}
            needed.folders |= {f"{kind}/{label}-{key}" for kind, label, key in places}
    for path in sorted((root / "experiments").glob("*.json")):
        record = store.read_json(path)
        if problem := forms.problem(record, forms.EXPERIMENT):
            raise DamagedError(f"{path} is damaged ({problem}): what it needs is unknown.", "Run the experiment again.")
        places = [one["place"] for own in record["analyses"].values() for one in own]
        needed.folders |= {f"{kind}/{label}-{key}" for kind, label, key in places}
    for driver in filter(lambda one: _is_left(root, one), drivers):
        planned = {_folder(row) for row in driver.plan["stages"]}
        needed.folders |= planned
        needed.records |= {path.stem for path in (root / "cells").glob("*.json") if planned & _of_cell(path, root)}
    _with_inputs(root, needed.folders)
    return needed


def _folder(row: dict[str, str]) -> str:
    return f"{row['kind']}/{row['label']}-{row['key']}"


def _of_cell(path: Path, root: Path) -> set[str]:
    return {f"{folder.parent.name}/{folder.name}" for folder in folders_of(path, root)}


def _is_left(root: Path, driver: journal.Driver) -> bool:
    """Whether something that the driver planned is not made: the same command would go on with it."""
    return any(not is_complete(root / _folder(row)) for row in driver.plan["stages"])


def _with_inputs(root: Path, folders: set[str]) -> None:
    """Add the inputs of stages, and theirs; a stage's record has the names of their folders without the kind."""
    places: dict[str, set[str]] = {}
    for name in (f"{folder.parent.name}/{folder.name}" for folder in _all(root)):
        places.setdefault(name.partition("/")[2], set()).add(name)
    todo = list(folders)
    while todo:
        marker = root / todo.pop() / store.MARKER
        if not marker.is_file():
            continue
        record = store.read_json(marker)
        if problem := forms.problem(record, forms.MARKER):
            raise DamagedError(f"{marker} is damaged ({problem}): what it needs is unknown.", integrity.REPAIR)
        more = {place for name in record.get("inputs", {}).values() for place in places.get(str(name), ())} - folders
        folders |= more
        todo += more


def _all(root: Path) -> Iterator[Path]:
    """Every folder of a stage, by kind and name."""
    for kind in sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink()):
        if kind.name not in store.OWN_FOLDERS and not kind.name.startswith("."):
            yield from sorted(path for path in kind.iterdir() if path.is_dir() and not path.is_symlink())


def _stages(root: Path, needed: _Needed) -> Iterator[Unused]:
    for folder in _all(root):
        # a folder without a record may be anything: --out may name a folder with other things in it
        if f"{folder.parent.name}/{folder.name}" not in needed.folders and is_complete(folder):
            yield Unused(folder, "no finished cell needs it", size_of(folder))


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
