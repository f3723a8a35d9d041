"""Checks beside a claim: the other decoding, the other arms and equal KL, each against numbers computed here by hand.

Every arm's value is a level for its iteration, a shift for its seed and one for its prompt; shifts of prompts are the
same for all seeds and arms, so that intervals of differences come from the seeds' shifts alone: Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpointed import Runs, arm
from scipy import stats

from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.results import claims
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.claims import Claim
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.reports import claim_checks
from rlhf_bench.reports.claim_checks import checks, variants

CLAIM = Claim("c", "text", "source", "", "headline", "a", "utility", "gold", "above", task="t")
WINS = replace(CLAIM, versus="b", comparison="head-to-head", threshold=0.5)
MINUS = replace(CLAIM, versus="b", comparison="difference")
SEEDS = (1, 2, 3)
SHIFT: Mapping[str, Sequence[float]] = {"a": (0.0, 0.02, -0.05), "b": (0.01, 0.0, 0.03), "c": (0.0, 0.04, 0.01)}


def made(
    root: Path, name: str, level: Mapping[int, float], per_kl: float = 10, greedy: Sequence[int] = (), **more: Any
) -> Arm:
    """An arm with the gold `level` at its iterations, whose KL is iteration / `per_kl`."""
    runs = Runs(
        rm=name,
        iterations=dict.fromkeys(SEEDS, tuple(level)),
        kl=lambda _seed, iteration, _k: iteration / per_kl,
        gold=lambda seed, iteration, k: level[iteration] + SHIFT[name][seed - 1] + k / 50,
        greedy=greedy,
        **{key: value for key, value in more.items() if key != "suffix"},
    )
    return arm(root, runs, more.get("suffix", ""))


def of(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["check"] == kind]


def run(claim: Claim, arms: Sequence[Arm], estimates: Sequence[Estimate] = ()) -> list[dict[str, Any]]:
    return checks(claim, arms, estimates, Estimator())


def by_t(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% bounds of Student's t, from one difference a seed."""
    low, high = stats.t.interval(0.95, len(differences) - 1, np.mean(differences), stats.sem(differences))
    return float(np.mean(differences)), float(low), float(high)


def own(name: str, value: float, decoding: str, iteration: int = 30) -> Estimate:
    """The report's estimate of an arm's own gold."""
    ends = (value, value - 0.1, value + 0.1)
    return Estimate("t", name, name, "utility", "gold", "all", decoding, iteration, *ends, 0.95, 12, 0, SEEDS, "m")  # type: ignore[arg-type]


# ---- the other decoding, the other arms ------------------------------------------------------------------------------


def test_the_other_decoding_is_read_at_its_own_last_checkpoint(tmp_path: Path) -> None:
    a = made(tmp_path, "a", {10: 0.1, 20: 0.2, 30: 0.9}, greedy=(10, 20))
    b = made(tmp_path, "b", {10: 0.1, 20: 0.6, 30: 0.1}, greedy=(10, 20))
    (row,) = of("other decoding", run(MINUS, [a, b]))
    mean, low, high = by_t([0.2 - 0.6 + SHIFT["a"][s] - SHIFT["b"][s] for s in range(3)])
    assert (row["value"], row["low"], row["high"]) == pytest.approx((mean, low, high))
    assert (row["verdict"], row["seeds"]) == ("contradicted", [1, 2, 3])
    assert row["measured"] == "utility.gold of a minus b, greedy"
    (sampled,) = of("other decoding", run(replace(MINUS, decoding="greedy"), [a, b]))
    assert sampled["value"] == pytest.approx(0.9 - 0.1 + np.mean(SHIFT["a"]) - np.mean(SHIFT["b"]))
    assert (sampled["verdict"], sampled["measured"]) == ("supported", "utility.gold of a minus b, sample")


def test_a_decoding_without_responses_is_no_check(tmp_path: Path) -> None:
    pair = [made(tmp_path, name, {10: 0.1, 20: 0.2}) for name in "ab"]
    assert of("other decoding", run(MINUS, pair)) == []


