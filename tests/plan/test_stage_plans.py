"""The plan of every stage: what settings and lengths do to it, what is refused, and what a dry run shows."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES

from rlhf_bench.harness import api
from rlhf_bench.harness.api.runs import RunPlan
from rlhf_bench.harness.cli.plan_table import check_costs, cost_lines
from rlhf_bench.harness.cli.run import run
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.peaks import Peak
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import run_costs as costs_module
from rlhf_bench.harness.plan.request import Request
from rlhf_bench.harness.plan.run_costs import Planner, RunCosts, run_costs, seconds_of
from rlhf_bench.harness.plan.token_lengths import Lengths, token_lengths
from rlhf_bench.harness.sampling.speeds import Speeds

OPTIMIZERS = ["ppo", "best-of-n", "dpo", "sft-chosen", "sft-tempered"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("plans")
    rows = [
        {
            "prompt": f"Where do they meet on day {k}?",
            "chosen": "They meet " + "at nine " * (k % 5 + 1),
            "rejected": "No!",
        }
        for k in range(60)
    ]
    (root / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {"policy": str(FAMILIES["llama"](root / "llama")), "data": str(root / "pairs.jsonl"), "out": root / "runs"}


def plan(given: dict[str, Any], **settings: Any) -> RunPlan:
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return api.plan(
        "preferences", ["scalar", "seq2seq-token"], optimizers=OPTIMIZERS, n=[1, 4], settings=named, **given
    )


def costs(given: dict[str, Any], jobs: int = 1, known: str = "", **settings: Any) -> RunCosts:
    found = run_costs([plan(given, **settings).cells], given["policy"], "cpu", jobs, 1, given["out"], known=known)
    assert found is not None
    return found


def peak(found: RunCosts, name: str) -> int:
    return next(kind.peak.bytes for kind in found.kinds if kind.name == name)


def test_every_kind_of_stage_has_a_row_with_all_its_stages(given: dict[str, Any]) -> None:
    made, found = plan(given), costs(given)
    assert sum(kind.count for kind in found.kinds) == len(made.cells.order)
    assert {kind.kind for kind in found.kinds} == {stage.kind for stage in made.cells.order}
    assert {"reward scalar", "reward seq2seq", "direct dpo", "ppo scalar", "ppo seq2seq"} <= {
        k.name for k in found.kinds
    }
    # weights are a part of every stage that computes with a model, and every such stage takes time
    whole = 4 * found.weights
    assert all(kind.peak.bytes >= whole and kind.seconds > 0 for kind in found.kinds if kind.kind != "verdicts")


def test_a_stage_of_an_unknown_kind_is_a_pass_of_the_policy(given: dict[str, Any]) -> None:
    made = plan(given)
    planner = Planner.of(made.cells, given["policy"], "cpu", 1)
    other = Stage("unheard-of", "s0", "module:name", {})
    found = planner.plan(other)
    assert (found.kind, found.peak.bytes > 4 * planner.basis.host.sizes.total) == ("unheard-of", True)
    assert seconds_of(found, planner.speeds) > 0


@pytest.mark.parametrize(
    ("name", "setting"),
    [("sft", "sft.micro_batch"), ("ppo scalar", "ppo.micro_batch"), ("direct dpo", "dpo.micro_batch")],
)
def test_a_smaller_pass_takes_less(given: dict[str, Any], name: str, setting: str) -> None:
    # on a GPU: libraries are most of such a small process
    small, large = (costs(given, known="h200", **{setting: rows}) for rows in (4, 32))
    assert peak(small, name) < peak(large, name)
    (kind,) = [kind for kind in large.kinds if kind.name == name]
    assert kind.peak.setting.partition(".")[0] == setting.partition(".")[0]


def test_longer_prompts_and_responses_take_more(given: dict[str, Any]) -> None:
    short, long = (costs(given, known="h200", preferences__response_tokens=n) for n in (64, 512))
    for name in ("ppo scalar", "baseline", "best_of_n seq2seq"):
        assert peak(short, name) < peak(long, name)


def test_lengths_are_those_of_the_data(given: dict[str, Any]) -> None:
    found = token_lengths(plan(given).cells, given["policy"])
    assert found.exact
    assert found.sides.rows == len(found.sides.counts)  # every pair is looked at, and none is dropped
    # a corrector reads prompt, response and correction: more than any side of its pair
    assert found.corrections.mean > found.sides.mean > found.train.mean
    assert found.limit > found.response
    away = token_lengths(plan(given).cells, "owner/name")
    assert not away.exact
    assert 0.2 * found.sides.mean < away.sides.mean < 20 * found.sides.mean


def test_more_samples_are_more_work(given: dict[str, Any]) -> None:
    for name, setting in (("eval.samples", 3), ("ppo.iterations", 400), ("ppo.epochs", 2), ("sft.steps", 5000)):
        few, many = plan(given), plan(given, **{name: setting})
        works = []
        for made in (few, many):
            planner = Planner.of(made.cells, given["policy"], "cpu", 1, measure=False)
            # one speed for both: two plans measure the machine twice
            speeds = Speeds(1.0, 1.0, 1.0, 1.0, 1.0, "")
            works.append(sum(seconds_of(planner.plan(stage), speeds) for stage in made.cells.order))
        assert works[0] < works[1], name


def test_a_gold_model_leaves_half_of_the_pairs(given: dict[str, Any]) -> None:
    plain, halved = (api.plan("preferences", ["scalar"], gold=gold, **given) for gold in ("", "scalar@half"))
    planners = [Planner.of(made.cells, given["policy"], "cpu", 1, measure=False) for made in (plain, halved)]
    found = [
        {stage.kind: planner.plan(stage) for stage in made.cells.order}
        for planner, made in zip(planners, (plain, halved), strict=True)
    ]
    assert found[1]["reward"].work.trained == found[1]["gold"].work.trained == found[0]["reward"].work.trained / 2
    assert found[1]["gold_scores"].work.read > 0


def test_a_batch_of_all_rows_and_one_that_is_padded() -> None:
    lengths = Lengths((10, 20, 30), 3)
    assert lengths.batch(1, False) == 30
    assert lengths.batch(0, False) == lengths.batch(9, False) == 90
    assert lengths.mean * 2 < lengths.batch(2, True) <= 60
    assert Lengths((), 0).batch(4, True) == 0


def test_a_plan_that_does_not_fit_names_the_stage_and_the_setting(given: dict[str, Any]) -> None:
    found = costs(given)
    assert found.problem() is None
    check_costs(found)
    kind = found.kinds[0]
    big = replace(kind, peak=Peak(fixed=2**30, each=2**20, tokens=8192, row=64, setting="sft.micro_batch"))
    tight = replace(found, kinds=(big,), total=4 * 2**30, free=4 * 2**30)
    with pytest.raises(
        BenchError, match=r"stage sft needs about 9.0 GiB, and there are 4.0 GiB.* sft.micro_batch"
    ) as error:
        check_costs(tight)
    share = int(re.search(r"to (\d+)%", str(error.value)).group(1))  # type: ignore[union-attr]
    lower = replace(big, peak=replace(big.peak, tokens=8192 * share // 100))
    assert replace(tight, kinds=(lower,)).problem() is None
    # where passes are made smaller by themselves, one row must fit
    assert replace(tight, halves=True).problem() is None
    assert "smaller" in replace(tight, halves=True).warning
    assert replace(tight, halves=True, total=2**29).problem() is not None
    twice = replace(tight, kinds=(replace(lower, count=2),), jobs=2)
    assert "--jobs" in (twice.problem() or ("", ""))[1]


def test_memory_that_is_taken_by_others_is_a_warning(given: dict[str, Any]) -> None:
    found = costs(given)
    assert not replace(found, total=2**40, free=2**40).warning
    short = replace(found, total=2**40, free=2**20)
    assert "free now" in short.warning
    assert short.warning in cost_lines(short)


def test_a_measured_speed_is_kept(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rlhf_bench.harness import cache

    asked = []

    def measured(*arguments: object) -> Speeds:
        asked.append(arguments)
        return Speeds(0.1, 0.2, 0.3, 0.4, 0.5, "measured here")

    monkeypatch.setattr(costs_module, "TRIED", (0, 10**9))
    monkeypatch.setattr(costs_module, "measured", measured)
    for _ in range(2):
        with cache.using(tmp_path / "cache"):
            found = costs(given)
    assert len(asked) == 1
    assert found.speeds.trained == 0.2
    assert "5 trained" in cost_lines(found)[0]


def test_a_dry_run_has_the_table_and_a_plan_for_another_device(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(known: str, **policy: str) -> str:
        request = Request(
            "preferences", ["scalar"], [0], given["policy"], [], {"policy": policy} if policy else {}, given["data"]
        )
        machine: dict[str, Any] = {"jobs": None, "threads": 1, "device": "cpu", "track": (), "repair": False}
        run(request, given["out"], **machine, dry_run=True, quiet=False, plan_on=known)
        return capsys.readouterr().out

    here, there = shown(""), shown("a100-80gb", dtype="auto")
    for text in (here, there):
        assert {"sft", "reward scalar", "ppo scalar"} <= {line.partition("\t")[0] for line in text.splitlines()}
        assert "Most memory: " in text
    assert "this machine" in here
    assert "a100-80gb" in there
    assert "precision bfloat16" in there


def test_a_device_that_is_not_here_is_for_a_dry_run(given: dict[str, Any]) -> None:
    request = Request("preferences", ["scalar"], [0], given["policy"], [], {}, given["data"])
    machine: dict[str, Any] = {"jobs": None, "threads": 1, "device": "cpu", "track": (), "repair": False}
    with pytest.raises(BenchError, match="--dry-run"):
        run(request, given["out"], **machine, dry_run=False, quiet=True, plan_on="h200")
