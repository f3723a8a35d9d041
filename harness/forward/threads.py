"""Two computations at once in two Python threads, each with its share of the CPU threads.

Small operations gain little from a second core: they end before it has woken up.  Computations that do not depend on
each other do gain: torch lets go of Python's lock inside its operations, and a backward pass on a CPU runs in the
thread that calls it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")

Check = Callable[[], None]
"""What a long computation calls now and then: it raises when there is no use in going on."""


class CancelledError(Exception):
    """The other computation has ended with an error, and that one is to be shown."""


def run_concurrently(first: Callable[[Check], A], second: Callable[[Check], B], *, enabled: bool = True) -> tuple[A, B]:
    """What two computations give: in turn, or `at_once` where torch has two threads or more.

    `first` runs in the calling thread.  Neither may change what the other reads.  The number of threads alone decides
    who gets how many, never the clock, so the same call gives the same bits.  An error of either stops the other at its
    next check and is raised as itself; so is an interrupt, which Python gives to the main thread.
    """
    import torch

    threads = torch.get_num_threads()
    if not enabled or threads < 2:
        return first(_go_on), second(_go_on)
    over, found, errors = threading.Event(), list[B](), list[BaseException]()
    check = partial(_check, over)
    job = partial(_guarded, partial(second, check), found, errors, over, threads // 2, _modes())
    worker = threading.Thread(target=job, daemon=True)
    try:
        worker.start()
        torch.set_num_threads(threads - threads // 2)  # OpenMP and MKL keep a number for each thread
        mine = first(check)
        worker.join()
    except CancelledError:
        pass
    finally:
        over.set()
        worker.join()
        torch.set_num_threads(threads)
    if errors:
        raise errors[0]
    return mine, found[0]


def _guarded(
    job: Callable[[], B],
    found: list[B],
    errors: list[BaseException],
    over: threading.Event,
    threads: int,
    modes: tuple[bool, bool, Any],
) -> None:
    """The worker thread: it starts with torch's defaults, so it is told what the calling thread was."""
    import torch

    gradients, cast, dtype = modes
    torch.set_num_threads(threads)
    try:
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", dtype, enabled=cast):
            found.append(job())
    except BaseException as error:  # whatever it is: it is raised again in the calling thread
        errors.append(error)
        over.set()


def _modes() -> tuple[bool, bool, Any]:
    """What torch keeps for each thread by itself: gradients wanted, autocast on, its type."""
    import torch

    return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")


def _check(over: threading.Event) -> None:
    if over.is_set():
        raise CancelledError


def _go_on() -> None:
    """The check of a computation that is by itself."""
