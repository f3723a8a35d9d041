"""The peak of a process's memory: what was let go before the start does not count, what is held for a moment does."""

from __future__ import annotations

import mmap

import pytest

from rlhf_bench.harness.pipeline import peak_memory

MB = 2**20


def test_a_passing_need_is_seen_and_an_earlier_one_is_not() -> None:
    if not peak_memory.start():
        pytest.skip("this system does not set the mark back")
    before = peak_memory.megabytes()
    assert before is not None
    with mmap.mmap(-1, 200 * MB) as held:  # not the allocator's, which may keep what is freed
        for page in range(0, len(held), 4096):
            held[page] = 1
    high = peak_memory.megabytes()
    assert high is not None
    assert high > before + 150
    peak_memory.start()
    after = peak_memory.megabytes()
    assert after is not None
    assert after < high - 100


def test_where_nothing_is_counted_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(peak_memory, "STATUS", peak_memory.Path(f"{tmp_path}/none"))
    monkeypatch.setattr(peak_memory, "RESET", peak_memory.Path(f"{tmp_path}/no/folder"))
    assert not peak_memory.start()
    assert peak_memory.megabytes() is None
