"""The stage in which a judge measures stored generations.  It needs no GPU, and no torch unless the judge does."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, get_args

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.nouns import Case, Generation, Measure, MeasureKind, Verdict
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.seams import HasAccount, HasThreshold, Judge, JudgesQuality, TakesGold, Task
from rlhf_bench.harness.stages.evaluation import read_generations
from rlhf_bench.harness.stages.gold_rows import StoredScores
from rlhf_bench.harness.stages.prompts import load_task, read_examples

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row


KEEP = "keep"
"""The value of `eval.cut_off` that changes no verdict."""
FLUENCY = "fluency"
"""The name of the stage `fluency` among the judges of a cell."""
LARGEST = sys.float_info.max
"""Integers may be beyond it; NaN is in no range."""


def verdicts(context: Context) -> StageFigures:
    """Have a judge compare every stored response with the baseline's to the same prompt.

    Reads: prompts (examples.test.jsonl), baseline and generations (generations.jsonl); with a gold model gold_baseline
        and gold_generations (gold.jsonl, its scores of both).
    Writes: verdicts.jsonl (one row per case), measures.json (what the numbers mean), account.json (what the judging
        took, where the judge has an `account`).
    Parameters: judge (name), judge_settings, task, cut_off (`eval.cut_off`, left out for keep); gold, the gold model's
        name, where there is one.
    """
    # The judge's own settings are payload: `judge` holds what its verdicts depend on, which is in the key.
    name = context.params["judge"]["name"]
    judge = load_judge(name, context.params["judge_settings"])
    cases = read_cases(context)
    if "gold" in context.params and isinstance(judge, TakesGold):
        judge = judge.with_gold(StoredScores.of(context))
    # checked before anything is written
    found = measure_ended(name, judge, cases, load_task(context.params), context.params.get("cut_off", KEEP))
    rows = [verdict_row(case, verdict) for case, verdict in zip(cases, found, strict=True)]
    store.write_rows(context.work / "verdicts.jsonl", rows)
    store.write_json(context.work / "measures.json", [asdict(m) for m in judge.measures])
    # Read now: an account is of the last call of `measure`.
    if isinstance(judge, HasAccount):
        try:
            account = dict(judge.account)
            store.canonical(account)
        except Exception as error:  # a plugin may raise anything
            seen = f"The account of the judge {name!r} is no JSON object: {one_line(error)}."
            raise BenchError(seen, f"See: bench check judge {name}") from error
        if account:
            store.write_json(context.work / "account.json", account)
    threshold = {"threshold": judge.threshold} if isinstance(judge, HasThreshold) else {}
    return {"cases": len(cases), "undecided": len(undecided(rows)), **threshold}


def undecided(rows: Sequence[Row]) -> list[Row]:
    """The stored rows that lack a measure: at least one of their values is None."""
    return [row for row in rows if None in row["values"].values()]


def load_judge(name: str, settings: Row) -> Judge:
    """A judge with all of its settings.

    Raises BenchError for an unknown name, where it cannot be made or read, where the object is no Judge, and for a
    threshold outside 0 .. 1.
    """
    judge = plugins.build("judge", name, settings)
    fix = f"See: bench check judge {name}"
    try:
        # reads its properties
        whole, threshold = isinstance(judge, Judge), judge.threshold if isinstance(judge, HasThreshold) else 0.0
    except Exception as error:  # a plugin may raise anything
        raise BenchError(f"The judge {name!r} cannot be read: {one_line(error)}.", fix) from error
    if not whole:
        raise BenchError(f"The judge {name!r} lacks members of the Judge seam.", fix)
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise BenchError(f"The judge {name!r} has the threshold {threshold!r:.60}, no share.", fix)
    made: Judge = judge
    return made


def read_cases(context: Context) -> list[Case]:
    """Every stored generation with the baseline's response to the same prompt, decoded the same way.

    In the order of generations.jsonl.  Raises BenchError where a file of the inputs is missing or damaged.
    """
    examples = {e.id: e for e in read_examples(context.inputs["prompts"], "test")}
    baseline: dict[tuple[str, str], Generation] = {
        (g.example_id, g.decoding): g for g in read_generations(context.inputs["baseline"] / "generations.jsonl")
    }
    # A KeyError here would be a fault of ours: the baseline has every prompt in both decodings.
    generations = read_generations(context.inputs["generations"] / "generations.jsonl")
    return [Case(examples[g.example_id], g, baseline[g.example_id, g.decoding]) for g in generations]


def measure(name: str, judge: Judge, cases: Sequence[Case], task: Task) -> list[Verdict]:
    """The judge's verdicts, checked.

    Raises BenchError when there is not one per case, a measure is missing, a number is not finite or out of its kind's
    range, or an undecided one has no reason; and for measures that no report could show.
    """
    try:
        found = list(judge.measure(cases, task))
        # after measuring: a judge may know its measures only then
        measures = list(judge.measures)
    except BenchError:
        raise
    except Exception as error:  # a plugin may raise anything
        raise BenchError(f"The judge {name!r} failed: {one_line(error)}.") from error
    if len(found) != len(cases):
        raise BenchError(f"The judge {name!r} gave {len(found)} verdicts for {len(cases)} cases.", "Give one per case.")
    problem = _measures_problem(measures)
    if problem:
        raise BenchError(f"The judge {name!r} {problem}.", f"See: bench check judge {name}")
    by_name = {m.name: m for m in measures}
    for case, verdict in zip(cases, found, strict=True):
        problem = _problem(verdict, by_name)
        if problem:
            raise BenchError(f"The judge {name!r} on case {case.id}: {problem}.", f"See: bench check judge {name}")
    return found


def measure_ended(name: str, judge: Judge, cases: Sequence[Case], task: Task, cut_off: str) -> list[Verdict]:
    """`measure`, with what `eval.cut_off` makes of responses that are cut off: `keep` or `lose`.

    Under `lose` a judge of wins alone is not asked about a cut-off response: it loses to one that ended, and two tie.
    A judge that says how good a response is (`seams.JudgesQuality`) reads an empty one in its place.  Others, which
    count words or refusals, read what was written.
    """
    if cut_off == KEEP or all(ended(case) for case in cases):
        return measure(name, judge, cases, task)
    if isinstance(judge, JudgesQuality) and judge.judges_quality:
        return measure(name, judge, [_emptied(case) for case in cases], task)
    if {one.kind for one in judge.measures} != {"win"}:
        return measure(name, judge, cases, task)
    found = iter(measure(name, judge, [case for case in cases if ended(case)], task))
    names = [one.name for one in judge.measures]
    return [next(found) if ended(case) else _lost(case, names) for case in cases]


def ended(case: Case) -> bool:
    """Whether both responses of a case ended by themselves."""
    return case.generation.finished and case.baseline.finished


def _emptied(case: Case) -> Case:
    """The case with empty responses in place of those that are cut off."""
    one, other = (read if read.finished else replace(read, response="") for read in (case.generation, case.baseline))
    return replace(case, generation=one, baseline=other)


def _lost(case: Case, names: Sequence[str]) -> Verdict:
    """The verdict of wins on a case with a cut-off response."""
    value = 0.5 + (case.generation.finished - case.baseline.finished) / 2
    cut = [role for role, one in (("policy", case.generation), ("baseline", case.baseline)) if not one.finished]
    return Verdict(dict.fromkeys(names, value), notes={"cut_off": cut})


def _measures_problem(measures: Sequence[object]) -> str:
    """What is wrong with a judge's measures; "" for nothing."""
    names: set[str] = set()
    for one in measures:
        if not isinstance(one, Measure):
            return f"lists {type(one).__name__} {one!r:.60} among its measures"
        if not isinstance(one.name, str) or not one.name:
            return f"has a measure called {one.name!r:.60}"
        if one.kind not in get_args(MeasureKind):
            return f"measures {one.name} as {one.kind!r:.60}, not one of {', '.join(get_args(MeasureKind))}"
        if one.name in names:
            return f"has two measures called {one.name}"
        names.add(one.name)
    return "" if names else "has no measure"


