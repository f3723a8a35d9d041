"""Exports: what others' forms require is there, what they cannot hold is left out, and numbers are the report's.

Each format is read back by its own library; where a library is an extra that is not installed, the test says so.
every_eval_ever needs Python 3.12 and an older huggingface_hub than ours, so it is no extra: its wheel, unpacked on
PYTHONPATH, is enough for these tests.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from jsonschema import Draft7Validator
from small import bench
from stored import NAMES, Stored, make, report_of

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.reports import build, exports, inspect_log

TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def form(required: list[str], **parts: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": parts}


RESULT = form(
    ["evaluation_name", "source_data", "metric_config", "score_details"],
    source_data=form(["dataset_name", "source_type"], source_type={"const": "other"}),
    metric_config=form(
        ["lower_is_better", "score_type", "min_score", "max_score"], lower_is_better={"type": "boolean"}
    ),
    evaluation_result_id=TEXT,
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
        model_info=form(
            ["name", "id", "additional_details"],
            additional_details={
                "type": "object",
                "required": ["deployment_type", "model_availability"],
                "properties": {"deployment_type": {"const": "self_deployed"}},
                "additionalProperties": TEXT,
            },
        ),
        eval_library=form(["name", "version"]),
        evaluation_results={"type": "array", "minItems": 1, "items": RESULT},
    ),
    "additionalProperties": False,
}  # fmt: skip
"""What eval.schema.json 0.3.0 asks of the parts that are written."""


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


def test_the_validator_of_every_eval_ever_accepts_the_files(report: dict[str, Any], tmp_path: Path) -> None:
    """Its semantic checks look at the path in the collection, at scores and their range, and at the model's name."""
    why = "the package every_eval_ever is not importable (it is no extra: see above)"
    validator = pytest.importorskip("every_eval_ever.validator", reason=why)
    published = resources.files("every_eval_ever.schemas").joinpath("eval.schema.json").read_text()
    assert json.loads(published)["version"] == exports.EEE_VERSION
    schema = Draft7Validator(json.loads(published))
    odd = [{**arm, "reward_model": f"path:../{arm['reward_model']}:b c"} for arm in report["arms"]]
    for arms in (report["arms"], odd):
        for record in exports.every_eval_ever({**report, "arms": arms}, "1700000000", "a group"):
            path = tmp_path / "record.json"
            path.write_text(json.dumps(record))
            said = validator.validate_aggregate(
                path, repo_path=exports.datastore_path(record), run_semantic_checks=True
            )
            assert (said.valid, said.errors, said.warnings) == (True, [], [])
            schema.validate(record)
            path.write_text(json.dumps({**record, "evaluation_results": [{"score_details": {"score": "high"}}]}))
            assert not validator.validate_aggregate(path).valid


def test_the_hub_library_reads_the_eval_results(report: dict[str, Any]) -> None:
    arm = report["arms"][0]
    entries = parse_eval_result_entries(exports.eval_results(report, arm, "owner/bench"))
    stored = {
        f"{e['task']}_{e['judge']}_{e['statistic'].replace(' ', '-')}": e
        for e in report["estimates"]
        if e["arm"] == arm["arm"] and e["iteration"] == 20 and e["slice"] == "all"
    }
    assert len({entry.task_id for entry in entries}) == len(entries) > 2
    for entry in entries:
        row = stored[entry.task_id]
        assert (entry.dataset_id, entry.value) == ("owner/bench", row["value"])
        assert f"{row['low']:.4g} to {row['high']:.4g}" in entry.notes
        assert "2 training seeds" in entry.notes


@pytest.mark.parametrize("name", ["", "bench", "a/b/c", "https://x/y", "a b/c"])
def test_the_hubs_data_set_is_asked_for(report: dict[str, Any], name: str) -> None:
    with pytest.raises(BenchError, match="--dataset OWNER/NAME"):
        exports.eval_results(report, report["arms"][0], name)


