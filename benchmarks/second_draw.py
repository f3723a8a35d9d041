"""Whether verdicts repeat: claims on a second draw of training seeds beside those of the results pages.

    bench experiment NAME --seeds 311-313 --out RUNS         # for each experiment
    python benchmarks/second_draw.py RUNS --out docs/second-draw.md

A verdict repeats where the direction is the same.  With fewer seeds an interval is wider, so "inconclusive" may follow
"supported" without a contradiction: beside the verdict stands whether the second draw's value lies inside the first
one's interval, and whether the two contradict each other.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.replacing import write_text
from rlhf_bench.harness.results import result_files
from rlhf_bench.harness.results.table import Cell, Table, text
from rlhf_bench.reports.markdown import table_lines

PAGES = Path(__file__).resolve().parents[1] / "docs" / "results"
OPPOSITE = {"supported": "contradicted", "contradicted": "supported"}


class Pair(NamedTuple):
    """One claim, on the first and on the second draw; rows as in results/NAME.json."""

    first: dict[str, Any]
    second: dict[str, Any]

    @property
    def repeats(self) -> bool:
        """Whether the direction is the same."""
        return bool(self.first["verdict"] == self.second["verdict"])

    @property
    def contradicts(self) -> bool:
        """Whether one draw supports what the other contradicts."""
        return OPPOSITE.get(self.first["verdict"]) == self.second["verdict"]

    @property
    def inside(self) -> bool:
        """Whether the second value lies in the first interval."""
        return bool(self.first["low"] <= self.second["value"] <= self.first["high"])


def pairs(runs: Path, pages: Path = PAGES) -> list[Pair]:
    """The claims of every experiment in `runs` that have a verdict in both draws, in the order of the pages.

    Raises BenchError where an experiment has no page, and where the two draws share a seed.
    """
    before = result_files.read_folder(pages)
    found = []
    for path in sorted((runs / "experiments").glob("*/experiment.json")):
        now = store.read_json(path)
        if now["name"] not in before:
            raise BenchError(f"{now['name']} has no page in {pages}.", "Write it first: bench claims.")
        first = {row["id"]: row for row in map(result_files.plain, before[now["name"]].claims)}
        for row in now["claims"]:
            old = first.get(row["id"], {"verdict": "not run"})
            if "not run" in (old["verdict"], row["verdict"]):
                continue
            if shared := set(old["seeds"]) & set(row["seeds"]):
                raise BenchError(f"Both draws of {row['id']} have the seeds {sorted(shared)}.", "Take other ones.")
            found.append(Pair(old, row))
    return found


def page(found: Sequence[Pair], command: str) -> str:
    """The Markdown page."""
    seeds = ", ".join(sorted({_seeds(pair.second["seeds"]) for pair in found}))
    said = (
        f"Of {len(found)} verdicts {sum(pair.repeats for pair in found)} are the same, "
        f"{sum(pair.contradicts for pair in found)} are the opposite, and "
        f"{sum(pair.inside for pair in found)} values of the second draw lie inside the interval of the first. "
        "Fewer seeds make wider intervals: a verdict may become inconclusive without a contradiction."
    )
    columns = (
        "claim",
        "first draw",
        "seeds",
        "second draw",
        "seeds",
        "same verdict",
        "value inside the first interval",
    )
    rows = [
        (pair.first["id"], *_of_draw(pair.first), *_of_draw(pair.second), _yes(pair.repeats), _yes(pair.inside))
        for pair in found
    ]
    return "\n".join(
        [
            "# A second draw",
            "",
            "The claims of the headline experiments on seeds that were drawn after [the results](results.md): "
            f"{seeds}. Each ran once. Written by `{command}`.",
            "",
            said,
            "",
            *table_lines(Table("Claims", columns, rows)),
        ]
    )


def _of_draw(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['verdict']} {text(Cell(row['value'], row['low'], row['high']))}", _seeds(row["seeds"])


def _seeds(seeds: Sequence[int]) -> str:
    low, high = min(seeds), max(seeds)
    return f"{low}-{high}" if len(seeds) == high - low + 1 else ", ".join(map(str, seeds))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    given = parser.parse_args()
    found = pairs(given.runs)
    write_text(given.out, page(found, "python benchmarks/second_draw.py RUNS --out docs/second-draw.md"))
    if given.json:
        write_text(given.json, json.dumps([pair._asdict() for pair in found], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
