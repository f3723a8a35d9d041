"""Figures on the canvas of matplotlib, which paper.py writes to files.  The library is imported where it is used."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlhf_bench.harness.printable import printable
from rlhf_bench.reports.figures import Bins, Drawing, Point, Series

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe and Ito, Color Universal Design (2008), with grey for their yellow, which is too light for lines on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "p", "X")
SOFT = "#565b65"
DIRECT, SHORT = 6, 24
"""How many series, with names of how many characters, are named at their ends; others have a key below the axes."""
WRAP = 18
"""Characters of a label's line at the end of a series."""
LONGEST = 80
"""Characters that are shown of a name."""


class Style(NamedTuple):
    """`width` in inches; `font`, the size of all text, in points."""

    width: float = 3.25
    font: float = 8.0


class Forest(NamedTuple):
    """One measure of every arm, the best first: names, points (x is the value), and the reference value."""

    names: Sequence[str]
    points: Sequence[Point]
    x: str
    mark: float | None


def settings(style: Style) -> dict[str, object]:
    """matplotlib's settings.  All text has one size; titles come from judges and models, and are no formulas."""
    sizes = ("axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    return {
        **dict.fromkeys(("font.size", *sizes), style.font),
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],  # comes with matplotlib
        "pdf.fonttype": 42,  # TrueType, as journals ask for
        "svg.fonttype": "path",
        "svg.hashsalt": "rlhf-bench",  # else names within a file are drawn at random
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "lines.linewidth": 1.2,
        "lines.markersize": 3.5,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }


def draw(drawing: Drawing | Bins | Forest, style: Style) -> Any:
    """The `matplotlib.figure.Figure` of a drawing."""
    from matplotlib.figure import Figure

    line = style.font * 1.25 / 72  # inches
    if isinstance(drawing, Forest):
        names = [_wrapped(name, 22) for name in drawing.names]
        heights = [1.5 + 1.05 * name.count("\n") for name in names]  # in lines
        figure = Figure(figsize=(style.width, (4 + sum(heights)) * line))
        _forest(figure.add_subplot(), drawing, names, heights)
        return figure
    if isinstance(drawing, Bins):
        figure = Figure(figsize=(style.width, 0.55 * style.width))
        _histogram(figure.add_subplot(), drawing)
        return figure
    names = [one.name for one in drawing.series]
    direct = len(names) <= DIRECT and max(map(len, names)) <= SHORT
    height = 0.65 * style.width
    share = line / (0.7 * height)  # of the axes' height
    if direct and not drawing.lines:
        direct = _apart([one.points[-1].y for one in drawing.series], 2 * share)
    wide = int(0.85 * style.width / _character(style.font))
    keys = [_wrapped(name, wide) for name in names]
    below = 0.0 if direct else 1.15 * line * sum(1 + key.count("\n") for key in keys)
    figure = Figure(figsize=(style.width, height + below))
    axes = figure.add_subplot()
    drawn = _series(axes, drawing)
    if not direct:
        figure.legend(drawn, keys, loc="outside lower left", handlelength=1.6, labelspacing=0.25)
    elif drawing.lines:
        _named_at_ends(axes, drawing.series, share)
    else:
        _named_beside(axes, drawing.series)
    return figure


def _apart(values: Sequence[float], share: float) -> bool:
    """Whether values differ from one another by this share of their range."""
    found = sorted(values)
    return all(b - a >= share * (found[-1] - found[0]) > 0 for a, b in itertools.pairwise(found))


