"""The most memory this process held while something ran, as Linux counts it; elsewhere nothing is claimed.

Of the process, libraries included, not of an accelerator.  The kernel's high-water mark is set back first (proc(5),
clear_refs 5), so that a worker's second stage is not charged with its first.
"""

from __future__ import annotations

from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start() -> bool:
    """Set the mark back to what is held now; False where that cannot be done."""
    try:
        RESET.write_text("5")
    except OSError:
        return False
    return True


def megabytes() -> float | None:
    """The mark since `start`, in MB of 2**20 bytes; None where there is none."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return round(int(found[0]) / 1024, 1) if found else None
