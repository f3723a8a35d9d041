"""Two reports side by side: what changed from the first to the second, and whether by more than noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results.table import Cell, Table, estimated
from rlhf_bench.harness.seeds import joined
from rlhf_bench.harness.statistics.independent import Ends, difference
from rlhf_bench.reports.markdown import escape, table_lines
from rlhf_bench.reports.measures import Column, Report, indexed, pick, shown_at

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

SAME, CHANGED, NOISE, UNKNOWN = "the same", "changed", "within noise", "no interval"
DECODINGS = ("sample", "greedy")
NOTE = (
    "Second minus first, with the interval of the difference of two independent estimates (Zou and Donner 2008), not "
    "adjusted for the number of rows; on common seeds it is wider than it need be. Changed: the whole interval is on "
    "one side of 0. Runs: the same where both reports hold the same runs, so that a difference is of the computation."
)
Place = tuple[str, str]
"""Task and label of an arm."""


class Difference(NamedTuple):
    """What two reports say of one measure of one arm."""

    place: Place
    column: Column
    decoding: str
    first: Row
    second: Row
    change: Ends | None
    verdict: str
    runs: str


def differences(first: Report, second: Report) -> list[Difference]:
    """Every measure of the headline that both reports have of an arm of one task and label, in the first one's order.

    Raises BenchError for intervals of different levels.
    """
    check_levels(first, second)
    first, second = indexed(first), indexed(second)
    arms, others = _arms(first), _arms(second)
    columns = {column.key: column for column in shown_at(first, "headline")}
    also = {column.key for column in shown_at(second, "headline")}
    found = []
    for place in (place for place in arms if place in others):
        for column in (column for key, column in columns.items() if key in also):
            for decoding in DECODINGS:
                rows = [
                    pick(report, arm["arm"], column.key, decoding=decoding)
                    for report, arm in ((first, arms[place]), (second, others[place]))
                ]
                if rows[0] and rows[1] and rows[0]["value"] is not None and rows[1]["value"] is not None:
                    runs = _runs(arms[place], others[place])
                    found.append(_compared(place, column, decoding, rows[0], rows[1], runs))
    return found


def _compared(place: Place, column: Column, decoding: str, first: Row, second: Row, runs: str) -> Difference:
    ends = [_ends(row) for row in (first, second)]
    change = difference(ends[0], ends[1]) if ends[0] and ends[1] else None
    if ends[0] == ends[1] and first["value"] == second["value"]:
        verdict = SAME
    elif change is None:
        verdict = UNKNOWN
    else:
        verdict = NOISE if change.low <= 0 <= change.high else CHANGED
    return Difference(place, column, decoding, first, second, change, verdict, runs)


def _ends(row: Row) -> Ends | None:
    return None if row["low"] is None or row["high"] is None else Ends(row["value"], row["low"], row["high"])


def _arms(report: Report) -> dict[Place, Row]:
    return {(arm["task"], arm["label"]): arm for arm in report["arms"]}


def _runs(first: Row, second: Row) -> str:
    """How the runs of an arm in two reports are related: by key and seeds."""
    both = [seed for seed in first["seeds"] if seed in second["seeds"]]
    if first["arm"] == second["arm"] and first["seeds"] == second["seeds"]:
        return "the same"
    if first["arm"] == second["arm"]:
        return f"{len(both)} in common"
    return f"other, {len(both)} common seeds" if both else "other"


def check_levels(first: Report, second: Report) -> None:
    """Raises BenchError where the intervals of two reports are of different levels."""
    levels = [sorted({row["level"] for row in report["estimates"]}) for report in (first, second)]
    if len({level for one in levels for level in one}) > 1:
        said = " and ".join(", ".join(f"{level:g}" for level in one) for one in levels)
        raise BenchError(f"The intervals are of different levels: {said}.", "Write both with one --level.")


def diff_tables(first: Report, second: Report, found: Sequence[Difference]) -> list[Table]:
    """What changed, as tables: `found`, verdicts on claims, and what one report alone has; empty ones left out."""
    made = [_estimates(found), _claims(first, second), _alone(first, second), _made(first, second)]
    return [table for table in made if table.rows]


def summary(found: Sequence[Difference]) -> str:
    """How many numbers changed, in a sentence."""
    if not found:
        return "The reports have no arm and measure in common."
    counts = {name: sum(one.verdict == name for one in found) for name in (CHANGED, NOISE, SAME, UNKNOWN)}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"Of {len(found)} numbers that both reports have: {said}."


def _estimates(found: Sequence[Difference]) -> Table:
    """Changed ones first; numbers that are the same in both are left out."""
    order = (CHANGED, UNKNOWN, NOISE)
    shown = sorted((one for one in found if one.verdict != SAME), key=lambda one: order.index(one.verdict))
    rows = []
    for one in shown:
        value = one.second["value"] - one.first["value"]
        change = (
            Cell(value, *one.change[1:], format=one.column.format)
            if one.change
            else Cell(value, format=one.column.format)
        )
        numbers = (estimated(one.first, one.column.format), estimated(one.second, one.column.format), change)
        rows.append((*one.place, one.column.title, one.decoding, *numbers, one.verdict, one.runs))
    columns = ("task", "reward model", "measure", "decoding", "first", "second", "difference", "says", "runs")
    return Table("What changed", columns, rows, NOTE)


def _claims(first: Report, second: Report) -> Table:
    """Claims whose verdict is another one in the second report, or that one report alone has."""
    kept = [{row["id"]: row for row in report.get("claims", ())} for report in (first, second)]
    names = dict.fromkeys([*kept[0], *kept[1]])
    rows = []
    for name in names:
        own = [one.get(name) for one in kept]
        verdicts = [row["verdict"] if row else "not in it" for row in own]
        if verdicts[0] != verdicts[1]:
            rows.append((name, *verdicts, *(estimated(row) for row in own)))
    columns = ("claim", "direction, first", "direction, second", "first", "second")
    return Table("Claims with another verdict", columns, rows)


def _alone(first: Report, second: Report) -> Table:
    """Arms, measures and warnings that one report alone has."""
    rows: list[tuple[str, str, str]] = []
    for what, of in (("arm", _arm_names), ("measure", _measure_names), ("warning", _warnings)):
        names = [list(of(report)) for report in (first, second)]
        rows += [(what, "first", name) for name in names[0] if name not in names[1]]
        rows += [(what, "second", name) for name in names[1] if name not in names[0]]
    return Table("In one report alone", ("what", "in the", "name"), rows)


def _arm_names(report: Report) -> Iterator[str]:
    return (f"{arm['label']} on {arm['task']}" for arm in report["arms"])


def _measure_names(report: Report) -> Iterator[str]:
    return (column.title for column in shown_at(report, "headline"))


def _warnings(report: Report) -> Iterator[str]:
    return iter(report["warnings"])


def _made(first: Report, second: Report) -> Table:
    """What the reports were made with, where it differs: data, seeds, software, machines, commit."""
    own = [_made_with(report) for report in (first, second)]
    names = dict.fromkeys([*own[0], *own[1]])
    rows = [(name, *(one.get(name, "") for one in own)) for name in names if own[0].get(name) != own[1].get(name)]
    return Table("Made with", ("what", "first", "second"), rows)


def _made_with(report: Report) -> Mapping[str, str]:
    stages = report["manifest"]["stages"].values()
    software: dict[str, set[str]] = {}
    for stage in stages:
        for name, version in stage["versions"].items():
            software.setdefault(name, set()).add(version)
    return {
        **{f"data of {origin['task']}": f"sha256 {origin['sha256'][:16]}" for origin in report["data"]},
        "seeds": joined(report["manifest"]["seeds"]),
        "machines": "; ".join(sorted({f"{stage['machine']}, {stage['device']}" for stage in stages})),
        "commit": report["manifest"]["git_commit"][:12],
        **{name: ", ".join(sorted(versions)) for name, versions in sorted(software.items())},
    }


def diff_markdown(names: Sequence[str], said: str, tables: Iterable[Table]) -> str:
    """The comparison as Markdown: the names of the two folders, the sentence of `summary`, the tables."""
    lines = [f"# {escape(names[0])} and {escape(names[1])}", "", said, ""]
    for table in tables:
        lines += table_lines(table)
    return "\n".join(lines).rstrip() + "\n"
