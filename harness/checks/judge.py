"""Does a judge keep the rules of its seam?  It is asked about a handful of cases, with and without gold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from rlhf_bench.harness import store
from rlhf_bench.harness.checks.findings import BrokenError, Probe, demand, rows_of_kind
from rlhf_bench.harness.errors import one_line
from rlhf_bench.harness.nouns import Case, Example, Generation, Measure, MeasureKind, Pair, Split, Utility
from rlhf_bench.harness.seams import Judge, Task

REFERENCE = "They meet at nine."
PAIRS = ((REFERENCE, "Perhaps."), ("Perhaps.", REFERENCE), (REFERENCE, REFERENCE), ("", REFERENCE), (REFERENCE, ""))
ODD = (" \n\t", "\x00\x1b[31m\u2028", "naïve 🤖 שלום", "word " * 500)
TEXTS = (*PAIRS, *((text, "Perhaps.") for text in ODD))
"""Responses after and before: better, worse, equal, empty, odd, and long beyond the limit."""


def judge_probes(name: str, judge: Judge) -> Iterator[tuple[str, Probe]]:
    yield "measures have names and kinds", lambda: _measures(judge)
    yield "verdicts on a task with gold", lambda: _verdicts(name, judge, _GoldFake())
    yield "verdicts on a task without gold", lambda: _verdicts(name, judge, _Fake())
    yield "the order of cases changes nothing", lambda: _order(name, judge)
    yield "no cases, no verdicts", lambda: _no_cases(judge)


def _measures(judge: Judge) -> str:
    measures = rows_of_kind(judge.measures, Measure, "measures")
    names = [m.name for m in measures]
    demand(names and all(names), f"the measures are {names}")
    demand(len(set(names)) == len(names), f"a name occurs twice in {names}")
    for m in measures:
        demand(m.kind in get_args(MeasureKind), f"{m.name} is of kind {m.kind!r}, not one of {get_args(MeasureKind)}")
        demand(not m.before or m.before in names, f"{m.name} has before={m.before!r}, which is no measure")
    return ", ".join(f"{m.name} ({m.kind})" for m in measures)


def _verdicts(name: str, judge: Judge, task: Task) -> str:
    from rlhf_bench.harness.stages.judge import measure, verdict_row

    cases = _cases()
    found = measure(name, judge, cases, task)
    for case, verdict in zip(cases, found, strict=True):
        try:
            store.canonical(verdict_row(case, verdict))
        except (TypeError, ValueError) as error:
            raise BrokenError(f"the verdict on {case.id} is not JSON: {one_line(error)}") from error
    undecided = [verdict.reason for verdict in found if None in verdict.values.values()]
    return f"{len(undecided)} of {len(cases)} undecided: {', '.join(sorted(set(undecided)))}" if undecided else ""


def _order(name: str, judge: Judge) -> str:
    from rlhf_bench.harness.stages.judge import measure

    cases = _cases()
    forth, back = measure(name, judge, cases, _GoldFake()), measure(name, judge, cases[::-1], _GoldFake())[::-1]
    moved = [case.id for case, a, b in zip(cases, forth, back, strict=True) if dict(a.values) != dict(b.values)]
    demand(not moved, f"{len(moved)} verdicts change with the order of cases, {moved[:1]} among them")
    return ""


def _no_cases(judge: Judge) -> str:
    count = len(list(judge.measure([], _Fake())))
    demand(count == 0, f"{count} verdicts on no cases")
    return ""


def _cases() -> list[Case]:
    return [_case(i, after, before) for i, (after, before) in enumerate(TEXTS)]


def _case(i: int, after: str, before: str) -> Case:
    example = Example(f"case-{i}", _question(i), REFERENCE, slices=("odd" if i % 2 else "even",))
    return Case(example, _generation(i, 4, after), _generation(i, 0, before))


def _question(i: int) -> str:
    return f"Question {i}: when do they meet?"


def _generation(i: int, iteration: int, text: str) -> Generation:
    tokens = len(text.split())
    return Generation(f"case-{i}", iteration, "sample", _question(i), text, tokens, finished=tokens < 100)


@dataclass(frozen=True)
class _Fake:
    """A task of nothing but a length limit."""

    max_response_tokens: int = 128

    def examples(self, split: Split) -> Sequence[Example]:
        return [case.example for case in _cases()] if split == "test" else []

    def pairs(self, split: Split) -> Sequence[Pair]:  # noqa: ARG002
        return []


class _GoldFake(_Fake):
    """The same with a gold utility: the share of the reference's words that the response has."""

    def utility(self, example: Example, response: str) -> Utility:
        wanted = example.completion.split()
        return Utility(sum(word in response.split() for word in wanted) / len(wanted))
