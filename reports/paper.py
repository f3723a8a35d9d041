"""The figures of a report as SVG and PDF for a paper: `bench report RUNS --figures DIR`, by matplotlib (extra figures).

The page draws the same numbers as SVG of its own (figures.py).  Here a figure is one column wide, its text has the size
that was asked for, and fonts are embedded: TrueType in PDF, outlines in SVG.  Equal reports give equal bytes with one
version of matplotlib: no times are written, and the font comes with the library.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.printable import printable
from rlhf_bench.harness.replacing import replacing
from rlhf_bench.reports import answer, canvas, charts
from rlhf_bench.reports.canvas import Forest, Style
from rlhf_bench.reports.figures import Bins, Drawing, Look
from rlhf_bench.reports.measures import Report, indexed, of_report, tasks
from rlhf_bench.reports.over_tasks import BASELINE
from rlhf_bench.reports.proxy import proxy_charts
from rlhf_bench.reports.tidy import slug

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row


class Named(NamedTuple):
    """A figure with its file name without an ending, and what it shows, for the list of figures."""

    name: str
    caption: str
    drawing: Drawing | Bins | Forest


def check_library() -> None:
    """Raises BenchError where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise BenchError("--figures needs the package matplotlib.", "pip install 'rlhf-bench[figures]'")


def drawings(report: Report) -> Iterator[Named]:
    """Every figure of the report: forests, frontiers, curves, pair accuracy, and histograms where it holds them."""
    report = indexed(report)
    # all in full: a figure for a paper has no reader who could choose some
    looks = {label: Look(k) for k, label in enumerate(dict.fromkeys(arm["label"] for arm in report["arms"]))}
    level = _level(report)
    taken: dict[str, int] = {}
    yield from _over_tasks(report)
    for task in tasks(report):
        for title, kind, said, drawing in _of_task(report, task, looks):
            name = slug(f"{task} {kind} {title}")
            taken[name] = taken.get(name, 0) + 1
            unique = name if taken[name] == 1 else f"{name}-{taken[name]}"
            ends = f"; {level} intervals" if level and has_intervals(drawing) else ""
            yield Named(unique, f"{title} on {task}{ends}{f'. {said}' if said else ''}", _titled(drawing, level))


def _over_tasks(report: Report) -> Iterator[Named]:
    """The means over tasks against the SFT baseline, a forest for each measure."""
    rows = [row for row in report.get("comparison", {}).get("over_tasks", ()) if row["versus"] == BASELINE]
    rows = [row for row in rows if row["value"] is not None]
    marks = {column.key: column.reference for column in of_report(report)}
    for judge, statistic in dict.fromkeys((row["judge"], row["statistic"]) for row in rows):
        own = [row for row in rows if (row["judge"], row["statistic"]) == (judge, statistic)]
        own.sort(key=lambda row: -row["value"])
        points = [charts.point(row["value"], row) for row in own]
        forest = Forest([row["label"] for row in own], points, own[0]["title"], marks.get((judge, statistic)))
        name = slug(f"over tasks forest {own[0]['title']}")
        level = f"{100 * own[0]['level']:.3g}%"
        said = f"Mean {own[0]['title']} over {', '.join(own[0]['tasks'])}; {level} intervals"
        yield Named(name, said, _titled(forest, level))


def _of_task(
    report: Report, task: str, looks: Mapping[str, Look]
) -> Iterator[tuple[str, str, str, Drawing | Bins | Forest]]:
    """(title, kind, remark, drawing)."""
    for column in answer.answering(report):
        found = [o for o in answer.outcomes(report, task, column) if o.estimate and o.estimate["value"] is not None]
        points = [charts.point(o.estimate["value"], o.estimate) for o in found if o.estimate]
        if points:
            names = [o.arm["label"] for o in found]
            unit = f"{column.title}, {column.unit}" if column.unit else column.title
            yield column.title, "forest", column.reliability, Forest(names, points, unit, column.reference)
    curves = (
        *charts.frontiers(report, task, looks),
        *charts.charts(report, task, looks),
        *filter(None, proxy_charts(report, task, looks)),
    )
    for chart in curves:
        yield chart["title"], "", chart["reliability"], chart["drawing"]
    for chart in charts.histograms(report, task):
        said = "Outline: before; filled: after." + (f" {chart['note']}." if chart["note"] else "")
        yield f"{chart['drawing'].x} of {chart['title']}", "histogram", said, chart["drawing"]


def _level(report: Report) -> str:
    levels = sorted({row["level"] for row in report["estimates"]})
    return ", ".join(f"{100 * level:.3g}%" for level in levels)


def has_intervals(drawing: Drawing | Bins | Forest) -> bool:
    """Whether some point of the figure has an interval."""
    if isinstance(drawing, Bins):
        return False
    points = drawing.points if isinstance(drawing, Forest) else [p for one in drawing.series for p in one.points]
    return any(p.low is not None and p.high is not None for p in points)


def _titled(drawing: Drawing | Bins | Forest, level: str) -> Drawing | Bins | Forest:
    """The axis with the intervals says their level."""
    if not level or isinstance(drawing, Bins) or not has_intervals(drawing):
        return drawing
    if isinstance(drawing, Forest):
        return drawing._replace(x=f"{drawing.x} ({level} interval)")
    return drawing._replace(y=f"{drawing.y} ({level} interval)")


def write(report: Row, out: Path, style: Style) -> list[Path]:
    """Write NAME.svg and NAME.pdf of every figure, and figures.md, which says what each shows; returns the paths.

    Raises BenchError without matplotlib, for a report without a figure, and where `out` cannot be written.
    """
    check_library()
    found = list(drawings(report))
    if not found:
        raise BenchError("The report has no figure.", "Give runs with finished cells that a judge measured.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = [path for one in found for path in _write(one, out, style)]
        lines = [f"- `{one.name}`: {' '.join(printable(one.caption).split())}" for one in found]
        size = f"{style.width:g} in wide, text of {style.font:g} pt"
        with replacing(out / "figures.md") as aside:
            aside.write_text("\n".join([f"# Figures, {size}", "", *lines, ""]), encoding="utf-8", newline="\n")
    except OSError as error:
        raise BenchError(f"Cannot write to {out}: {error.strerror}.", "Give another --figures.") from None
    return [*written, out / "figures.md"]


def _write(one: Named, out: Path, style: Style) -> Iterator[Path]:
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # a script's letters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        matplotlib.rcdefaults()  # not the user's own settings
        matplotlib.rcParams.update(canvas.settings(style))
        figure = canvas.draw(one.drawing, style)
        for ending, times in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
            with replacing(out / f"{one.name}.{ending}") as aside:
                figure.savefig(aside, format=ending, metadata=times)
            yield out / f"{one.name}.{ending}"
