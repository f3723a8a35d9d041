"""The files of a report: golden ones from a store written by hand, the JSON's schema, tables no spreadsheet runs.

Golden files hold what presentation makes of fixed numbers (`stored.Means`): statistics may change without them.  Make
them anew with `GOLDEN=write pytest tests/test_report_files.py`, and read the difference.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from payloads import PAYLOADS
from small import bench
from stored import NAMES, Means, Stored, make, report_of

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.printable import FORMULA
from rlhf_bench.harness.results.claims import Claim, Result
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.table import Cell
from rlhf_bench.reports import build, csv_tables, schema
from rlhf_bench.reports.files import texts

GOLDEN = Path(__file__).parents[1] / "golden" / "report"
GOLDEN_FILES = ("report.md", "report.json", "tables/estimates.csv", "tables/sampled.csv", "tables/slices.csv")
VALIDATOR = Draft202012Validator(schema.report_schema())


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[dict[str, Any], list[Any]]:
    make(tmp_path, Stored(prompts=4))
    return report_of(tmp_path, Means())


@pytest.mark.parametrize("name", GOLDEN_FILES)
def test_golden(tiny: tuple[dict[str, Any], list[Any]], name: str) -> None:
    made = dict(texts(*tiny))[name]
    path = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made, encoding="utf-8", newline="\n")
    assert made == path.read_text(encoding="utf-8")


def test_what_is_written_is_what_is_made_and_twice_the_same(
    tiny: tuple[dict[str, Any], list[Any]], tmp_path: Path
) -> None:
    report, cells = tiny
    first = {path: path.read_bytes() for path in build.write(report, tmp_path / "out", cells)}
    assert {path.name for path in first} >= {"report.html", "report.md", "report.json", "estimates.csv"}
    assert {path: path.read_bytes() for path in build.write(report, tmp_path / "out", cells[::-1])} == first
    assert {p for p in (tmp_path / "out").rglob("*") if p.is_file()} == set(first)  # nothing left aside


def test_tables_of_the_report_before_do_not_stay(tiny: tuple[dict[str, Any], list[Any]], tmp_path: Path) -> None:
    report, cells = tiny
    table = {"title": "Pairs", "columns": ["a"], "rows": [["x"]], "note": ""}
    (tmp_path / "out" / "tables").mkdir(parents=True)
    (tmp_path / "out" / "tables" / "own.csv").write_text("mine\n")
    build.write({**report, "comparisons": [table]}, tmp_path / "out", cells)
    assert (tmp_path / "out" / "tables" / "pairs.csv").exists()
    build.write(report, tmp_path / "out", cells)
    assert not (tmp_path / "out" / "tables" / "pairs.csv").exists()
    assert (tmp_path / "out" / "tables" / "own.csv").read_text() == "mine\n"


@pytest.mark.parametrize("name", ["tables", "details"])
def test_no_file_is_written_or_removed_where_a_link_leads(
    tiny: tuple[dict[str, Any], list[Any]], tmp_path: Path, name: str
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / f"{'a' * 24}.js").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "other")
    with pytest.raises(BenchError, match="leads outside"):
        build.write(tiny[0], tmp_path / "out", tiny[1])
    assert [path.name for path in (tmp_path / "other").iterdir()] == [f"{'a' * 24}.js"]


def test_details_of_the_report_before_do_not_stay(tiny: tuple[dict[str, Any], list[Any]], tmp_path: Path) -> None:
    details = tmp_path / "out" / "details"
    details.mkdir(parents=True)
    for name in (f"{'a' * 24}.js", "notes.js"):
        (details / name).write_text("before")
    build.write(tiny[0], tmp_path / "out", tiny[1])
    assert [path.name for path in details.iterdir()] == ["notes.js"]  # what is not ours stays


def test_a_folder_that_cannot_be_written_is_one_line(tiny: tuple[dict[str, Any], list[Any]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="Cannot write to"):
        build.write(tiny[0], tmp_path / "file", tiny[1])


def problems(found: dict[str, Any]) -> list[str]:
    """What the schema finds wrong."""
    return [error.message[:200] for error in VALIDATOR.iter_errors(found)]


def full(tiny: tuple[dict[str, Any], list[Any]]) -> dict[str, Any]:
    """A report with every optional part."""
    claim = Claim("c", "text", "source", "reported", "headline", "scalar", "winrate", "win_rate", "above")
    more = {
        "question": "Why?", "claims": [Result(claim, "not run").row()],
        "comparisons": [{"title": "Pairs", "columns": ["a", "p"], "rows": [["x", 0.5]], "note": "n"}],
    }  # fmt: skip
    made = dict(texts({**tiny[0], **more}, tiny[1]))
    assert "claims.csv" in {name.rpartition("/")[2] for name in made}
    assert "| c | not run |" in made["report.md"]
    found: dict[str, Any] = json.loads(made["report.json"])
    return found


def test_the_json_is_as_documented(tiny: tuple[dict[str, Any], list[Any]]) -> None:
    Draft202012Validator.check_schema(schema.report_schema())
    assert problems(json.loads(dict(texts(*tiny))["report.json"])) == []
    assert problems(full(tiny)) == []
    assert schema.report_schema()["properties"]["schema_version"]["const"] == build.SCHEMA_VERSION
    assert schema.report_schema()["properties"]["schema"]["const"] == build.SCHEMA


def test_the_real_estimator_writes_what_is_documented(tmp_path: Path) -> None:
    make(tmp_path, Stored(prompts=6))
    report, cells = report_of(tmp_path, Estimator())
    assert problems(json.loads(dict(texts(report, cells))["report.json"])) == []


@pytest.mark.parametrize("part", ["arms", "estimates", "warnings", "samples", "manifest", "schema_version", "data"])
def test_a_report_without_a_part_is_not_valid(tiny: tuple[dict[str, Any], list[Any]], part: str) -> None:
    broken = {key: value for key, value in full(tiny).items() if key != part}
    assert problems(broken) == [f"'{part}' is a required property"]


def test_every_number_of_an_estimate_is_in_the_table(tiny: tuple[dict[str, Any], list[Any]]) -> None:
    report = tiny[0]
    rows = list(csv.DictReader(io.StringIO(dict(csv_tables.csv_files(report))["estimates.csv"])))
    assert len(rows) == len(report["estimates"])
    for row, stored in zip(rows, report["estimates"], strict=True):
        for name in ("value", "low", "high", "level"):
            assert (float(row[name]) if row[name] else None) == stored[name]
        assert row["seeds"].split() == [str(seed) for seed in stored["seeds"]]


FORMULAS = (
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "=cmd|' /C calc'!A0",
    "\t=1+1",
    " =1+1",
    "＝1+1",
    "-",
    "--5",
    "-1e",
    "+5",
)


@pytest.mark.parametrize("text", [*FORMULAS, *PAYLOADS])
def test_no_cell_is_a_formula(text: str) -> None:
    (cell,) = next(csv.reader(io.StringIO(csv_tables.table_csv([text], []))))
    assert not cell.lstrip().startswith(FORMULA)
    assert all(character.isprintable() for character in cell)


@given(st.lists(st.text(), min_size=2, max_size=4))
def test_text_comes_back_from_a_table(texts_: list[str]) -> None:
    (row,) = csv.reader(io.StringIO(csv_tables.table_csv(texts_, []), newline=""))
    assert row == [csv_tables.cell(text) for text in texts_]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_stay_numbers(value: float) -> None:
    assert float(csv_tables.cell(value)) == value
    assert csv_tables.cell(Cell(-0.53, -0.6, -0.46)) == "-0.53"  # its interval has columns of its own


def test_seeds_that_one_version_made_and_another_did_not_are_named(tmp_path: Path) -> None:
    make(tmp_path, Stored(versions=("2.13.0", "2.12.0"), prompts=4))
    made = dict(texts(*report_of(tmp_path)))
    for name in ("report.html", "report.md"):
        assert "different versions of the software" in made[name].replace("\\", "")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make(root, Stored(NAMES[:2], (1,), 4))
    return root


def report(root: Path, out: Path) -> tuple[int, str, str]:
    """(exit code, output, Markdown) of `bench report`, which must not fail with a traceback."""
    ended = bench("report", str(root), "--out", str(out))
    assert "Traceback" not in ended.stderr, ended.stderr
    path = out / "report.md"
    return ended.returncode, ended.stdout + ended.stderr, path.read_text() if path.exists() else ""


def test_a_whole_folder_is_reported_with_code_0(whole: Path, tmp_path: Path) -> None:
    code, _, text = report(whole, tmp_path / "out")
    assert code == 0, text
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("role", ["ppo", "verdicts"])
def test_a_partial_folder_says_what_is_missing_with_code_3(whole: Path, tmp_path: Path, role: str) -> None:
    runs = Path(shutil.copytree(whole, tmp_path / "runs"))
    marker = next((runs / role).glob("*scalar*")) / store.MARKER
    marker.unlink()  # as an interrupted run leaves it
    code, shown, text = report(runs, tmp_path / "out")
    assert code == 3
    for place in (shown, text.replace("\\", ""), (tmp_path / "out" / "report.html").read_text()):
        assert "dialogsum-scalar-s1" in place
        assert "unfinished" in place or "has not finished" in place


@pytest.mark.parametrize("left", ["nothing", "no folder", "no cells", "unfinished cells"])
def test_an_empty_folder_is_one_line(whole: Path, tmp_path: Path, left: str) -> None:
    runs = tmp_path / "runs"
    if left != "no folder":
        runs.mkdir()
    if left == "no cells":
        (runs / "cells").mkdir()
    if left == "unfinished cells":
        shutil.copytree(whole / "cells", runs / "cells")
    code, shown, text = report(runs, tmp_path / "out")
    assert code in (2, 3)
    assert len(shown.strip().splitlines()) == 1 or code == 3, shown
    assert not text or "unfinished" in text


def test_a_critic_on_the_policys_trunk_is_said(tmp_path: Path) -> None:
    """It is another algorithm: figures with and without must not be read as one."""
    for path in make(tmp_path, Stored(prompts=4)):
        record = store.read_json(path)
        store.write_json(path, {**record, "differing": {"ppo.critic": "trunk"}})
    report, _ = report_of(tmp_path)
    said = [text for text in report["warnings"] if "policy's trunk" in text]
    assert len(said) == len(report["arms"])
