"""The cache of reports: the same bytes with it, without it and with a damaged one, and nothing computed twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from checked_reports import written
from click.testing import CliRunner
from stored import NAMES, Stored, make

from rlhf_bench.harness import cache, store
from rlhf_bench.harness.cli import main
from rlhf_bench.harness.plan import experiments, stamps
from rlhf_bench.harness.results import columns, stored
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.reports import build

SHAPE = Stored(NAMES[:3], (1, 2), 12, greedy=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make(root, SHAPE)
    return root


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files of rows of generations and verdicts that were parsed, in order."""
    seen: list[str] = []
    read = stored._parsed

    def counting(path: Path) -> Any:
        if path.name in ("generations.jsonl", "verdicts.jsonl"):
            seen.append(f"{path.parent.name}/{path.name}")
        return read(path)

    monkeypatch.setattr(stored, "_parsed", counting)
    return seen


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """A report of this process knows no columns of the one before, as that of a new process."""
    columns._READ.clear()
    yield
    columns._READ.clear()


def with_cache(runs: Path, out: Path, folder: Path | None, estimator: Estimator | None = None) -> dict[str, bytes]:
    columns._READ.clear()
    with cache.using(folder):
        return written(runs, out, estimator)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_same_bytes_and_no_row_is_read_again(runs: Path, tmp_path: Path, counted: list[str]) -> None:
    plain = with_cache(runs, tmp_path / "plain", None)
    assert with_cache(runs, tmp_path / "first", tmp_path / "kept") == plain
    assert counted
    counted.clear()
    assert with_cache(runs, tmp_path / "second", tmp_path / "kept") == plain
    assert counted == []
    shutil.rmtree(tmp_path / "kept")  # it may be deleted
    assert with_cache(runs, tmp_path / "third", tmp_path / "kept") == plain


