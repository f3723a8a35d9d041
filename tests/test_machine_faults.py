"""A full disk, limits on files and memory: one line, nothing half-written, and the same command continues."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_bench.harness import replacing as writing
from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.faults import is_out_of_memory, machine_fault
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.pipeline.execute import execute
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.pipeline.stage import Stage

# -- what libraries say ------------------------------------------------------------------------------------------------


def allocate(_: Path) -> None:
    import torch

    torch.empty(2**60, dtype=torch.uint8)


def numbers(_: Path) -> None:
    import numpy as np

    np.empty(2**60, dtype=np.uint8)


def tensors(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(100_000)}, folder / "a.safetensors")


def archive(folder: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(100_000)}, folder / "a.pt")


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({f"word{i}": i for i in range(20_000)}, "word0")).save(str(folder / "t.json"))


def rows(folder: Path) -> None:
    store.write_rows(folder / "rows.jsonl", ({"a": "x" * 100} for _ in range(5_000)))


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 64 KiB, as under `ulimit -f`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", [tensors, archive, tokenizer, rows])
@pytest.mark.usefixtures("small_files")
def test_a_limit_on_files_is_told_whatever_library_writes(write: Callable[[Path], None], tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has a kind of its own
        write(tmp_path)
    found = machine_fault(caught.value, "sft a")
    assert found is not None
    assert "limit on files" in str(found) or "disk may be full" in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize("ask", [allocate, numbers])
def test_no_memory_is_told_whatever_library_asks(ask: Callable[[Path], None], tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        ask(tmp_path)
    found = machine_fault(caught.value, "ppo a")
    assert found is not None
    assert found.seen.startswith("ppo a: out of memory")
    assert "micro_batch" in found.fix
    assert "\n" not in str(found)


@pytest.mark.parametrize("ask", [allocate, numbers])
def test_what_fewer_rows_may_mend_is_told_from_other_errors(ask: Callable[[Path], None], tmp_path: Path) -> None:
    import torch

    with pytest.raises((RuntimeError, MemoryError)) as caught:
        ask(tmp_path)
    assert is_out_of_memory(caught.value), caught.value
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    others = [ValueError("out of memory"), RuntimeError("shapes do not match"), BenchError("Out of memory with 1 row.")]
    assert not any(map(is_out_of_memory, others))


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("I/O error: No space left on device (os error 28)"),
    Exception("No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0"),
]


@pytest.mark.parametrize("error", FULL, ids=range(len(FULL)))
def test_a_full_disk_is_told_also_as_a_cause(error: Exception) -> None:
    wrapped = ValueError("the checkpoint could not be written")
    wrapped.__cause__ = error
    for one in (error, wrapped):
        found = machine_fault(one, "sft a")
        assert found is not None
        assert "disk" in found.seen
        assert "run again" in found.fix


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("shapes do not match"), ValueError("NaN")])
def test_a_fault_in_code_is_none_of_the_machine(error: Exception) -> None:
    assert machine_fault(error, "sft a") is None


def test_a_process_without_memory_ends_with_one_line(tmp_path: Path) -> None:
    """An address space that the command's own imports exceed."""
    code = (
        "import resource, sys; from rlhf_bench.harness.cli import main; import rlhf_bench.harness.cli.listing as l\n"
        "def hungry(*what): return len('x' * 2**62)\n"
        "l.listing = hungry; sys.argv = ['bench', 'list', 'tasks']; main.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 2
    assert "out of memory" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.training
def test_a_limit_on_memory_is_one_line_and_the_command_continues_without_it(tmp_path: Path) -> None:
    """As under `ulimit -v`: the libraries that are imported do not fit."""
    from small import bench, command

    line = command(tmp_path / "runs", "--judge", "length", "-q", rms=("length-only",))
    room = 400 * 2**20  # bytes: Python starts in it, torch does not
    ended = subprocess.run(
        [sys.executable, "-m", "rlhf_bench.harness", *line],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (room, room)),
    )
    assert ended.returncode == 2, ended.stderr
    (said,) = ended.stderr.splitlines()
    assert "out of memory" in said
    assert "ulimit -v" in said
    again = bench(*line)
    assert again.returncode == 0, again.stderr


# -- files written aside -----------------------------------------------------------------------------------------------


