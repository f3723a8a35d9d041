"""Bad input: one line that names what was seen, exit code 2, and finished results are kept."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small import bench, command, settings

from rlhf_bench.harness.cli import main
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.execute import Outcome
from rlhf_bench.harness.plan.request import raise_first

Call = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Run `bench` here; it must exit with 2 and one line on stderr, which is returned."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        error = capsys.readouterr().err
        assert stopped.value.code == 2, error
        assert "Traceback" not in error
        lines = [line for line in error.splitlines() if line.startswith("Error")]
        assert len(lines) == 1
        return lines[0]

    return call


def run(*more: str, task: str = "dialogsum", rm: str = "scalar") -> list[str]:
    return ["run", "--task", task, "--rm", rm, "--out", "runs", *more]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (run(task="dialogsun"), "Did you mean 'dialogsum'"),
        (run(rm="seq2seq-tokens"), "Did you mean 'seq2seq-token'"),
        (run("--judge", "win-rate"), "Did you mean 'winrate'"),
        (run("--preset", "tinny"), "Did you mean 'tiny'"),
        (run("--set", "ppo.klx=1"), "Did you mean 'kl'"),
        (run("--set", "pp.kl=1"), "Did you mean 'ppo'"),
        (run("--set", "scalar.epoch=1"), "Did you mean 'epochs'"),
        (run("--set", "dialogsum.sed=1"), "Did you mean 'seed'"),
        (run("--set", "ppo.kl=much"), "not a number"),
        (run("--set", "ppo.kl=nan"), "not a finite number"),
        (run("--set", "ppo.iterations=0"), "above 0"),
        (run("--set", "ppo.whiten=maybe"), "not true or false"),
        (run("--set", "stats.level=2"), "between 0 and 1"),
        (run("--set", "ppo.kl"), "group.key=value"),
        (run("--set", "scalar.epochs=0"), "above 0"),
        (run("--seeds", "-1"), "'-1'"),
        (run("--seeds", "0"), "'0'"),
        (run("--seeds", "3,3"), "'3,3'"),
        (run("--limit", "0"), "0"),
        (run("--policy", "no/such/folder"), "no policy 'no/such/folder'"),
        (run("--data", "no-such-folder"), "no-such-folder"),
        (run("--device", "abacus"), "'abacus' cannot be used"),
        (run("--device", "cuda:77"), "'cuda:77' cannot be used"),
        (["report", "nothing-here", "--out", "r"], "nothing-here is not there"),
        (["report", "nothing-here"], "nothing-here is not there"),
        (run(task="minee:Nope"), "There is no module 'minee' for the task 'minee:Nope'. Modules are looked for in"),
        (run(rm="minee.deeper:Nope"), "There is no module 'minee' for the reward-model"),
        (run("--judge", "+minee:Nope"), "There is no module 'minee' for the judge"),
        (run(rm="hff:FOLDER"), "Did you mean 'hf'?"),
        (run(rm="json:laods"), "The module 'json' has no 'laods' for the reward-model. Did you mean 'loads'?"),
        (["check", "task", "minee:Nope"], "There is no module 'minee'"),
        (["judge", "runs", "--judge", "minee:Nope", "--model", "m"], "There is no module 'minee'"),
        (run("--set", "dialogsum.data="), "dialogsum.data is empty. Name the data, or leave"),
        (["check", "task", "dialogsum", "--set", "data="], "dialogsum.data is empty."),
        (run(task="prompts"), "No data were named: the task 'prompts' has no prompts of its own."),
        (run(task="qa-feedback"), "No data were named: the task qa-feedback needs real data"),
        (["judge", "nothing-here", "--judge", "length"], "nothing-here is not there"),
        (["score", "--rm", "scalar", "--prompt", "a", "--response", "b"], "runs is not there"),
        (["check", "judge", "lenght"], "Did you mean 'length'"),
        (["list", "task"], "task"),
        (["bogus"], "bogus"),
    ],
)
def test_a_wrong_name_or_value(refused: Call, arguments: list[str], said: str) -> None:
    assert said in refused(*arguments)
    assert not Path("runs").exists()


GOOD = {"fname": "a", "dialogue": "#Person1#: Hi.", "summary": "They greet.", "topic": "t"}
MANY = [{**GOOD, "fname": f"m{i}", "dialogue": f"#Person1#: Hi {i}."} for i in range(60)]


def as_lines(rows: list[object]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"", "d.jsonl", "d.jsonl"),
        (as_lines([*MANY, {**GOOD, "summary": ""}]), "d.jsonl", "empty"),
        (as_lines([{"fname": "a", "dialog": "x", "summary": "y"}]), "d.jsonl", "dialog"),
        (as_lines([GOOD]) + b"{nonsense\n", "d.jsonl", "2"),
        (as_lines([GOOD]).replace(b"greet", b"gr\xff\xfeet"), "d.jsonl", "UTF-8"),
        (gzip.compress(as_lines([GOOD] * 50), mtime=0)[:-12], "d.jsonl.gz", "d.jsonl.gz"),
        (b"not gzip at all", "d.jsonl.gz", "d.jsonl.gz"),
        (as_lines([[1, 2]]), "d.jsonl", "d.jsonl"),
    ],
)
def test_a_broken_data_file(refused: Call, tmp_path: Path, content: bytes, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refused(*run("--data", str(tmp_path / name)))
    assert not Path("runs").exists()


def test_a_hub_data_set_without_network_is_an_error(refused: Call) -> None:
    assert "Error" in refused(*run("--data", "hub"))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer"])
def test_a_policy_folder_that_lacks_something(refused: Call, tmp_path: Path, missing: str, tiny_gpt2: object) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(tiny_gpt2.folder, folder)  # type: ignore[attr-defined]
    for path in list(folder.iterdir()):
        if path.name.startswith(missing):
            path.unlink()
    assert missing.split(".")[-1] in refused(*run("--policy", str(folder)))


def test_an_output_path_that_is_a_file(refused: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not a folder" in refused(*run()[:-1], str(tmp_path / "file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_that_cannot_be_written(refused: Call, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "Cannot write" in refused(*run()[:-1], str(tmp_path / "locked" / "runs"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('no such thing')", "RuntimeError: no such thing"),
        ("import absent_module", "absent_module"),
        ("def plain(): return 3", "neither rewards(rollout)"),
        ("def plain(): raise ValueError('not today')", "not today"),
        ("plain = 3", "not callable"),
        ("def other(): ...", "plain"),
        ("def plain(:", "SyntaxError"),
    ],
)
def test_a_plugin_that_cannot_be_loaded(refused: Call, tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / f"own_{abs(hash(source))}.py").write_text(source)
    line = refused(*run(rm=f"own_{abs(hash(source))}:plain"))
    assert said in line
    assert "own_" in line


BAD_REWARDS = """
import torch
class Wrong:
    def __init__(self, how="shape"): self.how = how
    def rewards(self, rollout):
        m = rollout.mask.float()
        if self.how == "shape": return m.sum(1)
        if self.how == "nan": return m * float("nan")
        if self.how == "inf": return m * float("inf")
        if self.how == "outside": return m + 1
        if self.how == "list": return m.tolist()
        raise KeyError("gone")
