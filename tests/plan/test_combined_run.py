"""Combinations through `bench run`: what is stored, what the report says was bought, scoring again, and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small import bench, command, estimates

from rlhf_bench.harness import store
from rlhf_bench.harness.cli.main import bench as commands
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.results.text_rewards import score_texts

pytestmark = pytest.mark.training

RMS = ("scalar", "min(scalar*2,length-only)", "wsum(scalar:1,length-only:-.01)")
SETS = {"ppo.iterations": 4, "dialogsum.train_pairs": 16}


def ran(*arguments: str) -> None:
    """`bench` in this process: one import of torch serves all runs of this file."""
    with pytest.raises(SystemExit) as ended:
        commands(list(arguments), standalone_mode=False)
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run of an arm and of two combinations with it."""
    out = tmp_path_factory.mktemp("combined") / "runs"
    ran(*command(out, rms=RMS, **SETS))
    return out


def only(out: Path, pattern: str) -> Path:
    (found,) = out.glob(pattern)
    return found


def test_members_are_trained_once_and_stored_once(done: Path) -> None:
    assert len(list(done.glob("reward/*"))) == 2  # the ensemble's two, one of them the plain arm's
    of_members = [file.stat().st_ino for file in done.glob("combined/*/*/model.safetensors")]
    assert len(of_members) == 3
    assert set(of_members) == {file.stat().st_ino for file in done.glob("reward/*/model.safetensors")}


def test_the_folder_has_each_member_s_own_scale(done: Path) -> None:
    folder = only(done, "combined/*wsum*")
    parts = store.read_json(folder / "combined.json")["parts"]
    assert [part["label"] for part in parts] == ["scalar", "length-only"]
    inputs = store.read_json(folder / store.MARKER)["inputs"]
    for at, part in enumerate(parts):
        measured = store.read_json(done / "scale" / inputs[f"scale{at}"] / "scale.json")
        assert (part["scale"], part["offset"]) == (measured["scale"], measured["offset"])


def test_the_report_says_which_part_was_bought(done: Path) -> None:
    report = json.loads((done / "report" / "report.json").read_text())
    features = {
        (e["reward_model"], e["statistic"]): e["value"]
        for e in report["estimates"]
        if e["judge"] == "proxy" and e["slice"] == "all"
    }
    both, lowest = "wsum(scalar:1,length-only:-0.01)", "min(scalar*2,length-only)"
    for end in ("before", "after", "change"):
        assert {(both, f"part scalar {end}"), (both, f"part length-only {end}")} <= set(features)
        shares = [features[lowest, f"lowest {name} {end}"] for name in ("scalar #1", "scalar #2", "length-only")]
        assert sum(shares) == pytest.approx(0 if end == "change" else 1, abs=1e-6)
        assert (lowest, f"disagreement {end}") in features
    page = (done / "report" / "report.md").read_text()
    assert "part length-only" in page
    assert "wsum(scalar:1,length-only:-0.01)" in page


def test_every_checkpoint_says_what_each_member_pays(done: Path) -> None:
    report = json.loads((done / "report" / "report.json").read_text())
    for arm in report["arms"]:
        if arm["label"] == "scalar":
            assert "parts" not in arm
            continue
        (points,) = arm["parts"]
        assert [point["iteration"] for point in points] == [0, 2, 4]
        change = {
            (e["reward_model"], e["statistic"]): e["value"]
            for e in report["estimates"]
            if e["judge"] == "proxy" and e["slice"] == "all"
        }
        for name, value in points[0]["figures"].items():
            assert value == pytest.approx(change[arm["label"], f"{name} before"], abs=1e-5)
            assert points[-1]["figures"][name] == pytest.approx(change[arm["label"], f"{name} after"], abs=1e-5)
    table = (done / "report" / "tables" / "parts.csv").read_text()
    assert '"wsum(scalar:1,length-only:-0.01)",part length-only,4,' in table


