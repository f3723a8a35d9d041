"""The task `saferlhf`: synthetic by default, and real comparisons in every known schema."""

from __future__ import annotations

import gzip
import inspect
import json
import re
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Split
from rlhf_bench.harness.seams import GoldTask, HasOrigin, Task
from rlhf_bench.judges.refusal import KnowsRefusals
from rlhf_bench.tasks.saferlhf import HUB, RealSafeRLHF, prompt_hash, saferlhf
from rlhf_bench.tasks.worlds.safety import SafetyWorld

FILE = "pku_seferlhf_realign_dpo_5k.json.gz"
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "pku_saferlhf" / FILE
SPLITS: tuple[Split, ...] = ("sft", "train", "test")


def full(number: int, **more: Any) -> dict[str, Any]:
    """A row of the full schema, in which response 1 is the safer one and response 0 the better one."""
    labels = {"is_response_0_safe": False, "is_response_1_safe": True, "better_response_id": 0, "safer_response_id": 1}
    texts = {"prompt": f"Question {number}?", "response_0": f"Do {number}.", "response_1": f"Do not {number}."}
    return {**texts, **labels, **more}


def reduced(number: int) -> dict[str, Any]:
    return {"response": [f"Do not {number}.", f"Do {number}."], "prompt": f"Question {number}?"}


def standard(number: int) -> dict[str, Any]:
    return {"prompt": f"Question {number}?", "chosen": f"Do not {number}.", "rejected": f"Do {number}."}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    content = json.dumps(rows) if ".jsonl" not in path.name else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return str(path)


def comparisons(task: Task, *splits: Split) -> list[tuple[str, str, str | None]]:
    return [(pair.prompt, pair.chosen, pair.rejected) for split in splits for pair in task.pairs(split)]


def test_the_world_is_the_default() -> None:
    assert saferlhf() == SafetyWorld()
    assert saferlhf(seed=3, harmful_rate=0.7, response_tokens=30) == SafetyWorld(
        seed=3, harmful_rate=0.7, response_tokens=30
    )


def test_every_knob_of_the_world_is_a_plain_keyword() -> None:
    parameters = inspect.signature(saferlhf).parameters
    assert set(parameters) == {field.name for field in fields(SafetyWorld)} | {"data", "preference"}
    assert all(type(parameter.default) in (str, int, float) for parameter in parameters.values())


def test_the_world_passes_conformance() -> None:
    small = {"demonstrations": 200, "train_prompts": 100}
    assert [finding for finding in check("task", "saferlhf", small) if not finding.ok] == []


@pytest.mark.parametrize("row", [full, reduced, standard])
def test_a_file_of_any_schema(tmp_path: Path, row: Any) -> None:
    task = saferlhf(data=write(tmp_path / "all.json.gz", [row(number) for number in range(300)]))
    assert isinstance(task, Task)
    assert isinstance(task, HasOrigin)
    assert not isinstance(task, (GoldTask, KnowsRefusals))
    sizes = [len(task.examples(split)) for split in SPLITS]
    assert sum(sizes) == 300
    assert 10 <= sizes[2] <= 60
    assert min(sizes[:2]) > 90
    assert task.pairs("sft") == []
    for prompt, chosen, rejected in comparisons(task, "train", "test"):
        number = re.findall(r"\d+", prompt)[0]
        assert (chosen, rejected) == (f"Do not {number}.", f"Do {number}.")
    for example in task.examples("sft"):
        assert example.completion == example.prompt.replace("Question", "Do not").replace("?", ".")
        assert example.slices == (("one-safe",) if row is full else ())
    assert [
        finding for finding in check("task", "saferlhf", {"data": str(tmp_path / "all.json.gz")}) if not finding.ok
    ] == []
    assert task.max_response_tokens == 160
    assert (task.origin.kind, task.origin.license) == ("real", "unknown")


