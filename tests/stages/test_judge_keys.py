"""What names a judge's result: all that its verdicts depend on, and nothing that costs only time or money."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Measure, Verdict
from rlhf_bench.harness.plan.judges import judge_spec


def test_a_file_counts_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    for judge, key, one, other in (
        ("winrate-llm", "rubric", "Which rhymes?", "Which is shorter?"),
        ("refusal-phrases", "phrases", "I cannot", "No way"),
    ):
        first, second = tmp_path / f"{judge}1.txt", tmp_path / f"{judge}2.txt"
        first.write_text(one)
        second.write_text(one)

        def content(path: Path, name: str = judge, key: str = key) -> Any:
            more = {"model": "m"} if name == "winrate-llm" else {}
            return store.canonical(judge_spec(name, {key: str(path), **more}).content)

        before = content(first)
        assert before == content(second)
        first.write_text(other)
        assert content(first) != before


def test_a_scorers_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = []
    for code in ("def score(example, response):\n    return 1.0\n", "def score(example, response):\n    return 2.0\n"):
        Path("own_scorer.py").write_text(code)
        found.append(judge_spec("winrate", {"scorer": "own_scorer:score"}).content)
    assert found[0] != found[1]


def test_what_costs_only_time_or_money_names_nothing() -> None:
    base = {"model": "m"}
    same = judge_spec("winrate-llm", base).content
    for key, value in (("concurrency", "9"), ("timeout", "1"), ("max_retries", "0"), ("token_budget", "5"),
                       ("cache", "x"), ("threshold", "1"), ("price_in", "3"), ("key_env", "OTHER_KEY")):  # fmt: skip
        assert judge_spec("winrate-llm", {**base, key: value}).content == same
    for key, value in (("temperature", "1"), ("max_tokens", "9"), ("votes", "3"), ("rubric", "safety"),
                       ("base_url", "http://localhost/v1"), ("model", "n")):  # fmt: skip
        assert judge_spec("winrate-llm", {**base, key: value}).content != same


class Unspeakable:
    measures = (Measure("luck", "win"),)
    verdict_settings = {"what": object()}  # noqa: RUF012

    def measure(self, cases: Any, task: Any) -> list[Verdict]:  # noqa: ARG002
        return []


def test_what_is_no_json_is_one_line() -> None:
    with pytest.raises(BenchError, match="not JSON"):
        judge_spec(f"{Path(__file__).stem}:Unspeakable", {})