DAMAGES = {
    "emptied": lambda data: data[:0],
    "cut off": lambda data: data[: len(data) // 2],
    "a number changed": lambda data: data.replace(b"0.", b"1.", 9),
    "of another key": lambda data: b"0" * 64 + data[64:],
    "no JSON": lambda data: b"\xff\xfe" + data,
    "nested": lambda data: data[:129] + b"\n" + b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_computed_again(runs: Path, tmp_path: Path, damage: str) -> None:
    plain = with_cache(runs, tmp_path / "first", tmp_path / "kept")
    for path in entries(tmp_path / "kept"):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert with_cache(runs, tmp_path / "second", tmp_path / "kept") == plain
    assert with_cache(runs, tmp_path / "third", tmp_path / "kept") == plain


def test_entries_that_change_places_are_not_taken(runs: Path, tmp_path: Path) -> None:
    plain = with_cache(runs, tmp_path / "first", tmp_path / "kept")
    paths = entries(tmp_path / "kept")
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(content)
    assert with_cache(runs, tmp_path / "second", tmp_path / "kept") == plain


def test_only_what_changed_is_read(runs: Path, tmp_path: Path, counted: list[str]) -> None:
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    with_cache(root, tmp_path / "first", tmp_path / "kept")
    verdicts = sorted((root / "verdicts").glob(f"utility-*-{NAMES[0]}-s1-*/verdicts.jsonl"))[0]
    rows = store.read_rows(verdicts)
    for row in rows:
        row["values"]["gold"] = (row["values"]["gold"] or 0.0) + 0.25
    store.write_rows(verdicts, rows)
    counted.clear()
    again = with_cache(root, tmp_path / "second", tmp_path / "kept")
    read = {name for name in counted if name.startswith("utility-")}
    # the changed file, and those of other cells that it is compared with; verdicts of other judges are not needed
    assert f"{verdicts.parent.name}/verdicts.jsonl" in read
    others = {name for name in counted if name.endswith("verdicts.jsonl") and not name.startswith("utility-")}
    assert all(f"-{NAMES[0]}-s1-" in name for name in others), others
    assert again == with_cache(root, tmp_path / "plain", None)


def test_a_report_of_more_arms_and_of_another_level_has_its_own_numbers(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    make(root, Stored(NAMES[:2], (1, 2), 12))
    with_cache(root, tmp_path / "first", tmp_path / "kept")
    make(root, Stored(NAMES[:4], (1, 2), 12))
    assert with_cache(root, tmp_path / "more", tmp_path / "kept") == with_cache(root, tmp_path / "plain", None)
    wide = Estimator(0.8)
    kept = with_cache(root, tmp_path / "wide", tmp_path / "kept", wide)
    assert kept == with_cache(root, tmp_path / "plain wide", None, wide)


def test_arms_that_were_reported_one_by_one_are_compared_without_their_rows(
    runs: Path, tmp_path: Path, counted: list[str]
) -> None:
    """As after `bench run` for each reward model: what two arms have together is made of columns that were kept."""
    plain = with_cache(runs, tmp_path / "plain", None)
    for name in SHAPE.rms:
        columns._READ.clear()
        with cache.using(tmp_path / "kept"):
            found, _ = find_cells(sorted((runs / "cells").glob(f"*-{name}-s*.json")))
            build.write(build.build(found, [], Estimator(), "bench run"), tmp_path / name, found)
    counted.clear()
    assert with_cache(runs, tmp_path / "together", tmp_path / "kept") == plain
    assert counted == []


def test_columns_of_a_file_that_was_replaced_while_it_was_read_are_not_kept(tmp_path: Path) -> None:
    row = {"example_id": "e", "iteration": 1, "decoding": "sample", "slices": [], "values": {"a": 1.0}}
    path = tmp_path / "verdicts.jsonl"
    store.write_rows(path, [row])
    with cache.using(tmp_path / "kept"):
        before = columns.content(path)
        rows = store.read_rows(path)
        store.write_rows(path, [{**row, "values": {"a": 2.0}}])
        columns.keep(path, rows, before)
        assert columns.read(path).groups["sample", 1].column("a").tolist() == [1.0]  # of the rows given
        columns._READ.clear()
        assert columns.read(path).groups["sample", 1].column("a").tolist() == [2.0]
    assert len(entries(tmp_path / "kept")) == 1


def test_damage_of_the_results_is_said_though_they_were_sound_before(runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(runs, root)
    with_cache(root, tmp_path / "first", tmp_path / "kept")
    path = sorted((root / "ppo").glob("*/generations.jsonl"))[0]
    path.write_bytes(path.read_bytes()[:-40])
    assert with_cache(root, tmp_path / "second", tmp_path / "kept") == with_cache(root, tmp_path / "plain", None)
    assert "damaged" in json.loads((tmp_path / "second" / "report.json").read_text())["warnings"][0]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="rights of Unix")
def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "open", tmp_path / "file", None):
        with cache.using(folder):
            assert not cache.is_used()
            assert cache.group("a").get("b", lambda: 1) == 1
    assert not list((tmp_path / "open").iterdir())


def test_what_json_does_not_hold_is_not_kept(tmp_path: Path) -> None:
    for value in (float("nan"), {1, 2}, object()):
        for _ in range(2):
            with cache.using(tmp_path):
                assert cache.group("odd").get("value", lambda value=value: value) is value  # type: ignore[misc]
    with cache.using(tmp_path):  # other values of the group are
        assert cache.group("odd").get("text", lambda: "a\ud800\u2028") == "a\ud800\u2028"
    with cache.using(tmp_path):
        assert cache.group("odd").get("text", lambda: "made again") == "a\ud800\u2028"


def test_nothing_is_kept_of_what_is_not_known(tmp_path: Path) -> None:
    with cache.using(tmp_path):
        cache.group("sound cell", "").get("value", lambda: 1)
    assert entries(tmp_path) == []


def test_the_oldest_entries_go_first(tmp_path: Path) -> None:
    for number in range(4):
        with cache.using(tmp_path, limit=10_000):
            cache.group(number).get("value", lambda: "x" * 2_000)
        for path in entries(tmp_path):
            os.utime(path, (path.stat().st_mtime - 10,) * 2)
    with cache.using(tmp_path, limit=7_000):  # used now
        assert cache.group(0).get("value", lambda: "made again") == "x" * 2_000
    with cache.using(tmp_path, limit=0):
        pass
    assert entries(tmp_path) == []


def test_another_version_of_the_code_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cache.using(tmp_path):
        cache.group("a").get("b", lambda: 1)
    monkeypatch.setattr(cache, "code", lambda: "changed")
    with cache.using(tmp_path):
        assert cache.group("a").get("b", lambda: 2) == 2


def test_a_plan_that_tells_what_is_stale_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def make_plan(_: object, seeds: object, __: object) -> SimpleNamespace:
        made.append(seeds)
        return SimpleNamespace(analyses={}, plans={})

    monkeypatch.setattr(experiments, "make", make_plan)
    for _ in range(2):
        with cache.using(tmp_path):
            assert stamps.of_today("headline", (1, 2)) == {}
    assert made == [(1, 2)]
    stamps.of_today("headline", (1, 2))
    assert made == [(1, 2)] * 2, "without a cache it is made again"


def test_no_cache_keeps_and_takes_nothing(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache.user_folder()
    assert folder == tmp_path / "rlhf-bench" / "reports"
    asked = ["report", str(runs), "--quiet", "--out"]
    for number, more in enumerate((["--no-cache"], [], ["--no-cache"], [])):
        columns._READ.clear()
        done = CliRunner().invoke(main.bench, [*asked, str(tmp_path / "out"), *more])
        assert done.exit_code == 0, done.output
        assert bool(entries(folder)) == (number > 0)


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "runs")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache.user_folder() == Path("/home/someone/.cache/rlhf-bench/reports")
