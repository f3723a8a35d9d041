"""Results of earlier reports, kept by what they were computed from, so that unchanged cells are not computed again.

    with cache.using(cache.user_folder()):
        rows = cache.group("pair", estimator, parts).get("winrate", lambda: compute())

The key of a group is the SHA-256 of all that its values depend on: this package's files, the versions and the machine
that compute, the parameters, and the content of the stages that they are read from.  So a value is never out of date,
and the folder can be deleted at any time.  What a value is not kept of: whatever JSON does not hold.

The folder is the user's own (`user_folder`), never one in a results folder: that may come from someone else, whose
cache could hold any numbers.  A key says what a value was computed from, not that it was computed; so nobody but the
user may have written it.  A folder of another user, or one that others may write to, is not used.  An entry that is
damaged, or of another key, is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from rlhf_bench.harness import fingerprint, store
from rlhf_bench.harness.replacing import replacing

T = TypeVar("T")
LIMIT = 1 << 30
"""Bytes that the entries may have together; above it those that were used longest ago are removed, down to half."""


def user_folder() -> Path | None:
    """The cache of the user: `rlhf-bench/reports` in $XDG_CACHE_HOME or ~/.cache; None without a home."""
    try:
        given = os.environ.get("XDG_CACHE_HOME", "")
        # a relative path is ignored, as the XDG base directory specification says
        base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "rlhf-bench" / "reports"


class Group:
    """Values that are kept in one file, by name."""

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key
        self._values: dict[str, Any] = {} if path is None else _read(path, key)
        self._kept = tuple(self._values)
        self._texts: dict[str, str] = {}  # what was made since

    def get(self, name: object, make: Callable[[], T]) -> T:
        """The value with this name (any JSON), made where it is not kept yet.

        One that was kept is as JSON holds it, with lists for tuples.  The caller must not change it.
        """
        if self._path is None:
            return make()
        place = store.canonical(name)
        if place in self._texts:  # as text alone, which takes a fraction of the memory
            return json.loads(self._texts[place])  # type: ignore[no-any-return]
        if place not in self._values:
            value = make()
            try:
                self._texts[place] = json.dumps(value, allow_nan=False, separators=(",", ":"))
            except (TypeError, ValueError):
                self._values[place] = value
            return value
        found: T = self._values[place]
        return found

    def known(self, name: object) -> Any:
        """The value with this name that an earlier report kept; None without one."""
        return self._values.get(store.canonical(name))

    def sound(self, problem: Callable[[], str]) -> str:
        """The first problem of what the group is of; "" for nothing, which alone is kept."""
        if self._path is not None and ('"sound"' in self._texts or self._values.get('"sound"') is True):
            return ""
        found = problem()
        if not found:
            self.get("sound", lambda: True)
        return found

    def write(self) -> None:
        """Keep what was made; costs the next report time, and this one nothing, where that cannot be done."""
        if self._path is None or not self._texts:
            return
        kept = {name: json.dumps(self._values[name], separators=(",", ":")) for name in self._kept}
        with contextlib.suppress(OSError):
            _write(self._path, self._key, kept | self._texts)
        self._texts = {}


NONE = Group(None, "")
"""Keeps nothing."""


class Cache:
    """The groups that a command has opened, below a folder."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self._folder, self._limit = folder, limit
        self._open: dict[str, Group] = {}

    def group(self, *depends: object) -> Group:
        """The group of values that are computed from `depends` (any JSON) alone."""
        key = store.content_key([code(), *depends])
        if key not in self._open:
            self._open[key] = self._group(key)
        return self._open[key]

    def alone(self, *depends: object) -> Group:
        """`group`, which is not held in memory, and is written by its caller alone."""
        return self._group(store.content_key([code(), *depends]))

    def _group(self, key: str) -> Group:
        return Group(self._folder / key[:2] / f"{key}.json", key)

    def write(self) -> None:
        """Keep what the groups hold, and remove the oldest ones where there is too much."""
        for group in self._open.values():
            group.write()
        with contextlib.suppress(OSError):
            _bound(self._folder, self._limit)


_active: list[Cache] = []


@contextmanager
def using(folder: Path | None, limit: int = LIMIT) -> Iterator[None]:
    """Keep values in `folder` within the block; without one, or in a folder that others could write to, nothing."""
    if folder is None or not is_own(folder):
        yield
        return
    _active.append(Cache(folder, limit))
    try:
        yield
    finally:
        _active.pop().write()


def group(*depends: object) -> Group:
    """`Cache.group` of the cache in use; `NONE` without one, and where something is of unknown content ("")."""
    return _active[-1].group(*depends) if _active and "" not in depends else NONE


def alone(*depends: object) -> Group:
    """`Cache.alone` of the cache in use, for large values that are read once; `NONE` as `group`."""
    return _active[-1].alone(*depends) if _active and "" not in depends else NONE


def is_used() -> bool:
    """Whether there is a cache in use: what only serves it can be left out otherwise."""
    return bool(_active)


@lru_cache
def code() -> str:
    """Hash of everything but the data that a number depends on: this package's files, versions, machine.

    Not the number of threads: numbers are computed on one (`results.one_thread`), whatever the process is set to.
    """
    digest = hashlib.sha256()
    paths = (path for name in fingerprint.FOLDERS for path in (fingerprint.ROOT / name).rglob("*") if path.is_file())
    for path in sorted(path for path in paths if "__pycache__" not in path.parts):
        digest.update(f"{path.relative_to(fingerprint.ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    made_by = [sys.version, platform.machine(), _processor()]
    made_by += [metadata.version(name) for name in ("numpy", "scipy", "markupsafe", "jinja2")]
    digest.update("\0".join(made_by).encode())
    return digest.hexdigest()


def _processor() -> str:
    """The processor's name: another one may round otherwise, and several machines may share a home."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line
    return platform.processor()


# ---- files ----------------------------------------------------------------------------------------------------------


def is_own(folder: Path) -> bool:
    """Whether the folder could be made or is there, is the user's, and nobody else may write to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except OSError:
        return False
    if not hasattr(os, "getuid"):  # Windows, where a home is the user's by its access list
        return True
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read(path: Path, key: str) -> dict[str, Any]:
    """The values in a file of the cache; {} for none, and for one that is damaged or of another key."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if head != _head(key, body):
            return {}
        values = json.loads(body)
        os.utime(path)  # used now
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _write(path: Path, key: str, texts: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # ASCII: a lone surrogate of model output comes back as it was
    body = "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items()) + "}"
    with replacing(path) as aside:
        aside.write_bytes(_head(key, body.encode()) + b"\n" + body.encode())


def _head(key: str, body: bytes) -> bytes:
    """The first line of a file: its key, and the SHA-256 of the rest."""
    return f"{key} {hashlib.sha256(body).hexdigest()}".encode()


def _bound(folder: Path, limit: int) -> None:
    """Remove the entries that were used longest ago where all together have more than `limit` bytes."""
    found = []
    for place in folder.glob("??"):
        with contextlib.suppress(OSError):
            found += [(entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(place)]
    total = sum(size for _, size, _ in found)
    if total <= limit:
        return
    for _, size, path in sorted(found):
        with contextlib.suppress(OSError):
            Path(path).unlink()
        total -= size
        if total <= limit // 2:
            return
