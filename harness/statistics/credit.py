"""Do token rewards fall where the flaws are?  From the rows of `stage_credit` to estimates, numpy and scipy only.

A negative reward is read as "this token is flawed".  The tokens of a pair, and pairs on one prompt, are no independent
evidence: the resampling unit is the cluster of pairs that share a prompt (one pair where every pair has its own).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse, stats

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, Codes, upper_tail
from rlhf_bench.harness.statistics.interval import Interval, allow_non_finite, bounded, unbounded, undefined
from rlhf_bench.harness.statistics.rules import WIDE, interval, percentile, rate_over_seeds
from rlhf_bench.harness.statistics.variance import Moments

RESAMPLES = 2000
RATES = ("precision", "recall", "flagged share", "flawed share")
CURVES = ("auroc", "point-biserial", "spearman")
WITHIN = "auroc within responses"
KEYS = (*RATES, *CURVES, WITHIN)
SEQUENCE_LEVEL = "the reward sits on the last token alone (a sequence-level reward model): it has no token credit"
ROOM = 2_000_000  # numbers per array while resampling: bounds the memory

Bools = npt.NDArray[np.bool_]


class Tokens(NamedTuple):
    """Tokens of all seeds as columns: rewards [S, T] (nan where a seed has no such token), flawed [T], and the number
    of each token's response and cluster [T]."""

    rewards: Array
    flawed: Bools
    responses: Codes
    clusters: Codes


@allow_non_finite
def credit_estimates(
    tables_by_seed: Mapping[int, Sequence[Mapping[str, Any]]], level: float, rng: np.random.Generator
) -> dict[str, Interval]:
    """Agreement of token rewards with known flaws, from the rows of credit.jsonl by training seed; the keys are KEYS.

    precision, recall: of "reward < 0" as a detector of flawed tokens.   flagged, flawed share: of all tokens.
    auroc: chance that a flawed token gets less than a clean one, a tie counting half, over all tokens; "within
    responses" compares tokens of one response only and averages over the responses that have both kinds.
    point-biserial, spearman: correlation of the reward with being flawed, hence negative where the reward is right.

    Rates go through `statistics.interval`.  The others: percentile bootstrap over clusters for one seed; for several,
    t with the variance between seeds added to that between clusters, by the rule of `statistics.two_way`.
    """
    upper_tail(level)
    tokens = _columns([tables_by_seed[seed] for seed in sorted(tables_by_seed)])
    if not tokens.flawed.size:
        return dict.fromkeys(KEYS, undefined("no token of a response with known flaws"))
    share = rate_over_seeds(tokens.flawed[None].astype(np.float64), level, tokens.clusters)
    if why := _no_credit(tokens, [row for rows in tables_by_seed.values() for row in rows]):
        return dict.fromkeys(KEYS, undefined(why)) | {"flawed share": share}
    return {
        **_rates(tokens, level, rng),
        "flawed share": share,
        **_curves(tokens, level, rng),
        WITHIN: _within(tokens, level, rng),
    }


def _columns(tables: Sequence[Sequence[Mapping[str, Any]]]) -> Tokens:
    """One column per token of the same place in the same response, whichever seeds have it."""
    columns: dict[tuple[Any, ...], int] = {}
    responses: dict[tuple[str, str], int] = {}
    clusters: dict[str, int] = {}
    facts: list[tuple[bool, int, int]] = []
    given: list[list[tuple[int, float]]] = []
    for rows in tables:
        given.append([])
        for row in rows:
            side = (str(row["pair"]), str(row["side"]))
            response = responses.setdefault(side, len(responses))
            cluster = clusters.setdefault(str(row.get("cluster", row["pair"])), len(clusters))
            for span, reward, flawed in _aligned(row):
                column = columns.setdefault((side, *span), len(columns))
                if column == len(facts):
                    facts.append((bool(flawed), response, cluster))
                given[-1].append((column, float(reward)))
    rewards = np.full((len(given), len(facts)), np.nan)
    for seed, cells in enumerate(given):
        for column, reward in cells:
            rewards[seed, column] = reward
    parts = list(zip(*facts, strict=True)) or [(), (), ()]
    flawed, response_codes, cluster_codes = parts
    return Tokens(rewards, np.array(flawed, bool), np.array(response_codes, np.intp), np.array(cluster_codes, np.intp))


