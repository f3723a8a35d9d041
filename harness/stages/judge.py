"""The stage that lets a judge measure stored generations.  Needs no GPU and no torch of its own.

What a judge may offer beside its seam is asked here: what its verdicts depend on, what they took, how many may fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.nouns import Case, Generation, Measure, Verdict
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.presets import factory_settings
from rlhf_bench.harness.seams import Judge, Task
from rlhf_bench.harness.stages.evaluation import read_generations
from rlhf_bench.harness.stages.prompts import load_task, read_examples


@runtime_checkable
class HasVerdictSettings(Protocol):
    """A judge whose verdicts depend on something else than just its settings: on what is in a file that one of them
    names, and not on those that cost only time or money.  JSON; it takes the settings' place in the stage's key."""

    @property
    def verdict_settings(self) -> Mapping[str, Any]: ...


@runtime_checkable
class HasAccount(Protocol):
    """A judge that says what its last measuring took (JSON, stored beside the verdicts; {} for nothing)."""

    @property
    def account(self) -> Mapping[str, Any]: ...


@runtime_checkable
class HasThreshold(Protocol):
    """A judge that says which share of a cell's cases may stay undecided before a command ends with exit code 3."""

    @property
    def threshold(self) -> float: ...


@runtime_checkable
class SaysDeterministic(Protocol):
    """A judge that says whether asking again can change anything; of others it is taken to."""

    @property
    def deterministic(self) -> bool: ...


@dataclass(frozen=True)
class JudgeSpec:
    """A judge by name, all its settings, and what of them its verdicts depend on (which enters keys)."""

    name: str
    settings: Mapping[str, Any]
    content: Mapping[str, Any]


def judge_spec(name: str, given: Mapping[str, Any]) -> JudgeSpec:
    """Make the judge once, to learn what a plan needs of it.  Raises BenchError for anything wrong with it."""
    settings = factory_settings(name, plugins.find("judge", name).factory(), given)
    judge = load_judge(name, settings)
    content = dict(judge.verdict_settings) if isinstance(judge, HasVerdictSettings) else settings
    try:
        store.canonical(content)
    except (TypeError, ValueError) as error:
        seen = f"The settings of the judge {name!r} are not JSON: {one_line(error)}."
        raise BenchError(seen, "Settings are texts, numbers and truth values.") from None
    return JudgeSpec(name, settings, content)


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


def stored_rows(stage: Stage, root: store.Store) -> list[dict[str, Any]]:
    """The verdicts of a finished stage."""
    return store.read_rows(stage.folder(root) / "verdicts.jsonl")


def complaints(stages: Sequence[Stage], root: store.Store) -> list[str]:
    """A line for each judge that left more of some cell's cases undecided than its threshold allows, with reasons."""
    lines: list[str] = []
    for name in dict.fromkeys(stage.params["judge"]["name"] for stage in stages):
        own = [stage for stage in stages if stage.params["judge"]["name"] == name and stage.done(root)]
        judge = load_judge(name, own[0].payload["judge_settings"]) if own else None
        if isinstance(judge, HasThreshold):
            lines.append(too_many(name, [stored_rows(stage, root) for stage in own], judge.threshold))
    return [line for line in lines if line]


def too_many(name: str, tables: Sequence[Sequence[Mapping[str, Any]]], threshold: float) -> str:
    """What is to be said of a judge's rows, cell by cell; "" when no cell has too many undecided ones."""
    above = [rows for rows in tables if len(undecided(rows)) > threshold * len(rows)]
    if not above:
        return ""
    bad = [row for rows in above for row in undecided(rows)]
    reasons = ", ".join(f"{reason} ({count})" for reason, count in Counter(r["reason"] for r in bad).most_common())
    return (
        f"{name}: {len(bad)} of {sum(map(len, above))} cases are undecided in {len(above)} of {len(tables)} cells, "
        f"more than its threshold of {threshold:.1%}: {reasons}"
    )


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
