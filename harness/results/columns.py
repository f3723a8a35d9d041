"""Stored rows of responses and verdicts as columns, each file read once.

A report needs the numbers of every checkpoint, but whole rows (tokens, a judge's notes) only of the last one, to show
them: it reads these again.  As columns, numbers take a hundredth of the memory and no dictionary lookups.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness import cache
from rlhf_bench.harness.pipeline.integrity import file_hash
from rlhf_bench.harness.results.stored import rows_with, stored_rows
from rlhf_bench.harness.statistics.cells import Array

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

T = TypeVar("T")
FILES = 8192
"""The number of files whose columns are kept; a cell has about six."""
GENERATED = ("kl", "reward", "logprob", "drawn", "tokens", "finished")
"""The numbers that are kept of a generation."""
KEPT = "columns"
"""Names what is kept of a file for the next report."""
Checkpoint = tuple[str, int]
"""Decoding and iteration."""


@dataclass(frozen=True)
class Group:
    """The rows of one checkpoint as columns [P], one row per prompt, in the file's order.

    `values` are [P] by name, NaN where undecided or missing.  `texts` is empty for verdicts.
    """

    ids: tuple[str, ...]
    slices: tuple[tuple[str, ...], ...]
    sources: tuple[str, ...]
    values: Mapping[str, Array]
    reasons: Mapping[int, str]
    """The reason of each row with an undecided value, by the row's number."""
    texts: tuple[str, ...]

    def column(self, name: str) -> Array:
        """[P] the values of a name, all NaN for an unknown one."""
        found = self.values.get(name)
        return np.full(len(self.ids), np.nan) if found is None else found

    def row(self, at: int) -> Row:
        """A verdict's row as its file has it, without checkpoint, prompt and notes; an undecided value is None."""
        values = {name: None if np.isnan(own[at]) else float(own[at]) for name, own in self.values.items()}
        plain = {"example_id": self.ids[at], "slices": self.slices[at], "source": self.sources[at], "values": values}
        return {**plain, "reason": self.reasons[at]} if at in self.reasons else plain


@dataclass(frozen=True)
class Columns:
    """A file's rows by checkpoint."""

    path: Path
    groups: Mapping[Checkpoint, Group]
    whole: bool = True
    """Whether the groups hold the responses, too."""

    def last(self, decoding: str) -> int | None:
        """The last iteration with this decoding; None without one."""
        return max((i for known, i in self.groups if known == decoding), default=None)

    def end(self, decoding: str) -> Group | None:
        """The rows of the last checkpoint with this decoding as columns; None without one."""
        last = self.last(decoding)
        return None if last is None else self.groups[decoding, last]

    def final(self, *decodings: str) -> list[dict[str, Row]]:
        """The rows of the last checkpoint with each decoding, by example, read again; {} without such a checkpoint.

        Raises BenchError as `stored_rows`.
        """
        found: dict[Checkpoint, dict[str, Row]] = {(name, self.last(name) or 0): {} for name in decodings}
        for row in self._rows({iteration for _, iteration in found}):
            if (place := (row["decoding"], row["iteration"])) in found:
                found[place][row["example_id"]] = row
        return list(found.values())

    def _rows(self, iterations: Collection[int]) -> list[JsonObject]:
        """The file's rows, those of other iterations left out where that can be told before they are parsed."""
        size = {place: len(group.ids) for place, group in self.groups.items()}
        rows: list[JsonObject] = []
        for iteration in iterations:
            # as `store.write_rows` writes it
            member, own = f'"iteration":{iteration},', sum(n for (_, i), n in size.items() if i == iteration)
            part = rows_with(self.path, member, own, sum(size.values()))
            if part is None or any(row["iteration"] != iteration for row in part):
                return stored_rows(self.path)
            rows += part
        return rows


def read(path: Path, *, texts: bool = False) -> Columns:
    """The columns of generations.jsonl or verdicts.jsonl, read once; with the responses only where `texts` asks.

    A file that was replaced since is read again, and one whose columns an earlier report kept (cache.py) is not
    parsed.  Raises BenchError as `stored_rows`, and as `keep` for values of a wrong type; `found.find_cells` leaves
    such files out before.
    """
    known = _READ.get(path)
    if known and known[0] == _stamp(path) and (known[1].whole or not texts):
        return known[1]
    own = content(path)
    kept = None if texts else cache.alone(KEPT, own).known(KEPT)
    if kept is not None:
        return _held(path, unpacked(path, kept))
    return keep(path, stored_rows(path), own)


def content(path: Path) -> str:
    """Names what is in the file, by which its columns are kept; "" where nothing is kept."""
    try:
        return file_hash(path) if cache.is_used() else ""
    except OSError:
        return ""


