"""A report as evaluation logs of Inspect (UK AISI, inspect_ai), made and written by its own library: one log an arm.

As its documentation "Eval Logs" has them: a log names a task, a model and a data set, and holds scores with metrics.
Here a scorer is a judge, a score one of its measures, and the metrics are `mean`, and `low` and `high` of the interval.
The samples are those of the report, the first held-out prompts; they have responses and no scores of their own.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.reports.exports import final, in_words, model_name, origin_of
from rlhf_bench.reports.measures import Report, indexed

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row


def check_library() -> None:
    """Raises BenchError where inspect_ai is not installed."""
    if find_spec("inspect_ai") is None:
        raise BenchError("The format inspect needs the package inspect_ai.", "pip install 'rlhf-bench[inspect]'")


def log_of(report: Report, arm: Row, timestamp: int) -> Any:
    """The `inspect_ai.log.EvalLog` of one arm, created at `timestamp`, in seconds since 1970.

    Raises BenchError where the library is not installed.
    """
    check_library()
    from inspect_ai import log

    report = indexed(report)
    rows = final(report, arm)
    scores = [
        log.EvalScore(
            name=column.statistic,
            scorer=row["judge"],
            scored_samples=row["n"],
            unscored_samples=row["n_invalid"],
            metrics={name: log.EvalMetric(name=name, value=value) for name, value in _numbers(row).items()},
            metadata={"title": column.title, "interval": in_words(row), "method": row["method"], "note": row["note"]},
        )
        for column, row in rows
    ]
    samples = [made for sample in report["samples"] for made in _samples(sample, arm)]
    prompts = max((row["n"] for _, row in rows), default=0)
    created = datetime.fromtimestamp(timestamp, UTC).isoformat()
    return log.EvalLog(
        status="success",
        eval=log.EvalSpec(
            created=created,
            task=f"rlhf-bench/{arm['task']}",
            task_id=arm["arm"],
            dataset=log.EvalDataset(name=arm["task"], samples=prompts),
            model=model_name(arm),
            config=log.EvalConfig(),
            packages={"rlhf-bench": _version(report)},
            metadata={
                "label": arm["label"],
                "reward_model": arm["reward_model"],
                "seeds": [str(seed) for seed in arm["seeds"]],
                "settings": {name: str(value) for name, value in arm["differing"].items()},
                "data": origin_of(report, arm["task"]),
            },
        ),
        results=log.EvalResults(
            total_samples=prompts, completed_samples=prompts, logged_samples=len(samples), scores=scores
        ),
        stats=log.EvalStats(started_at=created, completed_at=created),
        samples=samples or None,
    )


def _numbers(row: Row) -> dict[str, float]:
    """The value, and the ends of its interval where it has one."""
    found = {"mean": row["value"], "low": row["low"], "high": row["high"]}
    return {name: value for name, value in found.items() if value is not None}


def _samples(sample: Row, arm: Row) -> list[Any]:
    """The arm's responses to one of the report's prompts."""
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ModelOutput

    if sample["task"] != arm["task"]:
        return []
    return [
        EvalSample(
            id=sample["example_id"],
            epoch=1,
            input=sample["prompt"],
            target=sample["reference"],
            output=ModelOutput.from_content(
                model_name(arm), response["text"], stop_reason="max_tokens" if response.get("cut_off") else "stop"
            ),
            metadata={"seed": str(response["seed"])},
        )
        for response in sample["responses"]
        if response["arm"] == arm["label"]
    ]


def _version(report: Report) -> str:
    versions = {stage["versions"].get("rlhf-bench", "unknown") for stage in report["manifest"]["stages"].values()}
    return ", ".join(sorted(versions)) or "unknown"


def write(log: Any, path: Path) -> None:
    """Write a log as JSON with Inspect's library.  Raises OSError where that fails."""
    from inspect_ai.log import write_eval_log

    path.parent.mkdir(parents=True, exist_ok=True)
    write_eval_log(log, path, format="json")
