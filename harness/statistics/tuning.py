"""Best of a budget: what an arm reaches when k settings are tried and the best one is kept.

Choosing and measuring on the same seeds would report luck as skill.  Here the setting for a seed is chosen by the mean
over the other seeds.  The expected maximum over random settings as a function of k is that of Dodge et al. (2019,
arXiv 1909.03004), who choose on validation data.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, as_matrix, upper_tail
from rlhf_bench.harness.statistics.intervals import Interval, bounded, unbounded

METHOD = "best of a budget, chosen on the other seeds"


def best_of_budget(values: npt.ArrayLike) -> Array:
    """The value under each seed of the best of k settings, chosen on the other seeds, for k = 1 to C: [C, S].

    values [C, S]: the measure of every setting under every seed, higher is better.  Row k - 1 is the mean over all
    choices of k of the C settings, each as likely: the settings that a budget of k tries.  So the first row is the mean
    over settings.  Of settings that are equal on the other seeds, the first counts as the better one.
    Raises BenchError for fewer than 2 seeds, and for values that are not finite.
    """
    table = as_matrix(values)
    settings, seeds = table.shape
    if seeds < 2 or not settings or not np.isfinite(table).all():
        seen = f"{settings} settings under {seeds} seeds, {int((~np.isfinite(table)).sum())} values undecided."
        raise BenchError(seen, "Give 2 seeds or more, and every value.")
    others = (table.sum(axis=1, keepdims=True) - table) / (seeds - 1)
    # the settings from best to worst on the other seeds, one order for each seed: [C, S]
    order = np.argsort(-others, axis=0, kind="stable")
    ranked = np.take_along_axis(table, order, axis=0)
    return _chosen(settings) @ ranked


def _chosen(settings: int) -> Array:
    """The probability [k, r] that the r-th best of all settings is the best of k drawn ones (without replacement)."""
    shares = np.zeros((settings, settings))
    for k in range(1, settings + 1):
        for r in range(settings):
            shares[k - 1, r] = math.comb(settings - r - 1, k - 1) / math.comb(settings, k)
    return shares


def budget_intervals(values: npt.ArrayLike, level: float, minus: npt.ArrayLike | None = None) -> list[Interval]:
    """The mean over seeds of `best_of_budget`, for k = 1 to C, with the jackknife's t interval over seeds.

    values [C, S]; with `minus` [C, S], a second arm's values of the same settings and seeds, the difference of both.
    A seed that is left out is left out of the other seeds' choices as well.  Student's t on the seeds' own values would
    take them for independent: simulated, it covers .82 to .96 at a nominal .95 and the jackknife .94 to .98
    (tests/statistics/test_tuning.py).  Without bounds for fewer than 3 seeds, of which no choice is left when one is
    left out.  Settings and held-out prompts count as fixed.  Raises BenchError as `best_of_budget`, and for two shapes.
    """
    tables = [as_matrix(values), *([] if minus is None else [as_matrix(minus)])]
    if len({table.shape for table in tables}) > 1:
        shapes = " and ".join(str(list(table.shape)) for table in tables)
        raise BenchError(f"Values of shape {shapes}.", "Give the same settings and seeds for both.")

    def found(without: int | None = None) -> Array:
        own = tables if without is None else [np.delete(table, without, axis=1) for table in tables]
        means: list[Array] = [best_of_budget(table) @ np.full(table.shape[1], 1 / table.shape[1]) for table in own]
        return means[0] if minus is None else means[0] - means[1]

    seeds, whole = tables[0].shape[1], found()
    if seeds < 3:
        return [unbounded(float(value), METHOD, "two seeds leave none to choose on") for value in whole]
    parts = np.array([found(seed) for seed in range(seeds)])  # [S, C]
    # the jackknife's variance: (S - 1) / S times the squares of the means that leave one seed out
    spread = np.sqrt((seeds - 1) / seeds * ((parts - parts.mean(axis=0)) ** 2).sum(axis=0))
    half = float(special.stdtrit(seeds - 1, upper_tail(level))) * spread
    return [
        bounded(float(v), float(v - h), float(v + h), METHOD) if h > 0 else unbounded(float(v), METHOD, "no spread")
        for v, h in zip(whole, half, strict=True)
    ]
