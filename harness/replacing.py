"""Writing a file so that a reader sees the old one or the new one, never a part.

It is written aside, under a hidden name that says who writes it, and renamed.  It gets the rights that the user's umask
gives (tempfile would make it private).  A process that is killed leaves its file; `sweep` removes it later.
"""

from __future__ import annotations

import os
import platform
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The path to write to instead of `path`, which it replaces when the block ends; removed where the block raises."""
    # by process: two that write one file do not mix
    aside = path.with_name(f".{path.name}.{_here()}-{os.getpid()}")
    try:
        yield aside
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)  # on a full disk it would take the room of what is wanted
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 with the line ends of `text`; a lone surrogate, as model output has, as its escape."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def sweep(folder: Path) -> None:
    """Remove from a folder what `replacing` left of processes that are certainly dead; never raises.

    Those of another machine or container are left: its processes cannot be seen from here.
    """
    own = re.compile(rf"\..+\.{_here()}-(\d{{1,9}})")
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        found = own.fullmatch(entry.name)
        if found and not _alive(int(found[1])) and entry.is_file(follow_symlinks=False):
            try:
                Path(entry.path).unlink()
            except OSError:
                continue  # another user's, or removed meanwhile


def _alive(process: int) -> bool:
    """Whether there is such a process; True where that cannot be told."""
    try:
        os.kill(process, 0)  # signal 0 is not sent, only checked
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@lru_cache
def _here() -> str:
    """A short name of this machine since it was started, and of this container: process ids mean something in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()  # random(4)
        space = str(Path("/proc/self/ns/pid").stat().st_ino)  # namespaces(7)
    except OSError:  # no Linux
        boot, space = platform.node(), ""
    return f"{zlib.crc32((boot + space).encode()):08x}"
