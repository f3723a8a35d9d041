"""Figures as inline SVG, drawn from numbers alone.

Colours, fonts and line widths are classes of page.css, so that one drawing serves light, dark and print.  The label of
every figure says in words what it shows; its numbers are in a table.  Intervals in a table's cell use percentages
instead of a view box: they stretch with the cell, and points and lines keep their shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

SLOTS = 8
"""Number of colours and markers; further series repeat them with dashed lines."""

LEFT, RIGHT, TOP, BOTTOM = 44.0, 14.0, 16.0, 38.0
"""Margins around the axes, in units of the view box."""

LONGEST, CHARACTER, LINE = 26, 5.7, 11.0
"""Labels in a figure: at most so many characters, the width of one and the height of a line in the view box."""

MARKERS = (
    "M-3.5,0a3.5,3.5 0 1,0 7,0a3.5,3.5 0 1,0 -7,0",
    "M-3.2,-3.2h6.4v6.4h-6.4z",
    "M0,-4.2L4,3H-4z",
    "M0,-4.6L4.2,0L0,4.6L-4.2,0z",
    "M0,4.2L4,-3H-4z",
    "M-1.4,-4h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6v-2.8h2.6z",
    "M0,-4.5L4.3,-1.4L2.6,3.6H-2.6L-4.3,-1.4z",
    "M-4,-4H4L-4,4H4z",
)


class Axis(NamedTuple):
    """A range with round numbers on it, its ticks, which ascend from `low` to `high`."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """The place of `value` from 0 (low end) to 1 (high end); values beyond an end are drawn at it."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


class Plot(NamedTuple):
    """Two axes, and the size of the drawing in units of its view box.

    `x` and `y` turn values into places; y counts from the top, as in SVG.  Places have two decimals, which keeps the
    page small.
    """

    across: Axis
    up: Axis
    width: float = 360.0
    height: float = 220.0
    right: float = RIGHT

    def x(self, value: float) -> float:
        return round(LEFT + self.across.share(value) * (self.width - LEFT - self.right), 2)

    def y(self, value: float) -> float:
        return round(self.height - BOTTOM - self.up.share(value) * (self.height - TOP - BOTTOM), 2)


class Point(NamedTuple):
    """A point with its interval in y, None where there is none."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


class Look(NamedTuple):
    """How a series is drawn: `slot` chooses colour and marker, a faint one has no label at its end."""

    slot: int
    faint: bool = False


class Series(NamedTuple):
    """A named line.

    A label has one slot on a whole page, so that a reward model looks the same in every figure (`view.view`).
    """

    name: str
    look: Look
    points: Sequence[Point]

    @property
    def color(self) -> str:
        """The class of its colour."""
        return f"s{self.look.slot % SLOTS}"


class Drawing(NamedTuple):
    """What a figure shows, for `paper.py`, which draws it with another library: the same series on the same axes.

    `lines`: whether the points of a series are joined.  `mark`: the reference value in y.  `reach`: what the y axis
    reaches at least.  `x`, `y`: names of the axes with their units.
    """

    series: Sequence[Series]
    x: str
    y: str
    mark: float | None = None
    reach: float | None = None
    lines: bool = True


class Bins(NamedTuple):
    """A histogram: counts by bin before and after, the first bin from `low`, all of one `width`; `x` names the axis."""

    low: float
    width: float
    before: Sequence[int]
    after: Sequence[int]
    x: str


def axis(values: Sequence[float], marks: int = 5) -> Axis:
    """The range of `values`, widened to round numbers with about `marks` ticks.

    Steps are 1, 2 or 5 times a power of ten; no values give the range from 0 to 1.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-9 * max(1.0, abs(low), abs(high)):  # all equal: an axis needs a width
        low, high = low - 0.5 * max(1.0, abs(low)), high + 0.5 * max(1.0, abs(high))
    rough = (high - low) / marks
    power: float = 10.0 ** math.floor(math.log10(rough))  # the step lies between it and ten times it
    # .999: a rounding error must not pick the next larger step
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough * 0.999)
    # 1e-9: an end that is a multiple of the step but for rounding must not widen the axis by a whole step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(k * step, 12) for k in range(first, last + 1))  # .3, not .30000000000000004
    return Axis(ticks[0], ticks[-1], ticks)


def tight(values: Sequence[float], marks: int = 5) -> Axis:
    """The range of `values`, not widened, with about `marks` round numbers within.

    For axes whose ends mean something, such as a KL of 0; widened all the same where fewer than two round numbers lie
    within.
    """
    wide = axis(values, marks)
    low, high = min(values, default=wide.low), max(values, default=wide.high)
    ticks = tuple(tick for tick in wide.ticks if low <= tick <= high)
    return Axis(low, high, ticks) if len(ticks) > 1 else wide


def label(value: float) -> str:
    """A tick's number, with a real minus sign."""
    return f"{value:.4g}".replace("-", "−")


def marker(slot: int) -> Markup:
    """The marker of a series for a legend.

    Hidden from screen readers: the label stands beside it.
    """
    shape = f'<path d="{MARKERS[slot % SLOTS]}"/>'
    return Markup(f'<svg class="key s{slot % SLOTS}" viewBox="-6 -6 12 12" aria-hidden="true">{shape}</svg>')


