"""What the C library does with freed memory: keep it.

glibc gives blocks of more than some megabytes back to the system when they are freed; every pass then has its
activations mapped and zeroed again, page by page
(37,000 page faults per PPO step of a 4 x 256 GPT-2, 5-10% of its time).  A second thread would get a heap of its own,
which shrinks all the same (9,000 faults a step where the critic learns beside the policy, some 100 with one heap).
"""

from __future__ import annotations

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENAS = -1, -3, -8  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX of <malloc.h>
LARGEST = 2**30  # bytes; a larger block is still mapped by itself and given back


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next allocation; whether the C library could be told (only glibc)."""
    import ctypes
    import sys

    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:  # musl has none
        return False
    wanted = ((MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, LARGEST), (ARENAS, 1))
    return all(set_option(option, value) == 1 for option, value in wanted)
