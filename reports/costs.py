"""What the runs of a report cost: time, memory, tokens and FLOP by kind of stage, for the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlhf_bench.harness.results.table import Cell, Table
from rlhf_bench.reports import figures
from rlhf_bench.reports.measures import Report
from rlhf_bench.reports.shown import shown

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

ORDER = {kind: place for place, kind in enumerate(("sft", "prompts", "pairs", "baseline", "reward", "scale", "ppo"))}
"""Kinds of stages as a run makes them; others follow."""
MINUTE, HOUR = 60, 3600
"""Seconds."""


def of_arms(report: Report) -> JsonObject | None:
    """The processor time of a run by arm and kind of stage, None where no arm has it."""
    known = [arm for arm in report["arms"] if arm.get("cpu_seconds")]
    kinds = sorted({kind for arm in known for kind in arm["cpu_seconds"]}, key=lambda kind: ORDER.get(kind, len(ORDER)))
    rows = [
        (arm["task"], arm["label"], *(Cell(arm["cpu_seconds"].get(kind), format="seconds") for kind in kinds),
         Cell(sum(arm["cpu_seconds"].values()), format="seconds"))
        for arm in known
    ]  # fmt: skip
    note = "Seconds, means over an arm's runs, without judging; stages that arms share count in each of them."
    columns = ("task", "reward model", *kinds, "all")
    return shown(Table("Processor time of a run", columns, rows, note)) if rows else None


def cost(manifest: Row) -> JsonObject:
    """Time by kind of stage, the largest first, and every stage.

    Shares are of the seconds of all stages, each counted once.  Tokens and FLOP come from stages that record them.
    """
    kinds: dict[str, list[Row]] = {}
    for name, stage in manifest["stages"].items():
        kinds.setdefault(name.split(" ")[0], []).append(stage)  # stages are named "KIND LABEL-KEY"
    total = sum(stage["seconds"] for stage in manifest["stages"].values()) or 1.0  # never 0: shares divide by it
    rows = [
        {
            "kind": kind,
            "count": len(stages),
            "seconds": _sum(stages, "seconds"),
            "shown": duration(_sum(stages, "seconds")),
            "cpu": duration(_sum(stages, "cpu_seconds")),
            "memory": memory(stages),
            "tokens": amount(stages, "tokens"),
            "flop": amount(stages, "flop"),
            "share": f"{_sum(stages, 'seconds') / total:.0%}",
            "bar": figures.interval_bar(None, 0.0, _sum(stages, "seconds") / total, figures.Axis(0.0, 1.0, ()), None),
        }
        for kind, stages in kinds.items()
    ]
    stages = [
        (name, *(Cell(stage[key], format="seconds") for key in ("seconds", "cpu_seconds")), stage["device"])
        for name, stage in manifest["stages"].items()
    ]
    return {
        "rows": sorted(rows, key=lambda r: (-r["seconds"], r["kind"])),
        "total": duration(total),
        "stages": shown(Table("Every stage", ("stage", "seconds", "CPU seconds", "device"), stages)),
    }


def _sum(stages: Iterable[Row], name: str) -> float:
    return float(sum(stage[name] or 0.0 for stage in stages))


def memory(stages: Iterable[Row]) -> str:
    """The largest peak of a stage's process, a dash where none was recorded."""
    known = [stage["peak_memory_mb"] for stage in stages if stage.get("peak_memory_mb") is not None]
    return f"{max(known):.0f} MB" if known else "–"


def amount(stages: Iterable[Row], name: str) -> str:
    """The sum of a figure over the stages that have it, such as 1.2M; a dash where none has."""
    known = [stage["figures"][name] for stage in stages if stage["figures"].get(name)]
    if not known:
        return "–"
    total, units = sum(known), iter(("", "k", "M", "G", "T", "P", "E"))  # FLOP of a large policy reach E, 10^18
    unit = next(units)
    while total >= 1000 and unit != "E":
        total, unit = total / 1000, next(units)
    return f"{total:.3g}{unit}"


def duration(seconds: float) -> str:
    """Seconds in s, min or h."""
    if seconds >= HOUR:
        return f"{seconds / HOUR:.1f} h"
    return f"{seconds / MINUTE:.1f} min" if seconds >= 2 * MINUTE else f"{seconds:.1f} s"
