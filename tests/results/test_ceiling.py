"""The share of the ceiling: which arm is an arm's ceiling, and shares by decoding and slice, from stored rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpointed import Runs, arm

from rlhf_bench.harness.results import ceiling
from rlhf_bench.harness.results.ceiling import ceiling_estimates, ceiling_of
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.statistics.ratio import share
from rlhf_bench.reports import measures


def gains(size: float, spread: float = 0.02) -> Any:
    """Gold that ends `size` above the SFT policy's, a little differently by seed and prompt; more on even prompts."""
    return lambda seed, iteration, k: (
        k / 50 + (size + spread * ((7 * seed + 3 * k) % 5 - 2)) * iteration / 30 * (1.5 if k % 2 == 0 else 0.5)
    )


def test_the_ceiling_has_the_same_task_policy_and_settings(tmp_path: Path) -> None:
    settings = {"ppo.kl": "0.1", "scalar.epochs": "4", "scalar*.lr": "0.1", "seq2seq-token.lr": "0.1"}
    one = arm(tmp_path, Runs(settings=settings))
    other = arm(tmp_path, Runs(rm="seq2seq-token", settings={"ppo.kl": "0.1"}))
    same = arm(tmp_path, Runs(rm="gold", settings={"ppo.kl": "0.1", "gold.clip": "1"}))
    unlike = arm(tmp_path, Runs(rm="gold", settings={"ppo.kl": "0.2"}), "-unlike")
    sampled = arm(tmp_path, Runs(rm="gold", settings={"ppo.kl": "0.1"}, optimizer="best-of-n"), "-n")
    arms = [unlike, sampled, one, other, same]
    assert ceiling_of(one, arms) is same
    assert ceiling_of(other, arms) is same
    assert ceiling_of(replace(one, task="u"), arms) is None
    assert ceiling_of(one, [one, unlike, sampled]) is None


def test_shares_are_ratios_of_the_paired_gains(tmp_path: Path) -> None:
    one = arm(tmp_path, Runs(gold=gains(0.3), greedy=(30,)))
    gold = arm(tmp_path, Runs(rm="gold", gold=gains(0.6, 0.03), greedy=(30,)))
    found = {(e.decoding, e.slice): e for e in ceiling_estimates([one, gold], Estimator())}
    assert set(found) == {(d, s) for d in ("sample", "greedy") for s in ("all", "even", "odd")}
    for (_, name), e in found.items():
        kept = sorted((k for k in range(12) if name in ("all", "even" if k % 2 == 0 else "odd")), key=str)
        parts = [[[g(s, 30, k) - k / 50 for k in kept] for s in (1, 2)] for g in (gains(0.3), gains(0.6, 0.03))]
        expected = share(*parts, 0.95)
        assert (e.value, e.low, e.high) == pytest.approx((expected.value, expected.low, expected.high))
        assert (e.judge, e.statistic, e.arm, e.iteration, e.seeds) == ("ceiling", "gold_share", "scalar", 30, (1, 2))


def test_the_unit_and_the_zero_of_gold_say_nothing(tmp_path: Path) -> None:
    def shown(scale: float, shift: float, name: str) -> list[tuple[Any, ...]]:
        def moved(of: Any) -> Any:
            return lambda seed, iteration, k: shift + scale * of(seed, iteration, k)

        start = moved(Runs.start)
        arms = [
            arm(tmp_path, Runs(rm=rm, gold=moved(gains(size)), start=start), name)
            for rm, size in (("scalar", 0.2), ("gold", 0.5))
        ]
        return [(e.value, e.low, e.high) for e in ceiling_estimates(arms, Estimator())]

    for one, other in zip(shown(1, 0, "-a"), shown(13, -4, "-b"), strict=True):
        assert one == pytest.approx(other)


def test_no_ceiling_is_said_instead_of_a_number(tmp_path: Path) -> None:
    one = arm(tmp_path, Runs(gold=gains(0.3)))
    flat = arm(tmp_path, Runs(rm="gold", gold=gains(0.0, 0.2)))
    (found, *_) = ceiling_estimates([one, flat], Estimator())
    assert found.value is found.low is found.high is None
    assert found.note.startswith("no ceiling: the arm gold does not end above the SFT policy: its interval is [")
    assert list(ceiling_estimates([one], Estimator())) == []
    assert list(ceiling_estimates([flat], Estimator())) == []


def test_unequal_seeds_prompts_and_judges(tmp_path: Path) -> None:
    one = arm(tmp_path, Runs(gold=gains(0.3), iterations={1: (30,), 2: (30,), 3: (30,)}))
    gold = arm(
        tmp_path, Runs(rm="gold", gold=gains(0.6), iterations={3: (30,), 2: (20, 30), 9: (30,)}, prompts=range(8))
    )
    (found, *_) = ceiling_estimates([one, gold], Estimator())
    assert found.seeds == (2, 3)
    assert found.n == 8
    alone = arm(tmp_path, Runs(rm="gold", gold=gains(0.6), iterations={3: (30,)}), "-alone")
    (conditional, *_) = ceiling_estimates([one, alone], Estimator())
    assert "conditional on this training run" in conditional.note
    strange = arm(tmp_path, Runs(rm="gold", gold=gains(0.6), judge_setting="other"), "-other")
    (unlike, *_) = ceiling_estimates([one, strange], Estimator())
    assert unlike.value is None
    assert "different settings" in unlike.note


def test_reports_describe_the_share_only_where_there_is_a_ceiling(tmp_path: Path) -> None:
    one, gold = arm(tmp_path, Runs()), arm(tmp_path, Runs(rm="gold"))
    assert (ceiling.JUDGE, ceiling.STATISTIC) == measures.CEILING
    assert measures.CEILING in {column.key for column in measures.described([one, gold])}
    assert measures.CEILING not in {column.key for column in measures.described([one])}
    assert measures.CEILING not in {column.key for column in measures.described([gold])}
