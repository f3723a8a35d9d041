"""`bench run` from end to end on a world that is small but whole: reuse, resume, report, plugins."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import bench, command, estimates

from rlhf_bench.harness import store

pytestmark = pytest.mark.training
RMS = ("seq2seq-token", "scalar")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run of two reward models."""
    out = tmp_path_factory.mktemp("run") / "runs"
    finished = bench(*command(out, rms=RMS))
    assert finished.returncode == 0, finished.stderr
    return out


def test_a_run_ends_with_a_report(done: Path) -> None:
    report = json.loads((done / "report" / "report.json").read_text())
    wanted = {"task", "reward_model", "judge", "statistic", "slice", "value", "low", "high", "level", "n", "n_invalid",
              "seeds", "method"}  # fmt: skip
    assert report["estimates"]
    assert all(wanted <= set(e) for e in report["estimates"])
    assert {e["reward_model"] for e in report["estimates"]} == set(RMS)
    assert {"winrate", "utility", "length", "empty", "fluency", "run", "proxy"} == {
        e["judge"] for e in report["estimates"]
    }
    assert report["data"][0]["kind"] == "generated"
    assert report["manifest"]["seeds"] == [0]
    text = (done / "report" / "report.md").read_text()
    assert "synthetic task" in text
    assert "one training seed" in text


