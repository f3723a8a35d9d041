"""The mean over tasks: its value and interval by hand, its laws, and its coverage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics import intervals
from rlhf_bench.harness.statistics.over_tasks import TaskCells, mean_win

RNG = np.random.default_rng(0)


def task(cells: Any, name: str = "", clusters: Any = None) -> TaskCells:
    cells = np.asarray(cells, dtype=np.float64)
    width = cells.shape[1]
    return TaskCells(cells, [(f"{name}{k}", "?") for k in range(width)], clusters or [""] * width)


def ends(found: Any) -> tuple[Any, Any, Any]:
    return found.value, found.low, found.high


def drawn(rng: np.random.Generator, seeds: int, prompts: int, holes: float = 0.0) -> Any:
    cells = rng.choice([0.0, 0.5, 1.0], size=(seeds, prompts), p=[0.35, 0.05, 0.6])
    return np.where(rng.random(cells.shape) < holes, np.nan, cells)


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(2, 6),
    st.integers(4, 20),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.02, 0.3]),
    st.booleans(),
)
def test_tasks_of_the_same_data_have_the_interval_of_one(
    seed: int, seeds: int, prompts: int, tasks: int, holes: float, grouped: bool
) -> None:
    cells = drawn(np.random.default_rng(seed), seeds, prompts, holes)
    if not (~np.isnan(cells)).any(axis=1).all():
        return
    clusters = [f"s{k // 2}" if k % 5 else "" for k in range(prompts)] if grouped else None
    one = intervals.interval("win", cells, 0.9, RNG, clusters)
    if one.low is None:
        return
    assert ends(mean_win([task(cells, "", clusters)] * tasks, 0.9)) == pytest.approx(ends(one), rel=1e-9, abs=1e-12)


def test_every_task_counts_alike_however_many_prompts_it_has() -> None:
    first, second = np.array([[1, 1, 1, 0], [1, 1, 0, 0]]), np.array([[0, 1], [0, 0]])
    found = mean_win([task(first, "a"), task(second, "b")], 0.95)
    assert found.value == pytest.approx((5 / 8 + 1 / 4) / 2)


def test_the_interval_by_hand() -> None:
    """Korn and Graubard's at the variance of a mean over two tasks, from the definitions of its three parts."""
    rng = np.random.default_rng(3)
    cells = [drawn(rng, 4, 30), drawn(rng, 4, 12)]
    found = mean_win([task(cells[0], "a"), task(cells[1], "b")], 0.95)
    value = np.mean([one.mean() for one in cells])
    by_seed = np.mean([one.mean(axis=1) for one in cells], axis=0)
    of_seeds = by_seed.var(ddof=1) / 4
    squares = []
    for one in cells:
        rest = one - one.mean(axis=1, keepdims=True)
        prompt = 4 * rest.mean(axis=0).var(ddof=1)
        error = ((rest - rest.mean(axis=0)) ** 2).sum() / 3 / (one.shape[1] - 1)
        squares.append(np.array([prompt, error]) / one.size / 4)  # of the mean of two: a quarter of each
    prompt, error = np.sum(squares, axis=0)
    of_prompts, given_seeds = max(prompt - error, 0), max(prompt, error)
    t_seeds, t_prompts, t_cases = (stats.t.ppf(0.975, df) for df in (3, 41, 4 * 42 - 1))
    weighted = (of_seeds * t_seeds + of_prompts * t_prompts) / math.sqrt(of_seeds + of_prompts)
    half = max(weighted, t_seeds * math.sqrt(of_seeds), t_prompts * math.sqrt(given_seeds))
    size = min(4 * 42, (t_cases * math.sqrt(value * (1 - value)) / half) ** 2)
    low, high = stats.beta.ppf(
        [0.025, 0.975], [size * value, size * value + 1], [size * (1 - value) + 1, size * (1 - value)]
    )
    assert ends(found) == pytest.approx((value, low, high), rel=1e-6)


