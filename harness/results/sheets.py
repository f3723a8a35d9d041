"""Verdicts of several arms on the prompts and training seeds that they share, from stored rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import Arm
from rlhf_bench.harness.results.columns import Group, checkpoints
from rlhf_bench.harness.results.stored import stored_rows
from rlhf_bench.harness.seeds import Seed, layers_asked, layers_of
from rlhf_bench.harness.statistics.cells import Array
from rlhf_bench.harness.statistics.layers import Layers, outer_means

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

Key = tuple[str, str]
"""An example's id and its prompt: two data sets may give one id to different prompts."""
Rows = Mapping[Key, "Row"]
"""Rows of verdicts by example."""
NO_SEED = "no training seed in common"
NO_PROMPT = "no prompt in common"


class Judged(Mapping[Key, "Row"]):
    """The rows of one seed by example, made of columns when they are asked for.

    As dictionaries they would take most of a report's memory.  `places`: each example's row.
    """

    def __init__(self, group: Group, iteration: int, places: Mapping[Key, int]) -> None:
        self.group, self.iteration, self.places = group, iteration, places

    def __getitem__(self, example: Key) -> Row:
        return {**self.group.row(self.places[example]), "iteration": self.iteration}

    def __iter__(self) -> Iterator[Key]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def values_of(self, name: str, examples: Sequence[Key]) -> Array:
        """[P] the values of a measure, NaN where undecided and for an example that is not here."""
        at = np.array([self.places.get(example, -1) for example in examples], dtype=np.intp)
        return np.where(at < 0, np.nan, self.group.column(name)[at]) if len(self) else np.full(len(at), np.nan)


class Table(dict[Seed, Rows]):
    """Rows of verdicts by training seed, then by example.

    The cells of a measure are made once and kept, because every arm is compared with every other one.
    """

    @cached_property
    def ids(self) -> tuple[Key, ...]:
        """[P] the examples in order of id; () if seeds have different ones."""
        # without equal prompts under all seeds there is no array [S, P] to keep: `common` then intersects them
        sets = [set(rows) for rows in self.values()]
        return tuple(sorted(sets[0])) if sets and all(one == sets[0] for one in sets) else ()

    @cached_property
    def columns(self) -> dict[str, Array]:
        """The cells [S, P] that were made so far, by measure."""
        return {}

    def cells(self, name: str) -> Array:
        """Cells [S, P] of a measure, seeds and examples ascending, NaN where undecided; read-only."""
        if name not in self.columns:
            self.columns[name] = _cells([self[seed] for seed in sorted(self)], self.ids, name)
            self.columns[name].flags.writeable = False  # the same array is returned to the next caller
        return self.columns[name]

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """[P] the sources of the examples, as in the first seed's rows; "" for none."""
        return tuple(self[min(self)][i].get("source", "") for i in self.ids)


@dataclass
class Sheets:
    """Verdicts of arms, each file read once: a report compares every two arms on every measure.

    The fields are what was read so far: tables by arm, judge and decoding; prompts by file and example; the places of
    a list of examples in it, by example and prompt; a judge's settings, as canonical JSON, by arm and judge.
    """

    read: dict[tuple[str, str, str, str], Table] = field(default_factory=dict)
    prompts: dict[Path, dict[str, str]] = field(default_factory=dict)
    places: dict[tuple[Path, tuple[str, ...]], dict[Key, int]] = field(default_factory=dict)
    settings: dict[tuple[str, str, str, str], frozenset[str]] = field(default_factory=dict)

    def of(self, arm: Arm, judge: str, decoding: str = "sample") -> Table:
        """Rows at the last checkpoint with this decoding that all seeds have; empty unless all seeds were judged.

        Raises BenchError as `stored_rows`.
        """
        place = (arm.task, arm.key, judge, decoding)
        if place not in self.read:
            known = all(judge in cell.judged() for cell in arm.cells)
            self.read[place] = self._read(arm, judge, decoding) if known else Table()
        return self.read[place]

    def _read(self, arm: Arm, judge: str, decoding: str) -> Table:
        tables = [columns.read(cell.judged()[judge] / "verdicts.jsonl") for cell in arm.cells]
        last = max((i for known, i in checkpoints(tables) if known == decoding), default=None)
        if last is None:
            return Table()
        found: list[Judged] = []
        for cell, table in zip(arm.cells, tables, strict=True):
            path = cell.folder("prompts") / "examples.test.jsonl"
            if path not in self.prompts:  # cells of a task share this file
                self.prompts[path] = {row["id"]: row["prompt"] for row in stored_rows(path)}
            group = table.groups[decoding, last]
            if (path, group.ids) not in self.places:  # as files of several judges and arms have them
                texts = self.prompts[path]
                self.places[path, group.ids] = {(name, texts.get(name, "")): at for at, name in enumerate(group.ids)}
            found.append(Judged(group, last, self.places[path, group.ids]))
        return Table(zip(arm.seeds, found, strict=True))

    def unlike(self, arms: Sequence[Arm], judge: str) -> str:
        """The reason why the arms' verdicts are not comparable; "" if they are."""
        made = set().union(*(self._settings(arm, judge) for arm in arms))
        return f"the judge {judge!r} measured them with different settings" if len(made) > 1 else ""

    def _settings(self, arm: Arm, judge: str) -> frozenset[str]:
        """Those that the judge had on the arm's cells: one, unless somebody judged some of them again."""
        place = (arm.task, arm.reward_model, arm.key, judge)
        if place not in self.settings:
            folders = [cell.judged()[judge] for cell in arm.cells]
            # the settings that enter keys: a language model's retries and budgets, for example, change no verdict
            params = (store.read_json(folder / store.MARKER)["params"]["judge"] for folder in folders)
            self.settings[place] = frozenset(map(store.canonical, params))
        return self.settings[place]


