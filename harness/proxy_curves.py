"""Proxy, gold and KL of an arm at every point of its curve, as arrays over seeds and prompts, from stored rows.

A point is a checkpoint of PPO, the SFT baseline first (0), or one n of best-of-n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf_bench.harness import best_of_n, store
from rlhf_bench.harness.cells import Array
from rlhf_bench.harness.estimates import Arm, CellFiles
from rlhf_bench.harness.pools import Pool, read_pool

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
    written = [_sampled(store.read_rows(c.folder("generations") / "generations.jsonl")) for c in arm.cells]
    asked: list[Table] = [{(r["iteration"], r["example_id"]): r for r in _proxies(cell)} for cell in arm.cells]
    points = sorted(set.intersection(*({i for i, _ in table} for table in written)))
    held = [{e for _, e in table} & {e for i, e in own if i == 0} for table, own in zip(written, asked, strict=True)]
    ids = sorted(set.intersection(*held))
    start = [{(0, i): {"reward": own[0, i]["reward"], "kl": 0.0} for i in ids} for own in asked]
    tables = [{**first, **table} for first, table in zip(start, written, strict=True)]
    proxy, kl = (_cube(tables, [0, *points], ids, name) for name in ("reward", "kl"))
    worth, gold = _judged(arm, points, ids)
    samples = (np.moveaxis(proxy, 1, 2), np.moveaxis(gold, 1, 2)) if gold is not None else None
    clusters, slices = _prompts(arm, ids)
    features = Features(_figures(asked, 0, ids), _figures(asked, points[-1], ids))
    return Curves("rl", (0, *points), proxy, kl, gold, samples, features, clusters, slices, worth, tuple(ids))


def _sampled(rows: Sequence[Mapping[str, Any]]) -> Table:
    return {(r["iteration"], r["example_id"]): r for r in rows if r["decoding"] == "sample"}


def _proxies(cell: CellFiles) -> list[dict[str, Any]]:
    return store.read_rows(cell.folder("proxy") / "proxy.jsonl")


def _cube(tables: Sequence[Table], points: Sequence[int], ids: Sequence[str], name: str) -> Array:
    """[S, C, P], NaN where undecided or lacking."""
    rows = [[[table.get((p, i), {}).get(name) for i in ids] for p in points] for table in tables]
    return np.array(rows, dtype=np.float64).reshape(len(tables), len(points), len(ids))


def _judged(arm: Arm, points: Sequence[int], ids: Sequence[str]) -> tuple[str, Array | None]:
    """What the judge `utility` measured, the baseline's value first; None where it did not see all cells alike."""
    if any("utility" not in cell.judged() for cell in arm.cells):
        return WORTHS[0], None
    rows = [store.read_rows(cell.judged()["utility"] / "verdicts.jsonl") for cell in arm.cells]
    values = [{place: row["values"] for place, row in _sampled(table).items()} for table in rows]
    worth = next((w for w in WORTHS if all(w in v for table in values for v in table.values())), "")
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


def _of_pool(arm: Arm) -> Curves:
    folders = [cell.folder("generations") for cell in arm.cells]
    ns = [int(n) for n in store.read_json(folders[0] / store.MARKER)["params"]["best_of_n"]["n"]]
    pools = [read_pool(folder) for folder in folders]
    ids = sorted(set.intersection(*(set(pool.examples) for pool in pools)))
    order = [[pool.examples.index(i) for i in ids] for pool in pools]

    def cells(values_of: Any) -> Array:
        """[S, C, P] unbiased estimates of a value of the best of each n."""
        rows = [
            [best_of_n.expected(pool.rewards[at], values_of(pool)[at], n) for n in ns]
            for pool, at in zip(pools, order, strict=True)
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
