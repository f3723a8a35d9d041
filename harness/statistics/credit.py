"""Agreement of token rewards with known flaws: from the rows of `stages/credit.py` to estimates.

A negative reward is read as "this token is flawed".  The tokens of a pair, and pairs on one prompt, are not independent
evidence: the resampling unit is the cluster of pairs that share a prompt (one pair where every pair has its own).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # scipy.stats loads when it is first used: half a second that most commands do without
from scipy import sparse

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, Codes, upper_tail
from rlhf_bench.harness.statistics.intervals import (
    WIDE,
    Interval,
    allow_non_finite,
    bounded,
    interval,
    percentile,
    rate_over_seeds,
    unbounded,
    undefined,
)
from rlhf_bench.harness.statistics.variance import Moments

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

RESAMPLES = 2000
RATES = ("precision", "recall", "flagged share", "flawed share")
CURVES = ("auroc", "point-biserial", "spearman")
WITHIN = "auroc within responses"
KEYS = (*RATES, *CURVES, WITHIN)
SEQUENCE_LEVEL = "the reward sits on the last token alone (a sequence-level reward model): it has no token credit"
ROOM = 2_000_000  # numbers per array while resampling: bounds the memory

Bools = npt.NDArray[np.bool_]


class Tokens(NamedTuple):
    """Tokens of all seeds as columns.

    rewards [S, T]: nan where a seed has no such token.   flawed [T].   responses, clusters [T]: numbers from 0.
    """

    rewards: Array
    flawed: Bools
    responses: Codes
    clusters: Codes

    @classmethod
    def of(cls, tables: Sequence[Sequence[Row]]) -> Tokens:
        """The tokens of the seeds' rows of credit.jsonl; a column is one place in one response.

        Columns are in the order of first occurrence.  Raises BenchError for a row whose lists differ in length.
        """
        columns: dict[tuple[tuple[str, str], int, int], int] = {}
        responses: dict[tuple[str, str], int] = {}
        clusters: dict[str, int] = {}
        facts: list[tuple[bool, int, int]] = []
        given: list[list[tuple[int, float]]] = []
        for rows in tables:
            given.append([])
            for row in rows:
                spans, rewards, flaws = row["spans"], row["rewards"], row["flawed"]
                if not len(spans) == len(rewards) == len(flaws):
                    sizes = f"{len(spans)} spans, {len(rewards)} rewards and {len(flaws)} flaws"
                    fix = "The row is damaged: delete its folder and run again."
                    raise BenchError(f"Pair {row['pair']!r} has {sizes}.", fix)
                side = (str(row["pair"]), str(row["side"]))
                response = responses.setdefault(side, len(responses))
                cluster = clusters.setdefault(str(row.get("cluster", row["pair"])), len(clusters))
                for (start, end), reward, flawed in zip(spans, rewards, flaws, strict=True):
                    column = columns.setdefault((side, start, end), len(columns))
                    if column == len(facts):
                        facts.append((bool(flawed), response, cluster))
                    given[-1].append((column, float(reward)))
        table = np.full((len(given), len(facts)), np.nan)
        for seed, cells in enumerate(given):
            for column, reward in cells:
                table[seed, column] = reward
        flawed, in_response, in_cluster = zip(*facts, strict=True) if facts else ((), (), ())
        return cls(table, np.array(flawed, bool), np.array(in_response, np.intp), np.array(in_cluster, np.intp))


@allow_non_finite
def credit_estimates(
    tables_by_seed: Mapping[int, Sequence[Row]], level: float, rng: np.random.Generator
) -> dict[str, Interval]:
    """Agreement of token rewards with known flaws, from the rows of credit.jsonl by training seed; the keys are KEYS.

    precision, recall: of "reward < 0" as a detector of flawed tokens.   flagged, flawed share: of all tokens.
    auroc: chance that a flawed token gets less than a clean one, a tie counting half, over all tokens; "within
    responses" compares tokens of one response only and averages over the responses that have both kinds.
    point-biserial, spearman: correlation of the reward with being flawed, hence negative where the reward is right.

    Rates are estimated by `intervals.interval` over clusters.  The others: percentile bootstrap over clusters for one
    seed; for several, t with the variance between seeds added to that between clusters, as in `intervals.two_way`.
    Raises BenchError for a damaged row and a level outside (0, 1).
    """
    # refuses a wrong level, also where there is no token
    upper_tail(level)
    tokens = Tokens.of([tables_by_seed[seed] for seed in sorted(tables_by_seed)])
    if not tokens.flawed.size:
        return dict.fromkeys(KEYS, undefined("no token of a response with known flaws"))
    # one row: which tokens are flawed does not depend on the training seed
    share = rate_over_seeds(tokens.flawed[None].astype(np.float64), level, tokens.clusters)
    if not np.nan_to_num(tokens.rewards).any():
        # `end` is the reward on end-of-sequence, which is none of the tokens that are compared
        ends = any(row.get("end") for rows in tables_by_seed.values() for row in rows)
        why = SEQUENCE_LEVEL if ends else "the reward of every token is 0"
        return dict.fromkeys(KEYS, undefined(why)) | {"flawed share": share}
    negative = tokens.rewards < 0
    flagged = np.where(np.isnan(tokens.rewards), np.nan, negative)
    # [S, T] cells of each rate; nan takes a token out of its denominator
    rates = {
        "precision": (
            np.where(negative, tokens.flawed[None].astype(np.float64), np.nan),
            "no token has a negative reward",
        ),
        "recall": (np.where(tokens.flawed[None], flagged, np.nan), "no token is flawed"),
        "flagged share": (flagged, ""),
    }
    found = {
        name: undefined(why) if np.isnan(cells).all() else interval("rate", cells, level, rng, tokens.clusters)
        for name, (cells, why) in rates.items()
    }
    curves = _curves(tokens, level, rng)
    return {**found, "flawed share": share, **curves, WITHIN: _within(tokens, level, rng)}


def _within(tokens: Tokens, level: float, rng: np.random.Generator) -> Interval:
    """Mean over responses of their own AUROC: chance level for a reward that only separates responses."""
    count = int(tokens.responses.max()) + 1
    order = np.argsort(tokens.responses, kind="stable")
    pieces = np.split(order, np.searchsorted(tokens.responses[order], np.arange(1, count)))
    cells = np.full((len(tokens.rewards), count), np.nan)  # [S, responses]; nan without both kinds of tokens
    for seed, row in enumerate(tokens.rewards):
        for response, piece in enumerate(pieces):
            kept = piece[~np.isnan(row[piece])]
            flawed = tokens.flawed[kept]
            bad, good = int(flawed.sum()), int((~flawed).sum())
            if bad and good:
                # AUROC by rank sums (Mann and Whitney 1947), ties half: U / (bad good).
                # the negative reward, because a flawed token should get less
                ranks = float(scipy.stats.rankdata(-row[kept])[flawed].sum())
                cells[seed, response] = (ranks - bad * (bad + 1) / 2) / (bad * good)
    if np.isnan(cells).all():
        return undefined("no response has both flawed and clean tokens")
    clusters = np.array([tokens.clusters[piece[0]] for piece in pieces])
    return interval("level", cells, level, rng, clusters).clipped(0.0, 1.0)


# ---- statistics of all tokens, under weights of the clusters --------------------------------------------------------


class Groups(NamedTuple):
    """Tokens of one seed by distinct reward: values [K] rising, counts of flawed and clean tokens [K, clusters]."""

    values: Array
    flawed: sparse.csr_array
    clean: sparse.csr_array

    @classmethod
    def of(cls, rewards: Array, tokens: Tokens, clusters: int) -> Groups:
        """The tokens of one seed's rewards [T] by distinct reward: sums over K values cost less than over T."""
        kept = np.flatnonzero(~np.isnan(rewards))
        values, codes = np.unique(rewards[kept], return_inverse=True)
        shape, where = (max(1, values.size), clusters), tokens.clusters[kept]
        flawed = tokens.flawed[kept].astype(np.float64)
        bad = sparse.csr_array((flawed, (codes, where)), shape=shape)
        good = sparse.csr_array((1 - flawed, (codes, where)), shape=shape)
        # Correlations do not depend on the scale: the largest reward becomes 1, and squares do not overflow.
        return cls(values / (np.abs(values).max(initial=0.0) or 1.0), bad, good)


