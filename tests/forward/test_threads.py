"""Two computations at once: their threads, what they inherit, and how either's end ends the other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from rlhf_bench.harness.forward.threads import CancelledError, Check, run_concurrently


@pytest.fixture(params=[2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def thread_and_share(_: Check) -> tuple[int, int]:
    return threading.get_ident(), torch.get_num_threads()


def test_each_has_its_share_of_the_threads(threads: int) -> None:
    (mine, own), (other, share) = run_concurrently(thread_and_share, thread_and_share)
    assert mine == threading.get_ident() != other
    assert (own, share) == (threads - threads // 2, threads // 2)
    assert torch.get_num_threads() == threads


def test_one_torch_thread_or_not_enabled_uses_the_calling_thread_only(threads: int) -> None:
    here = (threading.get_ident(), threads)
    assert run_concurrently(thread_and_share, thread_and_share, enabled=False) == (here, here)
    torch.set_num_threads(1)
    here = (threading.get_ident(), 1)
    assert run_concurrently(thread_and_share, thread_and_share) == (here, here)


def modes(_: Check) -> tuple[bool, bool, torch.dtype]:
    return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("cast", [True, False])
@pytest.mark.usefixtures("threads")
def test_the_worker_computes_in_the_callers_modes(gradients: bool, cast: bool) -> None:
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16, enabled=cast):
        mine, other = run_concurrently(modes, modes)
    assert mine == other
    assert mine[:2] == (gradients, cast)


class Watched:
    """A computation that never ends by itself."""

    def __init__(self) -> None:
        self.ended: type[BaseException] | None = None

    def __call__(self, check: Check) -> None:
        try:
            while True:
                check()
                time.sleep(0.001)
        except BaseException as error:
            self.ended = type(error)
            raise


def failing(error: BaseException) -> Callable[[Check], None]:
    def fail(_: Check) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [ValueError("a"), torch.OutOfMemoryError("b"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("which", ["first", "second"])
def test_an_error_of_either_stops_the_other_and_is_itself(threads: int, error: BaseException, which: str) -> None:
    watched = Watched()
    jobs = (failing(error), watched) if which == "first" else (watched, failing(error))
    with pytest.raises(type(error)) as caught:
        run_concurrently(*jobs)
    assert caught.value is error
    assert watched.ended is CancelledError
    assert torch.get_num_threads() == threads


def interrupting(watched: Watched) -> Callable[[Check], None]:
    def send(check: Check) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        watched(check)

    return send


@pytest.mark.parametrize("busy", [True, False])
def test_an_interrupt_stops_both(threads: int, busy: bool) -> None:
    """While the calling thread computes, and while it waits for the other."""
    watched = Watched()
    with pytest.raises(KeyboardInterrupt):
        run_concurrently(Watched() if busy else thread_and_share, interrupting(watched))
    assert watched.ended is CancelledError
    assert torch.get_num_threads() == threads
