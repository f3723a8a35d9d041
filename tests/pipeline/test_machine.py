"""The peak of a process's memory: what was let go before the start does not count, what is held for a moment does."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from rlhf_bench.harness.pipeline import machine

MB = 2**20


def test_a_passing_need_is_seen_and_an_earlier_one_is_not() -> None:
    if not machine.reset_peak_memory():
        pytest.skip("this system does not set the mark back")
    before = machine.peak_memory()
    assert before is not None
    with mmap.mmap(-1, 200 * MB) as held:  # not the allocator's, which may keep what is freed
        for page in range(0, len(held), 4096):
            held[page] = 1
    high = machine.peak_memory()
    assert high is not None
    assert high > before + 150
    machine.reset_peak_memory()
    after = machine.peak_memory()
    assert after is not None
    assert after < high - 100


def test_where_nothing_is_counted_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "STATUS", tmp_path / "none")
    monkeypatch.setattr(machine, "RESET", tmp_path / "no" / "folder")
    assert not machine.reset_peak_memory()
    assert machine.peak_memory() is None
