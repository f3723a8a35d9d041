"""What the C library does with freed memory: keep it.

glibc gives blocks of more than some megabytes back to the system when they are freed; every pass then has its
activations mapped and zeroed again, page by page
(37,000 page faults per PPO step of a 4 x 256 GPT-2, 5-10% of its time).
"""

from __future__ import annotations

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
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
    return all(set_option(option, LARGEST) == 1 for option in (MMAP_THRESHOLD, TRIM_THRESHOLD))
