"""The judge's cache: raw responses in SQLite, shared by runs, processes and threads, so that none is paid for twice.

A stored response is parsed again when it is read; one that holds no verdict is kept for inspection and is never a hit.
The same file keeps what a server was found to honour, and what each command has spent of its budget.
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
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.store import canonical

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

VERSION = 1
VARIABLE = "RLHF_BENCH_CACHE"
DEFAULT = "~/.cache/rlhf-bench/judge.sqlite"
TABLES = (
    "CREATE TABLE answers (key TEXT PRIMARY KEY, request TEXT, response TEXT, usable INTEGER, time REAL)",
    "CREATE TABLE servers (name TEXT PRIMARY KEY, found TEXT)",
    "CREATE TABLE spending (id INTEGER PRIMARY KEY, session TEXT, tokens REAL, cost REAL)",
    "CREATE INDEX by_session ON spending (session)",
)


def cache_path(setting: str) -> Path:
    """The cache's file: the setting, else the environment variable RLHF_BENCH_CACHE, else one in the user's cache."""
    chosen = setting or os.environ.get(VARIABLE) or DEFAULT
    return Path(chosen).expanduser()


class Cache:
    """One SQLite file.  Methods may be called from any thread, and other processes may have the same file open.

    Every method raises BenchError when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file.  Raises BenchError when that fails or the file is something else."""
        self.path, self._lock = path, threading.Lock()
        try:
            _make_private(path)
            # isolation_level=None: transactions are begun and ended here, not by the sqlite3 module.
            self._connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(path, error) from None
        try:
            with self._transaction() as connection:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
                if version == 0 and tables == 0:  # a new file
                    for statement in TABLES:
                        connection.execute(statement)
                    # a PRAGMA takes no bound parameters; VERSION is a constant
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                elif version != VERSION:
                    seen = f"{path} is no judge cache of this version."
                    raise BenchError(seen, f"Give another file (cache=... or {VARIABLE}).")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction, exclusive in this process and among processes."""
        with self._lock:  # the connection is shared by threads and holds one transaction at a time
            try:
                # IMMEDIATE takes the write lock at once: two readers that both want to write would deadlock
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise _unusable(self.path, error) from None

    def _select_text(self, query: str, value: str) -> str | None:
        """The first column of a query's first row, None where there is no row."""
        with self._lock:
            try:
                row = self._connection.execute(query, (value,)).fetchone()
            except sqlite3.Error as error:
                raise _unusable(self.path, error) from None
        return row[0] if row and isinstance(row[0], str) else None

    def response(self, key: str) -> str | None:
        """The raw response stored under a key, usable or not.

        None where there is none.  The caller parses it again: the rules of parsing may have changed since it was
        stored.
        """
        return self._select_text("SELECT response FROM answers WHERE key = ?", key)

    def store_response(self, key: str, request: Row, response: str, usable: bool) -> None:
        """Store a raw response; an unusable one never replaces a usable one, which another process may have stored.

        request: kept beside it for inspection.   usable: whether a verdict was parsed from it.
        """
        row = (key, canonical(request), response, int(usable), time.time())
        with self._transaction() as connection:
            connection.execute(
                # in one statement: between a check and a write another process could store a usable one
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET response = "
                "excluded.response, usable = excluded.usable, time = excluded.time "
                "WHERE excluded.usable >= answers.usable",
                row,
            )

    def server(self, name: str) -> JsonObject | None:
        """What a probe found out about a server and model, None before the first probe."""
        found = self._select_text("SELECT found FROM servers WHERE name = ?", name)
        return dict(json.loads(found)) if found is not None else None

    def store_server(self, name: str, found: Row) -> None:
        """Store what a probe found out, in place of what an earlier one did."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO servers VALUES (?, ?)", (name, canonical(found)))

    def reserve(self, tokens: float, cost: float, max_tokens: float, max_cost: float) -> int | None:
        """Reserve a request's estimate; returns its id, or None when this command would exceed a budget (0: no budget).

        The check and the reservation are one transaction, so that processes cannot exceed the budget together.
        """
        with self._transaction() as connection:
            spent = connection.execute(
                "SELECT TOTAL(tokens), TOTAL(cost) FROM spending WHERE session = ?", (session(),)
            ).fetchone()
            # reservations of pending requests are in the sum, so it is an upper bound
            if (max_tokens and spent[0] + tokens > max_tokens) or (max_cost and spent[1] + cost > max_cost):
                return None
            row = connection.execute("INSERT INTO spending VALUES (NULL, ?, ?, ?)", (session(), tokens, cost))
            return row.lastrowid

    def settle(self, reserved: int, tokens: float, cost: float) -> None:
        """Replace a reserved estimate by what the request used.

        reserved: the id that `reserve` returned.   cost: in the currency of the prices.
        """
        with self._transaction() as connection:
            connection.execute("UPDATE spending SET tokens = ?, cost = ? WHERE id = ?", (tokens, cost, reserved))


def _make_private(path: Path) -> None:
    """Create the cache's file for this user alone, and the folder where it is missing: prompts are in it.

    The rights of a file that is there stay, because people share caches, but for the default one.  SQLite gives its
    journals the rights of the file.  Raises OSError.
    """
    if not path.parent.exists():
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        if path == Path(DEFAULT).expanduser() and path.stat().st_mode & 0o077:
            path.chmod(0o600)


def session() -> str:
    """The command that this process belongs to: worker processes spend from the budget of the process that began them.

    Its process id and start time in the kernel's ticks ("" without /proc), because process ids are used again.
    """
    # cells are judged in worker processes under --jobs
    parent = multiprocessing.parent_process()
    pid = parent.pid if parent is not None else os.getpid()
    try:
        # the process's name, in parentheses, may hold spaces: fields are counted after it
        # starttime, field 22 of proc(5): the fields after the name begin with the third
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        started = ""
    return f"{pid}-{started}"


def _unusable(path: Path, error: Exception) -> BenchError:
    return BenchError(f"The judge cache {path} cannot be used: {error}.", f"Give another (cache=... or {VARIABLE}).")
