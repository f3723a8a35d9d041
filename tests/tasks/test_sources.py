"""Reading rows: what is good comes through unchanged, every fault is one line that names the place."""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.sources import SUFFIXES, Row, content_sha256, hub_rows, read_rows, text

GOOD = b'{"dialogue": "a: \xc3\xa9", "summary": "b"}\n\n{"dialogue": "c", "summary": "d"}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def refused(path: Path, content: bytes, seen: str) -> None:
    """Reading is refused in one short line that names the place."""
    path.write_bytes(content)
    with pytest.raises(BenchError) as caught:
        read_rows(path)
    assert str(path) in caught.value.seen
    assert seen in caught.value.seen
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    assert len(caught.value.seen) < len(str(path)) + 250


def test_plain_and_gzip_read_the_same(file: Path) -> None:
    packed = file.with_name("rows.jsonl.gz")
    file.write_bytes(GOOD)
    packed.write_bytes(gzip.compress(GOOD, mtime=0))
    rows, unpacked = read_rows(file), read_rows(packed)
    assert [row.values for row in rows] == [row.values for row in unpacked]
    assert [row.where for row in rows] == [f"{file}, line 1", f"{file}, line 3"]
    assert rows[0].values["dialogue"] == "a: é"
    assert content_sha256([("train", rows)]) == content_sha256([("train", unpacked)])
    assert content_sha256([("train", rows)]) != content_sha256([("test", rows)])
    assert content_sha256([("train", rows)]) != content_sha256([("train", rows[:1])])


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"", "holds no rows"),
        (b"\n \n", "holds no rows"),
        (GOOD + b'{"dialogue": "caf\xe9"}\n', "line 4: not UTF-8"),
        (GOOD + b'{"dialogue": \n', "line 4: malformed JSON"),
        (b"dialogue,summary\n", "line 1: malformed JSON"),
        (GOOD + b'["a", "b"]\n', "line 4: not an object"),
        (b'"text"\n', "line 1: not an object"),
        (b"null\n", "line 1: not an object"),
        (gzip.compress(GOOD, mtime=0), "line 1: not UTF-8"),
        (b"[" * 100_000, "line 1: "),
    ],
)
def test_bad_content(file: Path, content: bytes, seen: str) -> None:
    refused(file, content, seen)


@pytest.mark.parametrize(
    "content",
    [GOOD, gzip.compress(GOOD * 50, mtime=0)[:-12], gzip.compress(GOOD, mtime=0)[:15], b"\x1f\x8b\x08" + b"\xff" * 99],
)
def test_bad_gzip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(BenchError, match="not a whole gzip file"):
        read_rows(path)


def test_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="does not exist"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(BenchError, match="is a folder"):
        read_rows(tmp_path)
    (tmp_path / "rows.txt").write_text("a,b")
    with pytest.raises(BenchError, match="no file of rows by its name"):
        read_rows(tmp_path / "rows.txt")


ROWS = [{"prompt": 'a, "b"\nc é', "chosen": " d "}, {"prompt": "e\r\nf", "chosen": ""}]


