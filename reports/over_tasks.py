"""Arms over all tasks and policies of a report: means in which every task counts alike, the paper's average.

Of shares of wins alone: they have the same unit on every task, which utilities and lengths have not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results import contrasts
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.contrasts import Where
from rlhf_bench.harness.results.entropy_matched import is_control
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.sheets import Sheets
from rlhf_bench.harness.results.table import Cell, Table, estimated
from rlhf_bench.harness.statistics.intervals import Interval, undefined

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row
    from rlhf_bench.reports.measures import Column

BASELINE = "SFT baseline"
TITLE = "Means over tasks"
NOTE = (
    "Every task counts alike, and the tasks are these: the interval says nothing about other tasks. Runs of different "
    "tasks share their training seed and are independent given it. Against the SFT baseline: the mean of the tasks' "
    "win rates. Against another arm: the mean share of prompts on which the arm's response has the higher value; a tie "
    "counts half, .5 is no difference. Not adjusted for the number of rows."
)


class Place(NamedTuple):
    """Where an arm was trained and measured: its task and its policy."""

    task: str
    policy: str

    def __str__(self) -> str:
        return f"{self.task} ({self.policy})"


def over_tasks(
    arms: Sequence[Arm], labels: Mapping[str, str], columns: Sequence[Column], estimator: Estimator, sheets: Sheets
) -> list[JsonObject]:
    """Rows for every label on two tasks or policies, against the baseline and against every other label there.

    [] for a report of one task and policy.  A row that cannot be computed has no value, and the reason as its note.
    """
    placed = by_label(arms, labels)
    rows = []
    for column in columns:
        where = Where(column.judge, column.statistic)
        if column.kind == "win":
            for label, own in placed.items():
                found = [*own.values()]
                if len(own) > 1 and _measured(found, column):
                    value = _interval(partial(contrasts.mean_over_tasks, found, where, estimator, sheets))
                    rows.append(_row(label, BASELINE, own, column, value, estimator))
        elif column.kind == "level" and column.better:
            for (a, first), (b, second) in itertools.combinations(placed.items(), 2):
                shared = {place: arm for place, arm in first.items() if place in second}
                pairs = [(arm, second[place]) for place, arm in shared.items()]
                if len(pairs) > 1 and _measured([arm for pair in pairs for arm in pair], column):
                    value = _interval(partial(contrasts.mean_head_to_head, pairs, where, estimator, sheets))
                    rows.append(_row(a, b, shared, column, value, estimator))
    return rows


def by_label(arms: Sequence[Arm], labels: Mapping[str, str]) -> dict[str, dict[Place, Arm]]:
    """The arms of each label by place; labels without what tells arms of one task apart by their keys alone.

    Two arms of one label in one place would have to be chosen between: the label is left out.  So is the control
    without a reward model, whose last checkpoint is an arbitrary temperature.
    """
    found: dict[str, dict[Place, Arm]] = {}
    twice = set()
    for arm in arms:
        if is_control(arm):
            continue
        label = labels[arm.key].rpartition(" #")[0] or labels[arm.key]
        place = Place(arm.task, str(arm.cells[0].record.get("policy", "")))
        if place in found.setdefault(label, {}):
            twice.add(label)
        found[label][place] = arm
    return {label: own for label, own in found.items() if label not in twice}


def _measured(arms: Iterable[Arm], column: Column) -> bool:
    return all(column.judge in cell.judged() for arm in arms for cell in arm.cells)


def _interval(made: Callable[[], Interval]) -> Interval:
    """What was computed, or nothing with the reason: arms without common seeds keep their row."""
    try:
        return made()
    except BenchError as error:
        return undefined(error.seen.rstrip("."))


def _row(
    label: str, versus: str, placed: Mapping[Place, Arm], column: Column, found: Interval, estimator: Estimator
) -> JsonObject:
    seeds = set.intersection(*(set(arm.seeds) for arm in placed.values()))
    policies = {place.policy for place in placed}
    return {
        "label": label,
        "versus": versus,
        "tasks": [place.task if len(policies) == 1 else str(place) for place in placed],
        "judge": column.judge,
        "statistic": column.statistic,
        "title": column.title,
        "seeds": len(seeds),
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "level": estimator.level,
        "method": found.method,
        "note": found.note,
    }


def over_tasks_table(rows: Sequence[Row]) -> Table:
    """The rows as a table: those against the baseline first, the best one first."""
    ordered = sorted(rows, key=lambda row: (row["versus"] != BASELINE, -(row["value"] or 0.0)))
    lines = [
        (row["label"], row["versus"], row["title"], ", ".join(row["tasks"]), Cell(row["seeds"], format="count"),
         estimated(row), row["note"])
        for row in ordered
    ]  # fmt: skip
    columns = ("reward model", "against", "by", "tasks", "seeds", "mean share of wins", "note")
    return Table(TITLE, columns, lines, NOTE)
