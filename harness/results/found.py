"""Finds the cells of results folders that can be reported, and says for each other cell why it cannot.

A results folder may hold anything: an interrupted run, files of another version of this program, damage by a disk.
A cell that cannot be read is left out and named; the others are reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rlhf_bench.harness import cache, forms, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.harness.results.stored import stored_rows
from rlhf_bench.harness.statistics.entropy_matched import CONTROL

NEEDED: Mapping[str, type] = {
    "task": str, "home": str, "reward_model": str, "arm": str, "seed": int, "policy": str, "differing": dict,
    "origin": dict, "stages": dict, "judges": dict,
}  # fmt: skip
"""Keys that the record of a cell must have, with the types of their values."""
ORIGIN = ("kind", "description", "sha256", "license")
ROLES = ("sft", "prompts", "pairs", "baseline", "generations")
"""The stages that every cell has; the others depend on its optimiser."""
OF_REWARDS = ("scale",)
"""The stages that every cell with a reward model has."""
BEFORE = ("scale", "gold_scale")
"""The stages that measure a reward model before anything is optimised: the proxy, and a gold model of the run."""
STAGE = ("kind", "label", "key", "seconds", "cpu_seconds", "device", "versions", "machine", "figures")
"""Keys that a report reads of every stage.json."""
ROWS = {
    "prompts": ("examples.test.jsonl", ("id", "prompt")),
    "baseline": ("generations.jsonl", ("example_id", "iteration", "decoding", "tokens", "finished")),
    "generations": ("generations.jsonl", ("example_id", "iteration", "decoding", "tokens", "finished")),
    "ppo": ("steps.jsonl", ("explained_variance", "clip_share", "kl")),
    "proxy": ("proxy.jsonl", ("example_id", "iteration", "figures")),
    "gold_pool": ("gold.jsonl", ("example_id", "draw", "gold")),
}
"""By role: the file of rows that a report reads, and the columns it needs."""
COLUMNS = ("generations.jsonl", "verdicts.jsonl")
"""Files that a report reads again as columns."""
POOL = ("example_id", "rewards", "figures")
"""Columns of pool.jsonl, which only cells of best-of-n have; their generations.jsonl holds the chosen responses."""
VERDICTS = ("example_id", "iteration", "decoding", "slices", "values")
GENERATING = ("ppo", "transfer", "best_of_n", "written", "tempered")
"""Kinds of stages whose folder is the `generations` of a cell; one that no record names has lost its record."""
READ = frozenset(
    {
        *("scale.json", "sanity.json", "reward_model.json", "account.json", "pool.jsonl", "measures.json"),
        *("agreement.json", "verdicts.jsonl", *(name for name, _ in ROWS.values())),
    }
)
"""Files that a report reads, whatever the stage: they are hashed, the sizes of the others are compared."""


def is_read(name: str, size: int) -> bool:  # noqa: ARG001
    """Whether a report reads this file of a stage (an `integrity.Hashed`)."""
    return name in READ


def check_there(paths: Sequence[Path]) -> None:
    """Raises BenchError for the first path that does not exist."""
    for path in paths:
        if not store.exists(path):
            raise BenchError(f"{path} is not there.", "Give the --out folder of a bench run.")


def find_cells(paths: Sequence[Path]) -> tuple[list[CellFiles], list[str]]:
    """(finished cells, sentences about what is missing) below the given results folders or cell records.

    Raises BenchError when a path does not exist.
    """
    records: dict[Path, None] = {}  # a dict keeps the order; one record reached by two paths is one cell
    missing: list[str] = []
    lost: list[str] = []
    check_there(paths)
    for path in paths:
        if path.suffix == ".json" and path.is_file():
            found = [path]
        else:
            found = sorted((path / "cells").glob("*.json"))
            lost += without_record(path)
        missing += [] if found else [f"{path} holds no cells of a bench run"]
        for record in found:
            # below its results folder, not below the given path, which may be the record or a link to the folder
            try:
                store.check_links(record, record.parent.parent)
            except BenchError as error:
                missing.append(f"{record.stem}: {error.seen.removesuffix('.')}")
            else:
                records[record.resolve()] = None
    cells = []
    for record in records:
        cell, lacking = _read_cell(record)
        missing += lacking
        cells += [cell] if cell else []
    return cells, missing + lost  # a record that cannot be read is the cause of what it does not name


def without_record(root: Path) -> list[str]:
    """Sentences about finished cells of a results folder whose record in `cells/` is gone or cannot be read."""
    folders = {folder for kind in GENERATING for folder in (root / kind).glob("*") if is_complete(folder)}
    # ppo lies beside transfer in a cell with prompts of another task: both are named by one record
    named = set[Path]()
    for path in sorted((root / "cells").glob("*.json")) if folders else []:
        try:
            # a named pipe would be waited for
            store.check_links(path, root)
            places = store.read_json(path)["stages"].values()
            named |= {root / kind / f"{label}-{key}" for kind, label, key in places}
        except (BenchError, LookupError, TypeError, ValueError, AttributeError):
            # it is named as damaged; its name begins as that of the folder
            named |= {folder for folder in folders if folder.name.startswith(path.stem)}
    return [
        f"{folder.parent.name}/{folder.name}: no record in {root / 'cells'} names this finished stage"
        for folder in sorted(folders - named)
    ]


def is_complete(folder: Path) -> bool:
    """Whether a stage's folder holds a finished result: the marker is written last.

    Unlike `store.Store.complete` it takes a half-written folder for unfinished and raises nothing.
    """
    try:
        return (folder / store.MARKER).is_file()
    except OSError:  # a name in a record that is too long for a folder
        return False


def _read_cell(path: Path) -> tuple[CellFiles | None, list[str]]:
    """The cell with those of its judges that have finished, None if it cannot be reported; and what is missing."""
    name = path.stem
    try:
        record = store.read_json(path)
    except BenchError as error:
        return None, [f"{name}: {error.seen.removesuffix('.')}"]
    seal = integrity.seal_problem(record, path.name) if isinstance(record, dict) else ""
    if seal:
        return None, [f"{name}: its record is damaged ({seal})"]
    problem = next(_record_problems(record), "")
    if problem:  # before any folder is opened: the record names all of them
        return None, [forms.misfit(f"{name}: its record", problem)]
    record = integrity.unsealed(record)
    cell = CellFiles(record, path.parent.parent, path)  # ROOT/cells/NAME.json (store.py)
    folders = [*map(cell.folder, record["stages"]), *cell.judged().values()]
    try:  # no folder may lead out of the results folder
        for folder in folders:
            store.check_links(folder, cell.root)
    except BenchError as error:
        return None, [f"{name}: {error.seen.removesuffix('.')}"]
    unfinished = [role for role in record["stages"] if not is_complete(cell.folder(role))]
    if unfinished:
        halves = [str(cell.folder(role)) for role in unfinished if cell.folder(role).exists()]
        why = f" ({', '.join(dict.fromkeys(halves))} without {store.MARKER})" if halves else ""
        return None, [f"{name} is unfinished: {', '.join(unfinished)} missing{why}"]
    problem = next(_changed(cell), "")
    if not problem:
        cell = replace(cell, parts=_parts(map(cell.folder, record["stages"])))
        plain = {key: value for key, value in record.items() if key != "judges"}
        # what was sound once is sound as long as it is the same: its rows need not be parsed for that
        known = cache.group("sound cell", plain, *cell.stage_parts())
        problem = known.sound(lambda: next(_stage_problems(cell), ""))
    if problem:
        return None, [f"{name}: {problem}"]
    # a judge that has not finished leaves its own verdicts out, not the cell: the other judges' are reported
    done, missing = {}, []
    for judge, folder in cell.judged().items():
        half = f" ({folder} without {store.MARKER})" if folder.exists() else ""
        problem = _verdict_problem(folder) if is_complete(folder) else f"has not finished{half}"
        if problem:
            missing.append(f"{name}: the judge {judge!r} {problem}")
        else:
            done[judge] = record["judges"][judge]
    read = CellFiles({**record, "judges": done}, cell.root, path)
    hashes = _hashes({*map(cell.folder, record["stages"]), *read.judged().values()})
    return replace(read, content=store.content_key(hashes), parts=_keys(hashes)), missing


def _verdict_problem(folder: Path) -> str:
    """The first of `verdict_problems`, "" for none."""
    problem = next(_marker_problems(folder, ("figures", "params"), forms.JUDGED), "")
    known = cache.NONE if problem else cache.group("sound verdicts", *_parts([folder]).values())
    return problem or known.sound(lambda: next(verdict_problems(folder), ""))


def verdict_problems(folder: Path) -> Iterator[str]:
    """What cannot be read of a finished verdict stage."""
    yield from _marker_problems(folder, ("figures", "params"), forms.JUDGED)
    yield from _file_problems(folder / "measures.json", (), list, forms.MEASURES)
    yield from _row_problems(folder / "verdicts.jsonl", VERDICTS)


def _hashes(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Hashes of what a report reads of stages, by kind/label-key.  Their stage.json lists hashes of the other files."""
    hashes = {}
    for folder in folders:
        names = [store.MARKER]
        if not integrity.is_listed(store.read_json(folder / store.MARKER)):  # of an older version
            names += [name for name in READ if (folder / name).is_file()]
        place = f"{folder.parent.name}/{folder.name}"
        hashes[place] = [integrity.file_hash(folder / name) for name in sorted(names)]
    return hashes


