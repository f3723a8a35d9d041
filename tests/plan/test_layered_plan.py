"""Seeds in layers in a plan: which stages runs share, what a data seed draws, and what plain seeds keep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small import SIZES

from rlhf_bench.harness import api
from rlhf_bench.harness.api.runs import RunPlan
from rlhf_bench.harness.cli.options import check_seeds
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, Pair
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.plan.cells import Cell
from rlhf_bench.harness.seeds import RunSeed
from rlhf_bench.harness.statistics.entropy_matched import CONTROL
from rlhf_bench.tasks.redrawn import Redrawn

ROLES = ("sft", "prompts", "pairs", "reward", "baseline", "scale", "ppo")


class FileTask:
    """A task whose data no seed draws."""

    max_response_tokens = 8

    def examples(self, split: str) -> Sequence[Example]:
        return [Example(f"{split}-{at}", f"{split} prompt {at}?", f"answer {at}") for at in range(20)]

    def pairs(self, split: str) -> Sequence[Pair]:
        return [Pair(f"{split}-{at}", f"{split} pair {at}?", f"good {at}", f"bad {at}") for at in range(20)]


def planned(task: str = "dialogsum", **asked: Any) -> RunPlan:
    settings = SIZES if task == "dialogsum" else {k: v for k, v in SIZES.items() if not k.startswith("dialogsum")}
    judges = asked.pop("judges", ["length"])
    return api.plan(task, asked.pop("rms", "scalar"), asked.pop("seeds", 2), settings=settings, judges=judges, **asked)


@pytest.fixture(scope="module")
def cells() -> dict[RunSeed, Cell]:
    made = planned(data_seeds=2, reward_seeds=2)
    return {cell.seed: cell for cell in made.cells.cells if isinstance(cell.seed, RunSeed)}


def test_every_combination_is_a_run_of_one_arm(cells: dict[RunSeed, Cell]) -> None:
    assert sorted(cells) == [RunSeed(s, d, r) for d in (0, 1) for r in (0, 1) for s in (0, 1)]
    assert len({cell.key for cell in cells.values()}) == len({cell.name for cell in cells.values()}) == 8
    records = [cell.record() for cell in cells.values()]
    assert len({record["arm"] for record in records}) == 1
    assert records[0]["layers"] == {"data": 0, "reward": 0}
    # an arm of plain seeds is conditional on the data: another arm, and so is one with data seeds alone
    arms = {planned(**asked).cells.cells[0].record()["arm"] for asked in ({}, {"data_seeds": 1}, {"reward_seeds": 1})}
    assert len(arms | {records[0]["arm"]}) == 4


def test_which_runs_share_a_stage(cells: dict[RunSeed, Cell]) -> None:
    def keys(role: str, *runs: RunSeed) -> set[str]:
        return {cells[run].stages[role].key for run in runs}

    run, other_seed, other_reward, other_data = RunSeed(0, 0, 0), RunSeed(1, 0, 0), RunSeed(0, 0, 1), RunSeed(0, 1, 0)
    shared = {
        role: [len(keys(role, run, other)) == 1 for other in (other_seed, other_reward, other_data)] for role in ROLES
    }
    # a reward model, and the pairs it learns from, belong to a data seed and a reward seed
    assert shared == {role: [role in ("pairs", "reward"), False, False] for role in ROLES}
    reward = cells[run].stages["reward"]
    assert reward.inputs["pairs"].key == cells[run].stages["pairs"].key
    assert reward.inputs["sft"].key == reward.inputs["pairs"].inputs["sft"].key != cells[run].stages["sft"].key


def test_a_data_seed_draws_a_world_anew(cells: dict[RunSeed, Cell]) -> None:
    first, second = (cells[RunSeed(0, data, 0)] for data in (0, 1))
    assert [cell.evaluated.settings["seed"] for cell in (first, second)] == [0, 1]
    assert first.record()["origin"]["sha256"] != second.record()["origin"]["sha256"]
    for role, part in (("sft", "task"), ("prompts", "task"), ("pairs", "task")):
        assert first.stages[role].params[part] != second.stages[role].params[part]


def test_a_control_samples_the_sft_policy_of_every_run_once() -> None:
    asked = {"rms": ["length-only", "scalar"], "optimizers": ["ppo", "sft-tempered"]}
    made = planned(data_seeds=2, reward_seeds=2, seeds=1, **asked).cells.cells
    arms = {name: {cell.seed: cell for cell in made if cell.reward_model == name} for name in (CONTROL, "scalar")}
    # one arm whatever the reward models, with a run for each of theirs: what it is compared with at equal entropy
    assert len(made) == 3 * 4
    assert set(arms[CONTROL]) == set(arms["scalar"])
    for seed, cell in arms[CONTROL].items():
        assert cell.stages["baseline"].key == arms["scalar"][seed].stages["baseline"].key
        assert not {"reward", "scale", "ppo"} & set(cell.stages)
        assert "-d" in cell.stages["generations"].label
    assert len({cell.record()["arm"] for cell in arms[CONTROL].values()}) == 1
    with pytest.raises(BenchError, match="trains no reward model"):
        planned(rms=[], optimizers="sft-tempered", reward_seeds=2)


def test_plain_seeds_have_the_keys_and_records_they_had() -> None:
    made = planned(seeds=[3])
    (cell,) = made.cells.cells
    assert "layers" not in cell.record()
    assert cell.record()["arm"] == cell.stages["generations"].seedless_key[:12]
    assert {stage.params["seed"] for stage in made.cells.order} == {3}
    assert all(stage.label.endswith("-s3") for stage in made.cells.order)


def test_file_data_are_redrawn_where_they_are_trained_on_and_held_out_prompts_stay() -> None:
    made = planned("test_layered_plan:FileTask", data_seeds=3, seeds=1)
    stages: list[dict[str, Stage]] = [dict(cell.stages) for cell in made.cells.cells]
    tasks = [own["pairs"].params["task"] for own in stages]
    assert [task["settings"]["seed"] for task in tasks] == [0, 1, 2]
    assert len({json.dumps(own["prompts"].params["task"]) for own in stages}) == 1
    assert len({cell.record()["origin"]["sha256"] for cell in made.cells.cells}) == 1
    assert [own["sft"].params["task"]["redrawn"] for own in stages] == [0, 1, 2]
    first, second = (Redrawn(**tasks[at]["settings"]) for at in (0, 1))
    whole = FileTask()
    assert first.max_response_tokens == 8
    assert first.pairs("test") == whole.pairs("test")
    for split in ("train", "test"):
        assert first.examples(split) == whole.examples(split)
    for own, other, rows in (
        (first.examples("sft"), second.examples("sft"), whole.examples("sft")),
        (first.pairs("train"), second.pairs("train"), whole.pairs("train")),
    ):
        assert len(own) == len(rows)
        assert own != other
        assert {row.prompt for row in own} < {row.prompt for row in rows}
        assert len({row.id for row in own}) == len(own)
    assert Redrawn(**tasks[0]["settings"]).pairs("train") == first.pairs("train")


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(BenchError, match=r"--data-seeds and --set dialogsum\.seed"):
        api.plan("dialogsum", "scalar", settings={**SIZES, "dialogsum.seed": 4}, data_seeds=2)
    with pytest.raises(BenchError, match="reward_seeds is 'x'"):
        planned(reward_seeds="x")
    many = {"seeds": tuple(range(5)), "data_seeds": tuple(range(7)), "reward_seeds": tuple(range(3))}
    with pytest.raises(BenchError, match=r"--data-seeds 7 x --reward-seeds 3 x --seeds 5 are 105 runs of every arm\."):
        check_seeds(many, yes=False)
    check_seeds(many, yes=True)
    check_seeds({**many, "data_seeds": None}, yes=False)


def test_an_experiment_may_name_its_layers_and_the_caller_others() -> None:
    run = experiments.ExperimentRun(task="dialogsum", rms=("length-only",), judges=("length",))
    asked = experiments.Experiment("x", "?", "1", (run,), data_seeds="2", reward_seeds="4-5")
    given = {"dialogsum": {k.partition(".")[2]: str(v) for k, v in SIZES.items() if k.startswith("dialogsum")}}
    made = experiments.make(asked, (), given)
    assert [cell.seed for cell in made.plans["main"].cells] == [RunSeed(0, d, r) for d in (0, 1) for r in (4, 5)]
    assert experiments.record(asked, made, "")["seeds"][0] == "data 0 · reward 4 · seed 0"
    other = experiments.make(asked, (1,), given, layers=experiments.Layers(data=(7,)))
    assert [cell.seed for cell in other.plans["main"].cells] == [RunSeed(1, 7, 4), RunSeed(1, 7, 5)]


def test_a_dry_run_shows_the_grid(tmp_path: Path) -> None:
    names = [stage.name for stage in planned(data_seeds=2, reward_seeds=[4], out=tmp_path).stages]
    assert {name for name in names if name.startswith("ppo ")} == {
        f"ppo dialogsum-scalar-d{d}-r4-s{s}" for d in (0, 1) for s in (0, 1)
    }
    assert [name for name in names if name.startswith("reward ")] == [
        f"reward dialogsum-scalar-d{d}-s4" for d in (0, 1)
    ]
