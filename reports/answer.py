"""What a report answers in one sentence, and which statistics it is read from.

An arm counts as better or worse than the SFT baseline only when its whole interval lies on one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rlhf_bench.harness.results.table import interval
from rlhf_bench.reports.tables import HEADLINE, Report, Row, pick

QUESTION = "What does PPO make of the policy under each reward model?"

PROXY = "proxy"
"""The judge whose estimates are an arm's curve (harness/results/proxy_estimates.py)."""

VERDICTS = ("supported", "contradicted", "inconclusive", "not run")

Side = Literal["better", "worse", "undecided", "unknown"]


class Column(NamedTuple):
    """One statistic of one judge, under the name a reader sees."""

    name: str
    judge: str
    statistic: str


class Outcome(NamedTuple):
    """One arm's estimate of the statistic that answers, and on which side of the baseline it lies."""

    arm: Mapping[str, Any]
    estimate: Row | None
    side: Side


def question(report: Report) -> str:
    """The question the report answers: an experiment's own, or the general one."""
    return str(report.get("question") or QUESTION)


def tasks(report: Report) -> list[str]:
    """The tasks of the report's arms, in order."""
    return list(dict.fromkeys(arm["task"] for arm in report["arms"]))


def arms_on(report: Report, task: str) -> list[Mapping[str, Any]]:
    """The arms of one task, in the report's order."""
    return [arm for arm in report["arms"] if arm["task"] == task]


def final(report: Report, arm: str, judge: str, statistic: str) -> Row | None:
    """The arm's estimate at its last checkpoint, sampled, over all prompts."""
    return pick(report, arm, judge, statistic)


def columns(report: Report) -> list[Column]:
    """What some judge measured: the usual statistics first, then all of the judges that are not among the usual.

    Gold against the proxy has tables of its own (proxy.py).
    """
    usual = [Column(*column) for column in HEADLINE]
    known = {PROXY, *(judge for _, judge, _ in usual)}
    others = {(e["judge"], e["statistic"]) for e in report["estimates"] if e["judge"] not in known}
    found = [*usual, *[Column(_name(judge, statistic), judge, statistic) for judge, statistic in sorted(others)]]
    measured = {(e["judge"], e["statistic"]) for e in report["estimates"] if e["value"] is not None}
    return [column for column in found if (column.judge, column.statistic) in measured]


def _name(judge: str, statistic: str) -> str:
    return f"{statistic.replace('_', ' ')} ({judge})"


def reference(statistic: str) -> float | None:
    """The value of a policy as good as the SFT baseline; None where a statistic does not say better or worse."""
    return {"win_rate": 0.5, "gold_change": 0.0}.get(statistic)


def answering(report: Report) -> list[Column]:
    """The statistics that say better or worse, win rates before changes of utility."""
    found = [column for column in columns(report) if reference(column.statistic) is not None]
    return sorted(found, key=lambda c: (c.statistic != "win_rate", c.judge != "winrate"))


def outcomes(report: Report, task: str, column: Column) -> list[Outcome]:
    """Every arm of the task at the last checkpoint, the largest estimate first and what is unknown last."""
    found = []
    for arm in arms_on(report, task):
        estimate = final(report, arm["arm"], column.judge, column.statistic)
        found.append(Outcome(arm, estimate, side(estimate, reference(column.statistic) or 0.0)))
    return sorted(found, key=_place)


def _place(outcome: Outcome) -> tuple[bool, float, str]:
    value = outcome.estimate["value"] if outcome.estimate else None
    return (value is None, -(value or 0.0), outcome.arm["label"])


def side(estimate: Row | None, baseline: float) -> Side:
    """On which side of `baseline` the whole interval lies."""
    if estimate is None or estimate["value"] is None:
        return "unknown"
    if estimate["low"] is None or estimate["high"] is None:
        return "undecided"
    if estimate["low"] > baseline:
        return "better"
    return "worse" if estimate["high"] < baseline else "undecided"


def sentence(report: Report, task: str) -> str:
    """The answer for one task."""
    found = answering(report)
    column = next((c for c in found if any(o.estimate for o in outcomes(report, task, c))), None)
    if column is None:
        return f"On {task}, no judge measured whether the responses got better than the SFT baseline's."
    results = outcomes(report, task, column)
    known = [outcome for outcome in results if outcome.side != "unknown"]
    if not known:
        return f"On {task}, every case of {column.name} is undecided: nothing can be said."
    text = _of_one(known[0]) if len(results) == 1 else _of_several(results)
    largest = f"{known[0].arm['label']}'s {column.name}" if len(results) > 1 else column.name
    lead = "; the largest estimate is " if len(results) > 1 else ": "
    return f"On {task}, {text}{lead}{largest} {interval(known[0].estimate)} ({_size(known)})."


def of_claims(rows: Sequence[Row]) -> str:
    """How many of an experiment's claims its intervals support, "" for none."""
    counts = {name: sum(row["verdict"] == name for row in rows) for name in VERDICTS}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"Of {len(rows)} claims about it: {said}." if rows else ""


def _of_one(outcome: Outcome) -> str:
    word = {"better": "better than", "worse": "worse than"}.get(outcome.side, "not clearly better or worse than")
    return f"PPO against {outcome.arm['label']} leaves the policy {word} the SFT baseline"


def _of_several(results: Sequence[Outcome]) -> str:
    counts = {name: [o.arm["label"] for o in results if o.side == name] for name in ("better", "worse")}
    rest = len(results) - sum(map(len, counts.values()))
    better, worse = (_some(found, len(results)) for found in counts.values())
    if rest == len(results):
        return (
            f"PPO leaves the policy not clearly better or worse than the SFT baseline under any of {rest} reward models"
        )
    ruled = f"PPO leaves the policy better than the SFT baseline under {better}, worse under {worse}"
    return f"{ruled}, and {rest} {'is' if rest == 1 else 'are'} undecided" if rest else ruled


def _some(names: Sequence[str], total: int) -> str:
    if not names:
        return "none"
    shown = ", ".join(names) if len(names) <= 3 else ""
    return f"{len(names)} of {total} reward models" + (f" ({shown})" if shown else "")


def _size(known: Sequence[Outcome]) -> str:
    """Seeds and prompts of the estimates; one training seed is said to be one."""
    seeds = sorted({len(outcome.arm["seeds"]) for outcome in known})
    prompts = sorted({outcome.estimate["n"] for outcome in known if outcome.estimate})
    if seeds == [1]:
        return f"one training seed, {_range(prompts)} prompts: conditional on this training run"
    return f"{_range(seeds)} training seeds, {_range(prompts)} prompts"


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
