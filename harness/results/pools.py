"""A stored pool of samples as arrays, for reports: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.statistics.cells import Array


class Pool(NamedTuple):
    """A stored pool: example ids [P], rewards [P, N], gold [P, N] (NaN undecided) or None where the task has none;
    figures [P, N] by name."""

    examples: tuple[str, ...]
    rewards: Array
    gold: Array | None
    figures: Mapping[str, Array]


def read_pool(folder: Path) -> Pool:
    """The pool that the stage `best_of_n` left in `folder`."""
    rows = store.read_rows(folder / "pool.jsonl")
    rewards = np.array([row["rewards"] for row in rows], dtype=np.float64)
    gold = np.array([row["gold"] for row in rows], dtype=np.float64) if "gold" in rows[0] else None
    names = rows[0]["figures"]
    figures = {name: np.array([row["figures"][name] for row in rows], dtype=np.float64) for name in names}
    return Pool(tuple(row["example_id"] for row in rows), rewards, gold, figures)
