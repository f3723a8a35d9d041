"""What several arms measured on the same prompts under the same training seeds, from stored verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_bench.harness import store
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import Arm, CellFiles
from rlhf_bench.harness.results.columns import checkpoints
from rlhf_bench.harness.statistics.cells import Array

Key = tuple[str, str]
"""An example's id and its prompt: two data sets may give one id to different prompts."""
Rows = Mapping[Key, Mapping[str, Any]]
NO_SEED = "no training seed in common"
NO_PROMPT = "no prompt in common"


class Table(dict[int, Rows]):
    """Rows by seed, then by example; numbers of a measure are taken out of them once, however many arms they are
    compared with."""

    @cached_property
    def ids(self) -> tuple[Key, ...]:
        """The examples in order of id; () where seeds have different ones."""
        sets = [set(rows) for rows in self.values()]
        return tuple(sorted(sets[0])) if sets and all(one == sets[0] for one in sets) else ()

    @cached_property
    def columns(self) -> dict[str, Array]:
        """Cells [S, P] by measure, as far as they were asked for: seeds and examples ascending."""
        return {}

    def cells(self, name: str) -> Array:
        if name not in self.columns:
            self.columns[name] = _cells([self[seed] for seed in sorted(self)], self.ids, name)
            self.columns[name].flags.writeable = False  # it is handed out again
        return self.columns[name]

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Of the examples, by the first seed's rows."""
        return tuple(self[min(self)][i].get("source", "") for i in self.ids)


@dataclass
class Sheets:
    """Verdict rows of arms, read once: by judge, decoding and seed, then by example."""

    read: dict[tuple[str, str, str, str], Table] = field(default_factory=dict)
    prompts: dict[Path, dict[str, str]] = field(default_factory=dict)
    settings: dict[Path, str] = field(default_factory=dict)

    def of(self, arm: Arm, judge: str, decoding: str = "sample") -> Table:
        """Rows at the last checkpoint of the decoding that all seeds have; {} where this judge did not see them all."""
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
        chosen = [table.rows(decoding, last) for table in tables]
        found: list[Rows] = []
        for cell, rows in zip(arm.cells, chosen, strict=True):
            prompts = self._prompts(cell)
            found.append({(row["example_id"], prompts.get(row["example_id"], "")): row for row in rows})
        return Table(zip(arm.seeds, found, strict=True))

    def _prompts(self, cell: CellFiles) -> dict[str, str]:
        path = cell.folder("prompts") / "examples.test.jsonl"
        if path not in self.prompts:
            self.prompts[path] = {row["id"]: row["prompt"] for row in store.read_rows(path)}
        return self.prompts[path]

    def unlike(self, arms: Sequence[Arm], judge: str) -> str:
        """Why the arms' verdicts are not comparable, or ""."""
        folders = [cell.judged()[judge] for arm in arms for cell in arm.cells]
        made = {self._settings(folder) for folder in folders}
        return f"the judge {judge!r} measured them with different settings" if len(made) > 1 else ""

    def _settings(self, folder: Path) -> str:
        """A judge's settings, read once: every two arms are compared."""
        if folder not in self.settings:
            self.settings[folder] = store.canonical(store.read_json(folder / store.MARKER)["params"]["judge"])
        return self.settings[folder]


@dataclass(frozen=True)
class Common:
    """Cells [S, P] of several arms (or measures) on the seeds and prompts they share; `why` where there are none."""

    cells: tuple[Array, ...] = ()
    clusters: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    why: str = ""

    @property
    def prompts(self) -> int:
        return len(self.clusters)


def common(tables: Sequence[Mapping[int, Rows]], names: Sequence[str], unlike: str = "") -> Common:
    """Cells of tables {seed: {example: row}}, each read for its name, on common seeds and examples in order of id.

    `unlike`: a reason known beforehand why they are not to be compared.
    """
    if unlike:
        return Common(why=unlike)
    whole = [table for table in tables if isinstance(table, Table)]
    first = whole[0] if len(whole) == len(tables) and whole[0].ids else None
    if first and all(set(table) == set(first) and table.ids == first.ids for table in whole):
        cells = tuple(table.cells(name) for table, name in zip(whole, names, strict=True))
        return Common(cells, first.sources, tuple(sorted(first)))
    seeds = sorted(set.intersection(*(set(table) for table in tables)))
    if not seeds:
        return Common(why=NO_SEED)
    ids = sorted(set.intersection(*(set(table[seed]) for table in tables for seed in seeds)))
    if not ids:
        return Common(seeds=tuple(seeds), why=NO_PROMPT)
    cells = tuple(_cells([table[s] for s in seeds], ids, name) for table, name in zip(tables, names, strict=True))
    clusters = tuple(tables[0][seeds[0]][i].get("source", "") for i in ids)
    return Common(cells, clusters, tuple(seeds))


def _cells(tables: Sequence[Rows], ids: Sequence[Key], name: str) -> Array:
    values = [[rows[i]["values"].get(name) for i in ids] for rows in tables]
    return np.array([[np.nan if v is None else float(v) for v in row] for row in values], dtype=np.float64)
