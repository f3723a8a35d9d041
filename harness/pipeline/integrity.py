"""Whether stored files are what was written: sizes and SHA-256 of a stage's files, in its stage.json.

A disk, a copy that was cut off or an editor may change a file.  `stage.json` therefore lists every file of its stage,
and it and the other records of a results folder hold a hash of themselves.  What is checked where:

- What a command reads is hashed: the rows that a report is computed from, and every file of a stage that another stage
  has as an input (verdicts read no weights, and take their sizes).  SHA-256 reads 1 GB in about a second, which is less
  than what comes after it: parsing rows, loading weights, training.
- What a command does not read is checked by its size alone.  `bench check store --full` hashes everything.

Stages that were made before hashes were stored list no files: nothing is said of them but that they are unlisted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from rlhf_bench.harness import forms, store
from rlhf_bench.harness.errors import BenchError, DamagedError
from rlhf_bench.harness.printable import printable
from rlhf_bench.harness.text.types import JsonObject, Row

FILES = "files"
"""The key in stage.json of {path below the stage's folder: {"bytes": size, "sha256": hash}}."""
SEAL = "record_sha256"
"""The key in a record of the hash of all its other content and of its place."""
REPAIR = "bench run --repair makes damaged stages again."

Hashed = Callable[[str, int], bool]
"""Whether a file, given its path below the stage's folder and its size in bytes, is hashed or its size is enough."""

Stamp = tuple[int, int, int]
_known: dict[Path, tuple[Stamp, str]] = {}


def every_file(name: str, size: int) -> bool:  # noqa: ARG001
    """Hash all."""
    return True


def no_file(name: str, size: int) -> bool:  # noqa: ARG001
    """Hash none: sizes alone."""
    return False


def no_weights(name: str, size: int) -> bool:  # noqa: ARG001
    """Hash all but weights."""
    return not name.endswith(".safetensors")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, once in a process for as long as its inode, time and size stay.  Raises OSError."""
    found = path.stat()
    stamp = found.st_ino, found.st_mtime_ns, found.st_size
    known = _known.get(path)
    if known is None or known[0] != stamp:
        with path.open("rb") as file:
            known = _known[path] = stamp, hashlib.file_digest(file, "sha256").hexdigest()
    return known[1]


def listed(folder: Path) -> JsonObject:
    """{path below `folder`: {"bytes", "sha256"}} of all its files but stage.json and hidden ones, ordered by path."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)}
        for name in _names(folder)
        if name != store.MARKER
    }


def _names(folder: Path) -> list[str]:
    # hidden files are those of file managers, and our own that are written aside
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))


# -- records -----------------------------------------------------------------------------------------------------------


def sealed(record: Row, place: str) -> JsonObject:
    """The record with the hash of its content and place under SEAL.

    `place` is where it belongs, so that the record of another cell or stage does not pass for it.
    """
    plain = unsealed(record)
    # as it is read back: JSON makes texts of the numbers that are keys, which are then ordered otherwise
    return {**plain, SEAL: store.content_key([place, json.loads(store.canonical(plain))])}


def unsealed(record: Row) -> JsonObject:
    """The record without its SEAL."""
    return {name: value for name, value in record.items() if name != SEAL}


def seal_problem(record: Row, place: str) -> str:
    """What is wrong with a record by its SEAL; "" for nothing, and for a record that has none."""
    if SEAL not in record:
        return ""
    try:
        sound = record[SEAL] == sealed(record, place)[SEAL]
    except ValueError:  # NaN, which no record holds
        sound = False
    return "" if sound else "it was changed after it was written, or belongs elsewhere"


# -- stages ------------------------------------------------------------------------------------------------------------


def stage_place(record: Row) -> str:
    """Where a stage's record says that its folder lies: kind/label-key."""
    return f"{record.get('kind')}/{record.get('label')}-{str(record.get('key'))[: store.KEY_LENGTH]}"


