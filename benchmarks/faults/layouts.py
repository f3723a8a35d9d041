"""Layouts of preference data and of prompts, as people have them: which are read right.

    python benchmarks/faults/layouts.py [--json FILE]

Every case writes a few rows of our own words in the shape of a public data set or of a tool's output, reads them by the
task `preferences` or `prompts`, and compares prompts and answers with what the rows mean.  The shapes are those of the
data sets' cards and of the tools' documentation (tasks/answers.py names them); files of the name layout_*.py list them.
Prints a table: tried, clean, failed.
"""

# ruff: noqa: ARG001 - every shape takes the same arguments
from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import outcome, save
from layout_data_sets import DATA_SETS
from layout_prompts import BESIDE, PROMPTS
from layout_rows import Rows, Shape, better, question, said, user, worse, write
from layout_tools import TOOLS

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.preferences import preferences
from rlhf_bench.tasks.prompts import prompts

COUNT = 40


def read_pairs(path: Path, **settings: str) -> set[tuple[str, str, str | None]]:
    """All triples of the file, in whichever part they are: demonstrations have no pair, so by the reader."""
    read = preferences(data=str(path), **settings)._read.splits
    return {(str(one.prompt), one.chosen, one.rejected) for rows in read.values() for one in rows}


def pair_cases(folder: Path) -> dict[str, str]:
    """By layout "" where all rows were read right, else what was read instead."""
    found = {}
    given = [(name, suffix, shape, settings, "{0}") for name, (suffix, shape, settings) in (TOOLS | DATA_SETS).items()]
    given += [(name, suffix, shape, {}, prompt) for name, (suffix, shape, prompt) in BESIDE.items()]
    given += labelled()
    for number, (name, suffix, shape, settings, prompt) in enumerate(given):
        place = folder / str(number)
        place.mkdir()
        made = [shape(i, question(i), better(i), worse(i)) for i in range(COUNT)]
        rows = [row for one in made for row in one.get("rows", [one])]  # type: ignore[attr-defined]
        path = write(place / f"{'lines' if 'Lines' in name else 'rows'}{suffix}", rows)
        wanted = {(prompt.format(question(i)), better(i), worse(i)) for i in range(COUNT)}
        found[name] = compared(partial(read_pairs, path, **settings), wanted)
    return found


def labelled() -> list[tuple[str, str, Shape, dict[str, str], str]]:
    """Layouts with a row for each answer."""

    def kto(i: int, q: str, b: str, w: str) -> dict[str, object]:
        return {"rows": [{"prompt": q, "completion": w, "label": False}, {"prompt": q, "completion": b, "label": True}]}

    def kto_chat(i: int, q: str, b: str, w: str) -> dict[str, object]:
        return {"rows": [{"messages": [user(q), said(a)], "label": a == b} for a in (b, w)]}

    def helpsteer(i: int, q: str, b: str, w: str) -> dict[str, object]:
        return {
            "rows": [{"prompt": q, "response": a, "helpfulness": 4 if a == b else 1, "verbosity": 2} for a in (w, b)]
        }

    shapes = {"KTO": kto, "KTO, conversations": kto_chat, "HelpSteer 2": helpsteer}
    return [(name, ".jsonl", shape, {}, "{0}") for name, shape in shapes.items()]


def folder_cases(folder: Path) -> dict[str, str]:
    """Folders as tools write them."""
    from datasets import Dataset, DatasetDict

    rows: Rows = [{"prompt": question(i), "chosen": better(i), "rejected": worse(i)} for i in range(COUNT)]
    wanted = {(question(i), better(i), worse(i)) for i in range(COUNT)}
    half = COUNT // 2
    hub = folder / "hub" / "data"
    hub.mkdir(parents=True)
    write(hub / "train_prefs-00000-of-00002.parquet", rows[:half])
    write(hub / "train_prefs-00001-of-00002.parquet", rows[half:])
    converted = folder / "converted" / "default" / "train"
    converted.mkdir(parents=True)
    write(converted / "0000.parquet", rows[:half])
    write(converted / "0001.parquet", rows[half:])
    Dataset.from_list(rows).save_to_disk(folder / "saved", num_shards=2)
    DatasetDict({"train": Dataset.from_list(rows[:half]), "test": Dataset.from_list(rows[half:])}).save_to_disk(
        folder / "splits"
    )
    named = {"hub folder": folder / "hub", "hub's Parquet conversion": folder / "converted"}
    named |= {"save_to_disk": folder / "saved", "save_to_disk, splits": folder / "splits"}
    return {name: compared(partial(read_pairs, path), wanted) for name, path in named.items()}


def read_prompts(path: Path) -> set[str]:
    return {str(example.prompt) for example in prompts(data=str(path)).examples("test")}


def prompt_cases(folder: Path) -> dict[str, str]:
    found = {}
    for number, (name, (suffix, shape)) in enumerate(PROMPTS.items()):
        path = write(folder / f"prompts-{number}{suffix}", [shape(i, question(i)) for i in range(COUNT)])
        wanted = {question(i) for i in range(COUNT)}
        found[name] = compared(partial(read_prompts, path), wanted)
    return found


def compared(read: Callable[[], set[object]], wanted: set[object]) -> str:
    """ "" where exactly what was wanted is read, else one line about the difference."""
    try:
        found = read()
    except BenchError as error:
        return f"refused: {error}"
    except Exception as error:  # whatever it is, it is the fault that is looked for
        return f"{type(error).__name__}: {error}"
    return (
        ""
        if found == wanted
        else f"read {sorted(map(repr, found - wanted))[:1]} for {sorted(map(repr, wanted - found))[:1]}"
    )


def all_cases() -> dict[str, dict[str, str]]:
    """By kind."""
    with tempfile.TemporaryDirectory() as place:
        readers = {"preference data": pair_cases, "prompts": prompt_cases, "folders": folder_cases}
        return {kind: read(Path(place)) for kind, read in readers.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the counts and the failures here")
    given = parser.parse_args()
    kinds = all_cases()
    found = {name: why for cases in kinds.values() for name, why in cases.items()}
    failed = {name: why for name, why in found.items() if why}
    counts = {"tried": len(found), "clean": len(found) - len(failed), "failed": len(failed)}
    print(
        "layouts  tried  clean  failed\n" + f"         {counts['tried']:5}  {counts['clean']:5}  {counts['failed']:6}"
    )
    for name, why in failed.items():
        print(f"{name}: {why}")
    by_kind = {kind: {"tried": len(cases), "failed": sum(map(bool, cases.values()))} for kind, cases in kinds.items()}
    save(given.json, outcome("layouts", by_kind, failures=failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
