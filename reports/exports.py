"""A report in the formats of others: Every Eval Ever (evaleval/every_eval_ever, eval.schema.json 0.3.0), and of the
Hugging Face hub the evaluation results of a model repository (docs/hub/eval-results) and the model-index of a card.

Final, sampled numbers over all prompts are exported.  Every Eval Ever asks for the range of a score and whether lower
is better: it gets win rates and rates that say which side is better, not gold utility, which has no range.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan.origins import LABEL, kind_label
from rlhf_bench.harness.seeds import joined
from rlhf_bench.reports.measures import Column, Report, indexed, pick, shown_at

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

EEE_VERSION = "0.3.0"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
"""OWNER/NAME."""


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
        for column, row in final(report, arm)
        if column.kind in ("win", "rate") and column.better  # both lie between 0 and 1
    ]
    if not results:
        return None
    name = model_name(arm)
    evaluation = f"{arm['task']}/{name}/{timestamp}"
    # one text, though the stages of the report may have been made by several versions
    versions = {stage["versions"].get("rlhf-bench", "unknown") for stage in report["manifest"]["stages"].values()}
    return {
        "schema_version": EEE_VERSION,
        "evaluation_id": evaluation,
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
                # two facts that version 0.3 asks for; a report does not say whether the weights were published
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
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
    # a reward model may be called path:FOLDER or module:attribute, and a policy OWNER/NAME
    name = f"{arm['policy']}-{arm['task']}-{arm['reward_model']}-{arm['arm'][:12]}"
    return f"rlhf-bench/{plain_name(name)}"


def plain_name(text: str) -> str:
    """The text as a part of a path: what is no letter, digit, dot or underscore becomes a hyphen.

    Letters of any script count, so that names stay readable.
    """
    # a slash or a leading dot would name another or a hidden file
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).lstrip(".") or "-"


def datastore_path(record: JsonObject) -> str:
    """The path of a record in the project's collection: data/BENCHMARK/DEVELOPER/MODEL/UUID.json.

    The UUID (version 4 in form) is a hash of the record's id, so that one export names its files the same again.
    """
    task = record["evaluation_id"].partition("/")[0]
    digest = hashlib.sha256(record["evaluation_id"].encode()).digest()
    return f"data/{plain_name(task)}/{record['model_info']['id']}/{uuid.UUID(bytes=digest[:16], version=4)}.json"


def final(report: Report, arm: Row) -> list[tuple[Column, Row]]:
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
        "evaluation_result_id": f"{arm['arm']}/{row['judge']}/{row['statistic']}",
        "evaluation_name": f"{arm['task']} {column.statistic}",
        "source_data": {
            "dataset_name": arm["task"],
            "source_type": "other",
            "additional_details": origin_of(report, arm["task"]),
        },
        "metric_config": {
            "evaluation_description": "after optimisation, against the SFT baseline's responses to the same held-out "
            "prompts",
            "metric_id": f"rlhf-bench.{row['judge']}.{row['statistic']}",
            "metric_name": column.title,
            "metric_kind": "win_rate" if column.kind == "win" else "rate",
            "metric_unit": "proportion",
            "lower_is_better": column.better == "lower",
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0,
        },
        "score_details": score,
        # of sampled decoding
        "generation_config": {"generation_args": {"temperature": 1.0, **_drawn(arm)}},
    }


def _drawn(arm: Row) -> dict[str, float]:
    """Temperature and top-p of an arm's samples, where they are not 1."""
    return {name: value for name, value in (arm.get("sampling") or {}).items() if name != "samples"}


def origin_of(report: Report, task: str) -> dict[str, str]:
    """Where a task's data come from, in texts; {} where the report does not say."""
    found: Row = next((origin for origin in report["data"] if origin["task"] == task), {})
    if found:
        found = {**found, "kind": kind_label(found)}
    return {name: str(found[name]) for name in ("kind", "description", "sha256", "license") if name in found}


def model_index(report: Report, arm: Row) -> list[JsonObject]:
    """The `model-index` of the card of an arm's policy: every final measure, its interval in `args`.

    As model cards of the Hugging Face hub have it: a name, and results of task, dataset and metrics.  Unlike Every Eval
    Ever it asks for no range, so gold utility is in it, too.
    """
    origin = origin_of(report, arm["task"])
    metrics = [
        {
            "type": row["statistic"],
            "name": f"{row['statistic']} ({row['judge']})",
            "value": row["value"],
            "args": {"low": row["low"], "high": row["high"], "level": row["level"], "n": row["n"]},
        }
        for _, row in final(report, arm)
    ]
    dataset = {"name": arm["task"], "type": arm["task"], "revision": origin.get("sha256", "")[:16]}
    if origin.get("kind") == LABEL:
        dataset["args"] = {"origin": LABEL}
    result = {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}
    return [{"name": model_name(arm), "results": [result]}]


def eval_results(report: Report, arm: Row, dataset: str) -> list[JsonObject]:
    """The entries of a file below `.eval_results/` in the repository of an arm's policy: every final measure.

    As the hub's documentation has them ("Evaluation Results", eval_results.yaml): the data set of the hub at which
    the results are listed, one of its tasks, the value, and notes, which hold the interval.  `dataset`: OWNER/NAME.  A
    task is called TASK_JUDGE_STATISTIC.  Raises BenchError for another `dataset`.
    """
    if not HUB_ID.fullmatch(dataset):
        raise BenchError(
            "The hub lists evaluation results at a data set.", "Give --dataset OWNER/NAME, a data set of the hub."
        )
    origin = origin_of(report, arm["task"])
    kind = f"; data: {origin['kind']}" if origin else ""
    return [
        {
            "dataset": {"id": dataset, "task_id": "_".join(map(plain_name, (arm["task"], *column.key)))},
            "value": row["value"],
            "notes": f"{column.title} (judge {row['judge']}), {in_words(row)}{kind}",
        }
        for column, row in final(report, arm)
    ]


def in_words(row: Row) -> str:
    """An estimate's interval, prompts and seeds, as a note for formats that have no field for them."""
    seeds = f"{len(row['seeds'])} training seed{'' if len(row['seeds']) == 1 else 's'}"
    over = f"{row['n']} held-out prompts, {seeds}"
    if row["low"] is None:
        return f"no interval; {over}"
    return f"{row['level']:.0%} interval {row['low']:.4g} to {row['high']:.4g}; {over}"
