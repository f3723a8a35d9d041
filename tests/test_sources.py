"""Reading rows: what is good comes through unchanged, every fault is one line that names the place."""

from __future__ import annotations

import contextlib
import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.sources import Row, content_sha256, hub_rows, read_rows, text

GOOD = b'{"dialogue": "a: \xc3\xa9", "summary": "b"}\n\n{"dialogue": "c", "summary": "d"}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_plain_and_gzip_read_the_same(file: Path) -> None:
    packed = file.with_name("rows.jsonl.gz")
    file.write_bytes(GOOD)
    packed.write_bytes(gzip.compress(GOOD))
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
        (gzip.compress(GOOD), "line 1: not UTF-8"),
        (b"[" * 100_000, "line 1: "),
    ],
)
def test_bad_content(file: Path, content: bytes, seen: str) -> None:
    file.write_bytes(content)
    with pytest.raises(BenchError) as caught:
        read_rows(file)
    assert str(file) in caught.value.seen
    assert seen in caught.value.seen
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    assert len(caught.value.seen) < len(str(file)) + 250


@pytest.mark.parametrize(
    "content", [GOOD, gzip.compress(GOOD * 50)[:-12], gzip.compress(GOOD)[:15], b"\x1f\x8b\x08" + b"\xff" * 99]
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
    (tmp_path / "rows.csv").write_text("a,b")
    with pytest.raises(BenchError, match="not a JSON Lines file"):
        read_rows(tmp_path / "rows.csv")


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    for name in ("any.jsonl", "any.jsonl.gz"):
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
        ({"dialogue": "\ud800"}, "not valid Unicode", "Mend"),
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
