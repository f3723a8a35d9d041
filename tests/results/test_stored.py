"""`stored_rows` reads what `store.read_rows` reads, and refuses what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results import stored
from rlhf_bench.harness.results.stored import stored_rows

TEXT = st.text(st.characters(), max_size=20)  # lone surrogates among them: models write them
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=4))
def test_rows_come_back_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    store.write_rows(path, rows)
    assert repr(stored_rows(path)) == repr(store.read_rows(path)) == repr(rows), "types and signs of zeros as well"


def test_the_fast_parser_reads_plain_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    store.write_rows(path, [{"a": 1.5, "text": 'é "x"\n'}, {"a": None}])
    monkeypatch.setattr(stored.store, "read_rows", None)
    assert stored_rows(path) == [{"a": 1.5, "text": 'é "x"\n'}, {"a": None}]


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": NaN}\n',
        b'{"a": 1}\n{"a": \n',
        b'{"a": 1}\n[1]\n',
        b'{"a": "1\n2"}\n',
        b'{"a": 1}\n\n{"a": 2}\n',
        b'{"a": 1}, {"b": 2}\n',
        b'{"a": "\xff"}\n',
        b'{"a": [1,\n2]}\n',
        b'{"a": 1},\n{"a": 2},{"a": [3\n4]}\n',
    ],
)
def test_damage_is_said_as_by_the_stores_reader(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(BenchError) as expected:
        store.read_rows(path)
    with pytest.raises(BenchError) as found:
        stored_rows(path)
    assert found.value.seen == expected.value.seen


@pytest.mark.parametrize("data", [b"", b'{"a": 1}', b'{"a": 1}\n{"b": 2}'])
def test_a_missing_end_of_line_is_no_other_value(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    assert stored_rows(path) == store.read_rows(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"none\.jsonl is missing"):
        stored_rows(tmp_path / "none.jsonl")