def _curves(tokens: Tokens, level: float, rng: np.random.Generator) -> dict[str, Interval]:
    count = int(tokens.clusters.max()) + 1
    groups = [Groups.of(row, tokens, count) for row in tokens.rewards]
    whole = np.stack([_weighted(one, np.ones((1, count)))[:, 0] for one in groups])  # [S, statistics]
    parts = []
    # A weight matrix [R, clusters] and the groups' totals [R, K] both stay within ROOM.
    size = max(1, ROOM // max(count, *(one.values.size for one in groups)))
    for start in range(0, RESAMPLES if count > 1 else 0, size):
        rows = min(size, RESAMPLES - start)
        # how often each cluster is drawn in `count` draws with replacement
        weights = rng.multinomial(count, np.full(count, 1 / count), size=rows).astype(np.float64)
        parts.append(np.stack([_weighted(one, weights) for one in groups]))  # the same resamples for every seed
    draws = np.concatenate(parts, axis=2) if parts else None  # [S, statistics, R]
    flat = "the rewards or the flaws do not vary"
    one_kind = "no token is flawed" if not tokens.flawed.any() else "every token is flawed"
    found = {}
    for i, name in enumerate(CURVES):
        seeds = np.isfinite(whole[:, i])
        if not seeds.any():
            found[name] = undefined(one_kind if name == "auroc" else flat)
            continue
        lowest = 0.0 if name == "auroc" else -1.0
        resampled = None if draws is None else draws[seeds, i]
        note = f"{int((~seeds).sum())} of {len(seeds)} seeds without a value" if not seeds.all() else ""
        found[name] = _interval(whole[seeds, i], resampled, count, level).clipped(lowest, 1.0).noted(note)
    return found


def _weighted(groups: Groups, weights: Array) -> Array:
    """[statistics, R] in the order of CURVES, each cluster counted `weights` [R, clusters] times; nan is undefined."""
    if not groups.values.size:
        return np.full((len(CURVES), len(weights)), np.nan)
    bad, good = (np.asarray(counts @ weights.T).T for counts in (groups.flawed, groups.clean))  # [R, K] each
    every = bad + good
    # [R, K] clean tokens with a higher reward, ties half (Mann and Whitney 1947).
    above = good.sum(axis=1, keepdims=True) - good.cumsum(axis=1) + good / 2
    auroc = (bad * above).sum(axis=1) / (bad.sum(axis=1) * good.sum(axis=1))
    values = np.broadcast_to(groups.values, every.shape)
    midranks = every.cumsum(axis=1) - every / 2  # Spearman's correlation is Pearson's of midranks, up to a constant
    return np.stack([auroc, _correlation(values, every, bad), _correlation(midranks, every, bad)])


def _correlation(x: Array, every: Array, bad: Array) -> Array:
    """Pearson's correlation [R] of x with being flawed, by groups [R, K] of equal x."""
    n, share = every.sum(axis=1), bad.sum(axis=1) / every.sum(axis=1)
    deviation = x - ((every * x).sum(axis=1) / n)[:, None]
    spread = (every * deviation**2).sum(axis=1) / n * share * (1 - share)  # product of the two variances
    varies = ((every > 0).sum(axis=1) > 1) & (spread > 0)
    return np.where(varies, (bad * deviation).sum(axis=1) / n / np.sqrt(spread), np.nan)


def _interval(values: Array, draws: Array | None, clusters: int, level: float) -> Interval:
    """One statistic: values [S], bootstrap draws [S, R] under shared resamples of the clusters.

    For several seeds the bootstrap analogue of `intervals.two_way`, with the t quantile of `Moments.half_width`.
    """
    if draws is None:
        return unbounded(float(values.mean()), "none", "one pair: the spread between pairs is unknown")
    usable = np.isfinite(draws).all(axis=0)
    lost = f"{int((~usable).sum())} of {usable.size} resamples undefined" if not usable.all() else ""
    draws, seeds, mean = draws[:, usable], len(values), float(values.mean())
    if draws.shape[1] < 2:
        return unbounded(mean, "none").noted(lost)
    flat = "nothing varied between resamples: a width of 0 does not make the value certain"
    note = flat if np.ptp(draws) == 0 else ""
    if seeds == 1:
        found = percentile(float(values[0]), draws[0], level, "conditional on this training run")
        return replace(found, method="percentile bootstrap over pairs").noted(lost, note)
    # V = s^2 / S + b - e / S: s^2 between seeds, b of the seeds' mean over resamples, e / S the seeds' own part of b,
    # which s^2 / S holds too.
    between = float(values.var(ddof=1)) / seeds
    pairs = float(draws.mean(axis=0).var())
    shared = float((draws - draws.mean(axis=0)).var(axis=1).mean()) / (seeds - 1)
    parts = Moments(mean, between, max(pairs - shared, 0.0), max(pairs, shared), seeds - 1, clusters - 1)
    few = WIDE if seeds == 2 else ""
    if parts.variance == 0:
        equal = "nothing varied between seeds or resamples"
        return bounded(mean, mean, mean, "t over seeds and pairs", equal).noted(lost, few)
    half = parts.half_width(1 - upper_tail(level))
    return bounded(mean, mean - half, mean + half, "t over seeds and pairs").noted(lost, few)
