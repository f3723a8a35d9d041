"""Progress of stages: bars on a terminal, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rlhf_bench.harness.cli.consoles import consoles, watching

EVENTS = (("start", "sft x", 0, 0), ("step", "sft x", 1, 2), ("start", "prompts [y]", 0, 0),
          ("end", "sft x", 0, 0), ("end", "prompts [y]", 0, 0))  # fmt: skip


def shown(quiet: bool = False, terminal: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100, highlight=False)
    with watching(console, quiet) as progress:
        for event in EVENTS:
            progress(*event)
    return text.getvalue()


def test_a_pipe_gets_a_line_for_each_start_and_end() -> None:
    lines = shown().splitlines()
    assert lines[:2] == ["sft x ...", "prompts [y] ..."]
    assert [line.rsplit(" ", 2)[0] for line in lines[2:]] == ["sft x", "prompts [y]"]
    assert all(line.endswith(" s") for line in lines[2:])


def test_a_terminal_gets_bars_that_end_full() -> None:
    text = shown(terminal=True)
    last = text[text.rindex("sft x") :]
    assert "2/2" in last  # a stage that ends early is done all the same
    assert "prompts [y]" in last  # a name is no markup
    assert "1/1" in last


def test_quiet_shows_nothing() -> None:
    assert shown(quiet=True) == shown(quiet=True, terminal=True) == ""


def test_no_text_is_a_control_code(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of stages, arms and files may come from someone else's folder."""
    for console in consoles(False):
        console.print("a\x1b[31mb\u202e\nc", markup=False)
    for said in capsys.readouterr():
        assert said == "a\\x1b[31mb\\u202e\nc\n"
