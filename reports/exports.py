"""A report in the formats of others: Every Eval Ever (evaleval/every_eval_ever, eval.schema.json 0.2.1) and the
model-index of a Hugging Face model card.

Final, sampled numbers over all prompts are exported.  Every Eval Ever asks for the range of a score and whether lower
is better: it gets win rates and rates that say which side is better, not gold utility, which has no range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan.origins import LABEL, kind_label
from rlhf_bench.harness.seeds import joined
from rlhf_bench.reports.measures import Column, Report, indexed, pick, shown_at

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

EEE_VERSION = "0.2.1"


def every_eval_ever(report: Report, timestamp: str, organization: str) -> list[JsonObject]:
    """One record an arm.  `timestamp`: when it is exported, in seconds since 1970; `organization`: who evaluated.

    Raises BenchError when no arm has a number that the format can hold.
    """
    report = indexed(report)
    found = [record for arm in report["arms"] if (record := _record(report, arm, timestamp, organization))]
    if not found:
        raise BenchError(
            "The report has no statistic that Every Eval Ever can hold.",
            "It holds win rates, and rates that say which side is better, such as empty_rate.",
        )
    return found


def _record(report: Report, arm: Row, timestamp: str, organization: str) -> JsonObject | None:
    results = [
        _result(report, arm, row, column)
        for column, row in _final(report, arm)
        if column.kind in ("win", "rate") and column.better  # both lie between 0 and 1
    ]
    if not results:
        return None
    name = model_name(arm)
    # one text, though the stages of the report may have been made by several versions
    versions = {stage["versions"].get("rlhf-bench", "unknown") for stage in report["manifest"]["stages"].values()}
    return {
        "schema_version": EEE_VERSION,
        "evaluation_id": f"{arm['task']}/{name}/{timestamp}",
        "retrieved_timestamp": timestamp,
        "source_metadata": {
            "source_name": "rlhf-bench",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "first_party",
        },
        "eval_library": {"name": "rlhf-bench", "version": ", ".join(sorted(versions)) or "unknown"},
        "model_info": {
            "name": arm["label"],
            "id": name,
            "additional_details": {
                "reward_model": arm["reward_model"],
                "seeds": joined(arm["seeds"]),
                **{f"setting {setting}": str(value) for setting, value in arm["differing"].items()},
            },
        },
        "evaluation_results": results,
    }


def model_name(arm: Row) -> str:
    """The name of the trained policy: policy, task, reward model and the arm's key.

    Unique among arms, since the key hashes all settings; "OWNER/NAME" as on the hub.
    """
    # a reward model may be called path:FOLDER or module:attribute
    return f"rlhf-bench/{arm['policy']}-{arm['task']}-{arm['reward_model']}-{arm['arm'][:12]}".replace(":", "-")


def _final(report: Report, arm: Row) -> list[tuple[Column, Row]]:
    """The measures of the table of final results that have a value for this arm, each with its estimate."""
    found = [(column, pick(report, arm["arm"], column.key)) for column in shown_at(report, "headline")]
    return [(column, row) for column, row in found if row is not None and row["value"] is not None]


def _result(report: Report, arm: Row, row: Row, column: Column) -> JsonObject:
    details = {"judge": row["judge"], "undecided": str(row["n_invalid"]), "note": row["note"]}
    score: JsonObject = {"score": row["value"], "details": {k: v for k, v in details.items() if v}}
    if row["low"] is not None and row["high"] is not None:  # null is not a number in that format
        ends = {"lower": row["low"], "upper": row["high"], "confidence_level": row["level"], "method": row["method"]}
        score["uncertainty"] = {"confidence_interval": ends, "num_samples": row["n"]}
    return {
        "evaluation_name": f"{arm['task']} {column.statistic}",
        "source_data": {
            "dataset_name": arm["task"],
            "source_type": "other",
            "additional_details": _origin(report, arm["task"]),
        },
        "metric_config": {
            "evaluation_description": "after PPO, against the SFT baseline's responses to the same held-out prompts",
            "lower_is_better": column.better == "lower",
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0,
        },
        "score_details": score,
        "generation_config": {"generation_args": {"temperature": 1.0}},  # of sampled decoding
    }


def _origin(report: Report, task: str) -> dict[str, str]:
    found: Row = next((origin for origin in report["data"] if origin["task"] == task), {})
    if found:
        found = {**found, "kind": kind_label(found)}
    return {name: str(found[name]) for name in ("kind", "description", "sha256", "license") if name in found}


def model_index(report: Report, arm: Row) -> list[JsonObject]:
    """The `model-index` of the card of an arm's policy: every final measure, its interval in `args`.

    As model cards of the Hugging Face hub have it: a name, and results of task, dataset and metrics.  Unlike Every Eval
    Ever it asks for no range, so gold utility is in it, too.
    """
    origin = _origin(report, arm["task"])
    metrics = [
        {
            "type": row["statistic"],
            "name": f"{row['statistic']} ({row['judge']})",
            "value": row["value"],
            "args": {"low": row["low"], "high": row["high"], "level": row["level"], "n": row["n"]},
        }
        for _, row in _final(report, arm)
    ]
    dataset = {"name": arm["task"], "type": arm["task"], "revision": origin.get("sha256", "")[:16]}
    if origin.get("kind") == LABEL:
        dataset["args"] = {"origin": LABEL}
    result = {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}
    return [{"name": model_name(arm), "results": [result]}]
