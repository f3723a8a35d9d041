"""Progress of stages: bars and a total on a terminal, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from rich.console import Console
from watched import driver, ppo_stage, row, write_steps

from rlhf_bench.harness.cli import progress as cli_progress
from rlhf_bench.harness.cli.progress import watching

EVENTS = (("start", "sft x", 0, 0), ("step", "sft x", 1, 2), ("start", "prompts [y]", 0, 0),
          ("end", "sft x", 0, 0), ("end", "prompts [y]", 0, 0))  # fmt: skip


def console_of(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=100, highlight=False), text


def shown(root: Path, quiet: bool = False, terminal: bool = False) -> str:
    console, text = console_of(terminal)
    with watching(console, quiet, root) as progress:
        for event in EVENTS:
            progress(*event)
    return text.getvalue()


def test_a_pipe_gets_a_line_for_each_start_and_end(tmp_path: Path) -> None:
    lines = shown(tmp_path).splitlines()
    assert lines[:2] == ["sft x ...", "prompts [y] ..."]
    assert [line.rsplit(" ", 2)[0] for line in lines[2:]] == ["sft x", "prompts [y]"]
    assert all(line.endswith(" s") for line in lines[2:])


def test_a_stage_that_has_ended_is_a_full_line_on_a_terminal(tmp_path: Path) -> None:
    text = shown(tmp_path, terminal=True)
    assert "sft x 2/2 0 s" in text  # a stage that ends early is done all the same
    assert "prompts [y] 1/1 0 s" in text  # a name is no markup
    assert "━" not in text[text.index("prompts [y] 1/1") :]  # and no bar of it is left


def test_quiet_shows_nothing(tmp_path: Path) -> None:
    assert shown(tmp_path, quiet=True) == shown(tmp_path, quiet=True, terminal=True) == ""


def watch_one(root: Path, monkeypatch: pytest.MonkeyPatch, until: str, terminal: bool, weak: bool = False) -> str:
    """What is shown of one PPO stage of 40 iterations, 14 of which are written, until a text has come."""
    monkeypatch.setattr(cli_progress, "EVERY", 0.02)
    monkeypatch.setattr(cli_progress, "MINUTE", 0.05)
    console, text = console_of(terminal)
    running, waiting = ppo_stage("a"), ppo_stage("b")
    with driver(root, [running, waiting]) as told, watching(console, False, root) as progress:
        told._progress = progress
        told.start(running)
        told.step(running, 14, 40)
        write_steps(root, running, [row(k, explained_variance=0.01 if weak else 0.5) for k in range(1, 15)])
        deadline = time.monotonic() + 20
        while until not in text.getvalue():
            assert time.monotonic() < deadline, text.getvalue()
            time.sleep(0.01)
        told.end(running)
    return text.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_the_total_and_the_figures_of_a_running_policy_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    text = watch_one(tmp_path, monkeypatch, "entropy 1.5", terminal)
    assert "reward 1.40, KL 0.70, length 12.00" in text
    assert "iteration 14" in text
    # the stage that runs has a speed of its own; that which waits cannot be estimated, so it is at least so long
    assert ("0/2" if terminal else "all: 0 of 2 stages, ") in text
    assert " left" in text
    assert "alarm" not in text
    # an old total does not stay on the screen below the stages that have ended
    assert "all stages" not in text.rpartition("40/40")[2].rpartition("\x1b[2K")[2]


@pytest.mark.parametrize("terminal", [False, True])
def test_an_alarm_is_a_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    text = watch_one(tmp_path, monkeypatch, "entropy 1.5", terminal, weak=True)
    assert text.count("alarm: ppo a, iteration 14: the critic explains 0.01") == 1


def test_a_log_has_a_total_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the process looks at what it has written."""
    text = watch_one(tmp_path, monkeypatch, "all: ", False)
    monkeypatch.setattr(cli_progress, "MINUTE", 60.0)
    assert text.count("all: ") >= 1
    lines = cli_progress.ProgressLines(console_of(False)[0])
    said: list[str] = []
    monkeypatch.setattr(lines, "_line", said.append)
    with driver(tmp_path / "other", [ppo_stage("a")]):
        found = cli_progress.Watcher(tmp_path / "other").own()
        assert found
        for _ in range(3):
            lines.update(*found)
        assert said == []  # the first minute
        lines._last -= 61
        for _ in range(3):
            lines.update(*found)
        assert said == ["all: 0 of 1 stages, time left unknown"]


def test_a_folder_that_cannot_be_read_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_progress, "EVERY", 0.01)
    console, text = console_of(False)
    (tmp_path / ".partial").write_text("no folder")
    with watching(console, False, tmp_path) as progress:
        progress("start", "sft x", 0, 0)
        time.sleep(0.1)
        progress("end", "sft x", 0, 0)
    assert text.getvalue().startswith("sft x ...\nsft x ")
