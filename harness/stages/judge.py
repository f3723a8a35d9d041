"""The stage that lets a judge measure stored generations.  Needs no GPU and no torch of its own.

What a judge may offer beside its seam is asked here: what its verdicts depend on, what they took, how many may fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.nouns import Case, Generation, Measure, Verdict
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.seams import HasAccount, HasThreshold, Judge, Task
from rlhf_bench.harness.stages.evaluation import read_generations
from rlhf_bench.harness.stages.prompts import load_task, read_examples


def verdicts(context: Context) -> Mapping[str, Any]:
    """verdicts.jsonl: one row per case; measures.json: what the numbers mean; account.json: what it took, if told."""
    name = context.params["judge"]["name"]
    judge = load_judge(name, context.params["judge_settings"])
    cases = read_cases(context)
    found = measure(name, judge, cases, load_task(context.params))
    rows = [verdict_row(case, verdict) for case, verdict in zip(cases, found, strict=True)]
    store.write_rows(context.work / "verdicts.jsonl", rows)
    store.write_json(context.work / "measures.json", [asdict(m) for m in judge.measures])
    if isinstance(judge, HasAccount) and (account := dict(judge.account)):
        store.write_json(context.work / "account.json", account)
    threshold = {"threshold": judge.threshold} if isinstance(judge, HasThreshold) else {}
    return {"cases": len(cases), "undecided": len(undecided(rows)), **threshold}


def undecided(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The stored rows that lack a measure."""
    return [row for row in rows if None in row["values"].values()]


def load_judge(name: str, settings: Mapping[str, Any]) -> Judge:
    """The judge, or a BenchError when the object is none."""
    judge = plugins.build("judge", name, settings)
    if not isinstance(judge, Judge):
        raise BenchError(f"The judge {name!r} lacks members of the Judge seam.", f"See: bench check judge {name}")
    return judge


def read_cases(context: Context) -> list[Case]:
    """Every stored generation beside the baseline's answer to the same prompt, decoded the same way."""
    examples = {e.id: e for e in read_examples(context.inputs["prompts"], "test")}
    baseline: dict[tuple[str, str], Generation] = {
        (g.example_id, g.decoding): g for g in read_generations(context.inputs["baseline"] / "generations.jsonl")
    }
    generations = read_generations(context.inputs["generations"] / "generations.jsonl")
    return [Case(examples[g.example_id], g, baseline[g.example_id, g.decoding]) for g in generations]


def measure(name: str, judge: Judge, cases: Sequence[Case], task: Task) -> list[Verdict]:
    """The judge's verdicts, checked.

    Raises BenchError when there is not one per case, a measure is missing, a number is not finite or out of its kind's
    range, or an undecided one has no reason.
    """
    try:
        found = list(judge.measure(cases, task))
    except BenchError:
        raise
    except Exception as error:
        raise BenchError(f"The judge {name!r} failed: {one_line(error)}.") from error
    if len(found) != len(cases):
        raise BenchError(f"The judge {name!r} gave {len(found)} verdicts for {len(cases)} cases.", "Give one per case.")
    measures = {m.name: m for m in judge.measures}
    for case, verdict in zip(cases, found, strict=True):
        problem = _problem(verdict, measures)
        if problem:
            raise BenchError(f"The judge {name!r} on case {case.id}: {problem}.")
    return found


def _problem(verdict: Verdict, measures: Mapping[str, Measure]) -> str:
    if set(verdict.values) != set(measures):
        return f"measures {sorted(verdict.values)} instead of {sorted(measures)}"
    for name, value in verdict.values.items():
        if value is None:
            if not verdict.reason:
                return f"{name} is undecided without a reason"
        elif not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
            return f"{name} is {value!r}"
        elif measures[name].kind in ("win", "rate") and not 0 <= value <= 1:
            return f"{name} is {value}, outside [0, 1]"
        elif (limit := measures[name].limit) is not None and abs(value) > limit:
            return f"{name} is {value}, beyond its limit {limit:g}"
    return ""


def verdict_row(case: Case, verdict: Verdict) -> dict[str, Any]:
    """What is stored of one verdict: enough to recompute every number without the texts."""
    row: dict[str, Any] = {
        "example_id": case.example.id,
        "iteration": case.generation.iteration,
        "decoding": case.generation.decoding,
        "slices": list(case.example.slices),
        "source": case.example.source,
        "values": dict(verdict.values),
    }
    if verdict.reason:
        row["reason"] = verdict.reason
    if verdict.notes:
        row["notes"] = dict(verdict.notes)
    return row
