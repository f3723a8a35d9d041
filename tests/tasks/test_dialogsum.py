"""The task `dialogsum`: synthetic by default, and real data from every kind of place."""

from __future__ import annotations

import gzip
import inspect
import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.seams import GoldTask, HasOrigin, Task
from rlhf_bench.tasks.dialogsum import DIALOGSUM, dialogsum
from rlhf_bench.tasks.worlds.world import DialogueWorld

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "dialogsum"


def row(name: str, **more: str) -> dict[str, str]:
    return {"fname": name, "dialogue": f"#Person1#: This is {name}.", "summary": f"About {name}.", **more}


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    content = "".join(json.dumps(values) + "\n" for values in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "dialogsum.train.jsonl.gz", [row(f"train_{number}") for number in range(7)])
    write(tmp_path / "dialogsum.dev.jsonl", [row("dev_0")])
    test = {"fname": "test_0", "dialogue": "Hello.", "summary1": "One.", "summary2": "Two.", "summary3": "Three."}
    write(tmp_path / "dialogsum.test.jsonl", [test])
    return tmp_path


def test_the_world_is_the_default() -> None:
    task = dialogsum()
    assert task == DialogueWorld()
    assert dialogsum(seed=3, carelessness=0.5, response_tokens=40) == DialogueWorld(
        seed=3, carelessness=0.5, response_tokens=40
    )


def test_every_knob_of_the_world_is_a_plain_keyword() -> None:
    parameters = inspect.signature(dialogsum).parameters
    assert set(parameters) == {field.name for field in fields(DialogueWorld)} | {"data"}
    assert all(type(parameter.default) in (str, int, float) for parameter in parameters.values())


def test_a_folder(folder: Path) -> None:
    task = dialogsum(data=str(folder))
    assert isinstance(task, Task)
    assert isinstance(task, HasOrigin)
    assert not isinstance(task, GoldTask)
    assert task.max_response_tokens == 64
    assert [example.id for example in task.examples("sft")] == ["train_0", "train_2", "train_4", "train_6"]
    assert [example.id for example in task.examples("train")] == ["train_1", "train_3", "train_5"]
    (test,) = task.examples("test")
    assert (test.completion, test.references) == ("One.", ("Two.", "Three."))
    assert test.prompt == f"Hello.\n\n{DIALOGSUM.instruction}"
    assert [pair.id for pair in task.pairs("train")] == ["train_1", "train_3", "train_5"]
    assert [(pair.chosen, pair.rejected, pair.chosen_flaws) for pair in task.pairs("test")] == [
        ("About dev_0.", None, None)
    ]
    assert task.pairs("sft") == []
    assert task.origin.kind == "real"
    assert task.origin.license.startswith("CC BY-NC-SA 4.0")
    assert "7 train, 1 dev, 1 test" in task.origin.description


def test_short_names_and_ids(tmp_path: Path) -> None:
    for file in ("train", "validation", "test"):
        rows = [row(f"{file} {number}", fname="", id=str(number)) for number in range(2)]
        write(tmp_path / f"{file}.jsonl", rows)
    task = dialogsum(data=str(tmp_path), response_tokens=9)
    assert task.max_response_tokens == 9
    assert [example.id for example in task.examples("test")] == ["0", "1"]
    assert task.origin.license == "unknown"


def test_copies_leave_the_less_held_out_split(folder: Path) -> None:
    copies = [row("a", dialogue="hello"), row("b", dialogue="#Person1#:  this is DEV_0 ."), row("c"), row("d")]
    again = row("e", dialogue=row("c")["dialogue"] + " ", summary="Another.")
    write(folder / "dialogsum.train.jsonl.gz", [*copies, again])
    task = dialogsum(data=str(folder))
    assert [example.id for example in task.examples("sft")] == ["c"]
    assert [example.id for example in task.examples("train")] == ["d"]
    assert task.examples("sft")[0].references == ("Another.",)
    assert "2 train" in task.origin.description
    assert "several references: 1." in task.origin.description


def test_a_split_of_nothing_but_copies_is_refused(folder: Path) -> None:
    write(folder / "dialogsum.dev.jsonl", [row("x", dialogue="HELLO")])
    with pytest.raises(BenchError, match="all 1 dialogues of the dev split"):
        dialogsum(data=str(folder)).examples("test")


