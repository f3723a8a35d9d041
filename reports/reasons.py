"""Why the arm with the best estimate: what was measured of it beside the measure that answers, and of the next ones.

Each reason is a sentence and the place of the page that shows its numbers.  No judge is named here: measures say by
themselves where they count (`nouns.Measure`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness.results.table import Cell, estimated, interval, text, value_text
from rlhf_bench.reports.answer import Outcome, answering, candidates, outcomes
from rlhf_bench.reports.measures import RUN, Column, Report, pick, shown_at

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

OTHERS = 3
"""Other arms that the sentence on equal KL names at most."""


class Reason(NamedTuple):
    """A sentence without a full stop, and the anchor of the section or table with its numbers."""

    text: str
    anchor: str


def leader(report: Report, task: str) -> tuple[Column, list[Outcome]] | None:
    """The measure that answers on a task, and its known outcomes, the best one first; None without any.

    The ceiling and controls without a reward model are not among them: nobody can choose these.
    """
    for column in answering(report):
        known = [one for one in candidates(outcomes(report, task, column)) if one.side != "unknown"]
        if known:
            return column, known
    return None


def reasons(report: Report, task: str) -> list[Reason]:
    """The reasons for the best arm of a task, or what speaks against it; [] where fewer than two arms are known."""
    found = leader(report, task)
    if found is None or len(found[1]) < 2:
        return []
    column, known = found
    first, others = known[0], known[1:]
    lines = [
        _described(first),
        _lead(report, task, column, first, others[0]),
        _equal_kl(report, task, first, others),
        *_measured(report, task, column, first, others),
        _cost(first, others),
    ]
    return [one for one in lines if one is not None]


def _described(first: Outcome) -> Reason | None:
    """What the arm is: its reward may read what no trained reward model sees, such as the reference answer."""
    said = str(first.arm.get("description", "")).rstrip(".")
    return Reason(said, "compare") if said else None


def _lead(report: Report, task: str, column: Column, first: Outcome, second: Outcome) -> Reason:
    said = f"{column.title} {interval(first.estimate, column.format)}; next {second.arm['label']} "
    said += interval(second.estimate, column.format)
    pair = _pair(report, task, column, first, second)
    if pair is None:
        return Reason(f"{said}; their difference was not measured in pairs", "answer")
    p_value = text(Cell(pair["p_holm"], format="p"))
    seeds = f"{pair['seeds']} common seed{'' if pair['seeds'] == 1 else 's'}"
    decided = "different" if pair["different"] else "undecided"
    apart = pair["low"] is not None and pair["high"] is not None and not pair["low"] <= 0 <= pair["high"]
    if apart and not pair["different"]:
        decided = "undecided, though this interval alone excludes 0: it is one of many pairs"
    return Reason(
        f"{said}; paired difference {_signed(pair, column)} over {seeds}, p after Holm {p_value}: {decided}", PAIRS
    )


PAIRS = "table-every-two-reward-models"
EQUAL_KL = "table-reward-models-at-equal-kl-to-the-sft-policy"
COST = "table-processor-time-of-a-run"
"""The anchors of the tables of pairs (comparison.py), of differences at equal KL (kl_tables.py), and of cost."""


def _pair(report: Report, task: str, column: Column, first: Outcome, second: Outcome) -> Row | None:
    """The stored comparison of two arms, turned so that the difference is the first one's minus the second one's."""
    one, other = first.arm["arm"], second.arm["arm"]
    for row in report.get("comparison", {}).get("pairs", ()):
        if row["task"] == task and (row["judge"], row["statistic"]) == column.key and row["value"] is not None:
            if (row["a"], row["b"]) == (one, other):
                return dict(row)
            if (row["a"], row["b"]) == (other, one):
                return {**row, **_turned(row)}
    return None


def _turned(row: Row) -> Row:
    def minus(value: float | None) -> float | None:
        return None if value is None else -value

    return {"value": minus(row["value"]), "low": minus(row["high"]), "high": minus(row["low"])}


def _signed(row: Row, column: Column) -> str:
    cell = estimated(row, column.format)
    return ("+" if cell.value is not None and cell.value > 0 else "") + text(cell)


def _equal_kl(report: Report, task: str, first: Outcome, others: Sequence[Outcome]) -> Reason | None:
    """The differences to the next arms where both are as far from the SFT policy, at the largest KL that has one."""
    label, labels = first.arm["label"], [other.arm["label"] for other in others]
    rows = [
        row
        for row in report.get("kl_matched", {}).get("contrasts", ())
        if row["task"] == task and row["decoding"] == "sample" and label in (row["a_label"], row["b_label"])
    ]
    measures = list(dict.fromkeys((row["judge"], row["statistic"]) for row in rows))
    quality = [c for c in shown_at(report, "figures", task) if c.key in measures and c.better and c.kind != "change"]
    if not quality:
        return None
    column, parts = quality[0], []  # in the order of columns: gold where the task knows it, else a judge
    for row in rows:
        other = row["b_label"] if row["a_label"] == label else row["a_label"]
        at = [one for one in row["at"] if one["value"] is not None]
        if (row["judge"], row["statistic"]) == column.key and other in labels and at:
            last = at[-1] if row["a_label"] == label else {**at[-1], **_turned(at[-1])}
            parts.append((labels.index(other), f"{_signed(last, column)} of {other} at KL {last['kl']:g}"))
    said = ", ".join(part for _, part in sorted(parts)[:OTHERS])
    own = pick(report, first.arm["arm"], (RUN, "kl"))
    far = f"KL to the SFT policy {interval(own, 'nats')} nats at the end; " if own and own["value"] is not None else ""
    return Reason(f"{far}{column.title} at equal KL, minus that of others: {said}", EQUAL_KL) if said else None


def _measured(report: Report, task: str, answer: Column, first: Outcome, others: Sequence[Outcome]) -> Iterator[Reason]:
    """What else every two arms are compared by: length, empty responses, refusals, and what plugins add."""
    levels = {(c.judge, f"{c.statistic}_change") for c in shown_at(report, "pairs", task)}
    for column in shown_at(report, "pairs", task):
        # a change beside its level says nothing new
        if column.key == answer.key or column.key in levels:
            continue
        own = pick(report, first.arm["arm"], column.key)
        if own is None or own["value"] is None:
            continue
        values = [
            row["value"]
            for other in others
            if (row := pick(report, other.arm["arm"], column.key)) is not None and row["value"] is not None
        ]
        if values and all(
            value_text(value, column.format) == value_text(own["value"], column.format) for value in values
        ):
            continue  # no reason for one of them
        said = f"{column.title} {interval(own, column.format)}"
        if column.unit and column.unit != "share":
            said += f" {column.unit}"
        if values:
            said += f"; the others {_range(values, column)}"
        yield Reason(said, "compare")


def _range(values: Sequence[float], column: Column) -> str:
    ends = [value_text(end, column.format) for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _cost(first: Outcome, others: Sequence[Outcome]) -> Reason | None:
    own, values = _seconds(first), [seconds for one in others if (seconds := _seconds(one)) is not None]
    if own is None or not values:
        return None
    ends = dict.fromkeys(_minutes(end) for end in (min(values), max(values)))
    return Reason(f"cost {_minutes(own)} of processor time a run; the others {' to '.join(ends)}", COST)


def _seconds(outcome: Outcome) -> float | None:
    found = outcome.arm.get("cpu_seconds")
    return sum(found.values()) if found else None


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.0f} s"
