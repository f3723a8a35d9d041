"""`bench power`: how many training seeds and prompts a difference needs, from the spread in the cells of a pilot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness.cli.consoles import consoles
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.results import contrasts
from rlhf_bench.harness.results.arms import Arm, arms_of
from rlhf_bench.harness.results.contrasts import Where
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.table import Cell, Entry, Table
from rlhf_bench.harness.statistics import layer_plan
from rlhf_bench.harness.statistics.layers import Layers
from rlhf_bench.harness.statistics.power import Plan
from rlhf_bench.harness.statistics.power import table as plans_of
from rlhf_bench.reports import terminal

if TYPE_CHECKING:
    from rich.console import Console

SEEDS, PROMPTS = (1, 3, 5, 10), (100, 200, 500, 1000)
"""The designs that are shown."""


@dataclass(frozen=True)
class Pilot:
    """Cells [S, P] of one arm, or of the difference of two, and the source of each prompt."""

    name: str
    cells: npt.NDArray[np.float64]
    clusters: Sequence[str]
    layers: Layers | None = None


def power(
    runs: Sequence[Path],
    difference: float,
    judge: str,
    measure: str,
    task: str,
    reward_model: str,
    versus: str,
    level: float,
    width: float | None = None,
) -> int:
    """bench power

    `difference` is in the measure's unit, `level` that of the intervals.  `width`: how wide the interval may be, for
    pilots with seeds in layers (None: as wide as the difference).  Raises BenchError without a finished cell,
    for an unknown task, reward model, judge or measure, and for a difference that is not above 0.
    """
    stdout, _ = consoles(False)
    found, missing = find_cells(runs)
    if not found:
        raise BenchError("No cell is finished.", "; ".join(missing))
    arms = [arm for arm in arms_of(found) if task in ("", arm.task)]
    if not arms:
        raise BenchError(f"No finished cell of task {task!r}.", did_you_mean(task, {a.task for a in arms_of(found)}))
    if width is not None and width <= 0:
        raise BenchError(f"A width of {width:g}.", "Give a number above 0, such as .1.")
    for pilot in pilots(arms, Where(judge, measure), reward_model, versus):
        if pilot.layers is not None and len(pilot.cells) > 1:
            show_layers(stdout, pilot, f"{judge}.{measure}", width or difference, level)
            continue
        plans = plans_of(pilot.cells, difference, pilot.clusters, SEEDS, PROMPTS, level)
        terminal.show(stdout, plan_table(pilot, f"{judge}.{measure}", difference, plans))
        # designs share their notes: each is said once
        for note in dict.fromkeys(plan.note for plan in plans if plan.note):
            stdout.print(f"note: {note}", markup=False, soft_wrap=True)
    return 0


def show_layers(stdout: Console, pilot: Pilot, measure: str, width: float, level: float) -> None:
    """Where the spread of a pilot with seeds in layers comes from, and the designs whose interval is narrow enough."""
    assert pilot.layers is not None
    found = layer_plan.spread(pilot.cells, pilot.layers, pilot.clusters)
    if found is None:
        stdout.print(f"{measure} of {pilot.name} does not vary: nothing can be planned from it.", markup=False)
        return
    for table in layer_tables(found, f"{measure} of {pilot.name}", width, level):
        terminal.show(stdout, table)
    for sentence in filter(None, (layer_plan.advice(found), found.note and f"note: {found.note}")):
        stdout.print(sentence, markup=False, soft_wrap=True)


def layer_tables(found: layer_plan.Spread, name: str, width: float, level: float) -> Iterator[Table]:
    """The sources of the spread with their components, then the cheapest design for each number of prompts.

    "none would do": no design of up to MOST_DATA seeds of the outermost layer is narrow enough.
    """
    rows: list[tuple[Entry, ...]] = []
    for source in found.sources:
        known = found.components.get(source.name)
        shown = (
            (source.why,) * 3
            if source.share is None
            else (
                Cell(None if known is None else math.sqrt(known)),
                Cell(source.share, format="percent"),
                Cell(source.error, format="percent"),
            )
        )
        rows.append((layer_plan.SOURCES[source.name], Cell(source.levels, format="count"), *shown))
    columns = ("source", "of them", "standard deviation", "share of the variance", "share of the squared error")
    yield Table(f"Spread of {name}", columns, rows)
    designs: list[tuple[Entry, ...]] = []
    for prompts in PROMPTS:
        design = layer_plan.cheapest(found, width, prompts, level)
        numbers: Sequence[Entry] = ("none would do",) * 5
        if design is not None:
            expected = layer_plan.width(found, design, level)
            counts = (design.data, design.reward, design.seeds, design.runs)
            numbers = (*(Cell(count, format="count") for count in counts), Cell(expected))
        designs.append((Cell(prompts, format="count"), *numbers))
    head = ("prompts", "data seeds", "reward seeds in each", "seeds in each", "runs", "expected width")
    yield Table(f"Fewest runs for an interval at most {width:g} wide", head, designs)


def pilots(arms: Sequence[Arm], where: Where, reward_model: str, versus: str) -> Iterator[Pilot]:
    """The cells that planning starts from: of every arm, of the one named, or of its difference to another.

    Raises BenchError for a reward model without finished cells, and for `versus` without `reward_model`.
    """
    for name in filter(None, (reward_model, versus)):
        if name not in {arm.reward_model for arm in arms}:
            raise BenchError(f"No finished cell of {name!r}.", did_you_mean(name, {arm.reward_model for arm in arms}))
    if versus and not reward_model:
        raise BenchError(f"--versus {versus} needs --rm too.", "Name both reward models.")
    for arm in arms:
        if reward_model not in ("", arm.reward_model):
            continue
        # the same task, because a difference is taken prompt by prompt
        others = [b for b in arms if b.reward_model == versus and b.task == arm.task]
        for other in others if versus else [None]:
            # without --versus the arm is paired with itself, which selects its cells and changes nothing
            found = contrasts.paired(arm, other or arm, where)
            own, against = found.cells
            named = f"{arm.reward_model} - {versus}" if other else arm.reward_model
            cells = own - against if other else own
            yield Pilot(f"{named} on {arm.task}", cells, found.clusters, found.layers)


def plan_table(pilot: Pilot, measure: str, difference: float, plans: Sequence[Plan]) -> Table:
    """Designs with what they can find; after the fixed ones, for each number of seeds the fewest prompts that do.

    "none would do": no number of prompts finds the difference, because the spread between seeds stays.
    """
    rows = [
        (
            Cell(plan.seeds, format="count"),
            "none would do" if plan.prompts is None else Cell(plan.prompts, format="count"),
            Cell(plan.smallest_detectable),
            Cell(plan.power),
        )
        for plan in plans
    ]
    seeds, prompts = pilot.cells.shape
    title = f"{measure} of {pilot.name}, pilot of {seeds} seeds x {prompts} prompts"
    columns = ("seeds", "prompts", "smallest difference found (power .8)", f"power for {difference:g}")
    return Table(title, columns, rows)