def test_one_file_is_split_by_the_dialogue(tmp_path: Path) -> None:
    rows = [row(f"n{number}") for number in range(200)]
    task = dialogsum(data=str(write(tmp_path / "all.jsonl", rows)))
    turned = dialogsum(data=str(write(tmp_path / "turned.jsonl.gz", rows[::-1])))
    sizes = [
        len(task.examples("sft")) + len(task.examples("train")),
        len(task.pairs("test")),
        len(task.examples("test")),
    ]
    assert sum(sizes) == 200
    assert 140 < sizes[0] < 180
    assert {example.prompt for example in task.examples("test")} == {e.prompt for e in turned.examples("test")}
    assert task.origin.sha256 == dialogsum(data=str(tmp_path / "all.jsonl")).origin.sha256
    with pytest.raises(BenchError, match="too small to split: 19 rows, fewer than 20"):
        dialogsum(data=str(write(tmp_path / "few.jsonl", rows[:19]))).examples("test")
    copies = [row(f"n{number}", dialogue="Hello.") for number in range(20)]
    with pytest.raises(BenchError, match=r"too small: its (train|dev|test) split is empty"):
        dialogsum(data=str(write(tmp_path / "same.jsonl", copies))).examples("test")


@pytest.mark.parametrize(("data", "name"), [("hub", "knkarthick/dialogsum"), ("owner/name", "owner/name")])
def test_the_hub(monkeypatch: pytest.MonkeyPatch, data: str, name: str) -> None:
    splits = {"train": [row("a"), row("b")], "validation": [row("c")]}
    copies = [row("test_0_1"), row("test_0_2", dialogue=row("test_0_1")["dialogue"])]  # a row for each reference
    asked: list[str] = []

    def load_dataset(asked_for: str) -> object:
        asked.append(asked_for)
        return {**splits, "test": copies}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (test,) = dialogsum(data=data).examples("test")
    assert (test.completion, test.references) == ("About test_0_1.", ("About test_0_2.",))
    assert asked == [name]
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda _: splits))
    with pytest.raises(BenchError, match=r"no rows in test, only train \(2 rows\), validation \(1 rows\)"):
        dialogsum(data=data).examples("test")


@pytest.mark.parametrize("data", ["none", "no/such/folder", "./missing", "data/rows.jsonl", "/absent", "a b/c"])
def test_what_is_no_data_is_refused(data: str) -> None:
    with pytest.raises(BenchError, match=re.escape(repr(data))):
        dialogsum(data=data)


def test_world_settings_are_refused_with_real_data(folder: Path) -> None:
    with pytest.raises(BenchError, match=r"seed, carelessness set together with data=.*synthetic task only"):
        dialogsum(data=str(folder), seed=1, carelessness=0.5)
    with pytest.raises(BenchError, match="response_tokens = -1"):
        dialogsum(data=str(folder), response_tokens=-1)


@pytest.mark.parametrize(
    ("rows", "seen"),
    [
        ([{"fname": "a", "dialogue": "b", "sumary": "c"}], "line 1: no column 'summary'. Did you mean 'sumary'"),
        ([row("a"), {"dialog": "b", "summary": "c"}], "line 2: no column 'dialogue'. Did you mean 'dialog'"),
        ([row("a"), row("b", summary="")], "line 2: 'summary' is empty"),
        ([row("a", dialogue="\t")], "line 1: 'dialogue' is empty"),
        ([row("a"), row("b", fname="a")], "line 2: the id 'a' is taken"),
        ([row("a")], "no odd-numbered train dialogue"),
        ([], "holds no rows"),
    ],
)
def test_bad_rows(folder: Path, rows: list[dict[str, str]], seen: str) -> None:
    write(folder / "dialogsum.train.jsonl.gz", rows)
    with pytest.raises(BenchError, match=re.escape(seen)):
        dialogsum(data=str(folder)).examples("train")


def test_bad_folders(folder: Path) -> None:
    write(folder / "dev.jsonl", [row("x")])
    with pytest.raises(BenchError, match=r"holds dialogsum.dev.jsonl and dev.jsonl for the dev split"):
        dialogsum(data=str(folder)).examples("test")
    (folder / "dialogsum.dev.jsonl").rename(folder / "dialogsum.val.jsonl")
    (folder / "dev.jsonl").unlink()
    with pytest.raises(BenchError, match=r"holds no dev split, only dialogsum.test.jsonl, .*Add dialogsum.dev.jsonl"):
        dialogsum(data=str(folder)).examples("test")


@pytest.mark.skipif(not REAL.is_dir(), reason="the DialogSum files are not beside the repository")
def test_the_real_files() -> None:
    task = dialogsum(data=str(REAL))
    sets = [{example.prompt for example in task.examples(split)} for split in ("sft", "train", "test")]
    sets.append({pair.prompt for pair in task.pairs("test")})
    assert sum(map(len, sets)) == len(set.union(*sets)) == 5642 + 5640 + 498 + 491
    assert all(len(example.references) >= 2 for example in task.examples("test"))
    assert "7 dev; 61 train" in task.origin.description
    assert "several references: 1121." in task.origin.description