def _aligned(row: Mapping[str, Any]) -> list[tuple[Any, Any, Any]]:
    spans, rewards, flawed = row["spans"], row["rewards"], row["flawed"]
    if not len(spans) == len(rewards) == len(flawed):
        seen = f"Pair {row['pair']!r} has {len(spans)} spans, {len(rewards)} rewards and {len(flawed)} flaws."
        raise BenchError(seen, "The row is damaged: delete its folder and run again.")
    return list(zip(spans, rewards, flawed, strict=True))


def _no_credit(tokens: Tokens, rows: Sequence[Mapping[str, Any]]) -> str:
    if np.nan_to_num(tokens.rewards).any():
        return ""
    return SEQUENCE_LEVEL if any(row.get("end") for row in rows) else "the reward of every token is 0"


def _rates(tokens: Tokens, level: float, rng: np.random.Generator) -> dict[str, Interval]:
    given, negative = ~np.isnan(tokens.rewards), tokens.rewards < 0
    flagged = np.where(given, negative, np.nan)
    precision = np.where(negative, tokens.flawed[None].astype(np.float64), np.nan)
    recall = np.where(tokens.flawed[None], flagged, np.nan)
    found = {"precision": precision, "recall": recall, "flagged share": flagged}
    reasons = {"precision": "no token has a negative reward", "recall": "no token is flawed"}
    return {
        name: undefined(reasons[name])
        if np.isnan(cells).all()
        else interval("rate", cells, level, rng, tokens.clusters)
        for name, cells in found.items()
    }


def _within(tokens: Tokens, level: float, rng: np.random.Generator) -> Interval:
    """Mean over responses of their own AUROC: what a reward that only tells responses apart cannot score."""
    count = int(tokens.responses.max()) + 1
    order = np.argsort(tokens.responses, kind="stable")
    pieces = np.split(order, np.searchsorted(tokens.responses[order], np.arange(1, count)))
    cells = np.array([[_auroc(row[piece], tokens.flawed[piece]) for piece in pieces] for row in tokens.rewards])
    if np.isnan(cells).all():
        return undefined("no response has both flawed and clean tokens")
    clusters = np.array([tokens.clusters[piece[0]] for piece in pieces])
    return interval("level", cells, level, rng, clusters).clipped(0.0, 1.0)


def _auroc(rewards: Array, flawed: Bools) -> float:
    """By rank sums (Mann and Whitney 1947), ties half; nan without both kinds."""
    kept = ~np.isnan(rewards)
    rewards, flawed = rewards[kept], flawed[kept]
    bad, good = int(flawed.sum()), int((~flawed).sum())
    if not bad or not good:
        return math.nan
    return (float(stats.rankdata(-rewards)[flawed].sum()) - bad * (bad + 1) / 2) / (bad * good)


# ---- statistics of all tokens, under weights of the clusters --------------------------------------------------------


class Groups(NamedTuple):
    """Tokens of one seed by distinct reward: values [K] rising, counts of flawed and clean tokens [K, clusters]."""

    values: Array
    flawed: Any
    clean: Any


def _curves(tokens: Tokens, level: float, rng: np.random.Generator) -> dict[str, Interval]:
    count = int(tokens.clusters.max()) + 1
    groups = [_grouped(row, tokens, count) for row in tokens.rewards]
    whole = np.stack([_weighted(one, np.ones((1, count)))[:, 0] for one in groups])  # [S, statistics]
    draws = [_draws(groups, count, rng)] if count > 1 else []
    reasons = {
        "auroc": "no token is flawed" if not tokens.flawed.any() else "every token is flawed",
        "point-biserial": "the rewards or the flaws do not vary",
        "spearman": "the rewards or the flaws do not vary",
    }
    found = {}
    for i, name in enumerate(CURVES):
        seeds = np.isfinite(whole[:, i])
        if not seeds.any():
            found[name] = undefined(reasons[name])
            continue
        lowest = 0.0 if name == "auroc" else -1.0
        resampled = draws[0][seeds, i] if draws else None
        note = f"{int((~seeds).sum())} of {len(seeds)} seeds without a value" if not seeds.all() else ""
        found[name] = _interval(whole[seeds, i], resampled, count, level).clipped(lowest, 1.0).noted(note)
    return found


