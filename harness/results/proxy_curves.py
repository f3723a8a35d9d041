"""Proxy reward, gold and KL of an arm at every point of its curve, as arrays over seeds and prompts, from stored rows.

A point is a checkpoint of PPO, with the SFT baseline as point 0, or one n of best-of-n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import Arm, CellFiles
from rlhf_bench.harness.results.columns import Columns
from rlhf_bench.harness.results.stored import stored_rows
from rlhf_bench.harness.seeds import layers_of
from rlhf_bench.harness.stages import gold_rows
from rlhf_bench.harness.statistics import best_of_n
from rlhf_bench.harness.statistics.cells import Array
from rlhf_bench.harness.statistics.layers import Layers

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

WORTHS = ("gold", "score")
"""Measures of the judge `utility`: exact gold, or a scorer on tasks that have no gold."""
OF_ANY = frozenset(("sum", "length", "positive_share", "negative_share"))
"""Figures that every reward model has (scoring.diagnose); all others are specific to one."""


@dataclass(frozen=True)
class Features:
    """Values that rewards are made of, by name: [S, P] on the first point's responses and on the last point's.

    They are the reward model's own figures (`seams.HasDiagnostics`); both are empty for one that has none.
    """

    before: Mapping[str, Array]
    after: Mapping[str, Array]


@dataclass(frozen=True)
class Curves:
    """An arm's curve: cells [S, C, P] over S training seeds, C points and P prompts, NaN where undecided.

    `form` is "rl" or "best-of-n".  `points` [C] are iterations, or n.  `kl` is in nats per response; `gold` is None if
    it was not measured, and holds the measure that `worth` names ("gold" or "score").
    `samples`: proxy and gold, each [S, P, N], of the N responses that are ranked within a prompt: for PPO one response
    per checkpoint, for best-of-n the whole pool.  `clusters` [P] are the prompts' sources, `slices` [P] their slices.
    `layers` [S] are the seeds' levels, None without; where data seeds drew prompts of their own, these are columns of
    their own, and `absent` counts the cells of them that are of other data.
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
    layers: Layers | None = None
    absent: int = 0


def curves_of(arm: Arm) -> Curves | None:
    """The curve of an arm: along its checkpoints, or over n for best-of-n.

    DPO and SFT on the chosen responses have one checkpoint after the baseline.  None for an arm of an earlier version
    of this program, which stored no proxy.  Raises BenchError for files that cannot be read.
    """
    roles = set.intersection(*(set(cell.record["stages"]) for cell in arm.cells))
    if not {"pool", "proxy"} & roles:
        return None
    make = _of_pool if "pool" in roles else _of_training
    # cells are in order of their data seeds first, so that those of one data set stand together
    by_data = [
        make(replace(arm, cells=tuple(cell for cell in arm.cells if cell.drawn == data)))
        for data in dict.fromkeys(arm.drawn)
    ]
    if len({(part.points, part.worth, part.gold is None) for part in by_data}) > 1:
        return None  # damaged or judged in part: the settings of an arm fix its points
    whole = by_data[0] if len(by_data) == 1 else _joined(by_data)
    return replace(whole, layers=layers_of(arm.seeds))


def _joined(parts: Sequence[Curves]) -> Curves:
    """The curves of runs on several data sets as one: prompts of each are columns of their own, NaN elsewhere."""
    first = parts[0]
    seeds, prompts = sum(len(part.proxy) for part in parts), sum(len(part.clusters) for part in parts)

    def diagonal(arrays: Sequence[Array], axis: int) -> Array:
        """Arrays [S, ...] with prompts on `axis` along the diagonal of one that holds all seeds and prompts."""
        shape = [seeds, *arrays[0].shape[1:]]
        shape[axis] = prompts
        found = np.full(shape, np.nan)
        row = column = 0
        for array in arrays:
            place = [slice(None)] * array.ndim
            place[0], place[axis] = slice(row, row + len(array)), slice(column, column + array.shape[axis])
            found[tuple(place)] = array
            row, column = row + len(array), column + array.shape[axis]
        return found

    def features(which: str) -> dict[str, Array]:
        own: list[Mapping[str, Array]] = [getattr(part.features, which) for part in parts]
        return {name: diagonal([one[name] for one in own], 1) for name in own[0] if all(name in one for one in own)}

    golds = [part.gold for part in parts if part.gold is not None]
    samples = [part.samples for part in parts if part.samples is not None]
    same = len(samples) == len(parts) and len({one[0].shape[2] for one in samples}) == 1
    return replace(
        first,
        proxy=diagonal([part.proxy for part in parts], 2),
        kl=diagonal([part.kl for part in parts], 2),
        gold=diagonal(golds, 2) if golds else None,
        samples=(diagonal([a for a, _ in samples], 1), diagonal([b for _, b in samples], 1)) if same else None,
        features=Features(features("before"), features("after")),
        # a name of a source, or an id, is another one in other data
        clusters=tuple(f"{at}/{name}" if name else "" for at, part in enumerate(parts) for name in part.clusters),
        slices=tuple(own for part in parts for own in part.slices),
        ids=tuple(f"{at}/{name}" for at, part in enumerate(parts) for name in part.ids),
        absent=seeds * prompts - sum(len(part.proxy) * len(part.clusters) for part in parts),
    )