def dead() -> int:
    """The id of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_files_have_the_rights_of_the_umask(tmp_path: Path) -> None:
    for mask, rights in ((0o022, 0o644), (0o007, 0o660), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            paths = [tmp_path / f"{mask}.{end}" for end in ("json", "jsonl", "txt")]
            store.write_json(paths[0], {})
            store.write_rows(paths[1], [{}])
            writing.write_text(paths[2], "x")
        finally:
            os.umask(before)
        assert {path.stat().st_mode & 0o777 for path in paths} == {rights}


def test_the_files_of_a_stage_have_the_rights_of_the_umask_whatever_wrote_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        root = store.Store(tmp_path)
        root.prepare()
        with root.writing("sft", "a", "0" * 12) as place:
            assert place is not None
            (place[0] / "policy").mkdir()
            tensors(place[0] / "policy")
            store.write_json(place[0] / store.MARKER, {})
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in tmp_path.glob("sft/**/*") if p.is_file()} == {0o640}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    store.write_rows(path, [{"a": 1}])

    def broken() -> Iterator[dict[str, int]]:
        yield {"a": 2}
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.write_rows(path, broken())
    assert store.read_rows(path) == [{"a": 1}]
    assert [one.name for one in tmp_path.iterdir()] == ["a.jsonl"]


def test_only_files_of_dead_processes_here_are_removed(tmp_path: Path) -> None:
    here = writing._here()
    gone, alive = f".a.json.{here}-{dead()}", f".b.json.{here}-{os.getpid()}"
    elsewhere = f".c.json.{'0' * 8}-{dead()}"
    others = [alive, elsewhere, ".hidden", "a.json", f"d.json.{here}-{dead()}", f".e.{here}-99999999999"]
    for name in (gone, *others):
        (tmp_path / name).write_text("x")
    (tmp_path / f".folder.{here}-{dead()}").mkdir()
    writing.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == sorted(others)
    assert len(list(tmp_path.iterdir())) == len(others) + 1
    writing.sweep(tmp_path / "no such folder")


def test_the_next_command_removes_what_killed_ones_left(tmp_path: Path) -> None:
    from stored import Stored, make

    from rlhf_bench.harness import api

    make(tmp_path / "runs", Stored(rms=("scalar",), seeds=(1,)))
    left = [tmp_path / folder / f".x.json.{writing._here()}-{dead()}" for folder in ("runs/cells", "r", "r/tables")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    api.report(tmp_path / "runs", tmp_path / "r")
    store.Store(tmp_path / "runs").prepare()
    assert not any(path.exists() for path in left)


def test_numbers_that_are_none_are_damage(tmp_path: Path) -> None:
    for name, text in (("a.json", '{"gold": NaN}'), ("b.jsonl", '{"gold": Infinity}\n')):
        (tmp_path / name).write_text(text)
        with pytest.raises(BenchError, match="is damaged"):
            (store.read_json if name == "a.json" else store.read_rows)(tmp_path / name)


def test_the_judges_cache_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_bench.judges.llm import cache

    monkeypatch.setenv("HOME", str(tmp_path))
    path = cache.cache_path("")
    cache.Cache(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)  # of an earlier version
    cache.Cache(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    shared = tmp_path / "shared.sqlite"
    cache.Cache(shared).close()
    shared.chmod(0o660)  # people may share a cache
    cache.Cache(shared).close()
    assert shared.stat().st_mode & 0o777 == 0o660


# -- every write fails once --------------------------------------------------------------------------------------------


def chain(context: Context) -> dict[str, Any]:
    """A stage that writes rows, JSON and a checkpoint."""
    before = [store.read_json(path / "sum.json")["sum"] for path in context.inputs.values()]
    store.write_json(context.scratch / "checkpoint.json", {"done": 1})
    store.write_rows(context.work / "rows.jsonl", [{"value": i} for i in range(20)])
    store.write_json(context.work / "sum.json", {"sum": sum(before) + 190})
    return {"sum": sum(before)}


def plan() -> list[Stage]:
    first = Stage("made", "a", "test_machine_faults:chain", {"of": "a"}, {})
    return [first, Stage("made", "b", "test_machine_faults:chain", {"of": "b"}, {"a": first})]


def content(root: Path) -> dict[str, Any]:
    found = {str(p.relative_to(root)): p.read_text() for p in root.glob("made/**/*") if p.is_file()}
    timed = ("seconds", "cpu_seconds", "peak_memory_mb", "record_sha256")  # the last is of the others
    return {
        name: {k: v for k, v in json.loads(text).items() if k not in timed} if name.endswith("stage.json") else text
        for name, text in found.items()
    }


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_after_any_failed_write_the_same_plan_finishes_as_an_undisturbed_one(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> str:
        root = store.Store(tmp_path / name)
        root.prepare()
        failed = execute(plan(), root, Machine()).failed
        assert all("\n" not in str(error) for error in failed.values())
        return " ".join(map(str, failed.values()))

    assert run("undisturbed") == ""
    wanted = content(tmp_path / "undisturbed")
    replace, count = Path.replace, 0
    for nth in range(100):
        count = 0

        def failing(self: Path, target: Any, nth: int = nth) -> Path:
            nonlocal count
            count += 1
            if count == nth + 2:  # the first is the probe of `prepare`
                raise OSError(number, os.strerror(number))
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", failing)
        said = run(f"n{nth}")
        monkeypatch.setattr(Path, "replace", replace)
        if not said:
            break
        assert "made " in said
        assert not list((tmp_path / f"n{nth}").rglob(".*.json*.*"))
        assert run(f"n{nth}") == ""
        assert content(tmp_path / f"n{nth}") == wanted
    assert nth == 10  # four files and a folder for each of two stages
