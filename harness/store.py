"""Folders of results: written aside, then renamed, so that a folder that exists is complete.

ROOT/<kind>/<label>-<key>/   a stage's result, `stage.json` inside
ROOT/cells/<label>-<key>.json   which folders make up a cell
ROOT/.partial/<kind>-<key>/  a stage in the making: `work/` becomes the result, `scratch/` holds its checkpoints
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonlines

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.text.types import JsonObject

KEY_LENGTH = 12
MARKER = "stage.json"


def canonical(value: Any) -> str:
    """One spelling of a JSON value: sorted keys, no spaces, no nan."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_key(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write aside, then rename: a reader sees the old file or the new one, never half of one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    aside.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")  # a lone surrogate as its JSON escape
    aside.replace(path)


def read_json(path: Path) -> Any:
    """A JSON file of ours; raises BenchError when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchError(f"{path} is missing.") from None
    except (ValueError, UnicodeError) as error:
        raise BenchError(f"{path} is damaged: {error}.", "Delete its folder and run again.") from None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, aside and renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with jsonlines.open(aside, "w", compact=True, dumps=_dumps) as writer:
        writer.write_all(rows)
    aside.replace(path)


def _dumps(value: Any) -> str:
    # ASCII escapes keep lone surrogates and line separators in model output from breaking the file
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def numbered_rows(lines: Iterable[bytes], *, skip_empty: bool = False) -> Iterator[tuple[int, JsonObject]]:
    """(line number from 1, object) of each line of a JSON Lines file: the package's one reader of the format.

    Raises jsonlines.InvalidLineError for a line that is not a JSON object in UTF-8; its `lineno` says which, its
    `__cause__` why (None for JSON of another kind).  `skip_empty` skips blank lines, which are invalid otherwise.
    `lines` must not raise EOFError, which jsonlines takes for the end of the file.
    """
    number = 0

    def counted() -> Iterator[bytes]:
        nonlocal number
        for number, line in enumerate(lines, 1):  # noqa: B007 - read below, with blank lines counted
            yield line

    # jsonlines decodes with orjson or ujson where one is installed: they refuse the lone surrogates of model output.
    reader = jsonlines.Reader(counted(), loads=json.loads)
    try:
        for row in reader.iter(type=dict, skip_empty=skip_empty):
            yield number, row
    except RecursionError as error:
        raise jsonlines.InvalidLineError("nested too deeply", "", number) from error


def read_rows(path: Path) -> list[JsonObject]:
    """The rows that `write_rows` wrote; raises BenchError naming the file, and the line where one is damaged."""
    # Without the garbage collector, which would look at all rows again and again: 50,000 verdicts (10 MB) take .25 s
    # instead of .35 s.  Parsing the file as one JSON array, not line by line, was no faster than that.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with path.open("rb") as file:
            return [row for _, row in numbered_rows(file)]
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


class Store:
    """A root folder of results."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the root; raises BenchError when it cannot be written or holds something else."""
        try:
            if self.root.exists() and not self.root.is_dir():
                raise BenchError(f"{self.root} is not a folder.", "Give another --out.")
            (self.root / ".partial").mkdir(parents=True, exist_ok=True)
            probe = self.root / ".partial" / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise BenchError(f"Cannot write to {self.root}: {error.strerror}.", "Give another --out.") from None

    def folder(self, kind: str, label: str, key: str) -> Path:
        return self.root / kind / f"{label}-{key[:KEY_LENGTH]}"

    def complete(self, kind: str, label: str, key: str) -> bool:
        """Whether the result is there.  Raises BenchError for a folder that something else left half-written."""
        folder = self.folder(kind, label, key)
        if (folder / MARKER).is_file():
            return True
        if folder.exists():
            raise BenchError(f"{folder} has no {MARKER}: it is half-written.", "Delete it and run again.")
        return False

    @contextmanager
    def writing(self, kind: str, label: str, key: str) -> Iterator[tuple[Path, Path] | None]:
        """(work, scratch) to write a stage in, or None when it is complete; on leaving, `work` becomes the result.

        A lock of the operating system keeps two processes from making the same stage; it ends with its holder.
        """
        from filelock import FileLock

        partial = self.root / ".partial" / f"{kind}-{key[:KEY_LENGTH]}"
        work, scratch = partial / "work", partial / "scratch"
        with FileLock(partial.with_suffix(".lock")):
            if self.complete(kind, label, key):
                shutil.rmtree(partial, ignore_errors=True)  # a kill came between the renaming and this
                yield None
                return
            shutil.rmtree(work, ignore_errors=True)  # what an interrupted run left; its checkpoints are in scratch
            work.mkdir(parents=True)
            scratch.mkdir(exist_ok=True)
            yield work, scratch
            target = self.folder(kind, label, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            work.replace(target)
            shutil.rmtree(partial, ignore_errors=True)
