"""The figures of a report: what was bought at which KL, what changed along training, utility before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlhf_bench.harness.results.table import interval, number
from rlhf_bench.reports import answer, figures
from rlhf_bench.reports.answer import Column
from rlhf_bench.reports.figures import Point, Series
from rlhf_bench.reports.tables import Report, Row, own

Json = dict[str, Any]
Slots = Mapping[str, int]
"""Colour and marker of every label."""


class Along(NamedTuple):
    """A statistic drawn along training; `reach` is what its axis shows at least."""

    column: Column
    mark: float | None = None
    reach: float | None = None


ALONG = (
    Along(Column("length change, tokens", "length", "length_change"), mark=0.0),
    Along(Column("empty responses, share", "empty", "empty_rate"), reach=0.1),
    Along(Column("refusals, share", "refusal", "refusal_rate"), reach=0.1),
    Along(Column("KL to the SFT policy, nats", "run", "kl"), reach=1.0),
)


def charts(report: Report, task: str, slots: Slots) -> list[Json]:
    """Every figure of a task but for its histograms, those with nothing to draw left out."""
    found = [*against_kl(report, task, slots), *along(report, task, slots), accuracy(report, task, slots)]
    return [one for one in found if one]


def pair_accuracy(arm: Row) -> float | None:
    """The mean over training seeds, None where nobody measured it."""
    known = [one["pair_accuracy"] for one in arm["before"] if one.get("pair_accuracy") is not None]
    return sum(known) / len(known) if known else None


def curve(report: Report, arm: str, judge: str, statistic: str) -> dict[int, Row]:
    """The arm's estimates by iteration, those that say something."""
    wanted = {"judge": judge, "statistic": statistic, "slice": "all", "decoding": "sample"}
    found = [e for e in own(report, arm) if all(e[k] == v for k, v in wanted.items())]
    return {e["iteration"]: e for e in sorted(found, key=lambda e: e["iteration"]) if e["value"] is not None}


def against_kl(report: Report, task: str, slots: Slots) -> Iterator[Json | None]:
    """Gold and win rates against KL: what was bought at which distance from the SFT policy."""
    wanted = [Column("gold", "utility", "gold"), *answer.answering(report)]
    for column in (c for c in wanted if c.statistic in ("gold", "win_rate")):
        series = []
        for arm in answer.arms_on(report, task):
            distance = curve(report, arm["arm"], "run", "kl")
            found = curve(report, arm["arm"], column.judge, column.statistic)
            points = [_point(distance[i]["value"], row) for i, row in found.items() if i in distance]
            start = _start(report, arm["arm"], column)
            first = [Point(0.0, start)] if start is not None and points else []
            series.append(Series(arm["label"], slots[arm["label"]], [*first, *points]))
        yield chart(series, "KL to the SFT policy, nats", column.name, answer.reference(column.statistic))


def _start(report: Report, arm: str, column: Column) -> float | None:
    """The SFT policy's own value: it has moved by no KL."""
    if column.statistic == "gold":
        found = curve(report, arm, "utility", "gold_baseline")
        return next((row["value"] for row in found.values()), None)
    return answer.reference(column.statistic)


def _point(x: float, row: Row) -> Point:
    return Point(x, row["value"], row["low"], row["high"])


def along(report: Report, task: str, slots: Slots) -> Iterator[Json | None]:
    """Length, empty and refusal rates and KL at every checkpoint."""
    for (name, judge, statistic), mark, reach in ALONG:
        series = []
        for arm in answer.arms_on(report, task):
            found = curve(report, arm["arm"], judge, statistic)
            series.append(Series(arm["label"], slots[arm["label"]], [_point(i, row) for i, row in found.items()]))
        yield chart(series, "PPO iteration", name, mark, reach)


def chart(series: Sequence[Series], x: str, y: str, mark: float | None, reach: float | None = None) -> Json | None:
    """A figure with its name; None where there is nothing to draw."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return None
    ends = "; ".join(f"{one.name} {number(one.points[-1].y)} at {number(one.points[-1].x)}" for one in drawn)
    svg = figures.lines(drawn, x, y, f"{y} by {x}. Last points: {ends}.", mark, reach)
    return {"title": f"{y.partition(',')[0]} by {x.partition(',')[0]}", "svg": svg}


def accuracy(report: Report, task: str, slots: Slots) -> Json | None:
    """Pair accuracy, what reward models are usually compared by, beside what became of the policy."""
    for column in answer.answering(report):
        series = []
        for outcome in answer.outcomes(report, task, column):
            known = pair_accuracy(outcome.arm)
            if outcome.estimate and outcome.estimate["value"] is not None and known is not None:
                series.append(
                    Series(outcome.arm["label"], slots[outcome.arm["label"]], [_point(known, outcome.estimate)])
                )
        if len(series) > 1:
            said = "; ".join(
                f"{s.name} accuracy {number(s.points[0].x)}, {column.name} {number(s.points[0].y)}" for s in series
            )
            drawn = figures.scatter(series, "pair accuracy", column.name, said, answer.reference(column.statistic))
            return {"title": f"{column.name} by pair accuracy", "svg": drawn}
    return None


def histograms(report: Report, task: str) -> list[Json]:
    """Utility before and after, one figure an arm."""
    labels = {arm["arm"]: arm["label"] for arm in report["arms"]}
    found = []
    for row in report.get("distributions", ()):
        if row["task"] != task:
            continue
        name, label = row["statistic"], labels[row["arm"]]
        ratio = answer.final(report, row["arm"], row["judge"], f"{name} variance ratio")
        text = f"variance ratio {interval(ratio)}" if ratio and ratio["value"] is not None else ""
        said = f"{name} under {label}: {_spread(row, 'before')} before, {_spread(row, 'after')} after. {text}"
        drawn = figures.histogram(row["low"], row["width"], row["before"], row["after"], name, said)
        found.append({"title": label, "note": text, "svg": drawn})
    return found


def _spread(row: Row, name: str) -> str:
    """The middle of the distribution in words, from its bins."""
    total, running = sum(row[name]), 0
    for k, count in enumerate(row[name]):
        running += count
        if 2 * running >= total:
            return f"median near {number(row['low'] + (k + 0.5) * row['width'])}"
    return "nothing"