"""


@pytest.mark.training
@pytest.mark.parametrize(
    ("how", "said"),
    [("shape", "shape"), ("nan", "NaN"), ("inf", "infinite"), ("outside", "outside"), ("list", "list"), ("x", "gone")],
)
def test_a_reward_model_with_wrong_rewards_loses_nothing(
    refused: Call, tmp_path: Path, trained: Path, how: str, said: str
) -> None:
    (tmp_path / "wrong.py").write_text(BAD_REWARDS)
    before = sorted(p.name for p in (trained / "sft").iterdir())
    sets = [*settings(()), "--set", f"wrong:Wrong.how={how}"]
    line = refused("run", "--task", "dialogsum", "--rm", "wrong:Wrong", "--out", str(trained), "--jobs", "1", *sets)
    assert said in line
    assert "wrong:Wrong" in line
    assert sorted(p.name for p in (trained / "sft").iterdir()) == before


@pytest.mark.training
def test_prompts_longer_than_the_context(tmp_path: Path, tiny_gpt2: object) -> None:
    ended = bench(*command(tmp_path / "runs", "--policy", str(tiny_gpt2.folder)))  # type: ignore[attr-defined]
    assert ended.returncode == 2
    assert "context" in ended.stderr
    assert "data.max_prompt_tokens" in ended.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder that holds the SFT policy of the small task."""
    out = tmp_path_factory.mktemp("bad") / "runs"
    finished = bench(*command(out, rms=("scalar",)))
    assert finished.returncode == 0, finished.stderr
    return out


@pytest.mark.parametrize("option", ["--data", "--policy", "--preset"])
def test_an_empty_name_is_refused(refused: Call, option: str) -> None:
    """A script's variable that is not set must not train something else."""
    said = refused("run", "--task", "dialogsum", "--rm", "length-only", option, "")
    assert said == f"Error: {option} is empty. Name one, or leave the option out for its default."
    assert not Path("runs").exists()


def test_every_failure_of_a_run_is_named_with_its_reason() -> None:
    # a fault of the machine names its stage itself (`faults.machine_fault`)
    failed = {"ppo a": BenchError("ppo a: No room.", "Make some."), "ppo b": BenchError("Not finite.")}
    with pytest.raises(BenchError) as raised:
        raise_first(Outcome(failed=failed))
    assert raised.value.seen == "ppo a: No room. Failed as well: ppo b (Not finite.)."


def test_a_misspelt_module_is_told_from_a_broken_one(refused: Call, tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text("import no_such_library\n")
    assert "Did you mean 'my_rewards'?" in refused(*run(rm="my_reward:score"))
    assert "cannot be imported: ModuleNotFoundError: No module named 'no_such_library'" in refused(
        *run(rm="my_rewards:score")
    )
