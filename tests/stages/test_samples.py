"""Several samples of a prompt (`eval.samples`), and what `eval.cut_off` makes of responses that are cut off."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import SIZES

from rlhf_bench.harness import api, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Case, Example, Generation, Measure, Verdict
from rlhf_bench.harness.plan.request import Request, make_plan
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.seams import Task
from rlhf_bench.harness.stages.judge import measure_ended
from rlhf_bench.harness.stages.prompts import sampled_examples
from rlhf_bench.harness.statistics.intervals import interval
from rlhf_bench.judges.length import Length
from rlhf_bench.judges.utility import UtilityChange
from rlhf_bench.judges.winrate import WinRate
from rlhf_bench.tasks.dialogsum import dialogsum

EXAMPLES = [Example("a", "Who?"), Example("b", "Where?", source="s")]


def test_a_prompt_has_an_example_for_each_sample_and_one_source() -> None:
    found = sampled_examples(EXAMPLES, 3)
    assert [one.id for one in found] == ["a", "a#2", "a#3", "b", "b#2", "b#3"]
    assert [one.sample for one in found] == [1, 2, 3, 1, 2, 3]
    assert [one.source for one in found] == ["prompt a"] * 3 + ["s"] * 3
    assert sampled_examples(EXAMPLES, 1) == EXAMPLES
    with pytest.raises(BenchError, match=r"in #2.*eval\.samples=1"):
        sampled_examples([*EXAMPLES, Example("a#2", "Why?")], 2)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("kind", ["win", "rate", "change", "level"])
@pytest.mark.parametrize("copies", [2, 4])
def test_copies_of_a_sample_narrow_no_interval(kind: Any, seeds: int, copies: int) -> None:
    rng = np.random.default_rng(seeds)
    cells = (
        rng.normal(size=(seeds, 40)) if kind in ("change", "level") else rng.integers(0, 2, (seeds, 40)).astype(float)
    )
    names = [f"prompt {k}" for k in range(40)]
    once = interval(kind, cells, 0.95, np.random.default_rng(0), names)
    again = interval(
        kind,
        np.repeat(cells, copies, axis=1),
        0.95,
        np.random.default_rng(0),
        [n for n in names for _ in range(copies)],
    )
    assert once.low is not None
    assert once.high is not None
    assert again.value == pytest.approx(once.value)
    assert again.high - again.low >= (once.high - once.low) * (1 - 1e-6)  # type: ignore[operator]


# ---- a whole run ----------------------------------------------------------------------------------------------------

SETTINGS = {
    **SIZES, "ppo.iterations": 2, "ppo.checkpoints": 1, "eval.prompts": 6, "eval.samples": 2, "eval.temperature": 0.8,
    "eval.top_p": 0.9, "best_of_n.n": "1,2", "sft_tempered.temperatures": "1,0.5", "eval.batch": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "runs"
    optimizers = ["ppo", "best-of-n", "sft-tempered"]
    api.run("dialogsum", ["length-only"], optimizers=optimizers, settings=SETTINGS, out=folder, jobs=1)
    return folder


def rows(out: Path, kind: str, name: str) -> list[list[dict[str, Any]]]:
    return [store.read_rows(folder / name) for folder in sorted((out / kind).iterdir())]


@pytest.mark.training
def test_every_optimiser_has_the_samples_and_greedy_decoding_has_one(out: Path) -> None:
    for kind in ("baseline", "ppo", "best_of_n", "tempered"):
        (found,) = rows(out, kind, "generations.jsonl")
        for decoding, wanted in (("sample", [1, 2] * 6), ("greedy", [1] * 6)):
            own = [row for row in found if row["decoding"] == decoding]
            for iteration in {row["iteration"] for row in own}:
                assert [row["sample"] for row in own if row["iteration"] == iteration] == wanted
    drawn = [row for row in rows(out, "baseline", "generations.jsonl")[0] if row["decoding"] == "sample"]
    assert any(a["response"] != b["response"] for a, b in zip(drawn[::2], drawn[1::2], strict=True))
    assert all(a["prompt"] == b["prompt"] for a, b in zip(drawn[::2], drawn[1::2], strict=True))


@pytest.mark.training
def test_one_of_one_is_the_baselines_sample_of_the_same_number(out: Path) -> None:
    before = {r["example_id"]: r for r in rows(out, "baseline", "generations.jsonl")[0] if r["decoding"] == "sample"}
    first = [r for r in rows(out, "best_of_n", "generations.jsonl")[0] if r["iteration"] == 1]
    assert {r["example_id"]: r.get("response", "") for r in first} == {
        name: row.get("response", "") for name, row in before.items()
    }
    for found in rows(out, "verdicts", "verdicts.jsonl"):
        assert {row["sample"] for row in found} == {1, 2}
        assert {row["source"] for row in found} <= {row.get("source", "") for row in examples(out)}
        assert len({row["source"] for row in found}) <= 6


def examples(out: Path) -> list[dict[str, Any]]:
    return rows(out, "prompts", "examples.test.jsonl")[0]


@pytest.mark.training
def test_the_report_counts_prompts_and_says_how_they_were_sampled(out: Path) -> None:
    report = json.loads((out / "report" / "report.json").read_text())
    assert {tuple(arm["sampling"].items()) for arm in report["arms"]} == {
        (("temperature", 0.8), ("top_p", 0.9), ("samples", 2))
    }
    text = (out / "report" / "report.md").read_text()
    assert "sampled at temperature 0.8, top-p 0.9, 2 samples a prompt" in text
    assert "intervals over 6 held-out prompts, 2 sampled responses to each," in text
    assert "16 held-out prompts" in text  # those that are kept
    assert len({(one["example_id"], one["prompt"]) for one in report["samples"]}) == len(report["samples"])
    assert not any("#" in one["example_id"] for one in report["samples"])
    assert find_cells([out])[1] == []
    temperatures = next(arm["temperatures"] for arm in report["arms"] if "temperatures" in arm)
    assert temperatures == [0.8, 0.4]


# ---- cut off --------------------------------------------------------------------------------------------------------


def case(name: str, after: bool, before: bool) -> Case:
    example = dialogsum().examples("test")[0]
    one = Generation(name, 1, "sample", example.prompt, example.completion, 9, after)
    return Case(example, one, Generation(name, 0, "sample", example.prompt, example.completion, 9, before))


CASES = [
    case("both", True, True),
    case("policy", False, True),
    case("baseline", True, False),
    case("none", False, False),
]


def test_a_cut_off_response_loses_to_one_that_ended() -> None:
    judged = measure_ended("winrate", WinRate(), CASES, dialogsum(), "lose")
    assert [one.values["win_rate"] for one in judged] == [0.5, 0.0, 1.0, 0.5]
    assert [one.notes.get("cut_off") for one in judged] == [None, ["policy"], ["baseline"], ["policy", "baseline"]]
    kept = measure_ended("winrate", WinRate(), CASES, dialogsum(), "keep")
    assert [one.values["win_rate"] for one in kept] == [0.5] * 4


def test_its_utility_is_that_of_an_empty_response_and_its_length_its_own() -> None:
    task = dialogsum()
    whole = task.utility(CASES[0].example, CASES[0].generation.response).value
    judged = measure_ended("utility", UtilityChange(), CASES, task, "lose")
    assert [one.values["gold"] for one in judged] == [whole, 0.0, whole, 0.0]
    assert [one.values["gold_change"] for one in judged] == [0.0, -whole, whole, 0.0]
    lengths = measure_ended("length", Length(), CASES, task, "lose")
    assert [(one.values["length"], one.values["truncated_rate"]) for one in lengths] == [(9, 0), (9, 1), (9, 0), (9, 1)]


def test_a_judge_of_wins_is_not_asked_about_them() -> None:
    """A question to a language model costs money, and its answer would not count."""
    asked: list[str] = []

    class Asked:
        measures = (Measure("win_rate", "win"), Measure("win_rate_helpful", "win"))

        def measure(self, cases: Sequence[Case], task: Task) -> Iterable[Verdict]:  # noqa: ARG002
            asked.extend(case.generation.example_id for case in cases)
            return [Verdict({"win_rate": 1.0, "win_rate_helpful": 0.5}) for _ in cases]

    judged = measure_ended("asked", Asked(), CASES, dialogsum(), "lose")
    assert asked == ["both"]
    assert [tuple(one.values.values()) for one in judged] == [(1.0, 0.5), (0.0, 0.0), (1.0, 1.0), (0.5, 0.5)]


def test_another_rule_judges_again_and_trains_nothing() -> None:
    def plan(**more: str) -> Any:
        texts: dict[str, dict[str, str]] = {}
        for name, value in {**SIZES, **{f"eval.{key}": text for key, text in more.items()}}.items():
            group, _, key = name.partition(".")
            texts.setdefault(group, {})[key] = str(value)
        return make_plan(Request("dialogsum", ["length-only"], [0], "tiny", [], texts))

    kept, lost = plan(), plan(cut_off="lose")
    (one,), (other,) = kept.cells, lost.cells
    assert {role: stage.key for role, stage in one.stages.items()} == {r: s.key for r, s in other.stages.items()}
    judged = kept.judged[one.name], lost.judged[other.name]
    assert all(judged[0][name].key != judged[1][name].key for name in ("winrate", "utility"))
    assert judged[1]["winrate"].params["cut_off"] == "lose"
    assert "cut_off" not in judged[0]["winrate"].params
