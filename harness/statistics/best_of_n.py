"""Best-of-n: the value of the sample with the highest reward among n, for all n from one pool of N samples.

The second optimiser beside PPO: nothing is trained, so that it tests a reward model in a minute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, Clusters
from rlhf_bench.harness.statistics.intervals import Interval, interval

DEFAULT_NS = (1, 2, 4, 8, 16, 32, 64)


def parse_ns(text: str) -> tuple[int, ...]:
    """Numbers from a text such as "1,2,4"; raises BenchError for anything else.

    In the order of the text; `check_ns` says whether they can be used.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BenchError(f"n={text!r} is no list of whole numbers.", "Write them as in --n 1,2,4,8.") from None


def check_ns(ns: Sequence[int], pool: int) -> tuple[int, ...]:
    """`ns` in rising order; raises BenchError for none, for one below 1, above the pool of N samples, or repeated."""
    if not ns:
        raise BenchError("No n was given for best-of-n.", "Write them as in --n 1,2,4,8.")
    if wrong := [n for n in ns if n < 1]:
        raise BenchError(f"Best of n = {wrong[0]} samples.", "n is 1 or more; 1 is the SFT policy itself.")
    if max(ns) > pool:
        raise BenchError(f"Best of n = {max(ns)} from a pool of {pool} samples.", f"Draw a pool of {max(ns)} or more.")
    if len(set(ns)) < len(ns):
        raise BenchError(f"n = {', '.join(map(str, ns))} names one number twice.", "Give each once.")
    return tuple(sorted(ns))


def kl_bound(n: int) -> float:
    """log n - (n - 1) / n in nats: an upper bound on the KL of best-of-n to the policy it samples from.

    Exact where no response is drawn twice and no two rewards tie, above the truth otherwise (Beirami et al., arXiv
    2401.01879).  Gao et al. (2210.10760) plot best-of-n against it.
    """
    # the pool is n itself, so only an n below 1 is refused
    check_ns([n], n)
    return math.log(n) - (n - 1) / n


def weights(rewards: npt.ArrayLike, n: int) -> Array:
    """[N] the chance of each sample to be the best of n drawn from the pool without replacement, ties shared evenly.

    Raises BenchError unless the rewards are a finite [N] with 1 <= n <= N.
    """
    line = np.asarray(rewards, dtype=np.float64)
    if line.ndim != 1 or not np.isfinite(line).all():
        raise BenchError(f"Rewards of shape {line.shape}, finite or not.", "Give one finite reward per sample.")
    check_ns([n], line.size)
    _, inverse, counts = np.unique(line, return_inverse=True, return_counts=True)
    # With L samples below a value and m tied at it, one of them wins with probability [C(L+m, n) - C(L, n)] / C(N, n).
    # within[g]: all n lie in the lowest g groups of ties.
    within = _chances_within(line.size, n)[[0, *np.cumsum(counts).tolist()]]
    shares: Array = (np.diff(within) / counts)[inverse]
    return shares


@lru_cache(1024)
def _chances_within(pool: int, n: int) -> Array:
    """[pool + 1] the chance that n drawn without replacement all lie among the first k of the pool."""
    # Python's integers are exact: binomials of a large pool exceed the largest float, their quotient does not.
    found = np.array([math.comb(k, n) / math.comb(pool, n) for k in range(pool + 1)])
    found.setflags(write=False)  # the cache returns the same array to every caller
    return found


def expected(rewards: npt.ArrayLike, values: npt.ArrayLike, n: int) -> Array:
    """[P] unbiased estimate of E[value of the best of n by reward], from rewards and values [P, N] of one pool.

    The mean over all subsets of n.  NaN where a sample that can be chosen has no value: undecided, not left out.
    Raises BenchError for pools of different shapes and rewards that are not finite.
    """
    proxy, worth = _pool(rewards, values)
    return weighted(chances(proxy, n), worth)


def chances(rewards: npt.ArrayLike, n: int) -> Array:
    """[P, N] `weights` of every prompt's pool [P, N], for use with any number of `weighted` values.

    Raises BenchError for pools that are empty or not [P, N], and for rewards that are not finite.
    """
    proxy, _ = _pool(rewards, rewards)
    return np.array([weights(row, n) for row in proxy]).reshape(proxy.shape)


