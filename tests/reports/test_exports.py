"""Exports: what others' forms require is there, what they cannot hold is left out, and numbers are the report's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.repocard_data import model_index_to_eval_results
from jsonschema import Draft7Validator
from small import bench
from stored import NAMES, Stored, make, report_of

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.reports import build, exports

TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def form(required: list[str], **parts: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": parts}


RESULT = form(
    ["evaluation_name", "source_data", "metric_config", "score_details"],
    source_data=form(["dataset_name", "source_type"], source_type={"const": "other"}),
    metric_config=form(
        ["lower_is_better", "score_type", "min_score", "max_score"], lower_is_better={"type": "boolean"}
    ),
    score_details=form(
        ["score"],
        score=NUMBER,
        details={"type": "object", "additionalProperties": TEXT},
        uncertainty=form([], confidence_interval=form(["lower", "upper"], lower=NUMBER, upper=NUMBER)),
    ),
)
RECORD = {
    **form(
        ["schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info", "eval_library",
         "evaluation_results"],
        schema_version=TEXT, evaluation_id=TEXT, retrieved_timestamp=TEXT,
        source_metadata=form(
            ["source_type", "source_organization_name", "evaluator_relationship"],
            source_type={"enum": ["documentation", "evaluation_run"]},
            evaluator_relationship={"enum": ["first_party", "third_party", "collaborative", "other"]},
        ),
        model_info=form(["name", "id"], additional_details={"type": "object", "additionalProperties": TEXT}),
        eval_library=form(["name", "version"]),
        evaluation_results={"type": "array", "minItems": 1, "items": RESULT},
    ),
    "additionalProperties": False,
}  # fmt: skip
"""What eval.schema.json 0.2.1 asks of the parts that are written."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root: Path = tmp_path_factory.mktemp("store")
    make(root, Stored(NAMES[:3], (1, 2), 6))
    return report_of(root)[0]


def test_every_record_has_what_is_asked_for(report: dict[str, Any]) -> None:
    records = exports.every_eval_ever(report, "1700000000", "a group")
    assert len(records) == len(report["arms"])
    assert len({record["evaluation_id"] for record in records}) == len(records)
    for record in records:
        Draft7Validator(RECORD).validate(record)


def test_only_what_has_a_range_and_a_side_is_exported(report: dict[str, Any]) -> None:
    (result,) = exports.every_eval_ever(report, "0", "a group")[0]["evaluation_results"]
    stored = next(
        e for e in report["estimates"] if e["statistic"] == "win_rate" and e["iteration"] == 20 and e["slice"] == "all"
    )
    score = result["score_details"]
    assert (score["score"], score["details"]["undecided"]) == (stored["value"], str(stored["n_invalid"]))
    interval = score["uncertainty"]["confidence_interval"]
    assert (interval["lower"], interval["upper"]) == (stored["low"], stored["high"])
    assert not result["metric_config"]["lower_is_better"]


def test_a_report_without_such_a_number_is_refused(report: dict[str, Any]) -> None:
    rest = [e for e in report["estimates"] if e["statistic"] != "win_rate"]
    with pytest.raises(BenchError, match="no statistic"):
        exports.every_eval_ever({**report, "estimates": rest}, "0", "a group")


def test_the_hub_library_reads_the_model_index(report: dict[str, Any]) -> None:
    arm = report["arms"][0]
    name, results = model_index_to_eval_results(exports.model_index(report, arm))
    assert name == exports.model_name(arm)
    found = {result.metric_name: result.metric_value for result in results}
    stored = [e for e in report["estimates"] if e["arm"] == arm["arm"] and e["iteration"] == 20 and e["slice"] == "all"]
    known = {f"{e['statistic']} ({e['judge']})": e["value"] for e in stored}
    assert found
    assert found.items() <= known.items()


@pytest.mark.parametrize("form", ["every-eval-ever", "model-index"])
def test_the_command_writes_a_file_an_arm(report: dict[str, Any], tmp_path: Path, form: str) -> None:
    build.write(report, tmp_path / "report")
    wanted = ("export", str(tmp_path / "report"), "--format", form, "--out", str(tmp_path / "out"))
    ended = bench(*wanted, "--organization", "a group")
    assert ended.returncode == 0, ended.stderr
    files = sorted((tmp_path / "out").iterdir())
    assert [str(path) for path in files] == sorted(ended.stdout.split())
    found = [json.loads(path.read_text()) for path in files]
    assert len(found) == len(report["arms"])
    if form == "every-eval-ever":
        for record in found:
            Draft7Validator(RECORD).validate(record)
        return
    for one in found:
        assert model_index_to_eval_results(one["model-index"])[1]


@pytest.mark.parametrize("text", ["[]", "{", '{"schema": "rlhf-bench/report", "schema_version": 99}', None])
def test_what_is_no_report_is_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    ended = bench("export", str(tmp_path), "--format", "model-index", "--out", str(tmp_path / "out"))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
    assert not (tmp_path / "out").exists()