@dataclass(frozen=True)
class Common:
    """Cells [S, P] of several arms (or measures) on the seeds and prompts they share; `why` says why there are none.

    `clusters` [P] are the prompts' sources; `absent` counts cells whose prompt is of another data seed's data; `ids`
    [P] are the examples.
    """

    cells: tuple[Array, ...] = ()
    clusters: tuple[str, ...] = ()
    seeds: tuple[Seed, ...] = ()
    why: str = ""
    absent: int = 0
    ids: tuple[Key, ...] = ()

    @property
    def layers(self) -> Layers | None:
        """[S] the levels of the seeds by layer; None without layers."""
        return layers_of(self.seeds)

    @property
    def outer(self) -> tuple[Array, ...]:
        """The cells as means over the runs of each level of the outermost layer, [D, P]; the cells without layers."""
        return tuple(outer_means(cells, self.layers) for cells in self.cells)

    @property
    def prompts(self) -> int:
        """The number P of prompts in common."""
        return len(self.clusters)


def common(tables: Sequence[Mapping[Seed, Rows]], names: Sequence[str], unlike: str = "") -> Common:
    """Cells of tables {seed: {example: row}} on their common seeds and examples, both ascending.

    The measure of each table is the entry of `names` in its place, `tables` is not empty.  `unlike`: a known reason not
    to compare them (`Sheets.unlike`), which becomes `why`.  Under data seeds the common examples are those of each data
    seed's own runs: a cell is NaN where its prompt is of other data.
    """
    if unlike:
        return Common(why=unlike)
    # the usual case, all arms have the same seeds and prompts: use the tables' kept cells (same values, less time)
    whole = [table for table in tables if isinstance(table, Table)]
    first_table = whole[0] if len(whole) == len(tables) and whole[0].ids else None
    if first_table and all(set(table) == set(first_table) and table.ids == first_table.ids for table in whole):
        cells = tuple(table.cells(name) for table, name in zip(whole, names, strict=True))
        return Common(cells, first_table.sources, tuple(sorted(first_table)), ids=first_table.ids)
    seeds = sorted(set.intersection(*(set(table) for table in tables)))
    if not seeds:
        return Common(why=NO_SEED)
    # a full matrix [S, P]: prompts that some arm lacks under some seed of these data are left out for all of them
    found: dict[Key, int] = {}  # the number of the data that a prompt is of
    by_data: dict[int | None, list[Seed]] = {}
    for seed in seeds:
        by_data.setdefault(layers_asked(seed).get("data"), []).append(seed)
    for number, own in enumerate(by_data.values()):
        for i in sorted(set.intersection(*(set(table[seed]) for table in tables for seed in own))):
            found.setdefault(i, number)
    ids = sorted(found, key=lambda i: (found[i], i))
    if not ids:
        return Common(seeds=tuple(seeds), why=NO_PROMPT)
    cells = tuple(_cells([table[s] for s in seeds], ids, name) for table, name in zip(tables, names, strict=True))
    first = [next(tables[0][s][i] for s in seeds if i in tables[0][s]) for i in ids]
    sources = [row.get("source", "") for row in first]
    if len(set(found.values())) > 1:  # one name under two data seeds is of two sources
        sources = [f"{found[i]}/{source}" if source else "" for i, source in zip(ids, sources, strict=True)]
    absent = sum(i not in tables[0][seed] for seed in seeds for i in ids)
    return Common(cells, tuple(sources), tuple(seeds), absent=absent, ids=tuple(ids))


def _cells(tables: Sequence[Rows], ids: Sequence[Key], name: str) -> Array:
    """[S, P] values of a measure, NaN where undecided."""
    return np.array([_values(rows, ids, name) for rows in tables], dtype=np.float64).reshape(len(tables), len(ids))


def _values(rows: Rows, ids: Sequence[Key], name: str) -> Array | list[float]:
    if isinstance(rows, Judged):
        return rows.values_of(name, ids)
    found = [rows[i]["values"].get(name) if i in rows else None for i in ids]
    return [np.nan if v is None else float(v) for v in found]