def is_listed(record: Row) -> bool:
    """Whether the stage was made by a version that lists its files."""
    return FILES in record or SEAL in record


def damage(folder: Path, hashed: Hashed, record: object = None, *, moved: bool = False) -> Iterator[str]:
    """Sentences, without a full stop, about what has changed in a finished stage's folder since it was written.

    Nothing of a stage that lists no files.  `record` is its stage.json where the caller has read it.  `moved`: the
    folder may be a copy under another name.
    """
    marker = folder / store.MARKER
    if record is None:
        try:
            record = store.read_json(marker)
        except BenchError as error:
            yield error.seen.removesuffix(".")
            return
    if not isinstance(record, dict):
        yield f"{marker} is damaged: a {type(record).__name__}"
        return
    if not is_listed(record):
        return
    files = record.get(FILES)
    place = stage_place(record)
    sound = SEAL in record and not seal_problem(record, place)
    if not sound or not isinstance(files, dict) or not _are_files(files):
        yield f"{marker} is damaged: it was changed after it was written"
    elif not moved and place != f"{folder.parent.name}/{folder.name}":
        yield f"{marker} is of another stage, {printable(place)}"
    else:
        for name, wanted in files.items():
            problem = _file_damage(folder / name, wanted, hashed(name, wanted["bytes"]))
            if problem:
                yield f"{folder / name} {problem}"


def _are_files(found: Row) -> bool:
    """Whether a record's list of files has its form, and names files below its folder alone.

    A hash says nothing about who wrote it: a folder of someone else may list "../../another", to be opened.
    """
    below = (store.is_plain_name(part) for name in found for part in name.split("/"))
    # not printable: half of a surrogate pair, which no file system takes, and line breaks
    return not forms.problem(found, forms.FILES) and all(below) and all(map(str.isprintable, found))


def _file_damage(path: Path, wanted: Row, hashed: bool) -> str:
    try:
        size = path.stat().st_size
        if not path.is_file():
            return "is no file"
        if size != wanted["bytes"]:
            return f"has {size:,} bytes and was written with {wanted['bytes']:,}"
        return "was changed after it was written" if hashed and file_hash(path) != wanted["sha256"] else ""
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def added(folder: Path) -> Iterator[str]:
    """Sentences about files that a stage did not write: a library may read them as part of a model."""
    try:
        record = store.read_json(folder / store.MARKER)
    except BenchError:
        return  # `damage` says it
    if isinstance(record, dict) and isinstance(record.get(FILES), dict) and _are_files(record[FILES]):
        known = {*record[FILES], store.MARKER}
        yield from (f"{folder / name} is no file of its stage" for name in _names(folder) if name not in known)


def used(folder: Path, hashed: Hashed = every_file, *, moved: bool = False) -> list[str]:
    """`damage` and `added` of a stage whose folder is about to be read whole; for a sound one, what is of another form.

    Hashes that fit say that the files belong together, not that this program wrote them.
    """
    return [*damage(folder, hashed, moved=moved), *added(folder)] or list(_other_forms(folder))


def _other_forms(folder: Path) -> Iterator[str]:
    for name in (*forms.ROWS, *forms.FILE):
        path = folder / name
        if not path.is_file():
            continue
        try:
            if name in forms.FILE:
                problem = forms.problem(store.read_json(path), forms.FILE[name])
            else:
                other = forms.row_problem(store.read_rows(path), name)
                problem = f"line {other[0]}: {other[1]}" if other else ""
        except BenchError as error:
            yield error.seen.removesuffix(".")
            continue
        if problem:
            yield forms.misfit(path, problem)


def check_used(folder: Path, hashed: Hashed = every_file, *, moved: bool = False) -> None:
    """Raises DamagedError with the first sentence of `used`."""
    for sentence in used(folder, hashed, moved=moved):
        raise DamagedError(f"{sentence}.", REPAIR)
