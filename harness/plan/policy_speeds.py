"""The speeds of a policy, tried on its own weights in processes of their own: what they load is gone afterwards."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from statistics import fmean

from rlhf_bench.harness.models.placement import Placement
from rlhf_bench.harness.pipeline.machine import quiet_libraries, set_threads
from rlhf_bench.harness.sampling.speeds import Speeds, speeds_of

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def measured(
    source: str, placement: Placement, device: str, threads: int, prompt: int, response: int, jobs: int = 1
) -> Speeds:
    """Speeds of the policy in the folder `source` on `threads` threads, with rows of `prompt` + `response` tokens.

    Means over `jobs` processes at once, since stages side by side share caches and memory, and often the units of one
    core.  Takes some seconds for each .1B parameters on a CPU.  Raises BenchError where it cannot be loaded.
    """
    context = multiprocessing.get_context("spawn")
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(dict.fromkeys(VARIABLES, str(threads)))  # a process reads them when it loads torch
    try:
        with context.Pool(jobs) as pool:
            tasks = [(source, placement, device, threads, prompt, response)] * jobs
            every = pool.starmap(_measure, tasks, chunksize=1)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    found = {name: fmean(one[name] for one in every) for name in every[0]}
    return Speeds(**found, basis=f"measured here, {jobs} side by side" if jobs > 1 else "measured here")


def _measure(
    source: str, placement: Placement, device: str, threads: int, prompt: int, response: int
) -> dict[str, float]:
    from rlhf_bench.harness.models import policies

    set_threads(threads)
    quiet_libraries()
    clock = time.process_time if device == "cpu" else time.perf_counter  # as `speeds.timed`
    start = clock()
    tokenizer = policies.load_tokenizer(Path(source), "auto")
    if placement.lora:
        model = policies.load_frozen(source, tokenizer, device, placement)
    else:
        model = policies.load_causal(source, tokenizer, device)
    loaded = clock() - start
    return {"load": loaded, **speeds_of(model, tokenizer, placement, prompt, response)}