def interval_bar(value: float | None, low: float | None, high: float | None, scale: Axis, mark: float | None) -> Markup:
    """One row of a forest plot: the interval, the estimate, and a line at the reference value `mark`.

    The point is filled where the whole interval lies on one side of the line, and an open circle otherwise.
    """
    parts = []
    if mark is not None:
        place = _percent(scale.share(mark))
        parts.append(f'<line class="mark" x1="{place}" x2="{place}" y1="0" y2="100%"/>')
    # the same rule as answer.side, for the eye
    clear = mark is None or (low is not None and high is not None and (low > mark or high < mark))
    if low is not None and high is not None:
        ends = (_percent(scale.share(low)), _percent(scale.share(high)))
        parts.append(f'<line class="whisker" x1="{ends[0]}" x2="{ends[1]}" y1="50%" y2="50%"/>')
    if value is not None:
        name = "dot" if clear else "dot open"
        parts.append(f'<circle class="{name}" cx="{_percent(scale.share(value))}" cy="50%" r="4.5"/>')
    return Markup(f'<svg class="bar" aria-hidden="true">{"".join(parts)}</svg>')


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def bar_axis(scale: Axis, mark: float | None = None) -> Markup:
    """The scale below a forest plot; a narrow page labels its ends and the reference value `mark` alone."""
    parts = []
    for tick in scale.ticks:
        place = scale.share(tick)
        # labels at the ends stay inside the cell
        anchor = "start" if place < 0.02 else "end" if place > 0.98 else "middle"
        parts.append(f'<line class="tickmark" x1="{_percent(place)}" x2="{_percent(place)}" y1="0" y2="5"/>')
        minor = "" if tick in (scale.low, scale.high, mark) else " minor"
        parts.append(
            f'<text class="tick{minor}" x="{_percent(place)}" y="18" text-anchor="{anchor}">{label(tick)}</text>'
        )
    return Markup(f'<svg class="bar scale" aria-hidden="true">{"".join(parts)}</svg>')


def lines(
    series: Sequence[Series], x: str, y: str, description: str, mark: float | None = None, reach: float | None = None
) -> Markup:
    """Lines with bands over their intervals; `mark` is a horizontal line at the reference value.

    The x axis begins at 0; the y axis reaches at least from 0 to `reach`, so that tiny values do not look large.
    """
    plot = _wide(tight([0.0, *(p.x for one in series for p in one.points)]), _up(series, mark, reach), series)
    parts = [*_frame(plot, x, y), *_mark(plot, mark)]
    ordered = sorted(series, key=lambda one: not one.look.faint)  # faint ones lie below
    # all bands before all lines: a band must not cover the line of another series
    for one in ordered:
        known = [(p.x, p.low, p.high) for p in one.points if p.low is not None and p.high is not None]
        if len(known) > 1:  # one interval spans no area
            top = [f"{plot.x(at)},{plot.y(high)}" for at, _, high in known]
            bottom = [f"{plot.x(at)},{plot.y(low)}" for at, low, _ in reversed(known)]  # back, to close the outline
            parts.append(_grouped(one, [f'<polygon class="band {one.color}" points="{" ".join([*top, *bottom])}"/>']))
    for one in ordered:
        places = [(plot.x(p.x), plot.y(p.y)) for p in one.points]
        dashed = " dashed" if one.look.slot >= SLOTS else ""
        path = " ".join(f"{x},{y}" for x, y in places)
        line = f'<polyline class="line {one.color}{dashed}" points="{path}"/>'
        parts.append(_grouped(one, [line, *(_marker(one, x, y) for x, y in places)]))
    ends = [(one, plot.x(one.points[-1].x), plot.y(one.points[-1].y)) for one in series]
    return _figure([*parts, *_labels(ends, plot)], plot, description)


def scatter(series: Sequence[Series], x: str, y: str, description: str, mark: float | None = None) -> Markup:
    """Points with their intervals in y, each series without a line between its points."""
    plot = _wide(axis([p.x for one in series for p in one.points]), _up(series, mark), series)
    parts = [*_frame(plot, x, y), *_mark(plot, mark)]
    for one in sorted(series, key=lambda one: not one.look.faint):
        drawn = []
        for p in one.points:
            place = plot.x(p.x)
            if p.low is not None and p.high is not None:
                ends = f'y1="{plot.y(p.low)}" y2="{plot.y(p.high)}"'
                drawn.append(f'<line class="error {one.color}" x1="{place}" x2="{place}" {ends}/>')
            drawn.append(_marker(one, place, plot.y(p.y)))
        parts.append(_grouped(one, drawn))
    ends_of = [(one, plot.x(one.points[-1].x), plot.y(one.points[-1].y)) for one in series if one.points]
    return _figure([*parts, *_labels(ends_of, plot)], plot, description)


