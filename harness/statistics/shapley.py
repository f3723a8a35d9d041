"""Shapley values of a game (Shapley 1953), from the values of its coalitions: exact, or over sampled orders.

A coalition of n players is a whole number whose bit i says whether player i is in it; 0 is the empty one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array

Orders = npt.NDArray[np.int64]


def exact(values: npt.ArrayLike) -> Array:
    """[n] Shapley values, from the values [2^n] of all coalitions.  Raises BenchError for another number of them."""
    worth = np.asarray(values, dtype=np.float64)
    players = worth.size.bit_length() - 1
    if worth.ndim != 1 or worth.size != 2**players:
        raise BenchError(f"Values of shape {worth.shape}.", "Give one for each of the 2^n coalitions.")
    masks = np.arange(worth.size)
    sizes = ((masks[:, None] >> np.arange(players)) & 1).sum(axis=1)
    found = np.empty(players)
    for player in range(players):
        without = masks[(masks >> player) & 1 == 0]
        # |S|! (n - |S| - 1)! / n! of a coalition S without the player
        weights = 1 / (players * special.comb(players - 1, sizes[without]))
        found[player] = weights @ (worth[without | 1 << player] - worth[without])
    return found


def sampled_orders(players: int, count: int, rng: np.random.Generator) -> Orders:
    """[count, players] random orders in which the players join."""
    return np.stack([rng.permutation(players) for _ in range(count)])


def prefixes(orders: Orders) -> Orders:
    """[count, players + 1] the coalitions that grow along each order, from the empty one to all players."""
    joined = (1 << orders.astype(np.int64)).cumsum(axis=1)
    return np.concatenate([np.zeros((len(orders), 1), dtype=np.int64), joined], axis=1)


def over_orders(orders: Orders, values: Mapping[int, float]) -> Array:
    """[n] the mean over orders [M, n] of what each player adds when it joins (Castro et al. 2009).

    Unbiased for the Shapley values over random orders.  For any orders the values sum to that of all players less that
    of none.  `values` has those of `prefixes(orders)`.
    """
    grown = prefixes(orders)
    worth = np.array([[values[mask] for mask in row] for row in grown.tolist()])
    found = np.zeros(orders.shape[1])
    np.add.at(found, orders, np.diff(worth, axis=1))
    return found / len(orders)
