"""The page of a second draw counts verdicts that repeat, and takes no claim that either draw lacks."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results import result_files

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import second_draw


def row(name: str, verdict: str, value: float | None, low: float | None, high: float | None, *seeds: int) -> Any:
    return {"id": name, "verdict": verdict, "value": value, "low": low, "high": high, "seeds": list(seeds)}


FIRST = [
    row("same", "supported", 0.3, 0.1, 0.5, 1, 2, 3),
    row("weaker", "supported", 0.3, 0.1, 0.5, 1, 2, 3),
    row("opposite", "supported", 0.3, 0.1, 0.5, 1, 2, 3),
    row("lost", "supported", 0.3, 0.1, 0.5, 1, 2, 3),
    row("never", "not run", None, None, None),
]
SECOND = [
    row("same", "supported", 0.5, 0.2, 0.8, 7, 8),
    row("weaker", "inconclusive", 0.6, -0.2, 1.4, 7, 8),
    row("opposite", "contradicted", -0.3, -0.4, -0.2, 7, 9),
    row("lost", "not run", None, None, None),
    row("never", "supported", 0.3, 0.1, 0.5, 7, 8),
    row("new", "supported", 0.3, 0.1, 0.5, 7, 8),
]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "experiments" / "x").mkdir(parents=True)
    store.write_json(tmp_path / "experiments" / "x" / "experiment.json", {"name": "x", "claims": SECOND})
    monkeypatch.setattr(result_files, "read_folder", lambda _: {"x": SimpleNamespace(claims=FIRST)})
    monkeypatch.setattr(result_files, "plain", lambda row: row)
    return tmp_path


def test_only_claims_of_both_draws_are_compared(runs: Path) -> None:
    found = second_draw.pairs(runs)
    assert [pair.first["id"] for pair in found] == ["same", "weaker", "opposite"]
    assert [pair.repeats for pair in found] == [True, False, False]
    assert [pair.contradicts for pair in found] == [False, False, True]
    assert [pair.inside for pair in found] == [True, False, False]
    text = second_draw.page(found, "x")
    assert "Of 3 verdicts 1 are the same, 1 are the opposite, and 1 values" in text
    assert r"| same | supported 0.30 \[0.10, 0.50\] | 1-3 | supported 0.50 \[0.20, 0.80\] | 7-8 | yes | yes |" in text
    assert "| 7, 9 | no | no |" in text


def test_draws_that_share_a_seed_are_not_two(runs: Path) -> None:
    again = [row("same", "supported", 0.5, 0.2, 0.8, 3, 4)]
    store.write_json(runs / "experiments" / "x" / "experiment.json", {"name": "x", "claims": again})
    with pytest.raises(BenchError, match=r"Both draws of same have the seeds \[3\]"):
        second_draw.pairs(runs)


def test_an_experiment_without_a_page(runs: Path) -> None:
    store.write_json(runs / "experiments" / "x" / "experiment.json", {"name": "y", "claims": []})
    with pytest.raises(BenchError, match="y has no page"):
        second_draw.pairs(runs)