def test_inspect_reads_its_logs(report: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai", reason="the extra rlhf-bench[inspect] is not installed")
    from inspect_ai.log import read_eval_log

    for number, arm in enumerate(report["arms"]):
        path = tmp_path / f"{number}.json"
        inspect_log.write(inspect_log.log_of(report, arm, 1_700_000_000), path)
        log = read_eval_log(str(path))
        assert (log.status, log.eval.task, log.eval.model) == (
            "success", "rlhf-bench/dialogsum", exports.model_name(arm)
        )  # fmt: skip
        assert log.eval.created.startswith("2023-11-14T22:13:20")
        found = {
            (score.scorer, score.name): {m.name: m.value for m in score.metrics.values()}
            for score in log.results.scores
        }
        stored = {
            (e["judge"], e["statistic"]): e
            for e in report["estimates"]
            if e["arm"] == arm["arm"] and e["iteration"] == 20 and e["slice"] == "all"
        }
        assert ("winrate", "win_rate") in found
        for key, metrics in found.items():
            assert metrics == {"mean": stored[key]["value"], "low": stored[key]["low"], "high": stored[key]["high"]}
        wanted = [
            (s["example_id"], r["text"]) for s in report["samples"] for r in s["responses"] if r["arm"] == arm["label"]
        ]
        assert [(sample.id, sample.output.completion) for sample in log.samples] == wanted != []


def test_without_inspects_library_one_line_says_what_is_missing(
    report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_log, "find_spec", lambda _: None)
    with pytest.raises(BenchError, match=re.escape("pip install 'rlhf-bench[inspect]'")):
        inspect_log.log_of(report, report["arms"][0], 0)


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


FORMATS = {
    "every-eval-ever": lambda text: Draft7Validator(RECORD).validate(json.loads(text)),
    "model-index": lambda text: model_index_to_eval_results(json.loads(text)["model-index"])[1],
    "eval-results": lambda text: parse_eval_result_entries(yaml.safe_load(text)),
}
"""How the file of a format is read."""


@pytest.mark.parametrize("form", FORMATS)
def test_the_command_writes_a_file_an_arm(report: dict[str, Any], tmp_path: Path, form: str) -> None:
    build.write(report, tmp_path / "report")
    wanted = ("export", str(tmp_path / "report"), "--format", form, "--out", str(tmp_path / "out"))
    ended = bench(*wanted, "--organization", "a group", "--dataset", "owner/bench")
    assert ended.returncode == 0, ended.stderr
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert [str(path) for path in files] == sorted(ended.stdout.split())
    assert len(files) == len(report["arms"])
    for path in files:
        assert FORMATS[form](path.read_text()) != []


@pytest.mark.parametrize(("form", "said"), [("every-eval-ever", "--organization"), ("eval-results", "--dataset")])
def test_what_a_format_needs_is_said_before_anything_is_written(
    report: dict[str, Any], tmp_path: Path, form: str, said: str
) -> None:
    build.write(report, tmp_path / "report")
    ended = bench("export", str(tmp_path / "report"), "--format", form, "--out", str(tmp_path / "out"))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert said in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../../x", "..", "/etc/x", "a/../b", ".hidden", "a:b", "", "名/x"])
def test_a_name_is_no_way_out_of_the_folder(report: dict[str, Any], name: str) -> None:
    arm = {**report["arms"][0], "reward_model": name, "policy": name, "task": name}
    for part in (exports.plain_name(name), exports.model_name(arm).partition("/")[2]):
        assert part
        assert not part.startswith(".")
        assert not set(part) & set("/\\:")


@pytest.mark.parametrize("text", ["[]", "{", '{"schema": "rlhf-bench/report", "schema_version": 99}', None])
def test_what_is_no_report_is_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    ended = bench("export", str(tmp_path), "--format", "model-index", "--out", str(tmp_path / "out"))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
    assert not (tmp_path / "out").exists()
