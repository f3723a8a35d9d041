"""Finds the cells of results folders that can be reported, and says for each other cell why it cannot.

A results folder may hold anything: an interrupted run, files of another version of this program, damage by a disk.
A cell that cannot be read is left out and named; the others are reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import CellFiles

NEEDED: Mapping[str, type] = {
    "task": str, "home": str, "reward_model": str, "arm": str, "seed": int, "policy": str, "differing": dict,
    "origin": dict, "stages": dict, "judges": dict,
}  # fmt: skip
"""Keys that the record of a cell must have, with the types of their values."""
ORIGIN = ("kind", "description", "sha256", "license")
ROLES = ("sft", "prompts", "pairs", "baseline", "scale", "generations")
"""The stages that every cell has; the others depend on its optimiser."""
STAGE = ("kind", "label", "key", "seconds", "cpu_seconds", "device", "versions", "machine", "figures")
"""Keys that a report reads of every stage.json."""
ROWS = {
    "prompts": ("examples.test.jsonl", ("id", "prompt")),
    "baseline": ("generations.jsonl", ("example_id", "iteration", "decoding", "tokens", "finished")),
    "generations": ("generations.jsonl", ("example_id", "iteration", "decoding", "tokens", "finished")),
    "ppo": ("steps.jsonl", ("explained_variance", "clip_share", "kl")),
    "proxy": ("proxy.jsonl", ("example_id", "iteration", "figures")),
}
"""By role: the file of rows that a report reads, and the columns it needs."""
COLUMNS = ("generations.jsonl", "verdicts.jsonl")
"""Files that a report reads again as columns."""
POOL = ("example_id", "rewards", "figures")
"""Columns of pool.jsonl, which only cells of best-of-n have; their generations.jsonl holds the chosen responses."""
VERDICTS = ("example_id", "iteration", "decoding", "slices", "values")


def find_cells(paths: Sequence[Path]) -> tuple[list[CellFiles], list[str]]:
    """(finished cells, sentences about what is missing) below the given results folders or cell records.

    Raises BenchError when a path does not exist.
    """
    records: dict[Path, None] = {}  # a dict keeps the order; one record reached by two paths is one cell
    missing: list[str] = []
    for path in paths:
        if not store.exists(path):
            raise BenchError(f"{path} is not there.", "Give the --out folder of a bench run.")
        found = [path] if path.suffix == ".json" and path.is_file() else sorted((path / "cells").glob("*.json"))
        missing += [] if found else [f"{path} holds no cells of a bench run"]
        for record in found:
            # below its results folder, not below the given path, which may be the record or a link to the folder
            try:
                store.check_links(record, record.parent.parent)
            except BenchError as error:
                missing.append(f"{record.stem}: {error.seen}")
            else:
                records[record.resolve()] = None
    cells = []
    for record in records:
        cell, lacking = _read_cell(record)
        missing += lacking
        cells += [cell] if cell else []
    return cells, missing


def is_complete(folder: Path) -> bool:
    """Whether a stage's folder holds a finished result: the marker is written last.

    Unlike `store.Store.complete` it takes a half-written folder for unfinished and raises nothing.
    """
    return (folder / store.MARKER).is_file()


def _read_cell(path: Path) -> tuple[CellFiles | None, list[str]]:
    """The cell with those of its judges that have finished, None if it cannot be reported; and what is missing."""
    name = path.stem
    try:
        record = store.read_json(path)
    except BenchError as error:
        return None, [f"{name}: {error.seen}"]
    problem = next(_record_problems(record), "")
    if problem:  # before any folder is opened: the record names all of them
        return None, [f"{name}: its record is damaged or of another version of this program ({problem})"]
    cell = CellFiles(record, path.parent.parent, path)  # ROOT/cells/NAME.json (store.py)
    folders = [*map(cell.folder, record["stages"]), *cell.judged().values()]
    try:  # no folder may lead out of the results folder
        for folder in folders:
            store.check_links(folder, cell.root)
    except BenchError as error:
        return None, [f"{name}: {error.seen.removesuffix('.')}"]
    unfinished = [role for role in record["stages"] if not is_complete(cell.folder(role))]
    if unfinished:
        return None, [f"{name} is unfinished: {', '.join(unfinished)} missing"]
    problem = next(_stage_problems(cell), "")
    if problem:
        return None, [f"{name}: {problem}"]
    # a judge that has not finished leaves its own verdicts out, not the cell: the other judges' are reported
    done, missing = {}, []
    for judge, folder in cell.judged().items():
        problems = chain(
            _file_problems(folder / store.MARKER, ("figures", "params")),
            _file_problems(folder / "measures.json", (), list),
            _row_problems(folder / "verdicts.jsonl", VERDICTS),
        )
        problem = next(problems, "") if is_complete(folder) else "has not finished"
        if problem:
            missing.append(f"{name}: the judge {judge!r} {problem}")
        else:
            done[judge] = record["judges"][judge]
    return CellFiles({**record, "judges": done}, cell.root, path), missing


def _record_problems(record: object) -> Iterator[str]:
    """What is wrong with a record.  Later checks rely on earlier ones: read the first problem alone."""
    if not isinstance(record, dict):
        yield f"a {type(record).__name__}"
        return
    for name, kind in NEEDED.items():
        if name not in record:
            yield f"no {name!r}"
        elif not isinstance(record[name], kind):
            yield f"{name!r} is a {type(record[name]).__name__}"
    yield from (f"no {key!r} in 'origin'" for key in ORIGIN if key not in record["origin"])
    yield from (f"no {role!r} in 'stages'" for role in ROLES if role not in record["stages"])
    if not _are_layers(record.get("layers", {})):
        yield f"'layers' is {record['layers']!r}"
    for place in (*record["stages"].values(), *record["judges"].values()):
        # each part of a path: ".." or "/" would lead out of the results folder
        if not (isinstance(place, list) and len(place) == 3 and all(map(store.is_plain_name, place))):
            yield f"the place {place!r} is not three names of folders"


def _are_layers(found: object) -> bool:
    """Whether a record's layers are seeds by the names that `RunSeed` has."""
    return isinstance(found, dict) and all(
        name in ("data", "reward") and isinstance(seed, int) and seed >= 0 for name, seed in found.items()
    )


