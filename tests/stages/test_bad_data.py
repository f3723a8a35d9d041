"""What is wrong with a task's own data is refused or counted before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from small import bench, settings
from tiny import Tiny

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Pair, Split
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.plan import tasks
from rlhf_bench.harness.stages.pairs import pairs
from rlhf_bench.harness.stages.prompts import check_examples, limited, prompts, read_examples, writes_nothing


@dataclass(frozen=True)
class Faulty:
    """A task of two prompts a split with one fault of your choice."""

    fault: str = ""
    sft_empty: float = 0.0  # `HasEmptyDemonstrations`

    max_response_tokens = 12

    def examples(self, split: Split) -> Sequence[Example]:
        if self.fault == f"no {split}":
            return ()
        text = "" if self.fault == f"blank {split}" else f"say {split}"
        held = "test" if self.fault == "shared prompts" and split == "train" else split
        said = "" if self.fault == "no words" and split == "sft" else "words"
        found = [Example(f"{split}-{i}", text and f"say {held} {i}", said and f"{said} {i}") for i in range(2)]
        if self.fault == f"repeated {split}":
            found += [replace(example, id=f"again-{example.id}") for example in found]
        return found

    def pairs(self, split: Split) -> Sequence[Pair]:
        if self.fault == f"no {split} pairs":
            return ()
        about = "say test" if self.fault == "pairs on held-out prompts" else f"rank {split}"
        found = [Pair(f"{split}-{i}", f"{about} {i}", f"good {i}", f"bad {i}") for i in range(3)]
        if self.fault == "all equal":
            return [Pair(p.id, p.prompt, p.chosen, f" {p.chosen} ") for p in found]
        if self.fault == "one long":
            return [*found, Pair("long", "word " * 300, "good", "bad")]
        if self.fault == "one equal":
            return [*found[:2], Pair("equal", f"{about} 9", "same", "same")]
        if self.fault == "one class":  # the worse response is always the empty one: still a preference
            return [Pair(p.id, p.prompt, p.chosen, "") for p in found]
        return found


def context(tiny: Tiny, tmp_path: Path, fault: str) -> Context:
    """What the stages of the faulty task get, on a policy that is there already."""
    task = tasks.open_task("test_bad_data:Faulty", {"fault": fault})
    (tmp_path / "work").mkdir()
    params: dict[str, Any] = {
        "task": task.params,
        "home": task.params,
        "data": {"limit": 0, "max_prompt_tokens": 0},
        "pairs": {"overlap": "all"},
        "splits": ["train", "test"],
        "max_response": 12,
        "seed": 0,
        "temperature": 1.0,
        "eval": {"batch": 4},
    }
    return Context(params, {"sft": tiny.folder}, tmp_path / "work", tmp_path, "cpu")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("shared prompts", r"2 prompts of .* both in training and in the test split"),
        ("no train", r"no examples in split 'train'"),
        ("no test", r"no examples in split 'test'"),
        ("blank test", r"2 empty prompts"),
    ],
)
def test_prompts_that_cannot_be_used(tiny_gpt2: Tiny, tmp_path: Path, fault: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        prompts(context(tiny_gpt2, tmp_path, fault))


def test_a_repeated_held_out_prompt_is_kept_once_and_counted(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    """Of any task: a report counts prompts, and a copy is no second observation."""
    given = context(tiny_gpt2, tmp_path, "repeated test")
    figures = prompts(given)
    rows = read_examples(given.work, "test")
    assert (figures["test_repeated"], figures["test_examples"]) == (2, len(rows))
    assert len({row.prompt for row in rows}) == len(rows)
    assert rows[0].id == Faulty("repeated test").examples("test")[0].id
    (tmp_path / "whole").mkdir()
    assert "test_repeated" not in prompts(context(tiny_gpt2, tmp_path / "whole", ""))


def test_an_empty_demonstration_is_an_error_unless_the_task_means_it() -> None:
    for faulty, fine in ((Faulty("no words"), False), (Faulty("no words", sft_empty=0.5), True), (Faulty(), True)):
        splits = limited(faulty, ("sft", "test"), 0)
        if fine:
            check_examples("faulty", splits, writes_nothing(faulty))
        else:
            with pytest.raises(BenchError, match=r"Split 'sft' .* 2 empty prompts or completions"):
                check_examples("faulty", splits, writes_nothing(faulty))
    # a prompt is never empty on purpose
    blank = Faulty("blank sft", sft_empty=0.5)
    with pytest.raises(BenchError, match="2 empty prompts"):
        check_examples("faulty", limited(blank, ("sft", "test"), 0), writes_nothing(blank))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("pairs on held-out prompts", r"2 training pairs .* about held-out test prompts"),
        ("all equal", r"No usable train pairs .* 3 with equal responses"),
        ("no train pairs", r"no train pairs"),
        ("no test pairs", r"no test pairs"),
    ],
)
def test_pairs_that_cannot_be_used(tiny_gpt2: Tiny, tmp_path: Path, fault: str, said: str) -> None:
    with pytest.raises(BenchError, match=said):
        pairs(context(tiny_gpt2, tmp_path, fault))


def test_pairs_that_teach_nothing_are_dropped_and_counted(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    made = context(tiny_gpt2, tmp_path, "one equal")
    figures = pairs(made)
    assert (figures["train_pairs"], figures["train_equal"]) == (2, 1)
    assert [row["id"] for row in store.read_rows(made.work / "pairs.train.jsonl")] == ["train-0", "train-1"]


def test_pairs_without_room_in_the_context_are_dropped_and_counted(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    figures = pairs(context(tiny_gpt2, tmp_path, "one long"))
    assert (figures["train_pairs"], figures["train_too_long"], figures["test_too_long"]) == (3, 1, 1)


def test_what_is_whole_passes(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert prompts(context(tiny_gpt2, tmp_path / "a", ""))["test_examples"] == 2
    assert pairs(context(tiny_gpt2, tmp_path / "b", ""))["train_pairs"] == 3


SAFETY = {
    "demonstrations": 40, "train_pairs": 16, "test_pairs": 12, "train_prompts": 16, "test_prompts": 12,
    "harmful_rate": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def harmful(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The refusal experiment where every prompt is harmful."""
    out = tmp_path_factory.mktemp("harmful")
    sets = [text for key, value in SAFETY.items() for text in ("--set", f"saferlhf.{key}={value}")]
    small = settings(("scalar", "seq2seq-token"), world=False)
    found = bench("experiment", "refusal", "--out", str(out), "--jobs", "1", "--seeds", "2", *small, *sets)
    assert found.returncode == 0, found.stderr
    return json.loads((out / "experiments" / "refusal" / "experiment.json").read_text())


def test_prompts_of_one_class_alone_have_one_slice(harmful: Any) -> None:
    assert {e["slice"] for e in harmful["report"]["estimates"]} == {"all", "harmful"}


def test_claims_on_a_slice_that_is_not_there_are_not_run(harmful: Any) -> None:
    verdicts = {row["id"]: (row["verdict"], row["note"]) for row in harmful["claims"]}
    assert verdicts["scalar-refuses-benign"][0] == "not run"
    assert "benign" in verdicts["scalar-refuses-benign"][1]
    assert verdicts["seq2seq-beats-scalar-safety"][0] != "not run"


def test_fewer_held_out_pairs_are_the_first_of_all(tiny: Tiny, tmp_path: Path) -> None:
    found = {}
    for most in (0, 2):
        (tmp_path / str(most)).mkdir()
        own = context(tiny, tmp_path / str(most), "")
        own.params["pairs"]["test"] = most
        figures = pairs(own)
        found[most] = {split: store.read_rows(own.work / f"pairs.{split}.jsonl") for split in ("train", "test")}
        assert figures["test_pairs"] == len(found[most]["test"])
    assert found[2] == {"train": found[0]["train"], "test": found[0]["test"][:2]}
    assert len(found[0]["test"]) == 3
