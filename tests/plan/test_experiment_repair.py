"""`bench experiment --repair`: what is damaged, and what depends on it, is made again; the rest is kept."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import settings

from rlhf_bench.harness import store
from rlhf_bench.harness.cli import main
from rlhf_bench.harness.plan import experiments

NAME = "repairs"
RUN = experiments.ExperimentRun("main", "dialogsum", ("length-only",), judges=("length",))
EXPERIMENT = experiments.Experiment(NAME, "Is it made again?", "1", (RUN,))

Bench = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of an experiment of one cell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "load", lambda: {NAME: EXPERIMENT})
        out = tmp_path_factory.mktemp("experiment") / "runs"
        patch.setattr(sys, "argv", line(out))
        with pytest.raises(SystemExit) as ended:
            main.main()
    assert ended.value.code == 0
    return out


def line(out: Path, *more: str) -> list[str]:
    return ["bench", "experiment", NAME, "--out", str(out), "--jobs", "1", *settings(("length-only",)), "-q", *more]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """`bench` in this process, which knows the experiment: exit code and standard error."""
    monkeypatch.setattr(experiments, "load", lambda: {NAME: EXPERIMENT})

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", list(arguments))
        with pytest.raises(SystemExit) as ended:
            main.main()
        return int(ended.value.code or 0), capfd.readouterr().err

    return call


def change(path: Path) -> None:
    """Another content of the same size."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def estimates(runs: Path) -> Any:
    return store.read_json(runs / "experiments" / NAME / "experiment.json")["report"]["estimates"]


def inodes(runs: Path) -> dict[str, int]:
    return {str(path.parent.relative_to(runs)): path.stat().st_ino for path in runs.glob(f"*/*/{store.MARKER}")}


def test_damaged_stages_and_what_needs_them_are_made_again(done: Path, tmp_path: Path, bench: Bench) -> None:
    runs = Path(shutil.copytree(done, tmp_path / "runs"))
    (found,) = runs.glob("ppo/*/generations.jsonl")
    wanted = estimates(runs)
    change(found)
    code, error = bench(*line(runs))
    assert code == 3, error  # the one cell of the experiment is damaged
    (said,) = error.splitlines()
    assert str(found) in said
    assert "--repair" in said
    before = inodes(runs)
    code, error = bench(*line(runs, "--repair"))
    assert code == 0, error
    assert f"{found} was changed" in error
    assert estimates(runs) == wanted
    made = {name.split("/")[0] for name, inode in inodes(runs).items() if before[name] != inode}
    assert made == {"ppo", "proxy", "fluency", "verdicts"}
    assert bench("bench", "check", "store", str(runs), "--full")[0] == 0
    kept = inodes(runs)
    assert bench(*line(runs, "--repair")) == (0, "")
    assert inodes(runs) == kept, "nothing is damaged, so nothing is made again"


def test_a_changed_record_is_written_again(done: Path, tmp_path: Path, bench: Bench) -> None:
    runs = Path(shutil.copytree(done, tmp_path / "runs"))
    (record,) = runs.glob("cells/*.json")
    wanted = record.read_bytes()
    record.write_bytes(wanted.replace(b'"length-only"', b'"length-olny"', 1))
    code, error = bench(*line(runs))
    assert code == 3
    assert record.stem in error
    kept = inodes(runs)
    code, error = bench(*line(runs, "--repair"))
    assert code == 0, error
    assert record.read_bytes() == wanted
    assert inodes(runs) == kept


def test_a_plan_alone_repairs_nothing(tmp_path: Path, bench: Bench) -> None:
    code, error = bench(*line(tmp_path / "runs", "--repair", "--dry-run"))
    assert code == 2
    assert "--repair" in error
    assert not (tmp_path / "runs").exists()
