"""Folders after interruptions, damage or another version: readable cells are reported, all others are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import bench
from stored import Stored, make

from rlhf_bench.harness import store
from rlhf_bench.harness.results.found import NEEDED, ROLES, find_cells

NAME = "dialogsum-scalar-s1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make(root, Stored(("scalar", "copier"), (1,), 4))
    return root


@pytest.fixture
def runs(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "runs"))


def record_of(runs: Path) -> tuple[Path, dict[str, Any]]:
    path = runs / "cells" / f"{NAME}.json"
    return path, json.loads(path.read_text())


def left_out(runs: Path) -> list[str]:
    """The sentences about the one cell that cannot be read; the other cell is always found."""
    cells, missing = find_cells([runs])
    assert [cell.record["reward_model"] for cell in cells] == ["copier"]
    return missing


def test_a_complete_folder_has_nothing_missing(runs: Path) -> None:
    cells, missing = find_cells([runs])
    assert (len(cells), missing) == (2, [])
    assert len(find_cells([runs, runs / "cells" / f"{NAME}.json"])[0]) == 2  # a cell given by two paths counts once


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "{}", '{"stages": []}'])
def test_a_damaged_record_is_left_out_and_named(runs: Path, text: str) -> None:
    record_of(runs)[0].write_text(text)
    (sentence,) = left_out(runs)
    assert NAME in sentence
    assert "damaged" in sentence


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("value", ["absent", None, ()])
def test_a_record_without_a_part_is_left_out(runs: Path, name: str, value: Any) -> None:
    path, record = record_of(runs)
    changed = {k: v for k, v in record.items() if k != name} if value == "absent" else {**record, name: value}
    path.write_text(json.dumps(changed))
    (sentence,) = left_out(runs)
    assert repr(name) in sentence


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("place", ["absent", None, "x", ["a", "b"], ["a", 1, "b"]])
def test_an_invalid_place_is_left_out(runs: Path, role: str, place: Any) -> None:
    path, record = record_of(runs)
    stages = {k: v for k, v in record["stages"].items() if k != role}
    path.write_text(json.dumps({**record, "stages": stages if place == "absent" else {**stages, role: place}}))
    assert NAME in left_out(runs)[0]


def emptied(path: Path) -> None:
    path.write_text("")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def other(path: Path) -> None:
    path.write_text('{"odd": 1}\n')


def gone(path: Path) -> None:
    path.unlink()


def damaged_inside(path: Path) -> None:
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, b"{", *rest]))


def without_a_key(path: Path) -> None:
    first, second, *rest = path.read_text().splitlines(keepends=True)
    row = {name: value for name, value in json.loads(second).items() if name not in ("kl", "example_id")}
    path.write_text("".join([first, json.dumps(row) + "\n", *rest]))


@pytest.mark.parametrize("damage", [damaged_inside, without_a_key])
@pytest.mark.parametrize("name", ["generations.jsonl", "steps.jsonl"])
def test_a_damaged_row_inside_a_file_is_named(runs: Path, name: str, damage: Callable[[Path], None]) -> None:
    (path,) = runs.glob(f"ppo/*scalar*/{name}")
    damage(path)
    (sentence,) = left_out(runs)
    assert str(path) in sentence
    assert "line 2: no " in sentence


@pytest.mark.parametrize("damage", [damaged_inside, without_a_key])
def test_a_damaged_row_inside_verdicts_leaves_only_their_judge_out(runs: Path, damage: Callable[[Path], None]) -> None:
    (path,) = runs.glob("verdicts/winrate-*scalar*/verdicts.jsonl")
    damage(path)
    cells, (sentence,) = find_cells([runs])
    assert len(cells) == 2
    assert str(path) in sentence


FILES = ("ppo/*scalar*/generations.jsonl", "ppo/*scalar*/steps.jsonl", "scale/*scalar*/scale.json",
         "ppo/*scalar*/stage.json")  # fmt: skip


@pytest.mark.parametrize("damage", [emptied, cut, other, gone])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_leaves_its_cell_out(runs: Path, name: str, damage: Callable[[Path], None]) -> None:
    (path,) = runs.glob(name)
    damage(path)
    (sentence,) = left_out(runs)
    assert NAME in sentence


@pytest.mark.parametrize("damage", [emptied, cut, other, gone])
@pytest.mark.parametrize("name", ["verdicts.jsonl", "measures.json", "stage.json"])
def test_damaged_verdicts_leave_only_their_judge_out(runs: Path, name: str, damage: Callable[[Path], None]) -> None:
    (path,) = runs.glob(f"verdicts/winrate-*scalar*/{name}")
    damage(path)
    cells, (sentence,) = find_cells([runs])
    assert len(cells) == 2
    assert f"{NAME}: the judge 'winrate'" in sentence


def test_damage_gives_code_3_and_the_rest_is_reported(runs: Path, tmp_path: Path) -> None:
    record_of(runs)[0].write_text("[]")
    ended = bench("report", str(runs), "--out", str(tmp_path / "out"))
    assert ended.returncode == 3, ended.stderr
    assert NAME in ended.stdout
    assert NAME in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("left", ["nothing", "no cells", "damaged cells", "unfinished cells"])
def test_nothing_to_report_is_code_3_and_says_why(whole: Path, tmp_path: Path, left: str) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    if left != "nothing":
        (runs / "cells").mkdir()
    if left in ("damaged cells", "unfinished cells"):
        for path in (whole / "cells").glob("*.json"):
            (runs / "cells" / path.name).write_text("{" if left == "damaged cells" else path.read_text())
    ended = bench("report", str(runs), "--out", str(tmp_path / "out"))
    assert ended.returncode == 3, ended.stderr
    assert "No cell is finished" in ended.stderr
    assert {"nothing": "no cells", "no cells": "no cells"}.get(left, left.split()[0]) in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    ended = bench("report", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1


def test_a_new_report_names_cells_that_went_missing(runs: Path, tmp_path: Path) -> None:
    assert bench("report", str(runs), "--out", str(tmp_path / "out")).returncode == 0
    next((runs / "ppo").glob("*scalar*/stage.json")).unlink()
    assert bench("report", str(runs), "--out", str(tmp_path / "out")).returncode == 3
    arms = store.read_json(tmp_path / "out" / "report.json")["arms"]
    assert [arm["reward_model"] for arm in arms] == ["copier"]


def test_a_report_in_the_terminal_is_plain_when_piped(runs: Path) -> None:
    ended = bench("report", str(runs), "--terminal", FORCE_COLOR="", NO_COLOR="1")
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout
    assert "reward model\tseeds" in ended.stdout
    assert "Along training" in ended.stdout
    assert bench("report", str(runs)).returncode == 2  # neither an output folder nor the terminal is chosen


def test_damage_of_a_pool_is_named_with_its_line(tmp_path: Path) -> None:
    """Best-of-n: the folder of generations must hold the pool, from which estimates over n are computed."""
    (path,) = make(tmp_path, Stored(rms=("scalar",), seeds=(1,)))
    record = store.read_json(path)
    place = ["best_of_n", *record["stages"]["generations"][1:]]
    old = tmp_path / "ppo" / "-".join(place[1:])
    folder = tmp_path / "best_of_n" / old.name
    shutil.copytree(old, folder)
    store.write_json(path, {**record, "stages": {**record["stages"], "generations": place}})
    pool = folder / "pool.jsonl"
    row = {"example_id": "test-0", "rewards": [1.0], "figures": {}}
    store.write_rows(pool, [row, row])
    assert find_cells([tmp_path])[1] == []
    pool.write_text(pool.read_text()[:-9])
    cells, (said,) = find_cells([tmp_path])
    assert not cells
    assert f"{pool} is damaged" in said
    assert "line 2" in said
    pool.unlink()
    assert f"{pool} is missing" in find_cells([tmp_path])[1][0]