def _keys(hashes: Mapping[str, list[str]]) -> dict[str, str]:
    return {place: store.content_key([place, own]) for place, own in hashes.items()}


def _parts(folders: Iterable[Path]) -> dict[str, str]:
    """Hash of what a report reads of each stage, by kind/label-key; {} where nothing is kept of them."""
    return _keys(_hashes(folders)) if cache.is_used() else {}


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
    yield from filter(None, [forms.problem(record, forms.CELL)])
    needed = ROLES if record.get("optimizer") == CONTROL else (*ROLES, *OF_REWARDS)
    yield from (f"no {role!r} in 'stages'" for role in needed if role not in record["stages"])
    if not _are_layers(record.get("layers", {})):
        yield f"'layers' is {record['layers']!r}"


def _are_layers(found: object) -> bool:
    """Whether a record's layers are seeds by the names that `RunSeed` has."""
    return isinstance(found, dict) and all(
        name in ("data", "reward") and isinstance(seed, int) and seed >= 0 for name, seed in found.items()
    )


def _changed(cell: CellFiles) -> Iterator[str]:
    """What is wrong with the stage.json of a cell's finished stages, and which of the files they list have changed."""
    for role in cell.record["stages"]:
        yield from _marker_problems(cell.folder(role), STAGE, forms.SOURCES.get(role, forms.MARKER))


