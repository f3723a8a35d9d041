"""Why one arm: descriptions from docstrings, the reasons under the answer, and which series of a figure are shown."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from stored import Stored, make, report_of

from rlhf_bench.harness import plugins
from rlhf_bench.harness.results.arms import Arm, CellFiles
from rlhf_bench.harness.seeds import Seed
from rlhf_bench.reports import answer, descriptions, figures, labels, view
from rlhf_bench.reports.cautions import merged
from rlhf_bench.reports.figures import Look, Point, Series
from rlhf_bench.reports.reasons import EQUAL_KL, PAIRS, leader, reasons


def estimate(arm: str, judge: str, statistic: str, value: float, spread: float = 0.05) -> dict[str, Any]:
    return {"task": "t", "arm": arm, "judge": judge, "statistic": statistic, "slice": "all", "decoding": "sample",
            "iteration": 9, "n": 50, "n_invalid": 0, "note": "", "level": 0.95, "value": value,
            "low": value - spread, "high": value + spread}  # fmt: skip


def report(**wins: float) -> dict[str, Any]:
    """Arms on one task by their win rates; `gold` is the ceiling."""
    arms = [
        {"task": "t", "arm": f"key-{name}", "label": name, "reward_model": name, "seeds": [1, 2, 3], "before": [],
         "cpu_seconds": {"ppo": 50.0 * (k + 1), "sft": 10.0 * (k + 1)}}
        for k, name in enumerate(wins)
    ]  # fmt: skip
    rows = [estimate(f"key-{name}", "winrate", "win_rate", value) for name, value in wins.items()]
    rows += [estimate(f"key-{name}", "length", "length_change", 3.0 * k) for k, name in enumerate(wins)]
    return {"arms": arms, "estimates": rows}


def pair(a: str, b: str, value: float, different: bool) -> dict[str, Any]:
    return {"task": "t", "a": f"key-{a}", "b": f"key-{b}", "judge": "winrate", "statistic": "win_rate",
            "value": value, "low": value - 0.1, "high": value + 0.1, "p_holm": 0.2,
            "different": different, "seeds": 3}  # fmt: skip


def contrast(a: str, b: str, value: float) -> dict[str, Any]:
    at = [
        {"kl": kl, "value": value if kl < 4 else None, "low": value - 0.1, "high": value + 0.1}
        for kl in (1.0, 2.0, 4.0)
    ]
    return {
        "task": "t",
        "a_label": a,
        "b_label": b,
        "judge": "winrate",
        "statistic": "win_rate",
        "decoding": "sample",
        "at": at,
    }


def test_the_ceiling_is_no_candidate_and_is_named_for_what_it_is() -> None:
    made = report(gold=0.9, a=0.7, b=0.6)
    said = answer.sentence(made, "t")
    assert "2 of 2 reward models (a, b)" in said
    assert "the largest estimate is a's win rate 0.70" in said
    assert said.endswith("With the true utility as the reward (gold): 0.90 [0.85, 0.95].")
    found = leader(made, "t")
    assert found is not None
    assert [one.arm["label"] for one in found[1]] == ["a", "b"]
    alone = answer.sentence(report(gold=0.9), "t")  # the ceiling alone answers for itself
    assert "PPO against gold leaves the policy better" in alone
    assert "With the true utility" not in alone


def test_the_reasons_are_those_of_the_best_arm_and_turn_stored_differences() -> None:
    made = report(b=0.6, a=0.7, c=0.5)
    made["comparison"] = {"pairs": [pair("b", "a", -0.1, different=False)]}
    made["kl_matched"] = {"contrasts": [contrast("b", "a", -0.2), contrast("a", "c", 0.3), contrast("b", "c", 9.0)]}
    lead, kl, length, cost = reasons(made, "t")
    assert lead.anchor == PAIRS
    assert "win rate 0.70 [0.65, 0.75]; next b 0.60 [0.55, 0.65]" in lead.text
    assert "paired difference +0.10 [0.00, 0.20] over 3 common seeds, p after Holm 0.200: undecided" in lead.text
    assert "excludes 0" not in lead.text  # the interval's end is 0
    # the difference to the nearest arm first, at the largest KL that has one
    ends = "+0.20 [0.10, 0.30] of b at KL 2, +0.30 [0.20, 0.40] of c at KL 2"
    assert kl.text == f"win rate at equal KL, minus that of others: {ends}"
    assert kl.anchor == EQUAL_KL
    assert length.text == "length change 3.00 [2.95, 3.05] tokens; the others 0.00 to 6.00"
    assert cost.text == "cost 2.0 min of processor time a run; the others 60 s to 3.0 min"
    assert reasons(report(a=0.7), "t") == []  # nothing to choose between
    assert reasons(report(), "t") == []


def test_what_all_arms_share_is_no_reason() -> None:
    made = report(a=0.7, b=0.6)
    for row in made["estimates"]:
        if row["judge"] == "length":
            row["value"] = 1.0
    assert not [one for one in reasons(made, "t") if "length" in one.text]


def test_descriptions_are_the_docstrings_that_bench_list_shows() -> None:
    for name, plugin in plugins.available("reward-model").items():
        shown = (plugin.target().__doc__ or "").strip().partition("\n")[0].strip()
        assert shown
        assert descriptions.docstring_line(name) == shown
    assert descriptions.docstring_line("hf:some/model") == descriptions.docstring_line("hf")
    assert descriptions.described("scalar", "dpo") == descriptions.OPTIMIZERS["dpo"]
    assert descriptions.described("no-such-model", "ppo") == ""


def test_code_that_a_report_was_not_given_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text('raise SystemExit\ndef score(prompts, responses):\n    """A line."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert descriptions.described("mine:score", "ppo") == ""
    assert "mine" not in sys.modules