def histogram(
    low: float, width: float, before: Sequence[int], after: Sequence[int], x: str, description: str
) -> Markup:
    """Two distributions over the same bins: before as an outline, after filled.

    `before` and `after` are counts by bin, the first bin from `low`, all of one `width`.
    """
    up = axis([0.0, float(max([*before, *after, 1]))], 3)
    plot = Plot(tight([low, low + width * len(before)], 4), up, 270.0, 190.0)
    parts = list(_frame(plot, x, "responses"))
    for k, count in enumerate(after):
        left, right = plot.x(low + k * width), plot.x(low + (k + 1) * width)
        # .6: a gap between bars, of which very narrow ones keep half a unit
        box = f'x="{left}" y="{plot.y(count)}" width="{max(0.5, round(right - left - 0.6, 2))}"'
        if count:  # a bar of no height would still draw its border
            parts.append(f'<rect class="after" {box} height="{round(plot.y(0) - plot.y(count), 2)}"/>')
    steps = [f"V{plot.y(count)}H{plot.x(low + (k + 1) * width)}" for k, count in enumerate(before)]
    parts.append(f'<path class="before" d="M{plot.x(low)},{plot.y(0)}{"".join(steps)}V{plot.y(0)}"/>')
    return _figure(parts, plot, description)


def _wide(across: Axis, up: Axis, series: Sequence[Series]) -> Plot:
    """A plot with room on the right for the labels of its series, which stand beside their last points."""
    longest = max((len(_short(one.name)) for one in series), default=0)
    return Plot(across, up, 360.0 + CHARACTER * longest, 220.0, RIGHT + CHARACTER * longest)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _grouped(one: Series, parts: Sequence[str]) -> str:
    """The parts of a series, which the page's script makes faint or not as one."""
    faint = " faint" if one.look.faint else ""
    return f'<g class="series{faint}" data-series="{one.look.slot}">{"".join(parts)}</g>'


def _labels(ends: Sequence[tuple[Series, float, float]], plot: Plot) -> Iterator[str]:
    """The names of the series beside their last points, moved apart; of all, so that a faint one can be chosen."""
    placed: list[float] = []
    lowest, highest = TOP + 4, plot.height - BOTTOM + 4
    # the ones that are shown first take their places before the others, which are hidden
    for one, x, y in sorted(ends, key=lambda end: (end[0].look.faint, end[2])):
        shown = [] if one.look.faint else placed
        near = (y + k * sign * LINE / 2 for k in range(2 * len(shown) + 2) for sign in (1, -1))
        free = (at for at in near if lowest <= at <= highest and all(abs(at - other) >= LINE for other in shown))
        at = next(free, y)
        shown.append(at)
        name = f'<text class="label {one.color}" x="{x + 7:g}" y="{at + 3.5:.1f}">{escape(_short(one.name))}</text>'
        yield _grouped(one, [name])


def _up(series: Sequence[Series], mark: float | None, reach: float | None = None) -> Axis:
    points = [point for one in series for point in one.points]
    known = [v for p in points for v in (p.y, p.low, p.high, mark) if v is not None]  # the mark must be in sight
    return axis([*known, *([0.0, reach] if reach is not None else [])])


def _figure(parts: Sequence[str], plot: Plot, description: str) -> Markup:
    box = f'viewBox="0 0 {plot.width:g} {plot.height:g}"'
    # parts are markup: text in them was escaped where they were made
    return Markup(f'<svg class="chart" role="img" aria-label="{escape(description)}" {box}>{"".join(parts)}</svg>')


def _frame(plot: Plot, x: str, y: str) -> Iterator[str]:
    """Grid, ticks and names of the axes."""
    right, bottom = plot.width - plot.right, plot.height - BOTTOM
    for tick in plot.up.ticks:
        at = plot.y(tick)
        yield f'<line class="grid" x1="{LEFT:g}" x2="{right:g}" y1="{at}" y2="{at}"/>'
        yield f'<text class="tick" x="{LEFT - 6:g}" y="{at + 3.5:g}" text-anchor="end">{label(tick)}</text>'
    for tick in plot.across.ticks:
        at = plot.x(tick)
        yield f'<line class="tickmark" x1="{at}" x2="{at}" y1="{bottom:g}" y2="{bottom + 4:g}"/>'
        yield f'<text class="tick" x="{at}" y="{bottom + 16:g}" text-anchor="middle">{label(tick)}</text>'
    yield f'<text class="name" x="{right:g}" y="{plot.height - 5:g}" text-anchor="end">{escape(x)}</text>'
    yield f'<text class="name" x="{LEFT:g}" y="{TOP - 6:g}">{escape(y)}</text>'


def _mark(plot: Plot, mark: float | None) -> list[str]:
    if mark is None:
        return []
    return [
        f'<line class="mark" x1="{LEFT:g}" x2="{plot.width - plot.right:g}" y1="{plot.y(mark)}" y2="{plot.y(mark)}"/>'
    ]


def _marker(one: Series, x: float, y: float) -> str:
    shape, title = MARKERS[one.look.slot % SLOTS], f"<title>{escape(one.name)}</title>"
    return f'<path class="point {one.color}" transform="translate({x} {y})" d="{shape}">{title}</path>'