def _stage_problems(cell: CellFiles) -> Iterator[str]:
    """What cannot be read of the rows of a cell's finished stages."""
    for role, (name, needed) in ROWS.items():
        if role in cell.record["stages"]:
            yield from _row_problems(cell.folder(role) / name, needed)
    yield from _unpaired(cell.folder("generations"), cell.folder("baseline"))
    # by the stage's kind: a record of best-of-n also has the role "pool", whose folder holds the draws
    if cell.record["stages"]["generations"][0] == "best_of_n":
        yield from _row_problems(cell.folder("generations") / "pool.jsonl", POOL)
    if cell.record.get("optimizer") == CONTROL:
        yield from _temperature_problems(cell)
    if "scale" in cell.record["stages"]:
        scale = cell.folder("scale") / "scale.json"
        yield from _file_problems(scale, ("scale", "pair_accuracy", "sft_samples", "rejected"), dict, forms.SCALE)
    yield from _gold_problems(cell)
    for role in BEFORE:
        sanity = cell.folder(role) / "sanity.json" if role in cell.record["stages"] else None
        if sanity and sanity.is_file():  # runs of before there was any have none
            yield from _file_problems(sanity, (), dict, forms.SANITY)


def _gold_problems(cell: CellFiles) -> Iterator[str]:
    """What cannot be read of the agreement of a cell's proxy with its gold model."""
    if "gold_agreement" in cell.record["stages"]:
        yield from _file_problems(cell.folder("gold_agreement") / "agreement.json", (), dict, forms.AGREEMENT)


