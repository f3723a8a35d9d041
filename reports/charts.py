"""The figures of a report: measures against KL and along training, pair accuracy, distributions before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness.results.table import interval, value_text
from rlhf_bench.reports import answer, figures
from rlhf_bench.reports.figures import Bins, Drawing, Look, Point, Series
from rlhf_bench.reports.measures import RUN, Column, Report, arms_on, curve, of_report, pick, shown_at

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

Looks = Mapping[str, Look]
"""How the series of every label is drawn."""

KL = (RUN, "kl")


class Axis(NamedTuple):
    """A figure's axis: what it shows, and the unit behind its name."""

    name: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name


DISTANCE = Axis("KL to the SFT policy", "nats")


def charts(report: Report, task: str, looks: Looks) -> list[JsonObject]:
    """Every figure of a task but for its histograms, those with nothing to draw left out.

    {"title", "svg"} each, as "drawing" the numbers behind it, and as "reliability" what the judge says of them: win
    rates and levels with a better side against KL, the other measures along training, then pair accuracy.
    """
    columns = shown_at(report, "figures")
    # one number per policy says how good it is at a distance; the rest is followed over time
    quality = [c for c in columns if c.kind == "win" or (c.kind == "level" and c.better)]
    rest = [c for c in columns if c not in quality]
    drawn = [(column, against_kl(report, task, looks, column)) for column in quality]
    drawn += [(column, along(report, task, looks, column)) for column in rest]
    found = [{**one, "reliability": column.reliability} for column, one in drawn if one]
    return [*found, *filter(None, [accuracy(report, task, looks)])]


def pair_accuracy(arm: Row) -> float | None:
    """The mean over training seeds, None where it was not measured.

    A share of the held-out pairs, from 0 to 1; `arm` is an entry of the report's `arms`.
    """
    known = [one["pair_accuracy"] for one in arm["before"] if one.get("pair_accuracy") is not None]
    return sum(known) / len(known) if known else None


def against_kl(report: Report, task: str, looks: Looks, column: Column) -> JsonObject | None:
    """A measure against KL: how good the policy is at which distance from the SFT policy.

    Reward models are so compared at an equal distance instead of an equal iteration, as Gao et al. (2210.10760) compare
    them over its square root.  KL is in nats per response.  None where there is nothing to draw.
    """
    series = []
    for arm in arms_on(report, task):
        distance = curve(report, arm["arm"], KL)
        found = curve(report, arm["arm"], column.key)
        # checkpoints without a KL have no place on the axis
        points = [point(distance[i]["value"], row) for i, row in found.items() if i in distance]
        # the SFT policy's own value, at a KL of 0: the baseline's level, or the value that means no effect
        start = column.reference
        if column.before:
            baseline = curve(report, arm["arm"], (column.judge, column.before))
            # the baseline is the same at every checkpoint: its first value will do
            start = next((row["value"] for row in baseline.values()), None)
        first = [Point(0.0, start)] if start is not None and points else []
        series.append(Series(arm["label"], looks[arm["label"]], [*first, *points]))
    return chart(series, DISTANCE, Axis(column.title, column.unit), column.reference)


def frontiers(report: Report, task: str, looks: Looks) -> list[JsonObject]:
    """The frontiers of kl_matched.py, a figure for each quality and decoding: a line for each reward model.

    A frontier of several arms has the colour of the first.
    """
    rows = [row for row in report.get("kl_matched", {}).get("frontiers", ()) if row["task"] == task]
    labels = {arm["arm"]: arm["label"] for arm in report["arms"]}
    found = []
    for judge, statistic, decoding in dict.fromkeys((r["judge"], r["statistic"], r["decoding"]) for r in rows):
        own = [row for row in rows if (row["judge"], row["statistic"], row["decoding"]) == (judge, statistic, decoding)]
        series = [
            Series(row["label"], looks[labels[row["arms"][0]]], [point(at["kl"], at) for at in row["points"]])
            for row in own
        ]
        column = next((c for c in of_report(report) if c.key == (judge, statistic)), None)
        title = own[0]["title"] if decoding == "sample" else f"{own[0]['title']}, greedy"
        drawn = chart(series, DISTANCE, Axis(title), column.reference if column else None)
        if drawn:
            said = column.reliability if column else ""
            found.append({**drawn, "title": f"Frontier: {title} at equal KL to the SFT policy", "reliability": said})
    return found