def test_every_arm_takes_the_place_of_the_claim_s_own_but_not_the_one_compared_with(tmp_path: Path) -> None:
    arms = [made(tmp_path, name, {10: 0.1, 30: level}) for name, level in (("a", 0.9), ("b", 0.5), ("c", 0.2))]
    (row,) = of("other arm", run(MINUS, arms))
    mean, low, high = by_t([0.2 - 0.5 + SHIFT["c"][s] - SHIFT["b"][s] for s in range(3)])
    assert (row["value"], row["low"], row["high"]) == pytest.approx((mean, low, high))
    # by the claim's own rule: what it says of a does not hold of c
    assert (row["measured"], row["verdict"]) == ("utility.gold of c minus b, sample", "contradicted")
    (won,) = of("other arm", run(WINS, arms))
    lost = np.mean([0.2 + SHIFT["c"][s] > 0.5 + SHIFT["b"][s] for s in range(3)])
    assert won["value"] == pytest.approx(lost)
    assert won["measured"] == "utility.gold of c against b, sample"


def test_a_claim_on_one_arm_is_checked_of_all_others(tmp_path: Path) -> None:
    arms = [made(tmp_path, name, {10: 0.1, 30: 0.2}) for name in "abc"]
    estimates = [own("a", 0.8, "sample"), own("a", -0.6, "greedy"), own("b", -0.5, "sample"), own("c", 0.05, "sample")]
    rows = run(CLAIM, arms, estimates)
    assert [(r["measured"], r["value"], r["verdict"]) for r in of("other arm", rows)] == [
        ("utility.gold of b, sample", -0.5, "contradicted"),
        ("utility.gold of c, sample", 0.05, "inconclusive"),
    ]
    assert [(r["value"], r["verdict"]) for r in of("other decoding", rows)] == [(-0.6, "contradicted")]


def test_arms_of_another_task_are_no_other_arms(tmp_path: Path) -> None:
    a, b = (made(tmp_path, name, {10: 0.1, 30: 0.2}) for name in "ab")
    elsewhere = replace(made(tmp_path, "c", {10: 0.1, 30: 0.2}), task="u")
    assert [one.arm for kind, one in variants(CLAIM, [a, b, elsewhere]) if kind == "other arm"] == ["b"]
    anywhere = replace(CLAIM, task="")
    assert [one.arm for kind, one in variants(anywhere, [a, b, elsewhere]) if kind == "other arm"] == ["b", "c"]


# ---- equal KL --------------------------------------------------------------------------------------------------------


def test_a_comparison_at_the_largest_rung_that_both_arms_reach(tmp_path: Path) -> None:
    """a has KL 1, 2, 3 and b 2.5, 5, 7.5: of the ladder .25, .5, 1, 2, 4 ... both reach 2.

    At 2 a's curve has its second checkpoint.  b's lies on the line in the root of KL from the SFT policy, whose gold is
    k / 50, to its first checkpoint.
    """
    a = made(tmp_path, "a", {10: 0.1, 20: 0.7, 30: 0.8})
    b = made(tmp_path, "b", {10: 0.3, 20: 0.9, 30: 1.5}, per_kl=4)
    (row,) = of("equal KL", run(MINUS, [a, b]))
    share = math.sqrt(2 / 2.5)
    expected = [0.7 + SHIFT["a"][s] - share * (0.3 + SHIFT["b"][s]) for s in range(3)]
    assert (row["value"], row["low"], row["high"]) == pytest.approx(by_t(expected), abs=1e-9)
    assert (row["verdict"], row["note"], row["seeds"]) == ("supported", "at KL 2", [1, 2, 3])
    # at the end of training it is the other way round
    assert claims.judge_claim(MINUS, [a, b], [], Estimator()).ruling == "contradicted"


