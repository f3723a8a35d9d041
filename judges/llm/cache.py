"""What a judge's answers cost once and never again: raw responses in SQLite, shared by runs, processes and threads.

A stored response is parsed again by whoever reads it; one that holds no verdict is kept for looking inside and is never
a hit.  The same file keeps what a server was found to honour, and what this command has spent of its budget.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.store import canonical

VERSION = 1
VARIABLE = "RLHF_BENCH_CACHE"
TABLES = (
    "CREATE TABLE answers (key TEXT PRIMARY KEY, request TEXT, response TEXT, usable INTEGER, time REAL)",
    "CREATE TABLE servers (name TEXT PRIMARY KEY, found TEXT)",
    "CREATE TABLE spending (id INTEGER PRIMARY KEY, session TEXT, tokens REAL, cost REAL)",
    "CREATE INDEX by_session ON spending (session)",
)


def cache_path(setting: str) -> Path:
    """Where the cache lies: the setting, else the environment variable RLHF_BENCH_CACHE, else the user's cache."""
    chosen = setting or os.environ.get(VARIABLE) or "~/.cache/rlhf-bench/judge.sqlite"
    return Path(chosen).expanduser()


class Cache:
    """One SQLite file.  Every method may be called from any thread; other processes may hold the same file open."""

    def __init__(self, path: Path) -> None:
        """Open or make the file; raises BenchError when that cannot be done or it is something else."""
        self.path, self._lock = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(path, error) from None
        try:
            with self._writing() as base:
                _prepare(base, path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._base.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone in this process and among processes."""
        with self._lock:
            try:
                self._base.execute("BEGIN IMMEDIATE")
                try:
                    yield self._base
                    self._base.execute("COMMIT")
                except BaseException:
                    self._base.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise _unusable(self.path, error) from None

    def _one(self, query: str, *values: Any) -> Any:
        with self._lock:
            try:
                row = self._base.execute(query, values).fetchone()
            except sqlite3.Error as error:
                raise _unusable(self.path, error) from None
        return row[0] if row else None

    def response(self, key: str) -> str | None:
        """The raw response stored under a key, usable or not."""
        found = self._one("SELECT response FROM answers WHERE key = ?", key)
        return found if isinstance(found, str) else None

    def keep(self, key: str, request: Any, response: str, usable: bool) -> None:
        """Store a raw response; an unusable one never replaces one that was usable (another process's, say)."""
        row = (key, canonical(request), response, int(usable), time.time())
        with self._writing() as base:
            base.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET response = "
                "excluded.response, usable = excluded.usable, time = excluded.time "
                "WHERE excluded.usable >= answers.usable",
                row,
            )

    def server(self, name: str) -> dict[str, Any] | None:
        """What a probe found out about a server and model."""
        found = self._one("SELECT found FROM servers WHERE name = ?", name)
        return dict(json.loads(found)) if isinstance(found, str) else None

    def keep_server(self, name: str, found: dict[str, Any]) -> None:
        with self._writing() as base:
            base.execute("INSERT OR REPLACE INTO servers VALUES (?, ?)", (name, canonical(found)))

    def reserve(self, tokens: float, cost: float, most_tokens: float, most_cost: float) -> int | None:
        """Set a call's estimate aside, or None when this command would exceed a budget (0: none)."""
        with self._writing() as base:
            spent = base.execute(
                "SELECT TOTAL(tokens), TOTAL(cost) FROM spending WHERE session = ?", (session(),)
            ).fetchone()
            if (most_tokens and spent[0] + tokens > most_tokens) or (most_cost and spent[1] + cost > most_cost):
                return None
            row = base.execute("INSERT INTO spending VALUES (NULL, ?, ?, ?)", (session(), tokens, cost))
            return row.lastrowid

    def settle(self, reserved: int, tokens: float, cost: float) -> None:
        """Replace a call's estimate by what it took."""
        with self._writing() as base:
            base.execute("UPDATE spending SET tokens = ?, cost = ? WHERE id = ?", (tokens, cost, reserved))


def session() -> str:
    """The command this process belongs to: a worker spends from the budget of the process that started it."""
    parent = multiprocessing.parent_process()
    pid = parent.pid if parent is not None else os.getpid()
    return f"{pid}-{_started(pid)}"


def _started(pid: int | None) -> str:
    """When a process started, in the kernel's ticks: ids are used again.  "" where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _prepare(base: sqlite3.Connection, path: Path) -> None:
    (version,) = base.execute("PRAGMA user_version").fetchone()
    (tables,) = base.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    if version == 0 and tables == 0:
        for statement in TABLES:
            base.execute(statement)
        base.execute(f"PRAGMA user_version = {VERSION}")
    elif version != VERSION:
        raise BenchError(f"{path} is no judge cache of this version.", f"Give another file (cache=... or {VARIABLE}).")


def _unusable(path: Path, error: Exception) -> BenchError:
    return BenchError(f"The judge cache {path} cannot be used: {error}.", f"Give another (cache=... or {VARIABLE}).")