def test_the_report_says_what_a_combination_is(done: Path) -> None:
    report = json.loads((done / "report" / "report.json").read_text())
    said = {arm["label"]: arm["description"] for arm in report["arms"]}
    assert said["wsum(scalar:1,length-only:-0.01)"].startswith("A combination: the weighted sum")
    assert said["min(scalar*2,length-only)"].startswith("A combination: the rewards of the member")


def test_what_is_said_of_a_member_s_training_is_said_of_the_combination(done: Path) -> None:
    """A plain arm with much of its random head left is warned of; so are the combinations that have it."""
    warnings = json.loads((done / "report" / "report.json").read_text())["warnings"]
    kept = [one for one in warnings if "untrained random head" in one]
    assert any(one.startswith("scalar, seed 0: the reward is largely") for one in kept)
    for label in ("wsum(scalar:1,length-only:-0.01)", "min(scalar*2,length-only)"):
        assert any(one.startswith(f"{label}, seed 0: a member: the reward is largely") for one in kept)


def test_the_parts_make_the_reward_that_was_optimised(done: Path) -> None:
    rows = store.read_rows(only(done, "proxy/*wsum*") / "proxy.jsonl")
    before = [row for row in rows if row["iteration"] == 0]
    assert before
    for row in before:
        parts = row["figures"]
        whole = parts["part scalar"] - 0.01 * parts["part length-only"]
        assert row["reward"] == pytest.approx(whole, rel=1e-4, abs=1e-4)


def test_a_stored_combination_scores_again(done: Path) -> None:
    (found,) = score_texts("min( scalar*2, length-only )", ["Anna: hi"], ["They meet."], done)
    assert len(found.rewards) == len(found.spans)
    with pytest.raises(BenchError, match="No finished cell has 'mean\\(scalar,length-only\\)'"):
        score_texts("mean(scalar,length-only)", ["Anna: hi"], ["They meet."], done)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        ({"name": "evil:code"}, "names the reward-model 'evil:code', which is not registered"),
        ({"name": "hf:my-model"}, "names the reward-model 'hf:my-model', which is not registered"),
        ({"name": "function", "settings": {"source": "evil"}}, r"names 'evil' \(the setting source of function\)"),
    ],
)
def test_a_record_that_names_a_stranger_s_code_runs_nothing(
    done: Path, tmp_path: Path, member: dict[str, Any], said: str
) -> None:
    """A member at module:attribute in a record needs the same trust as a plain reward model."""
    import shutil

    copy = tmp_path / "runs"
    shutil.copytree(done, copy)
    for marker in copy.glob("scale/*wsum*/stage.json"):
        record = store.read_json(marker)
        record["params"]["rm"]["settings"]["members"][1] |= member
        store.write_json(marker, integrity.sealed(record, integrity.stage_place(record)))
    with pytest.raises(BenchError, match=said):
        score_texts(RMS[2], ["Anna: hi"], ["They meet."], copy)


def test_a_shared_folder_cannot_be_a_combination(tmp_path: Path) -> None:
    """Its settings would build whatever they name: path: takes registered reward models alone."""
    from rlhf_bench.harness.plan.combination_names import PLUGIN
    from rlhf_bench.harness.training.record import write_record
    from rlhf_bench.reward_models.saved import Saved

    members = [{"name": "function", "settings": {"source": "evil"}, "weight": 1.0}] * 2
    write_record(tmp_path, PLUGIN, {"how": "mean", "members": members})
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BenchError, match="not registered: a name in a file runs no code"):
        Saved(str(tmp_path))


def test_a_kill_in_the_middle_changes_nothing(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    arguments = command(out, rms=RMS, **SETS)
    for wait_for in (".partial/combined-*", ".partial/ppo-*/scratch/state.safetensors"):
        process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_bench.harness", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        deadline = time.monotonic() + 120
        while not list(out.glob(wait_for)) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = bench(*arguments)
    assert finished.returncode == 0, finished.stderr
    assert estimates(out) == estimates(done)
    for file in done.glob("p*/*/*.jsonl"):
        assert (out / file.relative_to(done)).read_bytes() == file.read_bytes()