def _unpaired(written: Path, baseline: Path) -> Iterator[str]:
    """Which sampled response has none of the SFT policy beside it, with which a report shows it."""
    known, after = (columns.read(folder / "generations.jsonl") for folder in (baseline, written))
    before = known.groups.get(("sample", 0))
    last = after.end("sample")
    missing = set(last.ids if last else ()) - set(before.ids if before else ())
    if missing:
        seen = f"no sampled response with example_id {forms.shorter(min(missing))}"
        yield f"{baseline / 'generations.jsonl'} is damaged: {seen}"


def _temperature_problems(cell: CellFiles) -> Iterator[str]:
    """What is wrong with the temperatures in the record of a stage `tempered`: one of them for each iteration."""
    folder = cell.folder("generations")
    params = store.read_json(folder / store.MARKER).get("params")
    found = params.get("temperatures") if isinstance(params, dict) else None
    numbers = [*found, params["temperature"]] if isinstance(found, list) and "temperature" in params else [0]
    written = {iteration for _, iteration in columns.read(folder / "generations.jsonl").groups}
    if any(forms.problem(value, forms.Number) or value <= 0 for value in numbers):
        yield f"{folder / store.MARKER} is damaged: no temperatures above 0"
    elif written != set(range(1, len(numbers))):
        yield f"{folder} is damaged: the responses are not those of its temperatures"


def _marker_problems(folder: Path, keys: Sequence[str], form: forms.Form = forms.MARKER) -> Iterator[str]:
    """What is wrong with a stage's stage.json, or with the files that it lists."""
    yield from _file_problems(folder / store.MARKER, keys, dict, form)
    yield from integrity.damage(folder, is_read)


def _file_problems(path: Path, keys: Sequence[str], kind: type = dict, form: forms.Form = object) -> Iterator[str]:
    """What is wrong with a JSON file that must hold a `kind` with `keys` and be of a form."""
    try:
        found: object = store.read_json(path)
    except BenchError as error:
        yield error.seen.removesuffix(".")
        return
    absent = [repr(key) for key in keys if isinstance(found, dict) and key not in found]
    if not isinstance(found, kind):
        yield f"{path} is damaged: a {type(found).__name__}"
    elif absent:
        yield f"{path} lacks {', '.join(absent)}"
    elif other := forms.problem(found, form):
        yield forms.misfit(path, other)


def _row_problems(path: Path, needed: Sequence[str]) -> Iterator[str]:
    """What is wrong with a file of rows: it cannot be read, is empty or cut off, or a row lacks one of `needed`.

    The columns of a sound file are kept (`columns.keep`), so that a report does not read it a second time.
    """
    own = columns.content(path)
    try:
        rows = stored_rows(path)
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
        yield forms.misfit(path, f"line {at + 1}: no {lacking!r}")
        return
    if other := forms.row_problem(rows, path.name):
        yield forms.misfit(path, f"line {other[0]}: {other[1]}")
        return
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        # `store.write_rows` ends every line with a newline: without the last one, rows may be lost
        if file.read() != b"\n":
            yield f"{path} is damaged (line {len(rows)}: cut off)"
            return
    if path.name in COLUMNS:  # the rows are parsed already, and making columns tests the types of their values
        try:
            columns.keep(path, rows, own)
        except (TypeError, ValueError, AttributeError) as error:  # a value of the wrong type
            yield forms.misfit(path, str(error))
