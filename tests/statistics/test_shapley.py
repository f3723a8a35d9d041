"""Shapley values: against the definition by all orders, and the axioms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import shapley

GAMES = st.integers(1, 5).flatmap(lambda n: st.lists(st.floats(-9, 9), min_size=2**n, max_size=2**n))


def by_all_orders(values: list[float]) -> list[float]:
    """What each player adds when it joins, the mean over all orders."""
    players = len(values).bit_length() - 1
    found = [0.0] * players
    orders = list(itertools.permutations(range(players)))
    for order in orders:
        joined = 0
        for player in order:
            found[player] += (values[joined | 1 << player] - values[joined]) / len(orders)
            joined |= 1 << player
    return found


@given(GAMES)
def test_the_values_are_the_mean_over_all_orders(values: list[float]) -> None:
    assert shapley.exact(values).tolist() == pytest.approx(by_all_orders(values), abs=1e-9)


@given(GAMES)
def test_they_sum_to_what_all_add_to_nothing(values: list[float]) -> None:
    assert shapley.exact(values).sum() == pytest.approx(values[-1] - values[0], abs=1e-9)


@given(GAMES, st.integers(1, 5), st.integers(0, 9))
def test_so_do_values_over_any_orders(values: list[float], count: int, seed: int) -> None:
    players = len(values).bit_length() - 1
    orders = shapley.sampled_orders(players, count, np.random.default_rng(seed))
    found = shapley.over_orders(orders, dict(enumerate(values)))
    assert found.sum() == pytest.approx(values[-1] - values[0], abs=1e-9)


@given(GAMES)
def test_over_all_orders_sampling_is_exact(values: list[float]) -> None:
    players = len(values).bit_length() - 1
    orders = np.array(list(itertools.permutations(range(players))), dtype=np.int64).reshape(-1, players)
    needed = set(shapley.prefixes(orders).ravel().tolist())
    assert needed == set(range(len(values)))
    assert shapley.over_orders(orders, dict(enumerate(values))) == pytest.approx(shapley.exact(values), abs=1e-9)


@given(st.lists(st.floats(-9, 9), min_size=3, max_size=12), st.integers(0, 9))
def test_equal_players_get_equal_values_and_idle_ones_nothing(of_sizes: list[float], seed: int) -> None:
    """A game of 4 players: the worth depends on how many of 0, 1 and 2 are in; 3 adds nothing."""
    worth = np.resize(of_sizes, 4)
    values = [worth[bin(mask & 7).count("1")] for mask in range(16)]
    found = shapley.exact(values)
    assert found[:3] == pytest.approx(np.full(3, (worth[3] - worth[0]) / 3), abs=1e-9)
    assert found[3] == pytest.approx(0, abs=1e-9)
    sampled = shapley.over_orders(shapley.sampled_orders(4, 3, np.random.default_rng(seed)), dict(enumerate(values)))
    assert sampled[3] == pytest.approx(0, abs=1e-9)


def test_sampled_values_are_unbiased() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=32)
    orders = shapley.sampled_orders(5, 20_000, rng)
    assert {tuple(sorted(order)) for order in orders[:50].tolist()} == {(0, 1, 2, 3, 4)}
    error = np.abs(shapley.over_orders(orders, dict(enumerate(values))) - shapley.exact(values))
    assert error.max() < 5 * 4 / np.sqrt(20_000)  # what a player adds varies by less than 4


def test_a_game_of_nobody_has_no_values() -> None:
    assert shapley.exact([3.0]).tolist() == []


def test_other_numbers_of_values_are_refused() -> None:
    for wrong in ([], [1.0, 2.0, 3.0], [[1.0, 2.0]]):
        with pytest.raises(BenchError, match="coalitions"):
            shapley.exact(wrong)
