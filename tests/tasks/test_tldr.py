"""The task `tldr`: generated posts, and real posts from data of every published kind."""

from __future__ import annotations

import csv
import inspect
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.seams import GoldTask, HasOrigin, Task
from rlhf_bench.tasks.real import text_key
from rlhf_bench.tasks.tldr import PAIRS, POSTS, tldr
from rlhf_bench.tasks.worlds.lexicon_prose import POST
from rlhf_bench.tasks.worlds.world import SummaryWorld

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "tldr" / "oai1b.csv_judged.csv"
SMALL = {"demonstrations": 20, "train_pairs": 20, "test_pairs": 20, "train_prompts": 20, "test_prompts": 20}

Values = Mapping[str, object]


def prompt(name: str) -> str:
    return f"SUBREDDIT: r/help\n\nTITLE: {name}\n\nPOST: This is {name}.\n\nTL;DR:"


def summed(name: str, text: str = "") -> Values:
    return {"prompt": prompt(name), "completion": f" {text or f'About {name}.'}"}


def preferred(name: str, chosen: str = "good", rejected: str = "bad") -> Values:
    return {"prompt": prompt(name), "chosen": f" {chosen}", "rejected": rejected}


def judged(name: str, verdict: str) -> dict[str, str]:
    return {
        "query": prompt(name),
        "postprocessed_response": f"  Ours of {name}.",
        "reference_responses": f"  Theirs of {name}.",
        "preferred": verdict,
    }


