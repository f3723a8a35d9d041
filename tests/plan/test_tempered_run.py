"""The tempered SFT policy through a whole run: one arm beside the reward models, alone, and in the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small import SIZES

from rlhf_bench.harness import api, store
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.statistics.entropy_matched import CONTROL

pytestmark = pytest.mark.training
SETTINGS = {
    **SIZES,
    "ppo.iterations": 2,
    "ppo.checkpoints": 2,
    "eval.prompts": 8,
    "sft_tempered.temperatures": "1,0.5,0.1",
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two reward models with PPO and of the control."""
    folder = tmp_path_factory.mktemp("run") / "runs"
    api.run("dialogsum", ["length-only", "copier"], optimizers=["ppo", CONTROL], settings=SETTINGS, out=folder, jobs=1)
    return folder


@pytest.fixture(scope="module")
def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report" / "report.json").read_text())
    return found


def test_it_is_one_arm_without_a_reward_model(out: Path, report: dict[str, Any]) -> None:
    assert [arm["label"] for arm in report["arms"]] == ["copier", "length-only", CONTROL]
    control = report["arms"][-1]
    assert (control["before"], control["training"], control["temperatures"]) == ([], [], [1.0, 0.5, 0.1])
    assert len(list((out / "tempered").iterdir())) == 1
    assert len(list((out / "cells").iterdir())) == 3
    assert find_cells([out])[1] == []
    alone = api.plan("dialogsum", [], optimizers=CONTROL, settings=SETTINGS, out=out)
    assert alone.finished


def test_every_temperature_is_a_checkpoint_with_kl_and_entropy(report: dict[str, Any]) -> None:
    key = report["arms"][-1]["arm"]
    rows = {(e["judge"], e["statistic"], e["iteration"]): e["value"] for e in report["estimates"]
            if e["arm"] == key and e["slice"] == "all"}  # fmt: skip
    assert {i for _, name, i in rows if name == "gold"} == {1, 2, 3}
    assert rows["run", "kl", 1] == 0
    assert rows["run", "entropy", 1] > rows["run", "entropy", 2] > rows["run", "entropy", 3]
    assert rows["run", "kl", 3] > rows["run", "kl", 2] > 0
    assert not any(name == "reward" for _, name, _ in rows)
    assert not any("not measured" in e["note"] for e in report["estimates"] if e["arm"] == key)


def test_the_entropy_of_a_checkpoint_is_that_of_its_samples(out: Path, report: dict[str, Any]) -> None:
    for arm in report["arms"][:2]:
        (folder,) = out.glob(f"ppo/dialogsum-{arm['label']}-*")
        rows = [r for r in store.read_rows(folder / "generations.jsonl") if r["decoding"] == "sample"]
        assert all(
            "logprob" not in r for r in store.read_rows(folder / "generations.jsonl") if r["decoding"] == "greedy"
        )
        for iteration in (1, 2):
            own = [r for r in rows if r["iteration"] == iteration]
            expected = -sum(r["logprob"] for r in own) / sum(r["drawn"] for r in own)
            assert all(r["drawn"] == r["tokens"] + r["finished"] for r in own)  # without thinking
            (found,) = [e for e in report["estimates"] if (e["arm"], e["statistic"], e["iteration"]) ==
                        (arm["arm"], "entropy", iteration)]  # fmt: skip
            assert found["value"] == pytest.approx(expected)


def test_reports_show_it_at_equal_entropy_and_in_no_ranking(out: Path, report: dict[str, Any]) -> None:
    matched = [e for e in report["estimates"] if e["judge"] == CONTROL]
    assert {e["statistic"] for e in matched} == {
        "sft gold", "gold_difference", "sft win_rate", "win_rate_difference", "temperature",
    }  # fmt: skip
    assert {e["arm"] for e in matched} == {arm["arm"] for arm in report["arms"][:2]}
    compared = report["comparison"]
    assert not any(CONTROL in (row.get("a_label"), row.get("label")) for part in compared.values() for row in part)
    assert any(CONTROL in (row["a_label"], row["b_label"]) for row in report["kl_matched"]["contrasts"])
    text = (out / "report" / "report.md").read_text()
    assert "## Against the SFT policy at equal entropy" in text
    assert "temperature 0.5" in text
    assert (out / "report" / "tables" / "entropy-matched.csv").exists()


def test_a_report_of_the_control_alone(out: Path, tmp_path: Path) -> None:
    (record,) = (out / "cells").glob(f"*{CONTROL}*.json")
    found = api.report(record, tmp_path)
    assert [arm["label"] for arm in found.data["arms"]] == [CONTROL]
    assert any(warning.startswith(f"{CONTROL}: one training seed") for warning in found.data["warnings"])


def test_score_takes_no_cell_of_the_control(out: Path, tmp_path: Path) -> None:
    """A reward model without training uses the tokenizer of any cell, which must have a scale."""
    copy = shutil.copytree(out, tmp_path / "runs")
    (record,) = (copy / "cells").glob(f"*{CONTROL}*.json")
    record.rename(copy / "cells" / "a.json")  # the first
    for other in (copy / "cells").glob("*length-only*"):
        other.unlink()
    (scored,) = api.score("length-only", ["Who?"], ["Anna."], runs=copy)
    assert scored.rewards
