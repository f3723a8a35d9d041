"""Does a cheap look at a reward model foretell PPO?  Rank agreement of pair accuracy, best-of-n and PPO over arms.

Everything is read from stored rows: scale.json, the pools of best-of-n, and the verdicts of the judge `utility`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.results.arms import Arm, CellFiles
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.proxy_curves import read_pool
from rlhf_bench.harness.results.sheets import Sheets
from rlhf_bench.harness.statistics import best_of_n, comparisons, monotonicity
from rlhf_bench.harness.statistics.cells import Array

PPO = "PPO"
ACCURACY = "pair accuracy"
FEWEST = 3
"""Reward models: fewer have no rank correlation."""


@dataclass(frozen=True)
class Standings:
    """What there is to rank: by measure, [S, A] over seeds and reward models, NaN where undecided."""

    reward_models: tuple[str, ...]
    seeds: tuple[int, ...]
    measures: Mapping[str, Array]


def best_of(n: int) -> str:
    """The measure's name."""
    return f"best-of-{n}"


def standings(trained: Sequence[Arm], previewed: Sequence[Arm], ns: Sequence[int]) -> Standings | None:
    """Pair accuracy, the gain in gold of the best of each n, and that of PPO, of the reward models that have both.

    Only seeds that all of them have.  None where fewer than 3 reward models, or no seed, are left.
    """
    by_name = ({arm.reward_model: arm for arm in arms} for arms in (trained, previewed))
    first, second = by_name
    names = tuple(sorted(set(first) & set(second)))
    seeds = sorted(set.intersection(*(set(arms[n].seeds) for arms in (first, second) for n in names))) if names else []
    if len(names) < FEWEST or not seeds:
        return None
    measures = {
        ACCURACY: _table(names, seeds, lambda name, seed: _accuracy(_cell(first[name], seed))),
        **_of_pools(second, names, seeds, ns),
        PPO: _of_training(first, names, seeds),
    }
    return Standings(names, tuple(seeds), measures)


def agreement(found: Standings, estimator: Estimator) -> dict[str, Any]:
    """The analysis of an experiment: Spearman's rank correlations of every two measures, and what was ranked.

    "A with B": the mean over training seeds, Student's t over them, these reward models being all there are.
    "A with B, other reward models": of the means over seeds, a bootstrap over reward models as if drawn from many.
    """
    seeds = list(found.seeds)
    rows = [
        {"reward_model": "", "seeds": seeds, "statistic": statistic, **interval}
        for statistic, interval in _correlations(found, estimator)
    ]
    measured = [
        {"reward_model": name, **{measure: _mean(cells[:, at]) for measure, cells in found.measures.items()}}
        for at, name in enumerate(found.reward_models)
    ]
    return {"kind": "agreement", "rows": rows, "measured": measured}


def _correlations(found: Standings, estimator: Estimator) -> Iterator[tuple[str, dict[str, Any]]]:
    for a, b in combinations(found.measures, 2):
        x, y = found.measures[a], found.measures[b]
        rng = estimator.generator("agreement", a, b)
        ranked = int((~np.isnan(x + y)).all(axis=0).sum())
        over_seeds = monotonicity.agreement(x, y, estimator.level, rng).over_seeds
        yield f"{a} with {b}", asdict(over_seeds.noted(f"{ranked} reward models"))
        over_arms = comparisons.spearman(x.mean(axis=0), y.mean(axis=0), estimator.level, rng)
        yield f"{a} with {b}, other reward models", asdict(over_arms.noted(f"{ranked} reward models"))


def _mean(values: Array) -> float | None:
    return None if np.isnan(values).any() else float(values.mean())


def _table(names: Sequence[str], seeds: Sequence[int], value: Any) -> Array:
    """[S, A]."""
    return np.array([[value(name, seed) for name in names] for seed in seeds], dtype=np.float64)


def _cell(arm: Arm, seed: int) -> CellFiles:
    return arm.cells[arm.seeds.index(seed)]


def _accuracy(cell: CellFiles) -> float:
    """NaN where the reward model can score no pair."""
    found = store.read_json(cell.folder("scale") / "scale.json")["pair_accuracy"]
    return float("nan") if found is None else float(found)


def _of_training(arms: Mapping[str, Arm], names: Sequence[str], seeds: Sequence[int]) -> Array:
    """[S, A] mean change of gold at the last checkpoint; NaN where the judge did not see it."""
    sheets = Sheets()
    tables = {name: sheets.of(arms[name], "utility") for name in names}

    def value(name: str, seed: int) -> float:
        changes = [row["values"].get("gold_change") for row in tables[name].get(seed, {}).values()]
        known = [change for change in changes if change is not None]
        return float(np.mean(known)) if known else float("nan")

    return _table(names, seeds, value)


def _of_pools(
    arms: Mapping[str, Arm], names: Sequence[str], seeds: Sequence[int], ns: Sequence[int]
) -> dict[str, Array]:
    """Measure -> [S, A] unbiased estimates of gold's gain over one sample of the same pool."""
    cubes = np.array([[_gains(_cell(arms[name], seed), ns) for name in names] for seed in seeds])
    return {best_of(n): cubes[:, :, at] for at, n in enumerate(ns)}


def _gains(cell: CellFiles, ns: Sequence[int]) -> list[float]:
    """NaN without gold, and for an n above the pool."""
    pool = read_pool(cell.folder("generations"))
    if pool.gold is None:
        return [float("nan")] * len(ns)
    gold, size = pool.gold, pool.rewards.shape[1]

    def mean(n: int) -> float:
        values = best_of_n.expected(pool.rewards, gold, n)
        return float("nan") if np.isnan(values).all() else float(np.nanmean(values))

    return [mean(n) - mean(1) if n <= size else float("nan") for n in ns]
