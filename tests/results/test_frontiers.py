"""Frontiers from stored rows: which arms are one, their points by seed and prompt, and what two of them share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpointed import Runs, arm

from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.frontiers import Reader, Shared, What, frontiers_of, matched, rungs, shared
from rlhf_bench.harness.statistics.frontier import LADDER

GOLD = What("utility", "gold", "level", "gold_baseline")


def points_of(*arms: Any, what: What = GOLD) -> Any:
    (one,) = frontiers_of(arms)
    return Reader().points(one, what)


def read(*found: Any) -> Shared:
    return shared(found)


def test_arms_that_differ_along_the_frontier_alone_are_one(tmp_path: Path) -> None:
    near = arm(tmp_path, Runs(settings={"ppo.kl": "0.1"}), "-near")
    far = arm(tmp_path, Runs(settings={"ppo.kl": "0.01", "ppo.iterations": "84", "ppo.checkpoints": "6"}), "-far")
    plain = arm(tmp_path, Runs(), "-plain")
    steep = arm(tmp_path, Runs(settings={"ppo.kl": "0.1", "ppo.lr": "1"}), "-steep")
    other = arm(tmp_path, Runs(rm="seq2seq-token", settings={"ppo.kl": "0.1"}))
    sampled = arm(tmp_path, Runs(optimizer="best-of-n"), "-n")
    found = [[a.key for a in one.arms] for one in frontiers_of([near, far, plain, steep, other, sampled])]
    assert found == [["scalar-near", "scalar-far", "scalar-plain"], ["scalar-steep"], ["seq2seq-token"], ["scalar-n"]]


def test_points_are_the_checkpoints_and_the_sft_policy_once(tmp_path: Path) -> None:
    one = arm(tmp_path, Runs(iterations={1: (10, 20), 2: (10, 20, 30)}, settings={"ppo.kl": "0.1"}), "-a")
    two = arm(tmp_path, Runs(iterations={1: (40,)}, settings={"ppo.kl": "0.2"}), "-b")
    found = points_of(one, two)
    assert {seed: [next(iter(p.kl.values())) for p in own] for seed, own in found.by_seed.items()} == {
        1: [1.0, 2.0, 4.0, 0.0],
        2: [1.0, 2.0, 3.0, 0.0],
    }
    start = found.by_seed[1][-1]
    assert start.is_start
    assert start.value["p5", "Say 5."] == pytest.approx(0.1)
    assert found.by_seed[1][1].value["p5", "Say 5."] == pytest.approx(0.3)
    common = read(found)
    assert common.curves[0].kl.shape == (2, 4, 12)
    assert common.reach == 3.0
    assert rungs(common.reach) == [kl for kl in LADDER if kl <= 3.0] == [0.25, 0.5, 1.0, 2.0]


def test_the_sft_policys_value_follows_from_the_kind(tmp_path: Path) -> None:
    one = arm(tmp_path, Runs())
    for what, value in ((What("utility", "won", "win"), 0.5), (What("utility", "gold_change", "change"), 0.0)):
        start = points_of(one, what=what).by_seed[1][-1]
        assert set(start.kl.values()) == {0.0}
        assert set(start.value.values()) == {value}
    # a rate without the baseline's column has no such point: nothing can be read below the first checkpoint
    rate = points_of(one, what=What("utility", "failed", "rate"))
    assert [next(iter(p.kl.values())) for p in rate.by_seed[1]] == [1.0, 2.0, 3.0]
    values = [i.value for i in matched(read(rate), [0.5, 1.0], Estimator())]
    assert values[0] is None
    assert values[1] == 0.0


def test_too_few_checkpoints_leave_a_seed_out_by_name(tmp_path: Path) -> None:
    found = points_of(arm(tmp_path, Runs(iterations={1: (10, 20), 2: (10,), 3: (10, 30)})))
    assert sorted(found.by_seed) == [1, 3]
    assert read(found).note == "seeds with fewer than 2 checkpoints left out: 2"
    alone = points_of(arm(tmp_path, Runs(iterations={1: (10,)}), "-one"))
    assert read(alone).why == "no training seed in common"


def test_greedy_outcomes_stand_at_the_sampled_kl(tmp_path: Path) -> None:
    one = arm(tmp_path, Runs(greedy=(10, 30)))
    found = points_of(one, what=GOLD._replace(decoding="greedy"))
    assert [next(iter(p.kl.values())) for p in found.by_seed[1]] == [1.0, 3.0, 0.0]
    last_alone = arm(tmp_path, Runs(greedy=(30,)), "-last")
    assert points_of(last_alone, what=GOLD._replace(decoding="greedy")).by_seed == {}


def test_two_share_seeds_and_prompts_of_equal_text(tmp_path: Path) -> None:
    a = points_of(arm(tmp_path, Runs(iterations={1: (10, 20), 2: (10, 20), 3: (10, 20)}, source=lambda k: str(k // 2))))
    b = points_of(arm(tmp_path, Runs(rm="b", iterations={2: (5, 15, 25), 3: (5, 15)}, prompts=range(4, 16))))
    common = read(a, b)
    assert common.seeds == (2, 3)
    assert common.clusters == tuple(str(k // 2) for k in sorted(range(4, 12), key=str))
    assert [curve.kl.shape for curve in common.curves] == [(2, 3, 8), (2, 4, 8)]
    assert np.isnan(common.curves[1].kl[1, 3]).all()
    assert common.reach == 1.5
    other = points_of(arm(tmp_path, Runs(rm="c", text="Tell")))
    assert read(a, other).why == "no prompt in common"


def test_lines_in_the_distance_differ_by_what_they_should(tmp_path: Path) -> None:
    """Unequal checkpoints: one ends at KL 3, the other at 2.5; gold is a line in sqrt(KL) on every prompt."""

    def gold(slope: float) -> Any:
        return lambda _seed, iteration, k: k / 50 + slope * math.sqrt(iteration / 10)

    a = points_of(arm(tmp_path, Runs(gold=gold(0.5))))
    b = points_of(arm(tmp_path, Runs(rm="b", iterations={1: (5, 25), 2: (15, 25)}, gold=gold(0.2))))
    common = read(a, b)
    kl = rungs(common.reach)
    assert kl == [0.25, 0.5, 1.0, 2.0]
    for at, one in zip(kl, matched(common, kl, Estimator()), strict=True):
        assert one.value == pytest.approx(0.3 * math.sqrt(at))


def test_an_arm_without_the_judge_has_no_points(tmp_path: Path) -> None:
    assert points_of(arm(tmp_path, Runs()), what=GOLD._replace(judge="other")).by_seed == {}