def test_a_share_of_wins_becomes_a_difference_from_zero(tmp_path: Path) -> None:
    """.1 to .35 more gold: above 0, but below the .5 that is the threshold of a share."""
    a = made(tmp_path, "a", {10: 0.1, 20: 0.4, 30: 0.8})
    b = made(tmp_path, "b", {10: 0.1, 20: 0.2, 30: 0.3})
    (row,) = of("equal KL", run(WINS, [a, b]))
    mean, low, high = by_t([0.2 + SHIFT["a"][s] - SHIFT["b"][s] for s in range(3)])
    assert (row["value"], row["low"], row["high"]) == pytest.approx((mean, low, high), abs=1e-9)
    assert 0 < low < high < 0.5
    assert row["verdict"] == "supported"
    assert row["measured"] == "utility.gold of a minus b, sample"


def test_a_claim_with_a_threshold_of_its_own_keeps_it(tmp_path: Path) -> None:
    a = made(tmp_path, "a", {10: 0.1, 20: 0.4, 30: 0.8})
    b = made(tmp_path, "b", {10: 0.1, 20: 0.2, 30: 0.3})
    for threshold, verdict in ((0.5, "contradicted"), (-0.5, "supported")):
        (row,) = of("equal KL", run(replace(MINUS, threshold=threshold), [a, b]))
        assert row["verdict"] == verdict


def test_an_arm_s_own_number_is_taken_where_every_arm_of_its_run_comes_to(tmp_path: Path) -> None:
    """a reaches KL 3 and b 1.2: the rung is 1, where a has its first checkpoint."""
    a = made(tmp_path, "a", {10: 0.1, 20: 0.4, 30: 0.8})
    b = made(tmp_path, "b", {10: 0.1, 20: 0.2, 30: 0.3}, per_kl=25)
    row = next(iter(of("equal KL", run(CLAIM, [a, b], [own("a", 0.9, "sample")]))))
    assert row["note"] == "at KL 1"
    assert row["value"] == pytest.approx(0.1 + np.mean(SHIFT["a"]) + np.mean(np.arange(12) / 50))
    (alone,) = of("equal KL", run(CLAIM, [a], [own("a", 0.9, "sample")]))
    assert alone["note"] == "at KL 2"
    # a third arm does not bound a comparison of two others
    c = made(tmp_path, "c", {10: 0.1, 20: 0.2, 30: 0.3})
    assert [r["note"] for r in of("equal KL", run(replace(MINUS, versus="c"), [a, b, c]))] == ["at KL 2"]


def test_both_decodings_are_checked_at_equal_kl(tmp_path: Path) -> None:
    a = made(tmp_path, "a", {10: 0.1, 20: 0.4, 30: 0.8}, greedy=(10, 30))
    b = made(tmp_path, "b", {10: 0.1, 20: 0.2, 30: 0.2}, greedy=(10, 30))
    rows = of("equal KL", run(MINUS, [a, b]))
    assert [row["measured"] for row in rows] == [f"utility.gold of a minus b, {how}" for how in ("sample", "greedy")]
    # greedy responses of two checkpoints, at KL 1 and 3: the line in the root of KL between their differences
    share = (math.sqrt(2) - 1) / (math.sqrt(3) - 1)
    shifts = np.mean(SHIFT["a"]) - np.mean(SHIFT["b"])
    assert [row["value"] for row in rows] == pytest.approx([0.2 + shifts, share * 0.6 + shifts])


def test_no_check_at_a_rung_that_an_arm_does_not_reach(tmp_path: Path) -> None:
    a = made(tmp_path, "a", {10: 0.1, 20: 0.4, 30: 0.8})
    near = made(tmp_path, "b", {10: 0.1, 20: 0.2, 30: 0.3}, per_kl=125)  # to .24, below the ladder's .25
    assert of("equal KL", run(MINUS, [a, near])) == []
    assert of("equal KL", run(CLAIM, [a, near], [own("a", 0.9, "sample")])) == []
    one = made(tmp_path, "c", {10: 0.1})
    assert of("equal KL", run(replace(MINUS, versus="c"), [a, one])) == []


