"""The task `xsum`: generated articles, and real ones as a whole task or as prompts only."""

from __future__ import annotations

import inspect
import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.seams import GoldTask, Task
from rlhf_bench.tasks.worlds.lexicon_prose import ARTICLE
from rlhf_bench.tasks.worlds.world import SummaryWorld
from rlhf_bench.tasks.xsum import XSUM, xsum

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "xsum_hf_sample" / "sample.jsonl"
SMALL = {"demonstrations": 20, "train_pairs": 20, "test_pairs": 20, "train_prompts": 20, "test_prompts": 20}


def article(name: str) -> dict[str, str]:
    return {"document": f"This is the news of {name}.", "summary": f"About {name}.", "id": name}


def write(path: Path, names: list[str]) -> Path:
    path.write_text("".join(json.dumps(article(name)) + "\n" for name in names), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", [f"train{number}" for number in range(5)])
    write(tmp_path / "validation.jsonl", ["dev"])
    write(tmp_path / "test.jsonl", ["test"])
    return tmp_path


def test_the_world_is_the_default() -> None:
    assert xsum() == SummaryWorld(register=ARTICLE)
    assert xsum(seed=3, objects="unseen", words=140) == SummaryWorld(
        register=ARTICLE, seed=3, objects="unseen", words=140
    )
    assert isinstance(xsum(), GoldTask)
    assert "news articles" in xsum().origin.description


def test_every_knob_of_the_world_is_a_plain_keyword() -> None:
    parameters = inspect.signature(xsum).parameters
    world = {field.name for field in fields(SummaryWorld)} - {"register"}
    assert set(parameters) == world | {"data", "prompts_only"}
    assert all(type(parameter.default) in (str, int, float, bool) for parameter in parameters.values())


@pytest.mark.parametrize("objects", ["seen", "unseen"])
def test_it_keeps_the_rules_of_tasks(objects: str) -> None:
    assert [
        found for found in check("task", "rlhf_bench.tasks.xsum:xsum", {**SMALL, "objects": objects}) if not found.ok
    ] == []


def test_a_folder(folder: Path) -> None:
    task = xsum(data=str(folder))
    assert isinstance(task, Task)
    assert not isinstance(task, GoldTask)
    assert [example.id for example in task.examples("sft")] == ["train0", "train2", "train4"]
    assert [example.id for example in task.examples("train")] == ["train1", "train3"]
    (test,) = task.examples("test")
    assert (test.prompt, test.completion) == (f"This is the news of test.\n\n{XSUM.instruction}", "About test.")
    assert [(pair.chosen, pair.rejected) for pair in task.pairs("test")] == [("About dev.", None)]
    assert len(task.pairs("train")) == 2
    assert "5 train, 1 dev, 1 test articles" in task.origin.description
    assert [found for found in check("task", "rlhf_bench.tasks.xsum:xsum", {"data": str(folder)}) if not found.ok] == []


def test_prompts_only_of_a_folder_is_its_test_split(folder: Path) -> None:
    (folder / "train.jsonl").unlink()
    task = xsum(data=str(folder), prompts_only=True)
    assert [example.id for example in task.examples("test")] == ["test"]
    with pytest.raises(BenchError, match="no train split"):
        xsum(data=str(folder)).examples("test")


def test_prompts_only_of_a_file_is_every_row(tmp_path: Path) -> None:
    few = str(write(tmp_path / "few.jsonl", ["a", "b"]))
    task = xsum(data=few, prompts_only=True)
    assert [example.id for example in task.examples("test")] == ["a", "b"]
    assert "2 test articles" in task.origin.description
    for refused in (lambda: task.examples("sft"), lambda: task.examples("train"), lambda: task.pairs("test")):
        with pytest.raises(BenchError, match="prompts_only=true: it has no demonstrations"):
            refused()
    with pytest.raises(BenchError, match=r"too small to split: 2 rows.*prompts_only"):
        xsum(data=few).examples("test")


def test_prompts_only_means_nothing_in_the_world() -> None:
    with pytest.raises(BenchError, match="prompts_only is set without data"):
        xsum(prompts_only=True)


def test_world_settings_are_refused_with_real_data(folder: Path) -> None:
    with pytest.raises(BenchError, match="words, objects set together with data="):
        xsum(data=str(folder), words=100, objects="unseen")


@pytest.mark.parametrize(("data", "name"), [("hub", "EdinburghNLP/xsum"), ("owner/name", "owner/name")])
def test_the_hub(monkeypatch: pytest.MonkeyPatch, data: str, name: str) -> None:
    splits = {"train": [article("a"), article("b")], "validation": [article("c")], "test": [article("d")]}
    asked: list[str] = []

    def load_dataset(asked_for: str) -> object:
        asked.append(asked_for)
        return splits

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert [example.id for example in xsum(data=data).examples("test")] == ["d"]
    assert asked == [name]


def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(_: str) -> object:
        raise ConnectionError("Couldn't reach it\nand more")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(BenchError, match="Go online") as raised:
        xsum(data="hub").examples("test")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("data", ["none", "./missing", "rows.csv", "a b/c"])
def test_what_is_no_data_is_refused(data: str) -> None:
    with pytest.raises(BenchError, match=re.escape(repr(data))):
        xsum(data=data)


def test_a_wrong_column_is_named(folder: Path) -> None:
    (folder / "test.jsonl").write_text(json.dumps({"documnt": "a", "summary": "b"}), encoding="utf-8")
    with pytest.raises(BenchError, match=r"line 1: no column 'document'. Did you mean 'documnt'"):
        xsum(data=str(folder)).examples("test")


@pytest.mark.skipif(not REAL.is_file(), reason="the XSum sample is not beside the repository")
def test_the_real_sample_is_ten_prompts_and_no_whole_task() -> None:
    examples = xsum(data=str(REAL), prompts_only=True).examples("test")
    assert len({example.prompt for example in examples}) == 10
    assert all(example.completion for example in examples)
    with pytest.raises(BenchError, match="too small to split: 10 rows"):
        xsum(data=str(REAL)).examples("sft")
