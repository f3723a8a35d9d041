"""The results folder: JSON and JSON Lines files, and folders that are written aside and renamed when complete.

    ROOT/<kind>/<label>-<key>/       the result of a stage; it holds stage.json, which is written last
    ROOT/cells/<label>-<key>.json    the folders that make up a run
    ROOT/.partial/<kind>-<key>/      an unfinished stage: `work/` becomes the result, `scratch/` holds checkpoints
    ROOT/.partial/<kind>-<key>.lock  held by the process that executes the stage

A key is the hash of all that a result depends on, so equal keys mean equal results and nothing is computed twice.

A results folder may come from someone else.  Nothing in it may lead outside of it: a link would have this program read
or overwrite other files of the user (`check_links`), and so would a name with `..` in a record (`is_plain_name`).
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import jsonlines

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.replacing import replacing, sweep, write_text
from rlhf_bench.harness.text.types import JsonObject, Row

KEY_LENGTH = 12
"""Hexadecimal digits of a key in the names of folders: 48 bits."""
MARKER = "stage.json"
"""The file that marks a stage's folder as complete."""
OWN_FOLDERS = ("cells", "experiments", "report", "tracking", ".partial")
"""The folders of a results folder that hold no stages."""


def canonical(value: object) -> str:
    """A JSON value as text in one form: keys sorted, no spaces.

    Raises ValueError for NaN and infinity and TypeError for what is not JSON: such a value must not enter a key.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_key(value: object) -> str:
    """SHA-256 of a value's canonical JSON, in hexadecimal.  Raises as `canonical`."""
    # "surrogatepass": prompts may hold lone surrogates, which UTF-8 refuses
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write a JSON file.  A reader sees the old file or the new one, never a part: it is written aside and renamed.

    Raises ValueError for NaN and infinity and TypeError for what is not JSON.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _no_number(name: str) -> float:
    """Refuses NaN and infinity, which `json` reads though they are no JSON and are never written here."""
    raise ValueError(f"{name} is no number of JSON")


_loads = partial(json.loads, parse_constant=_no_number)


