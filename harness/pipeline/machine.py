"""The machine that stages run on: how much of it they may use, and what a process needs to run fast and quietly."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_bench.harness.errors import BenchError

StageProgress = Callable[[str, str, int, int], None]
"""Called with (event, stage name, done, total).  Events: start, step (`done` of `total` steps), end."""


def no_stage_progress(event: str, name: str, done: int, total: int) -> None:
    """A StageProgress that shows nothing."""


@dataclass(frozen=True)
class Machine:
    """What executing a plan may use, and where its progress goes.  Nothing of it is part of a result's key.

    `jobs`: stages side by side, from 2 on each in a process of its own; 0: as many as there are cores for, on an
    accelerator one.  `threads`: CPU threads of each.  `device`: a torch device; "": the accelerator where there is one.
    `trackers`: names of pipeline/trackers.py, to which stages that train a policy log their scalars.
    """

    jobs: int = 1
    threads: int = 1
    device: str = "cpu"
    progress: StageProgress = no_stage_progress
    trackers: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, least in (("jobs", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise BenchError(f"{name} is {getattr(self, name)}.", "Give a number above 0.")

    def resolved(self) -> Machine:
        """The same with a number of jobs and a device.  Imports torch; raises BenchError for an unusable device."""
        from rlhf_bench.harness.models.policies import pick_device

        device = pick_device(self.device)
        # 0 on an accelerator, which makes one job: several would share its memory
        cores = usable_cores() if device == "cpu" else 0
        return replace(self, jobs=self.jobs or max(1, cores // self.threads), device=device)


def usable_cores() -> int:
    """Cores this process may use: on Linux those of its affinity mask (taskset, cpuset), elsewhere all.

    A limit of processor time, as `docker run --cpus` sets it, is not seen.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# -- this process ------------------------------------------------------------------------------------------------------

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of <malloc.h>
LARGEST_KEPT = 2**30  # bytes; a larger block is still mapped by itself and returned when it is freed


def set_thread_variables(threads: int) -> None:
    """Set the variables that libraries read when they are loaded, in this process and in those that it starts.

    `threads` is the number of CPU threads.  Values that the user has set for the other variables stay.
    """
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    set_library_variables()


def set_library_variables() -> None:
    """Set what libraries read once, when they are loaded, unless the user chose: every entry begins with this, because
    a plan loads torch long before anything is computed.

    Threads of OpenMP sleep while they wait.  Spinning ones make two runs on one machine tens of times slower: each
    holds a core while it waits for a thread that has none.  oneDNN, which multiplies in bfloat16, keeps the code that
    it made for the last sizes of matrices, by default of 1,024.  Batches without padding have other sizes at every
    step, and training a model of 135M parameters then takes a gigabyte more after 24 steps; one step needs about 40.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")


@contextmanager
def safe_children() -> Iterator[None]:
    """Within the block, and in calls of a function with it as a decorator: what this process starts finds no module in
    the current folder.

    Python looks there first for a child's modules (`python -m`, a spawned worker), and it may be someone else's folder.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = before or "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONSAFEPATH", None)
        else:
            os.environ["PYTHONSAFEPATH"] = before


def set_threads(threads: int) -> None:
    """Set this process's number of CPU threads, for torch and for the libraries it calls; keep freed memory."""
    set_thread_variables(threads)
    import torch  # after the variables, which OpenMP reads once, when torch loads it

    torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for later allocations; False where it cannot be told (only glibc can).

    By default glibc returns blocks of more than some megabytes to the system, and every pass has its activations mapped
    and zeroed again, page by page: 37,000 page faults per PPO step of a 4 x 256 GPT-2, 5-10% of its time.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # CDLL(None): what this process has loaded
    if set_option is None:  # musl has none
        return False
    # A second thread would get a heap of its own, which shrinks in spite of the thresholds: 9,000 faults a step where
    # the critic learns beside the policy, against about 100 with one heap.
    wanted = ((M_MMAP_THRESHOLD, LARGEST_KEPT), (M_TRIM_THRESHOLD, LARGEST_KEPT), (M_ARENA_MAX, 1))
    return all(set_option(option, value) == 1 for option, value in wanted)


def return_freed_memory() -> None:
    """Give what is free in the heap back to the system, where the C library can (only glibc); else do nothing.

    Within a stage it is kept for the next pass.  A worker's next stage asks for blocks of other sizes, which do not fit
    the holes of the last one: without this, workers that ran stages of 135M parameters held twice what one needs.
    """
    gc.collect()  # a model may be part of a cycle
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)


def quiet_libraries() -> None:
    """Switch off the progress bars and advice of the libraries: progress is drawn in one place."""
    # `datasets` reads this when it is imported, and not every stage imports it
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module=r"(torch|transformers|trl|accelerate|datasets)\b.*")


# -- peak memory -------------------------------------------------------------------------------------------------------

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory() -> bool:
    """Set the kernel's high-water mark of this process back to its present memory; False where that cannot be done.

    Without it a worker's second stage would be charged with the peak of its first.
    """
    try:
        RESET.write_text("5")  # proc(5), clear_refs
    except OSError:
        return False
    return True


def peak_memory() -> float | None:
    """The most memory this process held since `reset_peak_memory`, in MB of 2**20 bytes; None outside Linux.

    It counts the whole process, libraries included, and nothing on an accelerator.
    """
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return round(int(found[0]) / 1024, 1) if found else None
