"""Scalars while training: trackers get the rows of steps.jsonl, each step once, and cannot change or end a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ppo_runs import make_policy, make_run
from small import bench, command

from rlhf_bench.harness import store
from rlhf_bench.harness.cli import main
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import trackers, tracking
from rlhf_bench.harness.pipeline.trackers import Tracked, open_trackers
from rlhf_bench.harness.pipeline.tracking import check_trackers
from rlhf_bench.harness.ppo.loop import train

FAKE = """
import json, os
def Settings(**given):
    return given
class Run:
    def note(self, *what):
        with open(os.environ["FAKE_TRACKED"], "a") as file:
            file.write(json.dumps([__name__, *what]) + "\\n")
    def log(self, values, step=None):
        if str(step) == os.environ.get("FAKE_FAILS"):
            raise OSError("no room\\nleft")
        self.note("log", step, values)
    def finish(self):
        self.note("finish")
def finish():
    run.finish()
def init(**given):
    global run
    print("a greeting")
    run = Run()
    run.note("init", given)
    return run
"""
"""As much of wandb and of trackio as is used: both have these calls."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the fakes, importable here and in other processes, note what was called."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name in ("wandb", "trackio"):
        (folder / f"{name}.py").write_text(FAKE)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("FAKE_TRACKED", str(tmp_path / "calls"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    noted_in = tmp_path / "calls"
    noted_in.touch()
    yield noted_in
    for name in ("wandb", "trackio"):
        sys.modules.pop(name, None)  # transformers and TRL take whatever is imported under that name


def noted(path: Path, library: str, what: str) -> list[Any]:
    """Arguments of every call of that name."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row[2:] for row in rows if row[:2] == [library, what]]


def expected(rows: Sequence[dict[str, float]]) -> list[Any]:
    return [[row["iteration"], {k: v for k, v in row.items() if k != "iteration"}] for row in rows]


def tracked(tmp_path: Path, *names: str) -> Tracked:
    return Tracked(names, tmp_path / "tracking", "ppo small", tmp_path / "scratch")


class CutError(Exception):
    """An interruption."""


def cut_at(moment: int) -> Any:
    def cut(iteration: int, _: int) -> None:
        if iteration == moment:
            raise CutError

    return cut


def train_cut_and_resumed(policy: Path, where: Tracked, moment: int = 3) -> list[dict[str, float]]:
    """Every second iteration is saved: the third is made twice."""
    with pytest.raises(CutError), open_trackers(where) as log:
        train(make_run(policy, where.scratch, progress=cut_at(moment), log=log))
    with open_trackers(where) as log:
        return train(make_run(policy, where.scratch, log=log))


@pytest.mark.parametrize("library", ["wandb", "trackio"])
def test_a_resumed_run_is_one_run_with_each_step_once(policy: Path, tmp_path: Path, calls: Path, library: str) -> None:
    rows = train_cut_and_resumed(policy, tracked(tmp_path, library))
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert noted(calls, library, "log") == expected(rows)
    (first,), (second,) = noted(calls, library, "init")
    assert first == second
    assert first["resume"] == "allow"
    assert len(noted(calls, library, "finish")) == 2


def test_a_stage_that_is_made_anew_is_another_run(policy: Path, tmp_path: Path, calls: Path) -> None:
    for name in ("one", "two"):
        where = Tracked(("wandb",), tmp_path / "tracking", "ppo small", tmp_path / name)
        with open_trackers(where) as log:
            train(make_run(policy, where.scratch, log=log))
    (first,), (second,) = noted(calls, "wandb", "init")
    assert first["id"] != second["id"]
    assert [step for step, _ in noted(calls, "wandb", "log")] == [1, 2, 3, 4] * 2


@pytest.mark.parametrize(("variable", "mode"), [("", "offline"), ("WANDB_MODE", None), ("WANDB_API_KEY", None)])
def test_wandb_sends_nothing_unasked(
    tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch, variable: str, mode: str | None
) -> None:
    (tmp_path / "scratch").mkdir()
    if variable:
        monkeypatch.setenv(variable, "online")
    with open_trackers(tracked(tmp_path, "wandb")) as log:
        log({"iteration": 1, "reward": 0.5})
    ((given,),) = noted(calls, "wandb", "init")
    assert given.get("mode") == mode
    assert given["settings"] == {"console": "off", "disable_git": True}


class Writer:
    """torch's SummaryWriter, as far as it is used."""

    made: list[Writer]

    def __init__(self, log_dir: str, purge_step: int) -> None:
        self.log_dir, self.purge_step = log_dir, purge_step
        self.points: list[tuple[int, str, float]] = []
        self.closed = False
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.points.append((step, name, value))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_tensorboard_drops_what_is_logged_again(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Writer.made = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))  # type: ignore[arg-type]
    rows = train_cut_and_resumed(policy, tracked(tmp_path, "tensorboard"))
    before, after = Writer.made
    assert (before.purge_step, after.purge_step) == (1, 3)
    kept = [point for point in before.points if point[0] < after.purge_step] + after.points
    assert kept == [(step, name, value) for step, row in expected(rows) for name, value in row.items()]
    assert {before.log_dir, after.log_dir} == {str(tmp_path / "tracking")}
    assert before.closed
    assert after.closed


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_back_what_was_logged(policy: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra rlhf-bench[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = train_cut_and_resumed(policy, tracked(tmp_path, "tensorboard"))
    found = EventAccumulator(str(tmp_path / "tracking")).Reload()
    assert set(found.Tags()["scalars"]) == {*rows[0]} - {"iteration"}
    for name in found.Tags()["scalars"]:
        points = [(event.step, event.value) for event in found.Scalars(name)]
        assert [step for step, _ in points] == [1, 2, 3, 4]
        assert [value for _, value in points] == pytest.approx([row[name] for row in rows], rel=1e-6)  # float32


MLFLOW = "the extra rlhf-bench[mlflow] is not installed"


def mlflow_client(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    pytest.importorskip("mlflow", reason=MLFLOW)
    pytest.importorskip("sqlalchemy", reason=MLFLOW)
    from mlflow.tracking import MlflowClient

    return MlflowClient


@pytest.mark.filterwarnings("ignore")
def test_mlflow_holds_a_resumed_run_as_one_with_each_step_once(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_of = mlflow_client(monkeypatch)
    monkeypatch.chdir(tmp_path)
    where = Tracked(("mlflow",), tmp_path / "tracking" / "ppo-small", "ppo small", tmp_path / "scratch")
    rows = train_cut_and_resumed(policy, where)
    client = client_of(tracking_uri=f"sqlite:///{tmp_path / 'tracking' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("rlhf-bench").experiment_id])
    assert (run.info.run_name, run.info.status) == ("ppo small", "FINISHED")
    names = {*rows[0]} - {"iteration"}
    assert set(run.data.metrics) == names
    for name in names:
        points = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
        assert points == [(row["iteration"], pytest.approx(row[name])) for row in rows]
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.filterwarnings("ignore")
def test_mlflow_logs_where_its_own_variables_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client_of = mlflow_client(monkeypatch)
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    (tmp_path / "scratch").mkdir()
    with open_trackers(Tracked(("mlflow",), tmp_path / "tracking" / "x", "ppo x", tmp_path / "scratch")) as log:
        log({"iteration": 1, "reward": 0.5})
    client = client_of(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.data.metrics == {"reward": 0.5}
    assert not (tmp_path / "tracking" / "mlflow.db").exists()


def test_mlflow_without_its_local_store_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: object())
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(BenchError, match="needs the package sqlalchemy"):
        check_trackers(["mlflow"])


def test_a_tracker_that_fails_ends_neither_the_run_nor_another(
    policy: Path, tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_FAILS", "3")
    healthy: list[int] = []
    monkeypatch.setitem(
        trackers.OPENERS,  # type: ignore[arg-type]
        "healthy",
        lambda *_: SimpleNamespace(log=lambda step, _: healthy.append(step), close=lambda: None),
    )
    where = tracked(tmp_path, "wandb", "absent", "healthy")
    monkeypatch.setitem(trackers.OPENERS, "absent", lambda *_: 1 / 0)  # type: ignore[arg-type]
    with open_trackers(where) as log:
        rows = train(make_run(policy, where.scratch, log=log))
    assert len(rows) == 4
    assert healthy == [1, 2, 3, 4]
    assert [step for step, _ in noted(calls, "wandb", "log")] == [1, 2]
    shown = capsys.readouterr()
    warnings = [line for line in shown.err.splitlines() if line.startswith("Warning")]
    assert len(warnings) == 2
    assert "absent" in warnings[0]
    assert "no longer tracked by wandb: " in warnings[1]
    assert "no room" in warnings[1]
    assert shown.out == ""  # results alone go there


@pytest.mark.parametrize("task", [["run", "--task", "dialogsum", "--rm", "scalar"], ["experiment", "refusal"]])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tensorbord", "Did you mean 'tensorboard'?"),
        ("trackio", "pip install 'rlhf-bench[trackio]'"),
    ],
)
def test_what_cannot_track_is_said_before_anything_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: list[str],
    name: str,
    said: str,
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["bench", *task, "--track", name, "--out", str(tmp_path / "runs")])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_tracker_named_twice_is_one(calls: Path) -> None:  # noqa: ARG001
    assert check_trackers(["wandb", "trackio", "wandb"]) == ("wandb", "trackio")
    with pytest.raises(BenchError):
        check_trackers([""])


@pytest.mark.training
def test_a_run_is_tracked_from_its_worker_and_named_as_without(tmp_path: Path, calls: Path) -> None:
    out = tmp_path / "runs"
    (tmp_path / "fakes" / "trackio.py").unlink()  # TRL, in the same process, would take it for the whole library
    finished = bench(*command(out, "--track", "wandb", "--jobs", "2"))
    assert finished.returncode == 0, finished.stderr
    assert "greeting" not in finished.stdout
    (folder,) = (out / "ppo").iterdir()
    wanted = expected(store.read_rows(folder / "steps.jsonl"))
    assert noted(calls, "wandb", "log") == wanted
    ((given,),) = noted(calls, "wandb", "init")
    assert given["name"] == store.read_json(folder / store.MARKER)["kind"] + " dialogsum-seq2seq-token-s0"
    assert given["dir"] == str(out / "tracking" / f"ppo-{folder.name}")
    plan = bench(*command(out, "--dry-run"))
    states = {line.split("\t")[1] for line in plan.stdout.splitlines() if "\t" in line}
    assert "pending" not in states
    assert "reused" in states
