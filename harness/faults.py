"""Faults of the machine as errors of one line: no memory, a full disk, a limit on the size of files.

Libraries report them in their own ways: torch's CPU allocator and its archive writer raise RuntimeError, safetensors
and tokenizers exceptions of their own with the system's number in the text.
"""

from __future__ import annotations

import errno
import os
import re

from rlhf_bench.harness.errors import BenchError, one_line

MEMORY = re.compile(
    r"out of memory|can't allocate|cannot allocate|not enough memory|unable to allocate|bad_alloc|memory allocation of"
    r"|unable to mmap|can't start new thread|Resource temporarily unavailable",
    re.IGNORECASE,
)
ALLOCATION = re.compile(
    r"out of memory|can't allocate memory|not enough memory|bad_alloc|CUBLAS_STATUS_ALLOC_FAILED"
    r"|CUDNN_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
"""In the RuntimeErrors of torch's allocators; "DefaultCPUAllocator: can't allocate memory" on Linux."""
DISK = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of the disk is used up",
        errno.EFBIG: "a file is larger than the limit on files (ulimit -f)"}  # fmt: skip
LESS = (
    "Lower the micro_batch of what ran (sft.micro_batch, ppo.micro_batch, dpo.micro_batch, or the reward model's), "
    "eval.batch or --jobs, or raise the limit on memory (ulimit -v)."
)
AGAIN = "Finished stages are kept; run again when this is repaired."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or a CPU: the same with fewer rows may then succeed.

    torch.OutOfMemoryError, MemoryError (numpy's too), and the RuntimeError of torch's CPU allocator and of cuBLAS.  A
    BenchError is none: it is raised where nothing smaller can be tried.
    """
    if isinstance(error, MemoryError):
        return True
    # by name: torch is not imported here
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and ALLOCATION.search(str(error)) is not None


def machine_fault(error: BaseException, what: str) -> BenchError | None:
    """The error to raise for a fault of the machine during `what`; None for any other exception.

    Its causes count too: libraries wrap what the system says.
    """
    chain: dict[int, BaseException] = {}
    cause: BaseException | None = error
    while cause is not None and id(cause) not in chain:
        chain[id(cause)] = cause
        cause = cause.__cause__ or cause.__context__
    for one in chain.values():
        number = _number(one)
        if isinstance(one, MemoryError) or number == errno.ENOMEM or MEMORY.search(str(one)):
            return BenchError(f"{what}: out of memory ({one_line(one)}).", LESS)
        if number in DISK:
            return BenchError(f"{what}: {DISK[number]} ({one_line(one)}).", AGAIN)
        if "PytorchStreamWriter failed" in str(one) or "inline_container.cc" in str(
            one
        ):  # torch's archives: the system's number is lost
            return BenchError(f"{what}: a file cannot be written, the disk may be full ({one_line(one)}).", AGAIN)
    if isinstance(error, OSError):
        return BenchError(f"{what}: {one_line(error)}.", AGAIN)
    return None


def _number(error: BaseException) -> int | None:
    """The system's error number of an exception, from its text where a library written in Rust raised it."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found:
        return int(found[1])
    texts = {os.strerror(number): number for number in DISK}
    return next((number for text, number in texts.items() if text in str(error)), None)
