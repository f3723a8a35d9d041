"""Reading rows of text columns from files (JSON Lines, JSON, CSV, Parquet; gzip too) and from the Hugging Face hub.

Every fault is a BenchError that names the file, the line or row and what was found there.  Nothing is repaired or
skipped silently.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jsonlines

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.store import numbered_rows

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row as Values

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")

# Characters that a CSV field may have; the csv module's own limit, 2**17, is less than a long article.
LONGEST_FIELD = 2**30


class Row(NamedTuple):
    """One record; `where` is its file and line (or dataset, split and row), for error messages.

    Lines are counted from 1, rows (of JSON arrays, Parquet files, hub datasets) from 0.
    """

    where: str
    values: Values


SKIP, REFUSE = "skip", "refuse"
"""What is done with rows that cannot be used: they are left out and counted, or the data are refused."""

SHOWN = 3
"""Bad rows that a message names; of the others it says how many."""


@dataclass
class BadRows:
    """The rows that cannot be used: what each lacks, and whether they are left out (`skip`) or refused together."""

    skip: bool = False
    faults: list[BenchError] = field(default_factory=list)
    total: int = 0  # records that were read, bad ones among them

    def add(self, fault: BenchError) -> None:
        self.faults.append(fault)

    def check(self, left: int) -> None:
        """Raises BenchError with the number of bad rows, unless they are left out and some rows are `left`."""
        if not self.faults or (self.skip and left):
            return
        first = self.faults[0]
        if len(self.faults) == 1 and not self.skip:
            raise BenchError(first.seen, f"{first.fix} Or leave such rows out: --set data.bad_rows={SKIP}".strip())
        fix = first.fix if self.skip else f"{first.fix} Or leave such rows out: --set data.bad_rows={SKIP}"
        raise BenchError(self.described(), fix.strip())

    def described(self) -> str:
        """How many rows cannot be used, and the first ones."""
        shown = " ".join(fault.seen for fault in self.faults[:SHOWN])
        more = len(self.faults) - SHOWN
        return f"{len(self.faults)} of {self.total} rows cannot be used: {shown}" + (
            f" And {more} more." if more > 0 else ""
        )


def read_rows(path: Path, bad: BadRows | None = None) -> list[Row]:
    """The records of a file whose name ends in one of SUFFIXES; the suffix decides the format.

    With `bad`, a record that cannot be read goes there.  Raises BenchError for a file without rows, and for any fault
    of the file, its name or its content.
    """
    if not path.is_file():
        seen = "is a folder" if path.is_dir() else "does not exist"
        raise BenchError(f"{path} {seen}.", f"Name a {_or(SUFFIXES)} file.")
    if not path.name.endswith(SUFFIXES):
        raise BenchError(f"{path} is no file of rows by its name.", f"The name must end in {_or(SUFFIXES)}.")
    # Parquet compresses its columns itself: there is no .parquet.gz in SUFFIXES.
    suffix, before = Path(path.name.removesuffix(".gz")).suffix, len(bad.faults) if bad else 0
    readers = {".jsonl": jsonl_rows, ".json": json_rows, ".csv": csv_rows}
    try:
        rows = list(parquet_rows(path) if suffix == ".parquet" else readers[suffix](path, bad))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        fix = "Copy the file again; if it is not compressed, take .gz off its name."
        raise BenchError(f"{path} is not a whole gzip file: {_line(error)}.", fix) from error
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {_line(error)}.", "Check the file and its permissions.") from error
    if bad is not None:
        bad.total += len(rows) + len(bad.faults) - before
    if not rows and bad is not None:
        bad.check(0)
    if not rows:
        raise BenchError(f"{path} holds no rows.", "Give a file with at least one record.")
    return rows


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.name.endswith(".gz") else path.open("rb")


def _decoded(path: Path) -> str:
    """The whole text of a file, without a byte order mark."""
    with _open(path) as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")  # programs that write CSV often begin with a byte order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BenchError(f"{path}, line {line}: not UTF-8 ({error.reason}).", "Save the file as UTF-8.") from error


def json_rows(path: Path, bad: BadRows | None = None) -> Iterator[Row]:
    """Rows of an array of objects, of {"data": [...]}, or of pandas' columns; none for a blank file.

    A file with an object a line is read as JSON Lines.  Raises BenchError for malformed JSON, JSON of another form and
    text that is not UTF-8.
    """
    content = _decoded(path)
    if not content.strip():
        return
    try:
        found = json.loads(content)
    except RecursionError as error:
        raise BenchError(f"{path}: nested too deeply.", "Rows hold plain columns.") from error
    except ValueError as error:
        if content.lstrip().startswith("{") and _is_object(content.lstrip().partition("\n")[0]):
            yield from jsonl_rows(path, bad)  # many tools name JSON Lines so
            return
        fix = "Correct the file; if it holds one object a line, its name must end in .jsonl or .jsonl.gz."
        raise BenchError(f"{path}: malformed JSON ({_line(error)}).", fix) from error
    rows = found["data"] if isinstance(found, dict) and "data" in found else found
    if isinstance(rows, dict) and rows and all(_is_column(one, rows) for one in rows.values()):
        # pandas' to_json: columns by name, each with its values by the number of the row
        rows = [{name: column[at] for name, column in rows.items()} for at in next(iter(rows.values()))]
    if not isinstance(rows, list):
        fix = 'Give an array of objects like [{"column": "text"}], or {"data": [...]}.'
        raise BenchError(f"{path}: not an array of objects: {_short(content)}", fix)
    for number, values in enumerate(rows):
        if not isinstance(values, dict):
            seen = f"{path}, row {number}: not an object but of type {type(values).__name__}."
            _fault(bad, BenchError(seen, 'Each item must be an object like {"column": "text"}.'))
            continue
        yield Row(f"{path}, row {number}", values)


def _fault(bad: BadRows | None, error: BenchError) -> None:
    """Notes a record that cannot be read; raises it where nothing collects them."""
    if bad is None:
        raise error
    bad.add(error)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_column(one: object, others: Mapping[str, object]) -> bool:
    first = next(iter(others.values()))
    return (
        isinstance(one, dict) and isinstance(first, dict) and one.keys() == first.keys() and all(map(str.isdigit, one))
    )


def csv_rows(path: Path, bad: BadRows | None = None) -> Iterator[Row]:
    """Rows under a header line, as many fields in each as the header names, every value a string.

    Blank lines are skipped.  Raises BenchError for a record with another number of fields, a column named twice,
    malformed CSV and text that is not UTF-8.
    """
    csv.field_size_limit(max(LONGEST_FIELD, csv.field_size_limit()))  # a setting of the whole process: never lowered
    # newline="" and strict: a quoted field keeps its line ends, and an unclosed quote is an error.
    reader = csv.reader(io.StringIO(_decoded(path), newline=""), strict=True)
    header: list[str] = []
    line = 1  # where the record starts: quoted fields may run over several lines
    try:
        for fields in reader:
            if not header:
                header = fields
                if repeated := [name for name, count in Counter(fields).items() if count > 1]:
                    seen = f"{path}, line {line}: the header names the column {_short(repr(repeated[0]))} twice."
                    raise BenchError(seen, "Give each column a name of its own.")
            elif fields:
                if len(fields) != len(header):
                    seen = f"{path}, line {line}: {len(fields)} fields under a header of {len(header)}: "
                    fix = "Give every record a field per column, and quote fields that hold commas."
                    _fault(bad, BenchError(f"{seen}{_short(repr(fields))}.", fix))
                else:
                    yield Row(f"{path}, line {line}", dict(zip(header, fields, strict=True)))
            # `line_num` counts the lines read so far, so the next record starts on the one after
            line = reader.line_num + 1
    except csv.Error as error:
        raise BenchError(f"{path}, line {line}: malformed CSV ({error}).", "Correct or drop the record.") from error


def parquet_rows(path: Path) -> Iterator[Row]:
    """Rows of a table, values as Python objects; raises BenchError for a file that is no Parquet."""
    import pyarrow as pa  # half a second, needed for this format alone
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            rows = parquet.read_table(file).to_pylist()  # refuses two columns of one name
    except (pa.ArrowException, OSError, ValueError) as error:
        seen = f"{path} is not a Parquet file that can be read: {_line(error)}."
        raise BenchError(seen, "Copy the file again, or give it the suffix of its format.") from error
    for number, values in enumerate(rows):
        yield Row(f"{path}, row {number}", values)


def arrow_rows(path: Path) -> list[Row]:
    """Rows of an Arrow file that datasets wrote (`save_to_disk`, or its cache).

    Raises BenchError for a file that is no Arrow.
    """
    import pyarrow as pa  # half a second, needed for this format alone
    from pyarrow import ipc

    try:
        with path.open("rb") as file:
            head = file.read(6)
            file.seek(0)
            table = ipc.open_file(file).read_all() if head == b"ARROW1" else ipc.open_stream(file).read_all()
            rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BenchError(f"{path} is not an Arrow file that can be read: {_line(error)}.", "Save it again.") from error
    return [Row(f"{path}, row {number}", values) for number, values in enumerate(rows)]


def jsonl_rows(path: Path, bad: BadRows | None = None) -> Iterator[Row]:
    """Rows of a file with an object a line.  Blank lines are skipped.

    Raises BenchError for a line that is malformed JSON, no object or not UTF-8, BadGzipFile for a truncated file.
    """

    def whole(lines: Iterable[bytes]) -> Iterator[bytes]:
        first = True
        try:
            for line in lines:
                yield line.removeprefix(codecs.BOM_UTF8) if first else line  # as some editors begin a file
                first = False
        except EOFError as error:  # of a truncated gzip file; `numbered_rows` would take it for the end of the rows
            raise gzip.BadGzipFile(str(error)) from error

    with _open(path) as file:
        lines, before = whole(file), 0
        while True:
            try:
                for number, values in numbered_rows(lines, skip_empty=True):
                    yield Row(f"{path}, line {before + number}", values)
            except jsonlines.InvalidLineError as error:
                before += error.lineno
                _fault(bad, _line_fault(path, before, error))  # the next lines are read on
            else:
                return


def _line_fault(path: Path, number: int, error: jsonlines.InvalidLineError) -> BenchError:
    """The error of a line that is no JSON object in UTF-8."""
    cause = error.__cause__
    if isinstance(cause, UnicodeDecodeError):  # before ValueError, of which it is a subclass
        seen, fix = f"not UTF-8 ({cause.reason}).", "Save the file as UTF-8."
    elif isinstance(cause, RecursionError):
        seen, fix = "nested too deeply.", "Rows hold plain columns."
    elif isinstance(cause, ValueError):
        seen, fix = f"malformed JSON ({cause}): {_short(error.line)}", "Correct or drop the line."
    else:
        seen = f"not an object: {_short(error.line)}"
        fix = 'Each line must be an object like {"column": "text"}.'
    made = BenchError(f"{path}, line {number}: {seen}", fix)
    made.__cause__ = error
    return made


def hub_rows(name: str) -> dict[str, list[Row]]:
    """Rows by split of a dataset on the Hugging Face hub, pinned as ID@REVISION.

    Needs the network, or the dataset in the local cache; runs no code of the repository.  Raises BenchError for every
    failure, with what to do where the cause is known: no access, no network.
    """
    from datasets import load_dataset  # two seconds

    identity, _, revision = name.partition("@")
    try:
        data = load_dataset(identity, **({"revision": revision} if revision else {}))
        splits = {str(split): [dict(values) for values in rows] for split, rows in data.items()}
    except Exception as error:  # the hub client raises a dozen unrelated classes; the user gets one line for each
        # By words in the message, because the same cause comes as different classes of several libraries.
        cause = f"{type(error).__name__} {error}".lower()
        fix = "Check the name on huggingface.co/datasets, or name a local file or folder (none is here by this name)."
        if "gated" in cause or "401" in cause or "403" in cause:
            fix = "Accept its terms on its page and log in (hf auth login), or name a local file or folder."
        elif isinstance(error, (ConnectionError, TimeoutError)) or "offline" in cause or "connect" in cause:
            fix = "Go online (and unset HF_HUB_OFFLINE), or name a local file or folder."
        seen = f"The dataset {name!r} cannot be read from the hub: {type(error).__name__}: {_line(error)}."
        raise BenchError(seen, fix) from error
    return {
        split: [Row(f"{name}, split {split}, row {number}", values) for number, values in enumerate(rows)]
        for split, rows in splits.items()
    }


def text(row: Row, column: str) -> str:
    """The text in a column; raises BenchError where the column is missing, blank or no valid text."""
    if column not in row.values:
        raise BenchError(f"{row.where}: no column {column!r}.", did_you_mean(column, row.values))
    value = row.values[column]
    if not isinstance(value, str):
        raise BenchError(f"{row.where}: {column!r} holds {_short(repr(value))}, not text.", "Give it as a string.")
    if not value.strip():
        raise BenchError(f"{row.where}: {column!r} is empty.", "Fill it in or drop the row.")
    return check_unicode(row, column, value)


def check_unicode(row: Row, column: str, value: str) -> str:
    """The value; raises BenchError for lone surrogates, which JSON can hold and no tokenizer can encode."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        seen = f"{row.where}: {column!r} is not valid Unicode ({error.reason})."
        raise BenchError(seen, "Correct the text.") from error
    return value


def content_sha256(splits: Iterable[tuple[str, Iterable[Row]]]) -> str:
    """SHA-256 of (split, rows) in order, as canonical JSON: the same for a file and its gzip, in any folder.

    It names the data in the keys of results (`nouns.Origin`).
    """
    digest = hashlib.sha256()
    for split, rows in splits:
        digest.update(json.dumps(split).encode() + b"\n")
        for row in rows:
            # default=str: Parquet files and the hub hold dates and other values that JSON has no form for.
            digest.update(json.dumps(row.values, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _short(line: str | bytes, limit: int = 60) -> str:
    shown = line.decode(errors="replace") if isinstance(line, bytes) else line
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def _line(error: Exception) -> str:
    """The first line of an exception's text, without its final full stop."""
    return _short((str(error).strip().splitlines() or [type(error).__name__])[0], 200).rstrip(".")
