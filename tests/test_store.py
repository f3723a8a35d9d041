"""A folder that exists is complete, and stored values are read back exactly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonlines
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.store import MARKER, Store, content_key, read_json, read_rows, write_json, write_rows

KEY = "0123456789abcdef" * 4
ODD = ["\ud800", "a\udfffb", "\u2028\u2029\x85", "\r\n\x00", "\ufeff", "漢字 👩‍👩‍👧", '"\\', "NaN"]

texts = st.one_of(st.sampled_from(ODD), st.text(max_size=8))
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)
values = st.recursive(leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v, max_size=3), max_leaves=8)
objects = st.dictionaries(texts, values, max_size=4)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "rows.jsonl"


@pytest.fixture
def root(tmp_path: Path) -> Store:
    made = Store(tmp_path / "deep" / "runs")
    made.prepare()
    return made


# --- folders


def finish(root: Store, kind: str = "sft", label: str = "tiny") -> Path:
    with root.writing(kind, label, KEY) as place:
        assert place is not None
        write_json(place[0] / MARKER, {"made": True})
    return root.folder(kind, label, KEY)


def test_a_written_stage_is_complete(root: Store) -> None:
    assert not root.complete("sft", "tiny", KEY)
    folder = finish(root)
    assert root.complete("sft", "tiny", KEY)
    assert read_json(folder / MARKER) == {"made": True}
    with root.writing("sft", "tiny", KEY) as place:
        assert place is None
    assert read_json(folder / MARKER) == {"made": True}


def test_no_unfinished_folder_is_left(root: Store) -> None:
    finish(root)
    assert not [path for path in (root.root / ".partial").iterdir() if path.is_dir()]


@pytest.mark.parametrize("error", [RuntimeError, BenchError, KeyboardInterrupt, SystemExit])
def test_a_body_that_raises_leaves_nothing_final(root: Store, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with root.writing("sft", "tiny", KEY) as place:
            assert place is not None
            write_json(place[0] / MARKER, {"made": False})
            (place[1] / "checkpoint").touch()
            raise error("in the middle")

    with pytest.raises(error):
        interrupted()
    assert not root.complete("sft", "tiny", KEY)
    assert not root.folder("sft", "tiny", KEY).exists()
    with root.writing("sft", "tiny", KEY) as place:
        assert place is not None, "the lock was released"
        work, scratch = place
        assert list(work.iterdir()) == []
        assert [path.name for path in scratch.iterdir()] == ["checkpoint"], "an interrupted stage continues from here"
        write_json(work / MARKER, {})
    assert root.complete("sft", "tiny", KEY)


def test_two_stages_do_not_mix(root: Store) -> None:
    other = KEY[::-1]
    with (
        root.writing("sft", "a", KEY) as one,
        root.writing("sft", "b", other) as two,
        root.writing("rm", "a", KEY) as three,
    ):
        assert one is not None
        assert two is not None
        assert three is not None
        assert len({*one, *two, *three}) == 6


def test_a_stage_is_executed_by_one_process_at_a_time(root: Store) -> None:
    from filelock import FileLock, Timeout

    with root.writing("sft", "tiny", KEY) as place:
        assert place is not None
        (lock,) = (root.root / ".partial").glob("*.lock")
        with pytest.raises(Timeout):
            FileLock(lock, is_singleton=False).acquire(timeout=0.05)
    FileLock(lock, is_singleton=False).acquire(timeout=5).lock.release()


def test_a_half_written_folder_is_an_error_that_names_it(root: Store) -> None:
    folder = root.folder("sft", "tiny", KEY)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    with pytest.raises(BenchError, match="half-written") as caught:
        root.complete("sft", "tiny", KEY)
    assert str(folder) in str(caught.value)
    with pytest.raises(BenchError, match="half-written"), root.writing("sft", "tiny", KEY):
        raise AssertionError("not reached")


def test_the_root_may_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    for path in (tmp_path / "runs", tmp_path / "runs" / "deeper"):
        with pytest.raises(BenchError, match="--out"):
            Store(path).prepare()
    assert (tmp_path / "runs").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_the_root_must_be_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BenchError, match="Cannot write"):
        Store(tmp_path / "runs").prepare()
    with pytest.raises(BenchError, match="Cannot write"):
        Store(tmp_path).prepare()
    tmp_path.chmod(0o700)


def test_a_root_whose_name_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="--out"):
        Store(tmp_path / ("x" * 300)).prepare()


# --- files


@given(st.lists(objects, max_size=4))
def test_rows_round_trip(file: Path, rows: list[dict[str, Any]]) -> None:
    write_rows(file, rows)
    assert read_rows(file) == rows
    text = file.read_bytes().decode("ascii")
    assert text.count("\n") == len(text.splitlines()) == len(rows), "one line per row, for any text"


@given(values)
def test_json_round_trips(file: Path, value: Any) -> None:
    write_json(file, value)
    assert read_json(file) == value


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object()])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, bad: Any) -> None:
    file = tmp_path / "rows.jsonl"
    write_rows(file, [{"a": 1}])
    with pytest.raises((ValueError, TypeError)):
        write_rows(file, [{"a": 2}, {"a": bad}])
    assert read_rows(file) == [{"a": 1}]
    with pytest.raises((ValueError, TypeError)):
        write_json(file, [bad])
    assert read_rows(file) == [{"a": 1}]


@pytest.mark.parametrize("damage", [b'{"a": 1}\n{"a"', b"[1]\n", b"\xff\xfe\n", b'{"a": 1}\n\n{"a": 2}\n', b"null\n"])
def test_damaged_rows_are_named(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(damage)
    with pytest.raises(BenchError, match=r"rows\.jsonl is damaged"):
        read_rows(file)


@pytest.mark.parametrize("damage", [b'{"a": 1}\n{"a"\n', b'{"a": 1}\n' + b"[" * 100_000 + b"\n"])
def test_the_damaged_line_is_named(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(damage)
    with pytest.raises(BenchError) as caught:
        read_rows(file)
    assert caught.value.seen == f"{file} is damaged (line 2: no JSON object)."


def by_lines(data: bytes) -> list[Any] | None:
    """`read_rows`, by definition; None where it refuses the file."""
    try:
        lines = data.decode("utf-8").removesuffix("\n").split("\n") if data else []
        rows = [json.loads(line) for line in lines]
    except ValueError:
        return None
    return rows if all(isinstance(row, dict) for row in rows) else None


pieces = st.sampled_from(
    ['{"a":1}', "{}", "[", "]", "{", "}", "\n", ",", '"', '{"a":[1', "2]}", "null", '"x', " ", "\r"]
)


@given(st.lists(pieces, max_size=8).map("".join))
def test_rows_are_read_line_by_line(file: Path, text: str) -> None:
    file.write_bytes(text.encode())
    wanted = by_lines(text.encode())
    if wanted is None:
        with pytest.raises(BenchError):
            read_rows(file)
    else:
        assert read_rows(file) == wanted


@pytest.mark.parametrize("text", ['{"a":1}\n{"b":null}\n', '{"a":"\\u2028"}', "", '{"a":1}\r\n'])
def test_whole_files_are_read(file: Path, text: str) -> None:
    file.write_bytes(text.encode())
    assert read_rows(file) == by_lines(text.encode()) is not None


def test_lines_are_numbered_with_the_blank_ones() -> None:
    lines = [b"\n", b'{"a": 1}\n', b" \n", b'{"a": 2}']
    assert list(store.numbered_rows(lines, skip_empty=True)) == [(2, {"a": 1}), (4, {"a": 2})]


def test_reading_does_not_depend_on_the_decoders_that_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """jsonlines decodes with orjson or ujson by default; neither accepts a lone surrogate, which models do write."""
    options: dict[str, Any] = {}
    own = jsonlines.Reader

    def reader(lines: Any, **given: Any) -> Any:
        options.update(given)
        return own(lines, **given)

    monkeypatch.setattr(jsonlines, "Reader", reader)
    write_rows(tmp_path / "rows.jsonl", [{"text": "\ud800"}])
    written = (tmp_path / "rows.jsonl").read_bytes()
    assert list(store.numbered_rows([written])) == [(1, {"text": "\ud800"})]
    assert options["loads"] is json.loads
    assert read_rows(tmp_path / "rows.jsonl") == [{"text": "\ud800"}]


@pytest.mark.parametrize("damage", [b"", b'{"a": ', b"\xff", b"{} {}"])
def test_damaged_json_is_named(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "cell.json"
    file.write_bytes(damage)
    with pytest.raises(BenchError, match=r"cell\.json is damaged"):
        read_json(file)


@pytest.mark.parametrize("read", [read_json, read_rows])
def test_missing_files_are_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(BenchError, match=r"gone\.json is missing"):
        read(tmp_path / "gone.json")


# --- keys


def shuffled(value: Any) -> Any:
    """The same JSON value, its keys in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(x) for x in value] if isinstance(value, list) else value


@given(values)
def test_a_key_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    assert content_key(shuffled(value)) == content_key(value)
    assert len(content_key(value)) == 64


@given(values, values)
def test_different_values_have_different_keys(one: Any, two: Any) -> None:
    spelt = [json.dumps(v, sort_keys=True) for v in (one, two)]
    assert (content_key(one) == content_key(two)) == (spelt[0] == spelt[1])


def test_a_key_is_the_same_in_every_process() -> None:
    """A golden value: changing it would orphan every stored folder."""
    value = {"b": [1, 2.5, None, True], "a": "é\ud800"}
    assert content_key(value) == "745e53b8b559edf07edca296340a7feec0009ec2c6b359037c727319c705d9ad"
    assert store.canonical(value) == '{"a":"é\ud800","b":[1,2.5,null,true]}'


def test_a_value_without_json_has_no_key() -> None:
    for value in (float("nan"), {"a": float("inf")}, {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            content_key(value)