def test_a_difference_between_tasks_is_no_spread() -> None:
    rng = np.random.default_rng(4)
    cells = [drawn(rng, 5, 40), drawn(rng, 5, 40)]
    far = [(cells[0] + 1) / 2, cells[1] / 2]  # the same spread in each, around other means
    near = [cells[0] / 2 + 0.25, cells[1] / 2 + 0.25]
    found = [mean_win([task(both[0], "a"), task(both[1], "b")], 0.9) for both in (far, near)]
    assert ends(found[0]) == pytest.approx(ends(found[1]))


def test_seeds_that_agree_over_tasks_widen_and_those_that_cancel_do_not() -> None:
    up, down = (np.array([[x] * 20, [1 - x] * 20]) for x in (0.9, 0.1))
    noise = np.where(np.arange(20) % 2, 0.05, -0.05)
    same, opposed = (mean_win([task(up + noise, "a"), task(other + noise, "b")], 0.95) for other in (up, down))
    assert same.high - same.low > 3 * (opposed.high - opposed.low)  # type: ignore[operator]


def test_names_of_sources_count_within_a_task() -> None:
    cells = [drawn(np.random.default_rng(k), 3, 10) for k in (1, 2)]
    named = [[f"{letter}{k // 2}" for k in range(10)] for letter in "sx"]
    same = mean_win([task(cells[0], "a", named[0]), task(cells[1], "b", named[0])], 0.95)
    other = mean_win([task(cells[0], "a", named[0]), task(cells[1], "b", named[1])], 0.95)
    assert ends(same) == ends(other)


def test_what_cannot_be_estimated_has_a_reason() -> None:
    won = np.ones((3, 8))
    sure = mean_win([task(won, "a"), task(won, "b")], 0.95)
    assert sure.value == sure.high == 1
    assert sure.low == pytest.approx(0.025 ** (1 / 16))  # exact bound for 0 of 16
    apart = mean_win([task(won, "a"), task(won * 0, "b")], 0.95)
    assert apart.value == 0.5
    assert apart.low is not None
    assert 0 < apart.low < 0.5
    single = mean_win([task(won, "a"), task(won[:, :1], "b")], 0.95)
    assert (single.value, single.low) == (1.0, None)
    assert "one prompt" in single.note
    assert mean_win([task(won * np.nan, "a")], 0.95).note == "no seed with a decided case in every task"
    partly = mean_win([task(won, "a"), task(np.vstack([won[:2], won[:1] * np.nan]), "b")], 0.95)
    assert "1 seeds without a decided case in some task left out" in partly.note
    one = mean_win([task(drawn(RNG, 1, 9), "a"), task(drawn(RNG, 1, 9), "b")], 0.95)
    assert "conditional on these training runs" in one.note
    for wrong in ([], [task(won), task(won[:2])], [task(won * 2)]):
        with pytest.raises(BenchError):
            mean_win(wrong, 0.95)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("shared", "own"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.5), (0.3, 0.3)])
def test_coverage(seeds: int, shared: float, own: float) -> None:
    """A response wins where its score is above 0: shifts of the seed, of the seed in its task, of the prompt, noise."""
    rng, repetitions = np.random.default_rng(20), 600
    sizes, levels, sd_prompt = (40, 60, 100), (0.8, 0.0, 0.4), 0.5
    spread = math.sqrt(shared**2 + own**2 + sd_prompt**2 + 1)
    truth = float(np.mean(stats.norm.cdf(np.array(levels) / spread)))
    held = 0
    for _ in range(repetitions):
        of_seed = shared * rng.normal(size=(seeds, 1))
        made = []
        for name, size, level in zip("abc", sizes, levels, strict=True):
            scores = level + of_seed + own * rng.normal(size=(seeds, 1)) + sd_prompt * rng.normal(size=size)
            made.append(task(scores + rng.normal(size=(seeds, size)) > 0, name))
        low, high = ends(mean_win(made, 0.95))[1:]
        held += low <= truth <= high
    slack = 3 * math.sqrt(0.95 * 0.05 / repetitions)
    assert held / repetitions >= 0.94 - slack
    if shared or own:  # where seeds add nothing few of them cannot show that: wider than need be
        assert held / repetitions <= 0.98 + slack