def keep(path: Path, rows: Sequence[JsonObject], own: str = "") -> Columns:
    """Columns of the rows that were just read from `path`; `read` returns them until the file is replaced.

    `own`: the file's `content` before it was read, by which the next report finds them.  Raises TypeError, ValueError
    or AttributeError for values of a wrong type.
    """
    made = _columns(path, rows)
    if own and own == content(path):  # not where the file was replaced meanwhile
        group = cache.alone(KEPT, own)
        group.get(KEPT, partial(packed, made))
        group.write()
    return _held(path, made)


def _held(path: Path, made: Columns) -> Columns:
    if len(_READ) >= FILES:  # bounds the memory of a long process; one report stays far below
        _READ.clear()
    _READ[path] = _stamp(path), made
    return made


def _columns(path: Path, rows: Sequence[JsonObject]) -> Columns:
    grouped: dict[Checkpoint, dict[str, JsonObject]] = {}
    for row in rows:  # by example: of two rows of one example, the later one counts
        grouped.setdefault((row["decoding"], row["iteration"]), {})[row["example_id"]] = row
    groups: dict[Checkpoint, Group] = {}
    judged = bool(rows) and "values" in rows[0]  # verdicts keep their measures in an object, generations have kl beside
    for place, own in grouped.items():
        part = list(own.values())
        groups[place] = Group(
            _shared(tuple(row["example_id"] for row in part)),
            _shared(tuple(tuple(row.get("slices", ())) for row in part)),
            _shared(tuple(row.get("source", "") for row in part)),
            _values([row["values"] for row in part]) if judged else _values(part, GENERATED),
            {at: row["reason"] for at, row in enumerate(part) if "reason" in row},
            () if judged else tuple(row.get("response", "") for row in part),
        )
    return Columns(path, groups)


Stamp = tuple[int, int, int]
_READ: dict[Path, tuple[Stamp, Columns]] = {}


def _stamp(path: Path) -> Stamp:
    """A value that changes when a file is replaced: writers rename a new file into place, so its inode differs."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0  # the file is gone: reading it raises the error that names it
    return found.st_ino, found.st_mtime_ns, found.st_size


def _values(rows: Sequence[Row], names: Sequence[str] = ()) -> dict[str, Array]:
    """[P] by name: all names that any row has, or `names`.  None and missing values become NaN."""
    asked = names or tuple(dict.fromkeys(name for row in rows for name in row))
    if not asked:
        return {}
    try:
        found = list(map(itemgetter(*asked), rows))  # one call per row: much faster than one lookup per value
    except KeyError:  # rows of older files may lack a value
        found = [tuple(map(row.get, asked)) for row in rows]
    table = np.array(found, dtype=np.float64).reshape(len(rows), len(asked))
    return {name: np.ascontiguousarray(table[:, at]) for at, name in enumerate(asked)}


@lru_cache(1024)
def _shared(found: tuple[T, ...]) -> tuple[T, ...]:
    """The first of equal tuples: the files of a task repeat ids, slices and sources, and one copy is enough."""
    return found


# ---- kept for the next report ---------------------------------------------------------------------------------------


def packed(found: Columns) -> JsonObject:
    """The columns without texts as JSON: the numbers' own bytes, and every list of names once, both compressed."""
    lists: dict[str, int] = {}
    groups = []
    for place, group in found.groups.items():
        rows = (_pressed(json.dumps(part).encode()) for part in (group.ids, group.slices, group.sources))
        table = np.array([*group.values.values()], dtype="<f8")
        groups.append(
            {
                "place": place,
                "rows": [lists.setdefault(text, len(lists)) for text in rows],
                "names": list(group.values),
                "values": _pressed(table.tobytes()),
                "reasons": list(group.reasons.items()),
            }
        )
    return {"lists": list(lists), "groups": groups}


def unpacked(path: Path, kept: Row) -> Columns:
    """The columns that `packed` made of the file's, without texts."""
    lists = list(map(_tuple_of, kept["lists"]))
    groups: dict[Checkpoint, Group] = {}
    for one in kept["groups"]:
        (decoding, iteration), names = one["place"], one["names"]
        ids, slices, sources = (lists[at] for at in one["rows"])
        table = np.frombuffer(_opened(one["values"]), dtype="<f8").reshape(len(names), len(ids))
        values, reasons = dict(zip(names, table, strict=True)), dict(one["reasons"])
        groups[decoding, iteration] = Group(ids, slices, sources, values, reasons, ())
    return Columns(path, groups, whole=False)


def _pressed(data: bytes) -> str:
    return b64encode(zlib.compress(data, 1)).decode("ascii")


def _opened(text: str) -> bytes:
    return zlib.decompress(b64decode(text))


@lru_cache(1024)
def _tuple_of(text: str) -> tuple[Any, ...]:
    """The list that was pressed as `Group` holds it, with tuples for lists: files of a task repeat it."""
    return _shared(tuple(tuple(one) if isinstance(one, list) else one for one in json.loads(_opened(text))))


