"""Reward models at equal KL in a report: rows, table, figure, CSV, and the parts of reports without them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpointed import Runs, arm
from jsonschema import Draft202012Validator
from stored import Stored, make, report_of

from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.table import text
from rlhf_bench.reports import charts, figures, kl_tables, schema
from rlhf_bench.reports.csv_tables import csv_files
from rlhf_bench.reports.files import texts
from rlhf_bench.reports.kl_matched import GRID, kl_matched
from rlhf_bench.reports.tables import TABLES, all_tables

VALIDATOR = Draft202012Validator(schema.report_schema())


def noisy(slope: float) -> Any:
    made = np.random.default_rng(int(100 * slope)).normal(size=(5, 100, 20))
    return lambda seed, iteration, k: k / 50 + slope * (iteration / 10) ** 0.5 + 0.05 * made[seed, iteration, k]


def three(root: Path, **more: Any) -> tuple[list[Any], dict[str, str]]:
    """Two arms of one reward model under two KL coefficients, and one of another."""
    arms = [
        arm(root, Runs(gold=noisy(0.5), settings={"ppo.kl": "0.1"}, **more), "-a"),
        arm(root, Runs(gold=noisy(0.5), iterations={1: (15, 45), 2: (15, 45)}, settings={"ppo.kl": "0.01"}), "-b"),
        arm(root, Runs(rm="copier", gold=noisy(0.2), iterations={1: (5, 25), 2: (15, 25)}, **more)),
    ]
    return arms, {one.key: one.key for one in arms}


def report(arms: list[Any], labels: dict[str, str]) -> dict[str, Any]:
    before: list[Any] = []
    shown = [
        {"arm": one.key, "label": labels[one.key], "task": "t", "seeds": list(one.seeds), "before": before}
        for one in arms
    ]
    return {"kl_matched": kl_matched(arms, labels, Estimator()), "arms": shown, "estimates": [], "measures": []}


def test_a_contrast_for_each_measure_at_each_kl_that_both_reach(tmp_path: Path) -> None:
    arms, labels = three(tmp_path)
    rows = kl_matched(arms, labels, Estimator())["contrasts"]
    assert [(row["statistic"], row["decoding"]) for row in rows] == [
        ("gold", "sample"),
        ("won", "sample"),
        ("failed", "sample"),
    ]
    gold = rows[0]
    assert gold["a_label"] == "scalar (2 arms pooled: ppo.kl=0.1, 0.01)"
    assert gold["a"] == ["scalar-a", "scalar-b"]
    assert gold["reach"] == pytest.approx(2.5)
    assert [at["kl"] for at in gold["at"]] == [0.25, 0.5, 1.0, 2.0]
    for at in gold["at"]:
        assert at["low"] < at["value"] < at["high"]
        assert at["value"] == pytest.approx(0.3 * at["kl"] ** 0.5, abs=0.05)
    wins = next(row for row in rows if row["statistic"] == "won")
    assert {at["value"] for at in wins["at"] if at["kl"] >= 1.5} == {0.0}


def test_the_table_says_at_which_kl_and_why(tmp_path: Path) -> None:
    arms, labels = three(tmp_path)
    (table,) = all_tables(report(arms, labels), ["kl-matched"])
    assert table.columns[4:] == ("KL that both reach", "at KL 0.25", "at KL 0.5", "at KL 1", "at KL 2")
    assert text(table.rows[0][4]) == "2.50"
    for said in ("fixed beforehand", "nothing is extrapolated", "Sampled responses only"):
        assert said in table.note
    with_greedy = report(*three(tmp_path / "greedy", greedy=(25,)))
    (with_greedy_table,) = all_tables(with_greedy, ["kl-matched"])
    assert "Sampled responses only" in with_greedy_table.note


def test_greedy_outcomes_are_compared_where_checkpoints_have_them(tmp_path: Path) -> None:
    one, other = (
        arm(tmp_path, Runs(rm=rm, gold=noisy(slope), greedy=(10, 30))) for rm, slope in (("a", 0.5), ("b", 0.3))
    )
    made = report([one, other], {"a": "a", "b": "b"})
    greedy = [row for row in made["kl_matched"]["contrasts"] if row["decoding"] == "greedy"]
    assert [row["statistic"] for row in greedy] == ["gold", "won", "failed"]
    (table,) = all_tables(made, ["kl-matched"])
    assert "sampled KL of the same checkpoint" in table.note
    assert {row[2] for row in table.rows} >= {"gold", "gold, greedy"}


def test_one_seed_and_too_few_checkpoints(tmp_path: Path) -> None:
    two = [arm(tmp_path, Runs(rm=rm, iterations={1: (10, 20)}, gold=noisy(0.4))) for rm in ("a", "b")]
    found = kl_matched(two, {"a": "a", "b": "b"}, Estimator())["contrasts"]
    assert "these training runs are compared, not the reward models" in found[0]["at"][0]["note"]
    few = [arm(tmp_path, Runs(rm=rm, iterations={1: (10,)}), "-few") for rm in ("a", "b")]
    made = report(few, {one.key: one.key for one in few})
    assert made["kl_matched"] == {"contrasts": [], "frontiers": []}
    assert list(all_tables(made, ["kl-matched"])) == []
    assert "frontier.csv" not in dict(csv_files(made))


def test_judges_with_other_settings_are_not_compared(tmp_path: Path) -> None:
    pair = [arm(tmp_path, Runs(rm=rm, judge_setting=rm)) for rm in ("a", "b")]
    rows = kl_matched(pair, {"a": "a", "b": "b"}, Estimator())["contrasts"]
    assert all("different settings" in row["note"] and not row["at"] for row in rows)


def test_the_frontier_is_drawn_and_its_csv_has_every_digit(tmp_path: Path) -> None:
    arms, labels = three(tmp_path)
    made = report(arms, labels)
    looks = {label: figures.Look(k) for k, label in enumerate(labels.values())}
    (gold, won) = charts.frontiers(made, "t", looks)
    assert gold["title"] == "Frontier: gold at equal KL to the SFT policy"
    assert gold["svg"].count("<polyline") == 2
    assert gold["svg"].count("<polygon") == 2  # the bands
    assert "copier" in gold["svg"]
    assert won["title"].startswith("Frontier: won")
    rows = list(csv.DictReader(io.StringIO(dict(csv_files(made))["frontier.csv"])))
    assert set(rows[0]) == set(kl_tables.FRONTIER)
    own = [row for row in rows if row["label"] == "copier" and row["statistic"] == "gold"]
    assert len(own) <= GRID
    stored = next(r for r in made["kl_matched"]["frontiers"] if r["label"] == "copier" and r["statistic"] == "gold")
    assert [float(row["value"]) for row in own] == [at["value"] for at in stored["points"]]
    assert float(own[0]["kl"]) == 0.0


def test_a_written_report_has_the_part_and_an_older_one_needs_none(tmp_path: Path) -> None:
    make(tmp_path, Stored(prompts=6))
    made, cells = report_of(tmp_path)
    assert made["kl_matched"]["contrasts"]
    files = dict(texts(made, cells))
    assert "Reward models at equal KL" in files["report.md"]
    assert "Frontier: gold at equal KL" in files["report.html"]
    assert {"tables/kl-matched.csv", "tables/frontier.csv"} <= set(files)
    assert [error.message for error in VALIDATOR.iter_errors(json.loads(files["report.json"]))] == []
    older = {key: value for key, value in made.items() if key != "kl_matched"}
    assert "Reward models at equal KL" not in dict(texts(older, cells))["report.md"]


def test_experiments_show_tables_that_there_are() -> None:
    for name, experiment in experiments.load().items():
        assert set(experiment.shows) <= set(TABLES), name
    assert "kl-matched" in experiments.find("overoptimisation").shows
