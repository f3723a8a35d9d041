"""What has changed in a results folder or a report is named by every command, in no report, and written again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from damages import change, cut
from stored import Stored, make

from rlhf_bench.harness import store
from rlhf_bench.harness.checks.results import check_results
from rlhf_bench.harness.cli.main import bench
from rlhf_bench.harness.errors import BenchError, DamagedError
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.reports import build

CELL = "dialogsum-scalar-s1"


def list_files(runs: Path) -> None:
    """Give the records of a store written by hand what `run_stage` and `record_cells` write."""
    for marker in runs.glob(f"*/*/{store.MARKER}"):
        record = {**store.read_json(marker), integrity.FILES: integrity.listed(marker.parent)}
        store.write_json(marker, integrity.sealed(record, integrity.stage_place(record)))
    for path in (runs / "cells").glob("*.json"):
        store.write_json(path, integrity.sealed(store.read_json(path), path.name))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("whole") / "runs"
    make(runs, Stored(("scalar", "copier"), (1,), 4))
    list_files(runs)
    return runs


@pytest.fixture
def runs(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "runs"))


def key_of(runs: Path) -> str:
    return build.numbers_key(*find_cells([runs]), Estimator())


def a_digit(path: Path) -> None:
    """Another digit in a number: sound JSON of the same size."""
    text = path.read_text()
    at = max(k for k, one in enumerate(text) if one.isdigit() and text[k - 1] == ".")
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


def test_a_sound_store_has_no_problem(runs: Path) -> None:
    cells, missing = find_cells([runs])
    assert (len(cells), missing) == (2, [])
    found = check_results(runs, full=True)
    assert (found.problems, found.cells, found.unlisted) == ([], 2, 0)
    assert found.stages == len(list(runs.glob(f"*/*/{store.MARKER}")))


@pytest.mark.parametrize(
    "name",
    ["ppo/*scalar*/generations.jsonl", "ppo/*scalar*/steps.jsonl", "scale/*scalar*/scale.json",
     "ppo/*scalar*/stage.json", "verdicts/utility*scalar*/verdicts.jsonl", "cells/*scalar*.json"],
)  # fmt: skip
def test_a_changed_number_is_in_no_report(runs: Path, name: str) -> None:
    (path,) = runs.glob(name)
    if name.startswith("cells"):
        path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    else:
        a_digit(path)
    cells, (sentence,) = find_cells([runs])
    assert CELL in sentence
    assert str(path) in sentence or name.startswith("cells")
    assert len(cells) == 1 + name.startswith("verdicts")
    assert any(path.stem in problem for problem in check_results(runs, full=True).problems)


def test_a_file_that_no_report_reads_is_checked_by_its_size(runs: Path) -> None:
    weights = next(runs.glob("sft/*")) / "model.safetensors"
    weights.write_bytes(bytes(32))
    list_files(runs)
    change(weights)
    assert find_cells([runs])[1] == check_results(runs, full=False).problems == []
    assert check_results(runs, full=True).problems == [f"{weights} was changed after it was written"]
    cut(weights)
    assert len(find_cells([runs])[1]) == 2, "both cells have this policy"
    (problem,) = check_results(runs, full=False).problems
    assert f"{weights} has 30 bytes and was written with 32" in problem


def test_the_key_of_a_report_holds_what_was_read(runs: Path) -> None:
    before = key_of(runs)
    path = next(runs.glob("verdicts/utility*scalar*/verdicts.jsonl"))
    a_digit(path)
    list_files(runs)  # other content under the same keys, as judging again leaves it
    assert find_cells([runs])[1] == []
    assert key_of(runs) != before


def test_the_key_holds_what_was_read_of_an_old_store(tmp_path: Path) -> None:
    make(tmp_path / "runs", Stored(("scalar",), (1,), 4))
    before = key_of(tmp_path / "runs")
    a_digit(next((tmp_path / "runs").glob("verdicts/utility*/verdicts.jsonl")))
    assert find_cells([tmp_path / "runs"])[1] == []
    assert key_of(tmp_path / "runs") != before
    assert check_results(tmp_path / "runs", full=True).unlisted == 8


def test_a_deleted_record_of_a_cell_is_found(runs: Path) -> None:
    (runs / "cells" / f"{CELL}.json").unlink()
    cells, (sentence,) = find_cells([runs])
    assert len(cells) == 1
    assert "ppo/dialogsum-scalar-s1-000000000000: no record" in sentence
    assert len(check_results(runs, full=False).problems) == 1


def test_the_record_of_another_cell_is_no_record(runs: Path) -> None:
    shutil.copyfile(runs / "cells" / "dialogsum-copier-s1.json", runs / "cells" / f"{CELL}.json")
    cells, missing = find_cells([runs])
    assert len(cells) == 1
    assert any(CELL in sentence and "belongs elsewhere" in sentence for sentence in missing)


def invoke(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(bench, arguments)
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, ended.output


@pytest.mark.parametrize("full", [True, False])
def test_check_store_says_what_is_wrong_with_code_3(runs: Path, full: bool) -> None:
    option = ["--full"] if full else []
    assert invoke("check", "store", str(runs), *option)[0] == 0
    path = next(runs.glob("baseline/*/generations.jsonl"))
    cut(path)
    code, text = invoke("check", "store", str(runs), *option)
    assert code == 3
    assert text.count(f"{path} has ") == 1, "once, not for every cell"


def test_check_store_says_that_a_store_is_old(tmp_path: Path) -> None:
    make(tmp_path / "runs", Stored(("scalar",), (1,), 2))
    code, text = invoke("check", "store", str(tmp_path / "runs"))
    assert code == 0
    assert "8 stages were made by a version that stored no hashes" in text


def test_check_store_refuses_what_is_no_store(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path(__file__)):
        with pytest.raises(BenchError, match="no results folder"):
            check_results(path, full=False)
    with pytest.raises(BenchError, match="--full"):
        CliRunner().invoke(bench, ["check", "judge", "length", "--full"], catch_exceptions=False)
    with pytest.raises(BenchError, match="alone"):
        CliRunner().invoke(bench, ["check", "store", str(tmp_path), "--device", "cpu"], catch_exceptions=False)


def test_a_quiet_report_names_what_is_missing(runs: Path, tmp_path: Path) -> None:
    a_digit(next(runs.glob("ppo/*scalar*/generations.jsonl")))
    code, text = invoke("report", str(runs), "--out", str(tmp_path / "out"), "-q")
    assert code == 3
    (line,) = text.splitlines()
    assert CELL in line


# --- a written report


def test_a_damaged_report_is_written_again(runs: Path) -> None:
    from rlhf_bench.harness.api.reports import load_report, make_report

    out = runs / "report"

    def reported() -> dict[Path, bytes]:
        make_report([runs], out, Estimator(), "bench", reuse=True)
        return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    first = reported()
    inodes = {path: path.stat().st_ino for path in first}
    assert {path: path.stat().st_ino for path in reported()} == inodes, "a whole report is reused"
    for path in first:
        for damage in (change, Path.unlink):
            damage(path)
            if path.name == "report.json" and damage is change:
                with pytest.raises(DamagedError, match="changed after it was written"):
                    load_report(out)
            assert len(check_results(runs, full=False).problems) == (path.name != ".files.json" or damage is change)
            assert reported() == first, path
