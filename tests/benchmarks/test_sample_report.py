"""The sample report of the documentation is a written report, with its report.json, of bounded size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from stored import Stored, make, report_of

from rlhf_bench.harness.api.reports import load_report
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.reports import build

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
sample_report = pytest.importorskip("sample_report", reason="benchmarks/ is not in this checkout")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    make(tmp_path / "runs", Stored(prompts=4))
    report, cells = report_of(tmp_path / "runs")
    build.write(report, tmp_path / "report", cells)
    return tmp_path / "report"


def test_it_is_the_report_with_its_json(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "sample"
    (out / "tables").mkdir(parents=True)
    (out / "tables" / "old.csv").touch()
    written = sample_report.write_sample(source, out)
    there = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    assert {path.relative_to(out) for path in written} == there
    assert there == {p.relative_to(source) for p in source.rglob("*") if p.is_file() and p.name != ".files.json"}
    for path in there:
        assert (out / path).read_bytes() == (source / path).read_bytes()
    assert load_report(out).data == load_report(source).data


def test_a_large_report_is_written_without_indentation_or_refused(source: Path, tmp_path: Path) -> None:
    size = (source / "report.json").stat().st_size
    sample_report.write_sample(source, tmp_path / "sample", limit=size - 1)
    small = tmp_path / "sample" / "report.json"
    assert small.stat().st_size < size
    assert json.loads(small.read_text()) == json.loads((source / "report.json").read_text())
    with pytest.raises(BenchError, match="estimates"):
        sample_report.write_sample(source, tmp_path / "other", limit=100)
    assert not (tmp_path / "other").exists()


def test_half_a_report_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "report.md").unlink()
    with pytest.raises(BenchError, match=r"report\.md"):
        sample_report.write_sample(source, tmp_path / "sample")
    with pytest.raises(BenchError):
        sample_report.write_sample(tmp_path, tmp_path / "sample")
