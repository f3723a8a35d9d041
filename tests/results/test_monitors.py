"""Signs of a bad run in its log and its responses, and how often each was counted to be right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored import Stored, make

from rlhf_bench.harness import store
from rlhf_bench.harness.results import monitors
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.monitors import RULES, WARNED, Rate, response_signs, signs, warned

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import monitors as counting  # type: ignore[no-redef]  # of benchmarks/, beside the module of one name

T = np.linspace(0, 1, 40)


def log(**columns: Any) -> list[dict[str, Any]]:
    """A run without any sign, but for the given columns [T]."""
    plain: dict[str, Any] = {"reward": 1 - np.exp(-8 * T), "tokens": 20.0, "entropy_estimate": 1.0, "kl": 1.0,
                             "explained_variance": 0.5, "empty_share": 0.0, "truncated_share": 0.0}  # fmt: skip
    made = {name: np.broadcast_to(np.asarray(v, dtype=np.float64), T.shape) for name, v in (plain | columns).items()}
    return [{name: float(values[at]) for name, values in made.items()} for at in range(len(T))]


def test_a_sound_run_shows_nothing() -> None:
    assert signs(log()) == {}
    assert signs(log(kl=50.0)[:11]) == {}, "too few iterations to say anything"
    assert signs([{**row, "entropy_estimate": float("nan")} for row in log()]) == {}


@pytest.mark.parametrize("turn", [1, -1])
def test_length_pays_where_the_reward_follows_it(turn: int) -> None:
    pays = log(tokens=20 + turn * 8 * T, reward=T)
    assert set(signs(pays)) >= {"length"}
    ends = {1: 28, -1: 12}
    assert f"20 tokens at first, {ends[turn]} at the end" in signs(pays)["length"]
    assert "length" not in signs(log(tokens=20 + turn * 8 * T, reward=-T)), "a reward that falls is not paid for it"
    assert "length" not in signs(log(tokens=20 + turn * 4 * T, reward=T)), "a fifth longer or shorter"
    assert "length" not in signs(log(tokens=20 + turn * 8 * T, reward=1.0)), "a constant reward has no correlation"


def test_each_other_sign_of_the_log_has_its_threshold() -> None:
    assert set(signs(log(entropy_estimate=1 - 0.6 * T))) == {"entropy"}
    assert set(signs(log(entropy_estimate=1 - 0.4 * T))) == set()
    assert set(signs(log(kl=12 * T))) == {"far"}
    assert set(signs(log(empty_share=0.3))) == {"empty"}
    assert set(signs(log(truncated_share=0.9))) == {"truncated"}
    assert set(signs(log(explained_variance=0.0))) == {"critic"}
    assert set(signs(log(reward=T))) == {"rising"}


def test_responses_that_are_alike_or_repeat() -> None:
    varied = [f"answer {k} of many words that differ by {k * k}" for k in range(40)]
    assert response_signs(varied, varied) == {}
    assert set(response_signs(varied, ["I cannot say"] * 8 + varied[8:])) == {"alike"}
    assert response_signs(["I cannot say"] * 8 + varied[8:], ["I cannot say"] * 9 + varied[9:]) == {}
    assert set(response_signs(varied, [f"w{k} " + "yes yes " * 20 for k in range(40)])) == {"repetition"}
    assert response_signs(varied, [""] * 40) == {}, "empty responses have a sign of their own"
    assert response_signs([], []) == {}


def test_every_sign_has_a_rule_and_those_that_warn_say_how_often_they_are_right() -> None:
    assert set(WARNED) <= set(RULES)
    measured = json.loads(monitors.MEASURED.read_text(encoding="utf-8"))
    assert list(measured["signs"]) == list(RULES)
    for rate in monitors.rates().values():
        assert rate.fallen[1] + rate.other[1] == measured["runs"]
        assert all(0 <= shown <= runs for shown, runs in rate)
    said = warned(log(kl=20.0))
    assert list(said) == ["far"]
    assert said["far"].endswith(f"({monitors.rates()['far'].said()})")
    assert Rate((2, 3), (0, 9)).said() == "shows in 2 of 3 runs whose gold fell, in 0 of 9 others"


def test_runs_are_counted_once_by_what_their_verdicts_say(tmp_path: Path) -> None:
    make(tmp_path, Stored(seeds=(1, 2), prompts=10))
    for path in (tmp_path / "verdicts").glob("utility-*-s*/verdicts.jsonl"):
        rows = store.read_rows(path)
        for row in rows:
            row["values"]["gold"] = 0.0 if "-scalar-s2-" in str(path) else row["values"]["gold_baseline"]
        store.write_rows(path, rows)
    found = list(counting.runs_of(find_cells([tmp_path, tmp_path])[0]))
    assert len(found) == 4
    assert sum(one.fell for one in found) == 1
    counted = counting.count(found)
    assert all(row["fallen"][1] == 1 and row["other"][1] == 3 for row in counted.values())
    text = counting.page(found, "command")
    assert "in 1 of them" in text
    assert all(rule.partition(",")[0] in text for rule in RULES.values())
