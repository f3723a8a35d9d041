"""Alarms about an arm's runs: the critic's explained variance, and a curve that still rises; rates by simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rlhf_bench.harness.results.alarms import (
    FEWEST_STEPS,
    STILL_RISING,
    alarms,
    arm_alarms,
    explained,
    last_third,
    mean_curve,
    running_alarms,
)

Curve = Any


def steps(rewards: Any, explained_variance: Any = 0.5) -> list[dict[str, Any]]:
    row = {"kl": 1.0, "empty_share": 0.0, "truncated_share": 0.0}
    return [{**row, "reward": float(r), "explained_variance": explained_variance} for r in rewards]


def saturating(count: int, tau: float) -> Curve:
    """1 - exp(-t / tau), tau in shares of the run."""
    t = np.linspace(0, 1, count)
    return 1 - np.exp(-t / tau)


# ---- the critic -----------------------------------------------------------------------------------------------------


def test_a_critic_that_explains_little_is_named_with_its_runs() -> None:
    flat = np.ones(20)
    found = arm_alarms({1: steps(flat, 0.05), 2: steps(flat, 0.4), 3: steps(flat, -0.2)})
    assert len(found) == 1
    assert "explains less than 0.1" in found[0]
    assert "in 2 of 3 runs (seeds 1, 3): -0.20 to 0.05" in found[0]
    assert arm_alarms({1: steps(flat, 0.1)}) == []
    assert "seed 1: 0.05" in arm_alarms({1: steps(flat, 0.05)})[0]


def test_the_last_tenth_decides() -> None:
    rows = steps(np.ones(20), 0.0)
    for row in rows[-2:]:
        row["explained_variance"] = 0.3
    assert explained(rows) == pytest.approx(0.3)
    assert arm_alarms({1: rows}) == []


@pytest.mark.parametrize("value", [None, float("nan")])
def test_without_a_critic_nothing_is_said_of_it(value: Any) -> None:
    assert arm_alarms({1: steps(np.ones(20), value)}) == []
    rows = steps(np.ones(20))
    for row in rows:
        del row["explained_variance"]
    assert arm_alarms({1: rows}) == []
    assert alarms(rows) == {}
    assert arm_alarms({}) == []


# ---- the curve ------------------------------------------------------------------------------------------------------


def test_a_line_that_rises_to_its_end_has_not_levelled_off() -> None:
    found = arm_alarms({4: steps(np.linspace(0, 1, 42))})
    assert len(found) == 1
    assert "has not levelled off" in found[0]
    assert "in the run the last third of the iterations brings 33% of the whole gain" in found[0]
    assert arm_alarms({4: steps(np.ones(42))}) == []
    assert arm_alarms({4: steps(np.linspace(1, 0, 42))}) == []


def test_an_arm_is_judged_by_the_mean_of_its_runs() -> None:
    """Noise that hides the rise of one run is averaged out; the runs go as far as the shortest."""
    made = np.random.default_rng(0)
    runs = {seed: steps(np.linspace(0, 1, 42) + 0.3 * made.normal(size=42)) for seed in range(40)}
    assert not all(arm_alarms({seed: rows}) for seed, rows in runs.items())
    assert "in the mean of 40 runs" in arm_alarms(runs)[0]
    assert mean_curve({1: steps([1, 2, 3]), 2: steps([3, 4])}) == [2.0, 3.0]
    assert mean_curve({}) == []


def test_the_share_is_the_stated_one() -> None:
    """Without noise the rule is the share alone: rises on both sides of it."""
    count = 60
    for share, rises in ((0.8 * STILL_RISING, False), (1.3 * STILL_RISING, True)):
        curve = np.concatenate([np.linspace(0, 1 - share, 40), np.linspace(1 - share, 1, count - 40)])
        found = last_third(curve)
        assert found is not None
        assert found.rise == pytest.approx(share)
        assert found.error == pytest.approx(0, abs=1e-9)
        assert found.rises is rises
        assert found.share == pytest.approx(share / (1 - curve[:6].mean()))


def test_the_unit_of_the_reward_says_nothing() -> None:
    made = np.random.default_rng(0)
    for tau in (0.2, 1.0):
        curve = saturating(42, tau) + 0.1 * made.normal(size=42)
        one, other = last_third(curve), last_third(-50 + 13 * curve)
        assert one is not None
        assert other is not None
        assert (other.rise, other.error, other.gain) == pytest.approx((13 * one.rise, 13 * one.error, 13 * one.gain))
        assert other.rises is one.rises


def test_short_runs_and_gaps_have_no_curve() -> None:
    assert last_third(np.arange(FEWEST_STEPS - 1)) is None
    assert last_third(np.arange(FEWEST_STEPS)) is not None
    assert last_third([*range(20), math.nan]) is None


def rate(curve: Curve, noise: float, correlation: float = 0.0, repetitions: int = 1000) -> float:
    """Share of simulated runs with an alarm; noise in units of the whole gain, first order autoregressive."""
    made = np.random.default_rng(1)
    shocks = made.normal(size=(repetitions, len(curve)))
    noisy = np.empty_like(shocks)
    noisy[:, 0] = shocks[:, 0]
    for t in range(1, len(curve)):
        noisy[:, t] = correlation * noisy[:, t - 1] + math.sqrt(1 - correlation**2) * shocks[:, t]
    found = [last_third(curve + noise * row) for row in noisy]
    return sum(one is not None and one.rises for one in found) / repetitions


@pytest.mark.parametrize("count", [42, 84, 168])
@pytest.mark.parametrize("noise", [0.03, 0.1, 0.3])
def test_curves_that_have_levelled_off_seldom_raise_it(count: int, noise: float) -> None:
    """Flat in the last third, or with a tenth of the run as time constant; also a run that learns nothing."""
    flat = np.minimum(1.0, np.linspace(0, 2, count))
    for curve in (flat, saturating(count, 0.1)):
        assert rate(curve, noise) <= 0.03
    assert rate(np.zeros(count), noise) <= 0.06
    assert rate(np.zeros(count), noise, correlation=0.5) <= 0.11


@pytest.mark.parametrize("count", [42, 84, 168])
def test_curves_that_still_rise_raise_it(count: int) -> None:
    """A line, and the approach of an end that lies as far ahead again, under a noise of a twentieth of the gain."""
    assert rate(np.linspace(0, 1, count), 0.05) >= 0.95
    assert rate(saturating(count, 1.0) / saturating(count, 1.0)[-1], 0.05) >= 0.75


# ---- while a run goes on --------------------------------------------------------------------------------------------


def test_alarms_of_a_run_that_goes_on() -> None:
    rows = [{**row, "empty_share": 0.5} for row in steps(np.linspace(0, 1, 30), -0.001)]
    for made in range(FEWEST_STEPS):
        assert running_alarms(rows[:made]) == {}  # the critic begins at 0, and a tenth is one iteration
    for made in range(FEWEST_STEPS, 31):  # by subject, so that one is not said again with every new number
        found = running_alarms(rows[:made])
        assert [*found] == ["empty", "critic"]
        assert {"empty": found["empty"]} == alarms(rows[:made])
        assert "explains 0.00 of the variance" in found["critic"]
    # a curve that still rises is no alarm before its end
    assert running_alarms(steps(np.linspace(0, 1, 42))) == {}
    assert arm_alarms({1: steps(np.linspace(0, 1, 42))})
