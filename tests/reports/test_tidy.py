"""CSV in tidy form: one row an estimate, numbers in columns of their own; training curves where they are at hand."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from stored import ITERATIONS, Stored, make, report_of

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results.claims import Claim, Result
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.table import DASH, Cell, Table
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.reports import build, comparison, steps, tidy
from rlhf_bench.reports.csv_tables import csv_files, table_csv
from rlhf_bench.reports.files import texts

NUMBERS = {
    "value", "low", "high", "level", "p", "p_holm", "seeds", "prompts", "kl", "reach", "first", "share", "error",
    "smallest_detectable", "detectable", "figure_low", "figure_high", "n", "n_invalid",
}  # fmt: skip
"""Columns that hold numbers alone; "seeds" of estimates.csv is a list of them."""
BRACKETS = re.compile(r"\d \[")


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, str]]:
    root: Path = tmp_path_factory.mktemp("store")
    make(root, Stored(seeds=(1, 2, 3), prompts=8, greedy=True))
    report, cells = report_of(root, Estimator())
    claim = Claim(
        "c", "text", "source", "reported", "headline", "scalar", "winrate", "win_rate", "above", figure=(0.7,)
    )
    row = Result(claim, "supported", Interval(0.6, 0.55, 0.65, "m"), (1, 2), 0.05).row()
    check = {"check": "equal KL", "verdict": "supported", "value": 0.6, "low": 0.5, "high": 0.7, "seeds": [1, 2],
             "measured": "x"}  # fmt: skip
    report = {**report, "claims": [{**row, "checks": [check]}]}
    files = {n.removeprefix("tables/"): t for n, t in texts(report, cells) if n.startswith("tables/")}
    return report, files


def test_every_number_stands_alone(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    _, files = made
    own = ("claims", "claim-checks", "steps", "frontier", "every-two-reward-models", "ranking-of-the-reward-models")
    shown = ("estimates", "sampled", "greedy", "curves", "slices", "collapse", "runs", "diagnostics", "kl-matched")
    wanted = (*own, *shown)
    assert {f"{name}.csv" for name in wanted} <= set(files)
    for name, text in files.items():
        found = rows_of(text)
        assert found
        for row in found:
            assert None not in row, name  # as many entries as columns
            for column, value in row.items():
                assert not BRACKETS.search(value) or column in ("note", "measured", "next"), (name, column, value)
                if column in NUMBERS and not (name == "estimates.csv" and column == "seeds"):
                    assert value == "" or float(value) is not None, (name, column)
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", column) for column in found[0]), name


def test_a_table_has_the_estimates_of_the_report(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    report, files = made
    labels = {arm["label"]: arm["arm"] for arm in report["arms"]}
    found = [row for row in rows_of(files["sampled.csv"]) if row["quantity"] == "win rate"]
    assert len(found) == len(labels)
    for row in found:
        (stored,) = [
            e for e in report["estimates"]
            if (e["arm"], e["statistic"], e["iteration"], e["slice"], e["decoding"])
            == (labels[row["label"]], "win_rate", ITERATIONS[-1], "all", "sample")
        ]  # fmt: skip
        for name in ("value", "low", "high", "level"):
            assert float(row[name]) == stored[name]


def test_comparisons_have_all_that_their_rows_say(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    report, files = made
    pairs = report["comparison"]["pairs"]
    found = rows_of(files["every-two-reward-models.csv"])
    assert len(found) == len(pairs)
    for row, stored in zip(found, pairs, strict=True):
        assert (row["label_a"], row["label_b"], row["note"]) == (stored["a_label"], stored["b_label"], stored["note"])
        for name in ("value", "low", "high", "p", "p_holm", "smallest_detectable"):
            assert (float(row[name]) if row[name] else None) == stored[name]
    kl = rows_of(files["kl-matched.csv"])
    assert [float(row["kl"]) for row in kl if row["kl"]] == [
        at["kl"] for row in report["kl_matched"]["contrasts"] for at in row["at"]
    ]
    (claim,) = rows_of(files["claims.csv"])
    assert (claim["value"], claim["low"], claim["high"], claim["level"]) == ("0.6", "0.55", "0.65", "0.95")
    assert (claim["figure_low"], claim["figure_high"]) == ("0.7", "0.7")
    (check,) = rows_of(files["claim-checks.csv"])
    assert (check["claim"], check["low"], check["seeds"]) == ("c", "0.5", "2")


def test_tables_from_rows_are_named_by_the_titles_they_have() -> None:
    interval = {"value": 0.6, "low": 0.5, "high": 0.7, "level": 0.95, "method": "m", "note": ""}
    row = {**interval, "task": "t", "label": "a", "title": "win rate", "judge": "j", "statistic": "s", "seeds": 2,
           "prompts": 4, "versus": "b", "tasks": ["t", "u"], "a_label": "a", "b_label": "b", "a": "k", "b": "l",
           "format": "number", "p": 0.1, "p_holm": 0.1, "p_method": "", "p_note": "", "different": True, "first": 0.5,
           "smallest_detectable": 0.1, "raw": interval}  # fmt: skip
    found = {"pairs": [row], "ranking": [row], "length_controlled": [row], "over_tasks": [row]}
    titles = {tidy.slug(table.title) for table in comparison.tables(found)}
    assert titles == set(tidy.COMPARED)
    for part, write in tidy.COMPARED.values():
        columns, rows = write(found[part])
        for line in rows:
            named = dict(zip(columns, line, strict=True))
            assert (named["value"], named["low"], named["high"], named["level"]) == (0.6, 0.5, 0.7, 0.95)
            assert named["measure"] == "win rate"
    assert next(iter(tidy.over_tasks([row]).rows))[:3] == ["a", "b", "t, u"]


def test_any_table_becomes_tidy() -> None:
    rows = [
        ("a", Cell(3, format="count"), Cell(0.5, 0.4, 0.6), (Cell(1.0), Cell(2.0)), Cell(0.01, format="p")),
        ("b", Cell(2, format="count"), DASH, (), Cell(None, format="p")),
        ("=c", Cell(2, format="count"), "no seed", (Cell(None),), ""),
    ]
    table = Table("t", ("reward model", "Seeds (n)", "low", "by seed", "p"), rows)
    text = table_csv(*tidy.tidy(table, 0.9))
    assert text.splitlines() == [
        "label,seeds_n,p,quantity,value,low,high,level",
        "a,3,0.01,low,0.5,0.4,0.6,0.9",
        "a,3,0.01,by seed 1,1.0,,,",
        "a,3,0.01,by seed 2,2.0,,,",
        "'=c,2,,low: no seed,,,,",
    ]
    assert tidy.unique(["a", "a", "value"], ("value",)) == ["a", "a_2", "value_2"]


def test_steps_are_the_rows_of_training(tmp_path: Path) -> None:
    make(tmp_path, Stored(prompts=4))
    report, cells = report_of(tmp_path)
    for changed in (cells, cells[::-1]):
        text = dict(texts(report, changed))["tables/steps.csv"]
        found = rows_of(text)
        assert len(found) == len(cells) * ITERATIONS[-1]
        assert list(found[0])[: len(steps.PLACE)] == list(steps.PLACE)
        for cell in cells:
            own = [row for row in found if (row["label"], row["seed"]) == (cell.record["reward_model"], str(cell.seed))]
            stored = store.read_rows(cell.folder("ppo") / "steps.jsonl")
            names = stored[0].keys()
            assert [{name: float(row[name]) for name in names} for row in own] == stored
            assert {row["task"] for row in own} == {"dialogsum"}


def test_without_the_rows_there_is_no_file_and_the_report_says_so(tmp_path: Path) -> None:
    make(tmp_path / "runs", Stored(prompts=4))
    report, cells = report_of(tmp_path / "runs")
    build.write(report, tmp_path / "out", cells)
    assert (tmp_path / "out/tables/steps.csv").exists()
    assert steps.NAME not in (tmp_path / "out/report.md").read_text()
    assert {name for name, _ in csv_files(report)} == {p.name for p in (tmp_path / "out/tables").iterdir()} - {
        steps.NAME
    }
    build.write(report, tmp_path / "out")
    assert not (tmp_path / "out/tables/steps.csv").exists()
    assert (tmp_path / "out/report.md").read_text().rstrip().endswith(steps.ABSENT)


def test_a_long_training_is_thinned_to_its_limit_and_keeps_its_end(tmp_path: Path) -> None:
    make(tmp_path, Stored(rms=("scalar",), seeds=(1,), prompts=4))
    _, cells = report_of(tmp_path)
    sheet = steps.curves(cells, {}, limit=7)
    assert sheet is not None
    assert [row[len(steps.PLACE) - 1] for row in sheet.rows] == [1, 4, 7, 10, 13, 16, 19, 20]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"iteration": 2, "kl": "=1+1", "clip_share": 0.1, "explained_variance": 0.1}', "line 2"),
        ('{"iteration": 2, "kl": 1e400, "clip_share": 0.1, "explained_variance": 0.1}', "steps.jsonl"),
        ('{"iteration": 2, "kl": NaN, "clip_share": 0.1, "explained_variance": 0.1}', "line 2"),
        ("[]", "line 2"),
        ("{" + ", ".join(f'"f{k}": 1' for k in range(steps.FIGURES + 1)) + ', "kl": 1, "clip_share": 1, '
         '"explained_variance": 1}', "more than 100 figures"),
    ],
)  # fmt: skip
def test_damaged_rows_are_named(tmp_path: Path, row: str, said: str) -> None:
    make(tmp_path, Stored(rms=("scalar",), seeds=(1,), prompts=4))
    _, cells = report_of(tmp_path)
    path = cells[0].folder("ppo") / "steps.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], row, *lines[2:]]) + "\n")
    with pytest.raises(BenchError, match=re.escape(str(path))) as raised:
        steps.curves(cells, {})
    assert said in str(raised.value)
