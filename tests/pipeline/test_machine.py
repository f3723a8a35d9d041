"""The peak of a process's memory: what was let go before the start does not count, what is held for a moment does."""

from __future__ import annotations

import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import Tiny

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


LOADED = """
import os, sys
class Seen:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("waits:", os.environ.get("OMP_WAIT_POLICY"))
sys.meta_path.insert(0, Seen())
from rlhf_bench.harness import api
from rlhf_bench.harness.errors import BenchError
try:
    api.plan("dialogsum", "scalar", policy=sys.argv[1])
except BenchError as error:
    print(error)
"""


@pytest.mark.parametrize(("chosen", "seen"), [("", "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_idle_threads_sleep_from_the_first_import_of_torch(tiny_llama: Tiny, chosen: str, seen: str) -> None:
    """OpenMP reads the variable once, when torch loads it: a plan that tries a tokenizer loads torch."""
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment = kept | ({"OMP_WAIT_POLICY": chosen} if chosen else {})
    command = [sys.executable, "-c", LOADED, str(tiny_llama.folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == f"waits: {seen}"


HELD = """
from rlhf_bench.harness.pipeline import machine
def resident():
    return next(int(line.split()[1]) for line in machine.STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
assert machine.keep_freed_memory()
blocks = [bytearray(b"a" * 100_000) for _ in range(1000)]
last = bytearray(b"a" * 100_000)  # above the others: the heap cannot end below it
del blocks
before = resident()
machine.return_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="other C libraries keep less and have no malloc_trim")
def test_freed_memory_is_kept_within_a_stage_and_returned_after_it() -> None:
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80_000, "KiB of about 98,000 that were freed and kept"