def write(path: Path, rows: Iterable[Values]) -> Path:
    path.write_text("".join(json.dumps(values) + "\n" for values in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train.jsonl", [*map(summed, "abcd"), *map(preferred, "aef")])
    write(tmp_path / "tldr.validation.jsonl", [preferred("g"), preferred("g", "other", "bad")])
    write(tmp_path / "test.jsonl", [summed("h"), summed("h", "Again."), preferred("i")])
    return tmp_path


def test_the_world_is_the_default() -> None:
    assert tldr() == SummaryWorld(register=POST)
    assert tldr(objects="unseen", response_tokens=40) == SummaryWorld(objects="unseen", response_tokens=40)
    assert isinstance(tldr(), GoldTask)
    assert "generated posts" in tldr().origin.description


def test_every_knob_of_the_world_is_a_plain_keyword() -> None:
    parameters = inspect.signature(tldr).parameters
    world = {field.name for field in fields(SummaryWorld)} - {"register"}
    assert set(parameters) == world | {"data", "prompts_only"}
    assert all(type(parameter.default) in (str, int, float, bool) for parameter in parameters.values())


@pytest.mark.parametrize("objects", ["seen", "unseen"])
def test_it_keeps_the_rules_of_tasks(objects: str) -> None:
    found = check("task", "rlhf_bench.tasks.tldr:tldr", {**SMALL, "objects": objects})
    assert [one for one in found if not one.ok] == []


def test_prompts_are_short_enough_to_be_cheap() -> None:
    lengths = [len(row.prompt.split()) for row in tldr(demonstrations=300).examples("sft")]
    assert sum(lengths) / len(lengths) < 110


def test_a_folder(folder: Path) -> None:
    task = tldr(data=str(folder))
    assert isinstance(task, Task)
    assert isinstance(task, HasOrigin)
    assert not isinstance(task, GoldTask)
    # train posts in order: a b c d e f; even ones with a human summary are demonstrations
    assert [(row.prompt, row.completion) for row in task.examples("sft")] == [
        (prompt("a"), "About a."),
        (prompt("c"), "About c."),
    ]
    assert [(row.prompt, row.completion) for row in task.examples("train")] == [
        (prompt("b"), "About b."),
        (prompt("d"), "About d."),
        (prompt("f"), "good"),
    ]
    assert [(row.completion, row.references) for row in task.examples("test")] == [
        ("About h.", ("Again.",)),
        ("good", ()),
    ]
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in task.pairs("train")] == [
        (prompt(name), "good", "bad") for name in "aef"
    ]
    assert [(pair.prompt, pair.chosen) for pair in task.pairs("test")] == [
        (prompt("g"), "good"),
        (prompt("g"), "other"),
        (prompt("i"), "good"),
    ]
    assert task.pairs("sft") == []
    assert "6 train (3 pairs), 1 dev (2 pairs), 2 test (1 pairs)" in task.origin.description
    assert "Demonstrations: human summaries." in task.origin.description
    assert [one for one in check("task", "rlhf_bench.tasks.tldr:tldr", {"data": str(folder)}) if not one.ok] == []


def test_without_human_summaries_chosen_texts_are_the_demonstrations(folder: Path) -> None:
    write(folder / "train.jsonl", map(preferred, "abcd"))
    task = tldr(data=str(folder))
    assert [row.completion for row in task.examples("sft")] == ["good", "good"]
    assert "chosen texts, as no train post has a human summary" in task.origin.description


def test_a_dev_split_alone_holds_out_prompts_and_pairs(folder: Path) -> None:
    (folder / "test.jsonl").unlink()
    task = tldr(data=str(folder))
    assert [row.prompt for row in task.examples("test")] == [prompt("g")]
    assert len(task.pairs("test")) == 2


def test_held_out_posts_leave_the_train_split(folder: Path) -> None:
    copies = [preferred("H"), {**summed("h"), "prompt": prompt("h").replace("\n\n", "\n")}]
    write(folder / "train.jsonl", [*copies, *map(summed, "abcd"), preferred("a")])
    write(folder / "tldr.validation.jsonl", [preferred("i", "dev", "bad")])
    task = tldr(data=str(folder))
    trained_on = {text_key(row.prompt) for split in ("sft", "train") for row in task.examples(split)}
    assert text_key(prompt("h")) not in trained_on
    assert [pair.prompt for pair in task.pairs("train")] == [prompt("a")]
    assert [pair.chosen for pair in task.pairs("test")] == ["good", "dev"]  # dev rows about a test post join it
    assert "Left out: 2 train rows" in task.origin.description


def test_equal_texts_are_no_pair(folder: Path) -> None:
    write(folder / "train.jsonl", [*map(summed, "abcd"), preferred("a", "same ", "same"), preferred("b")])
    task = tldr(data=str(folder))
    assert [pair.prompt for pair in task.pairs("train")] == [prompt("b")]
    assert "1 pairs of equal texts" in task.origin.description


def test_a_judged_table(tmp_path: Path) -> None:
    verdicts = ["ours", "reference", ""]
    rows = [judged(f"post {number}", verdicts[number % 3]) for number in range(120)]
    task = tldr(data=str(write_csv(tmp_path / "judged.csv", rows)))
    pairs = [*task.pairs("train"), *task.pairs("test")]
    assert len(pairs) == 80
    for pair in pairs:
        number = int(re.findall(r"post (\d+)", pair.prompt)[0])
        texts = {"ours": f"Ours of post {number}.", "reference": f"Theirs of post {number}."}
        assert pair.chosen == texts.pop(verdicts[number % 3])
        assert [pair.rejected] == [*texts.values()]
    examples = [row for split in ("sft", "train", "test") for row in task.examples(split)]
    assert all(re.fullmatch(r"Theirs of post \d+\.", row.completion) for row in examples)
    turned = tldr(data=str(write_csv(tmp_path / "turned.csv", rows[::-1])))
    assert {row.prompt for row in turned.examples("test")} == {row.prompt for row in task.examples("test")}


def test_prompts_only(folder: Path) -> None:
    task = tldr(data=str(write(folder / "few.jsonl", map(summed, "ab"))), prompts_only=True)
    assert [row.prompt for row in task.examples("test")] == [prompt("a"), prompt("b")]
    with pytest.raises(BenchError, match="prompts_only=true: it has no demonstrations"):
        task.examples("sft")
    with pytest.raises(BenchError, match="prompts_only=true: it has no demonstrations"):
        task.pairs("train")
    assert len(tldr(data=str(folder), prompts_only=True).examples("test")) == 2
    with pytest.raises(BenchError, match="prompts_only is set without data"):
        tldr(prompts_only=True)


def test_the_hub_takes_summaries_and_preferences_from_two_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    news = {"prompt": "TITLE: news\n\nSome news.\n\nTL;DR:", "chosen": "a", "rejected": "b"}
    sets = {
        POSTS: {"train": [*map(summed, "abcd")], "validation": [summed("e")], "test": [summed("f")]},
        PAIRS: {"train": [*map(preferred, "bg")], "validation": [news, preferred("h")]},
    }
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=lambda name: sets[name]))
    task = tldr(data="hub")
    assert [row.prompt for row in task.examples("sft")] == [prompt("a"), prompt("c")]
    assert [row.prompt for row in task.examples("train")] == [prompt("b"), prompt("d")]
    assert [row.prompt for row in task.examples("test")] == [prompt("f")]
    assert [pair.prompt for pair in task.pairs("train")] == [prompt("b"), prompt("g")]
    assert [pair.prompt for pair in task.pairs("test")] == [prompt("h")]
    assert "1 rows that are about news articles" in task.origin.description
    assert task.origin.license != "unknown"
    alone = tldr(data="some/preferences")
    sets["some/preferences"] = sets[PAIRS]
    assert len(alone.examples("sft")) == 1
    assert alone.origin.license == "unknown"
    sets["some/texts"] = {"train": [summed("a")]}
    with pytest.raises(BenchError, match="some/texts has neither a test nor a dev split"):
        tldr(data="some/texts").examples("test")


