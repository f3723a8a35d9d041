"""The page of `bench watch`, and what it shows as JSON: of a results folder that may come from someone else.

Every text of a record is made printable and cut here, and reaches the page as the value of `textContent` alone
(watch.js).  The Content-Security-Policy is that of a report, and allows requests to the page's own server beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from rlhf_bench.harness import store
from rlhf_bench.harness.printable import printable, well_formed
from rlhf_bench.harness.results.training import FIGURES, latest
from rlhf_bench.reports import html
from rlhf_bench.reports.inside import embedded

if TYPE_CHECKING:
    from rlhf_bench.harness.results.status import DriverStatus
    from rlhf_bench.harness.results.watched import Curves, InProgress, Look, WatchedCell
    from rlhf_bench.harness.text.types import JsonObject

SCRIPTS, STYLES = ("page.js", "watch.js"), ("page.css", "watch.css")
LONGEST = 400
"""Characters of a text of a record that are shown."""
MOST, MOST_CELLS, POINTS = 60, 3000, 500
"""Entries of a list, cells, and points of a curve that are shown."""


def page(name: str) -> tuple[str, str]:
    """(the HTML document, its Content-Security-Policy) of the results folder `name`.  It asks for all else."""
    script, style = ("\n".join(map(html.packaged, names)) for names in (SCRIPTS, STYLES))
    policy = f"{html.policy(script, style)}; connect-src 'self'"
    text: str = html.template("watch.html").render(
        name=shown(name), script=Markup(script), style=Markup(style), policy=policy,
        json=Markup(embedded({"figures": list(FIGURES)})),
    )  # fmt: skip
    return text, policy


def status_view(look: Look) -> JsonObject:
    """What the page shows of a results folder, as JSON; the curves come cell by cell (`curves_view`)."""
    left = look.seconds_left
    failed = [(stage.stage.name, stage.error) for one in look.drivers for stage in one.of("failed")]
    # dead drivers without anything to say make no list
    drivers = [one for one in look.drivers if one.driver.alive or one.of("failed", "stopped", "waiting")]
    return {
        "time": look.time,
        "finished": look.finished[0],
        "all": look.finished[1],
        "left": left and {"seconds": left[0], "known": left[1]},
        "drivers": [_driver(one) for one in drivers[-MOST:]],
        "stages": [_stage(one) for one in look.in_progress[:MOST]],
        "failed": [{"name": shown(name), "error": shown(error)} for name, error in failed[:MOST]],
        "cells": [cell_row(cell) for cell in look.cells[:MOST_CELLS]],
        "problems": [shown(problem) for problem in look.problems[:MOST]],
        "left_out": {
            "drivers": max(0, len(drivers) - MOST),
            "stages": max(0, len(look.in_progress) - MOST),
            "failed": max(0, len(failed) - MOST),
            "cells": max(0, len(look.cells) - MOST_CELLS),
            "problems": max(0, len(look.problems) - MOST),
        },
    }


def cell_row(cell: WatchedCell) -> JsonObject:
    """A cell in the page's list."""
    return {
        "id": cell_id(cell),
        "name": shown(cell.name),
        "state": cell.state,
        "done": cell.done,
        "total": cell.total,
        "version": cell.version,
    }


def cell_id(cell: WatchedCell) -> str:
    """What names a cell in an address: hexadecimal digits, whatever its record is called."""
    return store.content_key(cell.name)[:16]


def curves_view(cell: WatchedCell, curves: Curves, problems: Iterable[str]) -> JsonObject:
    """The curves of a cell as JSON: [iteration, value] by figure, at most POINTS of each."""
    lines: dict[str, list[tuple[int, float]]] = {name: [] for name in FIGURES}
    for row in curves.rows:
        for name, value in latest(row).items():
            lines[name].append((int(row["iteration"]), value))
    return {
        "id": cell_id(cell),
        "name": shown(cell.name),
        "version": cell.version,
        "lines": {name: _thinned(points) for name, points in (*lines.items(), ("gold", curves.gold))},
        "alarms": [shown(sentence) for sentence in curves.alarms],
        "problems": [shown(problem) for problem in problems],
    }


def _driver(one: DriverStatus) -> JsonObject:
    plan, (seconds, known) = one.driver.plan, one.seconds_left
    return {
        "process": shown(f"{plan['pid']} on {plan['host']}"),
        "command": shown(plan["command"]),
        "state": one.state,
        "since": float(plan["time"]),
        "done": len(one.of("done")),
        "total": len(one.stages),
        "running": len(one.of("running")),
        "failed": len(one.of("failed")),
        "left": {"seconds": seconds, "known": known} if one.driver.alive else None,
    }


def _stage(one: InProgress) -> JsonObject:
    status, plan = one.status, one.driver.driver.plan
    return {
        "name": shown(status.stage.name),
        "process": shown(f"{plan['pid']} on {plan['host']}"),
        "state": status.state,
        "since": status.since,
        "done": status.done,
        "total": status.total,
        "left": status.left,
        "iteration": int(one.rows[-1]["iteration"]) if one.rows else None,
        "figures": latest(one.rows[-1]) if one.rows else None,
        "alarms": [shown(sentence) for sentence in one.alarms.values()],
    }


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most POINTS of the points, evenly spread, the last one included."""
    step = -(-len(points) // POINTS) or 1
    return [point for at, point in enumerate(points) if (len(points) - 1 - at) % step == 0]


def shown(text: str) -> str:
    """A text of a record as the page gets it: printable, and cut."""
    text = printable(well_formed(text[: LONGEST + 1]))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
