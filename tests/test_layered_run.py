"""A small run with seeds in layers, from the command to the report: jobs, resuming, and what readers see."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from small import bench, command

from rlhf_bench.reports.schema import report_schema


@pytest.mark.training
def test_a_run_in_layers_is_reported_by_all_of_its_seeds_and_resumed(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    layers = ("--data-seeds", "2", "--reward-seeds", "4-4", "--optimizer", "ppo", "--optimizer", "sft-tempered")
    asked = command(out, *layers, "--judge", "utility", rms=("length-only",))
    asked[asked.index("--jobs") + 1] = "2"
    done = bench(*asked)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "report" / "report.json").read_text())
    jsonschema.validate(report, report_schema())
    names = [f"data {data} · reward 4 · seed 0" for data in (0, 1)]
    arm, control = report["arms"]
    assert arm["seeds"] == control["seeds"] == report["manifest"]["seeds"] == names
    assert control["label"] == "sft-tempered"
    # against the SFT policy of the same run, on the prompts of its data seed
    matched = [e for e in report["estimates"] if e["judge"] == "sft-tempered"]
    assert {e["statistic"] for e in matched} >= {"temperature", "sft gold", "gold_difference"}
    assert {(e["arm"], *e["seeds"], e["n"], e["n_invalid"]) for e in matched} == {(arm["arm"], *names, 16, 0)}
    assert not [e for e in matched if "no log-probability" in e["note"]]
    (gold,) = [
        e
        for e in report["estimates"]
        if (e["statistic"], e["slice"], e["decoding"], e["judge"]) == ("gold", "all", "sample", "utility")
        and (e["iteration"], e["arm"]) == (6, arm["arm"])
    ]
    assert (gold["seeds"], gold["n"], gold["n_invalid"], gold["method"]) == (names, 16, 0, "nested t")
    assert {row["statistic"] for row in report["layers"]} >= {"gold"}
    whys = [source["why"] for source in report["layers"][0]["sources"]]
    assert whys[1] == "one reward seed in each level above: part of that"
    assert names[0] in (out / "report" / "report.md").read_text()
    assert "; ".join(names) in (out / "report" / "tables" / "estimates.csv").read_text()
    page = (out / "report" / "report.html").read_text()
    assert "Where the spread comes from" in page
    # each data seed's prompts have a page of responses of their own
    assert "dialogsum · data 0" in page
    assert "dialogsum · data 1" in page
    again = bench(*asked, "--dry-run")
    assert "\n0 of " in again.stdout
    more = bench(*asked, "--seeds", "2", "--dry-run")
    assert "reused" in more.stdout
    assert "d1-r4-s1" in more.stdout
    planned = bench("power", str(out), "--difference", "0.1", "--width", "0.3")
    assert planned.returncode == 0, planned.stderr
    assert "data seeds" in planned.stdout
