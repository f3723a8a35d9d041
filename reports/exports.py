"""A report in forms that others read: Every Eval Ever (evaleval/every_eval_ever, eval.schema.json 0.2.1) and the
model-index of a Hugging Face model card.

Only what those forms can say is exported: final, sampled numbers over all prompts.  Every Eval Ever wants to know the
range of a score and whether less is better, so gold utilities (no range) and refusals (neither) are left out there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.reports.answer import columns
from rlhf_bench.reports.tables import Report, Row, indexed, pick

EEE_VERSION = "0.2.1"
LOWER_IS_BETTER = {"win_rate": False, "empty_rate": True, "truncated_rate": True}
"""Statistics from 0 to 1 that say better or worse."""
Json = dict[str, Any]


def every_eval_ever(report: Report, timestamp: str, organization: str) -> list[Json]:
    """One record an arm.  `timestamp`: when it is exported, in seconds since 1970; `organization`: who evaluated.

    Raises BenchError when no arm has a number that the form can hold.
    """
    report = indexed(report)
    found = [record for arm in report["arms"] if (record := _record(report, arm, timestamp, organization))]
    if not found:
        raise BenchError(
            "The report has no statistic that Every Eval Ever can hold.", f"It holds {', '.join(LOWER_IS_BETTER)}."
        )
    return found


def _record(report: Report, arm: Row, timestamp: str, organization: str) -> Json | None:
    results = [
        _result(report, arm, row)
        for row in _final(report, arm)
        if row["statistic"] in LOWER_IS_BETTER and row["value"] is not None
    ]
    if not results:
        return None
    name = model_name(arm)
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
        "eval_library": {"name": "rlhf-bench", "version": _version(report)},
        "model_info": {"name": arm["label"], "id": name, "additional_details": _details(arm)},
        "evaluation_results": results,
    }


def model_name(arm: Row) -> str:
    """What the trained policy is called: policy, task, reward model and the arm's key."""
    return f"rlhf-bench/{arm['policy']}-{arm['task']}-{arm['reward_model']}-{arm['arm'][:12]}".replace(":", "-")


def _details(arm: Row) -> dict[str, str]:
    settings = {f"setting {name}": str(value) for name, value in arm["differing"].items()}
    return {"reward_model": arm["reward_model"], "seeds": " ".join(map(str, arm["seeds"])), **settings}


def _version(report: Report) -> str:
    found = {stage["versions"].get("rlhf-bench", "unknown") for stage in report["manifest"]["stages"].values()}
    return ", ".join(sorted(found)) or "unknown"


def _final(report: Report, arm: Row) -> list[Row]:
    rows = [pick(report, arm["arm"], column.judge, column.statistic) for column in columns(report)]
    return [row for row in rows if row is not None]


def _result(report: Report, arm: Row, row: Row) -> Json:
    statistic = row["statistic"]
    details = {"judge": row["judge"], "undecided": str(row["n_invalid"]), "note": row["note"]}
    score: Json = {"score": row["value"], "details": {k: v for k, v in details.items() if v}}
    if row["low"] is not None and row["high"] is not None:
        ends = {"lower": row["low"], "upper": row["high"], "confidence_level": row["level"], "method": row["method"]}
        score["uncertainty"] = {"confidence_interval": ends, "num_samples": row["n"]}
    return {
        "evaluation_name": f"{arm['task']} {statistic}",
        "source_data": {
            "dataset_name": arm["task"],
            "source_type": "other",
            "additional_details": _origin(report, arm["task"]),
        },
        "metric_config": {
            "evaluation_description": "after PPO, against the SFT baseline's responses to the same held-out prompts",
            "lower_is_better": LOWER_IS_BETTER[statistic],
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0,
        },
        "score_details": score,
        "generation_config": {"generation_args": {"temperature": 1.0}},
    }


def _origin(report: Report, task: str) -> dict[str, str]:
    found: Mapping[str, Any] = next((origin for origin in report["data"] if origin["task"] == task), {})
    return {name: str(found[name]) for name in ("kind", "description", "sha256", "license") if name in found}


def model_index(report: Report, arm: Row) -> list[Json]:
    """The `model-index` of the card of an arm's policy: every final statistic, its interval in `args`."""
    origin = _origin(report, arm["task"])
    metrics = [
        {
            "type": row["statistic"],
            "name": f"{row['statistic']} ({row['judge']})",
            "value": row["value"],
            "args": {"low": row["low"], "high": row["high"], "level": row["level"], "n": row["n"]},
        }
        for row in _final(report, arm)
        if row["value"] is not None
    ]
    dataset = {"name": arm["task"], "type": arm["task"], "revision": origin.get("sha256", "")[:16]}
    result = {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}
    return [{"name": model_name(arm), "results": [result]}]
