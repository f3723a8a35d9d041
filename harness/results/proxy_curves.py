"""Proxy, gold and KL of an arm at every point of its curve, as arrays over seeds and prompts, from stored rows.

A point is a checkpoint of PPO, the SFT baseline first (0), or one n of best-of-n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import Arm, CellFiles
from rlhf_bench.harness.results.columns import Columns
from rlhf_bench.harness.statistics import best_of_n
from rlhf_bench.harness.statistics.cells import Array

WORTHS = ("gold", "score")
"""Measures of the judge `utility`: exact gold, or a scorer where there is none."""


@dataclass(frozen=True)
class Features:
    """What rewards are made of, by name: [S, P] on the baseline's responses and on the last point's."""

    before: Mapping[str, Array]
    after: Mapping[str, Array]


@dataclass(frozen=True)
class Curves:
    """An arm's curve over C points: cells [S, C, P], `gold` None where nobody measured any.

    `samples`: proxy and gold [S, P, N] of the responses that are ranked within a prompt: the points' own, or the pool.
    """

    form: str
    points: tuple[int, ...]
    proxy: Array
    kl: Array
    gold: Array | None
    samples: tuple[Array, Array] | None
    features: Features
    clusters: tuple[str, ...]
    slices: tuple[tuple[str, ...], ...]
    worth: str = "gold"
    ids: tuple[str, ...] = field(default=())


def curves_of(arm: Arm) -> Curves | None:
    """None for an arm of another optimiser, or one that an earlier version of this program made."""
    roles = set.intersection(*(set(cell.record["stages"]) for cell in arm.cells))
    if "pool" in roles:
        return _of_pool(arm)
    return _of_training(arm) if "proxy" in roles else None


def _prompts(arm: Arm, ids: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Source and slices of the prompts."""
    rows = {r["id"]: r for r in store.read_rows(arm.cells[0].folder("prompts") / "examples.test.jsonl")}
    return tuple(rows[i].get("source", "") for i in ids), tuple(tuple(rows[i].get("slices", ())) for i in ids)


# ---- PPO ------------------------------------------------------------------------------------------------------------

Table = dict[tuple[int, str], Mapping[str, Any]]  # by iteration and example


def _of_training(arm: Arm) -> Curves:
    written = [columns.read(c.folder("generations") / "generations.jsonl") for c in arm.cells]
    asked: list[Table] = [{(r["iteration"], r["example_id"]): r for r in _proxies(cell)} for cell in arm.cells]
    points = sorted(set.intersection(*({i for d, i in table.groups if d == "sample"} for table in written)))
    held = [_sampled_ids(table) & {e for i, e in own if i == 0} for table, own in zip(written, asked, strict=True)]
    ids = sorted(set.intersection(*held))
    start = np.array([[[own[0, i]["reward"] for i in ids]] for own in asked], dtype=np.float64)
    later = _cube(written, points, ids, "reward"), _cube(written, points, ids, "kl")
    first = start.reshape(len(written), 1, len(ids)), np.zeros((len(written), 1, len(ids)))
    proxy, kl = (np.concatenate(both, axis=1) for both in zip(first, later, strict=True))
    worth, gold = _judged(arm, points, ids)
    samples = (np.moveaxis(proxy, 1, 2), np.moveaxis(gold, 1, 2)) if gold is not None else None
    clusters, slices = _prompts(arm, ids)
    features = Features(_figures(asked, 0, ids), _figures(asked, points[-1], ids))
    return Curves("rl", (0, *points), proxy, kl, gold, samples, features, clusters, slices, worth, tuple(ids))


def _sampled_ids(table: Columns) -> set[str]:
    return {i for (decoding, _), group in table.groups.items() if decoding == "sample" for i in group.ids}


def _proxies(cell: CellFiles) -> list[dict[str, Any]]:
    return store.read_rows(cell.folder("proxy") / "proxy.jsonl")


