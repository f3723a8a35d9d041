"""Paired comparisons of two arms, recomputed from stored verdicts: same prompts, same training seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness import comparisons, statistics, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.estimates import ALL, Arm, Estimator, checkpoints
from rlhf_bench.harness.nouns import MeasureKind
from rlhf_bench.harness.statistics import Interval

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Where:
    """Which numbers of an arm: one measure of one judge on one slice, at the last checkpoint."""

    judge: str
    statistic: str
    slice: str = ALL
    decoding: str = "sample"


def difference(a: Arm, b: Arm, where: Where, estimator: Estimator) -> Interval:
    """a - b of one measure over the seeds and prompts that both have."""
    first, second, clusters, kind = paired(a, b, where)
    rng = estimator.generator("difference", a.key, b.key, *_place(where))
    return comparisons.difference(first, second, kind, estimator.level, rng, clusters)


def by_seed(a: Arm, b: Arm, where: Where) -> list[float | None]:
    """The mean difference a - b under every common seed, in their order; None where nothing is decided."""
    first, second, _, _ = paired(a, b, where)
    return [float(np.nanmean(row)) if not np.isnan(row).all() else None for row in first - second]


def head_to_head(a: Arm, b: Arm, where: Where, estimator: Estimator) -> Interval:
    """How often a's response has the higher value on the same prompt and seed, a tie counting half."""
    first, second, clusters, _ = paired(a, b, where)
    cells = np.where(np.isnan(first - second), np.nan, (np.sign(first - second) + 1) / 2)
    rng = estimator.generator("head to head", a.key, b.key, *_place(where))
    return statistics.interval("win", cells, estimator.level, rng, clusters)


def _place(where: Where) -> tuple[str, ...]:
    return (where.judge, where.statistic, where.slice, where.decoding)


def paired(a: Arm, b: Arm, where: Where) -> tuple[Array, Array, list[str], MeasureKind]:
    """(a's cells [S, P], b's, the source of each prompt, the measure's kind) on common seeds and prompts."""
    seeds = sorted(set(a.seeds) & set(b.seeds))
    if not seeds:
        raise BenchError(f"{a.reward_model} and {b.reward_model} on {a.task} have no training seed in common.")
    tables = [[_rows(arm, seed, where) for seed in seeds] for arm in (a, b)]
    ids = sorted(set.intersection(*(set(rows) for table in tables for rows in table)))
    if not ids:
        raise BenchError(f"{a.reward_model} and {b.reward_model} have no prompt of slice {where.slice!r} in common.")
    first, second = (_cells(table, ids, where.statistic) for table in tables)
    clusters = [tables[0][0][i].get("source", "") for i in ids]
    return first, second, clusters, _kind(a, where)


Place = tuple[str, str]
"""An example's id and its prompt: two data sets may give one id to different prompts."""


def _cells(table: Sequence[Mapping[Place, Mapping[str, Any]]], ids: Sequence[Place], name: str) -> Array:
    values = [[rows[i]["values"].get(name) for i in ids] for rows in table]
    return np.array([[np.nan if v is None else float(v) for v in row] for row in values], dtype=np.float64)


def _rows(arm: Arm, seed: int, where: Where) -> dict[Place, dict[str, Any]]:
    """Verdict rows of one seed by example, at the last checkpoint of the decoding, on the slice."""
    cell = arm.cells[arm.seeds.index(seed)]
    if where.judge not in cell.judged():
        raise BenchError(f"No verdicts of the judge {where.judge!r} for {arm.reward_model} on {arm.task}.")
    rows = store.read_rows(cell.judged()[where.judge] / "verdicts.jsonl")
    last = max((i for d, i in checkpoints([rows]) if d == where.decoding), default=None)
    prompts = {row["id"]: row["prompt"] for row in store.read_rows(cell.folder("prompts") / "examples.test.jsonl")}
    return {
        (row["example_id"], prompts[row["example_id"]]): row
        for row in rows
        if (row["decoding"], row["iteration"]) == (where.decoding, last)
        and (where.slice == ALL or where.slice in row["slices"])
    }


def _kind(arm: Arm, where: Where) -> MeasureKind:
    measures = store.read_json(arm.cells[0].judged()[where.judge] / "measures.json")
    kinds: dict[str, MeasureKind] = {m["name"]: m["kind"] for m in measures}
    if where.statistic not in kinds:
        raise BenchError(f"The judge {where.judge!r} has no measure {where.statistic!r}, only {sorted(kinds)}.")
    return kinds[where.statistic]
