"""Best-of-n in numbers: every estimate against all subsets, and the KL bound against exact distributions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from best_of_n_by_hand import over_subsets, refused
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness.statistics.best_of_n import (
    check_ns,
    curve,
    expected,
    kl_bound,
    parse_ns,
    picks,
    weights,
    win_rate,
)

pools = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=n, max_size=n),  # ties are common
        st.lists(st.floats(-10, 10), min_size=n, max_size=n),
        st.integers(1, n),
    )
)


# ---- estimates ------------------------------------------------------------------------------------------------------


@given(pools)
def test_the_estimate_is_the_mean_over_all_subsets(pool: tuple[list[float], list[float], int]) -> None:
    rewards, values, n = pool
    assert expected([rewards], [values], n) == pytest.approx([over_subsets(rewards, values, n)], abs=1e-9)


@given(pools, st.randoms())
def test_weights_are_chances_that_know_no_order(pool: tuple[list[float], list[float], int], random: Any) -> None:
    rewards, _, n = pool
    found = weights(rewards, n)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert all(a == b for (r, a), (s, b) in itertools.product(zip(rewards, found, strict=True), repeat=2) if r == s)
    order = random.sample(range(len(rewards)), len(rewards))
    assert weights([rewards[i] for i in order], n).tolist() == found[order].tolist()


def test_weights_by_hand() -> None:
    assert weights([3, 1, 2], 2) == pytest.approx([2 / 3, 0, 1 / 3])
    assert weights([1, 1, 2], 2) == pytest.approx([1 / 6, 1 / 6, 2 / 3])
    assert weights([5, 5], 2).tolist() == [0.5, 0.5]
    assert weights([0.0, -0.0], 1).tolist() == [0.5, 0.5]
    assert weights(np.arange(2000), 1000).sum() == pytest.approx(1)


def test_one_sample_is_the_mean_and_all_are_the_best() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 5, 64))
    assert expected(rewards, values, 1) == pytest.approx(values.mean(1))
    assert expected(rewards, values, 64) == pytest.approx(values[np.arange(5), rewards.argmax(1)])
    own = [expected(rewards, rewards, n) for n in range(1, 65)]
    assert (np.diff(own, axis=0) > 0).all()  # of the reward itself, more is better


def test_the_estimate_is_unbiased_over_all_pools() -> None:
    """Responses a, b, c with chances, rewards (two tie) and golds: the truth by all pairs, the estimate by all pools of
    four."""
    chance, reward, gold = [0.5, 0.3, 0.2], [1.0, 2.0, 2.0], [0.1, 0.7, -0.4]
    truth = sum(
        chance[i] * chance[j] * over_subsets([reward[i], reward[j]], [gold[i], gold[j]], 2)
        for i, j in itertools.product(range(3), repeat=2)
    )
    mean = sum(
        math.prod(chance[i] for i in pool) * expected([[reward[i] for i in pool]], [[gold[i] for i in pool]], 2)[0]
        for pool in itertools.product(range(3), repeat=4)
    )
    assert mean == pytest.approx(truth, abs=1e-12)


@given(pools)
def test_the_win_rate_is_over_all_subsets_and_opponents(pool: tuple[list[float], list[float], int]) -> None:
    rewards, values, n = pool
    if n == len(rewards):
        refused(lambda: win_rate([rewards], [values], n), "from a pool of")
        return
    found = []
    for opponent in range(len(rewards)):
        others = [i for i in range(len(rewards)) if i != opponent]
        won = [(np.sign(values[i] - values[opponent]) + 1) / 2 for i in others]
        found.append(over_subsets([rewards[i] for i in others], won, n))
    assert win_rate([rewards], [values], n) == pytest.approx([np.mean(found)], abs=1e-9)


def test_win_rates_of_a_perfect_reward_model() -> None:
    values = np.random.default_rng(0).normal(size=(3, 12))
    for n in (1, 2, 5, 11):
        assert win_rate(values, values, n) == pytest.approx([n / (n + 1)] * 3)
    assert win_rate(values, np.zeros((3, 12)), 4).tolist() == [0.5] * 3


def test_an_undecided_value_is_never_left_out() -> None:
    found = expected([[3.0, 2.0, 1.0]], [[1.0, np.nan, 5.0]], 3)
    assert found.tolist() == [1]  # the undecided one cannot be chosen
    assert math.isnan(expected([[3.0, 2.0, 1.0]], [[1.0, np.nan, 5.0]], 2)[0])
    assert math.isnan(win_rate([[3.0, 2.0, 1.0]], [[1.0, np.nan, 5.0]], 1)[0])


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=6, max_size=6), min_size=1, max_size=4))
def test_picks_are_nested_and_the_earliest_best(rewards: list[list[float]]) -> None:
    found = {n: picks(rewards, n).tolist() for n in range(1, 7)}
    assert found[1] == [0] * len(rewards)
    for row, values in enumerate(rewards):
        for n in range(1, 7):
            assert found[n][row] == values.index(max(values[:n]))
            assert n == 1 or found[n][row] in (found[n - 1][row], n - 1)


# ---- the KL bound ---------------------------------------------------------------------------------------------------


def test_the_bound_by_hand() -> None:
    assert kl_bound(1) == 0
    assert kl_bound(2) == pytest.approx(math.log(2) - 0.5)
    assert kl_bound(64) == pytest.approx(3.174508, abs=1e-6)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 40))
def test_it_bounds_the_kl_of_any_distribution(counts: list[int], n: int) -> None:
    """Responses in order of reward: best-of-n takes the i-th with chance F_i^n - F_(i-1)^n."""
    p = np.array(counts) / sum(counts)
    below = np.concatenate([[0.0], np.cumsum(p)])
    q = below[1:] ** n - below[:-1] ** n
    kl = float(sum(b * math.log(b / a) for a, b in zip(p, q, strict=True) if b > 0))
    assert kl <= kl_bound(n) + 1e-9


def test_it_is_reached_where_no_response_comes_twice() -> None:
    n, size = 8, 200_000
    rank = np.arange(size + 1) / size
    q = rank[1:] ** n - rank[:-1] ** n
    assert float((q[q > 0] * np.log(q[q > 0] * size)).sum()) == pytest.approx(kl_bound(n), abs=1e-4)


# ---- curves ---------------------------------------------------------------------------------------------------------


def test_a_curve_is_the_intervals_of_its_estimates() -> None:
    from rlhf_bench.harness.statistics.intervals import interval

    rng = np.random.default_rng(1)
    rewards = rng.normal(size=(2, 20, 8))
    values = rewards + rng.normal(size=rewards.shape)
    found = curve(rewards, values, [8, 1, 4], 0.9, lambda: np.random.default_rng(0))
    assert [point.n for point in found] == [1, 4, 8]
    for point in found:
        cells = np.array([expected(r, v, point.n) for r, v in zip(rewards, values, strict=True)])
        assert point.value == interval("level", cells, 0.9, np.random.default_rng(0))
        assert point.kl_bound == kl_bound(point.n)
        change = cells - values.mean(2)
        assert point.change.value == pytest.approx(change.mean(), abs=1e-12)


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ns", "pool", "message"),
    [
        ([0], 4, r"Best of n = 0 samples\. n is 1 or more"),
        ([2, -1], 4, "Best of n = -1 samples"),
        ([1, 8], 4, r"Best of n = 8 from a pool of 4 samples\. Draw a pool of 8"),
        ([], 4, "No n was given"),
        ([2, 2], 4, "names one number twice"),
    ],
)
def test_impossible_ns(ns: list[int], pool: int, message: str) -> None:
    refused(lambda: check_ns(ns, pool), message)


def test_ns_as_text() -> None:
    assert parse_ns("1,2, 64") == (1, 2, 64)
    for text in ("", "1,,2", "one", "1.5", "1;2"):
        refused(lambda text=text: parse_ns(text), "is no list of whole numbers")
    refused(lambda: kl_bound(0), "Best of n = 0")


def test_pools_that_are_none() -> None:
    refused(lambda: expected([[1.0, 2.0]], [[1.0]], 1), r"rewards \(1, 2\) and values \(1, 1\)")
    refused(lambda: expected([1.0, 2.0], [1.0, 2.0], 1), "Give both as")
    refused(lambda: expected(np.zeros((0, 3)), np.zeros((0, 3)), 1), "not empty")
    refused(lambda: expected([[1.0, np.nan]], [[1.0, 2.0]], 1), "NaN or infinite")
    refused(lambda: weights([1.0, np.inf], 1), "finite")
    refused(lambda: picks([[1.0, 2.0]], 3), "from a pool of 2")
    refused(lambda: curve(np.zeros((2, 3)), np.zeros((2, 3)), [1], 0.9, np.random.default_rng), "seeds, prompts")
