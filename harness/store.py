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


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows `write_rows` wrote; raises BenchError naming the file when it is missing or damaged."""
    try:
        rows = rows_in(path.read_bytes())
        if rows is None:  # line by line, to say where
            with jsonlines.open(path) as reader:
                rows = list(reader.iter(type=dict))
        return rows
    except FileNotFoundError:
        raise BenchError(f"{path} is missing.", "Delete its folder and run again.") from None
    except (jsonlines.Error, UnicodeError) as error:
        raise BenchError(f"{path} is damaged: {error}.", "Delete its folder and run again.") from None


def rows_in(data: bytes) -> list[dict[str, Any]] | None:
    """All rows of a file in one go, which takes a fraction of the time; None where a line is no JSON object.

    Lines become the members of one JSON array.  A comma and a line end between them keep a line that is damaged from
    being mended by the next, but for two that are damaged to match: then their number is not that of the lines.
    """
    lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    collecting = gc.isenabled()
    gc.disable()  # nothing here is garbage, and the collector would look at every row again and again
    try:
        found = json.loads("[" + data.decode("utf-8").removesuffix("\n").replace("\n", ",\n") + "]")
    except (ValueError, RecursionError):
        return None
    finally:
        if collecting:
            gc.enable()
    return found if len(found) == lines and all(type(row) is dict for row in found) else None


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