def read_json(path: Path) -> Any:
    """The value in a JSON file that `write_json` wrote.  Raises BenchError when the file is missing or damaged."""
    try:
        return _loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchError(f"{path} is missing.") from None
    except OSError as error:  # a folder of that name, a name that is too long, no permission
        raise BenchError(f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions.") from None
    except RecursionError:
        raise BenchError(f"{path} is damaged: nested too deeply.", "Delete its folder and run again.") from None
    except (ValueError, UnicodeError) as error:
        raise BenchError(f"{path} is damaged: {error}.", "Delete its folder and run again.") from None


MOST_TEXT = 2**24
"""Bytes of a text file that a user names: a longer one is no prompt, rubric or page, and a device never ends."""


def read_text(path: Path) -> str:
    """The text of a file that the user named, without a byte-order mark.

    Raises BenchError for one that cannot be read, is not UTF-8, or is longer than MOST_TEXT.
    """
    try:
        with path.open("rb") as file:
            found = file.read(MOST_TEXT + 1)
        if len(found) <= MOST_TEXT:
            return found.decode("utf-8-sig")
        why = f"it is longer than {MOST_TEXT // 2**20} MiB"
    except OSError as error:
        why = str(error.strerror)
    except ValueError:
        why = "it is not UTF-8"
    raise BenchError(f"Cannot read {path}: {why}.", "Give a text file.")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write one JSON object per line.  Like `write_json`, it never leaves a part of a file.

    `rows` may be a generator: they are written as they come.  Raises ValueError and TypeError as `write_json`.
    """
    # ASCII escapes: lone surrogates in model output cannot be encoded, and U+2028 ends a line for some readers.
    dumps = partial(json.dumps, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    with replacing(path) as aside, jsonlines.open(aside, "w", compact=True, dumps=dumps) as writer:
        writer.write_all(rows)


def numbered_rows(
    lines: Iterable[bytes], *, skip_empty: bool = False, loads: Callable[[str], Any] = json.loads
) -> Iterator[tuple[int, JsonObject]]:
    """(line number from 1, object) of each line of a JSON Lines file: the package's one reader of the format.

    Raises jsonlines.InvalidLineError for a line that is not a JSON object in UTF-8; its `lineno` says which, its
    `__cause__` why (None for JSON of another kind).  `skip_empty` skips blank lines, which are invalid otherwise.
    `loads` decodes a line and raises ValueError; people's files may hold NaN.
    `lines` must not raise EOFError, which jsonlines takes for the end of the file.
    """
    number = 0

    def counted() -> Iterator[bytes]:
        nonlocal number
        for number, line in enumerate(lines, 1):  # noqa: B007 - read below, with blank lines counted
            yield line

    # jsonlines decodes with orjson or ujson where one is installed: they refuse the lone surrogates of model output.
    reader = jsonlines.Reader(counted(), loads=loads)
    try:
        for row in reader.iter(type=dict, skip_empty=skip_empty):
            yield number, row
    except RecursionError as error:
        raise jsonlines.InvalidLineError("nested too deeply", "", number) from error


def _rows_at_once(data: bytes) -> list[JsonObject] | None:
    """The rows of a sound file; None where a line is no JSON object, for `numbered_rows` to say which."""
    lines = data.count(b"\n")
    try:
        # A line end stays between two rows, so that no string can begin in one line and end in the next.
        found = _loads("[" + data.decode("utf-8").removesuffix("\n").replace("\n", ",\n") + "]")
    except (ValueError, RecursionError):
        return None
    # A damaged line may be completed by the next: the members are then fewer than the lines, unless a third line holds
    # two objects.
    sound = data.endswith(b"\n") and len(found) == lines and all(type(row) is dict for row in found)
    return found if sound else None


def read_rows(path: Path) -> list[JsonObject]:
    """The rows that `write_rows` wrote; raises BenchError naming the file, and the line where one is damaged."""
    # Without the garbage collector, which would look at all rows again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        data = path.read_bytes()
        # Most of a report's time is reading: one JSON array takes two thirds of the time of its lines.
        rows = _rows_at_once(data)
        return rows if rows is not None else [row for _, row in numbered_rows(BytesIO(data), loads=_loads)]
    except FileNotFoundError:
        raise BenchError(f"{path} is missing.", "Delete its folder and run again.") from None
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from None
    except jsonlines.InvalidLineError as error:
        seen = f"{path} is damaged (line {error.lineno}: no JSON object)."
        raise BenchError(seen, "Delete its folder and run again.") from error
    finally:
        if collecting:
            gc.enable()


# -- paths, and folders that may come from someone else ----------------------------------------------------------------


def exists(path: Path) -> bool:
    """Whether there is such a file or folder. Path.exists raises for a name that is too long."""
    try:
        return path.exists()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether there is such a folder, as `exists`."""
    return exists(path) and path.is_dir()


def is_plain_name(text: object) -> bool:
    """Whether a text of a record is usable as one part of a path: not empty, hidden, `..` or a path of its own."""
    return isinstance(text, str) and bool(text) and not text.startswith(".") and not set(text) & set("/\\\0")


def check_inside(path: Path, root: Path) -> None:
    """Raises BenchError where a path below `root` leads outside of it, by links or by `..`."""
    # os.path, not Path.resolve: a link to itself must not raise here, reading it says what is wrong
    real, top = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    if not real.is_relative_to(top):
        raise BenchError(f"{path} leads outside of {root}, to {real}.", "Put a copy of what it points to in its place.")


def check_links(folder: Path, root: Path, depth: int = 20) -> None:
    """Raises BenchError where `folder`, or anything in it down to `depth` folders, leads outside of `root`.

    Also for a pipe, a socket or a device: reading one may never end.
    """
    check_inside(folder, root)
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        if exists(folder) and not folder.is_file():
            raise BenchError(f"{folder} is neither a file nor a folder.", "Remove it.") from None
        return
    except OSError as error:
        raise BenchError(f"{folder} cannot be read: {error.strerror}.", "Check its permissions.") from None
    for entry in entries:
        if entry.is_symlink():
            check_inside(Path(entry.path), root)
        elif entry.is_dir():
            if depth > 0:
                check_links(Path(entry.path), root, depth - 1)
        elif not entry.is_file():
            raise BenchError(f"{entry.path} is neither a file nor a folder.", "Remove it.")


def _give_rights(work: Path) -> None:
    """Give all files of a stage the rights of its stage.json, which are those of the umask.

    safetensors writes files that their owner alone may read, so a results folder could not be shared.
    """
    if not (work / MARKER).is_file():
        return  # the umask cannot be read without changing it for all threads
    rights = (work / MARKER).stat().st_mode & 0o777
    for path in work.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o777 != rights:
            path.chmod(rights)


class Store:
    """The results folder of `--out`, by default `runs`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Create the folder.

        Raises BenchError when it cannot be written or is a file, and where a link in it leads elsewhere.
        """
        try:
            if self.root.exists() and not self.root.is_dir():
                raise BenchError(f"{self.root} is not a folder.", "Give another --out.")
            self.check_own_folders()
            (self.root / ".partial").mkdir(parents=True, exist_ok=True)
            for name in OWN_FOLDERS:
                sweep(self.root / name)
            # Tried by writing: permissions do not tell whether the file system is read-only.
            with replacing(probe := self.root / ".partial" / f"probe.{os.getpid()}") as aside:
                aside.write_text("written")  # a full disk takes an empty file
            probe.unlink()
        except OSError as error:
            raise BenchError(f"Cannot write to {self.root}: {error.strerror}.", "Give another --out.") from None

    def check_own_folders(self) -> None:
        """Raises BenchError where a folder that is written to, beside those of stages, leads elsewhere."""
        # by name: `--out .` may hold other things of the user
        for name in OWN_FOLDERS:
            check_links(self.root / name, self.root, depth=1)

    def folder(self, kind: str, label: str, key: str) -> Path:
        """Where the result of a stage lies or will lie."""
        return self.root / kind / f"{label}-{key[:KEY_LENGTH]}"

    def complete(self, kind: str, label: str, key: str) -> bool:
        """Whether the result exists.

        Raises BenchError for a folder without its stage.json, which is no result, and for one with links to elsewhere.
        """
        folder = self.folder(kind, label, key)
        if (folder / MARKER).is_file():
            check_links(folder, self.root)
            return True
        if folder.exists():
            raise BenchError(f"{folder} has no {MARKER}: it is half-written.", "Delete it and run again.")
        return False

    def check_unfinished(self, unfinished: Path) -> None:
        """Raises BenchError where the folder of an unfinished stage, or its lock, leads outside of the store."""
        # What is in it is read, overwritten and deleted.
        for path in (unfinished.with_suffix(".lock"), unfinished):
            check_links(path, self.root)

    @contextmanager
    def writing(self, kind: str, label: str, key: str) -> Iterator[tuple[Path, Path] | None]:
        """Lock a stage and yield (work, scratch), two folders to write in, or None when its result exists.

        When the block ends, `work` becomes the result and `scratch` is deleted.  When it raises, both stay, and the
        next call starts with an empty `work` and the same `scratch`.  Waits while another process executes the stage.
        """
        from filelock import FileLock

        unfinished = self.root / ".partial" / f"{kind}-{key[:KEY_LENGTH]}"
        work, scratch = unfinished / "work", unfinished / "scratch"
        self.check_unfinished(unfinished)
        # A lock of the operating system: it ends with its process, even one that is killed.
        with FileLock(unfinished.with_suffix(".lock")):
            if self.complete(kind, label, key):
                shutil.rmtree(unfinished, ignore_errors=True)  # left where a kill came after the renaming
                yield None
                return
            shutil.rmtree(work, ignore_errors=True)  # half a result of an interrupted run
            work.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
            yield work, scratch
            target = self.folder(kind, label, key)
            check_inside(target, self.root)
            _give_rights(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            work.replace(target)  # atomic on one file system: a folder with its final name is complete
            shutil.rmtree(unfinished, ignore_errors=True)
