"""Which cells of results folders can be reported, and in words what keeps the others from it.

An interrupted run, another version of this program or a disk may have left anything.  A cell that cannot be read is
left out and named; the others are reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import CellFiles

NEEDED: Mapping[str, type] = {
    "task": str, "home": str, "reward_model": str, "arm": str, "seed": int, "policy": str, "differing": dict,
    "origin": dict, "stages": dict, "judges": dict,
}  # fmt: skip
"""What a record of a cell must hold."""
ORIGIN = ("kind", "description", "sha256", "license")
ROLES = ("sft", "prompts", "pairs", "baseline", "scale", "generations")
"""What every cell has; the rest depends on its optimiser."""
STAGE = ("kind", "label", "key", "seconds", "cpu_seconds", "device", "versions", "machine", "figures")
"""What a report reads of every stage.json."""
ROWS = {
    "prompts": ("examples.test.jsonl", ("id", "prompt")),
    "baseline": ("generations.jsonl", ("example_id", "iteration", "decoding", "tokens", "finished")),
    "generations": ("generations.jsonl", ("example_id", "iteration", "decoding", "tokens", "finished")),
    "ppo": ("steps.jsonl", ("explained_variance", "clip_share", "kl")),
    "proxy": ("proxy.jsonl", ("example_id", "iteration", "figures")),
}
"""File and columns by role."""
COLUMNS = ("generations.jsonl", "verdicts.jsonl")
POOL = ("example_id", "rewards", "figures")
"""Of best-of-n alone, whose generations are its favourites."""
VERDICTS = ("example_id", "iteration", "decoding", "slices", "values")


def find_cells(paths: Sequence[Path]) -> tuple[list[CellFiles], list[str]]:
    """(finished cells, sentences about what is missing) below the given results folders or cell records.

    Raises BenchError when a path is not there.
    """
    records: dict[Path, None] = {}
    missing: list[str] = []
    for path in paths:
        if not path.exists():
            raise BenchError(f"{path} is not there.", "Give the --out folder of a bench run.")
        found = [path] if path.suffix == ".json" and path.is_file() else sorted((path / "cells").glob("*.json"))
        missing += [] if found else [f"{path} holds no cells of a bench run"]
        records.update(dict.fromkeys(p.resolve() for p in found))
    cells = []
    for record in records:
        cell, lacking = _cell(record)
        missing += lacking
        cells += [cell] if cell else []
    return cells, missing


def is_complete(folder: Path) -> bool:
    """Whether a stage's folder holds a finished result."""
    return (folder / store.MARKER).is_file()


def _cell(path: Path) -> tuple[CellFiles | None, list[str]]:
    """The cell with those of its judges that have finished, None where it cannot be reported; what is missing."""
    name = path.stem
    try:
        record = store.read_json(path)
    except BenchError as error:
        return None, [f"{name}: {error.seen}"]
    strange = _strange(record)
    if strange:
        return None, [f"{name}: its record is damaged or of another version of this program ({strange})"]
    cell = CellFiles(record, path.parent.parent, path)
    unfinished = [role for role in record["stages"] if not is_complete(cell.folder(role))]
    if unfinished:
        return None, [f"{name} is unfinished: {', '.join(unfinished)} missing"]
    broken = list(_broken(cell))
    if broken:
        return None, [f"{name}: {broken[0]}"]
    lacking = {judge: _judge(folder) for judge, folder in cell.judged().items()}
    missing = [f"{name}: the judge {judge!r} {why}" for judge, why in lacking.items() if why]
    done = {judge: place for judge, place in record["judges"].items() if not lacking[judge]}
    return CellFiles({**record, "judges": done}, cell.root, path), missing


def _strange(record: object) -> str:
    """What is wrong with a record, "" where nothing is."""
    if not isinstance(record, dict):
        return f"a {type(record).__name__}"
    for name, kind in NEEDED.items():
        if name not in record:
            return f"no {name!r}"
        if not isinstance(record[name], kind):
            return f"{name!r} is a {type(record[name]).__name__}"
    absent = [f"no {key!r} in 'origin'" for key in ORIGIN if key not in record["origin"]]
    absent += [f"no {role!r} in 'stages'" for role in ROLES if role not in record["stages"]]
    for place in (*record["stages"].values(), *record["judges"].values()):
        if not (isinstance(place, list) and len(place) == 3 and all(isinstance(part, str) for part in place)):
            absent.append("a place that is not three words")
    return absent[0] if absent else ""


def _broken(cell: CellFiles) -> Iterator[str]:
    """What of a cell's finished stages cannot be read."""
    for role in cell.record["stages"]:
        yield from _file(cell.folder(role) / store.MARKER, STAGE)
    for role, (name, needed) in ROWS.items():
        if role in cell.record["stages"]:
            yield from _rows(cell.folder(role) / name, needed)
    if cell.record["stages"]["generations"][0] == "best_of_n":
        yield from _rows(cell.folder("generations") / "pool.jsonl", POOL)
    yield from _file(cell.folder("scale") / "scale.json", ("scale", "pair_accuracy", "sft_samples", "rejected"))


def _judge(folder: Path) -> str:
    """Why a judge's verdicts cannot be reported, "" where they can."""
    if not is_complete(folder):
        return "has not finished"
    problems = [*_file(folder / store.MARKER, ("figures", "params")), *_file(folder / "measures.json", (), list)]
    return "; ".join([*problems, *_rows(folder / "verdicts.jsonl", VERDICTS)][:1])


def _file(path: Path, keys: Sequence[str], kind: type = dict) -> Iterator[str]:
    """What is wrong with a JSON file."""
    found: Any
    try:
        found = store.read_json(path)
    except BenchError as error:
        yield error.seen
        return
    absent = [repr(key) for key in keys if isinstance(found, dict) and key not in found]
    if not isinstance(found, kind):
        yield f"{path} is damaged: a {type(found).__name__}"
    elif absent:
        yield f"{path} lacks {', '.join(absent)}"


def _rows(path: Path, needed: Sequence[str]) -> Iterator[str]:
    """What is wrong with a file of rows: one that cannot be read, is empty or cut off, or lacks one of `needed`."""
    try:
        rows = store.read_rows(path)
    except BenchError as error:
        yield error.seen.removesuffix(".")
        return
    wanted = frozenset(needed)
    at = next((at for at, row in enumerate(rows) if not wanted <= row.keys()), None)
    if not rows:
        yield f"{path} is empty"
    elif at is not None:
        lacking = next(name for name in needed if name not in rows[at])
        yield f"{path} is damaged or of another version of this program (line {at + 1}: no {lacking!r})"
    elif not _ends_with_newline(path):
        yield f"{path} is damaged (line {len(rows)}: cut off)"
    else:
        yield from _kept(path, rows)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _kept(path: Path, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Keep what a report reads again as columns; say what is wrong with a value that none can be made of."""
    if path.name not in COLUMNS:
        return
    try:
        columns.keep(path, rows)
    except (TypeError, ValueError, AttributeError) as error:
        yield f"{path} is damaged or of another version of this program ({error})"
