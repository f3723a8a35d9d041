"""The rows of the page's section "Look inside": by prompt every policy's response, token rewards and verdicts.

Names are one letter, because thousands of rows go into one page.  Of a response: `x` its text, `n` its tokens, `c` 1 if
it was cut off, `k` its KL, `r` its reward, `e` the end of every token (`s` its start too, where tokens do not follow
one another), `t` the reward of every token, `q` the reward model's correction, `g` the policy's greedy response, `v`
the judges' values in the order of `measures`, `w` their reasons and `o` their notes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import CellFiles, arms_of
from rlhf_bench.harness.seeds import layers_asked, shown
from rlhf_bench.reports.measures import complete

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject, Row

BUDGET = 4_000_000
"""Bytes of these rows in the page; with tables and figures the page then stays below 5 MB."""
BINS = 20
"""Of a histogram."""
Rows = Mapping[str, "Row"]
"""By example."""
Key = tuple[str, str]
"""A judge and one of its measures."""


@dataclass(frozen=True)
class Block:
    """One cell (a task, reward model and seed) at its last checkpoint, sampled.

    `rank` is the place of its seed among the arm's seeds; `baseline` names the folder of the SFT baseline's responses
    `before`, which cells may share; `verdicts` are by example and judge.  `page` heads its responses: the task, with
    the data seed where it may have drawn prompts of its own.
    """

    task: str
    arm: str
    seed: int | str
    rank: int
    prompts: Rows
    responses: Rows
    verdicts: Mapping[str, Rows]
    baseline: str
    before: Rows
    measures: Mapping[Key, Row]
    page: str
    greedy: Mapping[str, str] = field(default_factory=dict)
    greedy_before: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Extent:
    """How much is shown: seeds of every arm, whether token rewards, prompts of every task (0 for all)."""

    seeds: int
    tokens: bool = True
    prompts: int = 0


def read(cells: Sequence[CellFiles]) -> list[Block]:
    """The cells' responses and verdicts at their last checkpoint, in order of arm and seed.

    Raises BenchError for a file that cannot be read.
    """
    return [read_cell(cell, rank) for arm in arms_of(cells) for rank, cell in enumerate(arm.cells)]


def read_cell(cell: CellFiles, rank: int) -> Block:
    """One cell's responses and verdicts; the files were read for the estimates, and are kept as columns."""
    written = columns.read(cell.folder("generations") / "generations.jsonl")
    written_before = columns.read(cell.folder("baseline") / "generations.jsonl")
    after = written.final("sample")
    examples = store.read_rows(cell.folder("prompts") / "examples.test.jsonl")
    verdicts: dict[str, dict[str, Row]] = {}
    measures: dict[Key, Row] = {}
    for judge, folder in sorted(cell.judged().items()):
        measures |= {(judge, m["name"]): m for m in store.read_json(folder / "measures.json")}
        for example, row in columns.read(folder / "verdicts.jsonl").final("sample").items():
            verdicts.setdefault(example, {})[judge] = row
    return Block(
        task=cell.record["task"],
        arm=cell.record["arm"],
        seed=shown(cell.seed),
        rank=rank,
        prompts={e["id"]: e for e in examples if e["id"] in after},  # `eval.prompts` may leave some out
        responses=after,
        verdicts=verdicts,
        baseline=cell.folder("baseline").name,
        before=written_before.final("sample"),
        measures=measures,
        page=cell.record["task"] + (f" · data {layers_asked(cell.seed)['data']}" if cell.drawn else ""),
        greedy=_texts(written.final("greedy")),
        greedy_before=_texts(written_before.final("greedy")),
    )


def _texts(rows: Rows) -> dict[str, str]:
    return {example: row.get("response", "") for example, row in rows.items()}


def inside(blocks: Sequence[Block], labels: Mapping[str, str], budget: int = BUDGET) -> JsonObject:
    """{"tasks": [...], "left_out": sentences}: as much as `budget` bytes hold; `labels` by arm.

    Seeds are left out first, then token rewards, then prompts: every arm stays, and can be compared.
    """
    for extent in _extents(blocks, labels, budget):
        hidden = sum(block.rank >= extent.seeds for block in blocks)
        left_out = [f"{hidden} runs of further seeds are left out to keep the page small."] if hidden else []
        if not extent.tokens:
            left_out.append("Token rewards are left out to keep the page small.")
        if extent.prompts and any(len(block.prompts) > extent.prompts for block in blocks):
            left_out.append(f"Only the first {extent.prompts} prompts of a task are shown, to keep the page small.")
        found = {"tasks": _tasks(blocks, labels, extent), "left_out": left_out}
        if size(found) <= budget:
            return found
    return {"tasks": [], "left_out": ["The responses are too long for a page; generations.jsonl has them."]}