def point(x: float, row: Row) -> Point:
    """An estimate at `x`, with its interval."""
    return Point(x, row["value"], row["low"], row["high"])


def along(report: Report, task: str, looks: Looks, column: Column) -> JsonObject | None:
    """A measure at every checkpoint."""
    series = []
    for arm in arms_on(report, task):
        found = curve(report, arm["arm"], column.key)
        series.append(Series(arm["label"], looks[arm["label"]], [point(i, row) for i, row in found.items()]))
    # the axis reaches this far at least, so that a tiny rate or KL is not drawn as a large one
    reach = 0.1 if column.kind == "rate" else 1.0 if column.key == KL else None
    optimizers = {arm.get("optimizer", "ppo") for arm in arms_on(report, task)}
    name = "PPO iteration, n of best-of-n" if "best-of-n" in optimizers else "PPO iteration"
    return chart(series, Axis(name), Axis(column.title, column.unit), column.reference, reach)


def chart(
    series: Sequence[Series], x: Axis, y: Axis, mark: float | None, reach: float | None = None
) -> JsonObject | None:
    """A figure with its name; None where there is nothing to draw.

    `mark`: the reference value, drawn as a line.  `reach`: what the y axis reaches at least.  The drawing's label, for
    readers who cannot see it, gives the last point of every series.
    """
    drawn = [one for one in series if one.points]
    if not drawn:
        return None
    ends = "; ".join(f"{one.name} {value_text(one.points[-1].y)} at {value_text(one.points[-1].x)}" for one in drawn)
    svg = figures.lines(drawn, str(x), str(y), f"{y} by {x}. Last points: {ends}.", mark, reach)
    drawing = Drawing(drawn, str(x), str(y), mark, reach)
    return {"title": f"{y.name} by {x.name}", "svg": svg, "reliability": "", "drawing": drawing}


def accuracy(report: Report, task: str, looks: Looks) -> JsonObject | None:
    """Pair accuracy, by which reward models are usually compared, against the first measure that answers.

    A point a reward model, at the last checkpoint; None below two of them.
    """
    for column in answer.answering(report):
        series = []
        for outcome in answer.outcomes(report, task, column):
            known = pair_accuracy(outcome.arm)
            if outcome.estimate and outcome.estimate["value"] is not None and known is not None:
                label = outcome.arm["label"]
                series.append(Series(label, looks[label], [point(known, outcome.estimate)]))
        if len(series) > 1:  # one point shows no relation
            said = "; ".join(
                f"{s.name} accuracy {value_text(s.points[0].x)}, {column.title} {value_text(s.points[0].y)}"
                for s in series
            )
            drawn = figures.scatter(series, "pair accuracy", column.title, said, column.reference)
            return {
                "title": f"{column.title} by pair accuracy",
                "svg": drawn,
                "reliability": column.reliability,
                "drawing": Drawing(series, "pair accuracy", column.title, column.reference, lines=False),
            }
    return None


def histograms(report: Report, task: str) -> list[JsonObject]:
    """The distributions before and after, a figure for each arm and measure.

    From the report's `distributions`, which only a report with its cells has (`inside.distributions`).
    """
    labels = {arm["arm"]: arm["label"] for arm in report["arms"]}
    titles = {column.key: column.title for column in of_report(report)}
    found = []
    for row in (row for row in report.get("distributions", ()) if row["task"] == task):
        name, label = titles.get((row["judge"], row["statistic"]), row["statistic"]), labels[row["arm"]]
        ratio = pick(report, row["arm"], (row["judge"], f"{row['statistic']} variance ratio"))
        note = f"variance ratio {interval(ratio)}" if ratio and ratio["value"] is not None else ""
        said = f"{name} under {label}: {_spread(row, 'before')} before, {_spread(row, 'after')} after. {note}"
        drawn = figures.histogram(row["low"], row["width"], row["before"], row["after"], name, said)
        bins = Bins(row["low"], row["width"], row["before"], row["after"], name)
        found.append({"title": label, "note": note, "svg": drawn, "drawing": bins})
    return found


def _spread(row: Row, name: str) -> str:
    """The median of the distribution in words, from its bins: the middle of the one that holds it."""
    total, running = sum(row[name]), 0
    for k, count in enumerate(row[name]):
        running += count
        if 2 * running >= total:
            return f"median near {value_text(row['low'] + (k + 0.5) * row['width'])}"
    return "nothing"