def test_weights_are_safetensors_in_the_standard_layout(done: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    for folder in [*(done / "sft").iterdir(), *[p / "policy" for p in (done / "ppo").iterdir()]]:
        AutoModelForCausalLM.from_pretrained(folder)
        AutoTokenizer.from_pretrained(folder)
    scalar = next(p for p in (done / "reward").iterdir() if "scalar" in p.name)
    assert AutoModelForSequenceClassification.from_pretrained(scalar).config.num_labels == 1
    assert not [p for p in done.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_the_same_again_trains_nothing_and_imports_no_torch(done: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in done.rglob(store.MARKER)}
    again = bench(*command(done, rms=RMS), PYTHONPROFILEIMPORTTIME="1")
    assert again.returncode == 0
    assert {p: p.stat().st_mtime_ns for p in done.rglob(store.MARKER)} == before
    assert " torch\n" not in again.stderr


def test_a_second_reward_model_shares_what_it_can(done: Path) -> None:
    assert len(list((done / "sft").iterdir())) == len(list((done / "baseline").iterdir())) == 1
    plan = bench(*command(done, "--dry-run", rms=(*RMS, "seq2seq-sentence"), **{"seq2seq-sentence.epochs": 1}))
    rows = [line.split("\t") for line in plan.stdout.splitlines() if "\t" in line]
    state = {row[0]: row[1] for row in rows}
    assert state["sft dialogsum-tiny-s0"] == state["reward dialogsum-seq2seq-s0"] == "reused"
    assert state["ppo dialogsum-seq2seq-sentence-s0"] == "pending"
    assert not list((done / "ppo").glob("*seq2seq-sentence*"))  # a plan computes nothing


def test_a_changed_setting_is_a_new_cell_that_keeps_the_old(done: Path) -> None:
    plan = bench(*command(done, "--dry-run", **{"ppo.kl": 0.1}))
    state = dict(line.split("\t")[:2] for line in plan.stdout.splitlines() if "\t" in line)
    assert state["ppo dialogsum-seq2seq-token-s0"] == "pending"
    assert state["scale dialogsum-seq2seq-token-s0"] == "reused"


def test_report_and_judge_work_on_what_is_stored(done: Path, tmp_path: Path) -> None:
    runs = tmp_path / "copy"
    shutil.copytree(done, runs)
    made = bench("report", str(runs), "--out", str(tmp_path / "report"), PYTHONPROFILEIMPORTTIME="1")
    assert made.returncode == 0, made.stderr
    assert " torch\n" not in made.stderr
    assert json.loads((tmp_path / "report" / "report.json").read_text())["estimates"] == json.loads(estimates(done))
    shutil.rmtree(runs / "ppo")  # nothing may be retrained for a judge, not even looked for
    judged = bench("judge", str(runs), "--judge", "length")
    assert judged.returncode == 2
    assert "Error" in judged.stderr


def test_judging_again_adds_a_judge(done: Path, tmp_path: Path) -> None:
    runs = tmp_path / "copy"
    shutil.copytree(done, runs)
    (tmp_path / "own.py").write_text(
        "from rlhf_bench.harness.nouns import Measure, Verdict\n"
        "class Stops:\n"
        "    measures = [Measure('stops', 'level')]\n"
        "    def measure(self, cases, task):\n"
        "        return [Verdict({'stops': float(c.generation.response.count('.'))}) for c in cases]\n"
    )
    judged = bench("judge", str(runs), "--judge", "own:Stops", cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    report = json.loads((runs / "report" / "report.json").read_text())
    assert "stops" in {e["statistic"] for e in report["estimates"]}
    before = [e for e in report["estimates"] if e["judge"] != "own:Stops"]
    assert before == json.loads(estimates(done))


def test_a_judge_that_fails_costs_nobody_else(done: Path, tmp_path: Path) -> None:
    runs = tmp_path / "copy"
    shutil.copytree(done, runs)
    (tmp_path / "own.py").write_text(
        "from rlhf_bench.harness.nouns import Measure, Verdict\n"
        "class Broken:\n"
        "    measures = [Measure('luck', 'win')]\n"
        "    def measure(self, cases, task):\n"
        "        return [Verdict({'luck': 2.0}) for c in cases]\n"
    )
    ended = bench(*command(runs, "--judge", "own:Broken", "--judge", "length", rms=RMS), cwd=tmp_path)
    assert ended.returncode == 2
    assert "own:Broken" in ended.stderr
    assert "luck is 2.0, outside [0, 1]" in ended.stderr
    assert "Traceback" not in ended.stderr
    report = json.loads((runs / "report" / "report.json").read_text())
    assert any("own:Broken" in warning for warning in report["warnings"])
    assert "length" in {e["judge"] for e in report["estimates"]}


def test_score_prints_one_reward_per_token(done: Path) -> None:
    for rm in RMS:
        scored = bench("score", "--rm", rm, "--runs", str(done), "--prompt", "Anna: hi", "--response", "They meet.")
        assert scored.returncode == 0, scored.stderr
        assert "sum " in scored.stdout
        assert "<end>" in scored.stdout


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_kill_in_the_middle_changes_nothing(done: Path, tmp_path: Path, jobs: str) -> None:
    out = tmp_path / "runs"
    arguments = command(out, "--jobs", jobs, rms=RMS)
    for wait_for in ("sft-*/scratch/checkpoint-2", "ppo-*/scratch/state.safetensors"):
        process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_bench.harness", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while not list((out / ".partial").glob(wait_for)) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = bench(*arguments)
    assert finished.returncode == 0, finished.stderr
    assert estimates(out) == estimates(done)
    assert not [p for p in (out / ".partial").iterdir() if p.is_dir()]


def test_side_by_side_gives_the_same_numbers(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    finished = bench(*command(out, "--jobs", "2", rms=RMS))
    assert finished.returncode == 0, finished.stderr
    assert estimates(out) == estimates(done)


def test_a_half_written_folder_is_named_not_used(done: Path, tmp_path: Path) -> None:
    runs = tmp_path / "copy"
    shutil.copytree(done, runs)
    broken = next((runs / "ppo").iterdir())
    (broken / store.MARKER).unlink()
    again = bench(*command(runs, rms=RMS))
    assert again.returncode == 2
    assert "half-written" in again.stderr
    assert str(broken.name) in again.stderr
    report = bench("report", str(runs), "--out", str(tmp_path / "report"))
    assert report.returncode == 3
    assert "unfinished" in (tmp_path / "report" / "report.md").read_text()


def test_a_run_over_damaged_results_names_them_with_code_3(done: Path, tmp_path: Path) -> None:
    """Nothing is to be computed: what a report would read is checked all the same."""
    runs = Path(shutil.copytree(done, tmp_path / "copy"))
    (path,) = runs.glob("ppo/*scalar*/generations.jsonl")
    path.write_text(path.read_text().replace('"tokens":1', '"tokens":9', 1))
    again = bench(*command(runs, "-q", rms=RMS))
    assert again.returncode == 3
    (line,) = again.stderr.splitlines()
    assert str(path) in line
    assert "--repair" in line
    arms = json.loads((runs / "report" / "report.json").read_text())["arms"]
    assert [arm["reward_model"] for arm in arms] == ["seq2seq-token"]


def test_a_damaged_input_is_not_used_and_can_be_repaired(done: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(done, tmp_path / "copy"))
    (weights,) = runs.glob("reward/*scalar*/model.safetensors")
    (proxy,) = runs.glob("proxy/*scalar*")
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    shutil.rmtree(proxy)
    before = {path: path.stat().st_ino for path in runs.rglob(store.MARKER)}
    stopped = bench(*command(runs, "-q", rms=RMS))
    assert stopped.returncode == 3, stopped.stderr
    assert f"{weights} was changed" in stopped.stderr
    assert not proxy.exists()
    repaired = bench(*command(runs, "-q", "--repair", rms=RMS))
    assert repaired.returncode == 0, repaired.stderr
    assert f"{weights} was changed" in repaired.stderr
    assert estimates(runs) == estimates(done)
    kept = {path for path, inode in before.items() if path.exists() and path.stat().st_ino == inode}
    assert {path for path in before if "scalar" not in path.parent.name} <= kept
    assert bench("check", "store", str(runs), "--full").returncode == 0


def test_a_deleted_record_is_written_again_with_its_judges(done: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(done, tmp_path / "copy"))
    (path,) = runs.glob("cells/*scalar*.json")
    before = path.read_bytes()
    path.unlink()
    assert bench(*command(runs, "-q", "--judge", "length", rms=RMS)).returncode == 0
    assert json.loads(path.read_bytes())["judges"] == json.loads(before)["judges"]


def test_a_policy_from_a_folder_goes_the_same_way(tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlhf_bench.harness.models.policies import save_model
    from rlhf_bench.harness.models.tiny_policy import tiny_tokenizer
    from rlhf_bench.tasks.worlds.world import DialogueWorld

    world = DialogueWorld(demonstrations=400, train_pairs=2, test_pairs=2, train_prompts=2, test_prompts=2)
    demos = world.examples("sft")
    tokenizer = tiny_tokenizer([e.prompt for e in demos], [e.completion for e in demos], 1500)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    save_model(LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size)), tokenizer, tmp_path / "llama")
    out = tmp_path / "runs"
    finished = bench(*command(out, "--policy", str(tmp_path / "llama"), "--threads", "1", rms=RMS))
    assert finished.returncode == 0, finished.stderr
    report = json.loads((out / "report" / "report.json").read_text())
    assert {arm["policy"] for arm in report["arms"]} == {"llama"}
    again = bench(*command(out, "--dry-run", "--policy", str(tmp_path / "llama"), rms=RMS))
    assert "\n0 of " in again.stdout
