"""Rank agreement over reward models of three measures: pair accuracy, best-of-n and PPO.

The question: do the two cheap measures, which need no PPO run, order reward models as PPO does?  Everything is computed
from stored rows: scale.json, the pools of best-of-n, and the verdicts of the judge `utility`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.results.arms import Arm, CellFiles
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.proxy_curves import pool_of
from rlhf_bench.harness.results.sheets import Sheets
from rlhf_bench.harness.seeds import Seed, layers_of, shown
from rlhf_bench.harness.statistics import best_of_n, comparisons, monotonicity
from rlhf_bench.harness.statistics.cells import Array
from rlhf_bench.harness.statistics.layers import outer_means

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject

PPO = "PPO"
ACCURACY = "pair accuracy"
FEWEST = 3
"""The smallest number of reward models: fewer have no rank correlation."""


@dataclass(frozen=True)
class Standings:
    """The measured values to rank: by measure, an array [S, A] over training seeds and reward models, NaN if undecided.

    Pair accuracy is a share from 0 to 1; best-of-n and PPO are gains in gold.
    """

    reward_models: tuple[str, ...]
    seeds: tuple[Seed, ...]
    measures: Mapping[str, Array]


def best_of(n: int) -> str:
    """The name of the measure "gain in gold of the best of n", as `Standings.measures` and reports use it."""
    return f"best-of-{n}"


def standings(trained: Sequence[Arm], previewed: Sequence[Arm], ns: Sequence[int]) -> Standings | None:
    """Pair accuracy, gain in gold of the best of each n, and gain in gold of PPO, of the reward models that have all.

    `trained` are arms of PPO, `previewed` arms of best-of-n.  Only seeds that every arm has are used.  Returns None if
    fewer than 3 reward models, or no seed, are left.
    """
    ppo, pooled = ({arm.reward_model: arm for arm in arms} for arms in (trained, previewed))
    # a reward model that only one of the optimisers ran with has no place in one of the rankings
    names = tuple(sorted(set(ppo) & set(pooled)))
    seeds = sorted(set.intersection(*(set(arms[n].seeds) for arms in (ppo, pooled) for n in names))) if names else []
    if len(names) < FEWEST or not seeds:
        return None
    sheets = Sheets()
    verdicts = {name: sheets.of(ppo[name], "utility") for name in names}
    accuracy, trained_gain = np.full((2, len(seeds), len(names)), np.nan)  # [S, A] each
    pool_gain = np.full((len(ns), len(seeds), len(names)), np.nan)  # [N, S, A]
    for s, seed in enumerate(seeds):
        for a, name in enumerate(names):
            cell = ppo[name].cells[ppo[name].seeds.index(seed)]
            share = store.read_json(cell.folder("scale") / "scale.json")["pair_accuracy"]
            if share is not None:  # None: the reward model can score no pair
                accuracy[s, a] = share
            pool_gain[:, s, a] = _pool_gains(pooled[name].cells[pooled[name].seeds.index(seed)], ns)
            # a seed without rows was not judged; a row without gold is undecided.  Both stay out of the mean
            changes = [row["values"].get("gold_change") for row in verdicts[name].get(seed, {}).values()]
            known = [change for change in changes if change is not None]
            if known:
                trained_gain[s, a] = np.mean(known)
    pools = {best_of(n): gains for n, gains in zip(ns, pool_gain, strict=True)}
    return Standings(names, tuple(seeds), {ACCURACY: accuracy, **pools, PPO: trained_gain})


def agreement(found: Standings, estimator: Estimator) -> JsonObject:
    """The analysis of an experiment: Spearman's rank correlation of every two measures, and the ranked values.

    "A with B" is the mean over training seeds with a t interval over them: it holds for these reward models.
    "A with B, other reward models" correlates the means over seeds with a bootstrap over reward models: it holds for
    a population from which they are drawn.
    """
    rows: list[JsonObject] = []
    for a, b in combinations(found.measures, 2):
        x, y = (outer_means(found.measures[name], layers_of(found.seeds)) for name in (a, b))
        # both intervals draw from one generator: their order is part of the result
        rng = estimator.generator("agreement", a, b)
        # x + y is NaN where either is: a reward model counts if both are decided under every seed
        ranked = int((~np.isnan(x + y)).all(axis=0).sum())
        over_seeds = monotonicity.agreement(x, y, estimator.level, rng).over_seeds
        # a mean over seeds is NaN where one of them is undecided, and `spearman` leaves that reward model out
        over_models = comparisons.spearman(x.mean(axis=0), y.mean(axis=0), estimator.level, rng)
        for name, interval in ((f"{a} with {b}", over_seeds), (f"{a} with {b}, other reward models", over_models)):
            numbers = asdict(interval.noted(f"{ranked} reward models"))
            rows.append({"reward_model": "", "seeds": list(map(shown, found.seeds)), "statistic": name, **numbers})
    measured: list[JsonObject] = []
    for at, name in enumerate(found.reward_models):
        columns = {measure: cells[:, at] for measure, cells in found.measures.items()}
        # JSON has no NaN: a value that is undecided under any seed is stored as null
        means = {m: None if np.isnan(column).any() else float(column.mean()) for m, column in columns.items()}
        measured.append({"reward_model": name, **means})
    return {"kind": "agreement", "rows": rows, "measured": measured}


def _pool_gains(cell: CellFiles, ns: Sequence[int]) -> list[float]:
    """Gold of the best of each n minus gold of one sample of the same pool, unbiased, meaned over prompts [P].

    NaN without gold, and for an n above the number of responses in the pool.
    """
    pool = pool_of(cell)
    if pool.gold is None:
        return [float("nan")] * len(ns)
    gold, size = pool.gold, pool.rewards.shape[1]

    def mean(n: int) -> float:
        # a prompt is undecided at n if a sample that can be the best of n has no gold: it stays out of the mean
        values = best_of_n.expected(pool.rewards, gold, n)
        return float("nan") if np.isnan(values).all() else float(np.nanmean(values))

    # n = 1 from the same pool, not the stored baseline: the luck of the pool cancels
    return [mean(n) - mean(1) if n <= size else float("nan") for n in ns]
