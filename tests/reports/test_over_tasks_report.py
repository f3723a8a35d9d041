"""Means over the tasks of a report: which arms are pooled, their numbers, and what cannot be pooled."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from stored import Stored, make, report_of

from rlhf_bench.harness.results.arms import arms_of
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.reports import answer, build, over_tasks
from rlhf_bench.reports.over_tasks import BASELINE
from rlhf_bench.reports.schema import report_schema

RMS = ("scalar", "copier")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make(tmp_path, Stored(RMS, (1, 2, 3), 12))
    make(tmp_path, Stored(("scalar",), (1, 2), 10, "tldr", prompt=lambda k: f"A post about {k}."))
    make(tmp_path, Stored(("copier",), (7,), 10, "tldr", prompt=lambda k: f"A post about {k}."))
    return tmp_path


def test_every_task_counts_alike_over_the_seeds_in_common(store: Path) -> None:
    report, cells = report_of(store, Estimator())
    jsonschema.validate(json.loads(json.dumps(report)), report_schema())
    rows = report["comparison"]["over_tasks"]
    (scalar,) = [r for r in rows if (r["label"], r["versus"], r["judge"]) == ("scalar", BASELINE, "winrate")]
    assert (scalar["seeds"], scalar["tasks"]) == (2, ["dialogsum", "tldr"])
    arms = [arm for arm in arms_of(cells) if arm.reward_model == "scalar"]
    means = []
    for arm in arms:
        found = [build.columns.read(cell.judged()["winrate"] / "verdicts.jsonl") for cell in arm.cells[:2]]
        values = [one.groups["sample", 20].column("win_rate") for one in found]
        means.append(float(np.nanmean([np.nanmean(one) for one in values])))
    assert scalar["value"] == pytest.approx(np.mean(means))
    assert scalar["low"] < scalar["value"] < scalar["high"]
    said = answer.over_tasks(report)
    assert said.startswith("Over the tasks dialogsum, tldr, each counting alike, the largest mean win rate is scalar's")
    assert "of these tasks alone" in said


def test_arms_without_common_seeds_keep_a_row_with_the_reason(store: Path) -> None:
    report, _ = report_of(store, Estimator())
    rows = [r for r in report["comparison"]["over_tasks"] if r["label"] == "copier" and r["versus"] == BASELINE]
    assert rows
    assert {row["value"] for row in rows} == {None}
    assert all("no training seed in common" in row["note"] for row in rows)


def test_one_task_has_no_mean_over_tasks(tmp_path: Path) -> None:
    make(tmp_path, Stored(RMS, (1, 2), 6))
    report, _ = report_of(tmp_path, Estimator())
    assert "over_tasks" not in report["comparison"]
    assert answer.over_tasks(report) == ""
    assert "Means over tasks" not in [table["title"] for table in report["comparisons"]]


def test_a_label_that_two_arms_of_a_task_share_is_left_out(store: Path) -> None:
    cells, _ = find_cells([store])
    arms = arms_of(cells)
    labels = {arm.key: "same #1" if arm.task == "dialogsum" else "same" for arm in arms}
    assert over_tasks.by_label(arms, labels) == {}
    labels = {arm.key: f"{arm.reward_model} #{arm.key[:4]}" for arm in arms}
    assert sorted(over_tasks.by_label(arms, labels)) == ["copier", "scalar"]
