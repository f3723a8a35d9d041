"""Paired comparisons of two arms, recomputed from stored verdicts: same prompts, same training seeds.

Whoever makes several hands in the `Sheets` they share, so that rows are read once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import MeasureKind
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.estimates import ALL, Estimator, difference_limit, within
from rlhf_bench.harness.results.sheets import NO_PROMPT, Common, Rows, Sheets, common
from rlhf_bench.harness.statistics import comparisons, rules
from rlhf_bench.harness.statistics.interval import Interval

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Where:
    """Which numbers of an arm: one measure of one judge on one slice, at the last checkpoint."""

    judge: str
    statistic: str
    slice: str = ALL
    decoding: str = "sample"


def difference(a: Arm, b: Arm, where: Where, estimator: Estimator, sheets: Sheets | None = None) -> Interval:
    """a - b of one measure over the seeds and prompts that both have."""
    first, second, clusters, kind = paired(a, b, where, sheets)
    rng = estimator.generator("difference", a.key, b.key, *_place(where))
    found = comparisons.difference(first, second, kind, estimator.level, rng, clusters)
    return within(found, difference_limit(_measure(a, where).get("limit")))


def by_seed(a: Arm, b: Arm, where: Where, sheets: Sheets | None = None) -> list[float | None]:
    """The mean difference a - b under every common seed, in their order; None where nothing is decided."""
    first, second, _, _ = paired(a, b, where, sheets)
    return [float(np.nanmean(row)) if not np.isnan(row).all() else None for row in first - second]


def head_to_head(a: Arm, b: Arm, where: Where, estimator: Estimator, sheets: Sheets | None = None) -> Interval:
    """How often a's response has the higher value on the same prompt and seed, a tie counting half."""
    first, second, clusters, _ = paired(a, b, where, sheets)
    cells = np.where(np.isnan(first - second), np.nan, (np.sign(first - second) + 1) / 2)
    rng = estimator.generator("head to head", a.key, b.key, *_place(where))
    return rules.interval("win", cells, estimator.level, rng, clusters)


def _place(where: Where) -> tuple[str, ...]:
    return (where.judge, where.statistic, where.slice, where.decoding)


def paired(
    a: Arm, b: Arm, where: Where, sheets: Sheets | None = None
) -> tuple[Array, Array, tuple[str, ...], MeasureKind]:
    """(a's cells [S, P], b's, the source of each prompt, the measure's kind) on common seeds and prompts.

    Raises BenchError where they have none.
    """
    kept = sheets or Sheets()
    tables = [_on_slice(kept.of(arm, where.judge, where.decoding), where.slice) for arm in (a, b)]
    for arm, table in zip((a, b), tables, strict=True):
        if not table and any(where.judge not in cell.judged() for cell in arm.cells):
            raise BenchError(f"No verdicts of the judge {where.judge!r} for {arm.reward_model} on {arm.task}.")
    both = common(tables, [where.statistic] * 2) if all(tables) else Common(why=NO_PROMPT)
    if both.why:
        raise BenchError(
            f"{a.reward_model} and {b.reward_model} on {a.task} (slice {where.slice!r}, {where.decoding}): {both.why}."
        )
    return (*both.cells, both.clusters, _measure(a, where)["kind"])


def _on_slice(table: Mapping[int, Rows], name: str) -> Mapping[int, Rows]:
    if name == ALL:
        return table
    return {
        seed: {key: row for key, row in rows.items() if name == ALL or name in row["slices"]}
        for seed, rows in table.items()
    }


def _measure(arm: Arm, where: Where) -> Mapping[str, Any]:
    """The row of measures.json."""
    rows = {m["name"]: m for m in store.read_json(arm.cells[0].judged()[where.judge] / "measures.json")}
    if where.statistic not in rows:
        raise BenchError(f"The judge {where.judge!r} has no measure {where.statistic!r}, only {sorted(rows)}.")
    found: Mapping[str, Any] = rows[where.statistic]
    return found
