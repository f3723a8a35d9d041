"""The rows of the page's section "Look inside": by prompt every policy's response, token rewards and verdicts.

Names are one letter, because thousands of rows go into one page.  Of a response: `x` its text, `n` its tokens, `c` 1 if
it was cut off, `k` its KL, `r` its reward, `e` the end of every token (`s` its start too, where tokens do not follow
one another), `t` the reward of every token, `q` the reward model's correction, `g` the policy's greedy response, `v`
the judges' values in the order of `measures`, `w` their reasons and `o` their notes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness import cache
from rlhf_bench.reports.blocks import Block, Key, Rows
from rlhf_bench.reports.measures import complete

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

BUDGET = 1_900_000
"""Bytes of these rows in the page; with tables and figures the page of 40 cells then stays below 3 MB."""
FOLDER = "details"
"""Beside the page: what does not fit into it, a file for each cell and baseline."""
NAME = re.compile(r"[0-9a-f]{24}")
"""The name of such a file, without .js: the beginning of the SHA-256 of its rows, so that no others pass for them."""
BESIDE = (
    f"Token rewards, and responses of further seeds, are in the folder {FOLDER} beside this page, which reads them "
    "when a run is chosen. Keep the two together."
)


class Inside(NamedTuple):
    """The rows of a page: {"tasks", "left_out": sentences} in it, and the files beside it, by path."""

    data: JsonObject
    files: Mapping[str, str] = {}


def inside(blocks: Sequence[Block], labels: Mapping[str, str], budget: int = BUDGET) -> Inside:
    """All rows in the page where `budget` bytes hold them, else in files beside it; `labels` by arm.

    In the second case the page alone shows the first seed of every arm without token rewards, if these fit, else the
    prompts.
    """
    tasks = [_Task([block for block in blocks if block.page == name]) for name in sorted({b.page for b in blocks})]
    # their texts alone may be more than the page can hold, which needs no attempt
    fits = sum(len(task.rows(block)) for task in tasks for block in task.blocks) <= budget
    whole = _within([task.embedded(labels) for task in tasks], budget) if fits else None
    if whole is not None:
        return Inside({"tasks": whole, "left_out": []})
    files: dict[str, str] = {}
    for first in (True, False):
        part = _within([task.beside(labels, files, first=first) for task in tasks], budget if first else None)
        if part is not None:
            return Inside({"tasks": part, "left_out": [BESIDE]}, files)
    raise AssertionError("without a budget everything fits")


def _within(tasks: Sequence[Iterator[tuple[str, JsonObject]]], budget: int | None) -> list[JsonObject] | None:
    """The tasks made of their parts; None as soon as they take more bytes than `budget` (None: any number)."""
    made, total = [], size({"tasks": [], "left_out": [BESIDE]})
    for parts in tasks:
        total += size({"baselines": [], "cells": []}) + 1
        task: JsonObject = {"baselines": [], "cells": []}
        for kind, part in parts:
            if kind == "head":
                task = {**part, **task}
            else:
                task[kind].append(part)
            if budget is not None and (total := total + size(part) + 1) > budget:
                return None
        made.append(task)
    return made


@dataclass(frozen=True)
class _Task:
    """The cells of one task; prompts are in the order of the first cell that has them."""

    blocks: Sequence[Block]

    @cached_property
    def order(self) -> list[str]:
        return list(dict.fromkeys(i for block in self.blocks for i in block.prompts))

    @cached_property
    def measures(self) -> dict[Key, Row]:
        return {key: measure for block in self.blocks for key, measure in block.measures.items()}

    @cached_property
    def baselines(self) -> dict[str, Block]:
        """The first cell of each baseline: all reward models of one seed start from the same SFT policy."""
        found: dict[str, Block] = {}
        for block in self.blocks:
            found.setdefault(block.baseline, block)
        return found

    def head(self) -> JsonObject:
        # reversed, so that of several cells with a prompt the first one's row stays
        prompts = {i: example for block in reversed(self.blocks) for i, example in block.prompts.items()}
        return {
            "task": self.blocks[0].page,
            "measures": [
                {
                    "judge": column.judge,
                    "name": column.statistic,
                    "kind": column.kind,
                    "description": column.description,
                    "title": column.title,
                    "reference": column.reference,
                    "format": column.format,
                    "better": column.better,
                }
                for column in sorted(complete(self.measures), key=lambda column: column.key)
            ],
            "prompts": [
                {
                    "id": prompts[i]["id"],
                    "x": prompts[i]["prompt"],
                    "reference": prompts[i].get("completion", ""),
                    "slices": prompts[i].get("slices", []),
                }
                for i in self.order
            ],
        }

    def embedded(self, labels: Mapping[str, str]) -> Iterator[tuple[str, JsonObject]]:
        """The parts of the task with everything in the page, as `_within` joins them."""
        yield "head", self.head()
        for block in self.baselines.values():
            yield "baselines", json.loads(self.before(block))
        for block in self.blocks:
            yield "cells", {**self.of(block, labels), **json.loads(self.rows(block))}

    def beside(
        self, labels: Mapping[str, str], files: dict[str, str], *, first: bool
    ) -> Iterator[tuple[str, JsonObject]]:
        """The parts with rows in `files`, to which they are added; `first`: those of first seeds in the page, too."""
        yield "head", self.head()
        starts = {block.baseline for block in self.blocks if block.rank == 0}
        for name, block in self.baselines.items():
            text = self.before(block)
            rows = json.loads(text) if first and name in starts else {}
            yield "baselines", rows or {"file": _filed(text, files)}
        for block in self.blocks:
            text = self.rows(block)
            light = _light(json.loads(text)) if first and block.rank == 0 else {}
            yield "cells", {**self.of(block, labels), **light, "file": _filed(text, files)}

    def of(self, block: Block, labels: Mapping[str, str]) -> JsonObject:
        at = list(self.baselines).index(block.baseline)
        return {"label": labels.get(block.arm, block.arm), "seed": block.seed, "baseline": at}

    def rows(self, block: Block) -> str:
        """JSON of a cell's {"top", "rows"}, kept for the next report (cache.py)."""
        stages, judges = block.cell.stage_parts(), block.judged_parts()
        known = all(stages) and all(part for _, part in judges)
        kept = cache.group("rows", stages, judges, self.order, sorted(self.measures)) if known else cache.NONE
        return kept.get("cell", lambda: self._rows(block))

    def _rows(self, block: Block) -> str:
        (responses, greedy), verdicts, measures = block.written("generations"), block.verdicts, sorted(self.measures)
        rows = [_response(responses.get(i), verdicts.get(i, {}), measures, greedy.get(i)) for i in self.order]
        # one scale of colours for the cell: its responses can be compared, reward models with other scales cannot
        return written({"top": top([reward for row in rows if row for reward in row.get("t", ())]), "rows": rows})

    def before(self, block: Block) -> str:
        """JSON of the {"rows"} of a cell's baseline; verdicts are on cells' responses."""
        kept = cache.group("rows before", block.cell.part(block.cell.folder("baseline")), self.order)
        return kept.get("baseline", lambda: self._before(block))

    def _before(self, block: Block) -> str:
        before, greedy = block.written("baseline")
        return written({"rows": [_response(before.get(i), {}, (), greedy.get(i)) for i in self.order]})


