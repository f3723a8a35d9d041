"""Sensitivity to settings with a budget: what each reward model reaches when k settings are tried and the best is kept.

A comparison under one set of settings may favour the reward model that these settings fit.  Here every reward model has
the same budget of tries, and its setting is chosen by gold on other seeds (`statistics/tuning.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.sheets import Sheets
from rlhf_bench.harness.seeds import Seed, layers_of, shown
from rlhf_bench.harness.statistics.cells import Array
from rlhf_bench.harness.statistics.intervals import Interval
from rlhf_bench.harness.statistics.tuning import budget_intervals

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject

DECODINGS = ("sample", "greedy")


class Tried(NamedTuple):
    """Means of gold_change over held-out prompts by reward model, [C settings, S seeds] each, in one decoding."""

    settings: tuple[str, ...]
    seeds: tuple[Seed, ...]
    gold: Mapping[str, Array]


def tried(runs: Mapping[str, Sequence[Arm]], decoding: str) -> Tried | None:
    """What every setting came to; `runs` are the arms of the runs that differ in settings alone.

    Reward models, and seeds, that not every run has are left out, as is what is undecided; None where fewer than two
    seeds, or no reward model, are left, and under seeds in layers, of which no one is independent of the others.
    """
    by_run = {name: {arm.reward_model: arm for arm in arms} for name, arms in runs.items()}
    names = sorted(set.intersection(*(set(arms) for arms in by_run.values()))) if by_run else []
    sheets, means = Sheets(), dict[tuple[str, str, Seed], float]()
    for run, arms in by_run.items():
        for name in names:
            for seed, values in _gold(arms[name], decoding, sheets).items():
                means[run, name, seed] = values
    found = {seed for _, _, seed in means}
    seeds = tuple(sorted(s for s in found if all((run, name, s) in means for run in by_run for name in names)))
    if len(seeds) < 2 or not names or layers_of(seeds) is not None:
        return None
    gold = {name: np.array([[means[run, name, seed] for seed in seeds] for run in by_run]) for name in names}
    return Tried(tuple(by_run), seeds, gold)


def _gold(arm: Arm, decoding: str, sheets: Sheets) -> dict[Seed, float]:
    """The mean gold_change by seed, of those with a decided row."""
    found = {}
    for seed, rows in sheets.of(arm, "utility", decoding).items():
        known = [value for row in rows.values() if (value := row["values"].get("gold_change")) is not None]
        if known:
            found[seed] = float(np.mean(known))
    return found


def best_of_budgets(runs: Mapping[str, Sequence[Arm]], level: float) -> JsonObject | None:
    """The analysis of an experiment: by reward model and budget k, the gold of the best of k settings.

    Rows are those of the other analyses; differences of two reward models, paired by seed, have both names.  None where
    nothing can be chosen (`tried`).
    """
    rows: list[JsonObject] = []
    measured: list[JsonObject] = []
    for decoding in DECODINGS:
        found = tried(runs, decoding)
        if found is None:
            continue
        own = {name: budget_intervals(table, level) for name, table in found.gold.items()}
        for a, b in combinations(found.gold, 2):
            own[f"{a} - {b}"] = budget_intervals(found.gold[a], level, found.gold[b])
        seeds = list(map(shown, found.seeds))
        rows += [_row(name, k, decoding, one, seeds) for name, k_all in own.items() for k, one in enumerate(k_all, 1)]
        for name, table in found.gold.items():
            means = dict(zip(found.settings, table.mean(axis=1).tolist(), strict=True))
            measured.append({"reward_model": name, "decoding": decoding, **means})
    return {"kind": "tuning", "rows": rows, "measured": measured} if rows else None


def _row(name: str, budget: int, decoding: str, found: Interval, seeds: Sequence[object]) -> JsonObject:
    statistic = f"gold change, best of {budget}, {decoding}"
    return {"reward_model": name, "seeds": list(seeds), "statistic": statistic, **asdict(found)}
