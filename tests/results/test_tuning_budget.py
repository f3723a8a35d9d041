"""The best of a budget of settings, from stored verdicts, and as an analysis of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from rlhf_bench.harness import store
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.results import tuning
from rlhf_bench.harness.results.arms import Arm, CellFiles, arms_of
from rlhf_bench.harness.statistics.tuning import best_of_budget
from rlhf_bench.reports.ledger import analysis_tables

SEEDS = (1, 2, 3, 4)
GOLD = np.random.default_rng(0).normal(size=(2, 3, 4))
"""Gold change by reward model, setting and seed."""
RUNS = ("one", "two", "three")


def arms(root: Path, run: str, gold: Mapping[str, Sequence[float | None]]) -> list[Arm]:
    """One arm for each reward model, a value for each seed of SEEDS; prompts differ from it by -1 and 1."""
    cells = []
    for name, values in gold.items():
        for seed, value in zip(SEEDS, values, strict=False):
            label = f"{run}-{name}-{seed}".replace(" ", "_")
            places = {role: [role, label, "0"] for role in ("verdicts", "prompts")}
            for role in places:
                (root / role / f"{label}-0").mkdir(parents=True)
            ids = [{"id": i, "prompt": i} for i in "ab"]
            store.write_rows(root / "prompts" / f"{label}-0" / "examples.test.jsonl", ids)
            changes = [(i, None if value is None else value + by) for i, by in (("a", -1.0), ("b", 1.0))]
            rows = [
                {"example_id": i, "iteration": 3, "decoding": "sample", "values": {"gold_change": v}}
                for i, v in changes
            ]
            store.write_rows(root / "verdicts" / f"{label}-0" / "verdicts.jsonl", rows)
            record = {"task": "t", "reward_model": name, "arm": f"{name} {run}", "seed": seed}
            cells.append(CellFiles({**record, "stages": places, "judges": {"utility": places["verdicts"]}}, root))
    return arms_of(cells)


def runs(root: Path) -> dict[str, list[Arm]]:
    return {run: arms(root, run, {"x": GOLD[0, at], "y": GOLD[1, at]}) for at, run in enumerate(RUNS)}


def test_rows_are_those_of_the_stored_verdicts(tmp_path: Path) -> None:
    found = tuning.best_of_budgets(runs(tmp_path), 0.9)
    assert found
    values = {(row["reward_model"], row["statistic"]): row["value"] for row in found["rows"]}
    x, y = (best_of_budget(table).mean(axis=1) for table in GOLD)
    for k in (1, 2, 3):
        name = f"gold change, best of {k}, sample"
        assert values["x", name] == pytest.approx(x[k - 1])
        assert values["x - y", name] == pytest.approx(x[k - 1] - y[k - 1])
    # greedy responses were not judged
    assert len(found["rows"]) == 9
    (table,) = analysis_tables({"analyses": {"best of a budget": found}})
    assert {str(row[0]) for row in table.rows} == {"x", "y", "x - y"}


def test_only_what_every_run_has_is_compared(tmp_path: Path) -> None:
    own = runs(tmp_path)
    own["four"] = arms(tmp_path, "four", {"x": [0.5, None, 0.25], "z": [1.0, 2.0, 3.0]})
    found = tuning.tried(own, "sample")
    assert found
    assert found.seeds == (1, 3)
    assert list(found.gold) == ["x"]
    assert found.gold["x"][-1] == pytest.approx([0.5, 0.25])
    own["five"] = arms(tmp_path, "five", {"y": [1.0]})
    assert tuning.tried(own, "sample") is None
    assert tuning.best_of_budgets({**own, "six": []}, 0.9) is None
    assert tuning.best_of_budgets({}, 0.9) is None


def test_packaged_budgets_name_runs_of_one_task_and_the_same_reward_models() -> None:
    """Every reward model must have the same tries, or the budget would favour one."""
    budgets = [(one, run) for one in experiments.load().values() for run in one.runs if run.kind == "tuning"]
    assert budgets
    for experiment, budget in budgets:
        by_name = {run.name: run for run in experiment.runs}
        tried = [by_name[name] for name in budget.of]
        assert len({(run.task, run.rms, run.kind) for run in tried}) == 1
        assert len({tuple(sorted(run.set.items())) for run in tried}) == len(tried)