def test_a_broken_plugin_has_no_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin.py").write_text("def (")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {"mine": plugins.Plugin("reward-model", "mine", "broken_plugin:score"),
             "gone": plugins.Plugin("reward-model", "gone", "nowhere.at.all:score")}  # fmt: skip
    monkeypatch.setattr(plugins, "available", lambda _kind: found)
    assert descriptions.described("mine", "ppo") == descriptions.described("gone", "ppo") == ""


def test_the_best_series_are_in_sight_and_labels_do_not_meet() -> None:
    made = report(**{f"arm{k}": 0.5 + k / 100 for k in range(9)})
    slots = view.slots_of(made)
    assert [*slots][:4] == ["arm8", "arm7", "arm6", "arm5"]
    series = [
        Series(name, Look(slot, slot >= view.HIGHLIGHTED), [Point(0, 0), Point(1, 0.5)]) for name, slot in slots.items()
    ]
    drawn = str(figures.lines(series, "x", "y", "said"))
    shown = [part for part in drawn.split("<g ")[1:] if "label" in part and "faint" not in part]
    places = sorted(float(part.split(' y="')[1].split('"')[0]) for part in shown)
    assert len(places) == view.HIGHLIGHTED
    assert all(b - a >= figures.LINE for a, b in pairwise(places))


def arm(rm: str, key: str, task: str = "t", **settings: str) -> Arm:
    record = {"task": task, "reward_model": rm, "differing": settings, "stages": {}}
    return Arm(task, rm, key, (CellFiles({**record, "seed": 1}, Path()),))


def test_labels_leave_out_what_the_task_says() -> None:
    few, many = {"data.limit": "10"}, {"data.limit": "20"}
    arms = [arm("scalar", "a", "s", **few), arm("whitebox", "b", "s", **few), arm("scalar", "c", "t", **many),
            arm("whitebox", "d", "t", **few)]  # fmt: skip
    assert labels.labels_of(arms) == {
        "a": "scalar", "b": "whitebox", "c": "scalar (data.limit=20)", "d": "whitebox (data.limit=10)",
    }  # fmt: skip


def test_labels_leave_out_settings_of_other_reward_models() -> None:
    both = {"scalar*.epochs": "6", "seq2seq-*.epochs": "6", "pairs.overlap": "low"}
    arms = [arm("scalar", "a"), arm("scalar", "b", **both), arm("seq2seq-token", "c", **both, **{"ppo.kl": "1"})]
    assert labels.labels_of(arms) == {
        "a": "scalar",
        "b": "scalar (epochs=6, pairs.overlap=low)",
        # `epochs` is that of every seq2seq arm here, so it tells none of them apart
        "c": "seq2seq-token (pairs.overlap=low, ppo.kl=1)",
    }
    alone = [arm("whitebox-li", "d", **{"whitebox*.max_len": "48"}), arm("scalar", "e", **{"whitebox*.max_len": "48"})]
    assert labels.labels_of(alone) == {"d": "whitebox-li", "e": "scalar"}


def test_runs_of_which_the_same_is_said_are_one_warning() -> None:
    said: list[tuple[Seed, str]] = [(seed, f"{97 + seed}% of the rollouts are cut off") for seed in (1, 2, 3)]
    said.append((2, "negative KL: -0.1 nats"))
    assert list(merged(said)) == [
        "3 runs (seed 1, seed 2, seed 3): 98 to 100% of the rollouts are cut off",
        "seed 2: negative KL: -0.1 nats",
    ]


def test_a_stage_of_two_roles_is_paid_once(tmp_path: Path) -> None:
    make(tmp_path, Stored(("scalar",), (1,)))  # its generations are the stage of PPO
    report, cells = report_of(tmp_path)
    stages = {tuple(place) for place in cells[0].record["stages"].values()}
    seconds = report["arms"][0]["cpu_seconds"]
    assert sorted(seconds) == sorted({kind for kind, _, _ in stages})
    every = report["manifest"]["stages"].values()
    assert sum(seconds.values()) == pytest.approx(sum(one["cpu_seconds"] for one in every))
