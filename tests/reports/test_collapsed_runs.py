"""Collapsed runs in every form of a report: `k of S` with its interval beside the mean, the seeds by name."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from stored import Stored, make, report_of

from rlhf_bench.harness import store
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.table import Cell, text
from rlhf_bench.reports import answer, ledger, markdown, measures, tables, view
from rlhf_bench.reports.files import texts


@pytest.fixture
def found(tmp_path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Three seeds of two reward models; gold of the first falls to 0 under seed 2."""
    make(tmp_path, Stored(seeds=(1, 2, 3), prompts=10))
    for path in (tmp_path / "verdicts").glob("utility-*-s*/verdicts.jsonl"):
        rows = store.read_rows(path)
        bad = "-scalar-s2-" in str(path)
        for row in rows:
            before = row["values"]["gold_baseline"]
            after = 0.0 if bad else before + 0.1
            row["values"] |= {"gold": after, "gold_change": after - before}
        store.write_rows(path, rows)
    return report_of(tmp_path, Estimator())


def test_the_headline_has_k_of_s_with_its_interval(found: tuple[dict[str, Any], list[Any]]) -> None:
    table = tables.headline(found[0])
    place = table.columns.index("collapsed")
    assert table.columns[place - 1] == "gold change"
    assert [text(row[place]) for row in table.rows] == ["1 of 3 [0.008, 0.91]", "0 of 3 [0.00, 0.71]"]
    assert "half a standard deviation" in table.note or "0.5 standard deviations" in table.note


def test_every_form_names_the_runs(found: tuple[dict[str, Any], list[Any]]) -> None:
    report, cells = found
    (warning,) = [line for line in report["warnings"] if "collapsed" in line]
    assert warning.startswith("scalar on dialogsum, gold: 1 of 3 runs collapsed: seed 2 (-0.40)")
    assert "two modes" in warning
    made = dict(texts(report, cells))
    for name in ("report.md", "report.html"):
        assert "1 of 3 runs collapsed: seed 2" in made[name]
    assert "Runs that collapsed" in made["report.md"]
    tidy = csv.DictReader(io.StringIO(made["tables/runs.csv"]))
    place = {"label": "scalar", "quantity": "collapsed", "slice": "all", "decoding": "sample"}
    (share,) = [row for row in tidy if {name: row[name] for name in place} == place]
    assert float(share["value"]) == pytest.approx(1 / 3)
    assert (round(float(share["low"]), 3), round(float(share["high"]), 2)) == (0.008, 0.91)
    (task,) = view.view(report)["tasks"]
    (forest,) = [one for one in task["forests"] if one["name"] == "gold change"]
    assert {row["label"]: row["collapsed"] for row in forest["rows"]} == {
        "scalar": "1 of 3 runs collapsed (share [0.008, 0.91])",
        "seq2seq-token": "0 of 3 runs collapsed (share [0.00, 0.71])",
    }


def test_a_share_of_runs_is_written_as_a_count() -> None:
    assert text(Cell(0.4, format="runs", of=5)) == "2 of 5"
    assert text(Cell(0.5, 0.1, 0.9, "runs", 5)) == "0.50 [0.10, 0.90]"  # of four runs: the fifth has no rule
    assert text(Cell(None, format="runs", of=5)) == "–"


def test_a_contrast_shows_the_runs_of_both_sides(found: tuple[dict[str, Any], list[Any]]) -> None:
    report = found[0]
    row = {"run": "main", "task": "dialogsum", "a": "scalar", "b": "seq2seq-token", "judge": "utility",
           "statistic": "gold_change", "slice": "all", "decoding": "sample"}  # fmt: skip
    built = {"runs": {"main": [arm["arm"] for arm in report["arms"]]}, "report": report}
    assert ledger.collapsed_runs(built, row) == "1 of 3, 0 of 3"
    assert ledger.collapsed_runs(built, {**row, "judge": "winrate"}) == ""
    assert ledger.collapsed_runs({"runs": {}, "report": None}, row) == ""


def test_reports_of_older_versions_have_no_such_column(found: tuple[dict[str, Any], list[Any]]) -> None:
    report = found[0]
    old = {**report, "estimates": [e for e in report["estimates"] if "runs" not in e["statistic"]]}
    old["measures"] = [row for row in report["measures"] if not row["statistic"].endswith(measures.COLLAPSED)]
    assert "collapsed" not in tables.headline(old).columns
    assert not tables.runs(old).rows
    assert view.view(old)["tasks"][0]["forests"]


def test_a_win_rate_is_better_in_the_mean_alone_where_runs_collapsed(found: tuple[dict[str, Any], list[Any]]) -> None:
    """A mean over three runs, one of which fell, is no promise for the next one."""
    report = found[0]
    for e in report["estimates"]:
        if (e["judge"], e["statistic"], e["slice"]) == ("winrate", "win_rate", "all"):
            e |= {"value": 0.8, "low": 0.7, "high": 0.9}
    said = answer.sentence(report, "dialogsum")
    assert said.endswith(" Better in the mean alone: scalar, 1 of 3 runs collapsed.")
    (task,) = view.view(report)["tasks"]
    assert {row["label"]: (row["side"], row["in_the_mean"]) for row in task["forests"][0]["rows"]} == {
        "scalar": ("better", True),
        "seq2seq-token": ("better", False),
    }


def test_a_word_is_explained_before_it_is_used(found: tuple[dict[str, Any], list[Any]]) -> None:
    report = found[0]
    assert [term.partition(":")[0] for term in answer.terms(report)] == ["gold", "collapsed"]
    lines = markdown.markdown(report).splitlines()
    assert lines[2].startswith("gold: the true utility")
    report["claims"] = []
    plain = {**report, "measures": [row for row in report["measures"] if "gold" not in row["statistic"]]}
    plain["estimates"] = [e for e in report["estimates"] if e["judge"] != "utility"]
    assert answer.terms(plain) == []


def test_the_first_claim_answers_the_question() -> None:
    rows = [{"text": "PPO raises gold.", "verdict": "supported"}, {"text": "It falls.", "verdict": "contradicted"}]
    said = answer.of_claims(rows)
    assert said == "Of 2 claims about it: 1 supported, 1 contradicted. The first: “PPO raises gold” is supported."
    assert answer.of_claims(rows[:1]) == "Of 1 claim about it: 1 supported."
    assert answer.of_claims([]) == ""