def _stage_problems(cell: CellFiles) -> Iterator[str]:
    """What cannot be read of a cell's finished stages."""
    for role in cell.record["stages"]:
        yield from _file_problems(cell.folder(role) / store.MARKER, STAGE)
    for role, (name, needed) in ROWS.items():
        if role in cell.record["stages"]:
            yield from _row_problems(cell.folder(role) / name, needed)
    # by the stage's kind: a record of best-of-n also has the role "pool", whose folder holds the draws
    if cell.record["stages"]["generations"][0] == "best_of_n":
        yield from _row_problems(cell.folder("generations") / "pool.jsonl", POOL)
    scale = cell.folder("scale") / "scale.json"
    yield from _file_problems(scale, ("scale", "pair_accuracy", "sft_samples", "rejected"))


def _file_problems(path: Path, keys: Sequence[str], kind: type = dict) -> Iterator[str]:
    """What is wrong with a JSON file that must hold a `kind` with `keys`."""
    try:
        found: object = store.read_json(path)
    except BenchError as error:
        yield error.seen
        return
    absent = [repr(key) for key in keys if isinstance(found, dict) and key not in found]
    if not isinstance(found, kind):
        yield f"{path} is damaged: a {type(found).__name__}"
    elif absent:
        yield f"{path} lacks {', '.join(absent)}"


def _row_problems(path: Path, needed: Sequence[str]) -> Iterator[str]:
    """What is wrong with a file of rows: it cannot be read, is empty or cut off, or a row lacks one of `needed`.

    The columns of a sound file are kept (`columns.keep`), so that a report does not read it a second time.
    """
    try:
        rows = store.read_rows(path)
    except BenchError as error:
        yield error.seen.removesuffix(".")
        return
    if not rows:
        yield f"{path} is empty"
        return
    # every row, not the first alone: a file may be damaged in the middle
    wanted = frozenset(needed)
    at = next((at for at, row in enumerate(rows) if not wanted <= row.keys()), None)
    if at is not None:
        lacking = next(name for name in needed if name not in rows[at])
        yield f"{path} is damaged or of another version of this program (line {at + 1}: no {lacking!r})"
        return
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        # `store.write_rows` ends every line with a newline: without the last one, rows may be lost
        if file.read() != b"\n":
            yield f"{path} is damaged (line {len(rows)}: cut off)"
            return
    if path.name in COLUMNS:  # the rows are parsed already, and making columns tests the types of their values
        try:
            columns.keep(path, rows)
        except (TypeError, ValueError, AttributeError) as error:  # a value of the wrong type
            yield f"{path} is damaged or of another version of this program ({error})"