def _prompts(arm: Arm, ids: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """([P] source of each prompt, "" for none; [P] its slices)."""
    # from the prompts' file: rows of generations, proxy and pool have neither
    rows = {r["id"]: r for r in stored_rows(arm.cells[0].folder("prompts") / "examples.test.jsonl")}
    return tuple(rows[i].get("source", "") for i in ids), tuple(tuple(rows[i].get("slices", ())) for i in ids)


# ---- PPO ------------------------------------------------------------------------------------------------------------

Table = dict[tuple[int, str], "Row"]
"""Rows of proxy.jsonl by iteration and example."""


def _of_training(arm: Arm) -> Curves:
    written = [columns.read(cell.folder("generations") / "generations.jsonl") for cell in arm.cells]
    scored: list[Table] = []
    for cell in arm.cells:
        rows = stored_rows(cell.folder("proxy") / "proxy.jsonl")
        scored.append({(row["iteration"], row["example_id"]): row for row in rows})
    points = sorted(set.intersection(*({i for d, i in table.groups if d == "sample"} for table in written)))
    # only prompts that every seed sampled and whose baseline response was scored
    common: list[set[str]] = []
    for table, own in zip(written, scored, strict=True):
        sampled = {i for (decoding, _), group in table.groups.items() if decoding == "sample" for i in group.ids}
        common.append(sampled & {example for iteration, example in own if iteration == 0})
    ids = sorted(set.intersection(*common))
    # point 0, the baseline: its rewards are in proxy.jsonl, and its KL to the SFT policy is 0 by definition
    start = np.array([[[own[0, i]["reward"] for i in ids]] for own in scored], dtype=np.float64)
    start = start.reshape(len(written), 1, len(ids))  # [S, 1, P], also without prompts
    proxy = np.concatenate([start, _cube(written, points, ids, "reward")], axis=1)
    kl = np.concatenate([np.zeros_like(start), _cube(written, points, ids, "kl")], axis=1)
    worth, gold = _judged(arm, points, ids)
    # one response per point: within a prompt the checkpoints of a training run are what is ranked, [S, P, C - 1];
    # the baseline, below every checkpoint in both, would be agreement of its own making
    samples = (np.moveaxis(proxy[:, 1:], 1, 2), np.moveaxis(gold[:, 1:], 1, 2)) if gold is not None else None
    clusters, slices = _prompts(arm, ids)
    features = Features(_figures(scored, 0, ids), _figures(scored, points[-1], ids))
    return Curves("rl", (0, *points), proxy, kl, gold, samples, features, clusters, slices, worth, tuple(ids))


def _cube(tables: Sequence[Columns], points: Sequence[int], ids: Sequence[str], name: str) -> Array:
    """[S, C, P] one column of sampled responses, NaN where it is undecided or has no row."""
    found = np.full((len(tables), len(points), len(ids)), np.nan)
    for s, table in enumerate(tables):
        for c, point in enumerate(points):
            group = table.groups.get(("sample", point))
            if group is not None:
                # a seed may have more prompts, in another order: place by id
                at = {example: place for place, example in enumerate(group.ids)}
                known = [k for k, example in enumerate(ids) if example in at]
                found[s, c, known] = group.column(name)[[at[ids[k]] for k in known]]
    return found


def _judged(arm: Arm, points: Sequence[int], ids: Sequence[str]) -> tuple[str, Array | None]:
    """(name, [S, C, P]) of the measure of `utility`, the baseline's value first; None if some cell was not judged."""
    if any("utility" not in cell.judged() for cell in arm.cells):
        return WORTHS[0], None
    values = [columns.read(cell.judged()["utility"] / "verdicts.jsonl") for cell in arm.cells]
    sampled = [group for table in values for (d, _), group in table.groups.items() if d == "sample"]
    worth = next((w for w in WORTHS if all(w in group.values for group in sampled)), "")
    if not worth:
        return WORTHS[0], None
    # every verdict repeats its baseline's value, so any point has it: take the last
    first = _cube(values, points[-1:], ids, f"{worth}_baseline")
    found = np.concatenate([first, _cube(values, points, ids, worth)], axis=1)
    return worth, None if np.isnan(found).all() else found


def _figures(scored: Sequence[Table], point: int, ids: Sequence[str]) -> dict[str, Array]:
    """[S, P] by name, of the figures that every row has; {} for a reward model without figures."""
    rows = [{i: table.get((point, i), {}).get("figures", {}) for i in ids} for table in scored]
    # names that every row has, so that the arrays have no holes; a row that is missing has none
    names = sorted(set.intersection(*(set(figures) for own in rows for figures in own.values()))) if ids else []
    return {name: np.array([[own[i][name] for i in ids] for own in rows], dtype=np.float64) for name in names}


# ---- best-of-n ------------------------------------------------------------------------------------------------------


class Pool(NamedTuple):
    """A stored pool of N responses to each of P prompts.

    `examples` [P] ids; `rewards` [P, N]; `gold` [P, N], NaN where undecided, or None on a task without gold; `figures`
    [P, N] by name.
    """

    examples: tuple[str, ...]
    rewards: Array
    gold: Array | None
    figures: Mapping[str, Array]


def pool_of(cell: CellFiles) -> Pool:
    """A cell's pool; its gold is the score of the run's gold model, where there is one.  Raises as `read_pool`."""
    pool = read_pool(cell.folder("generations"))
    if "gold_pool" not in cell.record["stages"]:
        return pool
    # rows stand draw after draw (stages/gold.py); a larger pool that other arms share has further draws
    places = {example: at for at, example in enumerate(pool.examples)}
    size = pool.rewards.shape[-1]
    gold = np.full((len(pool.examples), size), np.nan)
    for row in stored_rows(cell.folder("gold_pool") / gold_rows.ROWS):
        at = places.get(row["example_id"])
        if at is not None and row["draw"] < size and row["gold"] is not None:
            gold[at, row["draw"]] = row["gold"]
    return pool._replace(gold=gold)


def read_pool(folder: Path) -> Pool:
    """The pool that the stage `best_of_n` wrote to `folder`: rewards are unscaled sums over tokens, gold the task's.

    Raises BenchError as `stored_rows`.
    """
    rows = stored_rows(folder / "pool.jsonl")
    rewards = np.array([row["rewards"] for row in rows], dtype=np.float64)
    # None, an undecided gold value in JSON, becomes NaN
    gold = np.array([row["gold"] for row in rows], dtype=np.float64) if "gold" in rows[0] else None
    names = rows[0]["figures"]  # one reward model scored all rows: they have the same names
    figures = {name: np.array([row["figures"][name] for row in rows], dtype=np.float64) for name in names}
    return Pool(tuple(row["example_id"] for row in rows), rewards, gold, figures)


def _of_pool(arm: Arm) -> Curves:
    folders = [cell.folder("generations") for cell in arm.cells]
    ns = [int(n) for n in store.read_json(folders[0] / store.MARKER)["params"]["best_of_n"]["n"]]
    pools = [pool_of(cell) for cell in arm.cells]
    ids = sorted(set.intersection(*(set(pool.examples) for pool in pools)))
    order = [[pool.examples.index(i) for i in ids] for pool in pools]  # [S][P] rows: files may differ in their order
    # [S][C] of [P, N]: computed once, because they do not depend on the value that is averaged
    shares = [[best_of_n.chances(pool.rewards[at], n) for n in ns] for pool, at in zip(pools, order, strict=True)]

    def chosen(values: Sequence[Array]) -> Array:
        """[S, C, P] unbiased estimates of a value [S][P, N] of the best of each n."""
        return np.array([[best_of_n.weighted(of_n, v) for of_n in own] for v, own in zip(values, shares, strict=True)])

    rewards = [pool.rewards[at] for pool, at in zip(pools, order, strict=True)]
    golds = [pool.gold[at] for pool, at in zip(pools, order, strict=True) if pool.gold is not None]
    known = len(golds) == len(pools)  # gold of some seeds alone is not used: cells would not be paired
    proxy = chosen(rewards)
    # KL of best-of-n to the SFT policy, an upper bound that depends on n alone, the same in every cell
    kl = np.array([best_of_n.kl_bound(n) for n in ns])[None, :, None] * np.ones_like(proxy)
    clusters, slices = _prompts(arm, ids)
    # features of the response that the reward chooses: expected at the first n against the last
    before, after = {}, {}
    for name in sorted(set.intersection(*(set(pool.figures) for pool in pools)) - OF_ANY):
        cells = chosen([pool.figures[name][at] for pool, at in zip(pools, order, strict=True)])
        before[name], after[name] = cells[:, 0], cells[:, -1]
    samples = (np.array(rewards), np.array(golds)) if known else None
    worth, gold = (WORTHS[0], chosen(golds)) if known else _judged(arm, ns, ids)
    if gold is not None and not known:
        gold = gold[:, 1:]  # a judge's scores of the responses that were chosen; the baseline is no point of the curve
    features = Features(before, after)
    return Curves("best-of-n", tuple(ns), proxy, kl, gold, samples, features, clusters, slices, worth, tuple(ids))
