"""Pairs of a finished run to be read blind, and what the labels come to (docs/reading-rubric.md).

    python benchmarks/blind_reading.py RUNS --task saferlhf --write pairs.csv [--count 100] [--against SFT] [--seed 1]
    python benchmarks/blind_reading.py RUNS --task saferlhf --labels pairs.csv [--out reading.json --reader "a student"]

The first writes pairs without names, sides and order at random; fill its column `label` with a, b or tie.  The second
repeats the draw, which needs the same --count, --against and --seed, and reports win rates and the agreement with the
run's gold model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results import blind
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.table import stored
from rlhf_bench.reports.markdown import table_lines


def main(arguments: Sequence[str] | None = None) -> None:
    given = parsed(arguments)
    try:
        run(given)
    except BenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="results folders")
    parser.add_argument("--task", required=True)
    parser.add_argument("--against", default=blind.SFT, help="SFT, or an arm such as 'ppo scalar'")
    parser.add_argument("--judge", default="utility", help="whose scores are the gold")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--level", type=float, default=0.95)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, help="a new .csv or .jsonl for the reader")
    what.add_argument("--labels", type=Path, help="the file with its labels")
    parser.add_argument("--out", type=Path, help="with --labels: the reading as JSON, for benchmarks/real_results.py")
    parser.add_argument("--reader", default="", help="with --out: who read, for the page; a model is no person")
    return parser.parse_args(arguments)


def run(given: argparse.Namespace) -> None:
    cells, missing = find_cells(given.runs)
    for sentence in missing:
        print(f"missing: {sentence}", file=sys.stderr)
    drawn = blind.draw(blind.pairs_of(cells, given.task, given.against, given.judge), given.count, given.seed)
    if given.write:
        blind.write_pairs(given.write, drawn)
        print(f"{len(drawn)} pairs: {given.write}")
        return
    found = blind.read_out(drawn, blind.read_labels(given.labels, drawn), given.level, given.seed)
    tables = blind.reading_tables(found, given.level)
    print("\n".join(line for table in tables for line in table_lines(table)))
    if given.out:
        store.write_json(given.out, as_json(given, found))


def as_json(given: argparse.Namespace, found: blind.Reading) -> dict[str, Any]:
    """The reading for the page of results: counts and tables."""
    plain = {name: value for name, value in asdict(found).items() if name in ("drawn", "read", "counts", "by_gold")}
    asked = {"task": given.task, "against": given.against, "seed": given.seed, "level": given.level}
    asked["reader"] = given.reader
    return {**asked, **plain, "tables": [stored(table) for table in blind.reading_tables(found, given.level)]}


if __name__ == "__main__":
    main()