@pytest.mark.parametrize(
    ("rows", "seen"),
    [
        ([{"prompt": "a", "completoin": "b"}], "line 1: no column 'completion'. Did you mean 'completoin'"),
        ([{"prompt": "a", "chosen": "b"}], "line 1: no column 'rejected'"),
        ([{"prompt": "a", "chosen": "b", "rejected": None}], "line 1: 'rejected' holds None, not text"),
        ([{"prompt": "a", "chosen": [{"role": "user"}], "rejected": "c"}], "'chosen' holds [{'role': 'user'}], not"),
        ([{"prompt": " ", "completion": "b"}], "line 1: 'prompt' is empty"),
        ([{"post": "a"}], "line 1: no column 'prompt'"),
        ([judged("a", "both")], "line 1: 'preferred' holds 'both'"),
        ([summed("a")], "no odd-numbered train post"),
        ([], "holds no rows"),
    ],
)
def test_bad_rows(folder: Path, rows: list[Values], seen: str) -> None:
    write(folder / "train.jsonl", rows)
    with pytest.raises(BenchError, match=re.escape(seen)):
        tldr(data=str(folder)).examples("train")


def test_bad_folders(folder: Path) -> None:
    write(folder / "tldr.train.jsonl", [summed("a")])
    with pytest.raises(BenchError, match=r"holds tldr.train.jsonl and train.jsonl for the train split"):
        tldr(data=str(folder)).examples("test")
    (folder / "tldr.train.jsonl").unlink()
    (folder / "train.jsonl").unlink()
    with pytest.raises(BenchError, match=r"has no train split.*prompts_only"):
        tldr(data=str(folder)).examples("test")


def test_settings_that_do_not_go_together(folder: Path) -> None:
    with pytest.raises(BenchError, match="seed, words set together with data="):
        tldr(data=str(folder), seed=1, words=100)
    with pytest.raises(BenchError, match="response_tokens = -1"):
        tldr(data=str(folder), response_tokens=-1)
    with pytest.raises(BenchError, match="no such file or folder"):
        tldr(data="nowhere.csv")


@pytest.mark.skipif(not REAL.is_file(), reason="the judged TL;DR table is not beside the repository")
def test_the_real_table() -> None:
    task = tldr(data=str(REAL))
    splits = [{row.prompt for row in task.examples(split)} for split in ("sft", "train", "test")]
    assert len(set.union(*splits)) == sum(map(len, splits)) == 1945 - 180  # the dev tenth holds pairs only
    with REAL.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["preferred"]]
    texts = {"ours": "postprocessed_response", "reference": "reference_responses"}
    other = {"ours": "reference", "reference": "ours"}
    expected = {
        (row["query"], row[texts[row["preferred"]]].strip(), row[texts[other[row["preferred"]]]].strip())
        for row in rows
    }
    pairs = [*task.pairs("train"), *task.pairs("test")]
    assert len(pairs) == len(expected) == 1000
    assert {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs} == expected
