"""The table of reward models at equal KL, and the CSV of the frontiers, from the rows of kl_matched.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.results.table import Cell, Table, estimated
from rlhf_bench.reports.measures import Report

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

FRONTIER = (
    "task", "label", "judge", "statistic", "decoding", "kl", "value", "low", "high", "level", "seeds", "prompts",
    "method", "note",
)  # fmt: skip
"""Columns of frontier.csv."""


def contrasts_table(report: Report) -> Table:
    """Every two frontiers under every measure, a column for each KL at which some two are compared."""
    rows = report.get("kl_matched", {}).get("contrasts", ())
    # a KL at which no difference can be given would be an empty column
    kls = sorted({at["kl"] for row in rows for at in row["at"] if at["value"] is not None})
    lines = []
    for row in rows:
        found = {at["kl"]: at for at in row["at"]}
        cells = [estimated(found.get(kl), row["format"]) for kl in kls]
        pair, seeds = f"{row['a_label']} − {row['b_label']}", Cell(row["seeds"], format="count")
        title = row["title"] if row["decoding"] == "sample" else f"{row['title']}, greedy"
        lines.append((row["task"], pair, title, seeds, Cell(row["reach"]), *cells))
    columns = ("task", "pair", "measure", "seeds", "KL that both reach", *(f"at KL {kl:g}" for kl in kls))
    return Table("Reward models at equal KL to the SFT policy", columns, lines, note(rows) if rows else "")


def note(rows: Sequence[Row]) -> str:
    """How the numbers are made, and why they stand at these values of KL."""
    greedy = (
        "Greedy decoding has no KL of its own: its outcomes stand at the sampled KL of the same checkpoint."
        if any(row["decoding"] == "greedy" for row in rows)
        else "Sampled responses only: fewer than 2 checkpoints have greedy ones, which have no KL of their own."
    )
    alone = " With one seed two training runs are compared, not two reward models." if any(
        row["seeds"] == 1 for row in rows
    ) else ""  # fmt: skip
    return (
        "The paired difference of two reward models where both are as far from the SFT policy, in nats per response. "
        "The values of KL were fixed beforehand (powers of 2); a number stands only where every seed of both reaches "
        "that KL, also in 95% of the resamples: nothing is extrapolated. Between checkpoints, and between the SFT "
        "policy and the first one, a measure is interpolated on the square root of KL; arms of one reward model that "
        "differ in ppo.kl, ppo.kl_target, ppo.iterations or ppo.checkpoints alone are one frontier. Intervals: prompts "
        f"resampled with the interpolation, two-way t over seeds; not adjusted for the number of pairs. {greedy}{alone}"
    )


def frontier_rows(report: Report) -> Iterator[list[object]]:
    """The rows of frontier.csv, with every digit."""
    for row in report.get("kl_matched", {}).get("frontiers", ()):
        for at in row["points"]:
            yield [{**row, **at}[name] for name in FRONTIER]