def weighted(shares: Array, values: npt.ArrayLike) -> Array:
    """[P] `expected` under the chances [P, N] of the samples, from `chances`, and their values [P, N].

    NaN where a sample with a chance above 0 has no value.
    """
    worth = np.asarray(values, dtype=np.float64)
    # A sample that is never chosen adds 0 even where its value is NaN: 0 * NaN would be NaN.
    found: Array = np.multiply(worth, shares, out=np.zeros_like(worth), where=shares > 0).sum(axis=1)
    return found


def win_rate(rewards: npt.ArrayLike, values: npt.ArrayLike, n: int) -> Array:
    """[P] unbiased estimate of the chance that the best of n beats one further sample of the policy (a tie is half).

    NaN where a sample that can be chosen, or the opponent, has no value.  Raises BenchError unless n < N.
    """
    proxy, worth = _pool(rewards, values)
    # one of the N samples is the opponent
    check_ns([n], proxy.shape[1] - 1)
    found: Array = np.zeros(len(proxy))
    # The opponent is each sample in turn and the n come from the N - 1 others: it is independent of them, as a trained
    # policy is of its baseline.
    for left_out in range(proxy.shape[1]):
        others = np.arange(proxy.shape[1]) != left_out
        ours, theirs = worth[:, others], worth[:, [left_out]]
        won = (ours > theirs).astype(np.float64) + (ours == theirs) / 2  # 1, .5 or 0
        won = np.where(np.isnan(ours) | np.isnan(theirs), np.nan, won)
        found += expected(proxy[:, others], won, n)
    return np.asarray(found / proxy.shape[1])


def picks(rewards: npt.ArrayLike, n: int) -> npt.NDArray[np.intp]:
    """[P] the best of the first n samples of each row, the earliest of equals.

    One draw, nested over n.  Raises BenchError for an n outside 1 to N.
    """
    proxy, _ = _pool(rewards, rewards)
    check_ns([n], proxy.shape[1])
    # Samples are exchangeable, so that the earliest of equals is a random one.
    found: npt.NDArray[np.intp] = proxy[:, :n].argmax(axis=1)
    return found


def _pool(rewards: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Array, Array]:
    proxy, worth = np.asarray(rewards, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if proxy.ndim != 2 or proxy.shape != worth.shape or not proxy.size:
        raise BenchError(
            f"A pool of rewards {proxy.shape} and values {worth.shape}.", "Give both as [prompts, samples], not empty."
        )
    if not np.isfinite(proxy).all():
        raise BenchError("A pool with rewards that are NaN or infinite.", "Score it again.")
    return proxy, worth


@dataclass(frozen=True, slots=True)
class Point:
    """Best-of-n at one n.

    kl_bound: in nats.   value: in the unit of the values.   change: against one sample (n = 1) of the same pools,
    prompt by prompt.
    """

    n: int
    kl_bound: float
    value: Interval
    change: Interval


def curve(
    rewards: npt.ArrayLike,
    values: npt.ArrayLike,
    ns: Sequence[int],
    level: float,
    make_rng: Callable[[], np.random.Generator],
    clusters: Clusters | None = None,
) -> list[Point]:
    """The expected value at each n with its interval, from pools [S seeds, P prompts, N samples].

    Values may be gold, the reward itself, a length.  `make_rng` gives a fresh generator of one seed at each call, so
    that all points share their resamples.  Raises BenchError for pools of other shapes and for an n outside 1 to N.
    """
    proxy, worth = np.asarray(rewards, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if proxy.ndim != 3 or proxy.shape != worth.shape:
        raise BenchError(f"Pools of {proxy.shape} and {worth.shape}.", "Give both as [seeds, prompts, samples].")
    # [S, P] cells at n = 1, the mean of each pool
    single = np.array([expected(r, v, 1) for r, v in zip(proxy, worth, strict=True)])
    found = []
    # fresh generators of one seed: points of one curve then differ by n, not by their resamples
    for n in check_ns(ns, proxy.shape[2]):
        cells = np.array([expected(r, v, n) for r, v in zip(proxy, worth, strict=True)])
        value = interval("level", cells, level, make_rng(), clusters)
        change = interval("change", cells - single, level, make_rng(), clusters)
        found.append(Point(n, kl_bound(n), value, change))
    return found
