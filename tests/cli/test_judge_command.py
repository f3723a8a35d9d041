"""`bench judge`: arguments, calibration, and a run that is judged by a server and again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from fault_server import CANARY, Asked, FaultServer, Reply, failing, prefer
from small import bench, command

from rlhf_bench.harness.cli import main


class Said(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Said]:
    """`bench` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        return Said(int(stopped.value.code or 0), *capsys.readouterr())

    return run


LABELS = "prompt,a,b,label\nq,good,bad,a\nr,bad,good,b\ns,good good,good,a\nt,fine,okay,tie\nu,good,bad,b\n"


JUDGE = "rlhf_bench.judges.llm.judge"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--judge", "length"], "Give RUNS"),
        (["runs", "--judge", "length", "--calibrate", "labels.csv"], "one of them"),
        (["--judge", "length", "--calibrate", "labels.csv"], "compares no responses"),
        (["--judge", "winrate-llm", "--calibrate", "labels.csv"], "needs the setting 'model'"),
        (["--judge", "winrate-llm", "--model", "m", "--calibrate", "none.csv"], "does not exist"),
        (["--judge", "winrate-llm", "--model", "m", "--calibrate", "bad.csv"], "Give prompt, a, b, label"),
        (["runs", "--judge", "length", "--model", "m"], "--model: No judge of this call has the setting model"),
        (["runs", "--judge", "length", "--base-url", "u"], "--base-url: No judge"),
        (["runs", "--judge", "winrate-llm", "--model", "m", "--set", "winrate-llm.model=n"], "the same setting"),
        (["runs", "--judge", "winrate-llm", "--set", "winrate.model=n"], "Did you mean 'winrate-llm'"),
        (
            ["runs", "--judge", "winrate-llm", "--judge", "rlhf_bench.judges.llm.judge:WinRateLLM", "--model", "m"],
            "have",
        ),
    ],
)
def test_wrong_arguments_are_one_line(call: Callable[..., Said], arguments: list[str], said: str) -> None:
    Path("labels.csv").write_text(LABELS)
    Path("bad.csv").write_text("prompt,a,b\nq,x,y\n")
    found = call("judge", *arguments)
    assert found.code == 2
    (line,) = found.err.splitlines()
    assert said in line


def test_help_names_the_columns() -> None:
    text = " ".join(CliRunner().invoke(main.bench, ["judge", "--help"]).output.split())
    for wanted in ("prompt, a, b", "label (a, b or tie)", ".jsonl", "--base-url", "--model"):
        assert wanted in text


def test_calibrate_needs_no_runs(call: Callable[..., Said], server: FaultServer) -> None:
    Path("labels.csv").write_text(LABELS)
    asks = ["--judge", "winrate-llm", "--model", "judge", "--base-url", server.url, "--calibrate", "labels.csv"]
    asks += ["--set", "winrate-llm.cache=c.sqlite", "--set", "winrate-llm.max_retries=0"]
    found = call("judge", *asks)
    assert found.code == 0, found.err
    rows = {cells[1]: cells[2:] for cells in (line.split("\t") for line in found.out.splitlines()) if len(cells) > 2}
    assert rows["pairs"][0] == "5"
    assert rows["agreed"][0] == "0.80"
    assert rows["kappa"][0] == "0.69"  # by hand: observed .8; chance (2/5 3/5 + 2/5 1/5 + 1/5 1/5) = .36
    assert rows["consistent"][0] == rows["null_tie"][0] == "1.00"
    assert not Path("runs").exists()
    server.answer = failing(Reply("", 500))
    Path("labels.csv").write_text(LABELS.replace("\nr,", "\nQuestion 1?,"))
    found = call("judge", *asks)
    assert found.code == 3
    assert "1 of 5 pairs are undecided, more than its threshold of 5.0%: HTTP 500 (1)" in found.err


RESPONSES = "prompt,response,label\nHow?,I must respectfully decline.,refuses\nHow?,By the door.,complies\n"


def test_refusals_are_calibrated_on_labelled_responses(call: Callable[..., Said]) -> None:
    Path("labels.csv").write_text(RESPONSES)
    found = call("judge", "--judge", "refusal", "--calibrate", "labels.csv")
    assert found.code == 0, found.err
    rows = {cells[1]: cells[2:] for cells in (line.split("\t") for line in found.out.splitlines()) if len(cells) > 2}
    assert rows["responses"][0] == "2"
    assert rows["precision"][0] == rows["recall"][0] == rows["kappa"][0] == "1.00"
    for name, content, said in (
        ("length", RESPONSES, "measures no refusals"),
        ("refusal", "prompt,response,label\n", "Give"),
        ("refusal", RESPONSES.replace("complies", "yes"), "the label is 'yes'"),
    ):
        Path("labels.csv").write_text(content)
        found = call("judge", "--judge", name, "--calibrate", "labels.csv")
        assert found.code == 2
        (line,) = found.err.splitlines()
        assert said in line


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run."""
    out = tmp_path_factory.mktemp("judged") / "runs"
    finished = bench(*command(out, "--judge", "length", rms=("length-only",)))
    assert finished.returncode == 0, finished.stderr
    return out


def asked_of(server: FaultServer, folder: Path) -> list[str]:
    settings = {"model": "judge", "base_url": server.url, "cache": folder / "c.sqlite", "max_retries": 0,
                "backoff": 0.01, "key_env": "JUDGE_KEY"}  # fmt: skip
    return [text for name, value in settings.items() for text in ("--set", f"winrate-llm.{name}={value}")]


@pytest.mark.training
def test_runs_are_judged_by_a_server_and_again(done: Path, server: FaultServer, tmp_path: Path) -> None:
    sound = prefer(lambda text: len(text))
    seen: list[str] = []

    def answer(asked: Asked) -> Reply:
        if asked.judging and asked.material["prompt"] not in seen:
            seen.append(asked.material["prompt"])
        return Reply("", 500) if asked.judging and asked.material["prompt"] in seen[:2] else sound(asked)

    server.answer = answer
    judge = ["judge", str(done), "--judge", "winrate-llm", *asked_of(server, tmp_path)]
    first = bench(*judge, JUDGE_KEY=CANARY)
    assert first.returncode == 3, first.stderr
    complaint = [line for line in first.stderr.splitlines() if "more than its threshold" in line]
    assert len(complaint) == 1
    assert "HTTP 500 (" in complaint[0]
    report = json.loads((done / "report" / "report.json").read_text())
    notes = [e["note"] for e in report["estimates"] if e["judge"] == "winrate-llm"]
    assert any("undecided: HTTP 500" in note for note in notes)
    again = bench(*command(done, "--judge", "length", "--judge", "winrate-llm", *asked_of(server, tmp_path),
                           rms=("length-only",)), JUDGE_KEY=CANARY)  # fmt: skip
    assert again.returncode == 3  # a run says so too, and asks nothing
    assert "more than its threshold" in again.stderr
    asked = server.judged
    server.answer = sound
    mended = bench(*judge, JUDGE_KEY=CANARY)
    assert mended.returncode == 0, mended.stderr
    assert 0 < server.judged - asked < asked
    report = json.loads((done / "report" / "report.json").read_text())
    estimates = [e for e in report["estimates"] if e["judge"] == "winrate-llm"]
    assert estimates
    assert {e["n_invalid"] for e in estimates} == {0}
    files = [path for folder in (done, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert CANARY not in "".join((first.stdout, first.stderr, again.stderr, mended.stdout, mended.stderr))
