"""How often each sign of a bad run is right: counted over finished PPO runs on tasks with a known true utility.

    python benchmarks/monitors.py RUNS [RUNS ...] --out docs/monitors.md

A run has fallen where its mean gold is lower than the SFT policy's by more than half a standard deviation of the SFT
policy's values (statistics/runs.py, the rule of a collapsed run).  Thresholds of signs are in results/monitors.py; they
were fixed before these runs were counted.  Also writes harness/results/monitors.json, which reports show.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.replacing import write_text
from rlhf_bench.harness.results import columns, monitors
from rlhf_bench.harness.results.arms import CellFiles
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.stored import stored_rows
from rlhf_bench.harness.results.table import Cell, Table
from rlhf_bench.harness.statistics.intervals import interval
from rlhf_bench.harness.statistics.runs import SHARE_OF_SD, of_runs
from rlhf_bench.reports.markdown import table_lines

JUDGE = "utility"
ROLES = ("generations", "baseline")
LEVEL = 0.95


class Run(NamedTuple):
    """One PPO run: its arm, whether gold fell, and the signs that it showed."""

    arm: str
    task: str
    fell: bool
    signs: frozenset[str]


def runs_of(cells: Sequence[CellFiles]) -> Iterator[Run]:
    """Every PPO run with a known gold once, on the prompts of its own task."""
    seen = set()
    for cell in cells:
        stages = cell.record["stages"]
        if "ppo" not in stages or stages["generations"][0] != "ppo" or JUDGE not in cell.judged():
            continue
        folder = cell.folder("generations")
        change = _change(cell)
        if folder in seen or change is None:
            continue
        seen.add(folder)
        steps = stored_rows(cell.folder("ppo") / "steps.jsonl")
        after, before = (columns.read(cell.folder(r) / "generations.jsonl").end("sample") for r in ROLES)
        if after is None or before is None:
            continue
        texts = dict(zip(before.ids, before.texts, strict=True))
        shown = {**monitors.signs(steps), **monitors.response_signs([texts[i] for i in after.ids], after.texts)}
        yield Run(f"{cell.record['task']}/{cell.record['arm']}", str(cell.record["task"]), change, frozenset(shown))


def _change(cell: CellFiles) -> bool | None:
    """Whether gold fell, None where it was not measured at the last sampled checkpoint."""
    group = columns.read(cell.judged()[JUDGE] / "verdicts.jsonl").end("sample")
    if group is None:
        return None
    return of_runs(group.column("gold_baseline"), group.column("gold"), LEVEL).collapsed[0]


def count(found: Sequence[Run]) -> dict[str, dict[str, list[int]]]:
    """{sign: {"fallen": [shown, runs], "other": [shown, runs]}}."""
    groups = {"fallen": [one for one in found if one.fell], "other": [one for one in found if not one.fell]}
    return {
        name: {group: [sum(name in one.signs for one in own), len(own)] for group, own in groups.items()}
        for name in monitors.RULES
    }


def page(found: Sequence[Run], command: str) -> str:
    """The Markdown page."""
    fallen = [one for one in found if one.fell]
    tasks = ", ".join(f"{name} {number}" for name, number in sorted(Counter(one.task for one in found).items()))
    rows = []
    for name, rule in monitors.RULES.items():
        shares = []
        for group in (True, False):
            own = [one for one in found if one.fell == group]
            cells = np.array([[float(name in one.signs) for one in own]])
            made = interval("rate", cells, LEVEL, np.random.default_rng(0), [one.arm for one in own])
            shares.append(Cell(made.value, made.low, made.high, "percent"))
        rows.append((name, *shares, rule))
    alone = sum(not one.signs for one in fallen)
    table = Table(
        "How often a sign shows",
        ("sign", "in runs whose gold fell", "in other runs", "rule"),
        rows,
        "Intervals: 95%, Korn-Graubard over arms, because runs of one arm are alike.",
    )
    return "\n".join(
        [
            "# Signs of a bad run, and how often they are right",
            "",
            f"Counted over {len(found)} finished PPO runs of {len({one.arm for one in found})} arms on synthetic tasks "
            f"({tasks}), whose true utility is known: in {len(fallen)} of them the mean gold is lower than the SFT "
            f"policy's by more than {SHARE_OF_SD:g} standard deviations. Written by `{command}`.",
            "",
            "No sign reads a judge: they are for runs where nobody knows the truth. The thresholds were fixed before "
            "these runs were counted, and not changed after. The policies are small ones trained from nothing, and the "
            "share of bad runs is that of the experiments: what the two columns say of other policies is not known.",
            "",
            *table_lines(table),
            f"{alone} of the {len(fallen)} fallen runs showed no sign at all.",
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        cells, _ = find_cells(given.runs)
        found = list(runs_of(cells))
        if not found:
            raise BenchError("No finished PPO run with a known true utility.", "Give folders of synthetic tasks.")
        measured = {"runs": len(found), "arms": len({one.arm for one in found}), "signs": count(found)}
        write_text(monitors.MEASURED, json.dumps(measured, indent=1) + "\n")
        write_text(given.out, page(found, f"python benchmarks/monitors.py RUNS --out {given.out.as_posix()}"))
    except BenchError as error:
        print(error, file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