def embedded(value: object) -> str:
    """JSON for a page.  The characters that HTML reads become JSON escapes, so that no text can end the element.

    U+2028 and U+2029 too, which JSON allows and older JavaScript takes for line ends.  Raises ValueError for NaN.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def size(value: object) -> int:
    """Bytes of a value in a page, as `embedded` and `files.write_files` write it."""
    return len(embedded(value).encode("utf-8", "backslashreplace"))


def _extents(blocks: Sequence[Block], labels: Mapping[str, str], budget: int) -> Iterator[Extent]:
    """The extents to try, the largest first."""
    seeds = max((block.rank for block in blocks), default=0) + 1
    if seeds > 1:
        # seeds are about equally large: more of them than fit by the size of the first need not be tried
        first = size(_tasks(blocks, labels, Extent(1)))
        yield from (Extent(count) for count in range(min(seeds, 2 + budget // first), 1, -1))
    yield Extent(1)
    yield Extent(1, tokens=False)
    prompts = max((len(block.prompts) for block in blocks), default=0)
    while prompts > 1:  # by halving, because each extent is built in full before its size is known
        prompts = (prompts + 1) // 2
        yield Extent(1, tokens=False, prompts=prompts)


def _tasks(blocks: Sequence[Block], labels: Mapping[str, str], extent: Extent) -> list[JsonObject]:
    kept = [block for block in blocks if block.rank < extent.seeds]
    names = sorted({block.page for block in kept})
    return [_task([block for block in kept if block.page == name], labels, extent) for name in names]


def _task(blocks: Sequence[Block], labels: Mapping[str, str], extent: Extent) -> JsonObject:
    """The rows of one task; prompts in the order of the first cell that has them."""
    # reversed, so that of several cells with a prompt the first one's row stays
    prompts = {i: example for block in reversed(blocks) for i, example in block.prompts.items()}
    order = list(dict.fromkeys(i for block in blocks for i in block.prompts))[: extent.prompts or None]
    measures = {key: measure for block in blocks for key, measure in block.measures.items()}
    # stored once: all reward models of one seed start from the same SFT policy
    baselines = {block.baseline: (block.before, block.greedy_before) for block in blocks}
    return {
        "task": blocks[0].page,
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
            for column in sorted(complete(measures), key=lambda column: column.key)
        ],
        "prompts": [
            {
                "id": prompts[i]["id"],
                "x": prompts[i]["prompt"],
                "reference": prompts[i].get("completion", ""),
                "slices": prompts[i].get("slices", []),
            }
            for i in order
        ],
        "baselines": [
            [_response(rows.get(i), {}, (), extent, greedy.get(i)) for i in order]  # verdicts are on cells' responses
            for rows, greedy in baselines.values()
        ],
        "cells": [_cell(block, labels, order, sorted(measures), list(baselines), extent) for block in blocks],
    }


def _cell(
    block: Block,
    labels: Mapping[str, str],
    order: Sequence[str],
    measures: Sequence[Key],
    baselines: Sequence[str],
    extent: Extent,
) -> JsonObject:
    rows = [
        _response(block.responses.get(i), block.verdicts.get(i, {}), measures, extent, block.greedy.get(i))
        for i in order
    ]
    return {
        "label": labels.get(block.arm, block.arm),
        "seed": block.seed,
        "baseline": baselines.index(block.baseline),
        # one scale of colours for the cell: its responses can be compared, reward models with other scales cannot
        "top": top([reward for row in rows if row for reward in row.get("t", ())]),
        "rows": rows,
    }


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
    extent: Extent,
    greedy: str | None = None,
) -> JsonObject | None:
    """A response with its verdicts, None where the cell has none for the prompt."""
    if row is None:
        return None
    found: JsonObject = {"x": row.get("response", ""), "n": row["tokens"], "c": None if row["finished"] else 1}
    # absent keys are cheaper than nulls
    found |= {"k": _short(row.get("kl")), "r": _short(row.get("reward"))}
    if extent.tokens and row.get("token_rewards"):
        # the page takes each token to begin where the last one ends, unless it is told the starts
        starts, ends = [start for start, _ in row["spans"]], [end for _, end in row["spans"]]
        found |= {"s": None if starts == [0, *ends[:-1]] else starts, "e": ends}
        found["t"] = [_short(reward) for reward in row["token_rewards"]]
    # greedy responses are left out together with the token rewards
    found |= {"q": row.get("correction"), "g": greedy if extent.tokens else None}
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


def distributions(blocks: Sequence[Block]) -> list[JsonObject]:
    """Histograms before and after, pooled over seeds, of every measure that has a `before`; bins shared on a task.

    {"task", "arm", "judge", "statistic", "low", "width", "before", "after"} each.  Cases of which either value is
    undecided are left out of both, so that the two count the same prompts.
    """
    pairs: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    for block in blocks:
        for (judge, name), measure in sorted(block.measures.items()):
            if measure.get("before"):
                rows = [verdicts[judge]["values"] for verdicts in block.verdicts.values() if judge in verdicts]
                both = [(values.get(measure["before"]), values.get(name)) for values in rows]
                known = [(float(b), float(a)) for b, a in both if b is not None and a is not None]
                pairs.setdefault((block.task, block.arm, judge, name), []).extend(known)
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
