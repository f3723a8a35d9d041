"""Executing a plan: order, what a failure stops, one process or several, and scripts that call it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.pipeline.execute import execute
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.store import Store


def note(context: Context) -> Mapping[str, Any]:
    """A stage that takes two steps, or fails."""
    if number := context.params.get("signal"):
        os.kill(os.getpid(), number)
    if context.params.get("fails"):
        raise BenchError("No luck.", "Try again.")
    for done in (1, 2):
        context.progress(done, 2)
    (context.work / "text").write_text("made")
    return {"inputs": sorted(context.inputs)}


def stage(label: str, *inputs: Stage, **params: Any) -> Stage:
    return Stage("note", label, "test_execute:note", {"of": label, **params}, {one.label: one for one in inputs})


def diamond(**fails: bool) -> list[Stage]:
    """A plan whose order tells depth first from breadth first: a; b of a; c of a and b; d; e of d."""
    a = stage("a", fails=fails.get("a", False))
    b = stage("b", a, fails=fails.get("b", False))
    c, d = stage("c", a, b), stage("d", fails=fails.get("d", False))
    return [a, b, c, d, stage("e", d)]


def prepared(folder: Path) -> Store:
    root = Store(folder)
    root.prepare()
    return root


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_stage_is_made_once_after_its_inputs(tmp_path: Path, jobs: int) -> None:
    events: list[tuple[str, str, int, int]] = []
    root = prepared(tmp_path)
    machine = Machine(jobs, progress=lambda *event: events.append(event))
    outcome = execute(diamond(), root, machine)
    assert sorted(outcome.made) == [f"note {label}" for label in "abcde"]
    assert (outcome.failed, outcome.skipped) == ({}, [])
    started = [name for event, name, *_ in events if event == "start"]
    ended = [name for event, name, *_ in events if event == "end"]
    assert sorted(started) == sorted(ended) == sorted(outcome.made)
    assert [event for event in events if event[:2] == ("end", "note a")] == [("end", "note a", 0, 0)]
    assert events.index(("end", "note a", 0, 0)) < events.index(("start", "note b", 0, 0))
    assert events.index(("end", "note b", 0, 0)) < events.index(("start", "note c", 0, 0))
    if jobs == 1:
        assert started == outcome.made == [f"note {label}" for label in "abcde"]
        assert [event[2:] for event in events if event[:2] == ("step", "note a")] == [(1, 2), (2, 2)]
    else:
        assert started[:2] == ["note a", "note d"]  # the first two that need nothing
    assert execute(diamond(), root, machine).made == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failure_stops_only_what_needs_it(tmp_path: Path, jobs: int) -> None:
    outcome = execute(diamond(b=True), prepared(tmp_path), Machine(jobs))
    assert sorted(outcome.made) == ["note a", "note d", "note e"]
    assert {name: error.seen for name, error in outcome.failed.items()} == {"note b": "No luck."}
    assert outcome.skipped == ["note c"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_stopped_goes_by_keys_not_by_names(tmp_path: Path, jobs: int) -> None:
    """Two stages that differ in a setting alone have one name."""
    bad, good = stage("x", fails=True), stage("x")
    needs_bad, needs_good = stage("of bad", bad), stage("of good", good)
    outcome = execute([bad, needs_bad, good, needs_good], prepared(tmp_path), Machine(jobs))
    assert "note of good" in outcome.made
    assert outcome.skipped == ["note of bad"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_worker_that_is_killed_is_one_line_and_memory_its_likely_cause(tmp_path: Path, number: int) -> None:
    """By SIGKILL, which the kernel sends where memory has run out; no other signal says so."""
    root = prepared(tmp_path)
    with pytest.raises(BenchError) as caught:
        execute([stage("made"), stage("killed", stage("made"), signal=number)], root, Machine(2))
    assert "note killed" in caught.value.seen
    assert signal.Signals(number).name in caught.value.seen
    assert ("out of memory" in caught.value.seen) == (number == signal.SIGKILL)
    assert ("--jobs" in caught.value.fix) == (number == signal.SIGKILL)
    assert "\n" not in str(caught.value)
    assert stage("made").done(root)


def test_what_is_there_is_an_input_like_any_other(tmp_path: Path) -> None:
    root = prepared(tmp_path)
    plan = diamond()
    execute(plan[:2], root, Machine())
    outcome = execute(plan, root, Machine(2))
    assert sorted(outcome.made) == ["note c", "note d", "note e"]


def test_a_script_without_a_guard_may_start_workers(tmp_path: Path) -> None:
    """A spawned process runs its parent's main module, unless that is hidden from it."""
    own = tmp_path / "script.py"
    own.write_text(
        textwrap.dedent(f"""
            import sys
            print("script runs", flush=True)
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from pathlib import Path
            from test_execute import diamond, prepared
            from rlhf_bench.harness.pipeline.execute import execute
            from rlhf_bench.harness.pipeline.machine import Machine
            main = sys.modules["__main__"]
            print(len(execute(diamond(), prepared(Path({str(tmp_path)!r})), Machine(2)).made))
            assert sys.modules["__main__"] is main
        """)
    )
    done = subprocess.run([sys.executable, str(own)], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["script runs", "5"]
