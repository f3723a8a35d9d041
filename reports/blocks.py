"""Responses and verdicts of cells at their last checkpoint, for the page; and histograms before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhf_bench.harness import cache, store
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import CellFiles, arms_of
from rlhf_bench.harness.results.stored import stored_rows
from rlhf_bench.harness.seeds import layers_asked, shown

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

BINS = 20
"""Of a histogram."""
Rows = Mapping[str, "Row"]
"""By example."""
Key = tuple[str, str]
"""A judge and one of its measures."""


@dataclass(frozen=True)
class Block:
    """One cell (a task, reward model and seed) at its last checkpoint, sampled; its files are read when needed.

    `rank` is the place of its seed among the arm's seeds; `baseline` names the folder of the SFT baseline's responses
    `before`, which cells may share; `verdicts` are by example and judge.  `page` heads its responses: the task, with
    the data seed where it may have drawn prompts of its own.  `examples`: rows of prompts that were read so far.
    """

    cell: CellFiles = field(repr=False)
    rank: int
    examples: dict[Path, Sequence[Row]] = field(default_factory=dict, repr=False)

    @property
    def task(self) -> str:
        return str(self.cell.record["task"])

    @property
    def arm(self) -> str:
        return str(self.cell.record["arm"])

    @property
    def seed(self) -> int | str:
        return shown(self.cell.seed)

    @property
    def baseline(self) -> str:
        return self.cell.folder("baseline").name

    @property
    def page(self) -> str:
        return self.task + (f" · data {layers_asked(self.cell.seed)['data']}" if self.cell.drawn else "")

    @cached_property
    def prompts(self) -> Rows:
        """The examples that it has a response to: `eval.prompts` may leave some out."""
        kept = cache.group("responses", self.cell.part(self.cell.folder("generations")))
        known = set(kept.get("ids", self._ids))
        path = self.cell.folder("prompts") / "examples.test.jsonl"
        if path not in self.examples:
            self.examples[path] = stored_rows(path)
        return {e["id"]: e for e in self.examples[path] if e["id"] in known}

    def _ids(self) -> list[str]:
        group = columns.read(self.cell.folder("generations") / "generations.jsonl").end("sample")
        return sorted(group.ids) if group else []

    @cached_property
    def measures(self) -> Mapping[Key, Row]:
        folders = sorted(self.cell.judged().items())
        return {(judge, m["name"]): m for judge, folder in folders for m in store.read_json(folder / "measures.json")}

    @property
    def responses(self) -> Rows:
        return self.written("generations")[0]

    @property
    def before(self) -> Rows:
        return self.written("baseline")[0]

    def written(self, role: str) -> tuple[Rows, Mapping[str, str]]:
        """The rows of sampled responses, and the texts of greedy ones, of "generations" or "baseline"."""
        sampled, greedy = columns.read(self.cell.folder(role) / "generations.jsonl").final("sample", "greedy")
        return sampled, {example: row.get("response", "") for example, row in greedy.items()}

    @property
    def verdicts(self) -> Mapping[str, Rows]:
        found: dict[str, dict[str, Row]] = {}
        for judge, folder in sorted(self.cell.judged().items()):
            for example, row in columns.read(folder / "verdicts.jsonl").final("sample")[0].items():
                found.setdefault(example, {})[judge] = row
        return found

    def judged_parts(self) -> list[list[str]]:
        """What its verdicts are, by judge."""
        return [[judge, self.cell.part(folder)] for judge, folder in sorted(self.cell.judged().items())]


def read(cells: Sequence[CellFiles]) -> list[Block]:
    """The cells' responses and verdicts at their last checkpoint, in order of arm and seed.

    Raises BenchError for a file that cannot be read, there or when it is asked for its rows.
    """
    examples: dict[Path, Sequence[Row]] = {}
    return [Block(cell, rank, examples) for arm in arms_of(cells) for rank, cell in enumerate(arm.cells)]


def distributions(blocks: Sequence[Block]) -> list[JsonObject]:
    """Histograms before and after, pooled over seeds, of every measure that has a `before`; bins shared on a task.

    {"task", "arm", "judge", "statistic", "low", "width", "before", "after"} each.  Cases of which either value is
    undecided are left out of both, so that the two count the same prompts.
    """
    pairs: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    for block in blocks:
        parts = [part for _, part in block.judged_parts()]
        kept = cache.group("distributions", *parts) if parts else cache.NONE
        for judge, name, known in kept.get([*map(list, sorted(block.measures))], partial(_before_and_after, block)):
            pairs.setdefault((block.task, block.arm, judge, name), []).extend((b, a) for b, a in known)
    # arms of a task have the same bins, so that their histograms compare
    ranges: dict[tuple[str, str, str], list[float]] = {}
    for (task, _, judge, name), found in pairs.items():
        values = [value for pair in found for value in pair]
        ranges[task, judge, name] = [*ranges.get((task, judge, name), []), *values]
    keys = ("task", "arm", "judge", "statistic")
    return [
        {**dict(zip(keys, place, strict=True)), **binned(found, ranges[place[0], place[2], place[3]])}
        for place, found in pairs.items()
        if found
    ]


def _before_and_after(block: Block) -> list[tuple[str, str, list[tuple[float, float]]]]:
    """(judge, measure, values before and after) of every measure of a cell that has both."""
    found = []
    for (judge, name), measure in sorted(block.measures.items()):
        if measure.get("before"):
            group = columns.read(block.cell.judged()[judge] / "verdicts.jsonl").end("sample")
            before, after = (group.column(n) if group else np.empty(0) for n in (measure["before"], name))
            known = ~np.isnan(before + after)
            found.append((judge, name, list(zip(before[known].tolist(), after[known].tolist(), strict=True))))
    return found


def binned(pairs: Sequence[tuple[float, float]], values: Sequence[float]) -> JsonObject:
    """Counts of both members of the pairs in BINS equal bins over the range of `values`.

    `values` must hold those of the pairs: a value below the range would be counted from the end.
    """
    low, high = min(values), max(values)
    width = (high - low) / BINS or 1.0  # all values equal: any width will do
    counts = {"before": [0] * BINS, "after": [0] * BINS}
    for pair in pairs:
        for name, value in zip(counts, pair, strict=True):
            counts[name][min(BINS - 1, int((value - low) / width))] += 1  # the largest value ends the last bin
    return {"low": low, "width": width, **counts}
