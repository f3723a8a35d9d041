"""`bench status` and `bench clean`: what journals and records say, also beside a run and after a kill."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from damages import DAMAGES
from stored import Stored, make

from rlhf_bench.harness import store
from rlhf_bench.harness.cli.status import clean as bench_clean
from rlhf_bench.harness.cli.status import status as bench_status
from rlhf_bench.harness.errors import BenchError, DamagedError
from rlhf_bench.harness.pipeline import journal
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.pipeline.execute import execute
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan.costs import rough_seconds
from rlhf_bench.harness.results.status import read_status
from rlhf_bench.harness.results.unused import delete, find_unused


def work(context: Context) -> Mapping[str, Any]:
    """A stage of four steps that fails, or waits after the second one until the file `go` is there."""
    for done in (1, 2, 3, 4):
        context.progress(done, 4)
        if context.params.get("fails"):
            raise BenchError("No [red]luck[/].\x1b[0m", "Try again.")
        while done == 2 and context.params.get("go") and not Path(context.params["go"]).exists():
            time.sleep(0.01)
    (context.work / "text").write_text("made")
    return {}


def stage(label: str, *inputs: Stage, **params: Any) -> Stage:
    needs = {one.label: one for one in inputs}
    return Stage("work", label, "test_status:work", {"of": label, **params}, needs, cost=2.0, family="f")


def plan(**of_b: Any) -> list[Stage]:
    """a; b of a; c of b; d."""
    a = stage("a")
    b = stage("b", a, **of_b)
    return [a, b, stage("c", b), stage("d")]


def root_of(folder: Path) -> store.Store:
    root = store.Store(folder)
    root.prepare()
    return root


def states(root: Path) -> dict[str, str]:
    found = read_status(root, time.time())
    assert not found.problems
    return {one.stage.label: one.state for driver in found.drivers for one in driver.stages}


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_failed_and_what_waits_for_it_is_said(
    tmp_path: Path, jobs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root = root_of(tmp_path)
    execute(plan(fails=True), root, Machine(jobs))
    assert states(tmp_path) == {"a": "done", "b": "failed", "c": "waiting", "d": "done"}
    assert bench_status(tmp_path) == 3
    said = capsys.readouterr().out
    assert "work b\tNo [red]luck[/]." in said  # shown as it is, and no colour
    assert "\x1b" not in said
    # the same again with another b: what a later driver plans is counted for that one alone
    execute(plan(), root, Machine(jobs))
    assert [len(driver.stages) for driver in read_status(tmp_path, time.time()).drivers] == [4, 2]


def test_all_done_is_nothing_to_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = root_of(tmp_path)
    execute(plan(), root, Machine())
    before = len(journal.journals(tmp_path))
    execute(plan(), root, Machine())
    assert len(journal.journals(tmp_path)) == before == 1  # nothing to do leaves no journal
    assert bench_status(tmp_path) == 0
    assert capsys.readouterr().out.startswith("No cell is planned.\nDisk: ")


@pytest.fixture
def running(tmp_path: Path) -> Any:
    """A process in the middle of b, whose third step waits for the file `go`."""
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from pathlib import Path
        from test_status import Machine, execute, plan, root_of
        execute(plan(go={str(tmp_path / "go")!r}), root_of(Path({str(tmp_path / "runs")!r})), Machine())
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    deadline = time.monotonic() + 60
    while not _is_at(tmp_path / "runs", "b"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def _is_at(root: Path, label: str) -> bool:
    if not journal.journals(root):
        return False
    # `step` leaves out rows that come within a second of each other: the first step is written
    found = read_status(root, time.time())
    running = [one for driver in found.drivers for one in driver.of("running")]
    return any(one.stage.label == label and one.done for one in running)


def test_a_run_is_seen_from_another_process(tmp_path: Path, running: subprocess.Popen[bytes]) -> None:
    runs = tmp_path / "runs"
    assert states(runs) == {"a": "done", "b": "running", "c": "waiting", "d": "waiting"}
    (driver,) = read_status(runs, time.time()).drivers
    assert (driver.state, driver.driver.plan["pid"]) == ("running", running.pid)
    (b,) = driver.of("running")
    assert (b.done, b.total) == (1, 4)
    # a quarter of the way after 10 s: 30 s are left, whatever stages alike took
    (then,) = read_status(runs, b.since + 10).drivers
    assert then.of("running")[0].left == pytest.approx(30, abs=0.01)
    with pytest.raises(BenchError, match=f"Process {running.pid} on .* is writing"):
        find_unused(runs)
    (tmp_path / "go").touch()
    assert running.wait(60) == 0
    assert set(states(runs).values()) == {"done"}
    assert read_status(runs, time.time()).drivers[0].state == "finished"


def test_a_killed_run_is_interrupted_and_another_takes_its_stages(
    tmp_path: Path, running: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert states(runs) == {"a": "done", "b": "stopped", "c": "waiting", "d": "waiting"}
    assert bench_status(runs) == 3
    assert "interrupted" in capsys.readouterr().out
    # what it planned is kept: the same command would go on with it
    assert [one.path.name for one in find_unused(runs) if one.path.is_dir()] == []
    (tmp_path / "go").touch()
    execute(plan(go=str(tmp_path / "go")), root_of(runs), Machine())
    assert set(states(runs).values()) == {"done"}
    assert bench_status(runs) == 0


def test_an_estimate_is_the_cost_at_the_rate_of_stages_alike(tmp_path: Path) -> None:
    root = root_of(tmp_path)
    execute([stage("a")], root, Machine())
    marker = stage("a").folder(root) / store.MARKER
    marker.write_text(json.dumps({**store.read_json(marker), "seconds": 8.0, "record_sha256": 0, "files": {}}))
    record = {name: value for name, value in store.read_json(marker).items() if name not in ("record_sha256", "files")}
    marker.write_text(json.dumps(record))
    execute(plan(fails=True), root, Machine())
    driver = read_status(tmp_path, time.time()).drivers[-1]
    assert [(one.stage.label, one.left) for one in driver.stages if one.state == "waiting"] == [("c", 8.0)]
    assert driver.seconds_left == (8.0, True)


@pytest.mark.parametrize("damage", [*DAMAGES[1:3], "{}\n", '{"event": "plan"}\n', "[]\n" * 3, "\x00\n"], ids=range(6))
def test_a_damaged_journal_is_named(tmp_path: Path, damage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    execute(plan(), root_of(tmp_path), Machine())
    (path,) = journal.journals(tmp_path)
    if isinstance(damage, str):
        path.write_text(damage)
    else:
        damage(path)
    code = bench_status(tmp_path)
    error = capsys.readouterr().err
    if damage is DAMAGES[1]:  # cut off in its last row, as a kill leaves it: "over" is missing, and all stages are done
        assert (code, error) == (0, "")
    else:
        assert code == 3
        assert path.name in error
        with pytest.raises(DamagedError, match="what it needs is unknown"):
            find_unused(tmp_path)


def test_what_is_appended_to_a_journal_is_read_alone(tmp_path: Path) -> None:
    reader, problems = journal.Reader(tmp_path), list[str]()
    a, b = plan()[:2]
    root_of(tmp_path)
    with journal.journal(tmp_path, [a, b], Machine()) as rows:
        (first,) = reader.read(problems.append)
        assert not first.events
        rows.start(a)
        (path,) = journal.journals(tmp_path)
        with path.open("a") as file:
            file.write('{"event": "st')  # a row that is being written
        (second,) = reader.read(problems.append)
        assert [row["event"] for row in second.events] == ["start"]
        with path.open("a") as file:
            file.write('ep", "time": 1}\n')
        (third,) = reader.read(problems.append)
        assert [row["event"] for row in third.events] == ["start", "step"]
        # what was read is not read again
        path.write_bytes(b"x" * path.stat().st_size)
        with path.open("a") as file:
            file.write('{"event": "over", "time": 1}\n')
        (last,) = reader.read(problems.append)
        assert [row["event"] for row in last.events] == ["start", "step", "over"]
        assert journal.read(tmp_path, problems.append) == []
        assert len(problems) == 1
        # another file of that name is read from its start
        path.unlink()
        path.write_text(json.dumps(third.plan) + "\n")
        (fourth,) = reader.read(problems.append)
        assert not fourth.events
    (tmp_path / ".partial" / path.name).unlink()
    assert reader.read(problems.append) == []
    assert len(problems) == 1


def test_a_journal_that_is_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(plan(), root_of(tmp_path), Machine())
    monkeypatch.setattr(journal, "MOST", 100)
    assert "is longer than" in read_status(tmp_path, time.time()).problems[0]


def test_the_rates_of_finished_stages_are_read_once(tmp_path: Path) -> None:
    root, known = root_of(tmp_path), dict[Path, Any]()
    execute([stage("a")], root, Machine())
    first = rough_seconds([stage("b")], root, known)
    (marker,) = known
    marker.write_text("{")
    assert rough_seconds([stage("b")], root, known) == first
    assert rough_seconds([stage("b")], root) == {stage("b").key: None}
    assert first[stage("b").key] is not None


def test_no_rate_is_read_from_a_pipe(tmp_path: Path) -> None:
    root = root_of(tmp_path)
    folder = stage("a").folder(root)
    folder.mkdir(parents=True)
    os.mkfifo(folder / store.MARKER)
    assert rough_seconds([stage("b")], root) == {stage("b").key: None}


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text: str) -> int:  # noqa: ARG002
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_journal_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    root = root_of(tmp_path)
    with journal.journal(tmp_path, plan(), Machine()) as rows:
        assert rows._file is not None
        rows._file.close()
        rows._file = Full()
        rows.start(plan()[0])
        rows.step(plan()[0], 1, 2)
    (tmp_path / journal.FOLDER).rename(tmp_path / "kept")
    (tmp_path / journal.FOLDER).write_text("no folder")
    with journal.journal(tmp_path, plan(), Machine()) as rows:
        rows.start(plan()[0])
    assert root.root.is_dir()


def test_old_journals_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEPT", 3)
    root = root_of(tmp_path)
    for number in range(6):
        execute([stage("x", number=number)], root, Machine())
    found = journal.journals(tmp_path)
    assert len(found) == 4  # three and the last one's own
    assert [path.with_suffix(".lock").is_file() for path in found] == [True] * 4
    assert len(list((tmp_path / journal.FOLDER).glob("driver-*"))) == 8


def test_no_results_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        for command in (bench_status, lambda runs: bench_clean(runs, True)):
            with pytest.raises(BenchError, match="is no results folder"):
                command(path)


# -- bench clean -------------------------------------------------------------------------------------------------------


def everything(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_what_finished_cells_need_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, Stored(rms=("scalar",), seeds=(1,)))
    needed = everything(tmp_path)
    extra = Stored(rms=("seq2seq-token",), seeds=(2,))
    (other,) = make(tmp_path, extra)
    (tmp_path / "notes" / "mine").mkdir(parents=True)
    (tmp_path / "notes" / "mine" / "text").write_text("of the user")
    assert bench_clean(tmp_path, yes=False) == 0
    assert f"Nothing in {tmp_path} is unused." in capsys.readouterr().out
    other.unlink()
    before = everything(tmp_path)
    assert bench_clean(tmp_path, yes=False) == 0
    assert "Nothing was deleted" in capsys.readouterr().out
    assert everything(tmp_path) == before
    assert bench_clean(tmp_path, yes=True) == 0
    assert everything(tmp_path) == needed | {"notes/mine/text"}
    assert find_unused(tmp_path) == []


def test_an_unfinished_cell_goes_with_its_record(tmp_path: Path) -> None:
    first, second = make(tmp_path, Stored(rms=("scalar",), seeds=(1, 2)))
    (tmp_path / "ppo" / f"{second.stem}-{'0' * 12}" / store.MARKER).unlink()
    gone = {one.path for one in find_unused(tmp_path)}
    assert second in gone
    assert first not in gone
    # without its record a folder may be anything
    assert tmp_path / "ppo" / f"{second.stem}-{'0' * 12}" not in gone
    delete(tmp_path, find_unused(tmp_path))
    assert [path.name for path in (tmp_path / "cells").iterdir()] == [first.name]


@pytest.mark.parametrize("name", ["cells/dialogsum-scalar-s1.json", "sft/dialogsum-s1-000000000000/stage.json"])
def test_nothing_is_deleted_where_a_record_is_damaged(tmp_path: Path, name: str) -> None:
    make(tmp_path, Stored(rms=("scalar",), seeds=(1,)))
    path = tmp_path / name
    path.write_text(json.dumps({"task": 3}))
    with pytest.raises(DamagedError, match="unknown"):
        bench_clean(tmp_path, yes=True)


def test_a_link_is_neither_followed_nor_deleted(tmp_path: Path) -> None:
    runs, outside = tmp_path / "runs", tmp_path / "outside"
    make(runs, Stored(rms=("scalar",), seeds=(1,)))
    (outside / "x-0").mkdir(parents=True)
    (outside / "x-0" / store.MARKER).write_text("{}")
    (runs / "linked").symlink_to(outside)
    (runs / "ppo" / "x-0").symlink_to(outside / "x-0")
    assert find_unused(runs) == []
    (runs / ".partial").mkdir(exist_ok=True)
    (runs / ".partial" / "reward-0").symlink_to(outside)
    with pytest.raises(BenchError, match="leads outside"):
        find_unused(runs)
