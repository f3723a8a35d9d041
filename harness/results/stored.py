"""Reads rows that a run stored, in half the time of `store.read_rows`: most of a report's time is reading.

Not in store.py, whose code is part of every stage's key.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pydantic_core

from rlhf_bench.harness import store
from rlhf_bench.harness.text.types import JsonObject


def stored_rows(path: Path) -> list[JsonObject]:
    """The rows that `store.write_rows` wrote.  Raises BenchError as `store.read_rows`.

    What pydantic's parser refuses (lone surrogates, deep nesting, damage) is read again by `store.read_rows`, which
    takes the first two and says what the third is.
    """
    found = _parsed(path)
    return store.read_rows(path) if found is None else found


def rows_with(path: Path, member: str, rows: int, of: int) -> list[JsonObject] | None:
    """The rows with this member, such as `"iteration":8`, of a file of `of` rows, of which so many have it.

    Only their lines are parsed.  None where the file does not have these numbers of lines, or cannot be read: then only
    `stored_rows` tells which rows there are.
    """
    try:
        # in a text the quotes of such a member would be escaped
        lines = path.read_bytes().split(b"\n")
        own = [line for line in lines if member.encode() in line]
        if lines.pop() or len(lines) != of or len(own) != rows:
            return None
        found = pydantic_core.from_json(b"[" + b",\n".join(own) + b"]", allow_inf_nan=False)
    except (OSError, ValueError):
        return None
    return found if len(found) == rows and set(map(type, found)) <= {dict} else None


def _parsed(path: Path) -> list[JsonObject] | None:
    """The rows of a sound file that pydantic's parser takes, else None."""
    # Without the garbage collector, which would look at all rows again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        data = path.read_bytes()
        # The newlines stay: no string can begin in one line and end in the next (store.py).
        found = pydantic_core.from_json(
            b"[" + data.removesuffix(b"\n").replace(b"\n", b",\n") + b"]", allow_inf_nan=False
        )
    except (OSError, ValueError):
        return None
    finally:
        if collecting:
            gc.enable()
    # A damaged line may be completed by the next one: the members are then fewer than the lines.
    sound = data.endswith(b"\n") and len(found) == data.count(b"\n") and set(map(type, found)) <= {dict}
    return found if sound else None