def _grouped(rewards: Array, tokens: Tokens, clusters: int) -> Groups:
    kept = np.flatnonzero(~np.isnan(rewards))
    values, codes = np.unique(rewards[kept], return_inverse=True)
    shape, where = (max(1, values.size), clusters), tokens.clusters[kept]
    flawed = tokens.flawed[kept].astype(np.float64)
    bad = sparse.csr_array((flawed, (codes, where)), shape=shape)
    good = sparse.csr_array((1 - flawed, (codes, where)), shape=shape)
    return Groups(values / (np.abs(values).max(initial=0.0) or 1.0), bad, good)


def _draws(groups: Sequence[Groups], clusters: int, rng: np.random.Generator) -> Array:
    """[S, statistics, R] under the same resamples of clusters for every seed."""
    size = max(1, ROOM // max(clusters, *(one.values.size for one in groups)))
    parts = []
    for start in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - start)
        weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=rows).astype(np.float64)
        parts.append(np.stack([_weighted(one, weights) for one in groups]))
    return np.concatenate(parts, axis=2)


def _weighted(groups: Groups, weights: Array) -> Array:
    """[statistics, R] in the order of CURVES, each cluster counted `weights` [R, clusters] times; nan is undefined."""
    if not groups.values.size:
        return np.full((len(CURVES), len(weights)), np.nan)
    bad, good = (np.asarray(counts @ weights.T).T for counts in (groups.flawed, groups.clean))
    every = bad + good
    above = good.sum(axis=1, keepdims=True) - good.cumsum(axis=1) + good / 2
    auroc = (bad * above).sum(axis=1) / (bad.sum(axis=1) * good.sum(axis=1))
    values = np.broadcast_to(groups.values, every.shape)
    midranks = every.cumsum(axis=1) - every / 2
    return np.stack([auroc, _correlation(values, every, bad), _correlation(midranks, every, bad)])


def _correlation(x: Array, every: Array, bad: Array) -> Array:
    """Pearson's correlation [R] of x with being flawed, by groups [R, K] of equal x."""
    n, share = every.sum(axis=1), bad.sum(axis=1) / every.sum(axis=1)
    deviation = x - ((every * x).sum(axis=1) / n)[:, None]
    spread = (every * deviation**2).sum(axis=1) / n * share * (1 - share)
    varies = ((every > 0).sum(axis=1) > 1) & (spread > 0)
    return np.where(varies, (bad * deviation).sum(axis=1) / n / np.sqrt(spread), np.nan)


def _interval(values: Array, draws: Array | None, clusters: int, level: float) -> Interval:
    """One statistic: values [S], bootstrap draws [S, R] under shared resamples of the clusters."""
    if draws is None:
        return unbounded(float(values.mean()), "none", "one pair: the spread between pairs is unknown")
    usable = np.isfinite(draws).all(axis=0)
    lost = f"{int((~usable).sum())} of {usable.size} resamples undefined" if not usable.all() else ""
    draws = draws[:, usable]
    if draws.shape[1] < 2:
        return unbounded(float(values.mean()), "none").noted(lost)
    same = "nothing varied between resamples: the width says that, not that the value is certain"
    note = same if np.ptp(draws) == 0 else ""
    if len(values) == 1:
        found = percentile(float(values[0]), draws[0], level, "conditional on this training run")
        return replace(found, method="percentile bootstrap over pairs").noted(lost, note)
    return _t_interval(values, draws, clusters, level).noted(lost, WIDE if len(values) == 2 else "")


def _t_interval(values: Array, draws: Array, clusters: int, level: float) -> Interval:
    """The bootstrap analogue of `two_way`: variance s^2 / S + b - e / S, s^2 between seeds, b of the seeds' mean over
    resamples, e / S what both count (the seeds' own part of b), with the t quantile of `Moments.half_width`.
    """
    seeds, mean = len(values), float(values.mean())
    between = float(values.var(ddof=1)) / seeds
    pairs = float(draws.mean(axis=0).var())
    shared = float((draws - draws.mean(axis=0)).var(axis=1).mean()) / (seeds - 1)
    parts = Moments(mean, between, max(pairs - shared, 0.0), max(pairs, shared), seeds - 1, clusters - 1)
    if parts.variance == 0:
        return bounded(mean, mean, mean, "t over seeds and pairs", "nothing varied between seeds or resamples")
    half = parts.half_width(1 - upper_tail(level))
    return bounded(mean, mean - half, mean + half, "t over seeds and pairs")
