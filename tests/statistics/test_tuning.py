"""Best of a budget: against an enumeration of all choices, and the coverage of its interval."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.tuning import best_of_budget, budget_intervals


def enumerated(values: np.ndarray, k: int, seed: int) -> float:
    """The mean over all choices of k settings of the value of the one that is best on the other seeds."""
    others = np.delete(values, seed, axis=1).mean(axis=1)
    return float(
        np.mean([values[max(tried, key=lambda c: others[c]), seed] for tried in combinations(range(len(values)), k)])
    )


def test_it_is_the_mean_over_all_choices_of_settings() -> None:
    values = np.random.default_rng(0).normal(size=(6, 4))
    found = best_of_budget(values)
    assert found.shape == (6, 4)
    for k in range(1, 7):
        for seed in range(4):
            assert found[k - 1, seed] == pytest.approx(enumerated(values, k, seed))
    assert found[0] == pytest.approx(values.mean(axis=0))


def test_a_seed_has_no_part_in_its_own_choice() -> None:
    """Raising one seed's value of a setting changes what that seed reads by the setting's share alone."""
    values = np.random.default_rng(1).normal(size=(5, 3))
    lucky = values.copy()
    lucky[2, 0] += 100
    before, after = best_of_budget(values), best_of_budget(lucky)
    others = values[:, 1:].mean(axis=1)
    # the whole budget keeps one setting for seed 0, and not because of seed 0
    assert after[4, 0] - before[4, 0] == pytest.approx(100 * (others.argmax() == 2))
    assert after[0, 0] - before[0, 0] == pytest.approx(20)


def test_of_equal_settings_a_budget_wins_nothing() -> None:
    """Without a true difference the expected value is that of one setting: a maximum over the same seed would rise."""
    rng = np.random.default_rng(2)
    tables = rng.normal(size=(4000, 6, 4))
    gained = np.mean([best_of_budget(table)[-1].mean() for table in tables])
    assert abs(gained) < 4 * 0.5 / np.sqrt(4000)  # four standard errors: one setting's mean over 4 seeds has sd .5
    assert np.mean(tables.mean(axis=2).max(axis=1)) > 0.5


@pytest.mark.parametrize("table", [[[1.0, 2.0], [float("nan"), 1.0]], [[1.0], [2.0]]])
def test_what_cannot_be_chosen_is_refused(table: list[list[float]]) -> None:
    with pytest.raises(BenchError, match="settings under"):
        best_of_budget(table)


def test_one_setting_has_students_interval() -> None:
    """Nothing is chosen then, and the jackknife of a mean is the t interval; of a difference, the paired one."""
    one, other = np.random.default_rng(3).normal(size=(2, 1, 5))
    (found,) = budget_intervals(one, 0.9)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.9, 4, one.mean(), stats.sem(one[0])))
    (found,) = budget_intervals(one, 0.9, other)
    paired = (one - other)[0]
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.9, 4, paired.mean(), stats.sem(paired)))


def test_what_has_no_bounds_says_why() -> None:
    two = budget_intervals([[1.0, 2.0], [3.0, 1.0]], 0.95)
    assert [one.low for one in two] == [None, None]
    assert "two seeds" in two[0].note
    (flat,) = budget_intervals([[2.0, 2.0, 2.0]], 0.95)
    assert (flat.value, flat.low, flat.note) == (2.0, None, "no spread")
    with pytest.raises(BenchError, match="shape"):
        budget_intervals([[1.0, 2.0, 3.0]], 0.95, [[1.0, 2.0]])


@pytest.mark.parametrize(("spread", "tried"), [(0.0, 1), (0.0, 8), (0.3, 8), (3.0, 8)])
def test_coverage(spread: float, tried: int) -> None:
    """Of the expected value over new seeds; nominal .95, 5 seeds, 8 settings whose true values differ by `spread`."""
    rng = np.random.default_rng(4)
    means = spread * rng.normal(size=8)

    def draw() -> np.ndarray:
        return means[:, None] + 0.7 * rng.normal(size=(1, 5)) + rng.normal(size=(8, 5))

    truth = np.mean([best_of_budget(draw())[tried - 1].mean() for _ in range(4000)])
    found = [budget_intervals(draw(), 0.95)[tried - 1] for _ in range(400)]
    share = np.mean([one.low <= truth <= one.high for one in found if one.low is not None and one.high is not None])
    assert share >= 0.94 - 3 * np.sqrt(0.94 * 0.06 / 400)
