"""Reading rows of text columns from files (JSON Lines, JSON, CSV, Parquet; gzip too) and from the Hugging Face hub.

Every fault is a BenchError that names the file, the line or row and what was seen.  Nothing falls back on anything.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jsonlines

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.store import numbered_rows

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")

LONGEST_FIELD = 2**30
"""Characters that a CSV field may have; the module's own limit, 2**17, is less than a long article."""


class Row(NamedTuple):
    """One record; `where` is its file and line (or dataset, split and row), for error messages.

    Lines are counted from 1, rows (of JSON arrays, Parquet files, hub datasets) from 0.
    """

    where: str
    values: Mapping[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The records of a file whose name ends in one of SUFFIXES.  Any fault is a BenchError.

    .jsonl: an object a line.  .json: an array of objects, or {"data": [...]}.  .csv: a header line, then as many fields
    a record as it names, every value a string.  .parquet: a table.  Blank lines of .jsonl and .csv are skipped.
    """
    if not path.is_file():
        seen = "is a folder" if path.is_dir() else "does not exist"
        raise BenchError(f"{path} {seen}.", f"Name a {_or(SUFFIXES)} file.")
    if not path.name.endswith(SUFFIXES):
        raise BenchError(f"{path} is no file of rows by its name.", f"The name must end in {_or(SUFFIXES)}.")
    try:
        rows = list(_reader(path))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        fix = "Copy the file again; if it is not compressed, take .gz off its name."
        raise BenchError(f"{path} is not a whole gzip file: {_line(error)}.", fix) from error
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {_line(error)}.", "Check the file and its permissions.") from error
    if not rows:
        raise BenchError(f"{path} holds no rows.", "Give a file with at least one record.")
    return rows


def _reader(path: Path) -> Iterator[Row]:
    readers = {".jsonl": _objects, ".json": _array, ".csv": _records, ".parquet": _table}
    return readers[Path(path.name.removesuffix(".gz")).suffix](path)


def _or(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")


def _decoded(path: Path) -> str:
    """The whole text of a file, without a byte order mark."""
    with _open(path) as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BenchError(f"{path}, line {line}: not UTF-8 ({error.reason}).", "Save the file as UTF-8.") from error


def _array(path: Path) -> Iterator[Row]:
    content = _decoded(path)
    if not content.strip():
        return
    try:
        found = json.loads(content)
    except RecursionError as error:
        raise BenchError(f"{path}: nested too deeply.", "Rows hold plain columns.") from error
    except ValueError as error:
        fix = "Mend the file; if it holds one object a line, its name must end in .jsonl or .jsonl.gz."
        raise BenchError(f"{path}: malformed JSON ({_line(error)}).", fix) from error
    rows = found["data"] if isinstance(found, dict) and "data" in found else found
    if not isinstance(rows, list):
        fix = 'Give an array of objects like [{"column": "text"}], or {"data": [...]}.'
        raise BenchError(f"{path}: not an array of objects: {_short(content)}", fix)
    for number, values in enumerate(rows):
        if not isinstance(values, dict):
            seen = f"{path}, row {number}: not an object but of type {type(values).__name__}."
            raise BenchError(seen, 'Each item must be an object like {"column": "text"}.')
        yield Row(f"{path}, row {number}", values)


def _records(path: Path) -> Iterator[Row]:
    csv.field_size_limit(max(LONGEST_FIELD, csv.field_size_limit()))
    reader = csv.reader(io.StringIO(_decoded(path), newline=""), strict=True)
    header: list[str] = []
    line = 1  # where the record starts: quoted fields may run over several lines
    try:
        for fields in reader:
            if not header:
                header = _header(path, line, fields)
            elif fields:
                if len(fields) != len(header):
                    seen = f"{path}, line {line}: {len(fields)} fields under a header of {len(header)}: "
                    fix = "Give every record a field per column, and quote fields that hold commas."
                    raise BenchError(seen + _short(repr(fields)), fix)
                yield Row(f"{path}, line {line}", dict(zip(header, fields, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise BenchError(f"{path}, line {line}: malformed CSV ({error}).", "Mend or drop the record.") from error


def _header(path: Path, line: int, fields: list[str]) -> list[str]:
    twice = [name for name, count in Counter(fields).items() if count > 1]
    if twice:
        seen = f"{path}, line {line}: the header names the column {_short(repr(twice[0]))} twice."
        raise BenchError(seen, "Give each column a name of its own.")
    return fields


def _table(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            rows = parquet.read_table(file).to_pylist()  # refuses two columns of one name
    except (pa.ArrowException, OSError, ValueError) as error:
        seen = f"{path} is not a Parquet file that can be read: {_line(error)}."
        raise BenchError(seen, "Copy the file again, or name it by what it holds.") from error
    for number, values in enumerate(rows):
        yield Row(f"{path}, row {number}", values)


def _objects(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        try:
            for number, values in numbered_rows(_whole(file), skip_empty=True):
                yield Row(f"{path}, line {number}", values)
        except jsonlines.InvalidLineError as error:
            raise _invalid(path, error) from error


def _whole(file: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file.  A truncated gzip file raises EOFError, which `numbered_rows` forbids."""
    try:
        yield from file
    except EOFError as error:
        raise gzip.BadGzipFile(str(error)) from error


def _invalid(path: Path, error: jsonlines.InvalidLineError) -> BenchError:
    where = f"{path}, line {error.lineno}"
    if isinstance(error.__cause__, UnicodeDecodeError):
        return BenchError(f"{where}: not UTF-8 ({error.__cause__.reason}).", "Save the file as UTF-8.")
    if isinstance(error.__cause__, RecursionError):
        return BenchError(f"{where}: nested too deeply.", "Rows hold plain columns.")
    if isinstance(error.__cause__, ValueError):
        return BenchError(
            f"{where}: malformed JSON ({error.__cause__}): {_short(error.line)}", "Mend or drop the line."
        )
    return BenchError(
        f"{where}: not an object: {_short(error.line)}", 'Each line must be an object like {"column": "text"}.'
    )


def hub_rows(name: str) -> dict[str, list[Row]]:
    """Rows by split of a dataset on the Hugging Face hub, pinned as ID@REVISION.

    Needs the network, or the dataset in the local cache; runs no code of the repository.
    """
    from datasets import load_dataset

    identity, _, revision = name.partition("@")
    try:
        data = load_dataset(identity, **({"revision": revision} if revision else {}))
        splits = {str(split): [dict(values) for values in rows] for split, rows in data.items()}
    except (
        Exception
    ) as error:  # the hub client raises a dozen unrelated classes; none may reach the user as a traceback
        seen = f"The dataset {name!r} cannot be read from the hub: {type(error).__name__}: {_line(error)}."
        raise BenchError(seen, _remedy(error)) from error
    return {
        split: [Row(f"{name}, split {split}, row {number}", values) for number, values in enumerate(rows)]
        for split, rows in splits.items()
    }


def _remedy(error: Exception) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if "gated" in text or "401" in text or "403" in text:
        return "Accept its terms on its page and log in (hf auth login), or name a local file or folder."
    if isinstance(error, (ConnectionError, TimeoutError)) or "offline" in text or "connect" in text:
        return "Go online (and unset HF_HUB_OFFLINE), or name a local file or folder."
    return "Check the name on huggingface.co/datasets, or name a local file or folder (none is here by this name)."


def text(row: Row, column: str) -> str:
    """The text in a column that must be there and must not be blank."""
    if column not in row.values:
        raise BenchError(f"{row.where}: no column {column!r}.", did_you_mean(column, row.values))
    value = row.values[column]
    if not isinstance(value, str):
        raise BenchError(f"{row.where}: {column!r} holds {_short(repr(value))}, not text.", "Give it as a string.")
    if not value.strip():
        raise BenchError(f"{row.where}: {column!r} is empty.", "Fill it in or drop the row.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BenchError(f"{row.where}: {column!r} is not valid Unicode ({error.reason}).", "Mend the text.") from error
    return value


def content_sha256(splits: Iterable[tuple[str, Iterable[Row]]]) -> str:
    """SHA-256 of (split, rows) in order, as canonical JSON: the same for a file and its gzip, wherever they lie."""
    digest = hashlib.sha256()
    for split, rows in splits:
        digest.update(json.dumps(split).encode() + b"\n")
        for row in rows:
            digest.update(json.dumps(row.values, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _short(line: str | bytes, limit: int = 60) -> str:
    shown = line.decode(errors="replace") if isinstance(line, bytes) else line
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def _line(error: Exception) -> str:
    """The first line of what an exception says, without its final stop."""
    return _short((str(error).strip().splitlines() or [type(error).__name__])[0], 200).rstrip(".")
