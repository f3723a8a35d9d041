"""Running a plan: stages whose inputs are there, here or in processes side by side, each of them once."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.pipeline.allocator import keep_freed_memory
from rlhf_bench.harness.pipeline.stage import Stage, run_stage
from rlhf_bench.harness.store import Store

Watch = Callable[[str, str, int, int], None]
"""Called with (event, stage name, done, total); events: start, step, end."""


@dataclass
class Outcome:
    """What a run made, and what failed: stage name -> error."""

    made: list[str] = field(default_factory=list)
    failed: dict[str, BenchError] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def execute(
    stages: Sequence[Stage],
    root: Store,
    *,
    jobs: int,
    threads: int,
    device: str,
    watch: Watch,
    trackers: Sequence[str] = (),
) -> Outcome:
    """Run `stages` (inputs first).  A failed stage stops only what needs it; everything made is kept."""
    missing = [stage for stage in stages if not stage.done(root)]
    if not missing:
        return Outcome()
    if jobs == 1 or len(missing) == 1:
        set_threads(threads)
        return _one_by_one(missing, root, device, watch, trackers)
    return _side_by_side(missing, root, jobs, threads, device, watch, trackers)


def set_threads(threads: int) -> None:
    """The number of threads of this process, and what its memory is for: it keeps what it frees.

    Idle threads sleep: spinning ones slow a busy machine down many times.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()


def _one_by_one(missing: Sequence[Stage], root: Store, device: str, watch: Watch, trackers: Sequence[str]) -> Outcome:
    outcome = Outcome()
    for stage in missing:
        if _blocked(stage, outcome):
            continue
        watch("start", stage.name, 0, 0)
        try:
            progress = partial(watch, "step", stage.name)
            if guarded(stage, root, device, progress, trackers):
                outcome.made.append(stage.name)
        except BenchError as error:
            outcome.failed[stage.name] = error
        watch("end", stage.name, 0, 0)
    return outcome


def _blocked(stage: Stage, outcome: Outcome) -> bool:
    """Note a stage that needs something which failed."""
    if any(needed.name in outcome.failed or needed.name in outcome.skipped for needed in stage.inputs.values()):
        outcome.skipped.append(stage.name)
        return True
    return False


def guarded(
    stage: Stage, root: Store, device: str, progress: Callable[[int, int], None], trackers: Sequence[str] = ()
) -> bool:
    """`run_stage` with the machine's own failures (disk full, out of memory) as one clear line."""
    quiet_libraries()
    try:
        return run_stage(stage, root, device, progress, trackers)
    except OSError as error:
        raise BenchError(
            f"{stage.name}: {one_line(error)}.", "What was computed is kept; mend it and run again."
        ) from error
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        raise BenchError(f"{stage.name}: out of memory.", "Lower ppo.micro_batch, sft.batch or eval.batch.") from error


def quiet_libraries() -> None:
    """Keep libraries' own bars and advice off the terminal: progress is drawn in one place."""
    import warnings

    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module=r"(torch|transformers|trl|accelerate|datasets)\b.*")


# -- side by side -------------------------------------------------------------------------------------------------

_events: Any = None


def _begin(events: Any, threads: int) -> None:
    global _events  # the one thing a worker process holds
    _events = events
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    set_threads(threads)


def _leave_with_parent() -> None:
    """End this worker when the parent is gone (killed): it would hold its stage's lock, then wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(stage: Stage, root: Path, device: str, trackers: Sequence[str]) -> bool:
    def progress(done: int, total: int) -> None:
        _events.put(("step", stage.name, done, total))

    return guarded(stage, Store(root), device, progress, trackers)


def _side_by_side(
    missing: Sequence[Stage],
    root: Store,
    jobs: int,
    threads: int,
    device: str,
    watch: Watch,
    trackers: Sequence[str],
) -> Outcome:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)  # read when a worker loads its libraries
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    outcome, waiting = Outcome(), list(missing)
    running: dict[Future[bool], Stage] = {}
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    with ProcessPoolExecutor(min(jobs, len(missing)), context, _begin, (events, threads)) as pool:
        try:
            while waiting or running:
                waiting = [stage for stage in waiting if not _blocked(stage, outcome)]
                for stage in [s for s in waiting if _ready(s, root)][: jobs - len(running)]:
                    waiting.remove(stage)
                    running[pool.submit(_work, stage, root.root, device, trackers)] = stage
                    watch("start", stage.name, 0, 0)
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                _drain(events, watch)
                for future in done:
                    _collect(future, running.pop(future), outcome, watch)
        except KeyboardInterrupt:
            for process in list(pool._processes.values()):
                process.terminate()  # folders are written aside: nothing half-done is ever taken for done
            raise
    return outcome


def _ready(stage: Stage, root: Store) -> bool:
    return all(needed.done(root) for needed in stage.inputs.values())


def _drain(events: Any, watch: Watch) -> None:
    import queue

    with suppress(queue.Empty):
        while True:
            watch(*events.get_nowait())


def _collect(future: Future[bool], stage: Stage, outcome: Outcome, watch: Watch) -> None:
    from concurrent.futures.process import BrokenProcessPool

    try:
        if future.result():
            outcome.made.append(stage.name)
    except BenchError as error:
        outcome.failed[stage.name] = error
    except BrokenProcessPool as error:
        fix = "It may have run out of memory; try fewer --jobs."
        raise BenchError(f"The process of {stage.name} was killed.", fix) from error
    watch("end", stage.name, 0, 0)
