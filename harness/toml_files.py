"""TOML files that a user names: read within bounds, with the line of every key, and without names of code.

tomllib says no lines for keys.  A file may come from somebody else: a name in it that imports a module is refused
unless the user names it as well.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rlhf_bench.harness.errors import BenchError

LARGEST = 2**20
"""Bytes of a file that are read."""
TABLE = re.compile(r"\[\[?.*\]\s*(#.*)?")
CODE = re.compile(r"\A\s*[A-Za-z_][\w.]*:[\w.:]+\s*\Z")
"""A text that may be `module:attribute`."""
OPENED = ("hf", "rm", "path")
"""Before the colon of a name: what follows is a folder or a hub id, whose files are data (trust.py)."""
Keys = tuple[str, ...]


def read(path: Path, fix: str) -> tuple[str, dict[str, Any]]:
    """(text, content) of a TOML file.

    Raises BenchError, with the advice `fix`, for one that cannot be read, is too large, no UTF-8 or no TOML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.", fix) from None
    if len(raw) > LARGEST:
        raise BenchError(f"{path} has more than {LARGEST:,} bytes.", fix)
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BenchError(f"{path} is not UTF-8 (byte {error.start}).", "Save it as UTF-8.") from None
    try:
        return text, tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BenchError(f"{path} is no TOML: {error}.", fix) from None


def check_name(name: str, trusted: Collection[str], place: str, source: bool = False) -> None:
    """Raises BenchError for a name that may import a module, unless it is trusted.

    `source`: what carries the name is the setting `source` of a plugin.
    """
    plain = name.removeprefix("+")
    if plain.partition(":")[0] in OPENED:
        return
    plain = plain.partition("@")[0]  # RM@half names the recipe of a gold model
    if (CODE.match(plain) or (source and ":" in plain)) and not {name, plain} & set(trusted):
        raise BenchError(
            f"{place}: {name!r} may import code, and a file runs none.", f"If you trust it: --trust {plain}"
        )


def place(path: Path, text: str, keys: Keys) -> str:
    """File and line of a key, for an error."""
    return f"{path}, line {line_of(text, keys)}"


def line_of(text: str, keys: Keys) -> int:
    """The line (from 1) on which a key is given, or the table that has it; 1 where neither is found."""
    best = (0, 1)
    for found, line in lines_of(text):
        if found == keys[: len(found)] and len(found) > best[0]:
            best = (len(found), line)
    return best[1]


def lines_of(text: str) -> Iterator[tuple[Keys, int]]:
    """(keys, line) of every table's head and every key at the start of a line, of a file that is TOML.

    tomllib says no lines.  A line inside a text of several lines may look like a key: it is then one more candidate.
    """
    table: Keys = ()
    for number, line in enumerate(text.split("\n"), 1):
        start = line.strip()
        if TABLE.fullmatch(start):
            table = _keys(start)
            yield table, number
        elif "=" in start and not start.startswith("#"):
            at = start.find("=")
            keys = _keys(f"{start[:at]}= 0")
            if keys:
                yield (*table, *keys), number


def _keys(line: str) -> Keys:
    """The keys of a line of TOML, from the outermost; () for a line that is none by itself."""
    try:
        found: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    keys: list[str] = []
    while isinstance(found, dict | list) and found:
        if isinstance(found, list):
            found = found[0]
            continue
        key = next(iter(found))
        keys.append(key)
        found = found[key]
    return tuple(keys)
