"""Folders of rows as people and tools leave them: a file or shards per split, a hub snapshot, `save_to_disk`.

folder/train.jsonl  folder/test.jsonl.gz
folder/data/train-00000-of-00002.parquet ...        (hf download, git clone)
folder/dataset_dict.json  folder/train/data-00000-of-00001.arrow    (datasets' save_to_disk)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.store import read_json
from rlhf_bench.tasks.sources import SUFFIXES, BadRows, Row, arrow_rows, read_rows

# Names that a held-out split may have, in order of preference.
HELD_OUT = ("test", "validation", "dev", "eval")

# NAME-00000-of-00002, with a hash that older hub files end with.
SHARD = re.compile(r"(?P<name>.+?)-(?P<at>\d{5})-of-(?P<of>\d{5})(?:-[0-9a-f]{8,})?")
# A numbered file without a name is a shard of the split that its folder names (the hub's Parquet conversions).
NUMBERED = re.compile(r"(?:part[-_.])?\d{1,6}")

# JSON files that hold no rows.
NO_ROWS = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json")


class Part(NamedTuple):
    """One file of a split; `at` its number among `of` shards, of = 0 for a file that is the whole split."""

    path: Path
    at: int = 0
    of: int = 0


def split_files(folder: Path) -> dict[str, list[Part]]:
    """The files of rows in a folder by the name of their split, in order.

    Files in the folder itself come before those of its folders, which are read only where it has none.  Raises
    BenchError where two files or folders have one split, and where a shard is missing.
    """
    if saved := _saved(folder):
        return saved
    found: dict[str, list[Part]] = {}
    direct = [path for path in folder.iterdir() if _suffix(path)]
    for path in sorted(direct or _below(folder)):
        name = path.name.removesuffix(_suffix(path))
        shard = SHARD.fullmatch(name)
        if shard:
            found.setdefault(shard["name"], []).append(Part(path, int(shard["at"]), int(shard["of"])))
        elif NUMBERED.fullmatch(name) and path.parent != folder:
            found.setdefault(path.parent.name, []).append(Part(path, -1))
        else:
            found.setdefault(name, []).append(Part(path))
    for name, parts in found.items():
        _check(folder, name, parts)
    return found


def _suffix(path: Path) -> str:
    """The suffix of a file of rows, "" for another file."""
    if path.name in NO_ROWS or path.name.startswith(".") or not path.is_file():
        return ""
    return next((end for end in SUFFIXES if path.name.endswith(end)), "")


def _below(folder: Path) -> Iterator[Path]:
    """The files of rows in `data`, else in all folders below; hidden ones hold caches."""
    start = folder / "data" if (folder / "data").is_dir() else folder
    for path in start.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and _suffix(path):
            yield path


def _check(folder: Path, name: str, parts: list[Part]) -> None:
    places = dict.fromkeys(part.path.parent for part in parts)
    if len(places) > 1:
        seen = f"{folder} holds split {name!r} in {' and '.join(str(one.relative_to(folder)) for one in places)}."
        raise BenchError(seen, "Name one of these folders.")
    whole = [part for part in parts if not part.of and part.at == 0]
    if len(parts) > 1 and whole:  # train.jsonl and train.csv
        raise BenchError(f"{folder} holds {parts[0].path.name} and {parts[1].path.name}.", "Keep one of them.")
    for part in parts:
        numbers = sorted(one.at for one in parts)
        if part.of and numbers != list(range(part.of)):
            missing = sorted(set(range(part.of)) - set(numbers)) or numbers[-1:]
            raise BenchError(f"{folder} lacks shard {missing[0]} of {part.of} of split {name!r}.", "Download it again.")


def _saved(folder: Path) -> dict[str, list[Part]]:
    """The files that datasets' `save_to_disk` wrote; {} for another folder.  Raises BenchError for a missing one."""

    def data_files(place: Path) -> list[Part]:
        state = read_json(place / "state.json")
        files = state.get("_data_files") if isinstance(state, Mapping) else None
        names = [Path(str(one.get("filename"))).name for one in files or [] if isinstance(one, Mapping)]
        for name in names:
            if not (place / name).is_file():
                raise BenchError(f"{place / name} is missing.", "Copy the folder again.")
        if not names:
            raise BenchError(f"{place / 'state.json'} names no files of rows.", "Save the data again.")
        return [Part(place / name) for name in names]

    if (folder / "dataset_dict.json").is_file():
        listed = read_json(folder / "dataset_dict.json")
        splits = listed.get("splits") if isinstance(listed, Mapping) else None
        if not isinstance(splits, list) or not all(
            isinstance(name, str) and Path(name).name == name for name in splits
        ):
            raise BenchError(f"{folder / 'dataset_dict.json'} names no splits.", "Save the data again.")
        return {name: data_files(folder / name) for name in splits}
    return {"train": data_files(folder)} if (folder / "state.json").is_file() else {}


def read_parts(found: Sequence[Part | Row], bad: BadRows) -> list[Row]:
    """The rows of all files of a split, in order; rows of the hub are there already.

    Raises BenchError as `read_rows`.
    """
    rows: list[Row] = []
    for one in found:
        if isinstance(one, Part) and one.path.suffix != ".arrow":
            rows += read_rows(one.path, bad)  # which counts them
            continue
        read = arrow_rows(one.path) if isinstance(one, Part) else [one]
        bad.total += len(read)
        rows += read
    return rows


def training_split(names: Mapping[str, object], default: str) -> str:
    """The training split: `default`, or the only one whose name begins with it, as train_prefs."""
    alike = [name for name in names if name.startswith(f"{default}_")]
    return alike[0] if default not in names and len(alike) == 1 else default


def held_out_split(names: Mapping[str, object], train: str) -> str:
    """The held-out split: the first of HELD_OUT, with the training split's ending (train_prefs, test_prefs).

    "" for none.  `names` map to rows or files: a split without any is none.
    """
    ending = train.partition("_")[2]
    wanted = [f"{name}_{ending}" for name in HELD_OUT if ending] + list(HELD_OUT)
    return next((name for name in wanted if names.get(name)), "")