def test_no_check_where_a_reward_model_has_two_arms_of_different_settings(tmp_path: Path) -> None:
    level = {10: 0.1, 20: 0.4, 30: 0.8}
    a, b = made(tmp_path, "a", level), made(tmp_path, "b", level)
    other = made(tmp_path, "a", level, suffix="-2", settings={"scalar.epochs": "4"})
    assert of("equal KL", run(MINUS, [a, other, b])) == []
    # another KL coefficient is another place on the same frontier
    along = made(tmp_path, "a", {40: 0.9, 50: 0.9}, suffix="-3", settings={"ppo.kl": "0.01"})
    assert [row["note"] for row in of("equal KL", run(replace(MINUS), [a, along, b]))] == ["at KL 2"]


def test_an_arm_of_another_task_is_no_second_arm_at_equal_kl(tmp_path: Path) -> None:
    a, b = (made(tmp_path, name, {10: 0.1, 20: 0.4, 30: 0.8}) for name in "ab")
    assert [row["note"] for row in of("equal KL", run(MINUS, [a, b, replace(a, task="u")]))] == ["at KL 2"]


def test_no_check_at_equal_kl_on_a_slice(tmp_path: Path) -> None:
    a, b, c = (made(tmp_path, name, {10: 0.1, 20: 0.4, 30: 0.8}, greedy=(10, 30)) for name in "abc")
    rows = run(replace(MINUS, slice="even"), [a, b, c])
    assert {row["check"] for row in rows} == {"other decoding", "other arm"}
    assert {row["check"] for row in run(MINUS, [a, b, c])} == {"other decoding", "other arm", "equal KL"}


def test_no_check_of_what_judges_measured_with_different_settings(tmp_path: Path) -> None:
    a, b = (made(tmp_path, name, {10: 0.1, 20: 0.4, 30: 0.8}, judge_setting=name) for name in "ab")
    assert run(MINUS, [a, b]) == []


def test_one_seed_decides_nothing_at_equal_kl_either(tmp_path: Path) -> None:
    pair = []
    for name, level in (("a", 0.9), ("b", 0.1)):
        runs = Runs(rm=name, iterations={1: (10, 20)}, gold=lambda _s, _i, k, level=level: level * (1 + k / 50))  # type: ignore[misc]
        pair.append(arm(tmp_path, runs))
    (row,) = of("equal KL", run(MINUS, pair))
    assert row["verdict"] == "inconclusive"
    assert row["note"] == "at KL 2; one training seed decides nothing: run more"


def test_bounds_stay_within_the_range_of_the_measure(tmp_path: Path) -> None:
    """Every response of a wins, of the SFT policy half: seeds that reach KL 1 at other checkpoints spread past 1."""
    won = replace(CLAIM, statistic="won", threshold=0.5)
    paces = {1: 10, 2: 100, 3: 1000}
    runs = Runs(rm="a", iterations=dict.fromkeys(SEEDS, (10, 20)), kl=lambda seed, i, _k: i / 10 * paces[seed] / 10)
    (row,) = [row for row in of("equal KL", run(won, [arm(tmp_path, runs)])) if row["value"] is not None]
    shares = [0.5 + 0.5 * min(1.0, math.sqrt(2 / (10 / 10 * paces[seed] / 10))) for seed in SEEDS]
    mean, low, high = by_t(shares)
    assert high > 1
    assert (row["value"], row["low"], row["high"]) == pytest.approx((mean, low, 1.0))


def test_a_row_says_what_its_interval_is_of(tmp_path: Path) -> None:
    arms = [made(tmp_path, name, {10: 0.1, 20: 0.4, 30: 0.8}, greedy=(10, 30)) for name in "abc"]
    for row in run(MINUS, arms):
        assert set(row) == {
            "check",
            "id",
            "measured",
            "verdict",
            "value",
            "low",
            "high",
            "method",
            "level",
            "seeds",
            "note",
        }
        assert (row["id"], row["level"]) == ("c", 0.95)
        found = claims.rule(MINUS, claim_checks.Interval(row["value"], row["low"], row["high"], ""))
        assert row["verdict"] == found
