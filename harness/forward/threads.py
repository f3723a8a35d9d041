"""Two computations at once in two Python threads, each with its share of torch's CPU threads.

Small operations gain little from a second core: they end before the second thread has woken up.  Two computations that
do not depend on each other do gain: torch releases Python's lock inside its operations, and a backward pass on a CPU
runs in the thread that calls it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

Check = Callable[[], None]
"""A long computation calls it from time to time.  It raises CancelledError when the other computation has failed."""


class CancelledError(Exception):
    """Ends a computation whose result is no longer needed.

    `run_concurrently` raises it from a `Check` and catches it: its callers see the error of the other computation.
    """


def run_concurrently(first: Callable[[Check], A], second: Callable[[Check], B], *, enabled: bool = True) -> tuple[A, B]:
    """The results of two computations: at once where torch has two threads or more, one after the other otherwise and
    where not `enabled`.

    `first` runs in the calling thread.  Neither may change what the other reads.  The shares depend on the number of
    threads alone, never on time, so the same call gives the same bits.  An error of either cancels the other at its
    next check and is raised; so is an interrupt, which Python delivers to the main thread.
    """
    import torch

    threads = torch.get_num_threads()
    if not enabled or threads < 2:
        return first(lambda: None), second(lambda: None)
    cancelled, results, errors = threading.Event(), list[B](), list[BaseException]()
    # torch keeps these modes for each thread, and a new thread starts with the defaults
    gradients, autocast, dtype = (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
    )

    def check() -> None:
        if cancelled.is_set():
            raise CancelledError

    def work() -> None:
        torch.set_num_threads(threads // 2)  # OpenMP and MKL keep this number for each thread, too
        try:
            with torch.set_grad_enabled(gradients), torch.autocast("cpu", dtype, enabled=autocast):
                results.append(second(check))
        except BaseException as error:  # raised again in the calling thread, SystemExit included
            errors.append(error)
            cancelled.set()

    worker = threading.Thread(target=work, daemon=True)
    try:
        worker.start()
        torch.set_num_threads(threads - threads // 2)
        own = first(check)
        worker.join()
    except CancelledError:
        pass  # the worker's error is the one to show
    finally:
        # also after an error of `first`: the worker reads the models and must have ended before the caller goes on
        cancelled.set()
        worker.join()
        torch.set_num_threads(threads)
    if errors:
        raise errors[0]
    return own, results[0]