def test_the_order_of_rows_does_not_change_the_splits(tmp_path: Path) -> None:
    rows = [full(number) for number in range(100)]
    task, turned = (
        saferlhf(data=write(tmp_path / name, held)) for name, held in (("a.jsonl", rows), ("b.json", rows[::-1]))
    )
    for split in SPLITS:
        assert {e.prompt for e in task.examples(split)} == {e.prompt for e in turned.examples(split)}


def test_the_label_chooses(tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", [full(number) for number in range(60)])
    safer, better = saferlhf(data=path), saferlhf(data=path, preference="better")
    turned = [(prompt, rejected, chosen) for prompt, chosen, rejected in comparisons(better, "train", "test")]
    assert comparisons(safer, "train", "test") == turned != []
    assert "the safer response chosen" in safer.origin.description
    assert "the better response chosen" in better.origin.description


def test_slices_count_the_safe_responses(tmp_path: Path) -> None:
    flags = [(True, True), (False, True), (False, False), (None, True)]
    rows = [full(n, is_response_0_safe=flags[n % 4][0], is_response_1_safe=flags[n % 4][1]) for n in range(80)]
    task = saferlhf(data=write(tmp_path / "all.json", rows))
    found = Counter(example.slices for split in SPLITS for example in task.examples(split))
    assert found == {("both-safe",): 20, ("one-safe",): 20, ("both-unsafe",): 20, (): 20}


def test_labels_of_csv_are_read(tmp_path: Path) -> None:
    header = "prompt,response_0,response_1,is_response_0_safe,is_response_1_safe,better_response_id,safer_response_id"
    rows = [f"Question {n}?,Do {n}.,Do not {n}.,False,True,0,{'1' if n else ''}" for n in range(60)]
    path = tmp_path / "all.csv"
    path.write_text("\n".join([header, *rows]))
    task = saferlhf(data=str(path))
    assert all(chosen.startswith("Do not") for _, chosen, _ in comparisons(task, "train", "test"))
    assert all(example.slices == ("one-safe",) for example in task.examples("test"))
    assert "1 without a safer response" in task.origin.description


def test_rows_of_a_prompt_stay_together_and_share_their_source(tmp_path: Path) -> None:
    rows = [full(n // 3, response_0=f"Do {n}.") for n in range(150)]
    rows += [full(n, prompt=f"  QUESTION {n} ?", response_0=f"More {n}.") for n in range(50)]
    task = saferlhf(data=write(tmp_path / "all.json", rows))
    homes: dict[str, set[str]] = {}
    sources: dict[str, set[str]] = {}
    for split in SPLITS:
        for example in task.examples(split):
            homes.setdefault(prompt_hash(example.prompt), set()).add(split)
            sources.setdefault(prompt_hash(example.prompt), set()).add(example.source)
        assert len({example.id for example in task.examples(split)}) == len(task.examples(split))
    held = {pair.prompt for pair in task.pairs("test")}
    assert len(task.examples("test")) == len({prompt_hash(prompt) for prompt in held}) < len(task.pairs("test"))
    assert len(task.pairs("test")) + sum(len(task.examples(split)) for split in ("sft", "train")) == 200
    assert len(homes) == 50
    assert all(len(found) == 1 for found in (*homes.values(), *sources.values()))
    assert len(set.union(*sources.values())) == 50
    assert "" not in set.union(*sources.values())


def test_a_held_out_prompt_stands_once_with_all_its_chosen_responses(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [full(number) for number in range(40)])
    held = [full(99, response_1=f"Never {n % 2}.", response_0=f"Do {n}.") for n in range(3)]
    write(tmp_path / "test.jsonl", [*held, full(99, prompt="question 99"), full(98)])
    task = saferlhf(data=str(tmp_path))
    first, second = task.examples("test")
    assert (first.id, first.prompt, first.completion) == ("test-0", "Question 99?", "Never 0.")
    assert first.references == ("Never 1.", "Do not 99.")
    assert (second.prompt, second.references) == ("Question 98?", ())
    assert len(task.pairs("test")) == 5
    assert "have 2 distinct prompts, which are held out once each" in task.origin.description


def test_a_folder_with_its_own_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [full(number) for number in range(40)])
    write(tmp_path / "test.json", [full(number, prompt=f"question: {number}") for number in range(38, 45)])
    task = saferlhf(data=str(tmp_path))
    assert [example.prompt for example in task.examples("test")] == [f"question: {n}" for n in range(38, 45)]
    assert len(task.examples("sft")) + len(task.examples("train")) == 38
    assert "7 test rows (left out: 2 whose prompt is in the test split too)" in task.origin.description
    (tmp_path / "test.json").unlink()
    assert 0 < len(saferlhf(data=str(tmp_path)).examples("test")) < 40  # a share of the train file's prompts


@pytest.mark.parametrize(("data", "name"), [("hub", HUB), (HUB, HUB), ("owner/name", "owner/name")])
def test_the_hub(monkeypatch: pytest.MonkeyPatch, data: str, name: str) -> None:
    asked: list[str] = []
    splits = {"train": [full(n) for n in range(40)], "validation": [{}], "test": [full(n) for n in range(40, 45)]}

    def load_dataset(asked_for: str) -> object:
        asked.append(asked_for)
        return splits

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    task = saferlhf(data=data)
    assert [len(task.examples("test")), len(task.pairs("test"))] == [5, 5]
    assert asked == [name]
    assert task.origin.license.startswith("CC BY-NC 4.0") == (name == HUB)
    splits.pop("train")
    with pytest.raises(BenchError, match=r"no rows in train, only validation \(1 rows\), test \(5 rows\)"):
        saferlhf(data=data).examples("test")


def test_what_is_no_comparison_is_left_out_and_counted(tmp_path: Path) -> None:
    odd = [
        full(100, response_0="Do not 100. "),
        full(101, response_1=" "),
        full(102, safer_response_id=None),
        full(103, safer_response_id=-1),
        full(104, is_response_0_safe=True, is_response_1_safe=False),
        full(0),
    ]
    task = saferlhf(data=write(tmp_path / "all.json", [*(full(number) for number in range(60)), *odd]))
    assert sum(len(task.examples(split)) for split in SPLITS) == 60
    for count in (
        "1 with equal responses",
        "1 with an empty response",
        "2 without a safer response",
        "1 whose safer response is flagged unsafe and the other safe",
        "1 repeated",
    ):
        assert count in task.origin.description
    without = saferlhf(data=write(tmp_path / "more.json", [full(number) for number in range(60)]))
    assert "none was left out" in without.origin.description


@pytest.mark.parametrize(
    ("rows", "seen"),
    [
        ([full(n, is_response_0_safe=True) for n in range(40)], "all 40 flagged rows hold one class"),
        ([full(n, is_response_1_safe=False) for n in range(40)], "all 40 flagged rows hold one class"),
        (
            [full(n, response_0="Same.", response_1="Same.") for n in range(40)],
            "no usable comparison (left out: 40 with",
        ),
        ([full(n, safer_response_id=None) for n in range(9)], "no usable comparison (left out: 9 without a safer"),
        ([full(0)], "too small: no usable row is left for the"),
        ([full(0), full(1, safer_response_id=2)], "row 1: 'safer_response_id' holds '2'"),
        ([full(0, is_response_0_safe="perhaps")], "row 0: 'is_response_0_safe' holds 'perhaps'"),
        ([full(0, response_0=None)], "row 0: 'response_0' holds None"),
        ([full(0), reduced(1)], "row 1: no column 'safer_response_id'"),
        ([full(0, prompt=" ")], "row 0: 'prompt' is empty"),
        ([{"response_0": "a"}], "row 0: no column 'safer_response_id'. Did you mean 'response_0'"),
        ([{"prompt": "a", "completion": "b"}], "row 0: the columns prompt, completion are of no known schema"),
        ([{}], "row 0: the columns (none) are of no known schema"),
        ([{"prompt": "a", "chosen": "b"}], "row 0: no column 'rejected'"),
        ([{"prompt": "a", "choosen": "b", "rejected": "c"}], "no column 'chosen'. Did you mean 'choosen'"),
        ([{"prompt": "a", "chosen": [{"role": "user"}], "rejected": "c"}], "'chosen' holds [{'role'"),
        ([{"prompt": "a", "response": ["b"]}], "row 0: 'response' is not a list of two texts"),
        ([{"prompt": "a", "response": "bc"}], "row 0: 'response' is not a list of two texts"),
        ([{"prompt": "a", "response": ["b", 3]}], "row 0: 'response[1]' holds 3"),
        ([{"promt": "a", "response": ["b", "c"]}], "row 0: no column 'prompt'. Did you mean 'promt'"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: list[dict[str, Any]], seen: str) -> None:
    path = write(tmp_path / "all.json", rows)
    with pytest.raises(BenchError, match=re.escape(seen)) as caught:
        saferlhf(data=path).examples("train")
    assert path in str(caught.value)
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_one_class_is_enough_where_helpfulness_chooses(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", [full(n, is_response_0_safe=True) for n in range(60)])
    assert saferlhf(data=path, preference="better").pairs("train")


@pytest.mark.parametrize("row", [reduced, standard])
def test_better_needs_its_label(tmp_path: Path, row: Any) -> None:
    task = saferlhf(data=write(tmp_path / "all.json", [row(number) for number in range(60)]), preference="better")
    with pytest.raises(BenchError, match=r"row 0: preference = 'better', but these columns tell only"):
        task.examples("test")


def test_bad_settings(tmp_path: Path) -> None:
    path = write(tmp_path / "all.json", [full(0)])
    with pytest.raises(BenchError, match=r"seed, harmful_rate set together with data=.*synthetic task only"):
        saferlhf(data=path, seed=1, harmful_rate=0.7)
    with pytest.raises(BenchError, match=r"preference = 'best' is unknown.*safer or better"):
        saferlhf(data=path, preference="best")
    with pytest.raises(BenchError, match="preference = 'better' in the synthetic task"):
        saferlhf(preference="better")
    for task in ({"data": path}, {}):
        with pytest.raises(BenchError, match="response_tokens = -1"):
            saferlhf(response_tokens=-1, **task)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", ["none", "no/such/folder", "./missing", "data/rows.json", "/absent", "a b/c"])
def test_what_is_no_data_is_refused(data: str) -> None:
    with pytest.raises(BenchError, match=re.escape(repr(data))):
        saferlhf(data=data)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no train split, only nothing"):
        saferlhf(data=str(tmp_path)).examples("test")
    write(tmp_path / "test.json", [full(0)])
    with pytest.raises(BenchError, match=r"holds no train split, only test.json. Add train.jsonl"):
        saferlhf(data=str(tmp_path)).examples("test")
    write(tmp_path / "train.json", [full(1)])
    write(tmp_path / "train.jsonl", [full(1)])
    with pytest.raises(BenchError, match=r"holds train.jsonl and train.json for the train split"):
        saferlhf(data=str(tmp_path)).examples("test")


@pytest.mark.skipif(not REAL.is_file(), reason="the PKU-SafeRLHF file is not beside the repository")
def test_the_real_file() -> None:
    task = RealSafeRLHF(str(REAL))
    rows = json.loads(gzip.decompress(REAL.read_bytes()))
    known = {(row["prompt"], *row["response"]) for row in rows}
    assert [len(task.examples(split)) for split in SPLITS] == [1682, 1577, 93]
    rows_of = (len(task.examples("sft")), len(task.pairs("train")), len(task.pairs("test")))
    assert (rows_of, sum(rows_of)) == ((1682, 1577, 331), len(known))
    assert set(comparisons(task, "train", "test")) <= known
    prompts = [{example.prompt for example in task.examples(split)} for split in SPLITS]
    assert sum(map(len, prompts)) == len(set.union(*prompts)) == 930
    assert "1545 repeated" in task.origin.description
