"""Conformance of a judge: it measures a few cases, on a task with and on one without a true utility."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from rlhf_bench.harness import store
from rlhf_bench.harness.checks.findings import BrokenError, Probe, demand, sequence_of
from rlhf_bench.harness.errors import one_line
from rlhf_bench.harness.nouns import (
    Case,
    Example,
    Generation,
    Measure,
    MeasureFormat,
    MeasureKind,
    Pair,
    ReportPlace,
    Split,
    Utility,
)
from rlhf_bench.harness.seams import Judge, Task

REFERENCE = "They meet at nine."
ODD = (" \n\t", "\x00\x1b[31m\u2028", "naïve 🤖 שלום", "word " * 500)
TEXTS = (
    (REFERENCE, "Perhaps."),
    ("Perhaps.", REFERENCE),
    (REFERENCE, REFERENCE),
    ("", REFERENCE),
    (REFERENCE, ""),
    *((text, "Perhaps.") for text in ODD),
)
"""Responses after training and of the baseline: better, worse, equal, empty, and texts that models do write."""


def judge_probes(name: str, judge: Judge) -> Iterator[tuple[str, Probe]]:
    """The rules for a judge and the probes that try them; `name` is what errors call it."""
    # measures first: how `stages.judge.measure` checks verdicts depends on them
    yield "measures have names and kinds", lambda: check_measures(judge)
    yield "verdicts on a task with gold", lambda: check_verdicts(name, judge, GoldTaskFake())
    yield "verdicts on a task without gold", lambda: check_verdicts(name, judge, TaskFake())
    yield "the order of cases changes no verdict", lambda: check_order(name, judge)
    yield "no verdicts for no cases", lambda: check_no_cases(judge)


def check_measures(judge: Judge) -> str:
    """Names are unique and not empty, kinds are known, `before` names another measure, and reports can show it."""
    measures = sequence_of(judge.measures, Measure, "measures")
    names = [m.name for m in measures]  # tables and estimates find a measure by its name
    demand(names and all(names), f"the measures are {names}")
    demand(len(set(names)) == len(names), f"a name occurs twice in {names}")
    for m in measures:
        # a dataclass does not check its Literal fields: a misspelt kind would get the interval of a level
        demand(m.kind in get_args(MeasureKind), f"{m.name} is of kind {m.kind!r}, not one of {get_args(MeasureKind)}")
        demand(not m.before or m.before in names, f"{m.name} has before={m.before!r}, which is no measure")
        formats, places = get_args(MeasureFormat), get_args(ReportPlace)
        demand(m.format in formats, f"{m.name} has format={m.format!r}, not one of {formats}")
        demand(m.better in ("", "higher", "lower"), f"{m.name} has better={m.better!r}, not 'higher' or 'lower'")
        demand(isinstance(m.reliability, str), f"{m.name} has reliability={m.reliability!r:.60}, no text")
        unknown = [place for place in m.shown or () if place not in places]
        demand(not unknown, f"{m.name} is shown at {unknown[:1]}, not one of {places}")
    return ", ".join(f"{m.name} ({m.kind})" for m in measures)


def check_verdicts(name: str, judge: Judge, task: Task) -> str:
    """One valid verdict per case, which can be stored as JSON; returns how many are undecided, with reasons.

    Raises BenchError as `stages.judge.measure`, BrokenError for a verdict that is no JSON.
    """
    from rlhf_bench.harness.stages.judge import measure, verdict_row

    cases = make_cases()
    found = measure(name, judge, cases, task)
    for case, verdict in zip(cases, found, strict=True):
        try:
            store.canonical(verdict_row(case, verdict))
        except (TypeError, ValueError) as error:
            raise BrokenError(f"the verdict on {case.id} is not JSON: {one_line(error)}") from error
    # not a fault: some texts have no verdict, but an author should see how many and why
    undecided = [verdict.reason for verdict in found if None in verdict.values.values()]
    return f"{len(undecided)} of {len(cases)} undecided: {', '.join(sorted(set(undecided)))}" if undecided else ""


def check_order(name: str, judge: Judge) -> str:
    """A verdict depends on its case alone: results of a run must not depend on which prompts are evaluated.

    Raises BrokenError where a value changes with the order of the cases; notes and reasons may.
    """
    from rlhf_bench.harness.stages.judge import measure

    # reversed, so that every case has other neighbours before it
    cases = make_cases()
    forward = measure(name, judge, cases, GoldTaskFake())
    backward = measure(name, judge, cases[::-1], GoldTaskFake())[::-1]
    both = zip(cases, forward, backward, strict=True)
    changed = [case.id for case, a, b in both if dict(a.values) != dict(b.values)]
    demand(not changed, f"{len(changed)} verdicts change with the order of cases, {changed[:1]} among them")
    return ""


def check_no_cases(judge: Judge) -> str:
    """An empty list of cases gives an empty list of verdicts."""
    count = len(list(judge.measure([], TaskFake())))
    demand(count == 0, f"{count} verdicts on no cases")
    return ""


def make_cases() -> list[Case]:
    """A case for each of TEXTS, in two slices."""
    cases = []
    for i, (after, before) in enumerate(TEXTS):
        example = Example(f"case-{i}", f"Question {i}: when?", REFERENCE, slices=("odd" if i % 2 else "even",))
        cases.append(Case(example, _generation(example, 4, after), _generation(example, 0, before)))
    return cases


def _generation(example: Example, iteration: int, text: str) -> Generation:
    tokens = len(text.split())
    # the longest text counts as cut off at the length limit: judges meet both
    return Generation(example.id, iteration, "sample", example.prompt, text, tokens, finished=tokens < 100)


@dataclass(frozen=True)
class TaskFake:
    """A task with the examples of `make_cases` and without a utility."""

    max_response_tokens: int = 128

    def examples(self, split: Split) -> Sequence[Example]:
        # held-out prompts alone: judges compare responses to no others
        return [case.example for case in make_cases()] if split == "test" else []

    def pairs(self, split: Split) -> Sequence[Pair]:  # noqa: ARG002
        return []


class GoldTaskFake(TaskFake):
    """The same with a utility: the share of the reference's words that the response has."""

    def utility(self, example: Example, response: str) -> Utility:
        wanted = example.completion.split()
        return Utility(sum(word in response.split() for word in wanted) / len(wanted))