LONG = frozenset("setg")
"""Of a response what is in the files alone: token rewards, and the greedy response."""


def _light(cell: JsonObject) -> JsonObject:
    """The {"top", "rows"} of a cell without what is LONG."""
    rows = [row and {name: one for name, one in row.items() if name not in LONG} for row in cell["rows"]]
    return {"top": 0.0, "rows": rows}


def _filed(text: str, files: dict[str, str]) -> str:
    """The name of the file with these rows, which is added to `files`.

    It is a script, because a page from disk may read nothing else.  It hands the rows to the page's `details` as a
    text, which that reads as JSON: in a script a key of a model's text, such as __proto__, would mean something.
    """
    name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    literal = text.replace("\\", "\\\\").replace("'", "\\'")
    files[f"{FOLDER}/{name}.js"] = f"\"use strict\";\ndetails('{name}', '{literal}');\n"
    return name


def embedded(value: object) -> str:
    """JSON for a page.  The characters that HTML reads become JSON escapes, so that no text can end the element.

    U+2028 and U+2029 too, which JSON allows and older JavaScript takes for line ends.  Raises ValueError for NaN.
    """
    text = written(value)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def written(value: object) -> str:
    """JSON without spaces; raises ValueError for NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def size(value: object) -> int:
    """Bytes of a value in a page, as `embedded` and `files.write_files` write it."""
    return len(embedded(value).encode("utf-8", "backslashreplace"))


def top(rewards: Sequence[float]) -> float:
    """The size that gets the strongest colour, 0 for no rewards.

    Nine in ten rewards other than 0 are at most as large: a single extreme reward must not leave all others pale.
    """
    sizes = sorted(abs(reward) for reward in rewards if reward)
    return sizes[min(len(sizes) - 1, len(sizes) * 9 // 10)] if sizes else 0.0


def _response(
    row: Row | None,
    verdicts: Rows,
    measures: Sequence[Key],
    greedy: str | None = None,
) -> JsonObject | None:
    """A response with its verdicts, None where the cell has none for the prompt."""
    if row is None:
        return None
    found: JsonObject = {"x": row.get("response", ""), "n": row["tokens"], "c": None if row["finished"] else 1}
    # absent keys are cheaper than nulls
    found |= {"k": _short(row.get("kl")), "r": _short(row.get("reward"))}
    if row.get("token_rewards"):
        # the page takes each token to begin where the last one ends, unless it is told the starts
        starts, ends = [start for start, _ in row["spans"]], [end for _, end in row["spans"]]
        found |= {"s": None if starts == [0, *ends[:-1]] else starts, "e": ends}
        found["t"] = [_short(reward) for reward in row["token_rewards"]]
    found |= {"q": row.get("correction"), "g": greedy}
    found["v"] = [_short(verdicts.get(judge, {}).get("values", {}).get(name)) for judge, name in measures]
    found["w"] = {judge: verdict["reason"] for judge, verdict in verdicts.items() if verdict.get("reason")}
    found["o"] = {judge: verdict["notes"] for judge, verdict in verdicts.items() if verdict.get("notes")}
    return {key: value for key, value in found.items() if value not in (None, [], {})}


def _short(number: float | None) -> float | int | None:
    """Four significant digits; whole numbers without a point."""
    if number is None:
        return None
    short = float(f"{number:.4g}")
    return int(short) if short == int(short) else short
