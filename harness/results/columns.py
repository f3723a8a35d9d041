"""Stored rows of responses and verdicts as columns, each file read once: what estimates of many cells are made of.

A report needs every row of every checkpoint for its numbers, but whole rows (texts, tokens, a judge's notes) only of
the last one; as columns, the rest takes a hundredth of the memory and no dictionary lookups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.statistics.cells import Array

FILES = 8192
"""Files kept; a cell has about half a dozen."""
Row = Mapping[str, Any]
Checkpoint = tuple[str, int]
"""Decoding and iteration."""


@dataclass(frozen=True)
class Group:
    """The rows of one checkpoint, one per prompt.  values [P] by name: NaN where undecided or lacking."""

    ids: tuple[str, ...]
    slices: tuple[tuple[str, ...], ...]
    sources: tuple[str, ...]
    values: Mapping[str, Array]
    reasons: Mapping[int, str]
    """Why something is undecided, by place."""
    texts: tuple[str, ...]

    def column(self, name: str) -> Array:
        found = self.values.get(name)
        return np.full(len(self.ids), np.nan) if found is None else found


@dataclass(frozen=True)
class Columns:
    """A file's rows by checkpoint; `kept` has those of the last checkpoint of either decoding as they stand there."""

    path: Path
    groups: Mapping[Checkpoint, Group]
    kept: Mapping[Checkpoint, Sequence[Row]] = field(repr=False)

    def last(self, decoding: str) -> int | None:
        """The last iteration with this decoding."""
        return max((i for known, i in self.groups if known == decoding), default=None)

    def rows(self, decoding: str, iteration: int) -> Sequence[Row]:
        """The rows of a checkpoint, whole but for their prompts; read again where they are not kept."""
        if (decoding, iteration) in self.kept:
            return self.kept[decoding, iteration]
        return [r for r in store.read_rows(self.path) if (r["decoding"], r["iteration"]) == (decoding, iteration)]

    def final(self, decoding: str) -> dict[str, Row]:
        """The rows of the last checkpoint with this decoding, by example; {} where there is none."""
        last = self.last(decoding)
        return {} if last is None else {row["example_id"]: row for row in self.rows(decoding, last)}


def read(path: Path) -> Columns:
    """The columns of generations.jsonl or verdicts.jsonl, read once; raises BenchError as `store.read_rows`."""
    known = _READ.get(path)
    if known and known[0] == _stamp(path):
        return known[1]
    return keep(path, store.read_rows(path))


def keep(path: Path, rows: Sequence[dict[str, Any]]) -> Columns:
    """Columns of the rows that were just read from `path`; `read` answers with them until the file is replaced."""
    made = _columns(path, rows)
    if len(_READ) >= FILES:
        _READ.clear()
    _READ[path] = _stamp(path), made
    return made


Stamp = tuple[int, int, int]
_READ: dict[Path, tuple[Stamp, Columns]] = {}


def _stamp(path: Path) -> Stamp:
    """Changes whenever a file is replaced."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0  # gone: reading it says so
    return found.st_ino, found.st_mtime_ns, found.st_size


def _columns(path: Path, rows: Sequence[dict[str, Any]]) -> Columns:
    grouped: dict[Checkpoint, dict[str, dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["decoding"], row["iteration"]), {})[row["example_id"]] = row
    groups = {place: _group(list(own.values())) for place, own in grouped.items()}
    kept = {}
    for decoding in {decoding for decoding, _ in grouped}:
        last = max(i for known, i in grouped if known == decoding)
        kept[decoding, last] = [_without_prompt(row) for row in grouped[decoding, last].values()]
    return Columns(path, groups, kept)


def _without_prompt(row: dict[str, Any]) -> Row:
    row.pop("prompt", None)  # the same in every cell
    return row


def _group(rows: Sequence[Row]) -> Group:
    judged = "values" in rows[0]
    return Group(
        _shared(tuple(row["example_id"] for row in rows)),
        _shared(tuple(tuple(row.get("slices", ())) for row in rows)),
        _shared(tuple(row.get("source", "") for row in rows)),
        _values([row["values"] for row in rows]) if judged else _values(rows, ("kl", "reward")),
        {at: row["reason"] for at, row in enumerate(rows) if "reason" in row},
        () if judged else tuple(row.get("response", "") for row in rows),
    )


def _values(rows: Sequence[Row], names: Sequence[str] = ()) -> dict[str, Array]:
    """[P] by name: all that any row has, or `names`."""
    asked = names or tuple(dict.fromkeys(name for row in rows for name in row))
    if not asked:
        return {}
    try:
        found = list(map(itemgetter(*asked), rows))  # much faster than asking each row for each
    except KeyError:
        found = [tuple(map(row.get, asked)) for row in rows]
    table = np.array(found, dtype=np.float64).reshape(len(rows), len(asked))
    return {name: np.ascontiguousarray(table[:, at]) for at, name in enumerate(asked)}


@lru_cache(1024)
def _shared(found: Any) -> Any:
    """One copy of what all files of a task repeat."""
    return found


# ---- several seeds --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aligned:
    """One checkpoint under several seeds: the prompts that all of them have, ordered by id, whatever the files' order.

    `places` [S][P] says where each prompt stands in each group; `left_out` counts prompts that only some seeds have.
    """

    groups: Sequence[Group]
    ids: tuple[str, ...]
    places: Sequence[Sequence[int]]
    left_out: int

    def matrix(self, name: str) -> Array:
        """Cells [S, P]: NaN where undecided."""
        columns = [group.column(name)[list(at)] for group, at in zip(self.groups, self.places, strict=True)]
        return np.array(columns, dtype=np.float64).reshape(len(self.groups), len(self.ids))

    def sources(self) -> list[str]:
        """What each prompt shares with others, as the first seed's rows say."""
        return [self.groups[0].sources[at] for at in self.places[0]]

    def texts(self) -> Iterator[list[str]]:
        """Every seed's responses."""
        for group, at in zip(self.groups, self.places, strict=True):
            yield [group.texts[k] for k in at]

    def reasons(self, holes: Any) -> Iterator[str]:
        """Why the cells where `holes` [S, P] is true are undecided."""
        for seed, at in np.argwhere(holes).tolist():
            yield self.groups[seed].reasons.get(self.places[seed][at], "not measured")


def align(groups: Sequence[Group], slice_name: str = "", further: Mapping[str, str] | None = None) -> Aligned:
    """The groups of several seeds on the prompts of a slice ("": all); `further` names one more slice by example."""
    held = [_held(group, slice_name, further or {}) for group in groups]
    shared = set.intersection(*map(set, held))
    ids = tuple(sorted(shared))
    return Aligned(groups, ids, [[own[i] for i in ids] for own in held], len(set.union(*map(set, held))) - len(shared))


def _held(group: Group, slice_name: str, further: Mapping[str, str]) -> dict[str, int]:
    if not slice_name:
        return {name: at for at, name in enumerate(group.ids)}
    return {
        name: at
        for at, name in enumerate(group.ids)
        if slice_name in group.slices[at] or further.get(name) == slice_name
    }


def checkpoints(tables: Sequence[Columns]) -> list[Checkpoint]:
    """(decoding, iteration) found in every seed's rows, in order."""
    common = set.intersection(*(set(table.groups) for table in tables))
    return sorted(common, key=lambda c: (c[0] != "sample", c[1]))
