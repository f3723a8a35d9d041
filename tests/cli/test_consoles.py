"""Consoles: texts of others are no control codes."""

from __future__ import annotations

import pytest

from rlhf_bench.harness.cli.consoles import consoles


def test_no_text_is_a_control_code(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of stages, arms and files may come from someone else's folder."""
    for console in consoles(False):
        console.print("a\x1b[31mb\u202e\nc", markup=False)
    for said in capsys.readouterr():
        assert said == "a\\x1b[31mb\\u202e\nc\n"
