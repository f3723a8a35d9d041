"""Claims about a mean over runs: the mean of their shares over common seeds, its laws, and what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from arms import make_arm

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.results import claims, contrasts
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.averages import judge_average
from rlhf_bench.harness.results.contrasts import Where
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.reports.claim_checks import checks_of_average

CLAIM = claims.Claim(
    "c", "text", "source", "", "three-tasks", "a", "gold", "gold", "above",
    versus="b", comparison="head-to-head", threshold=0.5, runs=("one", "two"),
)  # fmt: skip
NOISE = np.random.default_rng(1).normal(size=(2, 6, 10))


def pair(
    root: Path, task: str, gain: Callable[[int], float], seeds: tuple[int, ...], prompt: str = ""
) -> tuple[Arm, Arm]:
    """Two arms of a task with prompts of its own; the first has `gain` of the seed more gold, and noise."""
    values = (lambda i, s: gain(s) + NOISE[0, s, i], lambda i, s: NOISE[1, s, i])
    first, second = (
        make_arm(root / task, name, own, seeds, prompt=prompt or task, task=task)
        for name, own in zip("ab", values, strict=True)
    )
    return first, second


def share(gain: Callable[[int], float], seeds: tuple[int, ...]) -> float:
    return float(np.mean([gain(s) + NOISE[0, s] > NOISE[1, s] for s in seeds]))


def test_the_mean_is_over_the_seeds_that_all_tasks_have(tmp_path: Path) -> None:
    gains = (lambda s: 2.0 + s), (lambda s: -0.5 * s)
    by_run = {
        "one": pair(tmp_path, "t", gains[0], (1, 2, 3, 4)),
        "two": pair(tmp_path, "u", gains[1], (2, 3, 4, 5)),
    }
    found = judge_average(CLAIM, by_run, Estimator())
    assert found.seeds == (2, 3, 4)
    assert found.interval is not None
    assert found.interval.value == pytest.approx(np.mean([share(gain, (2, 3, 4)) for gain in gains]))
    assert found.claim.measured == "gold.gold of a against b, sample, mean over one, two"


def test_the_mean_over_equal_tasks_is_that_of_one(tmp_path: Path) -> None:
    same = [pair(tmp_path, name, lambda s: s / 4, (1, 2, 3), prompt="say") for name in "tuv"]
    where = Where("gold", "gold")
    one = contrasts.head_to_head(*same[0], where, Estimator())
    three = contrasts.mean_head_to_head(same, where, Estimator())
    assert (three.value, three.low, three.high) == pytest.approx((one.value, one.low, one.high))


def test_p_inverts_the_interval(tmp_path: Path) -> None:
    by_run = {name: pair(tmp_path, name, lambda s: s / 6, (1, 2, 3, 4)) for name in ("one", "two")}
    found = judge_average(CLAIM, by_run, Estimator())
    assert found.p is not None
    for factor, excluded in ((0.99, False), (1.01, True)):
        at = judge_average(CLAIM, by_run, Estimator(level=1 - found.p * factor)).interval
        assert at is not None
        assert at.low is not None
        assert (at.low > 0.5) == excluded


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    one = pair(tmp_path, "t", lambda _: 1.0, (1, 2))
    missing = judge_average(CLAIM, {"one": one}, Estimator())
    assert (missing.ruling, missing.note) == ("not run", "two: no finished cell of a")
    other = pair(tmp_path, "u", lambda _: 1.0, (3, 4))
    strangers = judge_average(CLAIM, {"one": one, "two": other}, Estimator())
    assert (strangers.ruling, strangers.note) == ("not run", "The tasks t, u have no training seed in common.")
    alone = judge_average(CLAIM, {"one": one, "two": pair(tmp_path, "v", lambda _: 1.0, (2, 3))}, Estimator())
    assert (alone.ruling, alone.note) == ("inconclusive", "one training seed decides nothing: run more")


def test_an_average_is_checked_of_the_arms_that_all_runs_have(tmp_path: Path) -> None:
    by_run: dict[str, list[Arm]] = {}
    for run in ("one", "two"):
        by_run[run] = list(pair(tmp_path, run, lambda _: 3.0, (1, 2, 3)))
        by_run[run].append(make_arm(tmp_path / run, "c", lambda i, s: NOISE[1, s, i] - 1.0, (1, 2, 3), run, task=run))
    by_run["one"].append(make_arm(tmp_path / "one", "d", lambda i, _: float(i), (1, 2, 3), "one", task="one"))
    (row,) = checks_of_average(CLAIM, by_run, Estimator())
    assert (row["check"], row["value"], row["verdict"]) == ("other arm", 0.0, "contradicted")
    assert row["measured"] == "gold.gold of c against b, sample, mean over one, two"


def test_only_shares_have_a_mean_over_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"x": {key: value for key, value in vars(replace(CLAIM, comparison="difference")).items() if key != "id"}}
    monkeypatch.setattr(claims.tomllib, "loads", lambda _: rows)
    claims.load.cache_clear()
    try:
        with pytest.raises(BenchError, match="x has 2 runs"):
            claims.load()
    finally:
        claims.load.cache_clear()


def test_the_three_tasks_share_their_stages_with_other_experiments() -> None:
    made = experiments.make(experiments.find("three-tasks"), (301,), {})
    known: dict[str, set[str]] = {}
    for name, runs in (("headline", 2), ("ood", 1)):  # those of the same reward models; a plan of all takes longer
        asked = experiments.find(name)
        for stage in experiments.make(replace(asked, runs=asked.runs[:runs]), (301,), {}).order:
            known.setdefault(stage.kind, set()).add(stage.key)
    assert [stage.kind for stage in made.order if stage.key not in known[stage.kind]] == []
    paper = claims.find("seq2seq-beats-scalar-three-tasks")
    tasks = {run.name: (run.task, run.prompts) for run in experiments.find("three-tasks").runs}
    assert [tasks[run] for run in paper.runs] == [("dialogsum", ()), ("saferlhf", ()), ("tldr", ())]
    assert paper.figure == (0.769,)
