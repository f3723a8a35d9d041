"""Prompts-only tasks: what they hold, and that they ask before they fetch."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.seams import GoldTask, HasOrigin, Task
from rlhf_bench.tasks.prompts import CODE, MEDICAL, Prompts, code, medical, prompts


def write(path: Path, texts: list[Any], column: str = "prompt") -> Path:
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts), encoding="utf-8")
    return path


def hub(monkeypatch: pytest.MonkeyPatch, splits: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A hub that holds these splits; the names it is asked for."""
    asked: list[str] = []

    def load_dataset(name: str) -> dict[str, list[dict[str, Any]]]:
        asked.append(name)
        return splits

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_prompts_and_nothing_else(tmp_path: Path) -> None:
    task = prompts(data=str(write(tmp_path / "a.jsonl", [f"Question {i}?" for i in range(30)])))
    assert isinstance(task, Task)
    assert isinstance(task, HasOrigin)
    assert not isinstance(task, GoldTask)
    held = task.examples("test")
    assert sorted(e.prompt for e in held) == sorted(f"Question {i}?" for i in range(30))
    assert len({e.id for e in held}) == 30
    assert not any(e.completion for e in held)
    assert list(task.examples("sft")) == list(task.examples("train")) == []
    assert [list(task.pairs(split)) for split in ("sft", "train", "test")] == [[], [], []]  # type: ignore[arg-type]
    assert [e.prompt for e in held] != [f"Question {i}?" for i in range(30)]  # the first n are no chapter of the file


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=8, max_size=30, unique=True), st.floats(0.1, 0.9))
def test_shares_are_apart_and_whole_and_do_not_depend_on_the_order(texts: list[str], share: float) -> None:
    task, other = Prompts("owner/name", train_share=share), Prompts("owner/name", train_share=share)
    rows = [SimpleNamespace(where=f"row {i}", values={"prompt": text}) for i, text in enumerate(texts)]
    task.__dict__["_rows"], other.__dict__["_rows"] = rows, rows[::-1]
    places = [place for place, _ in task._examples]
    if not min(places) < share <= max(places):
        with pytest.raises(BenchError, match="leaves no"):
            [task.examples(split) for split in ("train", "test")]  # type: ignore[arg-type]
        return
    train, test = ([e.prompt for e in task.examples(split)] for split in ("train", "test"))  # type: ignore[arg-type]
    assert sorted(train + test) == sorted(texts)
    assert [e.prompt for e in other.examples("train")] == train


def test_a_share_is_about_that_share(tmp_path: Path) -> None:
    task = prompts(data=str(write(tmp_path / "a.jsonl", [f"Q{i}" for i in range(1000)])), train_share=0.3)
    assert 230 < len(task.examples("train")) < 370


def test_equal_texts_count_once_and_texts_that_differ_in_a_sign_are_two(tmp_path: Path) -> None:
    task = prompts(data=str(write(tmp_path / "a.jsonl", ["x + y", "x - y", "x + y"])))
    assert sorted(e.prompt for e in task.examples("test")) == ["x + y", "x - y"]
    assert "2, 1 repeated" in task.origin.description


def test_the_content_decides_the_hash(tmp_path: Path) -> None:
    one = prompts(data=str(write(tmp_path / "a.jsonl", ["a", "b"])))
    same = prompts(data=str(write(tmp_path / "b.jsonl", ["a", "b"])))
    other = prompts(data=str(write(tmp_path / "c.jsonl", ["a", "c"])))
    assert one.origin.sha256 == same.origin.sha256 != other.origin.sha256


@pytest.mark.parametrize(("factory", "name"), [(prompts, "prompts"), (medical, "medical"), (code, "code")])
def test_nothing_is_fetched_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch, factory: Any, name: str) -> None:
    asked = hub(monkeypatch, {"train": [{"prompt": "a"}]})
    with pytest.raises(BenchError) as caught:
        factory()
    assert f"--set {name}.data=" in caught.value.fix
    assert "\n" not in str(caught.value)
    assert asked == []


def test_there_is_no_default_on_the_hub_for_any_prompts() -> None:
    with pytest.raises(BenchError, match="no prompts of its own"):
        prompts(data="hub")


@pytest.mark.parametrize(
    ("factory", "dataset", "column", "split"), [(medical, MEDICAL, "question", "train"), (code, CODE, "prompt", "test")]
)
def test_hub_defaults(monkeypatch: pytest.MonkeyPatch, factory: Any, dataset: str, column: str, split: str) -> None:
    asked = hub(monkeypatch, {split: [{column: "One?"}, {column: "Two?"}]})
    task = factory(data="hub")
    assert asked == []  # not before somebody reads it
    assert {e.prompt for e in task.examples("test")} == {"One?", "Two?"}
    assert set(asked) == {dataset}
    assert task.origin.license != "unknown"


def test_several_splits_must_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": [{"prompt": "a"}], "test": [{"prompt": "b"}], "empty": []}
    hub(monkeypatch, splits)
    with pytest.raises(BenchError, match="3 splits: train, test, empty"):
        prompts(data="owner/name").examples("test")
    assert prompts(data="owner/name", split="test").examples("test")[0].prompt == "b"
    with pytest.raises(BenchError, match="Did you mean 'train'"):
        prompts(data="owner/name", split="tran").examples("test")
    with pytest.raises(BenchError, match="holds no rows"):
        prompts(data="owner/name", split="empty").examples("test")


@pytest.mark.parametrize(
    ("texts", "column", "seen"),
    [
        (["a"], "question", "no column 'question'"),
        ([" "], "prompt", "'prompt' is empty"),
        ([3], "prompt", "'prompt' holds 3"),
        (["\ud800"], "prompt", "not valid Unicode"),
    ],
)
def test_bad_rows(tmp_path: Path, texts: list[Any], column: str, seen: str) -> None:
    with pytest.raises(BenchError) as caught:
        prompts(data=str(write(tmp_path / "a.jsonl", texts)), column=column).examples("test")
    assert seen in caught.value.seen
    assert "line 1" in caught.value.seen


@pytest.mark.parametrize(
    "wrong", [{"train_share": 1.0}, {"train_share": -0.1}, {"response_tokens": 1}, {"split": "test"}]
)
def test_wrong_settings(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = write(tmp_path / "a.jsonl", ["a"])
    with pytest.raises(BenchError):
        prompts(data=str(path), **wrong).examples("test")


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no such file"):
        prompts(data=str(tmp_path / "none.jsonl"))
    with pytest.raises(BenchError, match="is a folder"):
        prompts(data=str(tmp_path)).examples("test")


def test_the_three_take_the_same_settings() -> None:
    names = [list(inspect.signature(factory).parameters) for factory in (prompts, medical, code)]
    assert names[0] == names[1] == names[2]
