"""Executing a plan: each missing stage once, after its inputs, in this process or in several side by side."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.faults import machine_fault
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.pipeline.foreign import foreign_fault
from rlhf_bench.harness.pipeline.journal import Journal, journal
from rlhf_bench.harness.pipeline.machine import Machine, quiet_libraries, set_thread_variables, set_threads
from rlhf_bench.harness.pipeline.stage import Stage, run_stage
from rlhf_bench.harness.store import Store

if TYPE_CHECKING:
    Events = multiprocessing.Queue[tuple[str, int, int]]


AGAIN = "Finished stages are kept, and checkpoints of these: run again."


@dataclass
class Outcome:
    """Names of the stages that were made, the errors of those that failed, and those left out because of an input.

    Stages that existed before are in none of the three, nor are those that another process made meanwhile.  `damaged`
    has a sentence for each file of a stage that was there before, was needed as an input and is not what was written.
    """

    made: list[str] = field(default_factory=list)
    failed: dict[str, BenchError] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def execute(stages: Sequence[Stage], root: Store, machine: Machine) -> Outcome:
    """Run the stages that `root` lacks.  A failed stage, or a damaged input, stops only what needs it.

    Every finished stage is kept.

    `stages` are ordered, inputs first.  One job runs them in that order, several start the first that can run.  Raises
    BenchError when a worker process is killed.
    """
    # Another process may make one of them meanwhile: `run_stage` looks again, under the stage's lock.
    outcome = Outcome()
    missing = _with_sound_inputs([stage for stage in stages if not stage.done(root)], root, outcome)
    if not missing:
        return outcome
    with journal(root.root, missing, machine) as told:
        if machine.jobs > 1 and len(missing) > 1:
            return _side_by_side(missing, root, machine, outcome, told)
        return _one_by_one(missing, root, machine, outcome, told)


def _one_by_one(missing: Sequence[Stage], root: Store, machine: Machine, outcome: Outcome, told: Journal) -> Outcome:
    set_threads(machine.threads)  # imports torch, which takes seconds: not for a plan that is complete
    # keys, not names: stages that differ in a setting alone have one name
    unavailable = set[str]()
    for stage in missing:
        if any(needed.key in unavailable for needed in stage.inputs.values()):
            unavailable.add(stage.key)
            outcome.skipped.append(stage.name)
            continue
        told.start(stage)
        try:
            if run_guarded(stage, root, machine, partial(told.step, stage)):
                outcome.made.append(stage.name)
            told.end(stage)
        except BenchError as error:  # any other exception is a fault in code and ends the run
            outcome.failed[stage.name] = error
            unavailable.add(stage.key)
            told.end(stage, error.seen)
    return outcome


def _with_sound_inputs(missing: Sequence[Stage], root: Store, outcome: Outcome) -> list[Stage]:
    """The missing stages that can be made; those that need a damaged stage, or one left out, are put in `outcome`.

    All are checked before anything is computed: hours later the same would be said.
    """
    to_make = {stage.key for stage in missing}
    sound: dict[tuple[str, integrity.Hashed], bool] = {}
    able = []
    for stage in missing:
        # a judge reads texts alone; the weights beside them are as large as all else together
        hashed = integrity.no_weights if stage.kind == "verdicts" else integrity.every_file
        for needed in stage.inputs.values():
            if needed.key in to_make or (needed.key, hashed) in sound:
                continue
            problems = integrity.used(needed.folder(root), hashed)
            outcome.damaged += [one for one in problems if one not in outcome.damaged]
            sound[needed.key, hashed] = not problems
        if all(sound.get((needed.key, hashed), True) for needed in stage.inputs.values()):
            able.append(stage)
        else:
            sound[stage.key, integrity.no_weights] = sound[stage.key, integrity.every_file] = False
            outcome.skipped.append(stage.name)
    return able


def run_guarded(stage: Stage, root: Store, machine: Machine, progress: Callable[[int, int], None]) -> bool:
    """`run_stage`, with failures of the machine (disk full, out of memory), and of a model folder in the libraries that
    read it, as a BenchError.

    True when the stage was computed now, False when its result was there.  `progress` is called with (done, total).
    """
    quiet_libraries()
    try:
        return run_stage(stage, root, machine.device, progress, machine.trackers)
    except BenchError:
        raise
    except Exception as error:  # libraries have kinds of their own for a full disk and for no memory
        fault = machine_fault(error, stage.name) or foreign_fault(error, stage.name, dict(stage.params))
        if fault:
            raise fault from error
        raise


# -- side by side ------------------------------------------------------------------------------------------------------


def _side_by_side(missing: Sequence[Stage], root: Store, machine: Machine, outcome: Outcome, told: Journal) -> Outcome:
    set_thread_variables(machine.threads)  # here, because a worker loads libraries before it runs a line of ours
    position = {stage.key: number for number, stage in enumerate(missing)}
    sorter = TopologicalSorter(
        {stage.key: [needed.key for needed in stage.inputs.values() if needed.key in position] for stage in missing}
    )
    sorter.prepare()
    # `ready` holds stages that could run but have no free worker, in the order of the plan
    ready, ended = list[str](), set[str]()
    running: dict[Future[bool], Stage] = {}
    # a forked process cannot use CUDA once its parent has
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    started = (events, machine.threads)
    with ProcessPoolExecutor(min(machine.jobs, len(missing)), context, _start_worker, started) as pool:
        try:
            while True:
                ready = sorted([*ready, *sorter.get_ready()], key=position.__getitem__)
                while ready and len(running) < machine.jobs:
                    stage = missing[position[ready.pop(0)]]
                    with _main_module_hidden():  # `submit` starts the workers, one by one as they are needed
                        running[pool.submit(_work, stage, root.root, machine.device, machine.trackers)] = stage
                    told.start(stage)
                if not running:
                    break  # all is made, or what is left needs a stage that failed
                # the timeout is how often a bar moves while no stage ends
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                with suppress(queue.Empty):
                    while True:
                        key, step, total = events.get_nowait()
                        told.step(missing[position[key]], step, total)
                for future in done:
                    stage = running.pop(future)
                    ended.add(stage.key)
                    try:
                        made = _collect(future, stage, outcome)
                    except BrokenProcessPool as error:
                        raise killed([stage, *running.values()], pool) from error
                    if made:
                        sorter.done(stage.key)  # without it the stages that need this one never become ready
                    told.end(stage, "" if made else outcome.failed[stage.name].seen)
        except KeyboardInterrupt:
            # A private name: leaving the pool waits for running stages, and Python 3.14 is the first that can end them.
            for process in list(pool._processes.values()):
                process.terminate()  # folders are written aside, so no half-written one counts as complete
            raise
    outcome.skipped += [stage.name for stage in missing if stage.key not in ended]
    return outcome


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Start worker processes that do not run the caller's script.

    A spawned process imports the parent's main module, so a script without `if __name__ == "__main__":` would start
    itself again in each of its workers.  A worker needs only modules of ours and of plugins.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _collect(future: Future[bool], stage: Stage, outcome: Outcome) -> bool:
    """Record how a stage ended in `outcome`; whether its result is there.

    Raises BrokenProcessPool where a worker process was killed: no other stage of the pool can end either.
    """
    try:
        if future.result():
            outcome.made.append(stage.name)
    except BenchError as error:
        outcome.failed[stage.name] = error
        return False
    return True


def killed(running: Sequence[Stage], pool: ProcessPoolExecutor) -> BenchError:
    """The error for a worker process of `pool` that was killed while the stages `running` ran, in one of its workers.

    The kernel kills by SIGKILL what takes the last memory, which no process can catch.
    """
    names = ", ".join(sorted(stage.name for stage in running))
    processes, number = list((pool._processes or {}).values()), None
    for _ in range(40):  # 2 s: the system may still be ending it, and the pool's own thread waits for it too
        codes = [process.exitcode for process in processes]
        # the pool itself ends the other workers by SIGTERM
        number = next((-code for code in codes if code is not None and code < 0 and code != -signal.SIGTERM), None)
        if number is not None:
            break
        time.sleep(0.05)
    how = f" by {signal.Signals(number).name}" if number in set(signal.Signals) else ""
    if number is not None and number != signal.SIGKILL:
        return BenchError(f"A process was killed{how} while these ran: {names}.", AGAIN)
    return BenchError(
        f"A process was killed{how} while these ran: {names}. The machine has probably run out of memory.",
        f"Try fewer --jobs, or lower the micro_batch of what ran. {AGAIN}",
    )


# -- in a worker process -----------------------------------------------------------------------------------------------

_events: Events  # of this worker; a queue reaches a process only while it starts


def _start_worker(events: Events, threads: int) -> None:
    global _events
    _events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then ends its workers

    def exit_with_parent() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)  # from a thread: sys.exit would end that thread alone

    # A worker whose parent was killed would keep its stage locked, then wait for work for ever.
    threading.Thread(target=exit_with_parent, daemon=True).start()
    set_threads(threads)


def _work(stage: Stage, root: Path, device: str, trackers: Sequence[str]) -> bool:
    # The machine itself stays in the parent: its `progress` draws there, and may be a function that cannot be pickled.
    def progress(done: int, total: int) -> None:
        _events.put((stage.key, done, total))

    return run_guarded(stage, Store(root), Machine(device=device, trackers=trackers), progress)
