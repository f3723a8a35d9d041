"""Prompts-only tasks: what they hold, and that they ask before they fetch."""

from __future__ import annotations

import gzip
import hashlib
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
from rlhf_bench.harness.nouns import Example
from rlhf_bench.harness.seams import GoldTask, HasOrigin, Task
from rlhf_bench.harness.slices import declared_type
from rlhf_bench.reward_models.whitebox import Whitebox
from rlhf_bench.tasks.prompts import CODE, MEDICAL, Prompts, code, medical, prompts

ALPACA = Path(__file__).resolve().parents[3] / "shared" / "data" / "alpaca_eval" / "full_annotations"


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


def typed(path: Path, rows: list[tuple[str, str, str]]) -> str:
    """A file of (prompt, answer, type)."""
    content = [{"prompt": prompt, "answer": answer, "type": kind} for prompt, answer, kind in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return str(path)


def by_prompt(task: Prompts) -> dict[str, Example]:
    return {example.prompt: example for example in task.examples("test")}


def test_types_of_a_column_and_references(tmp_path: Path) -> None:
    rows = [("Name a song.", "Yesterday.", "Open-ended"), ("Who?", "Me.", "closed"), ("Write a poem.", "O!", "closed")]
    task = prompts(data=typed(tmp_path / "a.jsonl", rows), types="type", references="answer")
    found = by_prompt(task)
    assert {prompt: declared_type(e) for prompt, e in found.items()} == {
        "Name a song.": "open",
        "Who?": "closed",
        "Write a poem.": "closed",
    }
    assert {prompt: e.completion for prompt, e in found.items()} == {prompt: answer for prompt, answer, _ in rows}
    assert (
        "Types by column 'type': 2 closed, 1 open; a rule of words gives the same for 67%." in task.origin.description
    )
    scorer = Whitebox(types="slice").with_examples({"train": task.examples("test")})
    assert scorer.features(["Who?"], ["Me."])["rar_closed"].tolist() == pytest.approx([1.0])


def test_types_by_the_rule_are_called_guesses(tmp_path: Path) -> None:
    rows = [("Write a poem.", "O!", ""), ("Who?", "Me.", "")]
    task = prompts(data=typed(tmp_path / "a.jsonl", rows), types="rule", references="answer")
    assert {prompt: e.slices for prompt, e in by_prompt(task).items()} == {
        "Write a poem.": ("by-rule-open",),
        "Who?": ("by-rule-closed",),
    }
    assert task.origin.description.endswith("Types by a rule of words: 1 by-rule-closed, 1 by-rule-open.")
    scorer = Whitebox().with_examples({"train": task.examples("test")})
    found = scorer.features(["Write a poem.", "Who?"], ["a", "b"])
    assert (found["closed"].tolist(), found["type_by_rule"].tolist()) == ([0, 1], [1, 1])


def test_no_types_unless_asked_for(tmp_path: Path) -> None:
    task = prompts(data=typed(tmp_path / "a.jsonl", [("Who?", "Me.", "closed")]))
    (example,) = task.examples("test")
    assert (example.slices, example.completion) == ((), "")
    assert task.origin.description.endswith("left out.")


@pytest.mark.parametrize(
    ("rows", "settings", "seen"),
    [
        ([("Who?", "Me.", "half-open")], {"types": "type"}, "line 1: 'type' holds 'half-open', which is no type of"),
        ([("Who?", "Me.", " ")], {"types": "type"}, "line 1: 'type' is empty"),
        ([("Who?", "Me.", "open")], {"types": "kind"}, "line 1: no column 'kind'"),
        ([("Who?", " ", "open")], {"references": "answer"}, "line 1: 'answer' is empty"),
        ([("Who?", "Me.", "open")], {"references": "anwser"}, "line 1: no column 'anwser'. Did you mean 'answer'"),
        ([("Who?", "a", "open"), ("Who?", "b", "closed")], {"types": "type"}, "line 2: 'type' states another type"),
    ],
)
def test_bad_types_and_references(
    tmp_path: Path, rows: list[tuple[str, str, str]], settings: dict[str, str], seen: str
) -> None:
    task = prompts(data=typed(tmp_path / "a.jsonl", rows), **settings)  # type: ignore[arg-type]
    with pytest.raises(BenchError) as caught:
        task.examples("test")
    assert seen in str(caught.value)
    assert caught.value.fix


@pytest.mark.skipif(not ALPACA.is_dir(), reason="alpaca_eval is not beside the repository")
def test_real_prompts_of_both_types() -> None:
    (path,) = ALPACA.glob("gpt-3.5-turbo-1106__*")
    with gzip.open(path) as file:
        rows = json.load(file)
    task = prompts(data=str(path), column="instruction", references="output_1", types="rule", train_share=0.5)
    found = [*task.examples("train"), *task.examples("test")]
    assert {e.prompt for e in found} == {row["instruction"] for row in rows}
    assert all(e.completion for e in found)
    shares = [sum(e.slices == (f"by-rule-{kind}",) for e in found) / len(found) for kind in ("open", "closed")]
    assert sum(shares) == 1
    assert min(shares) > 0.1
    scorer = Whitebox().with_examples({"train": task.examples("train"), "test": task.examples("test")})
    assert not any(scorer.why_not(e.prompt) for e in found)


@pytest.mark.skipif(not ALPACA.is_dir(), reason="alpaca_eval is not beside the repository")
def test_the_rule_on_real_prompts_is_as_good_as_the_readme_says() -> None:
    """58 of 80 prompts that one reader labelled: it misses open-ended ones and seldom invents them."""
    labels = json.loads((Path(__file__).parents[1] / "golden" / "prompt_types.json").read_text())
    known = {key: kind for kind in ("open", "closed") for key in labels[kind]}
    (path,) = ALPACA.glob("gpt-3.5-turbo-1106__*")
    right = {"open": 0, "closed": 0}
    for example in prompts(data=str(path), column="instruction", types="rule").examples("test"):
        kind = known.get(hashlib.sha256(example.prompt.encode()).hexdigest()[:16])
        if kind:
            right[kind] += example.slices == (f"by-rule-{kind}",)
    assert right["open"] >= 20
    assert right["closed"] >= 38