def _problem(verdict: Verdict, measures: Mapping[str, Measure]) -> str:
    """What is wrong with a verdict; "" for nothing."""
    if not isinstance(verdict, Verdict):
        return f"{type(verdict).__name__} {verdict!r:.60} is no Verdict"
    if not isinstance(verdict.values, Mapping) or not all(isinstance(key, str) for key in verdict.values):
        return f"its values are {verdict.values!r:.60}, not numbers by measure"
    if not isinstance(verdict.reason, str):
        return f"its reason is {verdict.reason!r:.60}, no text"
    try:
        store.canonical(dict(verdict.notes))
    except (TypeError, ValueError) as error:
        return f"its notes are not JSON ({one_line(error)})"
    if set(verdict.values) != set(measures):
        return f"measures {sorted(verdict.values)} instead of {sorted(measures)}"
    for name, value in verdict.values.items():
        # JSON has no NaN or infinity, and either would spoil every mean it enters
        if value is None:  # undecided: counted by its reason, never scored 0
            if not verdict.reason:
                return f"{name} is undecided without a reason"
        elif not isinstance(value, int | float) or isinstance(value, bool) or not -LARGEST <= value <= LARGEST:
            return f"{name} is {value!r:.60}"
        elif measures[name].kind in ("win", "rate") and not 0 <= value <= 1:
            return f"{name} is {value}, outside [0, 1]"
        elif (limit := measures[name].limit) is not None and abs(value) > limit:
            return f"{name} is {value}, beyond its limit {limit:g}"
    return ""


def verdict_row(case: Case, verdict: Verdict) -> JsonObject:
    """A row of verdicts.jsonl: enough to compute every estimate without the texts.

    `slices` group prompts, `source` names their cluster in intervals; `reason` and `notes` are left out where empty.
    """
    row: JsonObject = {
        "example_id": case.example.id,
        "iteration": case.generation.iteration,
        "decoding": case.generation.decoding,
        **({"sample": case.example.sample} if case.example.sample else {}),
        "slices": list(case.example.slices),
        "source": case.example.source,
        "values": dict(verdict.values),
    }
    if verdict.reason:
        row["reason"] = verdict.reason
    if verdict.notes:
        row["notes"] = dict(verdict.notes)
    return row
