"""How much of the spread is data, reward model, PPO and prompts: rows of a report for arms with seeds in layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.contrasts import Where, paired
from rlhf_bench.harness.results.sheets import Sheets
from rlhf_bench.harness.results.table import Entry, Table
from rlhf_bench.harness.seeds import layers_of
from rlhf_bench.harness.statistics.layer_plan import SOURCES, Spread, advice, spread
from rlhf_bench.reports.measures import RUN, Report, described

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject


def layer_rows(arms: Sequence[Arm], labels: Mapping[str, str]) -> Iterator[JsonObject]:
    """A row for every arm with layers and measure of the headline, sampled, at the last checkpoint, over all prompts.

    `sources` by name: share of the variance of one value, part of the squared error of the mean (both None where the
    design cannot tell, with the reason as `why`), and the number of levels.  `next` says what to repeat.
    """
    sheets = Sheets()
    for arm in arms:
        levels = layers_of(arm.seeds)
        if levels is None or len(arm.seeds) < 2:
            continue
        for column in described([arm]):
            if column.judge == RUN or "headline" not in column.shown:
                continue
            runs = sheets.of(arm, column.judge).values()
            # a judge's own measures alone: shares of runs and of a ceiling have columns too
            if not any(column.statistic in row["values"] for rows in runs for row in rows.values()):
                continue
            found = paired(arm, arm, Where(column.judge, column.statistic), sheets)
            known = spread(found.cells[0], levels, found.clusters)
            if known is not None:
                yield {
                    "task": arm.task,
                    "arm": arm.key,
                    "label": labels[arm.key],
                    "judge": column.judge,
                    "statistic": column.statistic,
                    "title": column.title,
                    **stored(known),
                }


def stored(known: Spread) -> JsonObject:
    """The spread of one measure as JSON."""
    return {
        "sources": [
            {"name": one.name, "share": one.share, "error": one.error, "levels": one.levels, "why": one.why}
            for one in known.sources
        ],
        "next": advice(known),
        "note": known.note,
    }


def layers_table(report: Report) -> Table:
    """The shares of the variance by source, and what to repeat next; no rows without seeds in layers."""
    rows: list[tuple[Entry, ...]] = []
    for row in report.get("layers", ()):
        shares: list[Entry] = [
            one["why"] if one["share"] is None else f"{one['share']:.0%} ({one['levels']})" for one in row["sources"]
        ]
        rows.append((row["task"], row["label"], row["title"], *shares, row["next"]))
    note = (
        "The share of the variance of one response's value that each source makes, and how many of it there are (all "
        "levels counted). Henderson's method III; negative estimates are 0. PPO: with the SFT policy of its seed. "
        "Prompt by run: what is left. A share with few levels is a rough one."
    )
    columns = ("task", "reward model", "of", *(name for name in SOURCES.values()), "next")
    return Table("Where the spread comes from", columns, rows, note)
