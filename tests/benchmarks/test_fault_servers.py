"""The quick form of benchmarks/faults/servers.py: every kind of server that answers at once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fault_server import verdict

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "faults"))
servers = pytest.importorskip("servers", reason="benchmarks/ is not in this checkout")
answers = pytest.importorskip("server_answers")

QUICK = ("error in 200", "shape", "thoughts", "near JSON", "unclear", "parameters", "address")
CATALOGUE = servers.catalogue()
CHOSEN = [one for one in CATALOGUE if one.group in QUICK]


@pytest.mark.parametrize("behaviour", CHOSEN, ids=[f"{one.group}: {one.name}" for one in CHOSEN])
def test_what_comes_of_a_server(behaviour: object) -> None:
    _, wrong, _ = servers.alone(behaviour)
    assert not wrong


def test_a_fault_would_show() -> None:
    sound = next(one for one in CATALOGUE if one.name == "text parts")
    _, wrong, _ = servers.alone(answers.Behaviour("x", "x", answers.judged(verdict("tie")), answers.DECIDED))
    assert wrong
    assert len(CATALOGUE) >= 60
    assert sound.expected == answers.DECIDED