# ---- several seeds --------------------------------------------------------------------------------------------------


ABSENT = -1
"""The place of a prompt in a group that is of other data."""


@dataclass(frozen=True)
class Aligned:
    """One checkpoint under several seeds, restricted to the prompts that all of them have, ordered by id.

    `places` [S][P] are the row numbers of the prompts in each group, because the order of files may differ between
    seeds; `left_out` counts prompts that only some seeds have: they cannot be paired.  Where data seeds drew other
    prompts each, `blocks` [P] names the data of each column: prompts are common to the seeds of one block, and ABSENT
    elsewhere.
    """

    groups: Sequence[Group]
    ids: tuple[str, ...]
    places: Sequence[Sequence[int]]
    left_out: int
    blocks: tuple[str, ...] = ()

    def matrix(self, name: str, elsewhere: float = np.nan) -> Array:
        """Cells [S, P] of a value, seeds and prompts in the order of `groups` and `ids`.

        NaN where undecided, and `elsewhere` where the prompt is of other data (`absent`).
        """
        found = np.full((len(self.groups), len(self.ids)), elsewhere)
        for cells, group, places in zip(found, self.groups, self.places, strict=True):
            at = np.array(places, dtype=np.intp)
            cells[at != ABSENT] = group.column(name)[at[at != ABSENT]]
        return found

    @property
    def absent(self) -> int:
        """The number of cells of `matrix` that no seed could have decided, since the prompt is of other data."""
        return sum(places.count(ABSENT) for places in map(list, self.places)) if self.blocks else 0

    def sources(self) -> list[str]:
        """[P] the source of each prompt, "" for none, as in its first seed's rows; one of other data is another one."""
        if not self.blocks:
            return [self.groups[0].sources[at] for at in self.places[0]]
        found = []
        for column, block in enumerate(self.blocks):
            first = next(s for s, places in enumerate(self.places) if places[column] != ABSENT)
            source = self.groups[first].sources[self.places[first][column]]
            found.append(f"{block}/{source}" if source else "")
        return found

    def texts(self) -> Iterator[list[str]]:
        """[S][P] the responses of every seed, prompts in the order of `ids`; for groups of generations alone."""
        for group, at in zip(self.groups, self.places, strict=True):
            yield [group.texts[k] for k in at if k != ABSENT]

    def reasons(self, holes: npt.NDArray[np.bool_]) -> Iterator[str]:
        """The reason of each undecided cell, of those where `holes` [S, P] is true."""
        for seed, at in np.argwhere(holes).tolist():
            if self.places[seed][at] != ABSENT:
                yield self.groups[seed].reasons.get(self.places[seed][at], "not measured")


def align(
    groups: Sequence[Group],
    slice_name: str = "",
    further: Sequence[Mapping[str, str]] = (),
    blocks: Sequence[str] = (),
) -> Aligned:
    """The groups of several seeds on the prompts of a slice ("": all) that all seeds have.

    `further` [S] names one more slice by example: slices by length, which no row holds.  `blocks` [S] names the data of
    each seed, where prompts are common to the seeds of one data set alone.  Prompts that only some of these seeds have
    are counted in `left_out`.
    """
    named = list(blocks or [""] * len(groups))
    several = len(set(named)) > 1
    held: list[dict[str, int]] = []  # by seed: row number by example, of the examples on the slice
    for group, lengths in zip(groups, further or [{}] * len(groups), strict=True):
        own = {name: at for at, name in enumerate(group.ids)}
        if slice_name:
            own = {i: at for i, at in own.items() if slice_name in group.slices[at] or lengths.get(i) == slice_name}
        held.append(own)
    columns: list[tuple[str, str]] = []  # (data, id), by data in order of the first seed, then by id
    left_out = 0
    for block in dict.fromkeys(named):
        sets = [set(own) for own, name in zip(held, named, strict=True) if name == block]
        shared = set.intersection(*sets)
        columns += [(block, i) for i in sorted(shared)]
        left_out += len(set.union(*sets)) - len(shared)
    if not several:
        places = [[own[i] for _, i in columns] for own in held]
    else:
        places = [
            [own[i] if block == name else ABSENT for block, i in columns] for own, name in zip(held, named, strict=True)
        ]
    ids = tuple(i for _, i in columns)
    return Aligned(groups, ids, places, left_out, tuple(block for block, _ in columns) if several else ())


def checkpoints(tables: Sequence[Columns]) -> list[Checkpoint]:
    """(decoding, iteration) found in every seed's rows: sampled ones first, then by iteration.

    `tables` holds one table per seed and is not empty.
    """
    common = set.intersection(*(set(table.groups) for table in tables))
    return sorted(common, key=lambda c: (c[0] != "sample", c[1]))