def _forest(axes: Any, forest: Forest, names: Sequence[str], heights: Sequence[float]) -> None:
    """`heights`: of the names, in lines; the first name is on top."""
    top = sum(heights)
    places = [top - sum(heights[:k]) - height / 2 for k, height in enumerate(heights)]
    if forest.mark is not None:
        axes.axvline(forest.mark, color=SOFT, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    for place, point in zip(places, forest.points, strict=True):
        low, high, mark = point.low, point.high, forest.mark
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=PALETTE[0], solid_capstyle="butt")
        # filled where the whole interval lies on one side, as on the page
        clear = mark is None or (low is not None and high is not None and (low > mark or high < mark))
        axes.plot(point.x, place, "o", color=PALETTE[0], markerfacecolor=PALETTE[0] if clear else "white")
    axes.set_yticks(places, labels=names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(0, top)
    axes.set_xlabel(across(axes, forest.x))
    axes.locator_params(axis="x", nbins=5)


def _histogram(axes: Any, bins: Bins) -> None:
    edges = [bins.low + k * bins.width for k in range(len(bins.before) + 1)]
    axes.stairs(bins.after, edges, fill=True, color=PALETTE[5], label="after")
    axes.stairs(bins.before, edges, color="black", linewidth=0.9, label="before")
    axes.legend(handlelength=1.2)
    axes.set_xlabel(across(axes, bins.x))
    axes.set_ylabel("responses")
    axes.locator_params(nbins=5)


def _series(axes: Any, drawing: Drawing) -> list[Any]:
    """Draw the series and name the axes; returns a line of each series, for a key."""
    found: list[Any] = []
    if drawing.mark is not None:
        axes.axhline(drawing.mark, color=SOFT, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    for one in drawing.series:
        colour, marker = PALETTE[one.look.slot % len(PALETTE)], MARKERS[one.look.slot % len(MARKERS)]
        known = [(p.x, p.low, p.high) for p in one.points if p.low is not None and p.high is not None]
        # a band of points that go back and forth in x would cross itself
        ahead = all(a[0] < b[0] for a, b in itertools.pairwise(known))
        if drawing.lines and len(known) > 1 and ahead:
            axes.fill_between(*zip(*known, strict=True), color=colour, alpha=0.15, linewidth=0)
        else:
            for at, low, high in known:
                axes.plot([at, at], [low, high], color=colour, linewidth=0.9)
        # a ninth series repeats the first one's colour, dashed
        style = "none" if not drawing.lines else "--" if one.look.slot >= len(PALETTE) else "-"
        xs, ys = [p.x for p in one.points], [p.y for p in one.points]
        # of dense curves a tenth of the points have markers
        every = max(1, len(xs) // 10)
        found += axes.plot(xs, ys, color=colour, marker=marker, linestyle=style, markevery=every)
    if drawing.lines and min(p.x for one in drawing.series for p in one.points) >= 0:
        axes.set_xlim(left=0)
    if drawing.reach is not None:
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.0), max(high, drawing.reach))
    axes.set_xlabel(across(axes, drawing.x))
    axes.set_title(_shown(drawing.y), loc="left", pad=4)  # across, where there is more room than along the axis
    axes.locator_params(nbins=5)
    return found


def _named_at_ends(axes: Any, series: Sequence[Series], line: float) -> None:
    """The name of every series to the right of the axes, at the height of its last point, and a line to it.

    `line`: the height of a line of text as a share of the axes.  Names are moved apart where they would overlap.
    """
    low, high = axes.get_ylim()
    low_x, high_x = axes.get_xlim()
    ends = sorted((((one.points[-1].y - low) / (high - low)), k) for k, one in enumerate(series))
    names = [_wrapped(series[k].name, WRAP) for _, k in ends]
    heights = [line * (1 + name.count("\n")) for name in names]
    for (at, k), place, name in zip(ends, spread([at for at, _ in ends], heights), names, strict=True):
        colour = PALETTE[series[k].look.slot % len(PALETTE)]
        start = (series[k].points[-1].x - low_x) / (high_x - low_x)
        axes.plot(
            [start, 1.03], [at, place], transform=axes.transAxes, color=colour, linewidth=0.5, clip_on=False, zorder=1
        )
        axes.text(1.05, place, name, transform=axes.transAxes, va="center", linespacing=1.0)


def _named_beside(axes: Any, series: Sequence[Series]) -> None:
    """The name of every series of one point beside it, on the side that has more room."""
    low, high = axes.get_xlim()
    for one in series:
        point = one.points[-1]
        right = point.x < (low + high) / 2
        axes.annotate(
            _wrapped(one.name, WRAP),
            (point.x, point.y),
            xytext=(5 if right else -5, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            linespacing=1.0,
        )


def spread(places: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Ascending places, moved apart so that texts of these heights do not overlap; back below 1 where there is room."""
    found: list[float] = []
    for place, height in zip(places, heights, strict=True):
        least = found[-1] + (heights[len(found) - 1] + height) / 2 if found else 0.0
        found.append(max(place, least))
    over = max(0.0, found[-1] - 1.0) if found else 0.0
    for k in reversed(range(len(found))):
        top = found[k + 1] - (heights[k + 1] + heights[k]) / 2 if k + 1 < len(found) else found[k] - over
        found[k] = min(found[k], top)
    return found


def _shown(name: str) -> str:
    shown = printable(name)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def across(axes: Any, name: str) -> str:
    """The name of an x axis, in lines that a narrow figure has room for beside its labels."""
    import matplotlib

    return _wrapped(name, max(12, int(0.6 * axes.figure.get_figwidth() / _character(matplotlib.rcParams["font.size"]))))


def _character(font: float) -> float:
    """The mean width of DejaVu Sans' letters in inches, of a size in points."""
    return 0.56 * font / 72


def _wrapped(name: str, width: int) -> str:
    # names of settings have no spaces to break at
    return "\n".join(textwrap.wrap(_shown(name), width)) or " "
