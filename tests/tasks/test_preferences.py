"""Any preference data: the standard columns in every kind of file, and rows that are none."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.preferences import preference_texts, preferences
from rlhf_bench.tasks.sources import Row

COUNT = 60


def rows(count: int = COUNT, word: str = "Question") -> list[dict[str, Any]]:
    return [{"prompt": f"{word} {i}?", "chosen": f"Yes, {i}.", "rejected": f"No {i}"} for i in range(count)]


def turns(*texts: str) -> list[dict[str, str]]:
    """Messages, user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def write(path: Path, found: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            flat = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in found]
            writer.writerows(flat)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(found), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.parquet"])
@pytest.mark.parametrize("kind", ["plain", "messages", "implicit"])
def test_every_kind_of_file_and_column_gives_the_same(name: str, kind: str, tmp_path: Path) -> None:
    found = rows()
    for row in found if kind != "plain" else []:
        prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
        if kind == "messages":
            row |= {"prompt": turns(prompt), "chosen": turns("", chosen)[1:], "rejected": turns("", rejected)[1:]}
        else:
            del row["prompt"]
            row |= {"chosen": turns(prompt, chosen), "rejected": turns(prompt, rejected)}
    task, plain = (
        preferences(data=str(write(tmp_path / name, found))),
        preferences(data=str(write(tmp_path / "plain.jsonl", rows()))),
    )
    for split in ("sft", "train", "test"):
        assert list(task.examples(split)) == list(plain.examples(split))  # type: ignore[arg-type]
        assert list(task.pairs(split)) == list(plain.pairs(split))  # type: ignore[arg-type]
    assert task.origin.kind == "real"


def test_no_prompt_stands_on_two_sides(tmp_path: Path) -> None:
    doubled = [*rows(), *({**row, "prompt": row["prompt"].upper() + " "} for row in rows())]
    task = preferences(data=str(write(tmp_path / "p.jsonl", doubled)))
    sides = [
        {one.prompt.lower().strip() for one in side}
        for side in (task.examples("sft"), [*task.examples("train"), *task.pairs("train")], task.pairs("test"),
                     task.examples("test"))
    ]  # fmt: skip
    assert sum(map(len, sides)) == len(set().union(*sides)) == COUNT


def test_a_prompt_with_several_rows_is_one_example(tmp_path: Path) -> None:
    more = [*rows(), *({**row, "chosen": "Indeed."} for row in rows())]
    task = preferences(data=str(write(tmp_path / "p.jsonl", more)))
    assert all(e.references == ("Indeed.",) for e in task.examples("test"))
    assert len(task.pairs("train")) == 2 * len(task.examples("train"))


def test_a_folder_with_a_held_out_split(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [*rows(), *rows(6, "Held")])
    write(tmp_path / "test.jsonl", rows(30, "Held"))
    task = preferences(data=str(tmp_path))
    held = {e.prompt for e in task.examples("test")} | {p.prompt for p in task.pairs("test")}
    assert held == {row["prompt"] for row in rows(30, "Held")}
    assert len(task.examples("sft")) + len(task.examples("train")) == COUNT
    assert "6 training rows about held-out prompts left out" in task.origin.description


def test_the_hub_pinned_and_by_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, **more: str) -> Any:
        asked.append((name, more))
        return {"train_prefs": rows(), "test_prefs": rows(20, "Held"), "train_sft": []}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    task = preferences(data="org/name@v1.2", split="train_prefs", test_split="test_prefs")
    assert len(task.examples("test")) + len(task.pairs("test")) == 20
    assert asked == [("org/name", {"revision": "v1.2"})]
    with pytest.raises(BenchError, match=r"no rows in split 'train'.*train_prefs"):
        _ = preferences(data="org/name").origin


def test_it_keeps_the_rules_of_the_seam(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", rows())
    findings = check("task", "preferences", {"data": str(path), "response_tokens": 16})
    assert [f for f in findings if not f.ok] == []


def test_transcripts_of_plain_text() -> None:
    talk = "\n\nHuman: Hi?\n\nAssistant: Yes?\n\nHuman: Where is Ben?\n\nAssistant:"
    found = preference_texts(Row("x", {"chosen": f"{talk} I am not sure.", "rejected": f"{talk} I am Ben."}))
    assert found == ("User: Hi?\n\nAssistant: Yes?\n\nUser: Where is Ben?", "I am not sure.", "I am Ben.")
    lines = Row("x", {"chosen": "Where?\nHere", "rejected": "Where?\nHell"})
    assert preference_texts(lines) == ("Where?", "Here", "Hell")


def test_several_turns_become_one_text() -> None:
    before = [{"role": "system", "content": "Be kind."}, *turns("Hi?", "Yes?", "Where?")]
    row = {"chosen": [*before, *turns("", "Here.")[1:]], "rejected": [*before, *turns("", "No.")[1:]]}
    asked = "System: Be kind.\n\nUser: Hi?\n\nAssistant: Yes?\n\nUser: Where?"
    assert preference_texts(Row("x", row)) == (asked, "Here.", "No.")
    assert preference_texts(Row("x", {**row, "prompt": before})) == (asked, "Here.", "No.")  # repeated in both


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"chosen": "a"}, "no column 'rejected', only 'chosen'"),
        ({"prompt": "p", "chosen": " ", "rejected": "b"}, "the chosen response is empty"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "the prompt is empty"),
        ({"prompt": "p", "chosen": 3, "rejected": "b"}, "neither text nor a list"),
        ({"prompt": "p", "chosen": "\ud800", "rejected": "b"}, "not valid Unicode"),
        ({"prompt": "p", "chosen": "a", "rejected": turns("p", "b")}, "one response is text"),
        ({"chosen": "a", "rejected": "b"}, "begin differently"),
        ({"chosen": turns("p", "a"), "rejected": turns("q", "b")}, "begin differently"),
        (
            {"prompt": turns("p", "a"), "chosen": turns("c"), "rejected": turns("d")},
            "'chosen' holds user",
        ),
        (
            {"prompt": turns("p", "a"), "chosen": turns("", "c")[1:], "rejected": turns("", "d")[1:]},
            "a turn of 'assis",
        ),
        (
            {"prompt": "p", "chosen": [{"role": "narrator", "content": "x"}], "rejected": turns("p", "b")},
            "a turn of 'narrator'",
        ),
        ({"prompt": "p", "chosen": [{"text": "x"}], "rejected": turns("p", "b")}, "role and content"),
    ],
)
def test_rows_that_are_none(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BenchError, match=said) as caught:
        preference_texts(Row("p.jsonl, line 3", values))
    assert str(caught.value).startswith("p.jsonl, line 3: ")
    assert len(str(caught.value).splitlines()) == 1


def test_data_that_cannot_be_used(tmp_path: Path) -> None:
    def refused(said: str, **settings: str) -> None:
        with pytest.raises(BenchError, match=said) as caught:
            preferences(**settings).examples("sft")  # type: ignore[arg-type]
        assert len(str(caught.value).splitlines()) == 1

    few = write(tmp_path / "few.jsonl", rows(2))
    refused("has no data of its own", data="")
    refused("has no data of its own", data="hub")
    refused("no such file", data=str(tmp_path / "no.jsonl"))
    refused("leaves no row for", data=str(few))
    refused("A file has no splits", data=str(few), split="dev")
    refused("no rows in split 'train'", data=str(tmp_path))