def write_as(path: Path, rows: list[dict[str, str]]) -> Path:
    """The rows in the format that the name asks for."""
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        importlib.import_module("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    written = io.StringIO(newline="")
    if ".csv" in path.name:
        writer = csv.DictWriter(written, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    elif ".jsonl" in path.name:
        written.write("".join(json.dumps(row) + "\n" for row in rows))
    else:
        json.dump(rows, written, ensure_ascii=False, indent=1)
    content = written.getvalue().encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = write_as(tmp_path / f"some.rows{suffix}", ROWS)
    rows = read_rows(path)
    assert [row.values for row in rows] == ROWS
    assert all(row.where.startswith(f"{path}, ") for row in rows)
    assert len({row.where for row in rows}) == 2
    assert content_sha256([("", rows)]) == content_sha256([("", [Row("", row) for row in ROWS])])


FIELD = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None)
@given(st.lists(st.fixed_dictionaries({"prompt": FIELD, "chosen": FIELD}), min_size=1, max_size=4))
def test_any_text_survives_any_format(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> None:
    for suffix in SUFFIXES:
        path = write_as(tmp_path_factory.getbasetemp() / f"any{suffix}", rows)
        assert [row.values for row in read_rows(path)] == rows


def test_where_a_record_starts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b'\xef\xbb\xbf\n,id,text\n\n0,"a","one\ntwo"\n1,b,"a ""word"""\n')
    assert read_rows(path) == [
        Row(f"{path}, line 4", {"": "0", "id": "a", "text": "one\ntwo"}),
        Row(f"{path}, line 6", {"": "1", "id": "b", "text": 'a "word"'}),
    ]
    path = tmp_path / "rows.json"
    path.write_text('{"version": 1, "data": [{"a": 1}, {"a": null}]}')
    assert read_rows(path) == [Row(f"{path}, row 0", {"a": 1}), Row(f"{path}, row 1", {"a": None})]


def test_a_long_field(tmp_path: Path) -> None:
    path = write_as(tmp_path / "rows.csv", [{"text": "word " * 100_000}])
    assert len(read_rows(path)[0].values["text"]) == 500_000


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("rows.json", b" \n", "holds no rows"),
        ("rows.json", b"[]", "holds no rows"),
        ("rows.json", b'{"data": []}', "holds no rows"),
        ("rows.json", b'{"rows": [{"a": "b"}]}', "not an array of objects: {"),
        ("rows.json", b'{"data": "a"}', "not an array of objects: {"),
        ("rows.json", b'"text"', "not an array of objects"),
        ("rows.json", b'[{"a": "b"}] [1]', "malformed JSON (Extra data: line 1"),
        ("rows.json", b'[{"a": "b"}, ["c"]]', "row 1: not an object but of type list"),
        ("rows.json", b'[{"a": "b"}, null]', "row 1: not an object but of type NoneType"),
        ("rows.json", b'[{"a": "b"},\n {"a": "caf\xe9"}]', "line 2: not UTF-8"),
        ("rows.json", b"[" * 100_000, "rows.json: "),
        ("rows.json.gz", gzip.compress(b'[{"a": "b"}]', mtime=0)[:-9], "not a whole gzip file"),
        ("rows.json.gz", b"[]", "not a whole gzip file"),
        ("rows.csv", b"", "holds no rows"),
        ("rows.csv", b"prompt,chosen\n", "holds no rows"),
        ("rows.csv", b"a,b\n1,2\n\n1,2,3\n", "line 4: 3 fields under a header of 2: ['1', '2', '3']"),
        ("rows.csv", b'a,b\n"x\ny",2\n1\n', "line 4: 1 fields under a header of 2"),
        ("rows.csv", b"a,b,a\n1,2,3\n", "line 1: the header names the column 'a' twice"),
        ("rows.csv", b'a,b\n1,2\n3,"4\n5,6\n', "line 3: malformed CSV (unexpected end of data)"),
        ("rows.csv", b'a,b\n1,"2"3\n', "line 2: malformed CSV"),
        ("rows.csv", b"a,b\n1,caf\xe9\n", "line 2: not UTF-8"),
        ("rows.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-12], "not a whole gzip file"),
        ("rows.parquet", b"", "not a Parquet file"),
        ("rows.parquet", GOOD, "not a Parquet file"),
        ("rows.parquet", b"PAR1" + b"\x07" * 99 + b"PAR1", "not a Parquet file"),
    ],
)
def test_bad_content_of_other_formats(tmp_path: Path, name: str, content: bytes, seen: str) -> None:
    refused(tmp_path / name, content, seen)


def test_bad_tables(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    write = importlib.import_module("pyarrow.parquet").write_table
    path = tmp_path / "rows.parquet"
    write(pyarrow.table([["a"], ["b"]], names=["text", "text"]), path)
    with pytest.raises(BenchError, match=r"that can be read: .*text"):
        read_rows(path)
    write(pyarrow.table([[]], names=["text"]), path)
    with pytest.raises(BenchError, match="holds no rows"):
        read_rows(path)
    whole = write_as(path, ROWS).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BenchError, match="not a Parquet file"):
        read_rows(path)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    for name in (f"odd{suffix}" for suffix in SUFFIXES):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(content)
        with contextlib.suppress(BenchError):
            assert all(isinstance(row.values, dict) for row in read_rows(path))


@pytest.mark.parametrize(
    ("values", "seen", "fix"),
    [
        ({"dialog": "a"}, "here, line 1: no column 'dialogue'", "Did you mean 'dialog'?"),
        ({"x": "a"}, "no column 'dialogue'", "Known: x."),
        ({}, "no column 'dialogue'", "Known: none."),
        ({"dialogue": " \n"}, "'dialogue' is empty", "drop the row"),
        ({"dialogue": None}, "'dialogue' holds None", "string"),
        ({"dialogue": ["a"] * 99}, "'dialogue' holds ['a', ", "string"),
        ({"dialogue": "\ud800"}, "not valid Unicode", "Correct"),
    ],
)
def test_bad_columns(values: dict[str, object], seen: str, fix: str) -> None:
    with pytest.raises(BenchError) as caught:
        text(Row("here, line 1", values), "dialogue")
    assert seen in caught.value.seen
    assert fix in caught.value.fix
    assert len(caught.value.seen) < 120


def test_hub_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = {"train": [{"dialogue": "a"}], "test": [{"dialogue": "b"}]}
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda _: loaded))
    assert hub_rows("owner/name")["test"] == [Row("owner/name, split test, row 0", {"dialogue": "b"})]


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (ConnectionError("Couldn't reach the Hub\nmore lines"), "Go online"),
        (RuntimeError("offline mode is enabled"), "Go online"),
        (ValueError("Dataset 'owner/name' is a gated dataset on the Hub."), "Accept its terms"),
        (FileNotFoundError("Dataset 'owner/name' doesn't exist"), "Check the name"),
        (json.JSONDecodeError("", "", 0), "Check the name"),
    ],
)
def test_hub_failures_are_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, fix: str) -> None:
    def load_dataset(_: str) -> None:
        raise error

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(BenchError) as caught:
        hub_rows("owner/name")
    assert "'owner/name'" in caught.value.seen
    assert "\n" not in str(caught.value)
    assert fix in caught.value.fix