def _cube(tables: Sequence[Columns], points: Sequence[int], ids: Sequence[str], name: str) -> Array:
    """[S, C, P], NaN where undecided or lacking."""
    found = np.full((len(tables), len(points), len(ids)), np.nan)
    for s, table in enumerate(tables):
        for c, point in enumerate(points):
            group = table.groups.get(("sample", point))
            if group is not None:
                at = {example: place for place, example in enumerate(group.ids)}
                known = [k for k, example in enumerate(ids) if example in at]
                found[s, c, known] = group.column(name)[[at[ids[k]] for k in known]]
    return found


def _judged(arm: Arm, points: Sequence[int], ids: Sequence[str]) -> tuple[str, Array | None]:
    """What the judge `utility` measured, the baseline's value first; None where it did not see all cells alike."""
    if any("utility" not in cell.judged() for cell in arm.cells):
        return WORTHS[0], None
    values = [columns.read(cell.judged()["utility"] / "verdicts.jsonl") for cell in arm.cells]
    sampled = [group for table in values for (d, _), group in table.groups.items() if d == "sample"]
    worth = next((w for w in WORTHS if all(w in group.values for group in sampled)), "")
    if not worth:
        return WORTHS[0], None
    first = _cube(values, points[-1:], ids, f"{worth}_baseline")
    found = np.concatenate([first, _cube(values, points, ids, worth)], axis=1)
    return worth, None if np.isnan(found).all() else found


def _figures(asked: Sequence[Table], point: int, ids: Sequence[str]) -> dict[str, Array]:
    """[S, P] by name; {} where the reward model says nothing."""
    rows = [{i: table.get((point, i), {}).get("figures", {}) for i in ids} for table in asked]
    names = sorted(set.intersection(*(set(figures) for own in rows for figures in own.values()))) if ids else []
    return {name: np.array([[own[i][name] for i in ids] for own in rows], dtype=np.float64) for name in names}


# ---- best-of-n ------------------------------------------------------------------------------------------------------


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


def _of_pool(arm: Arm) -> Curves:
    folders = [cell.folder("generations") for cell in arm.cells]
    ns = [int(n) for n in store.read_json(folders[0] / store.MARKER)["params"]["best_of_n"]["n"]]
    pools = [read_pool(folder) for folder in folders]
    ids = sorted(set.intersection(*(set(pool.examples) for pool in pools)))
    order = [[pool.examples.index(i) for i in ids] for pool in pools]
    shares = [[best_of_n.chances(pool.rewards[at], n) for n in ns] for pool, at in zip(pools, order, strict=True)]

    def cells(values_of: Any) -> Array:
        """[S, C, P] unbiased estimates of a value of the best of each n."""
        rows = [
            [best_of_n.weighted(of_n, values_of(pool)[at]) for of_n in own]
            for pool, at, own in zip(pools, order, shares, strict=True)
        ]
        return np.array(rows)

    def stacked(values_of: Any) -> Array:
        return np.array([values_of(pool)[at] for pool, at in zip(pools, order, strict=True)])

    def rewards(pool: Pool) -> Array:
        return pool.rewards

    def gold(pool: Pool) -> Array | None:
        return pool.gold

    known = all(pool.gold is not None for pool in pools)
    proxy = cells(rewards)
    kl = np.array([best_of_n.kl_bound(n) for n in ns])[None, :, None] * np.ones_like(proxy)
    clusters, slices = _prompts(arm, ids)
    names = sorted(set.intersection(*(set(pool.figures) for pool in pools)) - OF_ANY)
    made = {name: cells(lambda pool, name=name: pool.figures[name]) for name in names}
    features = Features({n: one[:, 0] for n, one in made.items()}, {n: one[:, -1] for n, one in made.items()})
    samples = (stacked(rewards), stacked(gold)) if known else None
    found = cells(gold) if known else None
    return Curves("best-of-n", tuple(ns), proxy, kl, found, samples, features, clusters, slices, ids=tuple(ids))


OF_ANY = frozenset(("sum", "length", "positive_share", "negative_share"))
"""Figures that every reward model has (scoring.diagnose); the rest are its own."""
